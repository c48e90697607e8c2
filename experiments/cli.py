"""What the command lines share: flags, and errors that are messages rather than tracebacks."""

import re
import sys
from collections.abc import Callable

from absl import app, flags, logging
from rich.console import Console

from tformer_jax.config import ConfigError, TransformerConfig
from tformer_jax.data.files import DataError
from tformer_jax.training.loop import Diverged
from tformer_jax.training.run import RunError

WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")

_console = Console()


def say(*lines: object) -> None:
    """Prints lines as they are, unwrapped."""
    for line in lines:
        _console.print(line, highlight=False, markup=False, soft_wrap=True)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _unknown_field(error: Exception, arguments: list[str]) -> str:
    """What ml_collections means by an AttributeError or a KeyError: a field that the config does not have."""
    text = str(error.args[0])
    missing = re.match(r"\W*(\w+)", text)[1]
    path = next((a[2:].split("=")[0] for a in arguments if re.match(rf"--config\.(\w+\.)*{missing}\b", a)), None)
    if path is None:
        return f"cannot load the config: {text.splitlines()[0]}"
    section = path.split(f".{missing}")[0]
    if nearest := re.search(r'"(\w+)" instead of', text):
        return f"{section} has no field {missing!r}; did you mean {nearest[1]!r}?"
    models = TransformerConfig.models_with(missing) if section == "config.model" else ()
    return f"{section} has no field {missing!r}" + (f", which is for {', '.join(models)}" if models else "")


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`. What a user can put right ends in one line and exit code 1."""

    def guarded(arguments: list[str]) -> None:
        if len(arguments) > 1:
            sys.exit(f"error: unexpected arguments: {' '.join(arguments[1:])}")
        try:
            main()
        except (ConfigError, DataError, RunError, Diverged) as error:
            sys.exit(f"error: {error}")

    def parse(arguments: list[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except flags.UnrecognizedFlagError as error:
            forgotten = "; --config=FILE must come before it" if error.flagname.startswith("config.") else ""
            sys.exit(f"error: {error}{forgotten}")
        except flags.Error as error:  # its last line is the cause; above it stands a traceback of the config file
            sys.exit(f"error: {_last_line(error).removeprefix('tformer_jax.config.ConfigError: ')}")
        except (AttributeError, KeyError) as error:
            sys.exit(f"error: {_unknown_field(error, arguments)}")
        except (OSError, SyntaxError) as error:
            sys.exit(f"error: cannot load the config: {_last_line(error)}")

    # Orbax logs every step of every save.
    logging.set_verbosity(logging.WARNING)
    flags.mark_flag_as_required("workdir")
    app.run(guarded, flags_parser=parse)
