"""Finding one's way: what `--help` of each command says, what `--help_config` says of a config, and what is missing."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags as absl_flags
from forked import ROOT

from experiments import cli
from experiments.config_files import presets_of
from tformer_jax.config.documentation import summary
from tformer_jax.data.mixtures import MIXTURE
from tformer_jax.data.sources import DOCUMENTS
from tformer_jax.tasks import TASKS
from tformer_jax.training.schedules import SCHEDULES

FILES = sorted((ROOT / "experiments").glob("*.py"))
TREES = {file.stem: ast.parse(file.read_text("utf-8")) for file in FILES}
PACKAGES = ("benchmark", "runs")
TREES |= {name: ast.parse((ROOT / "experiments" / name / "__main__.py").read_text("utf-8")) for name in PACKAGES}
A, B = "experiments/configs/causal_lm.py", "--config=experiments/configs/causal_lm.py"
SHARED = ("config", "workdir", "to", "step", "plugin", "compilation_cache")
CONFIGS = sorted(file.stem for file in (ROOT / "experiments" / "configs").glob("*.py") if file.stem in TASKS)


def calls(tree):
    """The calls in a source whose function has a name, with it."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func).rpartition(".")[2], node) for node in found]


def run_by(name):
    """The call in a command's source that parses its flags; None of what is no command."""
    return next((node for called, node in calls(TREES[name]) if ast.unparse(node).startswith("cli.run(main")), None)


def optional_of(name):
    """The shared flags that a command's source says it can do without."""
    found = [keyword.value for keyword in run_by(name).keywords if keyword.arg == "optional"] if name in RUNS else []
    return ast.literal_eval(found[0]) if found else ()


RUNS = {name: run for name in TREES if (run := run_by(name)) is not None}
COMMANDS = {name: [argument.value for argument in run.args[1:]] for name, run in RUNS.items()}


def shares(name):
    """The files of `experiments` that a command's source imports, and those that these import."""
    found, todo = set(), [name]
    while todo:
        tree = TREES[todo.pop()]
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        names = {one for node in froms for one in ((node.module,) if node.module else (a.name for a in node.names))}
        todo += (new := (names & TREES.keys()) - found)
        found |= new
    return found


def taken_by(name):
    """The flags of a command, read from sources: those that are defined there, and shared ones that it needs."""
    files = {name, *shares(name)} - {"cli", "parsers"}
    made = {
        node.args[0].value
        for file in files
        for called, node in calls(TREES[file])
        if re.match("define_(?!field)|DEFINE_", called) and node.args and isinstance(node.args[0], ast.Constant)
    } - {"workdir" if name == "predict" else ""}
    needed = COMMANDS.get(name, ())
    made |= {flag for flag in SHARED if flag in (*needed, *optional_of(name))}
    if name != "benchmark":
        made.add("compilation_cache")
    if name == "predict":
        made |= {field for task in TASKS.values() for field in task.Prediction.__dataclass_fields__}
    return made | {"help"} | ({"help_config"} if "config" in needed else set())


def test_commands_are_found():
    """The tests below would look at nothing."""
    assert COMMANDS.keys() >= {
        "train",
        "evaluate",
        "predict",
        "inspect",
        "sweep",
        "export",
        "convert",
        "compare_sweeps",
    }
    assert {"steps", "peers", "rows"} & taken_by("benchmark") and {"step", "split"} <= taken_by("evaluate")


@pytest.fixture(scope="module")
def pages(together, command):
    """What `--help` of each command prints, 80 columns wide."""
    names = [*COMMANDS, "benchmark"]
    found = together({name: lambda name=name: command(name, "--help") for name in names})
    assert {name: (page.returncode, page.stderr) for name, page in found.items()} == dict.fromkeys(names, (0, ""))
    return {name: page.stdout for name, page in found.items()}


