"""What a module says of itself, against what it holds."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support import tiny_config

from tformer_jax import models, nn
from tformer_jax.presets import PRESETS

MODEL = {
    "transformer": models.Transformer, "gpt2": models.CausalLM, "llama": models.CausalLM, "bert": models.MaskedLM,
    "vit": models.VisionTransformer,
}  # fmt: skip


def shapes(cls, config):
    return jax.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0)))


def gpt(**fields):
    config = tiny_config("CausalLM", **fields)
    return models.CausalLM(config, rngs=nnx.Rngs(0))


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PRESETS)
def test_a_published_model_fits_a_screen(name):
    """Whoever prints a model would see pages of configs, and no total."""
    cls = MODEL[name.split("_")[0]]
    model = shapes(cls, cls.Config.preset(name))
    lines = repr(model).splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert lines[0] == f"{cls.__name__}: {size(model):,} parameters, float32"


def test_every_parameter_is_named_with_its_shape():
    """A parameter would be missing from the tree, or have another's shape; layers would be said for each."""
    text = repr(gpt(num_layers=3, d_model=16, num_heads=2, d_ff=24))
    assert re.search(r"layers: .*|decoder: Stack", text) and text.count("3 layers") == 1
    assert re.search(r"w_k w_q\s+w_v \[16 2 8\]|w_k w_q w_v \[16 2 8\]", text)
    assert "w_o [2 8 16]" in text and "w1 [16 24], w2 [24 16]" in text


def test_counts_of_parts_add_up():
    """A number beside a module would not be that of its parameters."""
    model = gpt(num_layers=3)
    (embedding,) = re.findall(r"embedding: Embedding +([\d,]+)", repr(model))
    (decoder,) = re.findall(r"decoder: Stack.*? +([\d,]+)(?:  |\n|$)", repr(model))
    number = lambda text: int(text.replace(",", ""))
    assert number(embedding) == size(model.embedding) and number(decoder) == size(model.decoder)


def test_layers_that_are_alike_are_said_once():
    """A model whose layers are apart, as for generation, would fill pages."""
    model = gpt(num_layers=4, pattern=({"attention": {"num_kv_heads": 1}}, {}))
    text = repr(nn.apart(model))
    assert "tail.0,2: EncoderLayer, 2 layers" in text and "tail.1,3: EncoderLayer, 2 layers" in text
    assert "tail.0-3: EncoderLayer, 4 layers" in repr(nn.apart(gpt(num_layers=4)))
    assert f"{size(model):,} parameters" in text


def test_weights_in_eight_bits_say_so():
    """Whoever has quantised a model could not see of what."""
    model = gpt(num_layers=2)
    text = repr(nn.with_weights(model, "int8"))
    assert text.startswith(f"CausalLM: {size(model):,} parameters, int8, float32\n") and "gamma [" in text
    assert re.search(r"beta gamma \[\d+\] float32", text)


def test_a_model_within_a_program_is_printed():
    """A print within jit, vmap or grad, where one looks for a fault, would fail itself."""
    model, told = gpt(num_layers=2), []

    def loss(model):
        told.append(repr(model))
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(model))

    jax.jit(loss)(model)
    jax.grad(loss)(model)
    assert set(told) == {repr(model)}
    jax.vmap(loss)(jax.tree.map(lambda x: x[None], model))
    assert told[-1] == repr(model)


@pytest.mark.parametrize("leaf", [None, "x", 3, object()], ids=lambda leaf: type(leaf).__name__)
def test_a_tree_of_anything_is_printed(leaf):
    """A message of JAX about a tree of the wrong things would end in another error."""
    assert repr(jax.tree.map(lambda x: leaf, gpt(num_layers=2))).startswith("CausalLM: 0 parameters")


def test_print_shows_the_same():
    """`print(model)` would show what `repr` no longer does."""
    model = gpt(num_layers=2)
    assert str(model) == repr(model)


class Own(nnx.Module):
    """A module that knows nothing of ours."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 6, rngs=rngs)
        self.several = nnx.List([nnx.Linear(4, 6, rngs=rngs) for _ in range(2)])


def test_modules_of_others_are_part_of_the_tree():
    """A layer of one's own, or one of Flax's, would be left out."""

    class Whole(nn.Module):
        def __init__(self):
            self.own = Own(nnx.Rngs(0))

    assert repr(Whole()).splitlines() == [
        "Whole: 90 parameters, float32",
        "  own: Own                         90",
        "    linear: Linear                 30  bias [6], kernel [4 6]",
        "    several.0-1: Linear, 2 layers  60  bias [6], kernel [4 6]",
    ]
