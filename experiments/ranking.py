"""What the commands share that compare the members of sweeps: by which numbers."""

from absl import flags

from tformer_jax.sweeps.results import Ranking

METRIC = flags.DEFINE_string("metric", "loss", "Of the last validation, by which members are compared.")
BEST = flags.DEFINE_enum("best", "lowest", ["lowest", "highest"], "Which values of the metric are good.")


def ranking() -> Ranking:
    """By --metric and --best."""
    return Ranking(METRIC.value, BEST.value)
