"""What cannot be, at every command line, in one process: one line that names the flag, field or file at fault."""

import re

import pytest

PRESETS = "experiments/configs"


@pytest.fixture
def refusal(here, tmp_path):
    """`refusal(name, arguments)`: what experiments.NAME ends with, on documents that are not there."""
    given = {
        "train": _flags(tmp_path),
        "sweep": _flags(tmp_path),
        "inspect": [f"--config={PRESETS}/causal_lm.py:tiny"],
        "evaluate": [f"--workdir={tmp_path}"],
        "predict": [f"--workdir={tmp_path}", "--text=a"],
        "export": [f"--workdir={tmp_path}", f"--to={tmp_path}/to", "--member=0"],
        "compare_sweeps": [f"--sweeps=a={tmp_path}", "--by=seed", f"--picture={tmp_path}/a.png"],
    }

    def refusal(name, arguments):
        result = here(name, *given[name], *arguments)
        assert not list(tmp_path.rglob("config.json")) and not list(tmp_path.rglob("sweep.json"))
        return result

    return refusal


def _flags(workdir):
    data = ("source=files", f"path={workdir}/documents")
    return [f"--config={PRESETS}/causal_lm.py:tiny", f"--workdir={workdir}/run", *(f"--config.data.{x}" for x in data)]


def each(command, names, values, prefix="--"):
    """Every flag with every value, and that the flag or field is to be named."""
    return [(command, [f"{prefix}{name}={value}"], name.split(".")[-1]) for name in names for value in values]


NO_COUNT = ["", "x", "²", "٣", "1.5", "nan", "inf", "-1", "99999999999999999999"]
NO_NUMBER = ["", "x", "²", "nan", "inf", "-inf", "1e999"]

FLAGS = [
    *each("sweep", ["halving", "first_rung", "together", "chunk", "trials", "search_seed"], NO_COUNT),
    *each("predict", ["top", "top_k", "max_new_tokens", "seed", "step"], NO_COUNT),
    *each("predict", ["temperature", "top_p", "min_p", "repetition_penalty"], NO_NUMBER),
    *each("predict", ["text", "input", "image", "workdir"], [""]),
    *each("predict", ["greedy", "slide"], ["x", ""]),
    *each("inspect", ["mfu", "peak_tflops"], [*NO_NUMBER, "0", "-1", "1e300", "1e-300"]),
    *each("inspect", ["device", "totals_only"], ["", "h10"]),
    *each("train", ["num_processes", "process_id"], NO_COUNT),
    *each("train", ["workdir", "coordinator", "wandb"], [""]),
    *each("train", ["profile"], ["", "x", "5", "5,", "0,5", "5,0", "-1,5", "1.5,2", "²,1", "5,5,5", "1,9999999999", "4000,2"]),
    *each("train", ["distributed", "dry_run"], ["x"]),
    *each("evaluate", ["step", "batches"], [*NO_COUNT, "0"]),
    *each("evaluate", ["split", "workdir"], [""]),
    *each("export", ["member"], NO_COUNT),
    *each("export", ["to", "workdir"], [""]),
    *each("sweep", ["sampler", "pruner", "storage", "study", "metric", "best", "engine", "sweep", "workdir"], [""]),
    *each("compare_sweeps", ["by", "picture", "metric", "best"], [""]),
    *each("compare_sweeps", ["sweeps"], ["", "a", "=", "a=", "=b"]),
]  # fmt: skip

COUNTS = ["training.steps", "training.accumulate", "checkpoint.every", "model.d_model", "data.batch_tokens"]
NUMBERS = [
    "optimizer.learning_rate",
    "optimizer.clip_norm",
    "model.dropout_rate",
    "task.z_loss",
    "model.positions.base",
]
FIELDS = [
    *each("train", COUNTS, [*NO_COUNT, "0", "2147483648", "None"], "--config."),
    *each("train", NUMBERS, [*NO_NUMBER, "-1"], "--config."),
    *each("train", ["training.patience"], [*NO_COUNT, "0"], "--config."),
    *each("train", ["training.patience_metric", "training.patience_best"], ["", "accuracy"], "--config."),
    *each("train", ["data.path", "task.name", "precision", "model.norm.name", "optimizer.name"], [""], "--config."),
    *each("train", ["training.seed", "data.seed", "data.order_seed"], ["-1", "4294967296", "x", "1.5"], "--config."),
    *each("train", ["parallel.data", "parallel.tensor"], ["0", "-2", "x", "99999999", "²"], "--config."),
    *each("train", ["model.num_layers"], ["1001", "100000000"], "--config."),
    *each("inspect", ["data.vocab_size"], ["1000001", "2000000000", "0", "-1"], "--config."),
    *each("train", ["precision"], ["x", "params=int8", "params", "params=float32,params=float32"], "--config."),
    *each("train", ["model.embedding_norm", "model.output.tie"], ["x", "2", "None"], "--config."),
]

