"""NVIDIA's fused attention, of cuDNN: bfloat16 and float16, O(T + S) memory, on the tensor cores.

Causality, windows before the query, lengths, a bias, and documents that are packed in rows: cuDNN takes those as
sequences of their own, by where each starts and how long it is. It has rules for one reverse derivative alone: forward
mode and second derivatives need `implementation="blockwise"`. Under `vmap` it is called once for each example.

Tested without a GPU, by what is handed to cuDNN and by a stand-in for it; it has not run on a device yet.

Source: Dao, 2023 (FlashAttention-2), which cuDNN implements.
"""

import inspect
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Int

from ..masks import Mask
from ..meshes import is_spread, spread_by_compiler
from ..numbers import is_known
from ..relations import as_ints
from .blockwise import blockwise_attention
from .mapped import one_by_one
from .request import Request, band, first
from .scores import KERNELS, ScoreOptions

# The most documents of a row that the packed layout is made for: one for so many tokens, within limits, since cuDNN
# keeps float32 statistics [B most N T] for the derivative. Rows that hold more are left to "blockwise".
_TOKENS_OF_RUN, _LEAST_RUNS, _MOST_RUNS = 64, 2, 64

_ARGUMENTS = {"query", "key", "value", "bias", "q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets", "scale"}
_ARGUMENTS |= {"mask_type", "sliding_window_length"}


class _Runs(NamedTuple):
    """Sequences [B M] of rows: where each starts, how many queries it has, and how many keys; -1 for none.

    Then the sequence [B T] that each token is in.
    """

    starts: Int[Array, "B M"]
    queries: Int[Array, "B M"]
    keys: Int[Array, "B M"]
    of_token: Int[Array, "B T"]


def refusal(asked: Request) -> str | None:
    """Returns what rules cuDNN's attention out, or None."""
    elsewhere = [(asked.platform != "gpu", f"it needs an NVIDIA GPU, and this is a {asked.platform}")]
    return (
        first(elsewhere)
        or asked.why_dense()
        or first(_of_mask(asked))
        or first(_of_arrays(asked))
        or _of_machine(asked)
    )


def _of_mask(asked: Request) -> list[tuple[Any, str]]:
    mask, (T, S) = asked.mask, asked.lengths
    before, after = band(mask, T, S)
    queries, keys = mask.segment_pair
    return [
        (after not in ((None, 0) if before is None else (0,)), "cuDNN's windows end at the query's own position"),
        (T != S and (before, after) != (None, None), "cuDNN's causality is for as many keys as queries"),
        (T != S and queries is not None, "its packed layout is for as many keys as queries"),
        (queries is not keys, "its packed layout is for queries and keys of the same segments"),
    ]


def _of_arrays(asked: Request) -> list[tuple[Any, str]]:
    q, v, options, bias = asked.q, asked.v, asked.options, asked.bias
    H, dtypes = q.shape[3], {x.dtype for x in (q, asked.k, v)}
    return [
        (not dtypes <= {jnp.dtype("bfloat16"), jnp.dtype("float16")}, f"{q.dtype}: cuDNN's takes bfloat16 and float16"),
        (len(dtypes) > 1, "queries, keys and values must be of one dtype"),
        (q.shape[0] == 0, "there are no rows"),
        (v.shape[3] != H, f"values of a width of their own ({v.shape[3]}, not {H})"),
        (H % 8 or H > 256, f"the head width {H} is no multiple of 8 up to 256"),
        (asked.drops, "cuDNN's dropout has a seed of its own, and would not follow the key"),
        (options.softcap is not None, "it does not cap scores"),
        (not is_known(options.scale) or options.scale <= 0, "its scale must be a known, positive number"),
        (is_spread(q), "its derivative loses how an explicit mesh splits arrays"),
        (bias is not None and spread_by_compiler(), "a bias, with a mesh of several devices"),
        *([] if bias is None else _of_bias(asked)),
    ]


