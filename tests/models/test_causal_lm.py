"""The causal language model: against its formulas in float64, causality, cached against uncached, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import (
    assert_close,
    block_sizes,
    by_day,
    quick_jit,
    tiny_config,
    tiny_model,
    unchecked_annotations,
    with_leaf,
)

import tformer_jax.functional as F
from tformer_jax import models
from tformer_jax.config import ENDS, FUNCTION, leaves

# No two tokens of a row are the same: a row of the embedding table stands for one place.
TOKENS = np.array([[4, 8, 2, 6, 11, 5, 0, 9], [9, 2, 12, 7, 1, 10, 3, 8]])
SEGMENTS = jnp.array([[7, 7, 7, 7, 7, 7, 7, 7], [3, 3, 3, 5, 5, 5, 5, 2]])
SCHEMES = ("sinusoidal", "learned", "rotary", "alibi", "relative", "none")


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with block_sizes(3, 4):
        yield


def causal_lm(**changes) -> models.CausalLM:
    return tiny_model("CausalLM", **changes)


@quick_jit
def uncached(model, tokens):
    return model(tokens)


@quick_jit
def extend(model, tokens, cache, valid):
    return model.extend(tokens, cache, valid=valid)


# The formulas ----------------------------------------------------------------------------------

LLAMA = dict(norm_position="pre", norm="rms", activation="silu", gated=True, use_bias=False, positions="rotary")
WINDOWED = ({"attention": {"window": 3}, "positions": {"base": 100.0}}, {})
MIXED = (
    {"feed_forward": {"name": "gated", "width": 5, "activation": "silu"}, "attention": {"softcap": 0.5}},
    {"norm": {"name": "rms", "unit_offset": True}, "positions": {"name": "none"}, "attention": {"window": 2}},
)
MENU = {
    "plain, post-norm": dict(),
    "GPT-2": dict(norm_position="pre", activation="gelu_tanh", positions="learned", scale_embeddings=False),
    "Llama 3.1": LLAMA
    | dict(num_heads=4, num_kv_heads=2, tie_output=False, scale_embeddings=False, norm_eps=1e-2)
    | dict(head_dim=6, rotary_scaling="llama3", rotary_factor=8.0)
    | {"positions.trained_length": 16},
    "Gemma 2": LLAMA
    | dict(norm_position="sandwich", activation="gelu_tanh", num_heads=4, num_kv_heads=2, window=3)
    | dict(attention_softcap=0.5, output_softcap=1.5)
    | {"norm.unit_offset": True, "attention.scale": 0.3},
    "OLMo 2": LLAMA | dict(norm_position="output", num_kv_heads=1, qk_norm=True) | {"attention.joint_qk_norm": True},
    "Qwen 2": dict(norm_position="pre", norm="rms", gated=True, positions="rotary")
    | {"attention.output_bias": False, "feed_forward.bias": False},
    "GPT-J": dict(norm_position="pre", parallel_block=True, positions="rotary", rotary_base=50.0, tie_output=False)
    | {"positions.width": 2, "attention.qkv_bias": False, "attention.output_bias": False, "output.bias": True},
    "GPT-NeoX": dict(norm_position="pre", parallel_block=True, positions="rotary") | {"layer.shared_norm": False},
    "BLOOM": dict(norm_position="pre", positions="alibi", embedding_norm=True, activation="gelu")
    | dict(num_heads=3, head_dim=4),
    "T5": dict(norm_position="pre", norm="rms", positions="relative", relative_buckets=4, relative_max_distance=5)
    | {"attention.scale": 1.0, "output.scale": 0.4},
    "UMT5": dict(norm_position="pre", norm="rms", positions="relative", relative_buckets=4, relative_max_distance=5)
    | dict(num_layers=3, pattern=({}, {"positions": {"name": "none"}}))
    | {"positions.by_layer": True},
    "ModernBERT": dict(norm_position="pre", embedding_norm=True, positions="rotary", num_layers=2)
    | {"layer.attention_norm": False},
    "CaiT": dict(norm_position="pre", positions="learned") | {"layer.layer_scale": 0.3},
    "qk-norm, linear": dict(positions="rotary", rotary_scaling="linear", rotary_factor=4.0, qk_norm=True)
    | dict(num_kv_heads=1),
    "ntk, gated with biases": dict(positions="rotary", rotary_scaling="ntk", rotary_factor=4.0, gated=True, norm="rms")
    | {"positions.width": 4, "attention.head_dim": 6},
    "mup, wider heads": dict(mup_base_width=2, positions="learned", attention_softcap=0.5),
    "mup, more heads": dict(mup_base_width=3, head_dim=3, tie_output=False, output_softcap=0.5),
    "no positions": dict(positions="none", norm_position="sandwich", window=2, attention_implementation="blockwise"),
    "blockwise, relative": dict(
        positions="relative", relative_buckets=8, attention_implementation="blockwise", attention_softcap=1.0, window=4
    ) | {"norm.bias": False, "norm.unit_offset": True},
    "Gemma 3: windows of another base, and a tail": LLAMA | dict(num_layers=5, num_kv_heads=1, pattern=WINDOWED),
    "Llama 4: a layer without positions": LLAMA | dict(num_layers=2, pattern=({}, {"positions": {"name": "none"}})),
    "Marian's and mBART's positions": dict(norm_position="pre")
    | {"positions.concatenated": True, "positions.first": 2, "positions.base": 100.0},
    "positions that are not scaled": dict(positions="learned") | {"positions.scaled": False},
    "OPT": dict(norm_position="pre", positions="learned", scale_embeddings=False) | {"positions.first": 2},
    "OPT, without a final norm": dict(norm_position="pre", positions="learned") | {"layer.final_norm": False},
    "OPT, 350 m": dict(positions="learned", embedding_width=6) | {"positions.first": 2},
    "wide embeddings that are mapped last, mup": dict(norm_position="pre", positions="learned", embedding_norm=True)
    | dict(embedding_width=10, embedding_projection="last", mup_base_width=2, tie_output=False)
    | {"output.scale": 0.4},
    "narrow embeddings with sinusoids, mup": dict(embedding_width=6, embedding_projection="last", mup_base_width=2),
    "OLMo": dict(norm_position="pre", positions="rotary", gated=True, num_kv_heads=1)
    | {"norm.gain": False, "norm.bias": False, "attention.qkv_clip": 0.6},
    "Phi 2": dict(norm_position="pre", parallel_block=True, positions="rotary", qk_norm=True)
    | {"attention.qk_norm_kind": "layer", "attention.qk_norm_bias": True},
    "StableLM 2": dict(norm_position="pre", positions="rotary", qk_norm=True, num_heads=4, num_kv_heads=2)
    | {"attention.qk_norm_kind": "layer", "attention.own_qk_norms": True, "positions.layout": "interleaved"},
    "Llama with YaRN": LLAMA
    | dict(head_dim=8, rotary_scaling="yarn", rotary_factor=4.0)
    | {"positions.trained_length": 40, "positions.turns": (0.5, 4.0), "positions.whole_pairs": False},
    "Phi 3": LLAMA
    | dict(rotary_scaling="longrope")
    | {"positions.trained_length": 6, "positions.magnitude": 1.2}
    | {"positions.short_divisors": (1.0, 1.5), "positions.long_divisors": (1.3, 4.0)},
    "every layer another": dict(positions="relative", num_layers=3, norm_position="pre", pattern=MIXED),
}  # fmt: skip


def arrays(model):
    """Every parameter in float64, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    name = {path: jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value") for path, _ in leaves}
    return {name[path]: oracles.f64(leaf) for path, leaf in leaves}


@quick_jit
def packed(model, tokens):
    """Logits of two rows: one document, and three."""
    return model(tokens, segments=SEGMENTS)


@pytest.mark.parametrize("changes", by_day(MENU.values(), 3, 4, 7, 11, 15, 16, 18), ids=MENU)
def test_logits_are_the_formulas(changes):
    """A choice of the menu computes something else than its formula, or in another place; alone or in packed rows."""
    model = causal_lm(**changes)
    assert_close(packed(model, TOKENS), oracles.causal_lm(arrays(model), model.config, TOKENS, SEGMENTS), 1e-5)


@pytest.mark.parametrize("name", by_day(["plain, post-norm", "Gemma 2", "blockwise, relative"], 2))
def test_a_row_of_one_document_needs_no_segments(name):
    """Without segments, the mask or the positions are others than those of one segment."""
    model = causal_lm(**MENU[name])
    assert_close(uncached(model, TOKENS)[0], packed(model, TOKENS)[0], 1e-6)


def test_the_menu_is_complete():
    """A choice was added to the configuration that the test above does not see."""
    seen = {}
    for changes in MENU.values():
        for path, value, kind in leaves(tiny_config("CausalLM", **changes)):
            if kind.part in (FUNCTION, ENDS) or path == "attention.implementation":
                seen.setdefault(path, set()).add(str(value))
    sizes = "d_model vocab_size max_length feed_forward.width".split()
    only = {"attention.name": "multi_head", "layer.name": "transformer"}
    assert {path: values for path, values in seen.items() if len(values) == 1 and path not in sizes} == {
        path: {value} for path, value in only.items()
    }
    choices = {
        "norm.name": {"layer", "rms"},
        "layer.norm_position": {"post", "pre", "output", "sandwich"},
        "positions.name": set(SCHEMES),
        "positions.scaling": {"none", "linear", "ntk", "llama3", "yarn", "longrope"},
        "feed_forward.name": {"mlp", "gated"},
        "feed_forward.activation": {"relu", "gelu", "gelu_tanh", "silu"},
    }
    assert {path: seen[path] for path in choices} == choices


# Causality -------------------------------------------------------------------------------------


def reach(layers, window, segments):
    """[t, s]: whether token s can reach the logits at t: `window` - 1 places back a layer, within a segment."""
    T = len(segments)
    ages = np.arange(T)[:, None] - np.arange(T)
    same = segments[:, None] == segments[None, :]
    one = (ages >= 0) & same & (ages < (window or T))
    return np.linalg.matrix_power(one.astype(int), layers) > 0


def ways_to_attend():
    """Four for each position scheme: every two of implementation, unrolling and window together.

    Segments go with one of the three, another one from scheme to scheme.
    """
    for number, scheme in enumerate(SCHEMES):
        for blockwise, unrolled in itertools.product((False, True), repeat=2):
            windowed = blockwise ^ unrolled ^ (number % 2 == 0)
            segmented = (blockwise, unrolled, windowed)[number % 3] ^ (number < 3)
            implementation = "blockwise" if blockwise else "reference"
            yield scheme, implementation, 2 if unrolled else 1, 3 if windowed else None, segmented


@pytest.mark.parametrize(
    ("scheme", "implementation", "scan_unroll", "window", "segmented"), by_day(ways_to_attend(), 0)
)
def test_logits_depend_on_the_tokens_that_they_may_see_alone(scheme, implementation, scan_unroll, window, segmented):
    """Information flows from a later token, another document or beyond the window, or not at all from within.

    By gradient: d logits[t] / d embedding[s] is exactly 0 where s cannot reach t, and not 0 where it can.
    """
    how = dict(attention_implementation=implementation, scan_unroll=scan_unroll, window=window)
    model = causal_lm(positions=scheme, tie_output=False, norm_position="pre", **how)
    tokens, segments = jnp.asarray(TOKENS[1:, :7]), SEGMENTS[1:, :7] if segmented else None

    def scores(table, model):
        return with_leaf(model, "embedding.table", table)(tokens, segments=segments)[0] @ jnp.arange(1.0, 14.0)

    jacobian = quick_jit(jax.jacrev(scores))(model.embedding.table[...], model)
    depends = np.abs(np.asarray(jacobian)[:, np.asarray(tokens[0])]).max(-1) > 0  # [t, s]
    np.testing.assert_array_equal(
        depends, reach(2, window, np.zeros(7) if segments is None else np.asarray(segments[0]))
    )


def test_the_reach_is_what_it_says():
    """The test above would compare with a relation of its own making."""
    np.testing.assert_array_equal(reach(1, None, np.zeros(4)), np.tril(np.ones((4, 4), bool)))
    np.testing.assert_array_equal(np.argwhere(reach(2, 2, np.zeros(4))[3])[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(np.argwhere(reach(2, None, np.array([0, 0, 1, 1]))[3])[:, 0], [2, 3])


def test_a_mask_hides_tokens_beside_causality():
    """`mask` does not reach attention, replaces causality, or its forms mean something else."""
    model = causal_lm(positions="alibi")
    seen = jnp.arange(8) < jnp.array([8, 5])[:, None]
    forms = (F.AttentionMask(causal=True, lengths=jnp.array([8, 5])), seen, seen[:, None, None, :])
    run = quick_jit(lambda model, tokens, mask: model(tokens, mask=mask))
    first, *others = (run(model, TOKENS, mask) for mask in forms)
    padded, causal = run(model, np.where(seen, TOKENS, 12), forms[0]), run(model, TOKENS, None)
    for other in others:
        assert_close(other, first, 1e-6)
    assert_close(padded[1, :5], first[1, :5], 1e-6, "what stands in the padding")
    assert_close(first[1, :5], causal[1, :5], 1e-6, "causality without a mask")
    assert not np.allclose(first[1, 5:], causal[1, 5:])


PREFIX = jnp.array([3, 5])


@pytest.mark.parametrize("name", by_day(["Gemma 2", "T5", "blockwise, relative"], 0))
def test_a_prefix_is_seen_from_everywhere(name):
    """A prefix reaches attention otherwise than in the formulas, whole or cached: a prompt, then each token."""
    model, mask = causal_lm(**MENU[name]), F.AttentionMask(causal=True) | F.AttentionMask(prefix=PREFIX)
    wanted = oracles.causal_lm(arrays(model), model.config, TOKENS, prefix=np.asarray(PREFIX))
    assert_close(quick_jit(lambda model, tokens: model(tokens, mask=mask))(model, TOKENS), wanted, 1e-5)
    start = quick_jit(lambda model, tokens: model.extend(tokens, model.start_cache(2, SLOTS), mask=mask))
    prompt, cache = start(model, TOKENS[:, :5])
    rest, _ = decode(model, cache, TOKENS[:, 5:])
    assert_close(np.concatenate([prompt, rest], axis=1), wanted, 1e-5, "cached")


def test_a_mask_of_booleans_by_query_is_the_whole_mask():
    """Causality is added to a mask that says all, or an empty slot of a cache is seen where it says True."""
    model, seen = causal_lm(positions="alibi"), jnp.asarray(np.tri(8, k=2, dtype=bool) | (np.arange(8) < 4))
    mask = F.AttentionMask(explicit=seen)
    wanted = quick_jit(lambda model, tokens: model(tokens, mask=mask))(model, TOKENS)
    assert not np.allclose(wanted, uncached(model, TOKENS))
    here = F.AttentionMask(explicit=jnp.pad(seen, ((0, 0), (0, 2)), constant_values=True))
    extend = quick_jit(lambda model, tokens: model.extend(tokens, model.start_cache(2, SLOTS), mask=here)[0])
    assert_close(extend(model, TOKENS), wanted, 1e-5)


@pytest.mark.parametrize(
    "mask",
    [
        F.AttentionMask(),
        F.AttentionMask(lengths=jnp.array([8, 5])),
        F.AttentionMask(segments=SEGMENTS),
        F.AttentionMask(window=4),
        F.AttentionMask(explicit=jnp.ones((2, 1, 1, 8), bool)),
        F.AttentionMask(segments=SEGMENTS) | F.AttentionMask(lengths=jnp.array([8, 5])),
    ],
    ids=["all", "lengths", "segments", "window to both sides", "booleans of tokens", "combined"],
)
def test_a_mask_that_says_nothing_of_later_tokens_is_refused(mask):
    """A model is trained on what it is to predict."""
    model = causal_lm()
    with pytest.raises(ValueError, match=r"must say which later tokens are hidden: write AttentionMask\(causal=True"):
        model(jnp.asarray(TOKENS), mask=mask)
    with pytest.raises(ValueError, match="must say which later tokens are hidden"):
        model.extend(jnp.asarray(TOKENS), model.start_cache(2, 8), mask=mask)


# Cache -----------------------------------------------------------------------------------------

CACHED = {
    "sinusoidal": dict(positions="sinusoidal"),
    "learned, pre-norm, blockwise": dict(
        positions="learned", norm_position="pre", attention_implementation="blockwise"
    ),
    "rotary, GQA, sandwich": LLAMA | dict(num_heads=4, num_kv_heads=2, norm_position="sandwich", qk_norm=True),
    "alibi, soft caps": dict(positions="alibi", attention_softcap=0.5, output_softcap=1.5),
    "relative, parallel, blockwise": dict(
        positions="relative", relative_buckets=4, relative_max_distance=5, norm_position="pre", parallel_block=True,
        attention_implementation="blockwise",
    ),
    "none, untied": dict(positions="none", tie_output=False, embedding_norm=True),
    "window": dict(window=3, positions="rotary", num_kv_heads=1),
    "mup": dict(mup_base_width=2, positions="learned", norm_position="pre"),
    "narrow embeddings": dict(embedding_width=6, positions="learned"),
}  # fmt: skip
PROMPT, SLOTS = 3, 10
ROTARY = CACHED["rotary, GQA, sandwich"]  # of which tests share the programs


@pytest.fixture(scope="module", params=by_day(CACHED.values(), 2, 6), ids=CACHED)
def cached(request):
    """A model, and its logits of whole rows."""
    model = causal_lm(**request.param)
    return model, uncached(model, TOKENS)


def decode(model, cache, tokens):
    """Logits of `tokens`, one at a time."""
    pieces = []
    for t in range(tokens.shape[1]):
        logits, cache = extend(model, tokens[:, t : t + 1], cache, jnp.ones((2, 1), bool))
        pieces.append(logits)
    return np.concatenate(pieces, axis=1), cache


resized = quick_jit(lambda cache, slots: cache.resized(slots), static_argnums=1)


def prefill(model, cache, tokens=TOKENS[:, :PROMPT], valid=None):
    return extend(model, tokens, cache, jnp.ones(tokens.shape, bool) if valid is None else valid)


def test_token_by_token_is_the_whole(cached):
    """A position, a mask or an entry of the cache is off by one."""
    model, whole = cached
    pieces, cache = decode(model, model.start_cache(2, SLOTS), TOKENS)
    assert_close(pieces, whole, 1e-5)
    np.testing.assert_array_equal(cache.lengths, [8, 8])
    np.testing.assert_array_equal(cache.layers[0].positions[:, :8], np.tile(np.arange(8), (2, 1)))


def test_a_prompt_and_then_tokens_are_the_whole(cached):
    """Several tokens at once are written or seen otherwise than one at a time."""
    model, whole = cached
    prompt, cache = prefill(model, model.start_cache(2, SLOTS))
    rest, _ = decode(model, cache, TOKENS[:, PROMPT:])
    assert_close(np.concatenate([prompt, rest], axis=1), whole, 1e-5)


def test_a_shorter_prompt_padded_on_the_left_is_the_whole(cached):
    """Padding is seen, counted as a position, or the rows go on from the same place."""
    model, whole = cached
    # The second row's prompt is its first token; then both go on.
    tokens = np.stack([TOKENS[0, :PROMPT], [12, 12, TOKENS[1, 0]]])
    valid = jnp.array([[True, True, True], [False, False, True]])
    prompt, cache = prefill(model, model.start_cache(2, SLOTS), tokens, valid)
    np.testing.assert_array_equal(cache.lengths, [3, 1])
    following = np.stack([TOKENS[0, 3:8], TOKENS[1, 1:6]])
    rest, _ = decode(model, cache, following)
    prompt, whole = np.asarray(prompt), np.asarray(whole)
    assert_close(np.concatenate([prompt[0], rest[0]]), whole[0], 1e-5, "longer row")
    assert_close(np.concatenate([prompt[1, 2:], rest[1]]), whole[1, :6], 1e-5, "shorter row")


def test_a_resized_cache_goes_on_where_it_was():
    """Room for more tokens moves or forgets those that are there, or shows the new, empty slots."""
    model = causal_lm(**ROTARY)
    whole = uncached(model, TOKENS)
    prompt, cache = prefill(model, model.start_cache(2, PROMPT))
    rest, _ = decode(model, resized(cache, SLOTS), TOKENS[:, PROMPT:])
    assert_close(np.concatenate([prompt, rest], axis=1), whole, 1e-5)


# Windows and rings -----------------------------------------------------------------------------

LONG = np.random.default_rng(0).integers(0, 13, (2, 36))


@pytest.mark.parametrize(
    ("window", "step", "scheme", "implementation"),
    by_day(
        [
            (3, 2, "alibi", "blockwise"),
            (2, 3, "relative", "reference"),
            (1, 4, "learned", "reference"),
            (5, 6, "rotary", "blockwise"),
        ],
        3,
    ),
)
def test_a_ring_goes_round_and_round(window, step, scheme, implementation):
    """A slot is overwritten while a token of the window is in it, or an old one is seen.

    `window` + `step` - 1 slots, `step` tokens at a time, several times round: the uncached logits.
    """
    how = dict(window=window, positions=scheme, attention_implementation=implementation, num_kv_heads=1)
    model = causal_lm(max_length=36, **how)
    slots = window + step - 1
    cache, pieces = model.start_cache(2, slots), []
    for start in range(0, 36, step):
        logits, cache = extend(model, LONG[:, start : start + step], cache, jnp.ones((2, step), bool))
        pieces.append(logits)
    assert 36 / slots >= 3
    assert_close(np.concatenate(pieces, axis=1), uncached(model, LONG), 1e-5)


RELATIVE_RING = dict(window=3, max_length=36, positions="relative", relative_buckets=4, relative_max_distance=5)


@pytest.mark.parametrize("prompt", by_day([2, 3, 8], 2))
def test_a_prompt_becomes_a_ring_of_the_window(prompt):
    """What `resized` keeps of a prompt longer than the window are not its last tokens, or a shorter one is cut."""
    model = causal_lm(**RELATIVE_RING)
    whole = uncached(model, LONG)
    first, cache = prefill(model, model.start_cache(2, prompt), LONG[:, :prompt])
    rest, _ = decode(model, resized(cache, 3), LONG[:, prompt:])
    assert_close(np.concatenate([first, rest], axis=1), whole, 1e-5)


def test_a_padded_prompt_becomes_a_ring():
    """The padding of a shorter row is taken for tokens of its window, or the ring forgets tokens for it."""
    model = causal_lm(**RELATIVE_RING)
    whole = np.asarray(uncached(model, LONG))
    tokens = np.stack([LONG[0, :4], [12, 12, 12, LONG[1, 0]]])
    valid = jnp.array([[True] * 4, [False, False, False, True]])
    _, cache = prefill(model, model.start_cache(2, 4), tokens, valid)
    rest, _ = decode(model, resized(cache, 3), np.stack([LONG[0, 4:16], LONG[1, 1:13]]))
    assert_close(rest[0], whole[0, 4:16], 1e-5, "longer row")
    assert_close(rest[1], whole[1, 1:13], 1e-5, "shorter row")


# Precision -------------------------------------------------------------------------------------


def test_cached_bfloat16_logits_are_as_near_to_float32_as_uncached_ones():
    """The cache rounds once more than the whole forward pass does, or holds another dtype.

    How much 16 bits may change the logits depends on depth and weights, so the uncached pass says: both round
    the same quantities, in another order, and so their errors against float32 are of one size. Twice is allowed.
    """
    model = causal_lm(**ROTARY, precision="compute=bfloat16")
    wanted, whole = uncached(causal_lm(**ROTARY), TOKENS), uncached(model, TOKENS)
    pieces, cache = decode(model, model.start_cache(2, 8), TOKENS)
    rounding, error = (np.abs(np.asarray(logits - wanted)).max() for logits in (whole, pieces))
    assert 0 < rounding < 0.1 * np.abs(np.asarray(wanted)).max()
    assert error <= 2 * rounding
    assert {str(x.dtype) for x in cache.layers[0].scanned} == {"bfloat16"}


# Capture ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captured():
    model = causal_lm(num_layers=3, window=3, num_kv_heads=1)
    capture = ("attention_weights", "residual")
    run = quick_jit(lambda model, tokens: (*model(tokens, capture=capture), model.logits(model.hidden(tokens)[0])))
    return uncached(model, TOKENS), *run(model, TOKENS)


def test_captured_arrays_are_stacked_over_layers(captured):
    """Something that was asked for is missing, or has another shape than [L B N T T] or [L B T D]."""
    shapes = jax.tree.map(jnp.shape, captured[2])
    assert shapes == {"attention_weights": (3, 2, 2, 8, 8), "residual": (3, 2, 8, 8)}


def test_neither_capture_nor_hidden_changes_the_logits(captured):
    """Looking at a model changes what it says, or `hidden` is not what `logits` takes."""
    plain, logits, _, from_hidden = captured
    assert_close(logits, plain, 1e-6)
    assert_close(from_hidden, plain, 1e-6)


def test_captured_weights_are_causal_and_sum_to_one(captured):
    """The weights that are handed out are not those of the mask: they look ahead, or beyond the window."""
    weights = np.asarray(captured[2]["attention_weights"])
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    seen = np.broadcast_to(reach(1, 3, np.zeros(8)), weights.shape)
    assert (weights[~seen] == 0).all() and (weights[seen] > 0).all()


def test_an_unknown_capture_is_refused_with_the_nearest():
    """A misspelt capture is ignored, or one of another model is missing from what comes back."""
    with pytest.raises(ValueError, match="capture must be one of .*'residuals'; did you mean 'residual'"):
        causal_lm()(jnp.asarray(TOKENS), capture=("residuals",))
    with pytest.raises(ValueError, match="capture must be one of .*'cross_attention_weights'"):
        causal_lm()(jnp.asarray(TOKENS), capture=("cross_attention_weights",))


# Refusals --------------------------------------------------------------------------------------


def with_token(token):
    """The tokens, with this one at [1, 2]."""
    tokens = TOKENS.copy()
    tokens[1, 2] = token
    return tokens


@pytest.mark.parametrize("token", [13, -1])
def test_a_token_out_of_the_vocabulary_is_refused_by_place(token):
    """A token of another tokenizer silently gets the vector of the last one."""
    tokens, model = jnp.asarray(with_token(token)), causal_lm()
    message = rf"^tokens\[1, 2\] is {token}, outside the vocabulary \[0, 13\)"
    with pytest.raises(ValueError, match=message):
        model(tokens)
    with pytest.raises(ValueError, match=message):
        model.extend(tokens, model.start_cache(2, 8))


@pytest.mark.parametrize("token", [13, -1])
def test_a_token_out_of_the_vocabulary_is_nan_in_a_compiled_program(token):
    """Where values are unknown, the logits are finite and wrong; or another row is lost with this one."""
    logits = np.asarray(uncached(causal_lm(**ROTARY), with_token(token)))
    assert np.isnan(logits[1, 2:]).all()
    assert np.isfinite(logits[0]).all()


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([[1, 2]], TypeError, "tokens must be an array of integers, got list"),
        (np.array([[1.0, 2.0]]), TypeError, "tokens must be an array of integers, got float64"),
        (np.array([1, 2]), ValueError, r"tokens must have two axes, rows and tokens, got shape \(2,\)"),
    ],
)
def test_what_are_no_token_ids_is_refused(tokens, error, message):
    """An error would come from an einsum or a gather, of shapes that the user never wrote."""
    with unchecked_annotations(), pytest.raises(error, match=message):
        causal_lm()(tokens)


def test_validity_that_is_not_boolean_is_refused():
    """A 5 would count as five tokens."""
    model = causal_lm()
    with unchecked_annotations(), pytest.raises(TypeError, match="valid must be boolean .*got int"):
        model.extend(jnp.asarray(TOKENS[:, :2]), model.start_cache(2, 4), valid=jnp.array([[5, 1], [1, 1]]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_sequence_longer_than_max_length_is_refused(scheme):
    """Positions beyond the table are clamped to the last, or a model runs longer than it was trained."""
    with pytest.raises(ValueError, match="17 tokens does not fit max_length=16"):
        causal_lm(positions=scheme)(jnp.zeros((1, 17), int))


@pytest.mark.parametrize("length", [0, 17])
def test_a_cache_that_cannot_be_is_refused(length):
    """A cache has room for nothing, or for positions that the model does not have."""
    with pytest.raises(ValueError, match=f"between 1 and max_length=16 tokens, got {length}"):
        causal_lm().start_cache(2, length)


# Dropout ---------------------------------------------------------------------------------------


def test_dropout_follows_the_key():
    """The model drops without a key, or does not drop with one, or drops the same with another."""
    model = causal_lm(**ROTARY, dropout_rate=0.5)
    drop = quick_jit(lambda model, tokens, key: model(tokens, key=key))
    first, again, second = (drop(model, TOKENS, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    exact = uncached(model, TOKENS)
    assert not np.allclose(exact, first) and not np.allclose(first, second)
    np.testing.assert_array_equal(exact, uncached(causal_lm(**ROTARY, dropout_rate=0.0), TOKENS))
