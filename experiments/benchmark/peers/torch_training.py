"""Training steps in PyTorch: modules as its users write them, attention by `scaled_dot_product_attention`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Attention(nn.Module):
    def __init__(self, D: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = (y.view(B, T, self.heads, -1).transpose(1, 2) for y in self.qkv(x).split(D, dim=2))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(out.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, D: int, heads: int, *, causal: bool, pre: bool, approximate: str):
        super().__init__()
        self.attention, self.pre = Attention(D, heads, causal), pre
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.feed_forward = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(approximate), nn.Linear(4 * D, D))

    def forward(self, x):
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed_forward(x))


class TextModel(nn.Module):
    """GPT, or BERT with its masked head or with a classifier."""

    def __init__(self, settings: Mapping[str, Any]):
        super().__init__()
        D, V, task = settings["d_model"], settings["vocab_size"], settings["task"]
        causal = task == "causal_lm"
        self.task, self.causal = task, causal
        self.tokens, self.positions = nn.Embedding(V, D), nn.Embedding(settings["length"] + 1, D)
        how = {"causal": causal, "pre": causal, "approximate": "tanh" if causal else "none"}
        self.blocks = nn.ModuleList(Block(D, settings["heads"], **how) for _ in range(settings["layers"]))
        self.norm = nn.LayerNorm(D)  # after the last block of GPT, after the embeddings of BERT
        if task == "masked_lm":
            self.head, self.bias = (
                nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.LayerNorm(D)),
                nn.Parameter(torch.zeros(V)),
            )
        if task == "text_classification":
            self.head = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 10))

    def forward(self, batch):
        tokens = batch["inputs"]
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = x if self.causal else self.norm(x)
        for block in self.blocks:
            x = block(x)
        if self.causal:
            logits = self.norm(x) @ self.tokens.weight.T
            return F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        if self.task == "text_classification":
            return F.cross_entropy(self.head(x[:, 0]), batch["labels"])
        chosen = x.flatten(0, 1).index_select(0, batch["chosen"])  # the chosen tokens alone
        return F.cross_entropy(F.linear(self.head(chosen), self.tokens.weight, self.bias), batch["targets"])


class VisionModel(nn.Module):
    def __init__(self, settings: Mapping[str, Any]):
        super().__init__()
        D, P = settings["d_model"], settings["patch_size"]
        self.patches = nn.Conv2d(3, D, P, P)
        self.positions = nn.Parameter(0.02 * torch.randn((settings["image_size"] // P) ** 2, D))
        how = {"causal": False, "pre": True, "approximate": "none"}
        self.blocks = nn.ModuleList(Block(D, settings["heads"], **how) for _ in range(settings["layers"]))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 10)

    def forward(self, batch):
        x = self.patches(batch["images"]).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x).mean(1)), batch["labels"])


class Translator(nn.Module):
    def __init__(self, settings: Mapping[str, Any]):
        super().__init__()
        D, L, T = settings["d_model"], settings["layers"], settings["length"]
        self.tokens, self.positions = nn.Embedding(settings["vocab_size"], D), nn.Embedding(T + 1, D)
        self.transformer = nn.Transformer(D, settings["heads"], L, L, 4 * D, dropout=0.0, batch_first=True)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(T))

    def forward(self, batch):
        positions = self.positions(torch.arange(batch["source"].shape[1], device=batch["source"].device))
        source, target = (self.tokens(batch[name]) + positions for name in ("source", "inputs"))
        states = self.transformer(source, target, tgt_mask=self.causal, tgt_is_causal=True)
        return F.cross_entropy((states @ self.tokens.weight.T).flatten(0, 1), batch["targets"].flatten())


def tensors(settings: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The batch as a model here takes it, on the device."""
    arrays = {name: torch.from_numpy(x) for name, x in batch.items()}
    if "images" in arrays:
        images = arrays["images"].permute(0, 3, 1, 2).float() / 127.5 - 1
        found = {"images": images, "labels": arrays["labels"].long()}
    elif settings["task"] == "masked_lm":
        chosen = arrays["masked"].flatten().nonzero()[:, 0]
        found = {
            "inputs": arrays["tokens"].long(),
            "chosen": chosen,
            "targets": arrays["tokens"].flatten()[chosen].long(),
        }
    elif settings["task"] == "text_classification":
        found = {"inputs": arrays["tokens"].long(), "labels": arrays["labels"].long()}
    else:
        tokens = arrays["target" if settings["task"] == "translation" else "tokens"].long()
        found = {"inputs": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}
        found |= {"source": arrays["source"].long()} if "source" in arrays else {}
    return {name: x.to(DEVICE) for name, x in found.items()}


def stepping(model: nn.Module, loss: Callable[[], torch.Tensor], dtype: str) -> Callable[[], None]:
    """A function that updates a model once, by its loss."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.1, fused=True)
    low = torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16")

    def step() -> None:
        optimizer.zero_grad()
        with low:
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value.item()

    return step


def train_step(settings: Mapping[str, Any], batch: Mapping[str, np.ndarray], *, compiled: bool) -> Callable[[], None]:
    """A function that updates the model once."""
    torch.manual_seed(0)
    kinds = {"image_classification": VisionModel, "translation": Translator}
    model = kinds.get(settings["task"], TextModel)(settings).to(DEVICE)
    for part in model.modules():
        if isinstance(part, nn.Embedding):  # of the default, N(0, 1), tied logits are so large that gradients underflow
            nn.init.normal_(part.weight, std=0.02)
    called, data = torch.compile(model) if compiled else model, tensors(settings, batch)
    return stepping(model, lambda: called(data), settings.get("dtype", "float32"))
