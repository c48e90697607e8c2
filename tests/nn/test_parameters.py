"""What parameters say that they are: kept through transformations, right for every model, read of what says nothing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import tiny_config

from tformer_jax import models
from tformer_jax.nn.parameters import ParameterInfo, described, kernel, ones, parameters, table, zeros

L, E, D, F = 2, 3, 4, 5


class Layer(nnx.Module):
    """Experts, a router, and modules of Flax that know nothing of axes."""

    def __init__(self, rngs):
        config = tiny_config()
        axes = {"experts": E, "model": D, "ff": F}
        self.experts = kernel(config, rngs, axes, contracted=["model"], batch=["experts"])
        self.router = kernel(config, rngs, {"model": D, "experts": E}, contracted=["model"])
        self.gain, self.bias = ones(config, {"model": D}), zeros(config, {"experts": E, "ff": F})
        self.table = table(config, rngs, {"vocab": 7, "model": D})
        self.linear = nnx.Linear(D, F, rngs=rngs)
        self.convolution = nnx.Conv(D, F, (3,), rngs=rngs)


def stack(key):
    return jax.vmap(lambda key: described(Layer(nnx.Rngs(key))))(jax.random.split(key, L))


SAID = {
    "experts": ((E, D, F), ("experts", "model", "ff"), ("model",), ("experts",), "hidden"),
    "router": ((D, E), ("model", "experts"), ("model",), (), "hidden"),
    "gain": ((D,), ("model",), (), (), "gain"),
    "bias": ((E, F), ("experts", "ff"), (), (), "bias"),
    "table": ((7, D), ("vocab", "model"), ("vocab",), (), "embedding"),
    "linear.kernel": ((D, F), ("inputs", "outputs"), ("inputs",), (), "hidden"),
    "linear.bias": ((F,), ("",), (), (), "bias"),
    "convolution.kernel": ((3, D, F), ("", "", ""), (), (), "hidden"),
    "convolution.bias": ((F,), ("",), (), (), "bias"),
}
MADE = {
    "made": lambda key: Layer(nnx.Rngs(key)),
    "jit": lambda key: jax.jit(lambda key: Layer(nnx.Rngs(key)))(key),
    "shapes": lambda key: jax.eval_shape(lambda: Layer(nnx.Rngs(key))),
    "gradients": lambda key: jax.grad(lambda m: sum(x.sum() for x in jax.tree.leaves(m)))(Layer(nnx.Rngs(key))),
    "stacked": stack,
    "stacked shapes": lambda key: jax.eval_shape(stack, key),
}


@pytest.mark.parametrize("how", MADE)
def test_a_parameter_says_what_it_is_whatever_is_done_to_it(how):
    """An axis of layers is taken for experts, a bias of a stack for a matrix, or what is said is lost on the way."""
    found, layers = parameters(MADE[how](jax.random.key(0))), (L,) if "stacked" in how else ()
    assert found == {path: ParameterInfo((*layers, *said[0]), *said[1:]) for path, said in SAID.items()}
    assert {info.stacked for info in found.values()} == {len(layers)}


SIZES = {
    "vocab": 13, "model": 12, "heads": 6, "kv_heads": 3, "head": 2, "ff": 20, "classes": 5, "position": 9, "types": 4,
    "buckets": 32, "pixels": 16 * 3, "embedding": 10,
}  # fmt: skip
TEXT = dict(vocab_size=13, max_length=9, positions="learned")
MODELS = {
    "Transformer": TEXT | dict(share_embeddings=False, tie_output=False, embedding_width=10),
    "CausalLM": dict(vocab_size=13, tie_output=False, positions="relative", gated=True, norm="rms", qk_norm=True),
    "MaskedLM": TEXT | dict(num_token_types=4, pooler=True, embedding_norm=True),
    "TextClassifier": TEXT | dict(pooler=True, num_classes=5, embedding_width=10, embedding_projection="last"),
    "VisionTransformer": dict(positions="learned", num_classes=5, pooling="mean", image_size=12, patch_size=4),
}


@pytest.mark.parametrize("model", MODELS)
def test_every_axis_of_a_model_is_what_its_name_says(model):
    """What is sharded, decays or learns more slowly would be another axis than the one that is meant."""
    shape = dict(d_model=12, num_heads=6, num_kv_heads=3, head_dim=2, d_ff=20, num_layers=7)
    config = tiny_config(model, **MODELS[model] | shape)
    made = jax.eval_shape(lambda: getattr(models, model)(config, rngs=nnx.Rngs(0)))
    for path, info in parameters(made).items():
        sizes = SIZES | {"ff": 12} if path.startswith(("transform.", "encoder.pooler.")) else SIZES
        layers = (7,) if re.search("attention|feed_forward", path) else ()
        assert (path, info.shape) == (path, (*layers, *(sizes[name] for name in info.axes)))


@pytest.mark.parametrize(
    ("axes", "contracted", "batch", "shape"),
    [("abc", "a", "", (5, 2, 3, 4)), ("abc", "ab", "", (2, 3, 4)), ("abc", "a", "b", (5, 2, 3, 4)),
     ("abcd", "c", "bd", (2, 3, 4, 5)), ("ab", "", "a", (5, 2, 3)), ("abc", "b", "c", (2, 3, 4))],
)  # fmt: skip
def test_matrices_are_those_of_each_layer_and_expert(axes, contracted, batch, shape):
    """A matrix would have entries of another one, or come back in another order."""
    info = ParameterInfo(shape, tuple(axes), tuple(contracted), tuple(batch), "hidden")
    x = np.random.default_rng(0).standard_normal(shape)
    found = info.as_matrices(jnp.asarray(x))
    outputs = "".join(a for a in axes if a not in contracted + batch)
    wanted = np.einsum(f"...{axes}->...{batch}{contracted}{outputs}", x)
    assert found.size == x.size and found.ndim == info.stacked + len(batch) + (2 if contracted else 1)
    np.testing.assert_array_equal(np.ravel(found), np.ravel(wanted.astype(np.float32)))
    np.testing.assert_array_equal(info.from_matrices(found), x.astype(np.float32))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(contracted=["modle"]), r"with the axes \['model', 'ff'\] has no axis 'modle'; did you mean 'model'\?"),
        (dict(contracted=["model"], batch=["experts"]), "has no axis 'experts'"),
        (dict(contracted=["model"], role="hiden"), "role .* must be one of .*, got 'hiden'; did you mean 'hidden'"),
    ],
)
def test_what_a_parameter_cannot_be_is_refused(how, message):
    """A misspelt axis would silently be of no use: whole on every device, and in no fan."""
    with pytest.raises(ValueError, match=message):
        kernel(tiny_config(), nnx.Rngs(0), {"model": D, "ff": F}, **how)


def test_a_parameter_in_two_places_is_refused():
    """A layer that ties two of its matrices would train two, which drift apart without a word."""

    class Tied(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(D, D, rngs=nnx.Rngs(0))
            self.kernel = self.linear.kernel

    with pytest.raises(ValueError, match="Tied holds one parameter as kernel and as linear.kernel"):
        described(Tied())
