"""Parameters by name: their paths, and tables of what matches them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from ..config import ConfigError
from .patterns import check_pattern

Table = Sequence[Sequence[Any]]  # of pairs, which JSON has as lists


def path_name(path: tuple) -> str:
    """ "model.decoder.layers.attention.w_q": NNX wraps each array in a `value`, which says nothing."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def by_path(function: Any, tree: Any) -> Any:
    """The tree of `function(path, leaf)`, where a path is its name."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_name(path), leaf), tree)


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


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
