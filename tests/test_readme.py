"""The READMEs are part of the product: tables are walked, commands parsed, examples run, links lead somewhere."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import tiny_runs
from absl import flags
from ml_collections import config_flags

import experiments.cli  # noqa: F401  how --config is read
from tformer_jax import models
from tformer_jax.config import component_of, hints_of
from tformer_jax.presets import PRESETS
from tformer_jax.registry import Registry, load_plugin
from tformer_jax.sweeps.members import make_members
from tformer_jax.sweeps.search import SearchConfig, check_search
from tformer_jax.sweeps.text import parse
from tformer_jax.training.experiment import Experiment

ROOT = Path(__file__).parent.parent
PACKAGE, EXPERIMENTS = ROOT / "tformer_jax", ROOT / "experiments"
# The first page, and those of the folders that it links to.
_FILES = (ROOT / "README.md", *sorted(EXPERIMENTS.rglob("README.md")), *sorted(PACKAGE.rglob("README.md")))
PAGES = {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in _FILES}
EVERYTHING = "\n".join(PAGES.values())


def _rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the tables under a heading, without the heads of the tables."""
    section = PAGES[page].split(f"\n## {heading}\n")[1].split("\n## ")[0].replace("\\|", "∣")
    tables = re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*\n?)+)", section, re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


ROWS = _rows("tformer_jax/functional/README.md", "The equations")


def _code(cell: str) -> str:
    assert cell.startswith("`") and cell.endswith("`"), f"{cell!r} is not code"
    return cell.strip("`").replace("∣", "|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_table_has_every_equation():
    """An equation of the library would be missing from its map."""
    assert {int(row[0]) for row in ROWS} == set(range(1, 16))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_the_function_exists_and_its_docstring_shows_the_formula(row):
    """A reader who follows the table would find no function, or a docstring without its equation."""
    number, _, formula, function, _ = row
    room, name = _code(function).rsplit(".", 1)
    found = getattr(importlib.import_module(f"tformer_jax.{room}"), name)
    docstring = _one_line(inspect.getdoc(found))
    assert f"equation {number}" in docstring or re.search(rf"equations [\d, and]*\b{number}\b", docstring)
    assert _one_line(_code(formula)) in docstring


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_the_test_exists(row):
    """The table would claim a test that nobody can run."""
    file, name = _code(row[4]).split("::")
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def _anchors(page: str) -> set[str]:
    """The headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", page, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page):
    """A reader would click on a page that was moved, or a heading that was renamed."""
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target.read_text("utf-8")), link


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_are_named_exist(page):
    """A reader would look for a file that was moved."""
    places = ((ROOT / page).parent, ROOT, PACKAGE, EXPERIMENTS)
    for name in re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|md|txt|cfg))(?:::\w+)?`", PAGES[page]):
        assert f"# {name}\n" in EVERYTHING or any((place / name).exists() for place in places), name


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_every_page_is_linked_from_the_first(page):
    """What was written of a folder would not be found."""
    assert f"]({page}" in PAGES["README.md"]


def test_the_first_page_is_short():
    """A newcomer would have to scroll past what only some need."""
    assert len(PAGES["README.md"].splitlines()) <= 150


def _fields(cls, prefix=""):
    """Every field within a config by its dotted name, of the package's own components: other tests register theirs."""
    registry = getattr(cls, "registry", None)
    if registry is not None:
        yield f"{prefix}name"
    for one in [cls] if registry is None else registry.values():
        for of in dataclasses.fields(one) if one.__module__.startswith("tformer_jax.") else ():
            inner = component_of(hints_of(one)[of.name])
            yield from [f"{prefix}{of.name}"] if inner is None else _fields(inner, f"{prefix}{of.name}.")


def test_the_menu_has_every_field_of_every_model():
    """A choice would be missing from its map, or the map would have one that is not there."""
    rows = _rows("tformer_jax/models/README.md", "The menu")
    menu = {name for row in rows for name in re.findall("`([^`]+)`", row[1])}
    assert menu == {name for model in models.__all__ for name in _fields(getattr(models, model).Config)}


def test_the_presets_are_all_listed():
    """A published model would be missing from the page, or be there in name alone."""
    listed = PAGES["tformer_jax/models/README.md"].split("\n## Presets\n")[1]
    ours = {name for name in PRESETS if PRESETS.place(name).startswith(str(PACKAGE))}
    assert set(re.findall("`([a-z0-9_]+)`", listed)) - {"transformers"} == ours


def test_every_registry_is_in_its_table():
    """Whoever has an idea would not find where it is registered."""
    modules = [importlib.import_module(found.name) for found in pkgutil.walk_packages([PACKAGE], "tformer_jax.")]
    things = [pair for module in modules for pair in vars(module).items() if pair[0].isupper()]
    registries = {id(x): name for name, x in things if isinstance(x, Registry) and not name.startswith("_")}
    listed = {}
    for row in _rows("tformer_jax/README.md", "Registries"):
        room, name = _code(row[1]).rsplit(".", 1)
        listed[id(getattr(importlib.import_module(f"tformer_jax.{room}"), name))] = name
    assert listed == registries


def test_every_extension_has_its_line():
    """An example would not be found."""
    files = {file.name for file in (EXPERIMENTS / "extensions").glob("*.py")} - {"__init__.py"}
    page = PAGES["experiments/extensions/README.md"]
    assert set(re.findall(r"^\| \[`(\w+\.py)`\]", page, re.M)) == files


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """`plugin(name)`: the file that a page shows under a name, a block of Python that begins with it; else one here."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, block in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", EVERYTHING, re.S):
        (folder / name).write_text(block, "utf-8")
    return lambda name: str(folder / name if (folder / name).exists() else ROOT / name)


def commands(name):
    """The arguments of every `python -m experiments.NAME` in the READMEs and extensions, each once."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", EVERYTHING, re.S))
    files = (EXPERIMENTS / "extensions").glob("*.py")
    heads = [ast.get_docstring(ast.parse(file.read_text("utf-8"))) for file in sorted(files)]
    found = re.findall(rf"python -m experiments\.{name} (.*)", "\n".join([shell, *heads]).replace("\\\n", " "))
    return [shlex.split(line) for line in dict.fromkeys(" ".join(line.split()) for line in found)]


