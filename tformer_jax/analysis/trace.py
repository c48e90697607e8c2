"""The dearest operations in a trace of `jax.profiler`, with the code that they come from."""

import collections
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# They run others, which have times of their own.
_CONTAINERS = r" (?:while|conditional|call)\("
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = ")
_UNKNOWN = "-"


class Operation(NamedTuple):
    """An operation of compiled programs, as often as it ran.

    Attributes:
      name: as the compiler calls it, such as "dot.5".
      seconds: of all its runs together.
      share: of the time of all operations.
      primitive: what it was in JAX, such as "dot_general", the last of several that became one; "-": nobody knows.
      source: "file:line" of the code of that.
    """

    name: str
    seconds: float
    share: float
    primitive: str
    source: str


class Instruction(NamedTuple):
    """An instruction of a program: what it was, where its code is, and whether all that it does is to run others."""

    primitive: str = _UNKNOWN
    source: str = _UNKNOWN
    is_container: bool = False


def dearest_operations(trace: Path, programs: Iterable[str], count: int) -> list[Operation]:
    """The operations that took longest, longest first.

    Args:
      trace: an `xplane.pb`.
      programs: the compiled programs that ran meanwhile, as text (`jax.stages.Compiled.as_text`).
      count: how many, at most.
    """
    from jax.profiler import ProfileData  # here: nobody else needs the reader of protocol buffers

    known: dict[tuple[str, str], Instruction] = {}
    for program in programs:
        module = re.match(r"HloModule ([\w.-]+)", program)[1]
        for name, found in instructions(program).items():
            known.setdefault((module, name), found)
    seconds: collections.Counter[tuple[str, str]] = collections.Counter()
    for operation, took in _events(ProfileData.from_file(str(trace))):
        if not known.get(operation, Instruction()).is_container:
            seconds[operation] += took
    whole, nothing = sum(seconds.values()), Instruction()
    return [
        Operation(operation[1], took, took / whole, *known.get(operation, nothing)[:2])
        for operation, took in seconds.most_common(count)
    ]


def _events(profile: Any) -> Iterator[tuple[tuple[str, str], float]]:
    """The module and the name of each operation that ran, and its seconds."""
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    yield (str(stats.get("hlo_module")), str(stats["hlo_op"])), 1e-9 * event.duration_ns


def instructions(program: str) -> dict[str, Instruction]:
    """The instructions of a compiled program, by name.

    One without a place in the code, such as a call, has that of the last one in what it calls that has any.
    """
    place, found, within, computation = _places(program), {}, {}, ""
    for line in program.splitlines():
        if match := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            computation = match[1]
        elif match := _INSTRUCTION.match(line):
            called, source = re.search(r"(?:calls|to_apply)=%?([\w.-]+)", line), place(line)
            if source is not None:
                within[computation] = named = (_primitive(line), source)
            else:  # computations stand before those that call them
                named = within.get(called[1] if called else "", (_UNKNOWN, _UNKNOWN))
            found[match[1]] = Instruction(*named, bool(re.search(_CONTAINERS, line)))
    return found


def _primitive(line: str) -> str:
    """The last part of "jit(step)/transpose/dot_general"."""
    named = re.search(r'op_name="([^"]*)"', line)
    return named[1].rpartition("/")[2] if named else _UNKNOWN


def _places(program: str) -> Callable[[str], str | None]:
    """A function that gives where the code of an instruction's line is, by the tables at the program's beginning."""
    files = dict(re.findall(r'^(\d+) "(.*)"$', _table(program, "FileNames"), re.M))
    locations = dict(re.findall(r"^(\d+) \{(.*)\}$", _table(program, "FileLocations"), re.M))
    frames = dict(re.findall(r"^(\d+) \{(.*)\}$", _table(program, "StackFrames"), re.M))

    def place(line: str) -> str | None:
        if named := re.search(r'source_file="([^"]*)" source_line=(\d+)', line):
            return f"{_short(named[1])}:{named[2]}"
        frame = re.search(r"stack_frame_id=(\d+)", line)
        if frame is None or frame[1] not in frames:
            return None
        location = _fields(locations[_fields(frames[frame[1]])["file_location_id"]])
        return f"{_short(files[location['file_name_id']])}:{location['line']}"

    return place


def _table(program: str, name: str) -> str:
    """A table of a program: the lines after its name, up to an empty one."""
    return program.partition(f"\n{name}\n")[2].partition("\n\n")[0]


def _fields(text: str) -> Mapping[str, str]:
    return dict(re.findall(r"(\w+)=(\d+)", text))


def _short(file: str) -> str:
    """A file as a person knows it: from here, or from where packages are installed."""
    for folder in (Path.cwd(), Path(sysconfig.get_path("purelib"))):
        if Path(file).is_relative_to(folder):
            return Path(file).relative_to(folder).as_posix()
    return file
