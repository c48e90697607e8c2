"""What a user registers, in every model: attention, norm, positions, feed-forward network and layer of a test's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import assert_close, by_day, normal, quick_jit, registered, tiny_model

import tformer_jax.functional as F
from tformer_jax import nn
from tformer_jax.analysis.flops import stack_flops
from tformer_jax.config import POSITIVE, ConfigError, field


class MeanConfig(nn.AttentionConfig):
    """Attention without scores: the mean of the tokens that the mask shows, times a gain."""

    def make(self, model, *, rngs):
        return Mean(model)

    def start_cache(self, model, layers, batch_size, slots, at_once=None):
        return nn.KVCache.empty((*layers, batch_size, slots, 1, model.d_model), model.dtypes.compute)


class Mean(nnx.Module):
    def __init__(self, model):
        self.gain = nn.ones(model, {"model": model.d_model})

    def keys_values(self, memory):
        return memory

    def __call__(self, x, context=None, *, mask=None, bias=None, cache=None, key=None, weights=False):
        seen = (x if context is None else context)[:, :, None]  # [B S 1 D]
        if cache is not None:
            cache = cache.write(seen, seen)
            seen, mask = cache.values, mask.placed(key_positions=cache.positions)
        means = F.scaled_dot_product_attention(jnp.zeros_like(x)[:, :, None], seen, seen, mask=mask)
        return nn.Attended(means[:, :, 0] * self.gain[...], cache)


class MeanSizeConfig(nn.NormConfig):
    """Division by the mean of absolute values."""

    def make(self, model, axes=None):
        return MeanSize(model, axes or {"model": model.d_model})


class MeanSize(nnx.Module):
    def __init__(self, model, axes):
        self.gain = nn.ones(model, axes)

    def __call__(self, x):
        return x / (1.0 + jnp.abs(x).mean(-1, keepdims=True)) * self.gain[...]


class RampConfig(nn.PositionScheme):
    """A vector that is learned, times the position."""

    slope: float = field(0.1, POSITIVE)

    def at_embedding(self, model, *, rngs):
        return Ramp(self, model)

    def at_patches(self, model, grid, extra, *, rngs):
        return PatchRamp(self, model)


class Ramp(nnx.Module):
    def __init__(self, config, model):
        self.config, self.direction = config, nn.ones(model, {"model": model.d_model})

    def __call__(self, x, positions):
        return x + self.config.slope * positions[..., None] * self.direction[...]


class PatchRamp(Ramp):
    def __call__(self, x, first):
        x = super().__call__(x, jnp.arange(x.shape[1]))
        return x if first is None else jnp.concatenate([first, x], axis=1)

    def resized(self, grid):
        return self


class TaxedConfig(nn.FeedForwardConfig):
    """x W, and what it costs: a number that is learned."""

    def make(self, model, *, rngs):
        return Taxed(model, rngs)


class Taxed(nnx.Module):
    def __init__(self, model, rngs):
        axes = {"model": model.d_model, "own": model.d_model}
        self.w = nn.kernel(model, rngs, axes, contracted=["model"])
        self.tax = nn.zeros(model, {"own": 1})

    def __call__(self, x, *, key=None):
        return x @ self.w[...], {"tax": self.tax[...].sum(), "twice": 2 * self.tax[...].sum()}


class PlainLayerConfig(nn.LayerConfig):
    """One norm; attention, memory and feed-forward network added up."""

    def make(self, model, *, cross, rngs):
        return PlainLayer(model, cross, rngs)


class PlainLayer(nnx.Module):
    def __init__(self, model, cross, rngs):
        self.attention, self.norm = model.attention.make(model, rngs=rngs), model.norm.make(model)
        self.cross_attention = model.attention.make(model, rngs=rngs) if cross else None
        self.feed_forward = model.feed_forward.make(model, rngs=rngs)

    def __call__(
        self, x, memory=None, *, mask, memory_mask=None, bias=None, cache=None, key=None, capture=()
    ):  # fmt: skip
        inner = self.norm(x)
        attended = self.attention(inner, mask=mask, bias=bias, cache=cache)
        if memory is not None:
            x = x + self.cross_attention(inner, memory, mask=memory_mask).output
        update, losses = self.feed_forward(inner)
        x = x + attended.output + update
        return x, nn.LayerOutput(attended.cache, {name: x for name in capture}, losses)


@pytest.fixture(autouse=True, scope="module")
def ideas():
    things = [
        (nn.ATTENTIONS, "mean", MeanConfig), (nn.NORMS, "size", MeanSizeConfig), (nn.POSITIONS, "ramp", RampConfig),
        (nn.FEED_FORWARDS, "taxed", TaxedConfig), (nn.LAYERS, "plain", PlainLayerConfig),
    ]  # fmt: skip
    with registered(things):
        yield


OURS = {
    "attention": {"name": "mean"}, "norm": {"name": "size"}, "positions": {"name": "ramp"},
    "feed_forward": {"name": "taxed"}, "layer": {"name": "plain"},
}  # fmt: skip
TOKENS, OTHERS = jnp.array([[4, 8, 2, 6, 11], [9, 2, 12, 7, 1]]), jnp.array([[1, 5, 0], [3, 10, 10]])
IMAGES = normal(0, 2, 8, 8, 3)
CALLS = {
    "Transformer": lambda model, **how: model(TOKENS, OTHERS, **how),
    "CausalLM": lambda model, **how: model(TOKENS, **how),
    "MaskedLM": lambda model, **how: model(TOKENS, **how),
    "TextClassifier": lambda model, **how: model(TOKENS, **how),
    "VisionTransformer": lambda model, **how: model(IMAGES, **how),
}


def taxes(model):
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return sum(np.sum(x) for path, x in leaves if "tax" in jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", by_day(CALLS, 0, 1))
def test_every_model_is_made_of_what_is_registered(name):
    """A model does not take a component of one's own, or one of its parameters does not learn."""
    pattern = ({}, {"feed_forward": {"name": "mlp", "width": 5}, "layer": {"name": "transformer"}})
    model = tiny_model(name, **OURS, num_layers=3, pattern=pattern)
    gradient = quick_jit(jax.grad(lambda model: jnp.sin(CALLS[name](model)).sum()))(model)
    for path, x in jax.tree_util.tree_leaves_with_path(gradient):
        learns = np.abs(x).max() > 0
        assert np.isfinite(x).all() and learns != ("tax" in jax.tree_util.keystr(path)), jax.tree_util.keystr(path)


