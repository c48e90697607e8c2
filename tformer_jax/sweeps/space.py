"""Search spaces: sets of overrides, as a small algebra of values, grids, draws and their combinations.

    product(over("optimizer.learning_rate", log(1e-4, 1e-2, 7)), over("seed", integers(0, 3)))

An override is a value for a field of the config, by name. The same in text, for a command line: `parse`.
"""

import dataclasses
import itertools
import math
import sys
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..config import ConfigError

Overrides = dict[str, Any]

# Far more than anyone trains, and few enough that all their configs are made and checked within a minute.
MOST_MEMBERS = 10_000
_MOST_INTEGER = 2**63 - 1
_LITERALS = ("None", "True", "False")


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers between two, ends included, evenly spread or (`log`) by their logarithm; or all integers.

    Raises:
      ConfigError: no numbers, none between them, or too far apart for floats; or a logarithm of what is not positive.
    """

    low: float
    high: float
    log: bool = False
    integers: bool = False

    def __post_init__(self):
        ends = (self.low, self.high)
        if not all(type(x) in (int, float) for x in ends):
            raise ConfigError(f"a range must run between two numbers, got {self}")
        if not all(abs(x) <= (_MOST_INTEGER if type(x) is int else sys.float_info.max) for x in ends):
            raise ConfigError(f"a range must run between finite numbers, integers below 2^63, got {self}")
        if not self.low <= self.high:
            raise ConfigError(f"a range must not end below its start, got {self}")
        if self.log and not self.low > 0:
            raise ConfigError(f"a logarithmic range must be of positive numbers, got {self}")
        if not math.isfinite(self.high / self.low if self.log else self.high - self.low):
            raise ConfigError(f"a range's ends are too far apart, got {self}")
        if self.integers and not all(type(x) is int for x in ends):
            raise ConfigError(f"a range of integers must run between two of them, got {self}")

    def __str__(self) -> str:
        if not self.integers:
            return f"{'log' if self.log else 'linear'}({self.low}, {self.high})"
        return f"log({self.low}..{self.high})" if self.log else f"{self.low}..{self.high}"

    def grid(self, count: int) -> tuple[float, ...]:
        """Returns `count` numbers from end to end, those between to 12 digits; integers to the nearest, each once."""
        if type(count) is not int or count < 1 or (count == 1 and self.low != self.high):
            raise ConfigError(f"a grid needs both ends: at least 2 values, got {count!r} of {self}")
        check_size(f"a grid of {self}", count)
        numbers = (np.geomspace if self.log else np.linspace)(self.low, self.high, count)
        if self.integers:
            return tuple(int(x) for x in np.unique(np.rint(numbers)))
        between = (float(f"{x:.12g}") for x in numbers[1:-1])  # 0.004 rather than 0.004000000000000001
        return tuple(dict.fromkeys((float(self.low), *between, float(self.high))))

    def at(self, share: float) -> float:
        """Returns the number below which lies this share of the range, in [0, 1)."""
        low, high = (self.low, self.high + 1) if self.integers else (self.low, self.high)
        number = low * (high / low) ** share if self.log else low + (high - low) * share
        return min(math.floor(number), self.high) if self.integers else float(min(max(number, low), high))


Domain = Range | tuple[Any, ...]


def linear(low: float | Range, high: float | None = None, count: int | None = None) -> Domain:
    """`count` numbers at even distances; without a count the range itself, to draw from or to search.

    `linear(integers(1, 10), 4)` is of integers.
    """
    return _spread(low, high, count, log=False)


def log(low: float | Range, high: float | None = None, count: int | None = None) -> Domain:
    """`count` numbers at even ratios; without a count the range itself. `log(integers(16, 256), 5)` is of integers."""
    return _spread(low, high, count, log=True)


def integers(low: int, high: int) -> Range:
    """All integers from `low` to `high`, both included."""
    return Range(low, high, integers=True)


class Space:
    """A set of overrides. Made by `over` and combined by `product`, `zipped`, `chain`, `random`, `quasi_random`."""

    def members(self) -> list[Overrides]:
        """Returns every set of overrides, in order.

        Raises:
          ConfigError: there are infinitely many, or more than `MOST_MEMBERS`.
        """
        text = str(self)
        check_size(f"the space {text[:60]}{'...' * (len(text) > 60)}", self.size())
        return self._members()

    def size(self) -> int:
        """Returns how many sets of overrides there are, without making them.

        Raises:
          ConfigError: there are infinitely many.
        """
        raise NotImplementedError

    def _members(self) -> list[Overrides]:
        raise NotImplementedError

    def dimensions(self) -> dict[str, Domain]:
        """Returns the domain of each field of a space in which they are independent.

        Raises:
          ConfigError: they are not.
        """
        raise ConfigError(f"{self} ties fields together: draws need a product of independent fields")


@dataclasses.dataclass(frozen=True)
class Field(Space):
    """One field's domain."""

    name: str
    domain: Domain

    def size(self) -> int:
        values = self.domain
        if not isinstance(values, Range):
            return len(values)
        if not values.integers or values.log:
            raise ConfigError(
                f"{self.name}={values} is a range: say how many values, as in {str(values)[:-1]}, 5), or draw from "
                "it with random(...) or quasi_random(...)"
            )
        return values.high + 1 - values.low

    def _members(self) -> list[Overrides]:
        values = self.domain
        return [{self.name: x} for x in (range(values.low, values.high + 1) if isinstance(values, Range) else values)]

    def dimensions(self) -> dict[str, Domain]:
        return {self.name: self.domain}

    def __str__(self) -> str:
        domain = self.domain
        return f"{self.name}={domain if isinstance(domain, Range) else ','.join(map(_written, domain))}"


