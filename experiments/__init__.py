"""Command lines: train, evaluate, predict, benchmark."""

import sys

LOADING = "loading JAX ..."  # takes seconds; `cli.run` takes the line away
# A command that begins, as `python -m experiments.NAME`, of which a benchmark leaves that to its contenders.
if sys.argv[:1] == ["-m"] and "experiments.benchmark" not in sys.orig_argv and sys.stdout and sys.stdout.isatty():
    print(LOADING, end="\r", flush=True)
