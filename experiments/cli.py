"""What the command lines share: flags, and errors that are messages rather than tracebacks."""

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags
from rich.console import Console

from tformer_jax.config import ConfigError, TransformerConfig
from tformer_jax.data.files import DataError, WriteError
from tformer_jax.training.checkpoints import CheckpointError
from tformer_jax.training.interruption import EXIT_CODE, Interrupted, how_to_go_on
from tformer_jax.training.loop import Diverged
from tformer_jax.training.processes import is_first
from tformer_jax.training.run import RunError
from tformer_jax.training.terminal import Terminal

WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")

_CTRL_C, _CLOSED_PIPE = 130, 141  # as shells have them

_console = Console()
if not _console.is_terminal:
    _console.width = 1000  # a file has no width into which a table must be folded


terminal = Terminal(_console)


def say(*lines: object) -> None:
    """Prints lines as they are, unwrapped, and tables; of several processes, the first does."""
    if is_first():
        terminal.say(*lines)


def last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _refused(error: OSError) -> str:
    """What the system has refused, in one line, with the file, where it is known."""
    if isinstance(error, WriteError):
        return str(error)
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return f"cannot write {error.filename or 'the output'}: {reason}"  # our files have names
    return f"cannot use {error.filename}: {reason}" if error.filename else reason


def _drop_output() -> None:
    """What standard output does not take is not tried, and complained of, once more at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def define_config() -> Callable[[], dict[str, Any]]:
    """The --config flag; gives what reads its value as plain nested dictionaries."""
    flag = config_flags.DEFINE_config_file("config", None, "File and preset: experiments/configs/translation.py:tiny.")

    def config() -> dict[str, Any]:
        try:
            return flag.value.to_dict()
        except (AttributeError, OSError) as error:  # the file could not be read at the flag's parsing, or has no config
            raise ConfigError(f"cannot load the config: {str(error).splitlines()[-1].strip()}") from None

    return config


def config_flags_given() -> list[str]:
    """The --config flag, and those that change its fields, as this command has them."""
    flag = flags.FLAGS["config"]
    changes = config_flags.get_override_values(flag)
    changed = [f"--config.{name}={value}" for name, value in changes.items()]
    return [f"--config={config_flags.get_config_filename(flag)}", *changed]


def _say_unraisable(problem: Any) -> None:
    """Leaves out what threads of a failed write have to say, hundreds of times, when nobody waits for them any more."""
    if str(problem.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(problem)


def run(main: Callable[[], None], *required: str) -> None:
    """Parses the flags, of which some are required, and calls `main`.

    What a user can put right ends in one line and exit code 1; a run that was asked to stop in exit code
    `EXIT_CODE` and in one line that says how to go on.
    """

    def guarded(arguments: list[str]) -> None:
        if len(arguments) > 1:
            sys.exit(f"error: unexpected arguments: {' '.join(arguments[1:])}")
        try:
            main()
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read the output has gone, such as `head`
            _drop_output()
            sys.exit(_CLOSED_PIPE)
        except OSError as error:
            _drop_output()
            sys.exit(f"error: {_refused(error)}")
        except (ConfigError, DataError, RunError, CheckpointError, Diverged) as error:
            sys.exit(f"error: {error}")
        except Interrupted as stopped:
            print(how_to_go_on(stopped), file=sys.stderr)
            sys.exit(EXIT_CODE)
        except KeyboardInterrupt:
            print("interrupted; the same command begins again, or goes on", file=sys.stderr)
            sys.exit(_CTRL_C)

    def parse(arguments: list[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except flags.UnrecognizedFlagError as error:
            forgotten = "; --config=FILE must come before it" if error.flagname.startswith("config.") else ""
            sys.exit(f"error: {error}{forgotten}")
        except flags.Error as error:  # its last line is the cause; above it stands a traceback of the config file
            sys.exit(f"error: {last_line(error).removeprefix('tformer_jax.config.ConfigError: ')}")
        except (AttributeError, KeyError) as error:
            sys.exit(f"error: {_unknown_field(error, arguments)}")
        except (OSError, SyntaxError) as error:
            sys.exit(f"error: cannot load the config: {last_line(error)}")

    sys.unraisablehook = _say_unraisable
    # Of images that are read all the same: odd metadata, and half of the pixels that are too many.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Orbax logs every step of every save, and tracebacks of what it raises as well.
    logging.set_verbosity(logging.FATAL)
    flags.mark_flags_as_required(required)
    app.run(guarded, flags_parser=parse)