@dataclasses.dataclass(frozen=True)
class Combination(Space):
    """Several spaces as one; `kind` is "product", "zip" or "chain"."""

    kind: str
    parts: tuple[Space, ...]

    def size(self) -> int:
        sizes = [part.size() for part in self.parts]
        return {"product": math.prod, "zip": max, "chain": sum}[self.kind](sizes)

    def _members(self) -> list[Overrides]:
        parts = [part.members() for part in self.parts]
        if self.kind == "chain":
            return list(itertools.chain(*parts))
        if self.kind == "product":
            return [_merged(members) for members in itertools.product(*parts)]
        if len(set(map(len, parts))) > 1:
            raise ConfigError(f"zip needs spaces of one size, got {', '.join(str(len(part)) for part in parts)}")
        return [_merged(members) for members in zip(*parts, strict=True)]

    def dimensions(self) -> dict[str, Domain]:
        if self.kind != "product":
            return super().dimensions()
        return _merged([part.dimensions() for part in self.parts])

    def __str__(self) -> str:
        return f"{self.kind}({(' | ' if self.kind == 'chain' else '; ').join(map(str, self.parts))})"


@dataclasses.dataclass(frozen=True)
class Draws(Space):
    """`count` draws from a space of independent fields, which follow from a seed and the fields' names."""

    count: int
    space: Space
    seed: int
    quasi: bool

    def size(self) -> int:
        return self.count

    def _members(self) -> list[Overrides]:
        dimensions = self.space.dimensions()
        # By name, and in an order of their own: else fields of two draws in one space would be tied to each other.
        marks = [zlib.crc32(name.encode()) for name in dimensions]
        if self.quasi:
            from scipy.stats import qmc  # here: no command waits for it that does not draw with it

            rng = np.random.default_rng([self.seed, *marks])
            shares = rng.permutation(qmc.Halton(len(marks), rng=rng).random(self.count))
        else:
            columns = [np.random.default_rng([self.seed, mark]).random(self.count) for mark in marks]
            shares = np.stack(columns, axis=1)
        return [{n: _at(d, x) for (n, d), x in zip(dimensions.items(), row, strict=True)} for row in shares.tolist()]

    def __str__(self) -> str:
        return f"{'quasi_random' if self.quasi else 'random'}({self.count}, seed={self.seed}; {self.space})"


