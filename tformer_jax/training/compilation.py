"""The cache of compiled programs on disk: what one process has compiled, the next one need not."""

import hashlib
import os
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jaxlib

OFF = "off"
_MOST_BYTES = 4 << 30  # the oldest programs go when there are more


def keep_compiled(folder: str | None = None) -> Path | None:
    """Keeps every program that this process compiles in a folder, and takes from there what is in it already.

    Args:
      folder: by default one in the user's cache folder, for this kind of processor: XLA compiles for all that it can do.
        `OFF`: none. Where JAX was told of a folder (JAX_COMPILATION_CACHE_DIR), the default is that one, as JAX uses it.

    Returns:
      The folder; None if there is none, or it cannot be written.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if folder is None and (told := jax.config.jax_compilation_cache_dir):
        return Path(told)
    place = Path(folder).expanduser() if folder else _default()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(place, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    # A start compiles hundreds of small programs, which together take as long as the large ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return place


def _default() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "tformer_jax" / "compiled" / f"{jaxlib.__version__}-{_processor()}"


def _processor() -> str:
    """A name of what this machine's processors can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    said = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join([platform.machine(), *said]).encode()).hexdigest()[:12]


class Compiling:
    """The time that is spent on tracing and compiling programs, within a context."""

    def __enter__(self) -> "Compiling":
        self._parts: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def seconds(self) -> float:
        """Seconds so far; a program that is traced within another one counts once."""
        return sum((end - begin for begin, end in self._parts), 0.0)

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            now = time.monotonic()
            while self._parts and self._parts[-1][1] > now - duration:  # which was within this one
                self._parts.pop()
            self._parts.append((now - duration, now))
