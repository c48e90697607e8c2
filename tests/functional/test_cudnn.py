"""cuDNN's attention without a GPU: what it is handed, and what is made of its results.

A stand-in does what JAX documents of cuDNN, by a dense softmax in float32. What cuDNN promises nothing of is NaN there:
queries and keys outside of every sequence, and all of a call in which a query sees no key, or a sequence is empty.
"""

import functools
import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import assert_close, normal, quick_jit

import tformer_jax.functional as F
from tformer_jax.functional.kernels import auto, cudnn

MODULE = cudnn._module()
B, T, N, H = 3, 32, 4, 8


def sequences(q, k, q_seqlen, kv_seqlen, q_offsets, kv_offsets):
    """(first query, queries, first key, keys) of each sequence among the tokens [B T] laid end to end, as cuDNN has them."""
    rows, T, S = q.shape[0], q.shape[1], k.shape[1]
    if q_offsets is None:
        whole = jnp.arange(rows)
        q_seqlen, kv_seqlen = (whole * 0 + n if x is None else x for x, n in ((q_seqlen, T), (kv_seqlen, S)))
        return [(T * b, q_seqlen[b], S * b, kv_seqlen[b]) for b in range(rows)]
    assert q.shape == k.shape  # JAX counts both offsets in the queries' heads
    lengths = MODULE._fix_seqlen_offsets(q_seqlen, kv_seqlen, q_offsets, kv_offsets, q, k)
    queries, keys, q_starts, k_starts = (x.reshape(-1) for x in lengths)
    step = q.shape[2] * q.shape[3]
    return [(q_starts[i] // step, queries[i], k_starts[i] // step, keys[i]) for i in range(len(queries))]


def stand_in(
    query, key, value, bias=None, mask=None, q_seqlen=None, kv_seqlen=None, q_offsets=None, kv_offsets=None, *,
    scale=1.0, mask_type=MODULE.MaskType.NO_MASK, sliding_window_length=None,
):  # fmt: skip
    """What `dot_product_attention` of JAX's module of cuDNN documents."""
    rows, T, S = query.shape[0], query.shape[1], key.shape[1]
    assert isinstance(scale, float) and not {query.dtype, key.dtype, value.dtype} - {jnp.dtype(jnp.float16)}
    assert sliding_window_length is None or "CAUSAL" in mask_type.name
    assert (q_seqlen is not None) == ("PADDING" in mask_type.name)
    i, j = jnp.arange(rows * T)[:, None], jnp.arange(rows * S)
    allowed, used_q, used_k = jnp.zeros((rows * T, rows * S), bool), i < 0, j < 0
    for q_start, queries, k_start, keys in sequences(query, key, q_seqlen, kv_seqlen, q_offsets, kv_offsets):
        x, y = i - q_start, j - k_start
        see = (0 <= x) & (x < queries) & (0 <= y) & (y < keys)
        if "CAUSAL" in mask_type.name:
            see &= y <= x
        if sliding_window_length is not None:
            see &= y > x - sliding_window_length
        allowed |= see
        used_q, used_k = used_q | (0 <= x) & (x < queries), used_k | (0 <= y) & (y < keys)
    used_q, used_k = used_q.reshape(rows, T, 1, 1), used_k.reshape(rows, S, 1, 1)
    allowed = allowed.reshape(rows, T, rows, S)[jnp.arange(rows), :, jnp.arange(rows)]  # [B T S]
    bad = (used_q[..., 0] & ~allowed.any(2, keepdims=True)).any()
    if bias is not None:
        bad |= ~jnp.isfinite(bias).all()
    if q_seqlen is not None:
        bad |= (q_seqlen == 0).any() | (kv_seqlen == 0).any()

    return imitation(query, key, value, bias, (allowed, used_q, used_k, bad), scale)


def dense(q, k, v, bias, allowed, scale):
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32) * scale
    scores = jnp.where(allowed[:, None], scores if bias is None else scores + bias, -1e30)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores), v.astype(jnp.float32)).astype(q.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def imitation(q, k, v, bias, places, scale):
    """The dense softmax, NaN where cuDNN writes nothing, and everywhere where it divides by 0."""
    allowed, used_q, _, bad = places
    return jnp.where(used_q & ~bad, dense(q, k, v, bias, allowed, scale), jnp.nan)


def imitation_backward(scale, kept, d_out):
    *x, (allowed, used_q, used_k, bad) = kept
    _, pull = jax.vjp(lambda *x: dense(*x, allowed, scale), *x)
    *d, d_bias = pull(jnp.where(used_q, d_out, 0))
    written = [jnp.where(used & ~bad, d, jnp.nan) for used, d in zip((used_q, used_k, used_k), d, strict=True)]
    return *written, d_bias, None


imitation.defvjp(lambda *x: (imitation(*x), x[:5]), imitation_backward)


@pytest.fixture
def on_gpu(monkeypatch):
    """A process whose platform is said to be a Hopper GPU; JAX asks for the version of cuDNN while it traces."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(MODULE, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(MODULE, "check_compute_capability", lambda capability: capability <= "9.0")
    monkeypatch.setattr(auto, "_LEAST_OWN", 0)
    monkeypatch.setattr(cudnn, "_TOKENS_OF_RUN", 8)  # up to 4 documents in a row of 32


@pytest.fixture
def imitated(on_gpu, monkeypatch):
    """The same with the stand-in for cuDNN."""
    monkeypatch.setattr(MODULE, "dot_product_attention", stand_in)


def arrays(K=N, T=T, S=T, dtype=jnp.float16):
    shapes = (B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H)
    return [normal(i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]


IDS = np.array([[5] * 7 + [9] * 20 + [0] * 5, [1] * 32, [4] * 9 + [3] * 9 + [2] * 9 + [1] * 5])
AGAIN = np.where((np.arange(32) > 28) & (np.arange(3) == 0)[:, None], 5, IDS)  # the first row's 5 comes twice
MANY = np.arange(B * T).reshape(B, T) // 4
LENGTHS = np.array([32, 0, 11])
MASKS = {
    "nothing": {},
    "causal": dict(causal=True),
    "a window": dict(causal=True, window=5),
    "a window of one side": dict(window=(3, 0)),
    "a window wider than the row": dict(window=99),
    "lengths": dict(lengths=LENGTHS),
    "causal lengths": dict(causal=True, lengths=LENGTHS),
    "a window and lengths": dict(causal=True, window=5, lengths=LENGTHS),
    "segments": dict(segments=IDS),
    "one row of segments": dict(segments=IDS[:1]),
    "causal segments": dict(causal=True, segments=IDS),
    "segments and a window": dict(causal=True, window=4, segments=IDS),
    "segments and lengths": dict(segments=IDS, lengths=LENGTHS),
    "all of them": dict(causal=True, window=4, segments=IDS, lengths=LENGTHS),
    "a segment that comes again": dict(causal=True, segments=AGAIN),
    "more segments than are packed": dict(causal=True, segments=MANY),
}


def check(q, k, v, d_out, fields, bias=None, scale=None):
    """Value and gradients by `implementation="auto"` are the formula's."""
    mask = F.AttentionMask(**jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, fields))

    def attention(q, k, v, bias):
        return F.scaled_dot_product_attention(q, k, v, mask=mask, bias=bias, scale=scale, implementation="auto")

    assert F.explain_attention(q, k, mask=mask, bias=bias, scale=scale).kernel == "cudnn"

    @quick_jit
    def value_and_gradients(d_out, *x):
        out, pull = jax.vjp(attention, *x)
        return out, *pull(d_out)

    out, *gradients = got = value_and_gradients(d_out, q, k, v, bias)
    fields = fields | {"segments": np.broadcast_to(fields["segments"], (B, T))} if "segments" in fields else fields
    sides = fields.get("window") if isinstance(fields.get("window"), tuple) else None
    fields = {name: x for name, x in fields.items() if name != "window" or sides is None}
    allowed = oracles.mask_by_loops(B, N, q.shape[1], k.shape[1], **fields)
    if sides is not None:
        apart = np.arange(k.shape[1]) - np.arange(q.shape[1])[:, None]
        allowed &= (apart >= -sides[0]) & (apart <= sides[1])
    wanted = oracles.attention(q, k, v, allowed, bias, scale)
    wanted = wanted, *oracles.attention_gradients(q, k, v, d_out, allowed, bias, scale)
    for name, a, b in zip(("output", "dq", "dk", "dv", "d_bias"), got, wanted, strict=True):
        if b is not None:
            assert_close(a, b, 4e-3, name)
    nothing = ~allowed.any(3)[:, 0]  # [B T]
    np.testing.assert_array_equal(np.asarray(out)[nothing], 0)
    np.testing.assert_array_equal(np.asarray(gradients[0])[nothing], 0)


