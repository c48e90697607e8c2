"""A space in one line of text, for a command line.

    optimizer.learning_rate=log(1e-4,1e-2,7); seed=0..3                      every combination
    zip(model.d_model=64,128; model.num_heads=2,4)                           one with one
    model.positions=rotary,alibi | model.window=16,32; seed=0..3             one space after the other
    random(16, seed=1; learning_rate=log(1e-4,1e-2); dropout_rate=linear(0,0.3))
    model.num_layers=1..4; optimizer.learning_rate=log(1e-4,1e-2)            ranges, for a search

A space is terms with ";" between them; "|" binds weaker. A term is `field=values`, or one of product, zip, chain,
random and quasi_random with a space in brackets. Values are Python's literals or bare words, integers `a..b`, and
linear(a,b,count) or log(a,b,count) grids; without a count these are ranges. linear(a..b,count), log(a..b,count) and the
range log(a..b) are of integers.
"""

import ast
import re
from typing import Any

from ..config import ConfigError, nearest
from . import space
from .space import Domain, Range, Space

_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "\"'"
_DEEPEST, _MOST_DIGITS = 20, 18
_COMBINED = {"product": space.product, "zip": space.zipped, "chain": space.chain}
_DRAWN = {"random": space.random, "quasi_random": space.quasi_random}
_RANGES = {"linear": space.linear, "log": space.log}


def parse(text: str) -> Space:
    """Parses a text as the space that it describes.

    Raises:
      ConfigError: it is empty, too large, or cannot be read: says which part.
    """
    return space.chain(*(_product(part) for part in _split(text, "|")))


def _product(text: str) -> Space:
    return space.product(*_terms(text))


def _terms(text: str) -> list[Space]:
    if len(_split(text, "|")) > 1:
        raise ConfigError(f"'|' may stand at the top or in brackets of its own: write chain(... | ...), got {text!r}")
    found = [_term(term) for term in _split(text, ";") if term]
    if not found:
        raise ConfigError(f"a sweep needs fields and their values, got {text!r}: the space is empty")
    return found


def _term(text: str) -> Space:
    if match := re.fullmatch(r"([\w.]+)\s*=(.*)", text, re.DOTALL):
        return space.over(match[1], _domain(match[1], match[2].strip()))
    match = re.fullmatch(r"(\w+)\s*\((.*)\)", text, re.DOTALL)
    if match is None:
        raise ConfigError(f"cannot read {text!r} in a sweep: a term is 'field=values', or zip(...), random(...), ...")
    name, inner = match[1], match[2].strip()
    if name in _DRAWN:
        how, _, fields = inner.partition(";")
        options = re.fullmatch(r"\s*([0-9]+)\s*(?:,\s*seed\s*=\s*([0-9]+)\s*)?", how)
        if options is None:
            raise ConfigError(f"{name} needs a number of draws first, as in {name}(16; ...), got {how.strip()!r}")
        return _DRAWN[name](_integer(name, options[1]), _product(fields), _integer(name, options[2] or "0"))
    if name not in _COMBINED:
        known = nearest(name, [*_COMBINED, *_DRAWN])
        raise ConfigError(f"a sweep has no {name}(...), only {', '.join([*_COMBINED, *_DRAWN])}{known}")
    if name != "chain":
        return _COMBINED[name](*_terms(inner))
    spaces = [_product(part) for part in _split(inner, "|")]
    if len(spaces) == 1:
        raise ConfigError(f"chain needs spaces with '|' between them, got {text!r}")
    return space.chain(*spaces)


def _domain(name: str, text: str) -> Domain:
    """The values of a field, or its range."""
    items = [_item(name, item) for item in _split(text, ",")]
    if len(items) == 1 and isinstance(items[0], Range):
        return items[0]
    values: list[Any] = []
    for item in items:
        if isinstance(item, Range) and (not item.integers or item.log):
            raise ConfigError(f"{name}: {item} is a range, which cannot stand beside values; give it a count of values")
        if isinstance(item, Range):
            space.check_size(f"{name}={item}", item.high + 1 - item.low)
        values += range(item.low, item.high + 1) if isinstance(item, Range) else item
    return tuple(values)


def _item(name: str, text: str) -> Domain:
    """A range, or a tuple of values, often of one."""
    if not text:
        raise ConfigError(f"{name} lacks a value: the space is empty, or there is a comma too many")
    if span := re.fullmatch(r"(-?[0-9]+)\s*\.\.\s*(-?[0-9]+)", text):
        return space.integers(_integer(name, span[1]), _integer(name, span[2]))
    if (call := re.fullmatch(r"(\w+)\s*\((.*)\)", text, re.DOTALL)) and call[1] in _RANGES:
        arguments = [_item(name, argument) for argument in _split(call[2], ",")]
        numbers = [x if isinstance(x, Range) else x[0] for x in arguments]
        try:
            return _RANGES[call[1]](*numbers)
        except TypeError:
            wanted = f"{call[1]}(low, high) or {call[1]}(low, high, count)"
            raise ConfigError(f"{name}: expected {wanted} with numbers, got {text}") from None
    try:
        return (ast.literal_eval(text),)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if re.fullmatch(r"[\w./:~-]+", text):
            return (text,)
        raise ConfigError(f"{name}: cannot read the value {text!r}") from None


def _integer(name: str, digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ConfigError(f"{name}: an integer may have {_MOST_DIGITS} digits, got {len(digits)}")
    return int(digits)


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand in no bracket and no quotes, without the blanks around them."""
    parts, depth, quote, escaped = [""], 0, None, False
    for character in text:
        if quote:
            quote = None if character == quote and not escaped else quote
            escaped = character == "\\" and not escaped
        elif character in _QUOTES:
            quote = character
        else:
            depth += (character in _OPENING) - (character in _CLOSING)
        if depth < 0:
            break
        if depth > _DEEPEST:
            raise ConfigError(f"brackets may be nested {_DEEPEST} deep, got {text[:40]!r}...")
        if character == separator and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    if depth or quote:
        raise ConfigError(f"brackets or quotes do not close in {text!r}")
    return [part.strip() for part in parts]
