"""Splash attention, JAX's own kernel for TPUs: float32 and bfloat16, O(T + S) memory, blocks that a mask hides left out.

Causality, windows, lengths, segments, a cap, and heads that share keys. Lengths become segments: keys that are hidden
have one of their own. Queries that see no key, of which the kernel promises nothing, are given that one too, and are
zeros here. It has rules for one reverse derivative alone: others need `implementation="blockwise"`.

Tested without a TPU, in Pallas' interpreter; it has not run on a device yet.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool

from ..masks import AttentionMask, Mask
from ..meshes import is_checked, spread_by_compiler
from ..numbers import is_known
from ..relations import as_ints
from .request import Request, band, first
from .scores import KERNELS, ScoreOptions

# Blocks of queries, or keys: the widest that divides. Not measured yet.
_BLOCKS = (512, 256, 128)
_HEAD = 64  # a head that is no multiple of it is filled up with zeros


def refusal(asked: Request) -> str | None:
    """Returns what rules splash attention out, or None."""
    elsewhere = [(asked.platform != "tpu", f"it needs a TPU, and this is a {asked.platform}")]
    return first(elsewhere) or asked.why_dense() or first(_hindrances(asked))


def _hindrances(asked: Request) -> list[tuple[Any, str]]:
    q, mask, cap, (T, S) = asked.q, asked.mask, asked.options.softcap, asked.lengths
    dtypes, banded = {x.dtype for x in (q, asked.k, asked.v)}, band(mask, T, S) != (None, None)
    return [
        (not dtypes <= {jnp.dtype("bfloat16"), jnp.dtype("float32")}, f"{q.dtype}: it takes bfloat16 and float32"),
        (len(dtypes) > 1, "queries, keys and values must be of one dtype"),
        (q.shape[0] == 0, "there are no rows"),
        (asked.drops, "it does not drop weights"),
        (asked.bias is not None, "it takes no bias"),
        (cap is not None and not is_known(cap), "its cap must be a known number"),
        (banded and T != S, "its causality and windows are for as many keys as queries"),
        (banded and _differ(mask), "with causality or a window, queries and keys must be of the same segments"),
        (spread_by_compiler(), "no compiler splits it over a mesh: call it in `jax.shard_map(..., check_vma=False)`"),
        (is_checked(q), "it does not say where its results differ: `jax.shard_map` needs check_vma=False"),
        (_module() is None, "this JAX has no splash attention"),
    ]


def _differ(mask: AttentionMask) -> bool:
    """Says whether queries and keys have segments of their own."""
    queries, keys = mask.segment_pair
    return queries is not keys


def _module() -> ModuleType | None:
    """Pallas for TPUs takes long to import, and JAX calls it experimental."""
    try:
        from jax.experimental.pallas.ops.tpu import splash_attention
    except ImportError:
        return None
    return splash_attention


@KERNELS.register("splash")
def splash_attention(q, k, v, mask: Mask, bias, options: ScoreOptions, key) -> Array:
    """Attends by JAX's kernel for TPUs.

    Raises:
      ValueError: something rules it out, see `explain_attention`.
    """
    Request(q, k, v, mask, bias, options, key).check("splash", refusal)
    return attend(q, k, v, mask, options)


def attend(q, k, v, mask: AttentionMask, options: ScoreOptions, interpret: bool = False) -> Array:
    """Attention of what is not ruled out; `interpret`: without a TPU, slowly."""
    (B, T, N, _), (S, Hv) = q.shape, (v.shape[1], v.shape[3])
    widths = _widths(mask, T, S)
    q = (q.astype(jnp.float32) * options.scale).astype(q.dtype)
    heads = [_filled(x, n) for x, n in ((q, widths[0]), (k, widths[1]), (v, widths[1]))]  # [B N T' H']
    segments, seen = None, None
    if mask.lengths is not None or mask.segments is not None or widths != (T, S):
        segments, seen = _segments(mask, (B, T, S), widths)
    kernel = _kernel(mask, options.softcap, N, (T, S), widths, interpret)
    out = jax.vmap(kernel)(*heads, segments).transpose(0, 2, 1, 3)[:, :T, :, :Hv]  # [B T N Hv]
    return out if seen is None else jnp.where(seen[..., None, None], out, 0)


def _widths(mask: AttentionMask, T: int, S: int) -> tuple[int, int]:
    """The lengths T' and S' of whole blocks.

    A query that sees no key finds a hidden one at its own place, or at the end, where there is one more then.
    """
    return _up(T, _BLOCKS[-1]), _up(S + (T != S or _differ(mask)), _BLOCKS[-1])


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _filled(x: Array, length: int) -> Array:
    """Turns [B T N H] into [B N T' H'], with zeros at the ends."""
    B, T, N, H = x.shape
    return jnp.pad(x.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, length - T), (0, _up(H, _HEAD) - H)))


def _segments(
    mask: AttentionMask, sizes: tuple[int, int, int], widths: tuple[int, int]
) -> tuple[Any, Bool[Array, "b T"] | None]:
    """Segments of queries [B T'] and keys [B S'], and which queries see a key, if some may see none.

    One more segment is that of keys which lengths hide, of queries that see none, and of what fills blocks up.
    """
    B, T, S = sizes
    queries, keys = (
        jnp.zeros((B, n), jnp.int32) if x is None else jnp.broadcast_to(as_ints(x), (B, n))
        for x, n in zip(mask.segment_pair, (T, S), strict=True)
    )
    more = jnp.minimum(queries.min(1), keys.min(1))[:, None] - 1  # [B 1]
    seen = None
    if mask.lengths is not None:
        keys = jnp.where(jnp.arange(S) < as_ints(mask.lengths)[:, None], keys, more)
    if mask.lengths is not None or _differ(mask):
        seen = mask.tile(0, T, 0, S).any(3)[:, 0]  # [b T], one reduction of what is never held
        queries = jnp.where(seen, queries, more)
    filled = [
        jnp.concatenate([x, jnp.broadcast_to(more, (B, n - x.shape[1]))], axis=1)
        for x, n in zip((queries, keys), widths, strict=True)
    ]
    return _module().SegmentIds(*filled), seen


def _kernel(
    mask: AttentionMask,
    cap: float | None,
    heads: int,
    lengths: tuple[int, int],
    widths: tuple[int, int],
    interpret: bool,
) -> Any:
    """JAX's kernel for one row of a static mask, which knows the blocks that it leaves out."""
    splash, sides = _module(), band(mask, *lengths)
    relation = splash.FullMask(widths) if sides == (None, None) else splash.LocalMask(widths, sides, offset=0)
    q, kv = (next(block for block in _BLOCKS if width % block == 0) for width in widths)
    blocks = splash.BlockSizes(
        block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv
    )  # fmt: skip
    return splash.make_splash_mha_single_device(
        splash.MultiHeadMask([relation] * heads), block_sizes=blocks, attn_logits_soft_cap=cap, interpret=interpret
    )