@pytest.mark.parametrize("K", [4, 2])
@pytest.mark.parametrize("name", MASKS)
def test_value_and_gradients_are_the_formulas(imitated, name, K):
    """Offsets, lengths or the kind of mask are wrong; documents see each other; a row without keys is not zeros."""
    check(*arrays(K), MASKS[name])


def test_more_keys_than_queries_and_another_scale(imitated):
    """Cross-attention is refused, cut, or scaled by another number."""
    check(*arrays(2, S=48), dict(lengths=np.array([48, 0, 7])), scale=0.7)


@pytest.mark.parametrize("fields", [dict(causal=True, lengths=LENGTHS), dict(causal=True, segments=IDS)])
def test_under_vmap_it_is_the_same(imitated, fields):
    """JAX's own rule for `vmap` refuses packed rows, and lengths that examples share; examples get others' gradients."""
    mask = F.AttentionMask(**jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, fields))
    two = [jnp.stack([x, 2 * x[::-1]], axis=1) for x in arrays(2)]

    def gradients(q, k, v, d_out):
        return jax.vjp(lambda *x: F.scaled_dot_product_attention(*x, mask=mask), q, k, v)[1](d_out)

    mapped = quick_jit(jax.vmap(gradients, in_axes=1))(*two)
    for i in range(2):
        for got, wanted in zip(mapped, quick_jit(gradients)(*(x[:, i] for x in two)), strict=True):
            assert_close(got[i], wanted, 1e-6)


