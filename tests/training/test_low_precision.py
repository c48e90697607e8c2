"""Parameters of 16 bits: what accumulates is float32, follows its recursion in float64, and keeps its dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support import by_day, optimizer_config, quick_jit

from tformer_jax.tasks import Task
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.optimizers import in_float32, make_optimizer
from tformer_jax.training.parallel import SplitBatch
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.run import Run
from tformer_jax.training.schedules import make_schedule
from tformer_jax.training.starts import pretrained_arrays
from tformer_jax.training.step import TrainState, make_train_step, moving_average

STEPS = 20_000
# Large gradients at first, then ones whose squares float16 does not have; all of them exact in 16 bits.
LARGE, SMALL = 1.0, 2.0**-14
OPTIMIZERS = ("adam", "adamw", "adafactor", "lion", "muon", "sgd")
DTYPES = ("bfloat16", "float16")
SIXTEEN = pytest.mark.parametrize("dtype", DTYPES)


def make_params(dtype):
    """A stack of two matrices, factored by Adafactor and for Muon, a table and a bias."""
    rng = np.random.default_rng(0)
    drawn = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    return {"layers": {"w": said(drawn(2, 128, 128)), "b": drawn(2, 3)}, "table": drawn(5, 3)}


def said(x, role="hidden"):
    """A matrix, or a stack of them."""
    return nnx.Param(x, axes=("a", "b"), contracted=("a",), batch=(), role=role)


def optimizer_of(name, **fields):
    read = {"momentum": 0.99} if name == "sgd" else {"b1": 0.99} if name != "adafactor" else {}
    read |= {"b2": 0.999} if name in ("adam", "adamw", "lion", "muon") else {}
    config = optimizer_config(**{"name": name, "learning_rate": 1e-3, "schedule": "constant"} | read | fields)
    return make_optimizer(config, make_schedule(config, STEPS))


def memory(state):
    """What an optimiser keeps, by the end of its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def gradient_at(t):
    """Of the t-th step, from 1, in any float dtype."""
    return jnp.where(t <= STEPS // 2, LARGE, SMALL)


@functools.cache
def recursions():
    """Each memory after all steps, in float64: of Adam's moments, Lion's, Muon's and SGD's, and of Adafactor."""
    kept = dict.fromkeys(("mean", "square", "lion", "sum", "adafactor"), 0.0)
    for t in range(1, STEPS + 1):
        g = LARGE if t <= STEPS // 2 else SMALL
        decay = 1 - t**-0.8
        kept["mean"] = 0.99 * kept["mean"] + 0.01 * g
        kept["square"] = 0.999 * kept["square"] + 0.001 * g**2
        kept["lion"] = 0.999 * kept["lion"] + 0.001 * g
        kept["sum"] = 0.99 * kept["sum"] + g
        kept["adafactor"] = decay * kept["adafactor"] + (1 - decay) * (g**2 + 1e-30)
    return kept


OF = {
    "adam": {".mu.": "mean", ".nu.": "square"},
    "adamw": {".mu.": "mean", ".nu.": "square"},
    "lion": {".mu.": "lion"},
    "muon": {".mu.": "mean", ".nu.": "square"},
    "sgd": {"trace": "sum"},
    "adafactor": {"w.0.v_row": "adafactor", "w.0.v_col": "adafactor", "b.0.v.": "adafactor", "table.0.v.": "adafactor"},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@SIXTEEN
def test_memory_follows_its_recursion_for_20_000_steps(name, dtype):
    """Moments stand still as soon as a step changes them by less than half a unit of the parameters' last place."""
    small = {"layers": {"w": (1, 2, 2), "b": (1, 2)}, "table": (2, 2)}
    if name == "adafactor":
        small["layers"]["w"] = (1, 128, 128)
    is_shape = lambda x: isinstance(x, tuple)
    params = jax.tree.map(lambda shape: jnp.ones(shape, dtype), small, is_leaf=is_shape)
    params["layers"]["w"] = said(params["layers"]["w"])
    optimizer, start = optimizer_of(name), params

    def body(t, state):
        gradients = jax.tree.map(lambda p: jnp.full(p.shape, gradient_at(t), p.dtype), params)
        return optimizer.update(gradients, state, start)[1]

    state = memory(quick_jit(lambda: jax.lax.fori_loop(1, STEPS + 1, body, optimizer.init(params)))())
    compared = 0
    for part, kind in OF[name].items():
        for path, x in state.items():
            if part in f".{path}." and x.size >= 2:
                np.testing.assert_allclose(x, recursions()[kind], rtol=2e-3, err_msg=path)
                compared += 1
    assert compared >= 3 and {x.dtype.name for x in state.values()} <= {"float32", "int32"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_row_without_gradient_is_not_moved(name):
    """A token that the batch lacks: 0 / (0 + eps) is NaN where float16 has no such eps."""
    params = {"table": said(jnp.ones((3, 4), jnp.float16), "embedding")}
    optimizer = optimizer_of(name)
    gradients = jax.tree.map(lambda x: jnp.zeros_like(x).at[0].set(0.5), params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)["table"][...]
    np.testing.assert_array_equal(new[1:], 1.0)
    assert (new[0] < 1.0).all()


# The moving average ----------------------------------------------------------------------------


@SIXTEEN
@pytest.mark.parametrize("decay", [0.99, 0.999, 0.99999])
def test_the_average_follows_its_recursion_for_20_000_steps(decay, dtype):
    """It stays where it started: its steps are too small for 16 bits."""
    params = {"w": jnp.ones(1, dtype)}
    start = in_float32({"w": jnp.full(1, 0.5, dtype)})
    average = jax.lax.fori_loop(0, STEPS, lambda i, a: moving_average(a, params, decay, i), start)
    wanted = 0.5
    for i in range(STEPS):
        wanted += (1 - min(decay, (1 + i) / (10 + i))) * (1.0 - wanted)
    np.testing.assert_allclose(average["w"], wanted, rtol=1e-4)


def test_an_average_of_16_bits_is_refused():
    """It would silently be the start for ever."""
    half = {"w": jnp.ones(1, jnp.bfloat16)}
    with pytest.raises(TypeError, match=r"average must be float32, got bfloat16; start it as in_float32\(model\)"):
        moving_average(half, half, 0.999, 0)


def test_a_run_starts_from_the_average_of_another_in_its_own_dtypes(tmp_path):
    """The float32 average of a run of 16 bits does not fit a model of 16 bits, or its last parameters are taken."""
    run = Run.start(tmp_path / "run", {})
    arrays = {"model.w": jnp.ones(2, jnp.bfloat16), "average.w": jnp.full(2, 1 / 3, jnp.float32), "step": jnp.int32(1)}
    with Checkpoints(run.checkpoints, CheckpointConfig(every=1)) as checkpoints:
        checkpoints.save(1, arrays, {})
    shapes = {"model.w": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}
    found = pretrained_arrays(run, shapes, Task(None))
    assert found.keys() == shapes.keys() and found["model.w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["model.w"], np.asarray(1 / 3, jnp.bfloat16))


# A step in every mode --------------------------------------------------------------------------

DEVICES = 2


def loss(params, batch, key):
    """Of any dtype: what a task returns is float32."""
    return sum(jnp.sum(x * batch["x"].mean()) for x in jax.tree.leaves(params)), batch["x"].sum(), {}


def program(name, dtype, numbers):
    """Whose step has everything that remembers."""
    decay = {} if name == "adam" else {"weight_decay": 0.1}
    optimizer = optimizer_config(
        name=name, learning_rate=1e-3, schedule="constant", clip_norm=1.0, freeze=("layers.b",), **decay
    )
    training = TrainingConfig(steps=9, evaluate_every=1, accumulate=2, average_decay=0.9, max_skipped=2)
    optimizer = optimizer.changed(**{n: x for n, x in numbers.items() if n != "average_decay"})
    training = training.changed(**{n: x for n, x in numbers.items() if n == "average_decay"})
    return Program(lambda rngs: make_params(dtype), loss, training, optimizer)


def stepped(mode, name, dtype):
    """The layout of a state before and after a step; nothing is computed."""
    key, rows = jax.random.key(0), 4

    def both(numbers, x):
        made = program(name, dtype, numbers)
        start = made.initial(key, {})
        if mode != "pmap":
            return start, made.step(start, {"x": x}, key)[0]
        batch = SplitBatch({"x": x.reshape(DEVICES, -1)}, rows)
        step = lambda arrays, batch: made.step(arrays, batch, key, "devices")[0]
        return start, jax.pmap(step, "devices", in_axes=(None, 0), out_axes=None, devices=jax.devices()[:DEVICES])(
            start, batch
        )

    if mode == "members":
        read = {"adafactor": [], "sgd": ["momentum"]}.get(name, ["b1"])
        numbers = {field: jnp.full(3, 0.5) for field in ("learning_rate", "clip_norm", "average_decay", *read)}
        return jax.eval_shape(jax.vmap(both, (0, None)), numbers, jnp.ones(rows))
    return jax.eval_shape(functools.partial(both, {}), jnp.ones(rows))


# All of them in bfloat16; what differs between the modes, of two optimisers; and one of the other kind.
MODES = [(mode, dtype, name) for mode in ("jit", "pmap", "members") for dtype in DTYPES for name in OPTIMIZERS]


@pytest.mark.parametrize(("mode", "dtype", "name"), by_day(MODES, *range(6), 8, 12, 14, 24, 26))
def test_a_step_leaves_every_dtype_as_it_was(mode, dtype, name):
    """A run's own checkpoint is refused, and the next step is another program; or memory has the parameters' dtype."""
    before, after = stepped(mode, name, dtype)
    assert {n: (x.shape, x.dtype) for n, x in after.items()} == {n: (x.shape, x.dtype) for n, x in before.items()}
    for path, x in before.items():
        kept = dtype if path.startswith("model.") else "int32" if x.dtype == jnp.int32 else "float32"
        assert x.dtype == kept, path


def test_an_optimiser_of_optax_keeps_the_dtypes_that_it_starts_with():
    """Gradients in float32 would make its memory of 16 bits another program's from the second step on."""
    params = make_params("bfloat16")
    optimizer = optax.adam(1e-3)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    step = make_train_step(loss, optimizer, lambda step: 1e-3, 2)
    after, _ = jax.eval_shape(step, state, {"x": jnp.ones(4)}, jax.random.key(0))
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


@SIXTEEN
def test_parts_add_up_in_float32(dtype):
    """Of 512 parts the gradient stops at that of 256, in bfloat16, or is a TypeError."""
    params, parts, descent = {"w": jnp.zeros(1, dtype)}, 512, optax.sgd(1.0)

    def sum_of(params, batch, key):
        return (params["w"].astype(jnp.float32) * batch["x"]).sum(), jnp.float32(1.0), {}

    step = quick_jit(make_train_step(sum_of, descent, lambda step: 1.0, parts))
    start = TrainState(jnp.int32(0), params, descent.init(params))
    state, metrics = step(start, {"x": jnp.ones(parts)}, jax.random.key(0))
    assert float(metrics["gradient_norm"]) == 1.0
    np.testing.assert_array_equal(state.model["w"], -1.0)


def test_an_update_is_rounded_once():
    """The new parameter is that of float32, rounded; twice rounded, it is another in one of some cases."""
    params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal(1000), jnp.bfloat16)}
    gradient = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    descent = optax.sgd(0.1)

    def linear(params, batch, key):
        return (params["w"].astype(jnp.float32) * gradient).sum(), jnp.float32(1.0), {}

    step = jax.jit(make_train_step(linear, descent, lambda step: 0.1))
    state, _ = step(TrainState(jnp.int32(0), params, descent.init(params)), {"x": jnp.ones(1)}, jax.random.key(0))
    rounded = gradient.astype(jnp.bfloat16).astype(np.float32)  # a gradient has its parameter's dtype
    wanted = (np.asarray(params["w"], np.float32) - np.float32(0.1) * rounded).astype(jnp.bfloat16)
    np.testing.assert_array_equal(state.model["w"], wanted)
