"""The memory of this process, as the C library gives it to compiled programs."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

# Parameters of glibc's mallopt: arenas in all, blocks outside of them, and how much may stay free at the end.
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1


def keep_freed_memory() -> bool:
    """Keeps memory that programs free, for the programs that run next; to be called before JAX starts its threads.

    XLA takes the temporaries of a program from the C library anew each time it runs. One block of hundreds of MiB comes
    straight from the system, and each of its pages is zeroed by it when it is first touched: of the training step of a
    small ViT on two cores this is a quarter of the processors' time. One arena that never shrinks holds them instead.
    Memory then stays at its highest until the process ends.

    Returns:
      Whether it is so: False where the C library is not glibc, or where programs run on an accelerator.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or not _on_cpu():
        return False
    return all(mallopt(name, value) for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))


def _on_cpu() -> bool:
    """Returns whether JAX will run on the CPU, which it cannot be asked before its threads have started."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return importlib.util.find_spec("libtpu") is None and not importlib.metadata.entry_points(group="jax_plugins")
