"""The models: each a page, each from `tformer_jax.nn`."""

from .transformer import Transformer

__all__ = ["Transformer"]