@pytest.mark.parametrize("name", ["causal", "lengths", "all of them"])
def test_it_is_traced_under_shard_map_and_a_mesh(on_gpu, name):
    """What `shard_map` is told of where arrays differ is lost on the way, or a mesh's compiler is handed no call."""
    mask = F.AttentionMask(
        **jax.tree.map(lambda x: jnp.asarray(x[:2]) if isinstance(x, np.ndarray) else x, MASKS[name])
    )
    q, k, v, _ = (x[:2] for x in arrays(2))
    attend = lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = [
        jax.shard_map(attend, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"), check_vma=x) for x in (1, 0)
    ]
    for run in (attend, *split):
        loss = lambda q, k, v, run=run: run(q, k, v, mask).astype(jnp.float32).sum()
        with jax.set_mesh(mesh):
            text = jax.jit(jax.grad(loss)).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()
        assert "cudnn$fmhaSoftmaxBackward" in text or "CustomSPMDPartitioning" in text


@pytest.mark.parametrize("shape", [(1, N, T, T), (B, 1, T, T), (1, 1, T, T)])
def test_a_bias_of_minus_infinity_hides(imitated, shape):
    """Infinities reach cuDNN, a row that they hide is no zeros, or the gradient of the bias is not the formula's."""
    bias = np.array(normal(9, *shape, dtype=jnp.float16))
    bias[..., 3, :], bias[..., :, 5] = -np.inf, -np.inf
    check(*arrays(), dict(causal=True, lengths=LENGTHS), jnp.asarray(bias))


def test_rows_that_do_not_pack_are_left_to_blockwise(imitated):
    """What says that a layout may be packed says so of one that may not, or not of one that may."""
    for ids, packs in ((IDS, True), (AGAIN, False), (MANY, False), (IDS[:, :1] * 0 + np.arange(T) // 8, True)):
        runs, packed = cudnn._runs_of(jnp.asarray(ids), 4)
        assert bool(packed) == packs
    np.testing.assert_array_equal(runs.starts, [[0, 8, 16, 24]] * 3)
    runs, _ = cudnn._runs_of(jnp.asarray(IDS), 4)
    np.testing.assert_array_equal(runs.starts, [[0, 7, 27, -1], [0, -1, -1, -1], [0, 9, 18, 27]])
    np.testing.assert_array_equal(runs.queries, [[7, 20, 5, -1], [32, -1, -1, -1], [9, 9, 9, 5]])


# The kind of mask, the sliding window and the number of operands of the call of each mask; -1: none.
CALLS = {
    "nothing": ("NO_MASK", 0, 3),
    "causal": ("CAUSAL", 0, 3),
    "a window": ("CAUSAL", 5, 3),
    "lengths": ("PADDING", 0, 5),
    "a window and lengths": ("PADDING_CAUSAL", 5, 5),
    "causal segments": ("PADDING_CAUSAL", 0, 7),
    "all of them": ("PADDING_CAUSAL", 4, 7),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_program_for_a_gpu_calls_cudnn(on_gpu, name):
    """The lowered program has another kind of mask or window, or no lengths: JAX's function is called otherwise."""
    mask = F.AttentionMask(**jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, MASKS[name]))
    attend = lambda *x: F.scaled_dot_product_attention(*x, mask=mask).astype(jnp.float32).sum()
    traced = jax.jit(jax.value_and_grad(attend, argnums=(0, 1, 2))).trace(*arrays(2)[:3])
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    kind, window, operands = CALLS[name]
    call = r'custom_call @__cudnn\$fmhaSoftmax(Backward)?\(([^)]*)\) \{.*?backend_config = "(.*?)", '
    calls = re.findall(call, text)
    assert {backward for backward, _, _ in calls} == {"", "Backward"}
    for backward, given, config in calls:
        config = json.loads(config.replace("\\22", '"'))["cudnn_fmha_backend_config"]
        assert (config["mask_type"], config["sliding_window_length"]) == (kind, window)
        assert len(given.split(",")) == operands + (3 if backward else 0)
        assert config["max_seg_per_batch"] == (4 if "segments" in MASKS[name] else 1)
        assert config["dropout_rate"] == 0 and config["fmha_scale"] == pytest.approx(H**-0.5)


X = jax.ShapeDtypeStruct((B, T, N, H), jnp.bfloat16)
WIDE, SINGLE = jax.ShapeDtypeStruct((B, T, N, 12), jnp.bfloat16), jax.ShapeDtypeStruct((B, T, N, H), jnp.float32)
CAUSAL = F.AttentionMask(causal=True)
RULED_OUT = {
    "float32: cuDNN's takes bfloat16 and float16": dict(q=SINGLE, k=SINGLE),
    "of one dtype": dict(v=jax.ShapeDtypeStruct(X.shape, jnp.float16)),
    "the head width 12": dict(q=WIDE, k=WIDE),
    "a width of their own": dict(v=WIDE),
    "no rows": dict(q=jax.ShapeDtypeStruct((0, T, N, H), jnp.bfloat16), k=jax.ShapeDtypeStruct((0, T, N, H), jnp.bfloat16)),
    "dropout": dict(key=jax.random.key(0), dropout_rate=0.1),
    "cap": dict(logit_softcap=3.0),
    "positive number": dict(scale=-1.0),
    "a bias of float32": dict(bias=jnp.zeros((T, T))),
    "held as \\[T S\\]": dict(bias=jnp.zeros((1, T), jnp.bfloat16)),
    "a bias, in its packed": dict(bias=jnp.zeros((T, T), jnp.bfloat16), mask=F.AttentionMask(segments=jnp.asarray(IDS))),
    "a bias, with a window": dict(bias=jnp.zeros((T, T), jnp.bfloat16), mask=F.AttentionMask(causal=True, window=2)),
    "explicit": dict(mask=jnp.ones((T, T), bool)),
    "prefix": dict(mask=F.AttentionMask(prefix=3)),
    "query_positions": dict(mask=CAUSAL.placed(query_positions=jnp.arange(T))),
    "by `\\|` or `~`": dict(mask=CAUSAL | F.AttentionMask(prefix=3)),
    "windows end": dict(mask=F.AttentionMask(window=3)),
    "as many keys as queries": dict(mask=CAUSAL, k=jax.ShapeDtypeStruct((B, T + 1, N, H), jnp.bfloat16)),
    "the same segments": dict(mask=F.AttentionMask(segments=(jnp.asarray(IDS), jnp.asarray(AGAIN)))),
}  # fmt: skip


@pytest.mark.parametrize("why", RULED_OUT)
def test_what_cudnn_cannot_take_is_explained_for_a_gpu(why):
    """A case is taken that cuDNN refuses, or computes otherwise than the formula; or another reason is given."""
    case = dict(q=X, k=X, mask=CAUSAL) | RULED_OUT[why]
    choice = F.explain_attention(**case, platform="gpu")
    assert choice.kernel in ("reference", "blockwise") and re.search(why, choice.ruled_out["cudnn"])


def test_few_tokens_are_left_to_others():
    """A program of a few tokens is made of calls that take longer to start than to run."""
    many = jax.ShapeDtypeStruct((B, 128, N, H), jnp.bfloat16)
    assert F.explain_attention(X, X, platform="gpu").ruled_out["cudnn"] == "32 tokens are fewer than 128"
    assert F.explain_attention(many, many, platform="gpu").kernel == "cudnn"


def test_a_gpu_or_a_jax_that_lacks_it_rules_it_out(on_gpu, monkeypatch):
    """Tracing fails on an older GPU, without cuDNN, or with a JAX that calls it otherwise."""
    explain = lambda **how: F.explain_attention(X, X, **how).ruled_out["cudnn"]
    monkeypatch.setattr(MODULE, "check_compute_capability", lambda capability: capability <= "8.0")
    assert F.explain_attention(X, X).kernel == "cudnn"
    assert "packed rows need a Hopper" in explain(mask=F.AttentionMask(segments=jnp.asarray(IDS)))
    monkeypatch.setattr(MODULE, "check_compute_capability", lambda capability: False)
    assert "Ampere" in explain()

    def missing():
        raise RuntimeError("cuDNN is not detected.")

    monkeypatch.setattr(MODULE, "check_cudnn_version", missing)
    assert "cuDNN is not detected" in explain()
    monkeypatch.setattr(MODULE, "dot_product_attention", lambda query, key, value: query)
    assert "this JAX has no attention of cuDNN" in explain()


def test_meshes_rule_out_what_they_would_split(on_gpu):
    """Queries that a mesh splits are given to a kernel that compares array indices."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spread = jax.device_put(jnp.zeros((2, T, N, H), jnp.bfloat16), jax.sharding.NamedSharding(mesh, jax.P("data")))
        assert "explicit mesh" in F.explain_attention(spread, spread).ruled_out["cudnn"]
    asked = dict(mask=CAUSAL, bias=None, options=F.kernels.ScoreOptions(1.0), key=None, split_queries=True)
    assert "splits the queries" in F.kernels.choose(F.kernels.Request(X, X, X, **asked)).ruled_out["cudnn"]


def test_a_mesh_that_the_compiler_splits_by_has_as_many_heads_of_keys(on_gpu, monkeypatch):
    """JAX refuses queries, keys and values that are split otherwise, as heads are that others share."""
    given = []
    seen = lambda query, key, value, *_, **how: given.append((query.shape, key.shape, value.shape)) or query
    seen.__signature__ = inspect.signature(stand_in)
    monkeypatch.setattr(MODULE, "dot_product_attention", seen)
    q, k, v, _ = arrays(2)
    F.scaled_dot_product_attention(q, k, v)
    with jax.set_mesh(jax.make_mesh((2,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))):
        F.scaled_dot_product_attention(q, k, v)
        assert "a mesh" in F.explain_attention(q, k, bias=jnp.zeros((T, T), q.dtype)).ruled_out["cudnn"]
    assert given == [(q.shape, k.shape, k.shape), (q.shape,) * 3]


def test_named_on_a_cpu_it_says_what_to_do():
    """It fails within JAX, or is computed by something else."""
    q = jnp.zeros((1, 4, 1, 8), jnp.bfloat16)
    with pytest.raises(ValueError, match="needs an NVIDIA GPU, and this is a cpu; take implementation='auto'"):
        F.scaled_dot_product_attention(q, q, q, implementation="cudnn")
    assert F.explain_attention(q, q).kernel == "reference"
