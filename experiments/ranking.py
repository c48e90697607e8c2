"""What the commands share that compare the members of sweeps: by which numbers."""

from absl import flags

from tformer_jax.sweeps.results import Ranking

from .parsers import define_text

METRIC = define_text("metric", "loss", "Of the last validation, by which members are compared.")
BEST = flags.DEFINE_enum("best", None, ["lowest", "highest"], "By default the highest of an accuracy, else the lowest.")


def ranking() -> Ranking:
    """By --metric and --best."""
    return Ranking(METRIC.value, BEST.value)