UNKNOWN = [
    (
        "train",
        ["--config.model.vocab_size=5"],
        "config.model has no field 'vocab_size'; did you mean config.data.vocab_",
    ),
    ("train", ["--config.data.vocab_siz=5"], "config.data has no field 'vocab_siz'; did you mean 'vocab_size'"),
    ("train", ["--config.data.d_model=5"], "config.data has no field 'd_model'; did you mean config.model.d_model"),
    (
        "train",
        ["--config.model.patch_size=5"],
        "config.model has no field 'patch_size', which is for VisionTransformer",
    ),
    ("train", ["--config.modle.d_model=5"], "config has no field 'modle'; did you mean 'model'"),
    ("train", ["--config.model.d_model.x=5"], "config.model.d_model is no section: it has no field 'x'"),
    ("train", ["--config.training.steps"], "config.training.steps"),
    (
        "train",
        ["--config.training.patience=2", "--config.training.patience_metric=accuracy"],
        r"training.patience_metric must be one of \['loss', 'perplexity'\], got 'accuracy'",
    ),
    ("sweep", ["--config.training.patience=2", "--sweep=seed=0..3"], "training.patience must be None in a sweep"),
    ("sweep", ["--sweep=patience=1,2"], "training.patience must be None in a sweep"),
    ("train", ["--config=README.md"], "cannot load the config: README.md"),
    ("train", [f"--config={PRESETS}/causal_lm.py:tyni"], "got 'tyni'; did you mean 'tiny'"),
    ("train", ["--unknown=1"], "Unknown command line flag 'unknown'"),
    ("train", ["stray"], "unexpected arguments: stray"),
    ("inspect", ["--workdir=x"], "--workdir has no meaning for this command"),
    ("evaluate", [f"--config={PRESETS}/causal_lm.py:tiny"], "--config has no meaning for this command"),
    ("predict", ["--text=\udcff"], r"--text=\\udcff' is not UTF-8"),
    ("train", ["--config.data.path=a\0b"], "config.data.path=a.*NUL"),
    ("train", ["--workdir=/dev/null/run"], "cannot write to /dev/null/run"),
    ("evaluate", ["--workdir=README.md"], "README.md is not a run directory"),
    ("export", ["--workdir=README.md"], "README.md is not the directory of a sweep"),
]

CONFIGS = {  # what stands in a config file
    "def get_config(): return 1": "get_config.. of .*config.py must return a ConfigDict, got 1",
    "def get_config(): return {}": "must return a ConfigDict, got {}",
    "raise ValueError('one\\ntwo')": "cannot load the config: .*two",
    "def get_config(a, b): ...": "cannot load the config: .*missing 2 required",
    "get_config = 3": "cannot load the config: .*'int' object is not callable",
    "import nothing_at_all": "cannot load the config: ModuleNotFoundError",
    "def get_config(": "cannot load the config: SyntaxError",
}


def test_a_config_file_that_gives_none_is_one_line(refusal, tmp_path):
    """A user would read what a library says of it, or a part of that."""
    for content, wanted in CONFIGS.items():
        (tmp_path / "config.py").write_text(content)
        result = refusal("train", [f"--config={tmp_path}/config.py"])
        message, *more = result.stderr.splitlines()
        assert result.returncode == 1 and message.startswith("error: ") and not more
        assert re.search(wanted, message), message


