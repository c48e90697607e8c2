"""Training steps of plain Flax NNX: its own modules, attention and optimiser, under `nnx.jit`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Block(nnx.Module):
    def __init__(self, D: int, heads: int, *, pre: bool, cross: bool, activation: Callable, dtype: Any, rngs: nnx.Rngs):
        how = {"dtype": dtype, "rngs": rngs}
        self.attention = nnx.MultiHeadAttention(heads, D, decode=False, **how)
        self.cross = nnx.MultiHeadAttention(heads, D, decode=False, **how) if cross else None
        self.norms = nnx.List(nnx.LayerNorm(D, **how) for _ in range(3 if cross else 2))
        self.up, self.down = nnx.Linear(D, 4 * D, **how), nnx.Linear(4 * D, D, **how)
        self.pre, self.activation = pre, activation

    def __call__(self, x, mask=None, memory=None):
        parts = [lambda y: self.attention(y, mask=mask)]
        if self.cross is not None:
            parts.append(lambda y: self.cross(y, memory))
        parts.append(lambda y: self.down(self.activation(self.up(y))))
        for norm, part in zip(self.norms, parts, strict=True):
            x = x + part(norm(x)) if self.pre else norm(x + part(x))
        return x


class Model(nnx.Module):
    """All five: what a task does not have is not made."""

    def __init__(self, settings: Mapping[str, Any], rngs: nnx.Rngs):
        D, self.task = settings["d_model"], settings["task"]
        dtype = jnp.dtype(settings.get("dtype", "float32"))
        how, V, pre = (
            {"dtype": dtype, "rngs": rngs},
            settings.get("vocab_size"),
            self.task in ("causal_lm", "image_classification"),
        )
        activation = {"causal_lm": nnx.gelu, "translation": nnx.relu}.get(
            self.task, lambda x: nnx.gelu(x, approximate=False)
        )
        block = lambda cross: Block(D, settings["heads"], pre=pre, cross=cross, activation=activation, **how)
        if self.task == "image_classification":
            P = settings["patch_size"]
            self.patches = nnx.Conv(3, D, (P, P), (P, P), padding="VALID", **how)
            places = (settings["image_size"] // P) ** 2
        else:
            self.tokens, places = nnx.Embed(V, D, **how), settings["length"] + 1
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (places, D)))
        self.blocks = nnx.List(block(False) for _ in range(settings["layers"]))
        self.decoder = nnx.List(block(True) for _ in range(settings["layers"] if self.task == "translation" else 0))
        self.norm = nnx.LayerNorm(D, **how)
        if self.task == "masked_lm":
            self.transform, self.transform_norm = nnx.Linear(D, D, **how), nnx.LayerNorm(D, **how)
            self.bias = nnx.Param(jnp.zeros(V))
        if self.task == "text_classification":
            self.transform = nnx.Linear(D, D, **how)
        if self.task in ("text_classification", "image_classification"):
            self.head = nnx.Linear(D, 10, **how)

    def embedded(self, tokens):
        return self.tokens(tokens) + self.positions[...][: tokens.shape[1]]

    def __call__(self, batch):
        """The mean loss."""
        if self.task == "image_classification":
            x = self.patches(batch["images"] / 127.5 - 1)
            x = x.reshape(x.shape[0], -1, x.shape[-1]) + self.positions[...]
            return _loss(self.head(self.norm(self.run(x)).mean(1)), batch["labels"])
        if self.task == "causal_lm":
            tokens = batch["tokens"]
            x = self.run(self.embedded(tokens[:, :-1]), nnx.make_causal_mask(tokens[:, :-1]))
            return _loss(self.tokens.attend(self.norm(x)), tokens[:, 1:])
        if self.task == "translation":
            memory, target = self.run(self.embedded(batch["source"])), batch["target"]
            x, mask = self.embedded(target[:, :-1]), nnx.make_causal_mask(target[:, :-1])
            for block in self.decoder:
                x = block(x, mask, memory)
            return _loss(self.tokens.attend(x), target[:, 1:])
        x = self.run(self.norm(self.embedded(batch["tokens"])))
        if self.task == "text_classification":
            return _loss(self.head(jnp.tanh(self.transform(x[:, 0]))), batch["labels"])
        x = self.transform_norm(
            nnx.gelu(self.transform(x.reshape(-1, x.shape[-1])[batch["chosen"]]), approximate=False)
        )
        return _loss(self.tokens.attend(x) + self.bias[...], batch["targets"])

    def run(self, x, mask=None):
        for block in self.blocks:
            x = block(x, mask)
        return x


def _loss(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets).mean()


def train_step(settings: Mapping[str, Any], batch: Mapping[str, np.ndarray], *, compiled: bool) -> Callable[[], None]:
    """A function that updates the model once; it is compiled in any case."""
    model = Model(settings, nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        model, optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-4, weight_decay=0.1)), wrt=nnx.Param
    )
    arrays = dict(batch)
    if settings["task"] == "masked_lm":
        arrays["chosen"] = np.flatnonzero(arrays["masked"])
        arrays["targets"] = arrays["tokens"].reshape(-1)[arrays["chosen"]]
    arrays = jax.device_put(arrays)

    @nnx.jit
    def step(model, optimizer, batch):
        loss, gradients = nnx.value_and_grad(lambda model: model(batch))(model)
        optimizer.update(model, gradients)
        return loss

    return lambda: step(model, optimizer, arrays).block_until_ready()
