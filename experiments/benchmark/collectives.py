"""The collectives of a compiled program, read from its text."""

import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_START = "-start"
# Their results are what goes in and what comes out, and maybe more.
_BOTH = ("all-gather-start", "collective-permute-start")

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][a-z\d\-]*)\((.*)")
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"([a-z][a-z\d]*)\[([\d,<=]*)\]")


class Moved(NamedTuple):
    """The number of collectives of a kind that a device runs, and the bytes of all: of what each takes or gives, the larger."""

    count: int = 0
    bytes: int = 0

    def plus(self, other: "Moved", times: int = 1) -> "Moved":
        return Moved(self.count + times * other.count, self.bytes + times * other.bytes)


def collectives(text: str) -> dict[str, Moved]:
    """Counts the collectives that each device runs when it runs a program, by kind, without kinds that it has not.

    What is in a loop counts as often as the compiler knows it to turn, or once if it does not; of a condition, every
    branch counts.

    Args:
      text: of the compiled program, `compiled.as_text()`.
    """
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            lines = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        lines.append(line)
    return {kind: moved for kind, moved in _of(entry, computations).items() if moved.count}


def _of(name: str, computations: dict[str, list[str]]) -> dict[str, Moved]:
    """The collectives of a computation and of all that it calls."""
    total, sizes = dict.fromkeys(KINDS, Moved()), {}
    for result, shape, opcode, rest in _instructions(computations[name]):
        sizes[result] = size_of(shape)
        kind = opcode.removesuffix(_START)
        if kind in KINDS:
            given = re.split(r"\)(?:, |$)", rest)[0]
            taken = sum(sizes[operand] for operand in re.findall(r"%([\w.\-]+)", given))
            gives = size_of(_parts(shape)[1]) if opcode in _BOTH else sizes[result]
            total[kind] = total[kind].plus(Moved(1, max(taken, gives)))
        elif not opcode.endswith(("-done", "-update")):  # which repeat what their start calls
            times = int(found[1]) if opcode == "while" and (found := _TURNS.search(rest)) else 1
            for called in _called(rest, computations):
                inner = _of(called, computations)
                total = {kind: moved.plus(inner[kind], times) for kind, moved in total.items()}
    return total


def _instructions(lines: list[str]) -> Iterator[tuple[str, ...]]:
    """Yields (name, shape, opcode, operands and all else) of each instruction."""
    for line in lines:
        if found := _INSTRUCTION.match(line):
            yield found.groups()


def _called(rest: str, computations: dict[str, list[str]]) -> list[str]:
    names = [name for group in _CALLED.findall(rest) for name in re.findall(r"[\w.\-]+", group)]
    return [name for name in names if name in computations]


def size_of(shape: str) -> int:
    """Returns the bytes of an array, or of all arrays of a tuple: "(f32[4,2]{1,0}, pred[])" has 33."""
    bits = 0
    for dtype, sides in _ARRAY.findall(shape):
        count = 1
        for side in filter(None, sides.replace("<=", "").split(",")):
            count *= int(side)
        found = re.search(r"\d+", dtype)  # bf16, f8e4m3fn, s4; what has no number is a truth value, or nothing
        bits += count * (int(found[0]) if found else 8 if dtype == "pred" else 0)
    return bits // 8


def _parts(shape: str) -> list[str]:
    """The parts of a tuple, which may be tuples: "((f32[1], f32[2]), f32[8])" has two."""
    parts, depth = [""], 0
    for letter in shape.removeprefix("(").removesuffix(")"):
        depth += letter in "([{"
        depth -= letter in ")]}"
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
