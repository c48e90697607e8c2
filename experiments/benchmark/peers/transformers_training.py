"""Training steps of Hugging Face's PyTorch models, with the loss that they compute themselves."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import transformers

from .torch_training import DEVICE, stepping, tensors


def train_step(settings: Mapping[str, Any], batch: Mapping[str, np.ndarray], *, compiled: bool) -> Callable[[], None]:
    """A function that updates the model once."""
    torch.manual_seed(0)
    model, task = _model(settings).to(DEVICE).train(), settings["task"]
    data = tensors(settings, batch)
    if task == "image_classification":
        how = {"pixel_values": data["images"], "labels": data["labels"]}
    elif task == "causal_lm":  # it shifts the labels itself, and leaves the last logits out
        tokens = torch.from_numpy(batch["tokens"]).long().to(DEVICE)
        how = {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, :-1].contiguous()}
    elif task == "masked_lm":
        labels = torch.full_like(data["inputs"], -100).flatten()
        labels[data["chosen"]] = data["targets"]
        how = {"input_ids": data["inputs"], "labels": labels.view_as(data["inputs"])}
    else:
        how = {"input_ids": data["inputs"], "labels": data["labels"]}
    called = torch.compile(model) if compiled else model
    return stepping(model, lambda: called(**how).loss, settings.get("dtype", "float32"))


def _model(settings: Mapping[str, Any]) -> Any:
    D, L, heads, task = settings["d_model"], settings["layers"], settings["heads"], settings["task"]
    if task == "causal_lm":
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        sizes = {"vocab_size": settings["vocab_size"], "n_positions": settings["length"] + 1}
        config = transformers.GPT2Config(**sizes, n_embd=D, n_layer=L, n_head=heads, **off, use_cache=False)
        return transformers.GPT2LMHeadModel(config)
    sizes = dict(hidden_size=D, num_hidden_layers=L, num_attention_heads=heads, intermediate_size=4 * D)
    off = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if task == "image_classification":
        image = dict(image_size=settings["image_size"], patch_size=settings["patch_size"])
        config = transformers.ViTConfig(**sizes, **off, **image)
        config.num_labels = 10
        return transformers.ViTForImageClassification(config)
    text = dict(vocab_size=settings["vocab_size"], max_position_embeddings=settings["length"] + 1)
    config = transformers.BertConfig(**sizes, **off, **text)
    if task == "masked_lm":
        return transformers.BertForMaskedLM(config)
    config.num_labels = 10
    return transformers.BertForSequenceClassification(config)
