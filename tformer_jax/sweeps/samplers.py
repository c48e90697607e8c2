"""The settings of a search; samplers and pruners: which values are tried next, and which trials are ended early."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..config import COUNT, SEED, Component, ConfigError, field
from ..registry import Registry
from .results import Ranking

if TYPE_CHECKING:  # Optuna need not be installed
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_DATABASES = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")

# `(seed) -> sampler`. It is made anew for each draw, from the trials that the database has: what it keeps is lost.
SAMPLERS: Registry[Callable[[int], "BaseSampler"]] = Registry("sampler", takes=("seed",))

# `(evaluate_every, steps) -> pruner`, of the steps between validations and of all steps.
PRUNERS: Registry[Callable[[int, int], "BasePruner"]] = Registry("pruner", takes=("evaluate_every", "steps"))


@SAMPLERS.register("tpe")
def tree_parzen(seed: int) -> "BaseSampler":
    """Makes a tree-structured Parzen estimator (Bergstra et al., 2011)."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


@SAMPLERS.register("random")
def independent(seed: int) -> "BaseSampler":
    """Makes a sampler of independent draws."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


@PRUNERS.register("none")
def no_pruner(evaluate_every: int, steps: int) -> "BasePruner":
    """Makes what ends no trial early."""
    from optuna.pruners import NopPruner

    return NopPruner()


@PRUNERS.register("hyperband")
def hyperband(evaluate_every: int, steps: int) -> "BasePruner":
    """Makes Hyperband (Li et al., 2018), whose rungs are validations."""
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(evaluate_every, steps)


class SearchConfig(Component):
    """The settings of a search.

    Attributes:
      trials: number of trials to finish, by all workers, pruned ones among them.
      sampler: of `SAMPLERS`; not CMA-ES, which Optuna keeps as a pickle in the study's database.
      pruner: of `PRUNERS`.
      seed: random seed of the sampler.
      storage: URL of a PostgreSQL database, which workers on several machines can share; None: a SQLite file in the
        sweep's directory.
      study: name of the search in the database; None: the directory's name, or "search" in a file of its own.
      metric: metric of the last validation, such as "loss" or "accuracy".
      best: which metric is best, "lowest" or "highest"; None: see `Ranking`.
    """

    trials: int = field(wanted=COUNT)
    sampler: str = field("tpe")
    pruner: str = field("none", among=PRUNERS)
    seed: int = field(0, SEED)
    storage: str | None = field(None)
    study: str | None = field(None)
    metric: str = field("loss")
    best: str | None = field(None, among=("lowest", "highest"))

    def check(self) -> None:
        if self.sampler in ("cma-es", "cmaes"):
            raise ConfigError(
                f"sampler must be one of {list(SAMPLERS)}, got {self.sampler!r}: Optuna's CMA-ES unpickles what it finds in "
                "the study's database, and so would run what anybody puts there"
            )
        SAMPLERS.named(self.sampler, "sampler")
        if self.storage is not None and (kind := self.storage.partition("://")[0]) not in _DATABASES:
            raise ConfigError(
                "storage must be postgresql://user@host/database, or left out for a file in the sweep's directory, "
                f"got a URL of {kind!r}"
            )

    @property
    def ranking(self) -> Ranking:
        """The order of trials: which of two is better."""
        return Ranking(self.metric, self.best)
