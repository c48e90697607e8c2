"""Splash attention without a TPU: in Pallas' interpreter against float64 NumPy, and lowered for one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import assert_close, by_day, normal, quick_jit

import tformer_jax.functional as F
from tformer_jax.functional.kernels import splash

B, T, N = 2, 130, 4  # more than a block of 128

IDS = np.array([[-(2**31)] * 60 + [9] * 50 + [0] * 20, [1] * 130])
AGAIN = np.array([[3] * 50 + [9] * 50 + [3] * 30, [1, 2] * 65])
LENGTHS = np.array([40, 0])
MASKS = {
    "nothing": {},
    "causal": dict(causal=True),
    "a window": dict(window=5),
    "a causal window": dict(causal=True, window=5),
    "lengths": dict(lengths=LENGTHS),
    "a window and lengths": dict(window=5, lengths=LENGTHS),
    "segments": dict(segments=IDS),
    "one row of segments": dict(segments=IDS[:1]),
    "segments that come again": dict(causal=True, segments=AGAIN),
    "all of them": dict(causal=True, window=4, segments=AGAIN, lengths=LENGTHS),
}


def interpreted(q, k, v, mask, bias, options, key):
    return splash.attend(q, k, v, mask, options, interpret=True)


def check(fields, S=T, K=2, H=8, Hv=8, **how):
    """Value and gradients are the formula's, and zeros where a query sees nothing."""
    mask = F.AttentionMask(**jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, fields))
    shapes = (B, T, N, H), (B, S, K, H), (B, S, K, Hv), (B, T, N, Hv)
    q, k, v, d_out = (normal(i, *shape) for i, shape in enumerate(shapes))
    attention = lambda *x: F.scaled_dot_product_attention(*x, mask=mask, implementation=interpreted, **how)
    choice = F.explain_attention(q, k, v, mask=mask, platform="tpu", **how)
    assert choice.kernel == "splash", choice

    @quick_jit
    def value_and_gradients(d_out, *x):
        out, pull = jax.vjp(attention, *x)
        return out, *pull(d_out)

    got = value_and_gradients(d_out, q, k, v)
    if "segments" in fields and not isinstance(fields["segments"], tuple):
        fields = fields | {"segments": np.broadcast_to(fields["segments"], (B, T))}
    allowed = np.broadcast_to(oracles.mask_by_loops(B, 1, T, S, **fields), (B, N, T, S))
    how = dict(scale=how.get("scale"), softcap=how.get("logit_softcap"))
    wanted = oracles.attention(q, k, v, allowed, **how), *oracles.attention_gradients(q, k, v, d_out, allowed, **how)
    for name, a, b in zip(("output", "dq", "dk", "dv"), got, wanted, strict=False):
        assert_close(a, b, 2e-5, name)
    nothing = ~allowed.any(3)[:, 0]  # [B T]
    for x in got[:2]:
        np.testing.assert_array_equal(np.asarray(x)[nothing], 0)


@pytest.mark.parametrize("name", by_day(MASKS, 1, 2, 5, 6, 9))
def test_value_and_gradients_are_the_formulas(name):
    """A mask hides other keys, heads share others' keys, or a row without keys is no zeros."""
    check(MASKS[name])


@pytest.mark.parametrize("K", by_day([4, 1], 1))
def test_a_cap_a_scale_and_values_of_another_width(K):
    """The cap is on unscaled scores, a scale is not this one, heads are filled up with what counts."""
    check(dict(causal=True), K=K, Hv=5, logit_softcap=1.5, scale=-0.7)


@pytest.mark.parametrize("fields", by_day([dict(lengths=LENGTHS), dict(segments=(IDS, np.sort(IDS)[:, 2:]))], 1))
def test_more_keys_than_queries_or_segments_of_their_own(fields):
    """A query that sees no key finds none, and divides by 0."""
    check(fields, S=128)


@pytest.mark.parametrize("name", [*MASKS, "segments of their own"])
def test_every_query_that_splash_is_given_sees_a_key(name):
    """JAX's kernel says that it may divide by 0 otherwise, though it need not."""
    fields = MASKS.get(name, dict(segments=(IDS, np.sort(IDS)[:, 2:])))
    S = T if name in MASKS else 128
    mask = F.AttentionMask(**jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, fields))
    segments, _ = splash._segments(mask, (B, T, S), splash._widths(mask, T, S))
    assert segments.q.shape == segments.kv.shape == (B, 256)
    apart = np.arange(256) - np.arange(256)[:, None]
    before, after = (256 if side is None else side for side in splash.band(mask, T, S))
    near = (apart >= -before) & (apart <= after)
    assert (near & (np.asarray(segments.q)[:, :, None] == np.asarray(segments.kv)[:, None])).any(2).all()


