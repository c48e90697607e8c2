"""What the command lines share: flags, and errors that are messages rather than tracebacks."""

import re
import sys
from collections.abc import Callable

from absl import app, flags, logging
from rich.console import Console

from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError
from tformer_jax.training.loop import Diverged
from tformer_jax.training.run import RunError

WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")

_console = Console()


def say(*lines: object) -> None:
    """Prints lines as they are, unwrapped."""
    for line in lines:
        _console.print(line, highlight=False, markup=False, soft_wrap=True)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`. What a user can put right ends in one line and exit code 1."""

    def guarded(arguments: list[str]) -> None:
        if len(arguments) > 1:
            raise app.UsageError(f"unexpected arguments: {' '.join(arguments[1:])}")
        try:
            main()
        except (ConfigError, DataError, RunError, Diverged) as error:
            sys.exit(f"error: {error}")

    def parse(arguments: list[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except flags.Error as error:  # its last line is the cause; above it stands a traceback of the config file
            sys.exit(f"error: {str(error).strip().splitlines()[-1].removeprefix('tformer_jax.config.ConfigError: ')}")
        except (AttributeError, KeyError) as error:  # ml_collections, of a field that the config does not have
            suggestion = re.search(r'"(\w+)" instead of "(\w+)"', str(error.args[0]))
            if suggestion is None:
                sys.exit(f"error: no such config field: {error.args[0]}")
            sys.exit(f"error: no config field {suggestion[2]!r}; did you mean {suggestion[1]!r}?")

    # Orbax logs every step of every save.
    logging.set_verbosity(logging.WARNING)
    flags.mark_flag_as_required("workdir")
    app.run(guarded, flags_parser=parse)
