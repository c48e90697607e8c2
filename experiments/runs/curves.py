"""One picture of several runs: their losses, or another metric, against the step."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from tformer_jax.config import ConfigError
from tformer_jax.sweeps.drawing import COLOURS, named
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.run import Run

from .tables import names

_STYLES = ("-", "--", ":", "-.")  # which tell more lines apart than there are colours
MOST = len(COLOURS) * len(_STYLES)


def of(runs: Sequence[Run], metric: str) -> Figure:
    """The picture of `drawn`, of runs.

    Raises:
      ConfigError: no run has the metric, or there are more runs than lines that can be told apart.
    """
    rows = [read_metrics(run.metrics_file, lambda line: None) for run in runs]
    return drawn(dict(zip(names(runs), rows, strict=True)), metric)


def drawn(rows: Mapping[str, Sequence[Mapping[str, Any]]], metric: str) -> Figure:
    """The validations of each run as a line of its own, on one axis; of a loss, the training behind them.

    Args:
      rows: of the metrics of each run, by its name.
      metric: of the validation, such as "loss".

    Raises:
      ConfigError: no run has the metric, or there are more runs than lines that can be told apart.
    """
    known = dict.fromkeys(n for of_run in rows.values() for row in of_run for n in row if n.startswith("validation_"))
    if known and f"validation_{metric}" not in known:
        names = ", ".join(name.removeprefix("validation_") for name in known)
        raise ConfigError(f"--metric must be one of {names}, got {metric!r}")
    if len(rows) > MOST:
        raise ConfigError(f"at most {MOST} runs can be told apart in a picture, got {len(rows)}; compare fewer")
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes, called = figure.add_subplot(), metric.replace("_", " ")
    for i, (name, of_run) in enumerate(rows.items()):
        colour, style = COLOURS[i % len(COLOURS)], _STYLES[i // len(COLOURS)]
        if trained := _points(of_run, metric):
            axes.plot(*trained, linewidth=0.7, alpha=0.4, color=colour, linestyle=style)
        validated = _points(of_run, f"validation_{metric}")
        ended = next((f", diverged at step {row['step']:,}" for row in of_run if "diverged" in row), "")
        label = name + ("" if validated else ", no validation yet") + ended
        axes.plot(
            *(validated or ((), ())), "o", linestyle=style, label=label, color=colour, linewidth=1.6, markersize=4
        )
    faint = "; faint: of training batches" if any(_points(of_run, metric) for of_run in rows.values()) else ""
    axes.set(xlabel="step", ylabel=named(metric), title=f"Validation {called}{faint}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]] | None:
    """The steps and values of a column, without those that are not finite; None: there are none."""
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return tuple(map(list, zip(*found, strict=True))) if found else None
