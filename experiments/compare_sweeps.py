"""Learning rate against loss of several sweeps side by side, a line for each value of a field.

    python -m experiments.compare_sweeps --sweeps=standard=runs/standard,muP=runs/mup --by=model.d_model \\
        --picture=rates.png
"""

from pathlib import Path

from tformer_jax.config import ConfigError
from tformer_jax.data.files import WriteError
from tformer_jax.sweeps.results import read_results
from tformer_jax.training.directories import RunError

from . import cli
from .parsers import define_list, define_text
from .ranking import ranking

SWEEPS = define_list("sweeps", None, "Sweeps to compare, each with a name.", like="NAME=DIRECTORY,OTHER=DIRECTORY,...")
BY = define_text("by", None, "Config field that has one line per value, such as model.d_model.", like="FIELD")
PICTURE = define_text("picture", None, "PNG file to write the picture to.", like="FILE.png")


def main() -> None:
    from tformer_jax.sweeps.plots import plot_learning_rates  # here: --help waits for no Matplotlib

    panels = {}
    wanted = "--sweeps must be NAME=DIRECTORY,OTHER=DIRECTORY..."
    if not SWEEPS.value:
        raise ConfigError(f"{wanted}, got nothing")
    for text in SWEEPS.value:
        name, _, directory = text.partition("=")
        if not name or not directory:
            raise ConfigError(f"{wanted}, got {text!r}")
        if name in panels:
            raise ConfigError(f"{wanted} with different names, got {name!r} twice")
        panels[name] = read_results(Path(directory))
    by = ranking()
    try:
        plot_learning_rates(panels, Path(PICTURE.value), metric=by.metric, lowest=by.lowest, by=BY.value)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except WriteError as error:
        raise RunError(f"cannot write the picture: {error.filename}: {error.strerror}") from None
    cli.say(f"the picture is in {PICTURE.value}")


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, "sweeps", "picture")


if __name__ == "__main__":
    run()
