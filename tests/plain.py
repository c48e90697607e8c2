"""Pure functions beside the same in plain `jax.numpy`: rows of the table of transformations.

Those of attention are in plain_attention.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from support import normal

import tformer_jax.functional as F

B, T, D, V, H = 4, 3, 3, 5, 4
KEY = jax.random.key(0)
TARGETS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)))
WEIGHTS = jnp.asarray(np.random.default_rng(1).random((B, T)), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A function and what it should be, of arrays with the batch as first axis and of arrays that it shares.

    What has no floats, such as a mask, stands beside floats as where it is used, so that it can be differentiated.
    """

    ours: Callable
    plain: Callable
    batch: tuple[Any, ...]
    shared: tuple[Any, ...] = ()


def times(x, counts):
    """Whole numbers where they are used: no dtype is promoted by that."""
    return x * counts.astype(x.dtype)


def nats(logits, targets, weights=None, smoothing=0.0, z=0.0, classes=None):
    """Cross-entropy, the mean, as it is written down."""
    log_probs = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
    classes = jnp.ones(logits.shape[-1]) if classes is None else classes
    wanted = (1 - smoothing) * jax.nn.one_hot(targets, logits.shape[-1]) + smoothing / logits.shape[-1]
    of_target = (jax.nn.one_hot(targets, logits.shape[-1]) * classes).sum(-1)
    losses = -(classes * wanted * log_probs).sum(-1) + z * of_target * jnp.log(jnp.exp(logits).sum(-1)) ** 2
    weights = of_target * (jnp.ones(targets.shape) if weights is None else weights)
    return (losses * jnp.where(of_target == 0, 0, weights / of_target)).sum() / weights.sum()


def fused_plain(hidden, targets, weights, w_out, b_out, classes, smoothing, z, cap):
    return nats(cap * jnp.tanh((hidden @ w_out + b_out) / cap), targets, weights, smoothing, z, classes)


def fused(hidden, targets, weights, w_out, b_out, classes, smoothing, z, cap):
    how = dict(label_smoothing=smoothing, z_loss=z, logit_softcap=cap, chunk_size=4)
    return F.fused_cross_entropy(hidden, w_out, targets, b_out=b_out, weights=weights, class_weights=classes, **how)


def fused_each(hidden, targets, w_out):
    return F.fused_cross_entropy(hidden, w_out, targets, reduction="none", chunk_size=5)


def each_plain(hidden, targets, w_out):
    return -jnp.take_along_axis(jax.nn.log_softmax(hidden @ w_out), targets[..., None], -1)[..., 0]


def affine(x, w, b):
    return x @ w + b