@pytest.fixture
def on_tpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


@pytest.mark.parametrize(("dtype", "H"), by_day([(jnp.bfloat16, 128), (jnp.float32, 8)], 0))
def test_the_program_for_a_tpu_calls_splash(on_tpu, dtype, H):
    """The compiler of TPU kernels refuses a block, a width or a dtype."""
    mask = F.AttentionMask(window=5, lengths=jnp.asarray(LENGTHS))
    attend = lambda *x: F.scaled_dot_product_attention(*x, mask=mask).astype(jnp.float32).sum()
    q, k = jnp.zeros((B, T, N, H), dtype), jnp.zeros((B, T, 2, H), dtype)
    text = jax.jit(jax.grad(attend, (0, 1, 2))).trace(q, k, k).lower(lowering_platforms=("tpu",)).as_text()
    assert {"fwd", "dq", "dkv"} <= set(re.findall(r"splash_mha_(\w+?)_segmented", text))


X = jax.ShapeDtypeStruct((B, T, N, 8), jnp.bfloat16)
CAUSAL = F.AttentionMask(causal=True)
RULED_OUT = {
    "float16": dict(q=jax.ShapeDtypeStruct(X.shape, jnp.float16), k=jax.ShapeDtypeStruct(X.shape, jnp.float16)),
    "of one dtype": dict(v=jax.ShapeDtypeStruct(X.shape, jnp.float32)),
    "no bias": dict(bias=jnp.zeros((T, T))),
    "does not drop": dict(key=jax.random.key(0), dropout_rate=0.1),
    "no rows": dict(q=jax.ShapeDtypeStruct((0, T, N, 8), jnp.bfloat16), k=jax.ShapeDtypeStruct((0, T, N, 8), jnp.bfloat16)),
    "as many keys": dict(k=jax.ShapeDtypeStruct((B, 64, N, 8), jnp.bfloat16)),
    "the same segments": dict(mask=F.AttentionMask(causal=True, segments=(jnp.asarray(IDS), jnp.asarray(AGAIN)))),
    "explicit": dict(mask=jnp.ones((T, T), bool)),
    "key_positions": dict(mask=CAUSAL.placed(key_positions=jnp.arange(T))),
}  # fmt: skip


@pytest.mark.parametrize("why", RULED_OUT)
def test_what_splash_cannot_take_is_explained_for_a_tpu(why):
    """A case is taken that it refuses, or computes otherwise than the formula; or another reason is given."""
    choice = F.explain_attention(**(dict(q=X, k=X, mask=CAUSAL) | RULED_OUT[why]), platform="tpu")
    assert choice.kernel in ("reference", "blockwise") and why in choice.ruled_out["splash"]


def test_a_traced_cap_and_meshes_rule_it_out(on_tpu):
    """A number that is not known is a constant of the kernel; a compiler splits it, or results are said not to differ."""
    said = []

    def explained(q, cap=None):
        said.append(F.explain_attention(q, q, logit_softcap=cap))
        return q

    q = jnp.zeros((2, T, 1, 8), jnp.bfloat16)
    jax.eval_shape(explained, q, 2.0)
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        explained(q)
        for checked in (True, False):
            data = jax.P("data")
            jax.eval_shape(jax.shard_map(explained, in_specs=data, out_specs=data, check_vma=checked), q)
    *ruled_out, taken = said
    for choice, why in zip(ruled_out, ("its cap", "no compiler splits it", "check_vma"), strict=True):
        assert why in choice.ruled_out["splash"]
    assert taken.kernel == "splash"


def test_named_on_a_cpu_it_says_what_to_do():
    """It fails within Pallas, or is interpreted."""
    q = jnp.zeros((1, 4, 1, 8))
    with pytest.raises(ValueError, match="needs a TPU, and this is a cpu; take implementation='auto'"):
        F.scaled_dot_product_attention(q, q, q, implementation="splash")
