"""Generation by Hugging Face's `generate`, with its own cache."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import transformers

from .torch_training import DEVICE


def turn(settings: Mapping[str, Any], prompt: np.ndarray) -> Callable[[], None]:
    """A function that generates all new tokens of all rows."""
    torch.manual_seed(0)
    D, L, heads, V = (settings[name] for name in ("d_model", "layers", "heads", "vocab_size"))
    how = {"max_new_tokens": settings["new"], "min_new_tokens": settings["new"], "pad_token_id": 0, "do_sample": False}
    if settings["task"] == "causal_lm":
        config = transformers.GPT2Config(
            vocab_size=V,
            n_positions=settings["length"],
            n_embd=D,
            n_layer=L,
            n_head=heads,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        sizes = dict(encoder_layers=L, decoder_layers=L, encoder_attention_heads=heads, decoder_attention_heads=heads)
        widths = dict(
            d_model=D, encoder_ffn_dim=4 * D, decoder_ffn_dim=4 * D, max_position_embeddings=settings["length"]
        )
        ends = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1, forced_eos_token_id=None)
        config = transformers.MarianConfig(vocab_size=V, **sizes, **widths, **ends)
        model = transformers.MarianMTModel(config)
    model = model.to(DEVICE).eval()
    if settings.get("sampled"):
        how |= {"do_sample": True, "top_k": 50, "top_p": 0.95}
    if "beams" in settings:
        how |= {"num_beams": settings["beams"]}
    tokens = torch.from_numpy(prompt).long().to(DEVICE)
    mask = torch.ones_like(tokens)

    def generate() -> None:
        with torch.inference_mode():
            model.generate(tokens, attention_mask=mask, **how)

    return generate
