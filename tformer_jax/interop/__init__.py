"""Checkpoints of Hugging Face's, in and out: `load_pretrained`, `save_pretrained`, and the table of each family."""

from . import families as _families  # noqa: F401  (they register themselves)
from .family import FAMILIES, Family
from .pretrained import Origin, load_pretrained, save_pretrained

__all__ = ["FAMILIES", "Family", "Origin", "load_pretrained", "save_pretrained"]