def normed(x, gamma, beta, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gamma + beta


def kept(x, rate):
    dropped = jnp.round(rate * 2**16)
    keep = jax.random.bits(KEY, x.shape, jnp.uint16) >= lax.stop_gradient(dropped).astype(jnp.uint16)
    return x * keep / lax.stop_gradient(1 - dropped / 2**16)


def mixed(images, targets):
    share_key, partner_key = jax.random.split(KEY)
    rows = len(images)
    l, j = jax.random.beta(share_key, 0.7, 0.7, (rows,)), jax.random.permutation(partner_key, rows)
    return tuple(jnp.einsum("b,b...->b...", l, x) + jnp.einsum("b,b...->b...", 1 - l, x[j]) for x in (images, targets))


def cut(images):
    return jnp.stack([images[:, y : y + 2, x : x + 2].reshape(len(images), -1) for y in (0, 2) for x in (0, 2)], 1)


def shifted(images):
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    starts = jax.random.randint(KEY, (len(images), 2), 0, 3)
    windows = jnp.stack([jnp.stack([padded[:, y : y + 4, x : x + 4] for x in range(3)]) for y in range(3)])
    return windows[starts[:, 0], starts[:, 1], jnp.arange(len(images))]


def tokens_masked(x, tokens, words):
    """80 / 10 / 10 of the chosen; 4 is the mask, 0 is special."""
    choice, fate, other = jax.random.split(KEY, 3)
    chosen = jax.random.uniform(choice, tokens.shape) < 0.5
    masked = jax.vmap(lambda row, where: row[where])(chosen, words) & (tokens != 4) & (tokens != 0)
    drawn, fate = jax.random.randint(other, tokens.shape, 0, 3) + 1, jax.random.uniform(fate, tokens.shape)
    noise = jnp.where(fate < 0.8, 4, jnp.where(fate < 0.9, drawn, tokens))
    return x * jnp.where(masked, noise, tokens), x * masked


def ours_masked(x, tokens, words):
    found = F.mask_tokens(tokens, KEY, mask_id=4, vocab_size=5, special_ids=(0,), rate=0.5, word_ids=words)
    return tuple(times(x, part) for part in found)


X, LOGITS, IMAGES = normal(0, B, T, D), normal(1, B, T, V), normal(2, B, 4, 4, 1)
W1, B1, W2, B2 = normal(3, D, H), normal(4, H), normal(5, H, D), normal(6, D)
NUMBERS = jnp.float32(0.1), jnp.float32(0.02), jnp.float32(3.0)
CLASSES = jnp.asarray([1.0, 0.5, 2.0, 1.0, 0.2])

CASES = {
    "cross_entropy": Case(
        lambda x, y, w, c, s, z: F.cross_entropy(x, y, weights=w, class_weights=c, label_smoothing=s, z_loss=z),
        lambda x, y, w, c, s, z: nats(x, y, w, s, z, c),
        (LOGITS, TARGETS, WEIGHTS),
        (CLASSES, *NUMBERS[:2]),
    ),
    "fused_cross_entropy": Case(
        fused, fused_plain, (X, TARGETS, WEIGHTS), (normal(7, D, V), CLASSES, CLASSES, *NUMBERS)
    ),
    "fused_cross_entropy, none": Case(fused_each, each_plain, (X, TARGETS), (normal(7, D, V),)),
    "causal_lm_loss": Case(F.causal_lm_loss, lambda x, y: nats(x[:, :-1], y[:, 1:]), (LOGITS, TARGETS)),
    "masked_lm_loss": Case(F.masked_lm_loss, nats, (LOGITS, TARGETS, WEIGHTS)),
    "output_logits": Case(
        lambda x, w, b, c: F.output_logits(x, w, b, logit_softcap=c),
        lambda x, w, b, c: c * jnp.tanh((x @ w + b) / c),
        (X,),
        (normal(7, D, V), CLASSES, NUMBERS[2]),
    ),
    "output_log_probs": Case(F.output_log_probs, lambda x, w: jnp.log(jax.nn.softmax(x @ w)), (X,), (normal(7, D, V),)),
    "weighted_mean": Case(F.weighted_mean, lambda x, w: (x * w).sum() / w.sum(), (LOGITS[..., 0], WEIGHTS)),
    "layer_norm": Case(lambda x, g, b, e: F.layer_norm(x, g, b, eps=e), normed, (X,), (W1[:, 0], B2, NUMBERS[0])),
    "rms_norm": Case(
        lambda x, g, e: F.rms_norm(x, g, eps=e),
        lambda x, g, e: x / jnp.sqrt((x**2).mean(-1, keepdims=True) + e) * g,
        (X,),
        (B2, NUMBERS[0]),
    ),
    "feed_forward": Case(
        lambda x, *p: F.feed_forward(x, *p, activation=jnp.tanh),
        lambda x, w1, b1, w2, b2: affine(jnp.tanh(affine(x, w1, b1)), w2, b2),
        (X,),
        (W1, B1, W2, B2),
    ),
    "gated_feed_forward": Case(
        lambda x, g, u, d: F.gated_feed_forward(x, g, u, d, activation=jnp.tanh),
        lambda x, g, u, d: (jnp.tanh(x @ g) * (x @ u)) @ d,
        (X,),
        (W1, 2 * W1, W2),
    ),
    "dropout": Case(lambda x, rate: F.dropout(x, rate, KEY), kept, (X,), (jnp.float32(0.4),)),
    "mixup": Case(lambda x, y: F.mixup(x, y, KEY, 0.7), mixed, (IMAGES, LOGITS[:, 0])),
    "random_flip": Case(
        lambda x: F.random_flip(x, KEY),
        lambda x: jnp.where(jax.random.bernoulli(KEY, 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x),
        (IMAGES,),
    ),
    "random_shift": Case(lambda x: F.random_shift(x, KEY, 1), shifted, (IMAGES,)),
    "patchify": Case(lambda x: F.patchify(x, 2), cut, (IMAGES,)),
    "mask_tokens": Case(
        lambda x, t: ours_masked(x, t, None),
        lambda x, t: tokens_masked(x, t, jnp.broadcast_to(jnp.arange(T), t.shape)),
        (WEIGHTS, TARGETS),
    ),
    "mask_tokens, words": Case(ours_masked, tokens_masked, (WEIGHTS, TARGETS, jnp.sort(TARGETS % T, axis=1))),
}