def parsed(arguments, monkeypatch, plugin):
    """The flags of a command, its plugins loaded and its components chosen as the command itself does."""
    monkeypatch.chdir(ROOT)
    for name in (a.removeprefix("--plugin=") for a in arguments if a.startswith("--plugin=")):
        load_plugin(plugin(name))
    values, command = flags.FlagValues(), [a for a in arguments if not a.startswith("--plugin=")]
    monkeypatch.setattr(sys, "argv", ["train", *command])
    config_flags.DEFINE_config_file("config", flag_values=values)
    values["config"].parser = type(flags.FLAGS["config"].parser)(values["config"].parser)
    for name, define in {"workdir": flags.DEFINE_string, "sweep": flags.DEFINE_string, **BESIDE_CONFIG}.items():
        define(name, None, "", flag_values=values)
    values(sys.argv)
    return values


BESIDE_CONFIG = {
    "dry_run": flags.DEFINE_boolean,
    "distributed": flags.DEFINE_boolean,
    "coordinator": flags.DEFINE_string,
    "num_processes": flags.DEFINE_integer,
    "process_id": flags.DEFINE_integer,
    "profile": flags.DEFINE_string,
    "wandb": flags.DEFINE_string,
}


@pytest.mark.parametrize("arguments", commands("train"), ids=" ".join)
def test_the_training_commands_are_configs(arguments, monkeypatch, plugin):
    """A newcomer would paste a command that is refused."""
    values = parsed(arguments, monkeypatch, plugin)
    assert values.dry_run or values.workdir.startswith("runs/")
    Experiment.from_config(values.config.to_dict())


@pytest.mark.parametrize(
    "name", ["train", "predict", "evaluate", "export", "convert", "sweep", "compare_sweeps", "inspect"]
)
def test_the_other_commands_have_flags_that_exist(name):
    """A newcomer would paste a flag that was renamed."""
    importlib.import_module(f"experiments.{name}")
    for arguments in commands(name):
        for argument in arguments:
            assert argument.startswith("--")
            assert argument[2:].split("=")[0] in flags.FLAGS or argument.startswith("--config.")


@pytest.mark.parametrize("arguments", commands("sweep"), ids=" ".join)
def test_the_sweeps_are_spaces_of_their_configs(arguments, monkeypatch, plugin):
    """A newcomer would paste a sweep that is refused."""
    of_the_engine = ("--engine", "--trials", "--sampler", "--pruner", "--halving", "--first_rung")
    values = parsed([a for a in arguments if not a.startswith(of_the_engine)], monkeypatch, plugin)
    config = values.config.to_dict()
    space = parse(values.sweep or importlib.import_module("experiments.configs.causal_lm").get_sweep())
    if "--engine=search" in arguments:
        how = {name: value for name, value in (a[2:].split("=", 1) for a in arguments) if name in ("sampler", "pruner")}
        assert check_search(config, space, SearchConfig(trials=1, **how))
    else:
        assert make_members(config, space.members())


# What an example's last values are, by their names.
SHAPES = {
    "out": lambda names: names["out"].shape == names["q"].shape,
    "captured": lambda names: names["captured"]["encoder.attention_weights"].shape == (2, 2, 4, 9, 9),
    "best": lambda names: names["best"].tokens.shape == (2, 4, 20),
    "new": lambda names: names["new"].shape == (2, 10),
    "classes": lambda names: names["classes"].shape == (1, 1000),
    "numbers": lambda names: len(names["numbers"]["step"]) == len(names["numbers"]["validation_loss"]) > 0,
    "continued": lambda names: names["continued"].startswith("My fellow citizens,"),
}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in PAGES[page]])
def test_the_python_examples_run(page, plugin, monkeypatch, tmp_path, tmp_path_factory):
    """A newcomer would paste an example that fails."""
    monkeypatch.chdir(tmp_path)  # where some write
    if "open_run" in PAGES[page]:  # the run of the first command, in small
        shutil.copytree(tiny_runs.finished(tmp_path_factory.getbasetemp(), "causal_lm").run.directory, "runs/language")
    names: dict = {}
    for block in re.finditer(r"```python\n(.*?)```", PAGES[page], re.S):
        if file := re.match(r"# (\w+\.py)\n", block[1]):
            load_plugin(plugin(file[1]))
        else:
            lines = PAGES[page][: block.start(1)].count("\n")
            exec(compile("\n" * lines + block[1], page, "exec"), names)
    assert all(is_right(names) for name, is_right in SHAPES.items() if name in names)


def test_the_examples_make_what_is_looked_at():
    """A change of the pages would leave the shapes of no example checked."""
    assert all(re.search(rf"^(\w+, )?{name}(, \w+)? = ", EVERYTHING, re.M) for name in SHAPES)