def over(name: str, domain: Domain | Sequence[Any]) -> Space:
    """Makes a space of one field's values.

    Args:
      name: "optimizer.learning_rate"; or without its section, where only one has such a field; or "seed", which is
        "training.seed" and "data.order_seed" at once.
      domain: values, or a range.

    Raises:
      ConfigError: no values, or one value twice.
    """
    if not isinstance(domain, Range):
        if isinstance(domain, str) or not isinstance(domain, Iterable):
            raise ConfigError(f"{name} needs a list of values or a range, got {domain!r}")
        domain = tuple(x.item() if isinstance(x, np.generic) else x for x in domain)
        if not domain:
            raise ConfigError(f"{name} has no values: the space is empty")
        check_size(f"the list of values of {name}", len(domain))
        seen = set()
        for value in domain:  # 1 and 1.0 are the same, 1 and True are not; lists and tables have no hash
            key = value if type(value) in (int, float) else (type(value), repr(value))
            if key in seen:
                raise ConfigError(f"{name} has the value {value!r} twice")
            seen.add(key)
    return Field(name, domain)


def product(*spaces: Space) -> Space:
    """Combines every member with every other, the last space's members changing fastest."""
    return _combined("product", spaces)


def zipped(*spaces: Space) -> Space:
    """Combines the first members of all spaces, the second ones, and so on."""
    return _combined("zip", spaces)


def chain(*spaces: Space) -> Space:
    """Joins the members of one space after those of another."""
    return _combined("chain", spaces)


def random(count: int, space: Space, seed: int = 0) -> Space:
    """Draws `count` times, independently, from ranges and values of independent fields (Bergstra & Bengio, 2012)."""
    return _drawn(count, space, seed, quasi=False)


def quasi_random(count: int, space: Space, seed: int = 0) -> Space:
    """Draws like `random`, but by a scrambled Halton sequence, which covers the space more evenly (Owen, 2017)."""
    return _drawn(count, space, seed, quasi=True)


def check_size(what: str, count: int) -> None:
    """Refuses a space that is larger than anyone can train, before it is made.

    Raises:
      ConfigError: it is.
    """
    if count > MOST_MEMBERS:
        found = f"{count:,}" if count < 10**18 else "more than 10^18"
        raise ConfigError(f"{what} has {found} members, but a sweep may have {MOST_MEMBERS:,} at most")


def _combined(kind: str, spaces: Sequence[Space]) -> Space:
    if not spaces:
        raise ConfigError(f"{kind} needs spaces, got none: the space is empty")
    for space in spaces:
        _check_space(kind, space)
    return spaces[0] if len(spaces) == 1 else Combination(kind, tuple(spaces))


def _drawn(count: int, space: Space, seed: int, *, quasi: bool) -> Space:
    if type(count) is not int or count < 1:
        raise ConfigError(f"the number of draws must be a positive integer, got {count!r}: the space is empty")
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"the seed of draws must be an integer that is not negative, got {seed!r}")
    _check_space("draw", space)
    space.dimensions()
    check_size(f"{'quasi_random' if quasi else 'random'}({count}; ...)", count)
    return Draws(count, space, seed, quasi)


def _spread(low: Any, high: Any, count: Any, *, log: bool) -> Domain:
    if isinstance(low, Range):
        if high is not None and count is not None:
            kind = "log" if log else "linear"
            raise ConfigError(f"{kind}({low}) takes one more number, the count of values; got {high} and {count}")
        found, count = dataclasses.replace(low, log=log), high if count is None else count
    else:
        found = Range(low, high, log=log)
    return found if count is None else found.grid(count)


def _check_space(of: str, space: Any) -> None:
    if not isinstance(space, Space):
        raise ConfigError(f"{of} needs spaces, such as over(name, values), got {space!r}")


def _merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = [name for part in parts for name in part]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(twice)} is twice in one product or zip; leave out one of them")
    return {name: value for part in parts for name, value in part.items()}


def _at(domain: Domain, share: float) -> Any:
    """The value below which lies this share of a domain."""
    return domain.at(share) if isinstance(domain, Range) else domain[int(share * len(domain))]


def _written(value: Any) -> str:
    """A value as text that is read as it: a word stands bare."""
    return value if isinstance(value, str) and value.isidentifier() and value not in _LITERALS else repr(value)
