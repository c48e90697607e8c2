"""Checkpoints: bit-exact, unharmed by donation, few, safe, and refused where they do not fit."""

import ast
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import by_day, looks_pickled

from tformer_jax.config import ConfigError, build
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints

ROOT = Path(__file__).parents[2]
CONFIG = {"model": {"d_model": 8}, "precision": "params=float32"}


def make_arrays(seed=0, rows=5):
    """Every dtype that a state has, with the values that text or a cast would lose."""
    rng = np.random.default_rng(seed)
    special = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 1 / 3]
    return {
        "step": jnp.int32(2**31 - 1 - seed),
        "model.decoder.layers.w_q": jnp.asarray(rng.standard_normal((rows, 3, 2)), jnp.float32),
        "model.special": jnp.asarray(special, jnp.float32),
        "model.half": jnp.asarray(rng.standard_normal(7), jnp.bfloat16),
        "optimizer.0.mu.table": jnp.asarray(rng.standard_normal((2, 4)), jnp.float32),
        "optimizer.0.count": jnp.int32(seed),
    }


def shapes_of(arrays):
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}


def bits(arrays):
    return {name: (x.shape, str(x.dtype), np.asarray(x).tobytes()) for name, x in arrays.items()}


def open_checkpoints(directory, keep=2):
    return Checkpoints(directory, CheckpointConfig(every=1, keep=keep))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the checkpoints of steps 1 to 4, of which two are kept."""
    directory = tmp_path_factory.mktemp("checkpoints")
    with open_checkpoints(directory) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, make_arrays(step), CONFIG)
    return directory


def test_arrays_come_back_bit_for_bit(saved):
    """A resumed run would start from other parameters."""
    with open_checkpoints(saved) as checkpoints:
        restored = checkpoints.restore(4, shapes_of(make_arrays()))
    assert bits(restored) == bits(make_arrays(4))


def test_only_the_newest_are_kept(saved):
    """The disk would fill up, or the newest checkpoint would be the one that goes."""
    assert sorted(int(d.name) for d in saved.iterdir() if d.name.isdigit()) == [3, 4]


def test_an_older_one_that_is_kept_can_be_restored(saved):
    """All steps would give the newest arrays."""
    with open_checkpoints(saved) as checkpoints:
        assert bits(checkpoints.restore(3, shapes_of(make_arrays()))) == bits(make_arrays(3))


def test_the_newest_is_known_after_reopening(saved, tmp_path):
    """A run would start from scratch, or resume from a step that is not there."""
    with open_checkpoints(saved) as checkpoints, open_checkpoints(tmp_path / "new") as none:
        assert (checkpoints.latest, none.latest) == (4, None)


def test_the_config_lies_beside_the_arrays(saved):
    """A checkpoint copied elsewhere would not say what it is a checkpoint of."""
    (file,) = [f for f in (saved / "4" / "config").rglob("*") if f.is_file() and f.read_bytes()[:1] == b"{"]
    assert json.loads(file.read_text()) == CONFIG


def test_saving_a_step_again_keeps_the_first(saved):
    """Reopening a finished run would rewrite, or fail on, the checkpoint that it has."""
    with open_checkpoints(saved) as checkpoints:
        checkpoints.save(4, make_arrays(99), CONFIG)
        assert bits(checkpoints.restore(4, shapes_of(make_arrays()))) == bits(make_arrays(4))


def test_training_on_does_not_change_what_is_being_saved(tmp_path):
    """The next step reuses the buffers while they are still being written: the checkpoint would hold later values."""
    step = jax.jit(lambda arrays: jax.tree.map(lambda x: x + 1, arrays), donate_argnums=0)
    start = {f"w{i}": np.random.default_rng(i).standard_normal((512, 512)).astype(np.float32) for i in range(8)}
    arrays = step({name: jnp.asarray(x - 1) for name, x in start.items()})
    wanted = {name: np.array(x) for name, x in arrays.items()}
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays, CONFIG)
        for _ in range(20):
            arrays = step(arrays)
        jax.block_until_ready(arrays)
    with open_checkpoints(tmp_path) as checkpoints:
        assert bits(checkpoints.restore(1, shapes_of(wanted))) == bits(wanted)


def changed(**changes):
    """The shapes of `make_arrays` with some replaced, or left out where None."""
    return {name: x for name, x in (shapes_of(make_arrays()) | changes).items() if x is not None}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            changed(**{"model.decoder.layers.w_q": jax.ShapeDtypeStruct((5, 3, 9), jnp.float32)}),
            r"model\.decoder\.layers\.w_q: float32 \(5, 3, 2\) in the checkpoint, float32 \(5, 3, 9\) in the model",
        ),
        (changed(**{"model.half": None}), r"model\.half: bfloat16 \(7,\) in the checkpoint, absent in the model"),
        (
            changed(**{"model.new": jax.ShapeDtypeStruct((3,), jnp.float32)}),
            r"model\.new: absent in the checkpoint, float32 \(3,\) in the model",
        ),
        (changed(**{"model.half": jax.ShapeDtypeStruct((7,), jnp.float32)}), r"model\.half: .*bfloat16.*float32"),
    ],
    ids=["shape", "missing", "new", "dtype"],
)
def test_a_checkpoint_of_another_model_is_refused_by_array(saved, shapes, message):
    """Parameters would be cut, cast, left at their initial values, or the error would be the library's own."""
    with open_checkpoints(saved) as checkpoints, pytest.raises(ConfigError, match=message):
        checkpoints.restore(4, shapes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every": 0}, r"checkpoint\.every must be a positive integer, got 0"),
        ({"keep": 0}, r"checkpoint\.keep must be a positive integer, got 0"),
        ({"keep_every": 0}, r"checkpoint\.keep_every must be a positive integer, got 0"),
        ({"keep_best": -1}, r"checkpoint\.keep_best must not be negative, got -1"),
        ({"keep_best": 1, "best": "lowes"}, r"checkpoint\.best must be one of .*got 'lowes'; did you mean 'lowest'"),
        ({"every": 4, "keep_every": 6}, r"checkpoint\.keep_every=6 must be a multiple of every=4"),
        ({"best_metric": "accuracy"}, r"checkpoint\.best_metric goes with keep_best, which is 0"),
        ({"best": "highest"}, r"checkpoint\.best goes with keep_best, which is 0"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """No checkpoint would be written, none kept, or a wish for the best ones be ignored."""
    with pytest.raises(ConfigError, match=message):
        build(CheckpointConfig, {"every": 1} | fields, "checkpoint")


# Which are kept --------------------------------------------------------------------------------

# Of each step, what a validation says; None: there is none.
LOSSES = {1: 5.0, 2: 1.0, 3: None, 4: 3.0, 5: 2.0, 6: None, 7: 4.0, 8: None}


def save_all(directory, losses, reopened=False, **config):
    """The steps that are left when all have been saved, one after the other; `reopened`: by as many processes."""
    config = CheckpointConfig(every=1, **config)
    lives = [[step] for step in losses] if reopened else [list(losses)]
    for life in lives:
        with Checkpoints(directory, config) as checkpoints:
            for step in life:
                metrics = None if losses[step] is None else {"loss": losses[step], "accuracy": -losses[step]}
                checkpoints.save(step, {"step": jnp.int32(step)}, CONFIG, metrics)
    with Checkpoints(directory, config, read_only=True) as checkpoints:
        return checkpoints.steps


POLICIES = {
    "the newest": ({"keep": 3}, [6, 7, 8]),
    "the lowest": ({"keep": 1, "keep_best": 2}, [2, 5, 8]),
    "the highest": ({"keep": 1, "keep_best": 2, "best": "highest"}, [1, 7, 8]),
    "by another metric": ({"keep": 1, "keep_best": 1, "best_metric": "accuracy", "best": "highest"}, [2, 8]),
    "the best beside the newest": ({"keep": 2, "keep_best": 1, "best": "highest"}, [1, 7, 8]),
    "some for ever": ({"keep": 1, "keep_every": 3}, [3, 6, 8]),
    "all together": ({"keep": 1, "keep_best": 1, "keep_every": 4}, [2, 4, 8]),
}


@pytest.mark.parametrize("reopened", [False, True], ids=["one process", "resumed at every step"])
@pytest.mark.parametrize("name", by_day(POLICIES, 1, 3, 6))
def test_the_checkpoints_that_are_kept_are_those_asked_for(tmp_path, name, reopened):
    """The best checkpoint would be deleted, also after a resume; or the disk would fill up."""
    config, wanted = POLICIES[name]
    assert save_all(tmp_path, LOSSES, reopened, **config) == wanted


def test_a_step_without_a_validation_is_none_of_the_best(tmp_path):
    """Checkpoints that nobody has compared would be kept as the best, as long as there are few."""
    assert save_all(tmp_path, {1: None, 2: 1.0, 3: None}, keep=1, keep_best=3) == [2, 3]


@pytest.mark.parametrize("best", ["lowest", "highest"])
def test_a_validation_that_is_not_a_number_is_none_of_the_best(tmp_path, best):
    """One NaN would upset the order, and the best checkpoint be deleted for a worse one."""
    losses = {1: 1.0, 2: np.nan, 3: 2.0, 4: np.nan, 5: 1.5, 6: None}
    wanted = {"lowest": [1, 6], "highest": [3, 6]}[best]
    assert save_all(tmp_path, losses, keep=1, keep_best=1, best=best) == wanted


def test_the_best_accuracy_is_the_highest(tmp_path):
    """Who asks for the best accuracy, and says no more, would keep the worst model."""
    assert save_all(tmp_path, {1: 0.2, 2: 0.9, 3: 0.5}, keep=1, keep_best=1, best_metric="accuracy") == [1, 3]


def test_a_best_metric_that_is_not_validated_is_refused(tmp_path):
    """A misspelt metric would keep any checkpoint; what there is to choose from is named."""
    config = CheckpointConfig(every=1, keep_best=1, best_metric="acuracy")
    message = r"checkpoint\.best_metric='acuracy' is no metric of the validation, only loss, accuracy"
    with Checkpoints(tmp_path, config) as checkpoints:
        with pytest.raises(ConfigError, match=message):
            checkpoints.save(1, {"step": jnp.int32(1)}, CONFIG, {"loss": 1.0, "accuracy": 0.5})
        assert checkpoints.steps == []


# Safety ----------------------------------------------------------------------------------------


def test_the_check_for_pickles_finds_them():
    """The next test would find nothing whatever there is."""
    import pickle

    assert all(looks_pickled(pickle.dumps({"a": 1}, protocol=p)) for p in range(pickle.HIGHEST_PROTOCOL + 1))


def test_nothing_in_a_checkpoint_is_a_pickle(saved):
    """Loading a checkpoint from someone else could run their code."""
    files = [file for file in saved.rglob("*") if file.is_file()]
    assert len(files) > 4
    assert [str(file) for file in files if looks_pickled(file.read_bytes())] == []


def test_no_code_here_reads_pickles():
    """A module would load what can run code: none imports a pickler or allows NumPy to use one."""
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for file in [*(ROOT / "tformer_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [node.arg or ""] if isinstance(node, ast.keyword) else []
            assert forbidden.isdisjoint(name.split(".")[0] for name in names), file
            assert "allow_pickle" not in names, file
