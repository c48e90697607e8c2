"""Attention by itself: outputs and gradients of q, k and v, batch 1, 8 heads of 64; or the outputs alone.

Peers: "torch" is `scaled_dot_product_attention`, "flax" `jax.nn.dot_product_attention`, which Flax attends by.
`tformer_jax@reference` and `tformer_jax@blockwise` are the project's kernels, of which it chooses itself otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import Row, Work

_PEERS = ("torch", "flax")
_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16_384)
_KINDS = {"causal": dict(causal=True), "full": {}, "window": dict(causal=True, window=256), "padded": dict(padded=True)}
ROWS = [
    Row(f"{kind}-{T}{'-forward' if forward else ''}", how | dict(length=T, forward=forward), _PEERS)
    for kind, how in _KINDS.items()
    for T in _LENGTHS
    for forward in (False, True)
]
_BY_DEFAULT = [f"{kind}-{T}" for kind in ("causal", "full") for T in (512, 1024, 2048, 4096)]


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in (names or _BY_DEFAULT)]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    T, N, H = settings["length"], 8, 64
    arrays = [np.random.default_rng(i).standard_normal((1, T, N, H), np.float32) for i in range(4)]
    flops = 4 * T * T * N * H * (1 if settings["forward"] else 3)
    if contender == "torch":
        return Work(_torch(settings, arrays), T, "tokens", flops)
    turn, predicted = _jax(settings, contender, changes, arrays)
    return Work(turn, T, "tokens", flops, predicted)


def _jax(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any], arrays: list[np.ndarray]):
    import jax
    import jax.numpy as jnp

    import tformer_jax.functional as F

    T, window = settings["length"], settings.get("window")
    lengths = jnp.array([T - T // 4]) if settings.get("padded") else None
    causal = settings.get("causal", False)
    if contender == "flax":
        how = dict(is_causal=causal, key_value_seq_lengths=lengths)
        how |= {} if window is None else dict(local_window_size=(window - 1, 0))
        attend = lambda q, k, v: jax.nn.dot_product_attention(q, k, v, **how)
    else:
        mask = F.AttentionMask(causal=causal, window=window, lengths=lengths)
        kernel = next(iter(changes), "auto")
        attend = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask=mask, implementation=kernel)

    def both(q, k, v, d_out):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(d_out)

    q, k, v, d_out = jax.device_put(arrays)
    inputs = (q, k, v) if settings["forward"] else (q, k, v, d_out)
    compiled = jax.jit(attend if settings["forward"] else both).lower(*inputs).compile()
    return lambda: jax.block_until_ready(compiled(*inputs)), compiled.memory_analysis().temp_size_in_bytes


def _torch(settings: Mapping[str, Any], arrays: list[np.ndarray]):
    import torch
    from torch.nn import functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v, d_out = (torch.from_numpy(x).transpose(1, 2).to(device) for x in arrays)  # [B N T H]
    T, window = settings["length"], settings.get("window")
    how: dict[str, Any] = {"is_causal": settings.get("causal", False)}
    index = torch.arange(T, device=device)
    if window is not None:
        ahead = index[:, None] - index
        how = {"attn_mask": (ahead >= 0) & (ahead < window)}
    elif settings.get("padded"):
        how = {"attn_mask": (index < T - T // 4)[None].expand(T, T)}
    if settings["forward"]:

        def turn() -> None:
            with torch.inference_mode():
                F.scaled_dot_product_attention(q, k, v, **how)
            _wait(torch)

        return turn
    for x in (q, k, v):
        x.requires_grad_()

    def both() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, **how), (q, k, v), d_out)
        _wait(torch)

    return both


def _wait(torch: Any) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
