"""A parameter that nobody foresaw, of experts and of Flax's own modules, trains on every mesh as on one device."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from support import by_day, optimizer_config, tiny_config, unchecked_annotations

from tformer_jax.config import ConfigError
from tformer_jax.nn.parameters import described, kernel, zeros
from tformer_jax.training.parallel import ParallelConfig
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.trainer import Trainer

LAYERS, E, D, F = 2, 4, 8, 16


class Mixture(nnx.Module):
    """Every expert's output, weighted by a router; then a layer of Flax."""

    def __init__(self, rngs):
        config = tiny_config()
        inner, outer = {"experts": E, "model": D, "ff": F}, {"experts": E, "ff": F, "model": D}
        self.w_in = kernel(config, rngs, inner, contracted=["model"], batch=["experts"])
        self.w_out = kernel(config, rngs, outer, contracted=["ff"], batch=["experts"], residual=True)
        self.b_in = zeros(config, {"experts": E, "ff": F})
        self.router = kernel(config, rngs, {"model": D, "experts": E}, contracted=["model"])
        self.linear = nnx.Linear(D, D, rngs=rngs)

    def __call__(self, x):
        hidden = jnp.tanh(jnp.einsum("BD,EDF->BEF", x, self.w_in[...]) + self.b_in[...])
        outputs = jnp.einsum("BEF,EFD->BED", hidden, self.w_out[...])
        return x + self.linear(jnp.einsum("BE,BED->BD", jax.nn.softmax(x @ self.router[...]), outputs))


class Model(nnx.Module):
    def __init__(self, rngs):
        keys = jax.random.split(rngs.params(), LAYERS)
        self.layers = jax.vmap(lambda key: described(Mixture(nnx.Rngs(key))))(keys)

    def __call__(self, x):
        return jax.lax.scan(lambda x, layer: (layer(x), None), x, self.layers)[0]


def loss(model, batch, key):
    return jnp.square(model(batch["x"]) - batch["y"]).mean(), jnp.float32(len(batch["x"])), {}


class Rows:
    def batch(self, i):
        rng = np.random.default_rng(i)
        return {name: rng.standard_normal((16, D)).astype(np.float32) for name in ("x", "y")}


def trainer(name="muon", table=(), **sizes):
    decay = {} if name == "optax.lamb" else {"weight_decay": 0.1}
    optimizer = optimizer_config(name=name, learning_rate=0.02, schedule="constant", **decay)
    parallel = ParallelConfig(sharding_table=table, **{"data": 1} | sizes)
    return Trainer(Program(Model, loss, TrainingConfig(steps=4, evaluate_every=4), optimizer), parallel)


@functools.cache
def curve(name="muon", **sizes):
    """The losses of four steps, and the parameters after them."""
    made = trainer(name, **sizes)
    with unchecked_annotations():
        arrays, placed, losses = made.initial(), made.placed(Rows()), []
        for i in range(4):
            arrays, metrics = made.step(arrays, placed.batch(i))
            losses.append(float(metrics["loss"]))
    return losses, {path: np.asarray(x) for path, x in arrays.items() if path.startswith("model.")}


MESHES = [dict(zip(("data", "fsdp", "tensor", "sequence"), sizes, strict=True))
          for sizes in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(sizes) == 8]  # fmt: skip


@pytest.mark.parametrize("sizes", by_day(MESHES, 6), ids=str)
def test_it_trains_on_every_mesh_as_on_one_device(sizes):
    """Its axes would be taken for others, the state not fit its devices, or an expert see another's update."""
    (losses, after), (wanted, alone) = curve(**sizes), curve()
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    for path, x in alone.items():
        np.testing.assert_allclose(after[path], x, rtol=1e-2, atol=1e-3, err_msg=path)
    assert wanted[-1] < wanted[0]


@pytest.mark.parametrize("name", by_day(["adafactor", "lion", "sgd", "optax.lamb"], 0))
def test_every_optimizer_trains_it(name):
    """An optimiser would know the matrices of a Transformer alone."""
    np.testing.assert_allclose(curve(name, fsdp=2, tensor=4)[0], curve(name)[0], rtol=1e-4)


def test_experts_lie_on_devices_of_their_own_and_what_is_unknown_everywhere():
    """Every device would hold all experts, or a foreign matrix be split where nobody knows its axes."""
    specs = {path.removeprefix("model.layers."): s.spec for path, s in trainer(fsdp=2, tensor=4).shardings.items()}
    assert {path: tuple(specs[path]) for path in ("w_in", "w_out", "b_in", "router", "linear.kernel")} == {
        "w_in": (None, "tensor", "fsdp", None), "w_out": (None, "tensor", None, "fsdp"),
        "b_in": (None, "tensor", None), "router": (None, "fsdp", "tensor"), "linear.kernel": (),
    }  # fmt: skip


def test_the_users_table_lays_out_what_is_unknown():
    """A foreign matrix would have to stay whole on every device, however large."""
    table = ((r"layers\.linear\.kernel", ("fsdp", "tensor")),)
    made = trainer(table=table, fsdp=2, tensor=4)
    assert made.shardings["model.layers.linear.kernel"].spec == P(None, "fsdp", "tensor")
    with pytest.raises(ConfigError, match=r"^parallel\.sharding_table: no parameter is left for 'linear'"):
        trainer(table=(("linear", ("fsdp",)),))
    with pytest.raises(ConfigError, match=r"^sharding_table: the value of 'w' must be a tuple of mesh axes"):
        ParallelConfig(sharding_table=(("w", ("fspd",)),))
