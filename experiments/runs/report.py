"""A report on runs: one page of HTML that holds all that it shows, to be sent to somebody."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tformer_jax.sweeps.results import Ranking
from tformer_jax.training.json_files import read_json
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.run import Run

from . import curves, html
from .html import Child, tag
from .summary import Summary, command_of
from .tables import age, comparison, fields, names, number

# Of each file of samples; the others stay in it.
_MOST_SAMPLES = 20
_MOST_ROWS = 12

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 70rem; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { border-top: 2px solid #0072b2; padding-top: .75rem; margin-top: 2.5rem; }
nav a { margin-right: 1rem; } a { color: #00558a; }
:focus-visible { outline: 3px solid #d55e00; outline-offset: 2px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; white-space: pre-wrap; }
th, td { padding: .2rem .75rem .2rem 0; border-bottom: 1px solid #ddd; }
thead th { border-bottom: 2px solid #888; } td { font-variant-numeric: tabular-nums; min-width: 4rem; }
pre { background: #f4f4f4; padding: .75rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } img { max-width: min(100%, 50rem); height: auto; } figcaption { color: #444; font-size: .9rem; }
summary { cursor: pointer; padding: .4rem 0; font-weight: 600; }
"""


def page(summaries: Sequence[Summary], runs: Sequence[Run], ranking: Ranking) -> str:
    """The page, as a text.

    Raises:
      RunError: a file of a run is damaged.
      ConfigError: see `curves.drawn`.
    """
    rows = {
        name: read_metrics(run.metrics_file, lambda line: None) for name, run in zip(names(runs), runs, strict=True)
    }
    title = ", ".join(rows) if len(rows) < 4 else f"{len(rows)} runs"
    several = [_together(summaries, runs, rows, ranking)] if len(runs) > 1 else []
    links = (tag("a", name, href=f"#run-{i}") for i, name in enumerate(rows))
    sections = (
        _section(i, name, one, run, rows[name], ranking)
        for i, (name, one, run) in enumerate(zip(rows, summaries, runs, strict=True))
    )
    main = tag("main", tag("h1", title), tag("nav", links, aria_label="runs") if several else (), several, sections)
    return html.page(title, STYLE, main)


def _together(summaries: Sequence[Summary], runs: Sequence[Run], rows: Mapping[str, Any], ranking: Ranking) -> Child:
    compared = ([name, *values] for name, values in comparison(summaries, runs, ranking).items())
    return tag(
        "section",
        tag("h2", "Side by side"),
        html.picture(
            _png(rows, ranking), f"Validation {ranking.metric.replace('_', ' ')} of all runs against the step"
        ),
        html.table(["", *rows], compared, "what the runs reached, and what differs in their configs"),
    )


def _section(i: int, name: str, one: Summary, run: Run, rows: Sequence[Mapping[str, Any]], ranking: Ranking) -> Child:
    metric = ranking.metric.replace("_", " ")
    facts = {
        "task": one.task,
        "preset": one.preset or "unknown",
        "status": f"{one.status}, step {one.done:,} of {one.total:,}, last written {age(one.age)} ago",
        f"validation {metric}": f"{number(one.last)} at last, {number(one.best)} at best (step {one.best_at})",
        **_tested(run),
    }
    return tag(
        "section",
        tag("h2", name, id=f"run-{i}"),
        html.table(["", "value"], facts.items(), f"{name} in short"),
        tag("h3", "Command"),
        tag("pre", " ".join(command_of(run.directory)) or "nobody wrote it down", tabindex="0"),
        tag("h3", "Curves"),
        html.picture(_png({name: rows}, ranking), f"Validation {metric} of {name} against the step"),
        _rows(rows, name),
        tag("h3", "Pictures"),
        [*_pictures(run)] or tag("p", "None were drawn: experiments.evaluate draws them."),
        tag("h3", "Samples"),
        [*_samples(run)] or tag("p", "None were written: experiments.evaluate writes them."),
        tag("h3", "Config and environment"),
        html.folded("Every field of the config", html.table(["field", "value"], _config(run), f"config of {name}")),
        html.folded("Environment", html.table(["", "value"], _environment(run), f"environment of {name}")),
    )


def _png(rows: Mapping[str, Sequence[Mapping[str, Any]]], ranking: Ranking) -> bytes:
    content = io.BytesIO()
    curves.drawn(rows, ranking.metric).savefig(content, format="png", dpi=110)
    return content.getvalue()


def _tested(run: Run) -> dict[str, str]:
    """The numbers of each split that was evaluated."""
    found = {}
    for file in sorted(run.samples.glob("*_metrics.json")):
        numbers = {name: value for name, value in read_json(file).items() if isinstance(value, int | float)}
        said = ", ".join(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in numbers.items())
        found[file.name.removesuffix("_metrics.json")] = said
    return found


def _rows(rows: Sequence[Mapping[str, Any]], name: str) -> Child:
    """Some rows of training, evenly spread, with their timings."""
    trained = [row for row in rows if "loss" in row]
    some = trained[:: max(1, -(-len(trained) // _MOST_ROWS))]
    columns = list(dict.fromkeys(column for row in some for column in row))
    cells = ([_shown(row.get(column)) for column in columns] for row in some)
    title = f"Numbers of {len(some)} of {len(trained)} rows of training"
    return html.folded(title, html.table(columns, cells, f"metrics of {name}"))


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:,.5g}" if isinstance(value, float) else str(value)


def _pictures(run: Run) -> Iterator[Child]:
    for file in sorted(run.plots.rglob("*.png")):
        yield html.picture(file.read_bytes(), str(file.relative_to(run.plots).with_suffix("")))


def _samples(run: Run) -> Iterator[Child]:
    """The first samples of each split, and the last text that was written while training."""
    for file in sorted(run.samples.glob("*.jsonl")):
        lines = file.read_text("utf-8").splitlines()
        samples = [json.loads(line) for line in lines[:_MOST_SAMPLES]]
        if samples:
            cells = ([str(sample.get(name, "")) for name in samples[0]] for sample in samples)
            title = f"{file.stem}: {len(samples)} of {len(lines)}"
            yield html.folded(title, html.table(list(samples[0]), cells, f"samples of {file.stem}"))
    written = sorted(run.samples.glob("step_*.txt"), key=lambda file: int(file.stem.removeprefix("step_")))
    for file in written[-1:]:
        yield html.folded(
            f"written after {file.stem.replace('_', ' ')}", tag("pre", file.read_text("utf-8"), tabindex="0")
        )


def _config(run: Run) -> Iterator[tuple[str, str]]:
    return ((name, repr(value)) for name, value in fields(run.config))


def _environment(run: Run) -> Iterator[tuple[str, str]]:
    file = run.directory / "environment.json"
    found = {name: x for name, x in read_json(file).items() if name != "command"} if file.is_file() else {}
    return ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in fields(found))
