"""The READMEs are part of the product: the equation table is walked, commands are parsed, links lead somewhere."""

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from tformer_jax.sweeps.members import make_members
from tformer_jax.sweeps.search import SearchConfig, check_search
from tformer_jax.sweeps.text import parse
from tformer_jax.training.experiment import Experiment

ROOT = Path(__file__).parent.parent
# The first page, and those of the folders that it links to.
_FOLDERS = (ROOT, ROOT / "experiments", ROOT / "tformer_jax", *sorted((ROOT / "tformer_jax").glob("*/")))
PAGES = {
    file.relative_to(ROOT).as_posix(): file.read_text("utf-8")
    for file in (folder / "README.md" for folder in _FOLDERS)
    if file.exists()
}
EVERYTHING = "\n".join(PAGES.values())
EQUATIONS = PAGES["README.md"].split("## The equations")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in EQUATIONS.replace("\\|", "∣").splitlines()
    if re.match(r"\| \d+ \|", line)
]


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


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_every_page_is_linked_from_the_first(page):
    """What was written of a folder would not be found."""
    assert f"]({page}" in PAGES["README.md"]


def commands(name):
    """The arguments of every `python -m experiments.NAME` in the READMEs, each once."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", EVERYTHING, re.S)).replace("\\\n", " ")
    found = re.findall(rf"python -m experiments\.{name} (.*)", shell)
    return [shlex.split(line) for line in dict.fromkeys(" ".join(line.split()) for line in found)]


TOGETHER = {
    "distributed": flags.DEFINE_boolean,
    "coordinator": flags.DEFINE_string,
    "num_processes": flags.DEFINE_integer,
    "process_id": flags.DEFINE_integer,
}


@pytest.mark.parametrize("arguments", commands("train"), ids=" ".join)
def test_the_training_commands_are_configs(arguments, monkeypatch):
    """A newcomer would paste a command that is refused."""
    monkeypatch.chdir(ROOT)
    values, command = flags.FlagValues(), ["train", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=command)
    for name, define in {"workdir": flags.DEFINE_string, **TOGETHER}.items():
        define(name, None, "", flag_values=values)
    values(command)
    assert values.workdir.startswith("runs/")
    Experiment.from_config(values.config.to_dict())


@pytest.mark.parametrize("name", ["predict", "evaluate", "export", "sweep", "compare_sweeps"])
def test_the_other_commands_have_flags_that_exist(name):
    """A newcomer would paste a flag that was renamed."""
    importlib.import_module(f"experiments.{name}")
    for arguments in commands(name):
        for argument in arguments:
            assert argument.startswith("--")
            assert argument[2:].split("=")[0] in flags.FLAGS or argument.startswith("--config.")


@pytest.mark.parametrize("arguments", commands("sweep"), ids=" ".join)
def test_the_sweeps_are_spaces_of_their_configs(arguments, monkeypatch):
    """A newcomer would paste a sweep that is refused."""
    monkeypatch.chdir(ROOT)
    values, command = flags.FlagValues(), [a for a in arguments if a.startswith("--config")]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["sweep", *command])
    values(["sweep", *command])
    config = values.config.to_dict()
    text = [a.removeprefix("--sweep=") for a in arguments if a.startswith("--sweep=")]
    space = parse(text[0]) if text else parse(importlib.import_module("experiments.configs.causal_lm").get_sweep())
    if "--engine=search" in arguments:
        how = {name: value for name, value in (a[2:].split("=", 1) for a in arguments) if name in ("sampler", "pruner")}
        assert check_search(config, space, SearchConfig(trials=1, **how))
    else:
        assert make_members(config, space.members())


@pytest.mark.slow
def test_the_python_examples_run():
    """A newcomer would paste an example that fails."""
    blocks = re.findall(r"```python\n(.*?)```", EVERYTHING, re.S)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["out"].shape == names["q"].shape
    assert names["captured"]["encoder"]["attention_weights"].shape == (2, 2, 8, 9, 9)
    assert names["best"].tokens.shape == (2, 4, 20)
    assert names["new"].shape == (2, 10)
    assert names["classes"].shape == (1, 1000)
