"""The models: each a page, each from `tformer_jax.nn`; `Config` says what it is made of."""

from .causal_lm import CausalLM
from .masked_lm import MaskedLM, TextEncoder
from .text_classifier import TextClassifier
from .transformer import Transformer
from .vision import VisionTransformer

__all__ = ["CausalLM", "MaskedLM", "TextClassifier", "TextEncoder", "Transformer", "VisionTransformer"]