def test_cached_decoding_is_the_whole():
    """A cache is not that of the attention of one's own, or is not handed to it."""
    model = tiny_model("CausalLM", **OURS)

    def both(model):
        cache, pieces = model.start_cache(2, 5), []
        for start, stop in ((0, 3), (3, 4), (4, 5)):
            logits, cache = model.extend(TOKENS[:, start:stop], cache)
            pieces.append(logits)
        return jnp.concatenate(pieces, axis=1), model(TOKENS)

    assert_close(*quick_jit(both)(model), 1e-5)


@pytest.mark.parametrize("how", by_day([dict(remat="full", num_layers=5), dict(scan_unroll=2, num_layers=4)], 0))
def test_auxiliary_losses_are_summed_over_all_layers(how):
    """The loss of a layer, of the scan or of the tail, is lost, counted twice, or has no gradient."""
    model = tiny_model("CausalLM", **OURS, pattern=({}, {"attention": {"name": "multi_head", "num_heads": 2}}), **how)

    def cost(model):
        losses = model.hidden(TOKENS)[1].losses
        return losses["tax"], losses

    gradient, losses = quick_jit(jax.grad(cost, has_aux=True))(model)
    assert_close(losses["tax"], taxes(model), 1e-6)
    assert_close(losses["twice"], 2 * taxes(model), 1e-6)
    assert taxes(gradient) == how["num_layers"]


def test_losses_of_both_stacks_are_handed_out():
    """The encoder's losses, or the decoder's, do not come out of `encode` and `hidden`."""
    model = tiny_model("Transformer", **OURS, num_decoder_layers=3)

    def losses(model):
        memory, encoder = model.encode(TOKENS)
        return encoder.losses["tax"], model.hidden(OTHERS, memory)[1].losses["tax"]

    found = quick_jit(losses)(model)
    for got, stack in zip(found, (model.encoder, model.decoder), strict=True):
        assert_close(got, taxes(stack), 1e-6)


def test_attention_without_heads_costs_no_scores_and_has_no_biases_by_head():
    """FLOPs are counted of heads that are not there, or positions that need heads fail without a reason."""
    model = tiny_model("CausalLM", **OURS)
    assert stack_flops(model.config, 2, 1, 10) == 2 * 2 * 10 * 8 * 8  # W of two layers, ten tokens
    for scheme in ("alibi", "relative"):
        with pytest.raises(ConfigError, match=f"positions.name='{scheme}' .*: attention.name='mean' has no num_heads"):
            tiny_model("CausalLM", **OURS | {"positions": {"name": scheme}})


class CentredConfig(nn.MultiHeadAttention):
    """Multi-head attention whose queries have a layer norm, and keys none."""

    def make(self, model, *, rngs):
        return Centred(model, rngs=rngs)


class Centred(nn.Attention):
    def __init__(self, model, *, rngs):
        super().__init__(model, rngs=rngs)
        self.q_norm = nn.NORMS["layer"]().make(model, {"head": model.attention.head_width(model.d_model)})


def test_another_norm_of_queries_is_a_subclass():
    """Attention could not be given the norm of queries that a config does not have, or would not use it."""
    with registered([(nn.ATTENTIONS, "centred", CentredConfig)]):
        model = tiny_model("CausalLM", attention={"name": "centred"})
        gradient = quick_jit(jax.grad(lambda model: jnp.sin(model(TOKENS)).sum()))(model)
        layer, slope = model.decoder.layers[0], gradient.decoder.layers[0].attention.q_norm
        assert layer.attention.k_norm is None
        assert all(np.abs(x[...]).max() > 0 for x in (slope.gamma, slope.beta))
