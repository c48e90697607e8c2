"""One update of a model: loss, gradients, clipping, AdamW; the same function in every library.

Rows are named model-size: "small" is for a CPU, in float32, "large" the published size, for an accelerator, computed in
bfloat16 with float32 parameters. The batch is one of
random tokens or pixels that lies on the device; nothing is dropped out. The FLOPs are those of the products
by formula, three times a forward pass. "gpt2-adapter" is fine-tuning of the whole model, and beside it of an adapter alone.
"""

import functools
import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from . import Row, Work

_ALL = ("torch", "torch.compile", "transformers", "flax")
_SOME = ("torch", "torch.compile", "flax")

_GPT = dict(task="causal_lm", d_model=384, layers=6, heads=6, rows=12, length=256, vocab_size=65)
_BERT = dict(task="masked_lm", d_model=384, layers=6, heads=6, rows=16, length=128, vocab_size=8000)
_CLASSIFIER = _BERT | dict(task="text_classification")
_VIT = dict(task="image_classification", d_model=192, layers=6, heads=3, rows=64, image_size=64, patch_size=8)
_TRANSLATION = dict(task="translation", d_model=256, layers=3, heads=4, rows=32, length=32, vocab_size=4000)
_LARGE = dict(length=1024, vocab_size=50_257, dtype="bfloat16")
_BASE = dict(d_model=768, layers=12, heads=12, dtype="bfloat16")
_PAPER = _BASE | dict(d_model=512, layers=6, heads=8)

ROWS = [
    Row("gpt-small", _GPT, _ALL),
    Row("gpt-small-segments", _GPT | dict(segments=True), _ALL),
    Row("bert-small", _BERT, _ALL),
    Row("classifier-small", _CLASSIFIER, _ALL),
    Row("vit-small", _VIT, _ALL),
    Row("transformer-small", _TRANSLATION, _SOME),
    Row("transformer-tiny", _TRANSLATION | dict(d_model=128, layers=2), _SOME),
    Row("gpt-large", _GPT | _LARGE | _BASE | dict(rows=32), _ALL),
    Row("gpt-larger", _GPT | _LARGE | dict(d_model=1024, layers=24, heads=16, rows=16), _ALL),
    Row("bert-large", _BERT | _BASE | dict(rows=64, length=512, vocab_size=30_522), _ALL),
    Row("classifier-large", _CLASSIFIER | _BASE | dict(rows=64, length=512, vocab_size=30_522), _ALL),
    Row("vit-large", _VIT | _BASE | dict(rows=128, image_size=224, patch_size=16), _ALL),
    Row("gpt2-adapter", _GPT | dict(d_model=768, layers=12, heads=12, rows=4, vocab_size=50_257), ways=("adapter",)),
    Row("transformer-large", _TRANSLATION | _PAPER | dict(rows=128, length=128, vocab_size=37_000), _SOME),
]  # fmt: skip

CLASSES = 10
_ADAPTER = dict(adapter="lora", adapter_rank=8, adapter_on=(".*attention.w_[qv]",))


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names and row.name.endswith(("-small", "-tiny"))]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    flops, count, unit = cost(settings)
    if contender in ("tformer_jax", "adapter"):
        turn = _product(settings, changes, _ADAPTER if contender == "adapter" else {})
    else:
        library, _, how = contender.partition(".")
        peer = importlib.import_module(f"experiments.benchmark.peers.{library}_training")
        turn = peer.train_step(settings, batch(settings), compiled=how == "compile")
    # Of an adapter, nearly no matrix has a gradient.
    return Work(turn, count, unit, (2 if contender == "adapter" else 3) * flops)


