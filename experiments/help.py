"""The page that `--help` of a command prints: its docstring, its flags, and the configs that it may be given."""

import io
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from absl import flags

from tformer_jax.config.documentation import summary

from .config_files import config_module, example, files, presets_of, shown
from .parsers import found_flags

# The flags that show the page, also with the flags of libraries, or for programs. Absl has them too, with exit code 1.
_ASKED, _FULL, _XML = (
    rf"--?(?:{name})(?:=true)?$" for name in (r"help|helpshort|h|\?|helpfull", "helpfull", "helpxml")
)


def width() -> int:
    """Returns how wide lines may be: as the terminal is, but no wider than is read with ease."""
    return max(40, min(100, shutil.get_terminal_size().columns))


def show(text: str) -> None:
    """Prints a text, as far as standard output takes it: whoever reads it may have gone, such as `head`."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Discards what standard output does not take, so that Python does not complain once more at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def before_dashes(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments up to "--", after which nothing is a flag."""
    return list(arguments[: [*arguments, "--"].index("--")])


def page(
    main: Callable, arguments: Sequence[str], shared: Collection[str] = (), required: Collection[str] = ()
) -> str | None:
    """Returns what a command is to show in place of its work, as its arguments ask for it; None: nothing.

    Args:
      main: a function of the command's module, which has the docstring.
      arguments: the command line.
      shared: names of flags of `experiments.cli` that the command takes.
      required: those that it needs, too.

    Raises:
      ConfigError: a config file is not there.
      Whatever it raises itself.
    """
    given = before_dashes(arguments)[1:]
    if any(re.match(_XML, argument) for argument in given):
        flags.FLAGS.write_help_in_xml_format(text := io.StringIO())
        return text.getvalue()
    if not any(re.match(_ASKED, argument) for argument in given):
        return None
    module = sys.modules[main.__module__]
    parts = [*_prose(module.__doc__), "Flags:", *_flags(shared, required)]
    if "config" in shared:
        parts += [entry("--help_config[=WORD]", _FIELDS), entry("--help", "Show this."), *_configs(module, given)]
    else:
        parts.append(entry("--help", "Show this."))
    if any(re.match(_FULL, argument) for argument in given):
        by_module = flags.FLAGS.flags_by_module_dict()
        others = {flag.name: flag for name, its in by_module.items() if not _is_ours(name) for flag in its}
        parts += ["", "Flags of libraries:", *(_described(others[n], ()) for n in sorted(others.keys() - {"help"}))]
    return "\n".join(parts)


_FIELDS = (
    "With --config: show every field of the config, as the other flags leave it, with its choices and what it is for; "
    "or those that have a word in their name, choices or description, such as --help_config=rate."
)