BY_HAND = ["--num_processes=2", "--process_id=0"]
PROCESSES = [
    *(
        ("train", [f"--coordinator={x}", *BY_HAND], "--coordinator")
        for x in ("x", "a:b", ":1", "a:0", "a:99999", "a:²")
    ),
    *(("train", [flag], "go together") for flag in ("--coordinator=a:1", *BY_HAND)),
    ("train", ["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "--process_id .* below --num_processes=2"),
]

MESHES = [
    ("inspect", [f"--mesh={mesh}"], wanted)
    for mesh, wanted in {
        "data=99999999": "at most 2,048 devices",
        "data=2048,tensor=2": "at most 2,048 devices",
        "data=4,data=2": "--mesh has the axis data twice",
        "data=-1,fsdp=-1": "parallel.data and parallel.fsdp",
        "data=0": "parallel.data",
        "data=-2": "parallel.data",
        **dict.fromkeys(["", " ", "data", "data=", "=4", "x=4", "data=--4", "data=²", "data=٤", "data=1.5"], "--mesh"),
        **dict.fromkeys(["data=4,,", "data=4;fsdp=2", "data=nan", "data=99999999999999999999", "data = 4"], "--mesh"),
    }.items()
]

TOO_MANY = "a sweep may have 10,000"
SPACES = [
    ("sweep", [f"--sweep={space}"], wanted)
    for space, wanted in {
        "seed=0..99999999": TOO_MANY,
        "seed=5,0..99999999": TOO_MANY,
        "seed=0..999; learning_rate=log(1e-4,1e-2,999)": f"999,000 members, but {TOO_MANY}",
        ";".join(f"field{i}=0..99999999" for i in range(600)): TOO_MANY,
        "zip(seed=0..99999999; learning_rate=1,2)": TOO_MANY,
        "seed=0..9999 | seed=10000..10001": f"10,002 members, but {TOO_MANY}",
        "random(1000000; learning_rate=log(1e-4,1e-2))": TOO_MANY,
        "quasi_random(1000000; learning_rate=log(1e-4,1e-2))": TOO_MANY,
        "learning_rate=linear(0,1,99999999)": TOO_MANY,
        "learning_rate=log(1e-4,1,99999999)": TOO_MANY,
        "feed_forward.width=log(1..999999999,99999999)": TOO_MANY,
        f"seed=0..{'9' * 5000}": "seed: an integer may have 18 digits",
        f"random({'9' * 5000}; seed=0..1)": "random: an integer may have 18 digits",
        f"{'product(' * 500}seed=1{')' * 500}": "20 deep",
        f"seed={'[' * 500}1{']' * 500}": "20 deep",
        "learning_rate=linear(-1e308,1e308,3)": "too far apart",
        "learning_rate=log(1e-300,1e300,3)": "too far apart",
        **dict.fromkeys(["learning_rate=nan", "learning_rate=inf", "learning_rate=1e999"], "learning_rate"),
        **dict.fromkeys(["seed=²", "seed=٣..٥", "seed=1.5", "seed=True", "seed=-1..1", "seed=", "seed=1,1"], "seed"),
        "steps=100000000000000000000": "training.steps",
        "warmup_steps=99999": "optimizer.warmup_steps=99999 exceeds training.steps",
        "feed_forward.width=None": "feed_forward.width",
        "foo=1": "'foo'",
        "model.vocab_size=3": "did you mean 'data.vocab_size'",
        "freeze=['(a|a)*']": "optimizer.freeze.*repeats a group",
        "learning_rate_table=[['(a+)+',1.0]]": "optimizer.learning_rate_table.*repeats a group",
        "freeze=['.*.*.*.*.*']": "optimizer.freeze.*at most 4",
        f"freeze=['{'a' * 201}']": "optimizer.freeze.*200 characters",
        "freeze=['(?i)norm']": "optimizer.freeze",
        "=": "'='",
        "seed": "'seed'",
    }.items()
]  # fmt: skip

SEARCHES = [
    ("sweep", ["--sweep=seed=0..3", "--engine=search", *arguments], wanted)
    for arguments, wanted in [
        ([], "--trials"),
        (["--trials=2", "--chunk=2"], "--chunk"),
        (["--trials=2", "--sampler=cma-es"], "'cma-es': .*unpickles"),
        (["--trials=2", "--pruner=x"], "pruner"),
        (["--trials=2", "--storage=x"], "storage"),
        (["--trials=2", "--metric=x"], "metric"),
    ]
] + [
    ("sweep", ["--sweep=seed=0..3", *arguments], wanted)
    for arguments, wanted in [
        (["--halving=2"], "--first_rung"),
        (["--halving=1", "--first_rung=3"], "halving"),
        (["--halving=2", "--first_rung=99999"], "first_rung=99999 must be below training.steps"),
        (["--trials=2"], "--trials"),
    ]
]

CASES = [*FLAGS, *FIELDS, *UNKNOWN, *PROCESSES, *MESHES, *SPACES, *SEARCHES]


@pytest.mark.parametrize(
    ("command", "arguments", "wanted"), CASES, ids=[ascii(f"{name} {' '.join(given)}")[:70] for name, given, _ in CASES]
)
def test_what_cannot_be_is_one_line_that_names_it(refusal, command, arguments, wanted):
    """A user would read a traceback, wait for minutes, or train something else than what was typed."""
    result = refusal(command, arguments)
    message, *more = result.stderr.splitlines()
    assert result.returncode == 1 and message.startswith("error: ") and not more
    assert re.search(wanted, message)
