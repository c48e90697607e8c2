"""Flags that the commands on sweeps share: by which numbers members are compared."""

from absl import flags

from tformer_jax.sweeps.results import Ranking

from .parsers import define_text

METRIC = define_text("metric", "loss", "Metric of the last validation by which members are compared.")
BEST = flags.DEFINE_enum(
    "best", None, ["lowest", "highest"], "The best --metric; by default the highest accuracy, the lowest loss."
)


def ranking() -> Ranking:
    """Returns the ranking that --metric and --best ask for."""
    return Ranking(METRIC.value, BEST.value)
