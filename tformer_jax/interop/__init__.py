"""Checkpoints of Hugging Face's, in and out: `load_pretrained`, `save_pretrained`, and the table of each family.

`load_adapter` and `save_adapter` are for adapters of PEFT's.
"""

from . import families as _families  # noqa: F401  (they register themselves)
from .adapters import load_adapter, save_adapter
from .family import FAMILIES, Family
from .pretrained import Origin, is_pretrained, load_pretrained, read_config, save_pretrained

__all__ = [
    "FAMILIES",
    "Family",
    "Origin",
    "is_pretrained",
    "load_adapter",
    "load_pretrained",
    "read_config",
    "save_adapter",
    "save_pretrained",
]