@pytest.mark.parametrize("asked", ["--help", "--help_config"])
def test_help_needs_no_device_and_is_as_wide_as_the_terminal(asked):
    """A person would wait for accelerators, or read lines that are broken in the middle of words."""
    command = [sys.executable, "-m", "experiments.train", f"{B}:tiny", asked]
    environment = os.environ | {"COLUMNS": "50", "JAX_PLATFORMS": "none_such"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(map(len, result.stdout.splitlines()))[-30] <= 50
    assert all(len(line) <= 50 or len(line.split()) <= 2 for line in result.stdout.splitlines())


@pytest.mark.parametrize("name", [*COMMANDS, "benchmark"])
def test_help_lists_the_flags_that_a_command_takes_and_no_others(pages, name):
    """A flag would be found in the source alone, or be listed and then refused."""
    listed = re.findall(r"^  --([a-z_]+)(?=$|\[|=(?!experiments/))", pages[name], re.M)
    assert sorted(listed) == sorted(taken_by(name))


def module_of(name):
    return importlib.import_module(f"experiments.{name}.__main__" if name in PACKAGES else f"experiments.{name}")


@pytest.mark.parametrize(("name", "flag"), [(n, flag) for n in COMMANDS for flag in SHARED if flag not in taken_by(n)])
def test_shared_flags_that_are_not_listed_are_refused(here, name, flag):
    """A flag that a command takes would be hidden."""
    values = {"config": "experiments/configs/causal_lm.py:tiny", "plugin": "json"}
    given = [f"--{one}={values.get(one, 1)}" for one in dict.fromkeys((*COMMANDS[name], flag))]
    result = here(name, *given)
    assert result.returncode == 1 and result.stderr.startswith(f"error: --{flag} has no meaning for this command")


@pytest.mark.parametrize("name", [*COMMANDS, "benchmark"])
def test_help_is_as_wide_as_the_terminal(pages, name):
    """Lines would be broken in the middle of words; what is longer is one word, or a path."""
    for line in pages[name].splitlines():
        assert len(line) <= 80 or len(line.split()) == 1 or line.lstrip().startswith(("--", '"')), line


def examples(page):
    """The commands of a page, put together where they are broken."""
    return re.findall(r"^ *(python -m experiments\..*)", page.replace("\\\n", " "), re.M)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_help_can_be_pasted(pages, here, monkeypatch, name):
    """A newcomer's first command would be refused."""
    reached = []
    monkeypatch.setattr(module_of(name), "main", lambda *_: reached.append(cli.CONFIG.value))
    found = examples(pages[name])
    assert found and all(example.startswith(f"python -m experiments.{name} ") for example in found)
    for number, example in enumerate(found, 1):
        words = shlex.split(example)[3:]
        result = here(name, *words[: [*words, ">"].index(">")])
        assert result.returncode == 0, (example, result.stderr)
        assert "--help_config" in example or len(reached) == number, example


def test_the_examples_of_the_benchmark_can_be_pasted(pages):
    """A newcomer's first measurement would be refused."""
    module = module_of("benchmark")
    for example in examples(pages["benchmark"]):
        try:
            _, suite = module._parsed(["benchmark", *shlex.split(example)[3:]])
            assert suite in module.SUITES
        finally:
            absl_flags.FLAGS.unparse_flags()
    assert all(suite in pages["benchmark"].rpartition("Suites:")[2] for suite in module.SUITES)


@pytest.mark.parametrize("asked", ["--helpshort", "-h", "-?", "--help=true"])
def test_other_ways_to_ask_for_help(pages, command, asked):
    """Absl's own help, which ends as an error does and hides half of the flags."""
    result = command("evaluate", asked, "--split")
    assert (result.returncode, result.stderr) == (0, "")
    assert " ".join(result.stdout.split()) == " ".join(pages["evaluate"].split())


def test_helpfull_has_the_flags_of_libraries_too(pages, command):
    """Nobody would find how Python's profiler is turned on; a flag that is refused would be among them."""
    result = command("evaluate", "--helpfull")
    assert result.returncode == 0 and "--verbosity=" in result.stdout and "--split=" in result.stdout
    assert not re.search(r"^  --(to|config|plugin)\b", result.stdout, re.M)
    result = command("evaluate", "--helpxml")
    assert result.returncode == 0 and result.stdout.startswith("<?xml")


@pytest.mark.parametrize("flags", [["--help"], ["--helpxml"], [f"{B}:tiny", "--help_config"]])
def test_a_reader_who_goes_away_is_no_error(start, flags):
    """`| head` would end in a traceback."""
    process = start("train", *flags)
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait() in (0, 141) and stderr == ""


def test_the_page_of_experiments_shows_how_to_ask(here):
    """A newcomer's question would be refused."""
    page = (ROOT / "experiments" / "README.md").read_text("utf-8")
    asked = re.findall(r"`python -m experiments\.(\w+) ([^`]*--help[^`]*)`", page)
    assert len(asked) == 2
    for name, flags in asked:
        result = here(name, *flags.split())
        assert result.returncode == 0 and result.stdout.count("\n") > 40


# Presets ---------------------------------------------------------------------------------------


def accepted_presets(name):
    """The presets of a config file, by its own refusal of another."""
    module = importlib.import_module(f"experiments.configs.{name}")
    with pytest.raises(Exception, match="preset must be one of") as refused:
        module.get_config("no such preset")
    return ast.literal_eval(re.search(r"\[.*?\]", str(refused.value))[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_help_lists_the_presets_with_a_sentence_of_their_file(pages, name):
    """A preset would be found in the source alone, or without a word about it."""
    page, file = (
        " ".join(pages["train"].split()).partition(" Show this. ")[2].partition(" Fields of ")[0],
        f"experiments/configs/{name}.py",
    )
    docstring = " ".join(ast.get_docstring(ast.parse((ROOT / file).read_text("utf-8"))).split())
    for preset in accepted_presets(name):
        (said,) = re.findall(rf"--config={file}:{preset} (.+?)(?= --config=| experiments/|$)", page)
        assert re.search(rf"\b{preset}(, \w+)* {re.escape(said)}", docstring)


def test_the_presets_of_a_file_of_ones_own(tmp_path, here):
    """Of a file that has no docstring, no preset would be listed; others would be listed that it does not have."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments.configs.causal_lm import _tiny\nfrom experiments.configs.sections import locked\n"
        'def first():\n    """Makes it small. And more."""\n    return _tiny()\n'
        "get_config = locked({'first': first, 'second': lambda: _tiny()})\n"
    )
    result = here("train", f"--config={file}:first", "--help")
    assert result.returncode == 0 and "causal_lm" not in result.stdout
    listed = dict(re.findall(rf"^  --config={file}:(\w+)\n?(?:      (.*))?", result.stdout, re.M))
    assert listed == {"first": "Makes it small.", "second": ""}
    assert f"--config={file}:first --help_config" in " ".join(result.stdout.replace("\\\n", " ").split())


def test_names_that_share_an_entry_share_its_sentence():
    """A preset that is described beside another would have no word about it."""
    found = presets_of(importlib.import_module("experiments.configs.translation"))
    assert found["base"] == found["big"] == ("the paper's models on WMT 2014, tested on newstest2014.")


# What is missing or wrong ----------------------------------------------------------------------

GIVE = f"give --config=FILE.py:PRESET, such as {A}:tiny"


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("train", [], f"{GIVE}, and --workdir=DIRECTORY (--help lists the presets)"),
        ("train", ["--workdir=a"], f"{GIVE} (--help lists the presets)"),
        ("train", [f"{B}:tiny"], "give --workdir=DIRECTORY"),
        ("sweep", [], f"{GIVE}, and --workdir=DIRECTORY (--help lists the presets)"),
        ("inspect", [], f"{GIVE} (--help lists the presets)"),
        ("evaluate", [], "give --workdir=DIRECTORY"),
        ("predict", [], "give --workdir=DIRECTORY"),
        ("export", [], "give --workdir=DIRECTORY, --member=INTEGER and --to=DIRECTORY"),
        ("convert", [], "give --from=DIRECTORY and --to=DIRECTORY"),
        ("compare_sweeps", [], "give --sweeps=NAME=DIRECTORY,OTHER=DIRECTORY,... and --picture=FILE.png"),
        ("train", ["--help_config"], f"{GIVE} (--help lists the presets)"),
        ("train", ["--help_config=rate"], f"{GIVE} (--help lists the presets)"),
        ("evaluate", ["--help_config", "--workdir=a"], "--help_config has no meaning for this command; leave it out"),
        ("train", ["--config"], "--config has no value; give --config=FILE.py:PRESET"),
        ("train", [f"{B}:tiny", "--workdir"], "--workdir has no value; give --workdir=DIRECTORY"),
        ("train", ["--workdir", f"{B}:tiny"], "--workdir has no value; give --workdir=DIRECTORY"),
        ("train", ["--config", "--workdir=a"], "--config has no value; give --config=FILE.py:PRESET"),
        ("predict", ["--text=a", "--workdir"], "--workdir has no value; give --workdir=DIRECTORY"),
        ("train", ["--workdir", "--nodistributed"], "--workdir has no value; give --workdir=DIRECTORY"),
        ("train", ["--workdir", "--config.model.d_model=3"], "--workdir has no value; give --workdir=DIRECTORY"),
        ("evaluate", ["--workdir=a", "--step"], "--step has no value; give --step=INTEGER"),
        ("train", ["--workdir=", f"{B}:tiny"], "flag --workdir=: expected a text, got an empty one"),
        ("train", ["--config=", "--workdir=a"], f"the config is an empty text; give --config=FILE.py:PRESET, such as {A}:tiny"),
        ("train", ["--config=no.py:tiny"], "the config file no.py is not there; --help lists those that are"),
        ("train", ["--config=causal_lm:tiny"], f"the config file causal_lm is not there; did you mean {A}?"),
        ("train", ["--config=experiments/configs"], "the config file experiments/configs is not there; --help lists those"),
        ("train", ["--config=no.py:tiny", "--help"], "the config file no.py is not there; --help lists those that are"),
        ("train", ["--config=no.py", "--config.model.d_model=3"], "the config file no.py is not there"),
        ("train", [f"{B}:huge", "--workdir=a"], "cannot load the config: preset must be one of ['tiny', "),
        ("train", [f"{B}:tiny", "--help_config=qqlearning_rate"], "no field has 'qqlearning_rate' in its name or in what is"),
        ("train", [f"{B}:tiny", "--help_config=a", "--config.model.d_modl=3"], "config.model has no field 'd_modl'; did"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_with_how_to_give_it(here, name, flags, said):
    """A newcomer would read of a flag's internals, or of a file that was taken for another flag's value."""
    result = here(name, *flags)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and result.stdout == ""
    assert result.stderr.startswith(f"error: {said}"), result.stderr


def test_a_text_may_begin_with_a_dash(here, monkeypatch):
    """A dash with which a text begins would be taken for a flag without its value."""
    module, asked = importlib.import_module("experiments.predict"), []
    monkeypatch.setattr(module, "main", lambda: asked.append(absl_flags.FLAGS["text"].value))
    for flags in (["--text", "- yes"], ["--text=--workdir"], ["--text", "--, he said"], ["--text", "--to be"]):
        assert here("predict", "--workdir=a", *flags).returncode == 0
    assert asked == ["- yes", "--workdir", "--, he said", "--to be"]


def test_a_config_whose_path_has_a_blank_can_be_pasted(tmp_path, here):
    """A path of two words would be two arguments."""
    (tmp_path / "my configs").mkdir()
    file = tmp_path / "my configs" / "mine.py"
    file.write_text((ROOT / A).read_text("utf-8"))
    words = shlex.split(examples(here("train", f"--config={file}:tiny", "--help").stdout)[-1])
    assert words[3:] == [f"--config={file}:tiny", "--help_config=rate"]


def test_a_sweep_lists_names(here, monkeypatch):
    """Names of sweeps would be read as one text."""
    module, asked = importlib.import_module("experiments.compare_sweeps"), []
    monkeypatch.setattr(module, "main", lambda: asked.append(module.SWEEPS.value))
    assert here("compare_sweeps", "--sweeps=a=b,c=d", "--by=x", "--picture=y").returncode == 0
    assert asked == [["a=b", "c=d"]]


# The fields of a config ------------------------------------------------------------------------


def test_help_config_comes_to_the_screen(command):
    """The command itself would show something else than its parts, or train."""
    config = f"{B}:tiny"
    whole = command("train", config, "--help_config")
    assert whole.returncode == 0 and "\ntraining: The `training` section" in whole.stdout and whole.stderr == ""
    for flags in (["--help_config=ADAMW"], ["--help_config", "adamw"]):
        some = command("inspect", config, *flags)
        assert some.returncode == 0 and "--config.optimizer.name=adamw" in some.stdout
        assert "training.steps" not in some.stdout


def test_schedules_and_sources_are_listed_as_choices(here):
    """A choice that a registry has would be found in the source alone."""
    page = " ".join(here("train", f"{B}:tiny", "--help_config").stdout.split())
    assert f"[one of {', '.join(SCHEDULES)}; default: rsqrt]" in page
    assert f"[one of {', '.join([*DOCUMENTS, MIXTURE])}]" in page
    for name, source in DOCUMENTS.items():
        assert f" {name} {summary(source)}" in page


def test_components_of_plugins_are_there(tmp_path, here):
    """An idea of one's own would have no help."""
    (tmp_path / "waves.py").write_text(
        "from tformer_jax.config import POSITIVE, field\nfrom tformer_jax.nn import POSITIONS, PositionScheme\n"
        '@POSITIONS.register("waves of help")\nclass Waves(PositionScheme):\n    """Waves of its own.\n\n'
        '    Attributes:\n      crest: how high they are.\n    """\n\n    crest: float = field(2.5, POSITIVE)\n\n'
        "    def turn(self, heads, positions):\n        return heads\n"
    )
    plugin, name = f"--plugin={tmp_path / 'waves.py'}", "--config.model.positions.name=waves of help"
    whole = here("train", plugin, f"{B}:tiny", "--help_config").stdout
    assert "waves of help\n            Waves of its own. Has crest." in whole and "positions.crest" not in whole
    some = here("train", plugin, f"{B}:tiny", "--help_config=CREST").stdout
    assert re.search(r"--config.model.positions.crest=2.5\n      how high they are. \[must be positive", some)
    chosen = here("train", plugin, f"{B}:tiny", name, "--config.model.positions.crest=3", "--help_config=crest").stdout
    assert re.search(r"^  --config.model.positions.crest=3.0\n", chosen, re.M) and "default: 2.5" in chosen