def _of_bias(asked: Request) -> list[tuple[Any, str]]:
    bias, mask, (T, S) = asked.bias, asked.mask, asked.lengths
    return [
        (bias.dtype != asked.q.dtype, f"a bias of {bias.dtype} would be rounded to {asked.q.dtype}"),
        (bias.shape[2:] != (T, S), "a bias that is the same for queries, or keys, would be held as [T S]"),
        (T % 2 or S % 2, "with a bias, the numbers of queries and keys must be even"),
        (mask.segments is not None, "a bias, in its packed layout"),
        (band(mask, T, S)[0] is not None, "a bias, with a window"),
    ]


def _of_machine(asked: Request) -> str | None:
    """Returns what this JAX, or this process's GPU, lacks; of another machine, a Hopper GPU or a later one is assumed."""
    cudnn = _module()
    if cudnn is None:
        return "this JAX has no attention of cuDNN as it is called here"
    if not asked.here:
        return None
    try:
        cudnn.check_cudnn_version()
    except RuntimeError as error:
        return f"{error} pip install 'jax[cuda12]' brings it"
    hopper = cudnn.check_compute_capability("9.0")
    return first(
        [
            (not cudnn.check_compute_capability("8.0"), "it needs an Ampere GPU, or a later one"),
            (not hopper and asked.q.shape[3] > 128, "heads wider than 128 need a Hopper GPU, or a later one"),
            (not hopper and asked.mask.segments is not None, "packed rows need a Hopper GPU, or a later one"),
        ]
    )


def _module() -> ModuleType | None:
    """The module of JAX that calls cuDNN, or None where it has no function of these arguments.

    It is not public. What is, `jax.nn.dot_product_attention(implementation="cudnn")`, calls it without the packed
    layout: documents in a row would see each other.
    """
    try:
        from jax._src.cudnn import fused_attention_stablehlo as module

        known = _ARGUMENTS <= inspect.signature(module.dot_product_attention).parameters.keys()
        needs = module.check_cudnn_version, module.check_compute_capability, module.MaskType.PADDING_CAUSAL
    except (ImportError, AttributeError):
        return None
    return module if known and all(needs) else None


@KERNELS.register("cudnn")
def cudnn_attention(q, k, v, mask: Mask, bias, options: ScoreOptions, key) -> Array:
    """Attends by cuDNN; rows whose segments are no runs, or too many, are left with their whole batch to "blockwise".

    Raises:
      ValueError: something rules it out, see `explain_attention`.
    """
    Request(q, k, v, mask, bias, options, key).check("cudnn", refusal)

    def attend(floats: tuple, mask: Mask) -> Array:
        return (_attend if mask.segments is None else _packed)(*floats, mask, options)

    # JAX's rule for `vmap` knows neither packed rows nor lengths that examples share.
    return one_by_one(attend)((q, k, v, bias), mask)


