"""Sentences of docstrings on classes and of their fields, for those who ask at the command line.

The sentence about a field stands under "Attributes:", of its class or of one that this is made from, and nowhere else:
the API reference shows the same.
"""

import functools
import inspect
import re
from collections.abc import Mapping
from typing import Any


def first_sentence(text: str) -> str:
    """Returns the first sentence of a text, on one line."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return re.match(r"(.*?[.!?](?=\s+[^a-z\d\s])|.*)", paragraph)[1]


def summary(thing: Any) -> str:
    """Returns the first sentence of the docstring of a class, a function or a module; "" if it has none of its own."""
    text = thing.__doc__ or ""
    written = not text.startswith(f"{getattr(thing, '__name__', '')}(")  # else a dataclass has its signature there
    return first_sentence(inspect.cleandoc(text)) if written else ""


def sentence_of(cls: type, name: str) -> str:
    """Returns what is said of a field of a class; "" if nothing is."""
    return next((said[name] for base in cls.__mro__ if name in (said := _said_in(base))), "")


@functools.cache
def _said_in(cls: type) -> Mapping[str, str]:
    """The entries under "Attributes:" in a class's own docstring, by name; one entry may be of several."""
    _, _, below = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
    said: dict[str, str] = {}
    names: list[str] = []
    for line in below.splitlines():
        if entry := re.match(r"  (\w+(?:, \w+)*): +(.*)", line):
            names = entry[1].split(", ")
            said |= dict.fromkeys(names, entry[2].strip())
        elif re.match(r"    +\S", line):
            said |= {name: f"{said[name]} {line.strip()}" for name in names}
        else:  # the entry is over, and text that is of none may follow
            names = []
            if re.match(r"\S", line):
                break
    return said
