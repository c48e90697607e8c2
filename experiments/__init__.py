"""Command lines: train, evaluate, predict, benchmark."""

import itertools
import sys
import threading

_LOADING = "loading JAX ..."
_is_loaded = threading.Event()


def _tell() -> None:
    for second in itertools.count(1):
        print(f"{_LOADING} {second - 1} s" if second > 1 else _LOADING, end="\r", flush=True)
        if _is_loaded.wait(1.0) or not threading.main_thread().is_alive():
            return


def loaded() -> None:
    """Takes away the line that says what is loaded, if there is one."""
    _is_loaded.set()
    if _teller.ident is not None:
        _teller.join()
        print(" " * (len(_LOADING) + 8), end="\r", flush=True)


_teller = threading.Thread(target=_tell, name="loading")  # loading takes seconds
# A command that begins, as `python -m experiments.NAME`, of which a benchmark leaves that to its contenders.
if sys.argv[:1] == ["-m"] and "experiments.benchmark" not in sys.orig_argv and sys.stdout and sys.stdout.isatty():
    _teller.start()