def batch(settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name: tokens [B T] and what goes with them, or images [B Y X C] in [-1, 1] with labels [B]."""
    draw, B = np.random.default_rng(0), settings["rows"]
    labels = draw.integers(0, CLASSES, B).astype(np.int32)
    if settings["task"] == "image_classification":
        size = settings["image_size"]
        return {"images": draw.integers(0, 256, (B, size, size, 3)).astype(np.uint8), "labels": labels}
    T = settings["length"]
    tokens = lambda length: draw.integers(4, settings["vocab_size"], (B, length)).astype(np.int32)
    if settings["task"] == "translation":
        return {"source": tokens(T), "target": tokens(T + 1)}
    if settings["task"] == "causal_lm":
        # Documents of a quarter of a row on average, as texts fall into rows when they are packed.
        ends = draw.random((B, T + 1)) < 4 / T
        return {"tokens": tokens(T + 1), "segments": 1 + np.cumsum(ends, axis=1, dtype=np.int32)}
    found = {"tokens": tokens(T), "labels": labels, "masked": np.zeros((B, T), bool)}
    for row in found["masked"]:
        row[draw.permutation(T)[: round(0.15 * T)]] = True
    return found


def model_table(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the product's model, of the architectures that all libraries have."""
    task, D = settings["task"], settings["d_model"]
    table = dict(
        d_model=D, num_layers=settings["layers"], dropout_rate=0.0, attention=dict(num_heads=settings["heads"]),
        feed_forward=dict(width=4 * D, activation="gelu"), init=dict(std=0.02), positions=dict(name="learned"),
    )  # fmt: skip
    if task == "image_classification":
        sizes = {name: settings[name] for name in ("image_size", "patch_size")}
        return table | sizes | dict(num_classes=CLASSES, pooling="mean", layer=dict(norm_position="pre"))
    table |= dict(vocab_size=settings["vocab_size"], max_length=settings["length"] + 1, scale_embeddings=False)
    if task == "causal_lm":
        table |= dict(layer=dict(norm_position="pre"))
        table["feed_forward"]["activation"] = "gelu_tanh"
    elif task == "translation":  # as `torch.nn.Transformer` has it: the paper's, with ReLU
        table["feed_forward"]["activation"] = "relu"
    else:
        table |= dict(embedding_norm=True)
        if task == "text_classification":
            table |= dict(num_classes=CLASSES, pooler=True)
    return table


@functools.cache
def _task(name: str, vocab_size: int | None):
    from tformer_jax.data import tokenizers
    from tformer_jax.data.translation import Tokenizers
    from tformer_jax.tasks import TASKS

    of, planned = TASKS[name], None if vocab_size is None else tokenizers.planned(vocab_size)
    learnt = {
        "tokenizer": planned,
        "tokenizers": Tokenizers(planned, planned),
        "classes": [f"class {number}" for number in range(CLASSES)],
    }
    config = of.Config(label_smoothing=0.0) if hasattr(of.Config, "label_smoothing") else of.Config()
    return of(config, *(learnt[name] for name in of.learnt))


def product(
    settings: Mapping[str, Any], changes: Mapping[str, Any], training: Mapping[str, Any] = MappingProxyType({})
):
    """The project's trainer for these settings, `training` among them, and its batch."""
    from tformer_jax.config import build, merged, nested
    from tformer_jax.training.optimizers import OptimizerConfig
    from tformer_jax.training.program import Program, TrainingConfig
    from tformer_jax.training.trainer import Trainer

    task = _task(settings["task"], settings.get("vocab_size"))
    cls = task.Model.Config
    table = merged(cls, model_table(settings), {"precision": _PRECISION[settings.get("dtype", "float32")]})
    model = build(cls, merged(cls, table, nested(changes)), "model")
    optimizer = build(
        OptimizerConfig,
        dict(name="adamw", learning_rate=3e-4, weight_decay=0.1, clip_norm=1.0, schedule="constant", warmup_steps=0),
        "optimizer",
    )
    training = TrainingConfig(steps=1000, evaluate_every=1000, **training)
    make = lambda rngs: task.Model(model, rngs=rngs)
    return task, model, Trainer(Program(make, task.prepared_loss, training, optimizer, prepare=task.prepare))


_PRECISION = {
    "float32": "params=float32,compute=float32,output=float32",
    "bfloat16": "params=float32,compute=bfloat16,output=float32",
}


def product_batch(settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The batch as the project's tasks take it."""
    found, T = batch(settings), settings.get("length")
    lengths = lambda length: np.full(settings["rows"], length, np.int32)
    if settings["task"] == "translation":
        return found | {"source_lengths": lengths(T), "target_lengths": lengths(T + 1)}
    if settings["task"] == "causal_lm":
        return found if settings.get("segments") else {"tokens": found["tokens"], "lengths": lengths(T + 1)}
    if settings["task"] == "masked_lm":
        return {"tokens": found["tokens"], "lengths": lengths(T)}
    return found if settings["task"] == "image_classification" else found | {"lengths": lengths(T)}


def _product(settings: Mapping[str, Any], changes: Mapping[str, Any], training: Mapping[str, Any]):
    import jax

    task, _, trainer = product(settings, changes, training)
    placed, state = jax.device_put(product_batch(settings)), {"arrays": trainer.initial()}

    def turn() -> None:
        state["arrays"], metrics = trainer.step(state["arrays"], placed)
        jax.block_until_ready((state["arrays"], metrics))

    return turn


def cost(settings: Mapping[str, Any]) -> tuple[float, int, str]:
    """FLOPs of a forward pass; how many tokens or images that is of."""
    B, T, D, L = settings["rows"], settings.get("length"), settings["d_model"], settings["layers"]
    layer = lambda T, S: 2 * B * (2 * T * D * D + 2 * S * D * D) + 4 * B * T * S * D
    feed_forward = lambda T: 2 * B * T * 8 * D * D
    if settings["task"] == "image_classification":
        patches = (settings["image_size"] // settings["patch_size"]) ** 2
        ends = 2 * B * patches * 3 * settings["patch_size"] ** 2 * D
        return L * (layer(patches, patches) + feed_forward(patches)) + ends, B, "images"
    encoder = L * (layer(T, T) + feed_forward(T))
    if settings["task"] == "translation":
        return 2 * encoder + L * layer(T, T) + 2 * B * T * D * settings["vocab_size"], B * T, "tokens"
    if settings["task"] == "causal_lm":
        return encoder + 2 * B * T * D * settings["vocab_size"], B * T, "tokens"
    chosen = round(0.15 * B * T) if settings["task"] == "masked_lm" else 0
    return encoder + 2 * chosen * D * (D + settings["vocab_size"]), B * T, "tokens"
