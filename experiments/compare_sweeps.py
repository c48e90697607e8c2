"""Learning rate against loss of several sweeps side by side, a line for each value of a field.

    python -m experiments.compare_sweeps --sweeps=standard=runs/standard,muP=runs/mup --by=model.d_model \
        --picture=rates.png
"""

import json
from pathlib import Path

from absl import flags

from tformer_jax.analysis.sweep_plots import plot_learning_rates
from tformer_jax.config import ConfigError
from tformer_jax.data.files import WriteError
from tformer_jax.training.directories import RunError

from . import cli
from .parsers import define_text
from .ranking import ranking

SWEEPS = flags.DEFINE_list("sweeps", None, "Sweeps to compare: NAME=DIRECTORY,OTHER=DIRECTORY,...")
BY = define_text("by", None, "Config field that has one line per value, such as model.d_model.")
PICTURE = define_text("picture", None, "PNG file to write the picture to.")


def main() -> None:
    panels = {}
    if not SWEEPS.value:
        raise ConfigError("--sweeps must be NAME=DIRECTORY,OTHER=DIRECTORY..., got nothing")
    for text in SWEEPS.value:
        name, _, directory = text.partition("=")
        file = Path(directory) / "results.jsonl"
        if not name or not directory or name in panels:
            raise ConfigError(f"--sweeps must be NAME=DIRECTORY,OTHER=DIRECTORY..., got {text!r}")
        if not file.is_file():
            raise RunError(f"{directory} has no results.jsonl: give the directory of a sweep")
        try:
            panels[name] = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        except ValueError as error:
            raise RunError(f"{file} is damaged: {error}") from None
    by = ranking()
    try:
        plot_learning_rates(panels, Path(PICTURE.value), metric=by.metric, lowest=by.lowest, by=BY.value)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except WriteError as error:
        raise RunError(f"cannot write the picture: {error.filename}: {error.strerror}") from None
    cli.say(f"the picture is in {PICTURE.value}")


if __name__ == "__main__":
    cli.run(main, "sweeps", "picture")
