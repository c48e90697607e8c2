"""Code that the command lines share: flags, and errors that are messages rather than tracebacks."""

import dataclasses
import errno
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from jax.errors import UnexpectedTracerError
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from tformer_jax.config import ConfigError, class_at, meant, nearest
from tformer_jax.data.files import DataError, WriteError
from tformer_jax.progress import SILENT, Progress
from tformer_jax.registry import load_plugin, plugin_file
from tformer_jax.tasks import TASKS
from tformer_jax.training.checkpoints import CheckpointError
from tformer_jax.training.compilation import OFF, keep_compiled
from tformer_jax.training.directories import RunError
from tformer_jax.training.experiment import other_models, section_classes
from tformer_jax.training.interruption import EXIT_CODE, Interrupted, how_to_go_on
from tformer_jax.training.loop import Diverged
from tformer_jax.training.memory import keep_freed_memory
from tformer_jax.training.pretrained import completed
from tformer_jax.training.processes import is_first
from tformer_jax.training.terminal import Terminal

from . import loaded
from .config_files import check_there, config_module
from .configs.sections import with_choices
from .help import check_values, drop_output, page, show, what_to_give, without_help_config
from .help_config import fields_page
from .parsers import Around, define_integer, define_text, define_texts, found_flags

_CTRL_C, _CLOSED_PIPE = 130, 141  # as shells have them

# Of commands that name them as required or optional; the others refuse them.
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file and preset, such as experiments/configs/translation.py:tiny."
)
PLUGIN = define_texts(
    "plugin", "File or module that registers components, tasks, ...; may be given several times.", like="FILE.py"
)
WORKDIR = define_text("workdir", None, "Directory of the run or sweep.", like="DIRECTORY")
TO = define_text("to", None, "Directory to make; nothing may be there yet.", like="DIRECTORY")
STEP = define_integer("step", None, "Step of the checkpoint to use; by default the newest.")
COMPILED = define_text(
    "compilation_cache", None, "Folder of compiled programs, by default in the user's cache folder; off: none are kept.",
    like="FOLDER",
)  # fmt: skip
_SHARED = (CONFIG, WORKDIR, TO, STEP, PLUGIN, COMPILED)


class _WithChoices(Around):
    """The parser of --config, which chooses components by name before flags set their fields, whatever their order."""

    like = "FILE.py:PRESET"

    def parse(self, argument: str) -> Any:
        check_there(argument)
        config, choices = self._parser.parse(argument), _choices(sys.argv)
        return with_choices(config.to_dict(), choices).lock() if choices and isinstance(config, ConfigDict) else config


flags.FLAGS["config"].parser = _WithChoices(flags.FLAGS["config"].parser)


def _choices(arguments: Sequence[str]) -> dict[str, str]:
    """Finds the components that flags choose: {"model.positions.name": "rotary"}."""
    return {name.removeprefix("config."): value for name, value in found_flags(arguments, r"config\.[\w.]+\.name")}


_console = Console()
if not _console.is_terminal:
    _console.width = 1000  # a file has no width into which a table must be folded


terminal = Terminal(_console)


def say(*lines: object) -> None:
    """Prints lines as they are, unwrapped, and tables; of several processes, the first does."""
    if is_first():
        terminal.say(*lines)


def progress() -> Progress:
    """Returns whom to tell of what takes long: the terminal; of several processes, that of the first."""
    return terminal if is_first() else SILENT


