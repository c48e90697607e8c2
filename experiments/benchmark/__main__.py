"""Measures a suite: contenders take turns, and the table tells the medians of the ratios of turns in one round.

    python -m experiments.benchmark train_step --peers=torch,flax
    python -m experiments.benchmark train_step --rows=gpt-small --peers=tformer_jax@scan_unroll=1
    python -m experiments.benchmark train_step --peers="torch tformer_jax@scan_unroll=1,remat=full tformer_jax@../older"
    python -m experiments.benchmark attention --rows=causal-4096 --peers=torch,tformer_jax@reference --output=results
    python -m experiments.benchmark scaling

Each contender is a process, a peer the same work by another library: `pip install -e ".[bench]"`. A ratio below 1 is
faster than the base, the project as it stands. The ceiling is a product of large matrices, measured in the same run;
peak memory is what turns took beyond what stood before. Let nothing else run beside it.
"""

import importlib
import pkgutil
import sys
import textwrap
from pathlib import Path

from absl import app, flags

from tformer_jax.data.files import WriteError

from ..help import check_values, page, show, width
from . import report, suites
from .turns import CEILING, PROJECT, take_turns

PEERS = flags.DEFINE_string(
    "peers", "", "Contenders beside the project: torch, torch.compile, transformers, flax; or the project with changes, as "
    "tformer_jax@FIELD=VALUE or tformer_jax@FOLDER. Separated by commas, or by blanks where one of them has commas.",
)  # fmt: skip
ROWS = flags.DEFINE_list("rows", [], "Rows of the suite to measure; by default those for a CPU.")
ROUNDS = flags.DEFINE_integer("rounds", 12, "Number of rounds; in each, every contender has one turn.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write results.json, table.md and ratios.png to.")

SUITES = sorted(module.name for module in pkgutil.iter_modules(suites.__path__))


def main(arguments: list[str]) -> None:
    if len(arguments) != 2 or arguments[1] not in SUITES:
        sys.exit(f"error: give one suite of {', '.join(SUITES)}")
    suite = importlib.import_module(f"{suites.__name__}.{arguments[1]}")
    known = {row.name for row in suite.ROWS}
    if unknown := [name for name in ROWS.value if name not in known]:
        sys.exit(f"error: {arguments[1]} has no row {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    peers, found = _peers(suite), []
    for row in suite.rows(ROWS.value):
        names = [CEILING, PROJECT, *row.ways, *(peer for peer in peers if "@" in peer or peer in row.peers)]
        case = {"suite": arguments[1], "settings": dict(row.settings)}
        found += report.lines(row, take_turns(names, case, ROUNDS.value, _say))
        _say(f"{row.name} measured")
    said = suite.summary(found) if hasattr(suite, "summary") else []
    report.show(found, said)
    if OUTPUT.value:
        try:
            report.write(arguments[1], found, said, Path(OUTPUT.value))
        except (WriteError, OSError) as error:
            sys.exit(f"error: {error}")


def _peers(suite) -> list[str]:
    text = PEERS.value.strip()
    peers = [peer for peer in (text.split() if " " in text else text.split(",")) if peer]
    known = sorted({peer for row in suite.ROWS for peer in row.peers})
    for peer in peers:
        if peer not in known and not peer.startswith("tformer_jax@"):
            sys.exit(
                f"error: --peers of {suite.__name__.rpartition('.')[2]} are {', '.join(known) or 'tformer_jax@...'}, got {peer!r}"
            )
    return peers


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parsed(arguments: list[str]) -> list[str]:
    """Reads the flags, or shows what `--help` asks for."""
    if (text := page(main, arguments)) is not None:
        suites_there = textwrap.fill(f"Suites: {', '.join(SUITES)}.", width())
        show(f"{text}\n\n{suites_there}")
        sys.exit()
    try:
        check_values(arguments)
        return flags.FLAGS(arguments)
    except flags.Error as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=_parsed)