def without_help_config(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Returns the arguments without --help_config, and the word that it asks for; "": every field; None: nothing."""
    for i, argument in enumerate(before_dashes(arguments)):
        if asked := re.match(r"--?help_config(?:=(.*))?$", argument, re.DOTALL):
            after = [] if asked[1] is not None else [a for a in arguments[i + 1 : i + 2] if not a.startswith("-")]
            return [*arguments[:i], *arguments[i + 1 + len(after) :]], asked[1] or "".join(after)
    return list(arguments), None


def _prose(docstring: str) -> Iterator[str]:
    """A docstring, wrapped: its commands such that they can be pasted."""
    for paragraph in docstring.strip().split("\n\n"):
        lines = textwrap.dedent(paragraph).replace("\\\n", " ").splitlines()
        commands = [" ".join(line.split()) for line in lines if line.lstrip().startswith("python -m ")]
        yield from map(_command, commands) if commands else [textwrap.fill(" ".join(paragraph.split()), width())]
        yield ""


def _command(text: str, indent: str = "    ") -> str:
    """A command line, broken between its arguments where it is too long."""
    lines = [""]
    for part in re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", text):
        if lines[-1] and len(indent) * 2 + len(lines[-1]) + len(part) + 3 > width():
            lines.append("")
        lines[-1] += f" {part}" if lines[-1] else part
    return indent + f" \\\n{indent * 2}".join(lines)


def entry(name: str, *said: str, indent: str = "  ") -> str:
    """A name, and below it what is said of it."""
    text = " ".join(filter(None, said))
    how = {"width": width(), "initial_indent": f"{indent}    ", "subsequent_indent": f"{indent}    "}
    how |= {"break_long_words": False, "break_on_hyphens": False}
    return f"{indent}{name}\n{textwrap.fill(text, **how)}" if text else f"{indent}{name}"


def _own() -> list[flags.Flag]:
    """The flags that the command's modules define, but for those that all commands may share."""
    by_module = flags.FLAGS.flags_by_module_dict()
    mine = [its for name, its in by_module.items() if _is_ours(name) and name != "experiments.cli"]
    return [flag for its in mine for flag in its]


def _is_ours(module: str) -> bool:
    """Returns whether a module, by the name that absl has for it, is the command or one that it shares with others."""
    return module == sys.argv[0] or module.startswith("experiments.")


def _flags(shared: Collection[str], required: Collection[str]) -> Iterator[str]:
    """Lines on each flag, those first that must be given."""
    found = [*(flags.FLAGS[name] for name in shared), *_own()]
    for flag in sorted(found, key=lambda flag: flag.name not in required):
        yield _described(flag, required)


def _described(flag: flags.Flag, required: Collection[str]) -> str:
    default = flag.default
    if isinstance(default, list):
        default = ",".join(map(str, default))
    needed = "Must be given." if flag.name in required else ""
    default = "" if default in (None, "", False) else f"Default: {default}."
    of_absl = r"^<[^>]*>: |;\s+repeat this option to specify.*"  # the choices, which `written` says, and the like
    return entry(written(flag), re.sub(of_absl, "", flag.help or ""), default, needed)


def written(flag: flags.Flag) -> str:
    """Returns how a flag is given: "--workdir=DIRECTORY"."""
    if flag.boolean:
        return f"--no{flag.name}" if flag.default else f"--{flag.name}"
    parser = flag.parser
    if choices := getattr(parser, "enum_values", None):
        return f"--{flag.name}={'|'.join(map(str, choices))}"
    usual = {"int": "INTEGER", "float": "NUMBER", "string": "TEXT"}.get(parser.flag_type(), "TEXT,TEXT,...")
    return f"--{flag.name}={getattr(parser, 'like', usual)}"


def what_to_give(names: Sequence[str]) -> str:
    """Returns which required flags are missing, and how they are given."""
    said = [written(flags.FLAGS[name]) for name in names]
    if "config" in names:
        where = said.index(written(flags.FLAGS["config"]))
        said[where] += f", such as {example()}{',' * (len(said) == 2)}"
        said[-1] += " (--help lists the presets)"
    return f"give {' and '.join(filter(None, (', '.join(said[:-1]), said[-1])))}"


def check_values(arguments: Sequence[str]) -> None:
    """Raises a flags.Error for a flag without its value, as which absl would take the next flag."""
    given = before_dashes(arguments)
    if any(re.match(_ASKED, argument) for argument in given):
        return
    for argument, after in zip(given, [*given[1:], None], strict=True):
        flag = flags.FLAGS[argument.lstrip("-")] if argument.lstrip("-") in flags.FLAGS else None
        if argument.startswith("-") and flag is not None and not flag.boolean and (after is None or _is_flag(after)):
            raise flags.Error(f"--{flag.name} has no value; give {written(flag)}")


def _is_flag(argument: str) -> bool:
    """Returns whether an argument is a flag of the command, and no text that begins with a dash."""
    name = re.match(r"--?(no)?([\w]+)(?:\.[\w.]+)?(?:=.*)?$", argument, re.DOTALL)
    return name is not None and (name[2] in flags.FLAGS or f"{name[1]}{name[2]}" in flags.FLAGS)


def _configs(module: ModuleType, arguments: Sequence[str]) -> Iterator[str]:
    """The presets of the config file that is given, or of each there is; and how to see their fields."""
    given = [value for _, value in found_flags(arguments, "config")]
    for file in given[-1:] or map(str, files()):
        found, path = config_module(file), shown(Path(file.partition(":")[0]))
        yield from ("", *textwrap.wrap(f"{path}: {summary(found)}", width()))
        for name, sentence in presets_of(found).items():
            yield entry(shlex.quote(f"--config={path}:{name}"), sentence)
    config = shlex.quote(f"--config={given[-1] if given else example()}")
    start = f"python -m {module.__spec__.name} {config} --help_config"
    yield from ("", *textwrap.wrap("Fields of a config; those that have to do with a word:", width()), "")
    yield from map(_command, (start, f"{start}=rate"))