def last_line(error: Exception) -> str:
    """Returns the last line of an error, where the cause stands."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _refused(error: OSError) -> str:
    """Returns in one line what the system refused, with the file, where it is known."""
    if isinstance(error, WriteError):
        return str(error)
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return f"cannot write {error.filename or 'the output'}: {reason}"  # our files have names
    return f"cannot use {error.filename}: {reason}" if error.filename else reason


def _kept(error: UnexpectedTracerError) -> str:
    """Returns in one line which array a component keeps that is none once the program that made it is traced."""
    where = re.search(r"was created on line (\S+?:\d+)\S* \((.*)\)", str(error))
    made = f"an array that {where[2]} makes ({where[1]})" if where else "an array that a component makes"
    return f"{made} is used after it; keep parameters alone, and make other arrays in the call that needs them"


def _config_problem(error: Exception, arguments: Sequence[str]) -> str:
    """Returns why --config or a flag that changes its fields is wrong: an unknown field, or what the file raised."""
    try:
        _, given = found_flags(arguments, "config")[-1]
        found = config_module(given).get_config(*given.split(":", 1)[1:])
        config = with_choices(_as_dict(found, given), _choices(arguments)).to_dict()
    except Exception as error:
        kind = "" if isinstance(error, ConfigError | OSError) else f"{type(error).__name__}: "
        return f"cannot load the config: {kind}{last_line(error)}"
    names = [match[1].split(".") for a in arguments if (match := re.match(r"--?(?:no)?config\.([\w.]+)", a))]
    unknown = next(filter(None, (_unknown_field(config, path) for path in names)), None)
    return unknown or f"cannot load the config: {last_line(error)}"


def _as_dict(found: Any, file: str) -> dict[str, Any]:
    """Returns what a config file has given, as plain nested dictionaries, if it is a config."""
    if not isinstance(found, ConfigDict):
        raise ConfigError(f"get_config() of {file} must return a ConfigDict, got {found!r}")
    return found.to_dict()


def _unknown_field(config: Mapping[str, Any], path: Sequence[str]) -> str | None:
    """Returns a message if a config has no such field, with the field that may be meant; else None."""
    section, where = config, "config"
    for name in path:
        if not isinstance(section, Mapping):
            return f"{where} is no section: it has no field {name!r}"
        if name not in section:
            return f"{where} has no field {name!r}{_meant(config, section, where, name)}"
        section, where = section[name], f"{where}.{name}"
    return None


def _meant(config: Mapping[str, Any], section: Mapping[str, Any], where: str, name: str) -> str:
    """Returns which field may be meant by one that a section does not have."""
    elsewhere = [f"config.{n}.{name}" for n, other in config.items() if isinstance(other, Mapping) and name in other]
    if name in config and section is not config:
        elsewhere.append(f"config.{name}")
    if elsewhere:
        return f"; did you mean {' or '.join(elsewhere)}?"
    section_name, *path = where.removeprefix("config.").split(".")
    task = TASKS.named(config["task"]["name"], "task.name")
    if where == "config.model" and (others := other_models(task, name)):
        return f", which is for {', '.join(others)}"
    classes = section_classes(task)
    if section_name not in classes:
        return nearest(name, section)
    whole = (classes[section_name], f"config.{section_name}")
    if (cls := class_at(classes[section_name], config[section_name], path)) is None:
        return "; a flag cannot add to a table: write it in a config file"
    follows = name in {field.name for field in dataclasses.fields(cls)}
    return "; leave it out, it follows from the data" if follows else meant(cls, name, whole)


def config() -> dict[str, Any]:
    """The value of --config as plain nested dictionaries.

    Raises:
      ConfigError: the file could not be read, or what it gives is no config.
    """
    try:
        found = _as_dict(CONFIG.value, config_flags.get_config_filename(flags.FLAGS["config"]))
        found = with_plugins(found)
    except (AttributeError, OSError) as error:  # of ml_collections, which keeps quiet about it until now
        raise ConfigError(f"cannot load the config: {last_line(error.__cause__ or error)}") from None
    return completed(found, config_flags.get_override_values(flags.FLAGS["config"]), WORKDIR.value)


def with_plugins(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config that names the plugins of --plugin too."""
    plugins = [_resolved(plugin) for plugin in (*config.get("plugins", ()), *(PLUGIN.value or ()))]
    return {**config, "plugins": list(dict.fromkeys(plugins))} if plugins else dict(config)


def check_no_plugins(run: str | Path) -> None:
    """Raises a ConfigError if --plugin is given for a run, and not for a folder of Hugging Face's."""
    if PLUGIN.present:
        raise ConfigError(f"--plugin has no meaning for {run}, a run, which knows its plugins; leave it out")


def _resolved(plugin: str) -> str:
    """A plugin as a run's config keeps it: a file by its whole path, so that it is found from anywhere."""
    file = plugin_file(plugin)
    return plugin if file is None else str(file)


def _load_plugins(arguments: Sequence[str]) -> None:
    """Imports what --plugin names, before a config is read that may choose what it registers."""
    for _, plugin in found_flags(arguments, "plugin"):
        if plugin:
            load_plugin(_resolved(plugin))


def config_flags_given() -> list[str]:
    """The --config flag, those that change its fields and --plugin, as this command has them."""
    flag = flags.FLAGS["config"]
    changes = config_flags.get_override_values(flag)
    changed = [f"--config.{name}={value}" for name, value in changes.items()]
    plugins = [f"--plugin={plugin}" for plugin in PLUGIN.value or ()]
    return [f"--config={config_flags.get_config_filename(flag)}", *changed, *plugins]


