"""Parsers of flag values; a value that cannot be read is refused by the flag's name."""

import dataclasses
import itertools
import math
import re
import typing
from collections.abc import Sequence
from types import NoneType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from tformer_jax.config import COUNT, SEED, Kind, plain_kinds

flags.disclaim_key_flags()  # those that are made here are the command's

# What is counted is an int32 in programs, files and databases.
_MOST = 2**31 - 1


def found_flags(arguments: Sequence[str], name: str) -> list[tuple[str, str]]:
    """Finds flags before they are parsed, as (name, value); `name`: a regular expression of their names.

    A value stands after "=", or else is the next argument.
    """
    pairs = itertools.pairwise([*arguments, ""])
    found = ((re.match(rf"--?({name})(?:=(.*))?$", a, re.DOTALL), b) for a, b in pairs)
    return [(match[1], after if match[2] is None else match[2]) for match, after in found if match]


class _Plain(flags.ArgumentParser):
    """Says what is `wanted`, and refuses digits of other scripts, which Python would read and nobody means."""

    wanted: str

    def convert(self, argument: Any) -> Any:
        try:
            if isinstance(argument, str) and not argument.isascii():
                raise ValueError
            return super().convert(argument)
        except ValueError:
            raise ValueError(f"expected {self.wanted}") from None


class _Integer(_Plain, flags.IntegerParser):
    wanted = "an integer"


class _Number(_Plain, flags.FloatParser):
    wanted = "a finite number"

    def convert(self, argument: Any) -> float:
        if not math.isfinite(number := super().convert(argument)):
            raise ValueError(f"expected {self.wanted}")
        return number


class _Boolean(flags.BooleanParser):
    def parse(self, argument: Any) -> bool:
        try:
            return super().parse(argument)
        except ValueError:
            raise ValueError("expected true or false") from None


class _NotEmpty(flags.ArgumentParser):
    """A text that says something: `--workdir=$RUN` with no $RUN would be the current directory."""

    def __init__(self, like: str):
        self.like = like

    def parse(self, argument: Any) -> str:
        if not argument:
            raise ValueError("expected a text, got an empty one")
        return argument


class Around(flags.ArgumentParser):
    """The parser of a flag, around another one; subclasses say what is done with it."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser, self.syntactic_help = parser, parser.syntactic_help

    def flag_type(self) -> str:
        return self._parser.flag_type()


class _Optional(Around):
    """None, as Python writes it, or what another parser reads. Whether a field may be None, its section says."""

    def parse(self, argument: Any) -> Any:
        return None if argument == "None" else self._parser.parse(argument)


class _Section(flags.ArgumentParser):
    """Refuses a value for a whole section, which would forget all that its preset says."""

    def parse(self, argument: Any) -> Any:
        if isinstance(argument, ConfigDict):  # what it is by default
            return argument
        raise ValueError("this is a section: set a field of it, as in --config.model.attention.window=64")


for _kind, _parser in ((int, _Integer()), (float, _Number()), (str, flags.ArgumentParser()), (bool, _Boolean())):
    config_flags.register_flag_parser_for_type(_kind, _Optional(_parser))
config_flags.register_flag_parser_for_type(ConfigDict, _Section())


def define_switch(name: str, help: str) -> flags.FlagHolder:
    """A flag that is off unless it is given."""
    return flags.DEFINE_flag(flags.Flag(_Boolean(), None, name, False, help, boolean=True))


def define_text(name: str, default: str | None, help: str, like: str = "TEXT") -> flags.FlagHolder:
    """A flag for a path, a name or another text that must not be empty; `like`: how `--help` writes it."""
    return flags.DEFINE(_NotEmpty(like), name, default, help)


def define_list(name: str, default: Sequence[str] | None, help: str, like: str = "TEXT,...") -> flags.FlagHolder:
    """A flag for several of them, separated by commas."""
    parser = flags.ListParser()
    parser.like = like
    return flags.DEFINE(parser, name, default, help, serializer=flags.ListSerializer(","))


def define_texts(name: str, help: str, like: str = "TEXT") -> flags.FlagHolder:
    """A flag for several of them, given several times."""
    return flags.DEFINE_multi(_NotEmpty(like), flags.ArgumentSerializer(), name, None, help)


def define_integer(
    name: str, default: int | None, help: str, *, lowest: int = 1, highest: int = _MOST
) -> flags.FlagHolder:
    """A flag for an integer, most often a count."""
    return flags.DEFINE(_Integer(lowest, highest), name, default, help, serializer=flags.ArgumentSerializer())


def define_number(name: str, default: float | None, help: str) -> flags.FlagHolder:
    """A flag for a finite number."""
    return flags.DEFINE(_Number(), name, default, help, serializer=flags.ArgumentSerializer())


# The bounds of an integer, by what a field wants of it; of another one, the field itself says what is wrong.
_BOUNDS = {COUNT: (1, _MOST), SEED: (0, 2**32 - 1)}


def define_field(name: str, hint: Any, default: Any, kind: Kind) -> None:
    """Makes a flag for a field of a component: a text, a number, a switch, or (`tuple[str, ...]`) several texts."""
    help = kind.help or f"See the field {name}."
    if typing.get_origin(hint) is tuple:
        define_texts(name, help)
        return
    default = None if default is dataclasses.MISSING else default
    (of_type,) = {*plain_kinds(hint)} - {NoneType}
    if of_type is bool:
        define_switch(name, help)
    elif of_type is int:
        lowest, highest = _BOUNDS.get(kind.wanted, (-_MOST, _MOST))
        define_integer(name, default, help, lowest=lowest, highest=highest)
    else:
        {float: define_number, str: define_text}[of_type](name, default, help)