def _packed(q, k, v, bias, mask: Mask, options: ScoreOptions) -> Array:
    """Attention of documents in rows; there is no bias then."""
    B, T = q.shape[:2]
    segments = jnp.broadcast_to(as_ints(mask.segment_pair[0]), (B, T))
    runs, packed = _runs_of(segments, max(_LEAST_RUNS, min(T // _TOKENS_OF_RUN, _MOST_RUNS)))
    return lax.cond(
        packed,
        lambda q, k, v: _attend(q, k, v, bias, mask, options, runs),
        lambda q, k, v: blockwise_attention(q, k, v, mask, bias, options, None),
        *(q, k, v),
    )


def _runs_of(segments: Int[Array, "B T"], most: int) -> tuple[_Runs, Bool[Array, ""]]:
    """The runs of equal segments, and whether they say all: at most so many in a row, each segment a single run."""
    new = segments[:, 1:] != segments[:, :-1]
    of_token = jnp.pad(jnp.cumsum(new, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))  # [B T]
    place = jnp.arange(most)
    sizes = (of_token[:, None] == place[:, None]).sum(2, dtype=jnp.int32)  # [B M]
    starts = jnp.cumsum(sizes, axis=1, dtype=jnp.int32) - sizes
    there = sizes > 0
    ids = jnp.take_along_axis(segments, jnp.minimum(starts, segments.shape[1] - 1), axis=1)  # [B M]
    again = (ids[:, :, None] == ids[:, None]) & there[:, :, None] & there[:, None] & (place[:, None] < place)
    sizes = jnp.where(there, sizes, -1)
    runs = _Runs(jnp.where(there, starts, -1), sizes, sizes, of_token)
    return runs, (of_token[:, -1] < most).all() & ~again.any()


def _attend(q, k, v, bias, mask: Mask, options: ScoreOptions, runs: _Runs | None = None) -> Array:
    """Attention by cuDNN, of rows as they are or of the runs in them.

    cuDNN says nothing of a query that sees no key, and may leave what it writes for one, or for padding, as the memory
    was. None is left to it: such queries end their run, or have a key, and are zeros here, in value and gradient.
    """
    before, after = band(mask, q.shape[1], k.shape[1])
    padded, packed = mask.lengths is not None, runs is not None
    if packed or spread_by_compiler():  # its offsets count the queries' heads, and meshes must split q, k and v alike
        k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    how, seen = {}, None
    if padded:
        runs, seen, told = _cut(runs or _whole(q, k), as_ints(mask.lengths), before, k.shape[1])
        q, k, v = (jnp.where(x, y, 0) for x, y in ((seen, q), (told, k), (told, v)))
    if bias is not None:
        bias, seen = _finite(bias, mask)  # [#B #N T S], [#B T #N 1]
        q = jnp.where(seen, q, 0)
    if packed:
        starts = jnp.pad(runs.starts, ((0, 0), (0, 1)), constant_values=-1)  # [B M+1]
        how = dict(q_offsets=starts, kv_offsets=starts, q_seqlen=runs.queries, kv_seqlen=runs.keys)
    elif padded:
        how = dict(q_seqlen=runs.queries[:, 0], kv_seqlen=runs.keys[:, 0])
    module = _module()
    name = "_".join(word for word, holds in (("PADDING", how), ("CAUSAL", after == 0)) if holds)
    out = module.dot_product_attention(
        q, k, v, bias, **how,
        scale=float(options.scale),
        mask_type=module.MaskType[name or "NO_MASK"],
        sliding_window_length=None if before is None else before + 1,  # with the query's own key
    )  # fmt: skip
    return out if seen is None else jnp.where(seen, out, 0)


def _whole(q: Array, k: Array) -> _Runs:
    """Rows as one run each."""
    B, T = q.shape[:2]
    size = lambda n: jnp.full((B, 1), n, jnp.int32)
    return _Runs(size(0), size(T), size(k.shape[1]), jnp.zeros((B, T), jnp.int32))


def _cut(
    runs: _Runs, lengths: Int[Array, "B"], before: int | None, S: int
) -> tuple[_Runs, Bool[Array, "B T 1 1"], Bool[Array, "B S 1 1"]]:
    """Runs without the keys that lengths hide, which queries see a key, and which keys are shown.

    Within a run, a window over the queries that see none ends it, since windows move on; where no key is left, the run
    is of one query and one key, whose result is not taken.
    """
    shown = jnp.clip(lengths[:, None] - runs.starts, 0, runs.keys)  # [B M]; -1 where there is no run
    queries = runs.queries if before is None else jnp.minimum(runs.queries, shown + before)
    queries = jnp.where(shown > 0, queries, 0)
    T = runs.of_token.shape[1]
    start, seeing = (jnp.take_along_axis(x, runs.of_token, axis=1) for x in (runs.starts, queries))  # [B T]
    seen = jnp.arange(T) - start < seeing
    told = jnp.arange(S) < lengths[:, None]
    left = [jnp.where(runs.queries < 0, -1, jnp.maximum(x, 1)) for x in (queries, shown)]
    return _Runs(runs.starts, *left, runs.of_token), seen[..., None, None], told[..., None, None]


def _finite(bias: Array, mask: Mask) -> tuple[Array, Bool[Array, "#B T #N 1"]]:
    """A bias without infinities, and which queries see a key that it does not hide."""
    T, S = bias.shape[2:]
    shown = bias > -jnp.inf
    seen = (shown if mask.hides_nothing else shown & mask.tile(0, T, 0, S)).any(3, keepdims=True)  # [#B #N T 1]
    lowest = -(2.0**41) if bias.dtype == jnp.bfloat16 else -(2.0**15)  # as JAX hides by a mask in cuDNN
    return jnp.where(seen, jnp.where(shown, bias, lowest), 0).astype(bias.dtype), seen.transpose(0, 2, 1, 3)
