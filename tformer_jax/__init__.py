"""Transformers in JAX: pure functions first, Flax modules around them."""

import importlib

__version__ = "0.1.0"

_ROOMS = (
    "analysis", "config", "data", "decoding", "functional", "interop", "models", "nn", "presets", "progress", "registry",
    "sweeps", "tasks", "training",
)  # fmt: skip
# Functions of everyday, by the module that has each.
_FUNCTIONS = {"open_run": "training.opened"}

__all__ = [*_ROOMS, *_FUNCTIONS]


def __getattr__(name: str):
    # Lazily, so that `import tformer_jax.functional` costs jax alone.
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
