"""Samplers and pruners of a search, by name: which values are tried next, and which trials are ended early."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..registry import Registry

if TYPE_CHECKING:  # Optuna need not be installed
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

# `(seed) -> sampler`. It is made anew for each draw, from the trials that the database has: what it keeps is lost.
SAMPLERS: Registry[Callable[[int], "BaseSampler"]] = Registry("sampler")

# `(evaluate_every, steps) -> pruner`, of the steps between validations and of all steps.
PRUNERS: Registry[Callable[[int, int], "BasePruner"]] = Registry("pruner")


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
