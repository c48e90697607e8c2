"""Command lines: train, evaluate, predict, benchmark."""

import sys

if sys.argv[:1] == ["-m"] and sys.stdout is not None and sys.stdout.isatty():  # `python -m experiments.NAME`
    print("loading JAX ...", end="\r", flush=True)  # which takes seconds; `cli.run` takes the line away
