"""Lists runs, compares them, or reports on them in a page.

    python -m experiments.runs runs/
    python -m experiments.runs compare runs/language runs/serf --curves=comparison.png
    python -m experiments.runs report runs/language runs/serf --page=report.html

A list has runs, sweeps and searches, the newest first; --metric says which number of their validations it shows. A
comparison has the fields in which configs differ, and one picture of all curves. A page holds config, environment,
curves, samples, pictures and timings, and needs no network.
"""

from collections.abc import Sequence
from pathlib import Path

from tformer_jax.analysis.plots import save_picture
from tformer_jax.config import ConfigError, nearest
from tformer_jax.data.files import write_whole
from tformer_jax.training.directories import RunError
from tformer_jax.training.run import Run

from .. import cli
from ..parsers import define_text
from ..ranking import ranking
from . import tables
from .summary import Summary, found_in, kind_of, summary

CURVES = define_text("curves", "comparison.png", "File of the picture that compare draws.", like="FILE.png")
PAGE = define_text("page", "report.html", "File of the page that report writes.", like="FILE.html")

_WHERE = "runs"
_INSTEAD = {
    "sweep": "a sweep, whose members experiments.compare_sweeps compares; experiments.export makes a run of one",
    "search": "a search, whose runs are in its trials/",
    None: "no run: it has no config.json",
}


def main(arguments: Sequence[str]) -> None:
    first, *others = arguments or [_WHERE]
    if first in _ACTIONS and not Path(first).exists():
        _ACTIONS[first](others)
    elif not Path(first).exists():
        raise ConfigError(f"there is no directory {first}{nearest(first, _ACTIONS)}; give one that holds runs")
    else:
        show([first, *others])


def show(places: Sequence[str]) -> None:
    """Prints a line for each run, sweep and search in some directories."""
    found = list(found_in([Path(place) for place in places]))
    if not found:
        raise RunError(f"there is no run in {', '.join(places)}; experiments.train makes one")
    by, known = ranking(), []
    for directory in found:
        try:
            known.append(summary(directory, by))
        except RunError as error:  # the others are listed all the same
            cli.say(f"left out: {error}")
    cli.say(tables.listed(known, by))


def compare(places: Sequence[str]) -> None:
    """Prints what differs between runs, and draws their curves."""
    if len(places) < 2:
        raise ConfigError("compare needs two runs or more, such as compare runs/a runs/b")
    runs, summaries = opened(places)
    tables.check_alike(runs)
    cli.say(tables.compared(summaries, runs, ranking()))
    from . import curves  # here: a list is there sooner without Matplotlib

    save_picture(curves.of(runs, ranking().metric), Path(CURVES.value))
    cli.say(f"the picture is in {CURVES.value}")


def report(places: Sequence[str]) -> None:
    """Writes a page on one run or more."""
    if not places:
        raise ConfigError("report needs a run or more, such as report runs/a")
    runs, summaries = opened(places)
    tables.check_alike(runs)
    from .report import page

    write_whole(Path(PAGE.value), page(summaries, runs, ranking()))
    cli.say(f"the page is in {PAGE.value}")


def opened(places: Sequence[str]) -> tuple[list[Run], list[Summary]]:
    """The runs in some directories, and what a list says of them.

    Raises:
      ConfigError: one is not the directory of a run, or given twice.
      RunError: a file is damaged.
    """
    directories = [Path(place) for place in places]
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"there is no directory {directory}; give those of runs")
        if (kind := kind_of(directory)) != "run":
            raise ConfigError(f"{directory} is {_INSTEAD[kind]}; give the directory of a run")
        if [other.resolve() for other in directories].count(directory.resolve()) > 1:
            raise ConfigError(f"{directory} is given twice; leave one of them out")
    return [Run.open(d) for d in directories], [summary(d, ranking()) for d in directories]


_ACTIONS = {"compare": compare, "report": report}


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, takes="directories")


if __name__ == "__main__":
    run()
