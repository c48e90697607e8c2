"""The memory of this process, as the C library gives it to compiled programs."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

import jax

# Parameters of glibc's mallopt: the most blocks outside of its heap, and how much of that may stay free at the end.
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1


def keep_freed_memory() -> bool:
    """Keeps memory that programs free, for the programs that run next; to be called before JAX computes anything.

    XLA takes the temporaries of a program from the C library anew each time it runs. One block of hundreds of MiB comes
    straight from the system, which zeroes each of its pages when it is first touched: a quarter of the processors' time
    in the training step of a small ViT on two cores. The heap of the main thread, which never shrinks then, holds them
    instead: programs run in the thread that calls them, and nothing is dispatched ahead. Memory stays at its highest
    until the process ends.

    Returns:
      Whether it is so: False where the C library is not glibc, or where programs run on an accelerator.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or not _on_cpu():
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def _on_cpu() -> bool:
    """Returns whether JAX will run on the CPU, which it cannot be asked without starting it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return importlib.util.find_spec("libtpu") is None and not importlib.metadata.entry_points(group="jax_plugins")
