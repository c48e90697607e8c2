"""Tables of regular expressions that match the paths of parameters, and whose matching ends.

Python's matcher tries one way after the other. Its time grows exponentially with the text if a group is repeated that
can match in two ways, as in (a|a)*, and with a power of its length as repeats follow each other.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..config import ConfigError

Table = Sequence[Sequence[Any]]  # of pairs, which JSON has as lists

_LONGEST = 200
_MOST_STEPS = 10**9
# About the length of a parameter's path, which every repeat may divide anywhere.
_PLACES = 100
# A group's beginning, a class or an escaped character, a repeat with what makes it lazy or possessive, other syntax.
_PIECE = re.compile(
    r"\((?:\?(?:[:=!]|<[=!]|P<\w+>))?|\\.|\[\^?\]?(?:\\.|[^]\\])*\]|(?:[*+?]|\{[0-9,]*\})[?+]?|.", re.DOTALL
)


def check_table(name: str, table: Any, check: Any) -> None:
    """Refuses what is no table of (regular expression, value), by the field's name; `check(name, value)` the values.

    Raises:
      ConfigError: another shape, or an expression that cannot be; see `check_pattern`.
    """
    pair = (list, tuple)
    if not isinstance(table, pair) or not all(isinstance(row, pair) and len(row) == 2 for row in table):
        raise ConfigError(f"{name} must be a tuple of pairs (regular expression, value), got {table!r}")
    for pattern, value in table:
        check_pattern(name, pattern)
        check(f"{name}: the value of {pattern!r}", value)


def first_match(table: Table, path: str) -> int | None:
    """The number of the first row that matches a whole path."""
    return next((i for i, (pattern, _) in enumerate(table) if re.fullmatch(pattern, path)), None)


def check_rows(name: str, table: Table, paths: Iterable[str]) -> None:
    """Refuses a row that decides nothing, but a last ".*": none matches it, or rows above match all that do.

    Raises:
      ConfigError: names the row.
    """
    used = {first_match(table, path) for path in paths}
    for i, (pattern, _) in enumerate(table):
        if i not in used and (pattern, i) != (".*", len(table) - 1):
            raise ConfigError(
                f"{name}: no parameter is left for {pattern!r}: none matches it, or rows above match all that do"
            )


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def check_pattern(name: str, pattern: Any) -> None:
    """Refuses what is no regular expression, or one that could be matched for minutes, by the field's name.

    Raises:
      ConfigError: it is (says which rule it breaks).
    """
    try:
        if not isinstance(pattern, str):
            raise TypeError("it is no text")
        if len(pattern) > _LONGEST:
            raise ConfigError(f"{name}: a regular expression may have {_LONGEST} characters, got {len(pattern):,}")
        re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{name}: {pattern!r} is no regular expression ({error})") from None
    if _steps(name, pattern) > _MOST_STEPS:
        raise ConfigError(
            f"{name}: {pattern!r} could take minutes to match: "
            "use at most 4 of *, + and {m,n}, and fewer beside many ? and |"
        )


def _steps(name: str, pattern: str) -> int:
    """An upper bound of the ways in which a pattern may match a path."""
    steps, before, alternatives = 1, "", [1]
    for piece in _PIECE.findall(pattern):
        if before == "(" and piece[0] == "?":
            raise ConfigError(
                f"{name}: {pattern!r} has a (?...) other than a group, a named group or a look-around; leave it out"
            )
        if piece[0] == "(":
            alternatives.append(1)
        elif piece == ")":
            steps *= alternatives.pop()
        elif piece == "|":
            alternatives[-1] += 1
        elif piece[0] == "?":
            steps *= 2
        elif piece[0] in "*+" or (re.fullmatch(r"\{[0-9]*,?[0-9]*\}[?+]?", piece) and piece[1] != "}"):
            if before == ")":
                raise ConfigError(
                    f"{name}: {pattern!r} repeats a group and could take minutes to match; only (...)? is allowed"
                )
            steps *= _PLACES
        before = piece
    return steps * alternatives[0]
