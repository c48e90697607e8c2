"""Layers by pattern: the scan over periods and the tail against a loop, caches of several kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, block_sizes, by_day, equations, quick_jit, tiny_model

import tformer_jax.functional as F

TOKENS = jnp.array([[4, 8, 2, 6, 11, 5, 0, 9], [9, 2, 12, 7, 1, 10, 3, 8]])
LONG = jnp.asarray(np.random.default_rng(0).integers(0, 13, (2, 24)))
LOCAL = {"attention": {"window": 3}, "positions": {"base": 100.0}}
# Five layers: local, global, local, global, and local again in the tail.
ALTERNATING = dict(num_layers=5, pattern=(LOCAL, {}), positions="rotary", norm_position="pre", norm="rms")


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with block_sizes(3, 4):
        yield


def layers_in_order(stack):
    """Each layer, with its place in the pattern, taken out of what is stacked."""
    period = len(stack.layers)
    for i in range(stack.num_layers):
        repeat, place = divmod(i, period)
        whole = repeat < stack.num_layers // period
        yield jax.tree.map(lambda x, r=repeat: x[r], stack.layers[place]) if whole else stack.tail[place]


def unrolled(model, tokens):
    """Logits and streams by a loop over the layers, each called by itself."""
    x = model.positions(model.embedding(tokens))
    streams = []
    for layer in layers_in_order(model.decoder):
        x, _ = layer(x, mask=F.AttentionMask(causal=True), bias=None)
        streams.append(x)
    return model.logits(model.decoder.final_norm(x)), jnp.stack(streams)


@pytest.mark.parametrize("how", by_day([dict(remat="full"), dict(remat="dots", scan_unroll=2), {}], 0), ids=str)
def test_a_pattern_is_a_loop_over_its_layers_and_so_is_its_gradient(how):
    """A layer is skipped or elsewhere, a stream is captured out of order, or a gradient goes to another layer."""
    model = tiny_model("CausalLM", **ALTERNATING, **how)

    def scanned(model):
        logits, captured = model(TOKENS, capture=("residual",))
        return logits, captured["residual"]

    def both(model):
        def loss(run):
            return jax.value_and_grad(lambda m: (lambda found: (jnp.sin(found[0]).sum(), found))(run(m)), has_aux=True)

        return loss(scanned)(model), loss(lambda m: unrolled(m, TOKENS))(model)

    got, wanted = quick_jit(both)(model)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        assert_close(a, b, 1e-5, jax.tree_util.keystr(path))


def test_a_deeper_stack_is_no_larger_program():
    """Compilation would take as long as the model is deep: the period alone is in the program."""

    def size(depth):
        model = tiny_model("CausalLM", **ALTERNATING | dict(num_layers=depth, pattern=(LOCAL, {}, LOCAL)))
        return sum(1 for _ in equations(jax.make_jaxpr(jax.grad(lambda model: model(TOKENS).sum()))(model)))

    assert size(24) == size(6)


def test_each_kind_of_layer_has_the_slots_that_it_needs():
    """A ring is as long as the context, a global layer has one, or tokens that it cannot hold are taken."""
    model = tiny_model("CausalLM", **ALTERNATING, max_length=24)
    extend = quick_jit(lambda model, tokens, cache: model.extend(tokens, cache))
    cache, pieces = model.start_cache(2, 24, at_once=2), []
    assert [kind.slots for kind in (*cache.layers, *cache.tail)] == [4, 24, 4]
    for start in range(0, 24, 2):
        logits, cache = extend(model, LONG[:, start : start + 2], cache)
        pieces.append(logits)
    assert_close(np.concatenate(pieces, axis=1), quick_jit(lambda model: model(LONG))(model), 1e-5)
    with pytest.raises(ValueError, match=r"^3 tokens at once do not fit a ring of 4 slots .* at_once=2$"):
        model.extend(LONG[:, :3], cache)


def test_a_resized_cache_makes_rings_of_the_layers_with_a_window_alone():
    """Global layers forget a prompt's tokens, local ones keep all, or a ring for one token takes several."""
    model = tiny_model("CausalLM", **ALTERNATING, max_length=24)
    extend = quick_jit(lambda model, tokens, cache: model.extend(tokens, cache))
    prompt, filled = extend(model, LONG[:, :9], model.start_cache(2, 9))
    cache, pieces = filled.resized(24), [prompt]
    assert [kind.slots for kind in (*cache.layers, *cache.tail)] == [3, 24, 3]
    for t in range(9, 24):
        logits, cache = extend(model, LONG[:, t : t + 1], cache)
        pieces.append(logits)
    assert_close(np.concatenate(pieces, axis=1), quick_jit(lambda model: model(LONG))(model), 1e-5)
    with pytest.raises(ValueError, match=r"^2 tokens at once do not fit a ring of 3 slots"):
        model.extend(LONG[:, :2], cache)
    assert [kind.slots for kind in filled.resized(24, at_once=2).layers] == [4, 24]


@pytest.mark.parametrize("depth", [2, 3])
def test_a_stack_ends_in_a_norm_if_its_last_layer_does_not(depth):
    """The last stream goes to the output as it is, or is normed twice."""
    model = tiny_model("CausalLM", pattern=({}, {"layer": {"norm_position": "pre"}}), num_layers=depth)
    assert (model.decoder.final_norm is None) == (depth == 3)