def _say_unraisable(problem: Any) -> None:
    """Leaves out what threads of a failed write have to say, hundreds of times, when nobody waits for them any more."""
    if str(problem.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(problem)


def _check_text(arguments: Sequence[str]) -> None:
    """Raises a flags.Error for an argument that is not UTF-8, which nothing could write down or print, or has a NUL."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise flags.Error(f"{argument!r} is not UTF-8") from None
        if "\0" in argument:
            raise flags.Error(f"{argument!r} contains a NUL character; leave it out")


def _end_in_a_line(work: Callable[[], None]) -> None:
    """Does a command's work; what a user can put right, or has asked for, ends in one line and an exit code."""
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone, such as `head`
        drop_output()
        sys.exit(_CLOSED_PIPE)
    except OSError as error:
        drop_output()
        sys.exit(f"error: {_refused(error)}")
    except (ConfigError, DataError, RunError, CheckpointError, Diverged) as error:
        sys.exit(f"error: {error}")
    except UnexpectedTracerError as error:
        sys.exit(f"error: {_kept(error)}")
    except Interrupted as stopped:
        print(how_to_go_on(stopped), file=sys.stderr)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        print("interrupted; run the same command to start again or to go on", file=sys.stderr)
        sys.exit(_CTRL_C)


def _flags_problem(error: Exception, arguments: Sequence[str]) -> str:
    """Returns in one line why flags could not be read."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"{error}{'; put --config=FILE before it' if error.flagname.startswith('config.') else ''}"
    if isinstance(error, ConfigError):
        return str(error)
    if not isinstance(error, flags.Error):  # whatever a config file raises
        return _config_problem(error, arguments)
    # Its last line is the cause; above it stands a traceback of the config file.
    of_file = "cannot load the config: " if "Traceback" in str(error) else ""
    said = last_line(error).removeprefix(f"{ConfigError.__module__}.ConfigError: ")
    return of_file + re.sub(r"^flag --config=.*?: (?=config\.|the config )", "", said)


def _check_given(needed: Iterable[str], taken: Collection[str], word: str | None) -> None:
    """Ends the command if a flag that it needs is not given, or a shared one that it does not take.

    `word`: of --help_config; None: it is not given.
    """
    if missing := [name for name in needed if flags.FLAGS[name].value is None]:
        sys.exit(f"error: {what_to_give(missing)}")
    refused = [flag.name for flag in _SHARED if flag.present and flag.name not in taken]
    if refused := [*refused, *["help_config"] * (word is not None and CONFIG.name not in taken)]:
        why = ": the run knows its plugins" if refused[0] == "plugin" else ""
        sys.exit(f"error: --{refused[0]} has no meaning for this command{why}; leave it out")


def run(
    main: Callable[..., None],
    *required: str,
    optional: Sequence[str] = (),
    before: Callable[[Sequence[str]], None] = lambda arguments: None,
    spared: Callable[[], Sequence[str]] = tuple,
    takes: str = "",
) -> None:
    """Parses the flags, of which some are required, and calls `main`; `before` makes those that depend on others.

    Of the flags that commands share, this one has those that are required and those that are optional. `spared`: those
    of the required ones that the flags given can do without. `takes`: what the arguments are that have no flag, with
    which `main` is called; "": there must be none.

    What a user can put right ends in one line and exit code 1; a run that was asked to stop in exit code
    `EXIT_CODE` and in one line that says how to go on.
    """

    def guarded(arguments: list[str]) -> None:
        if len(arguments) > 1 and not takes:
            sys.exit(f"error: unexpected arguments: {' '.join(arguments[1:])}")
        _end_in_a_line(lambda: main(*([arguments[1:]] if takes else [])))

    def parse(arguments: list[str]) -> list[str]:
        nonlocal main
        try:
            _check_text(arguments)
            check_values(arguments)
            _load_plugins(arguments)
            before(arguments)
            if (text := page(main, arguments, [f.name for f in _SHARED if f.name in taken], required)) is not None:
                main = lambda *_: show(text)
                return flags.FLAGS(arguments[:1])
            arguments, word = without_help_config(arguments)
            rest = flags.FLAGS(arguments)
        except Exception as error:
            sys.exit(f"error: {_flags_problem(error, arguments)}")
        needed = [n for n in required if n not in spared()] if word is None else {CONFIG.name} & {*required}
        _check_given(needed, taken, word)
        if word is not None:
            main = lambda *_: show(fields_page(config(), word))
        elif keep_compiled(COMPILED.value) is None and COMPILED.value not in (None, OFF):
            sys.exit(f"error: --compilation_cache={COMPILED.value} is no folder that can be written; give another")
        return rest

    taken = {*required, *optional, COMPILED.name}
    loaded()
    keep_freed_memory()
    sys.unraisablehook = _say_unraisable
    # Of images that are read all the same: odd metadata, and half of the pixels that are too many.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Orbax logs every step of every save, and tracebacks of what it raises as well.
    logging.set_verbosity(logging.FATAL)
    app.run(guarded, flags_parser=parse)
