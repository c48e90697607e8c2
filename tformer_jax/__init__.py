"""Transformers in JAX: pure functions first, Flax modules around them."""

import importlib

__version__ = "0.1.0"

_ROOMS = (
    "analysis", "config", "data", "decoding", "functional", "models", "nn", "presets", "progress", "registry", "sweeps", "tasks",
    "training",
)  # fmt: skip

__all__ = [*_ROOMS]


def __getattr__(name: str):
    # Lazily, so that `import tformer_jax.functional` costs jax alone.
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
