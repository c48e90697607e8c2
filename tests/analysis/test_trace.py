"""Traces: which operations took longest, and the lines of code that they come from."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tformer_jax.analysis.trace import dearest_operations, instructions

HERE = Path(__file__)


def line_of(text):
    """The number of the line of this file that holds a comment."""
    return next(i for i, line in enumerate(HERE.read_text().splitlines(), 1) if line.endswith(f"# {text}"))


def program(x, layers):
    def layer(x, w):
        return jnp.tanh(x @ w), None  # large product

    x, _ = jax.lax.scan(layer, x, layers)
    return jnp.sort(x.sum(0)).sum()  # small sort


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(program).lower(jnp.ones((256, 512)), jnp.ones((3, 512, 512))).compile()


def source(found):
    return {(one.primitive, Path(one.source.rpartition(":")[0]).name, one.source.rpartition(":")[2]) for one in found}


def test_an_instruction_knows_the_line_of_its_code(compiled):
    """Whoever looks for what takes long would be sent to another line, or to none."""
    found = instructions(compiled.as_text())
    known = source(found.values())
    assert ("dot_general", HERE.name, str(line_of("large product"))) in known
    assert ("sort", HERE.name, str(line_of("small sort"))) in known
    assert any(one.is_container for name, one in found.items() if name.startswith("while"))
    assert not any(one.is_container for name, one in found.items() if name.startswith(("dot", "tanh", "sort")))


@pytest.fixture(scope="module")
def trace(compiled, tmp_path_factory):
    folder, arrays = tmp_path_factory.mktemp("trace"), (jnp.ones((256, 512)), jnp.ones((3, 512, 512)))
    with jax.profiler.trace(str(folder)):
        for _ in range(3):
            compiled(*arrays).block_until_ready()
    return next(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_the_dearest_operation_of_a_trace_is_the_one_that_computes_most(trace, compiled):
    """The table would count a loop and what it runs twice, or miss the product that takes nearly all of the time."""
    found = dearest_operations(trace, [compiled.as_text()], 100)
    assert source(found[:1]) == {("dot_general", HERE.name, str(line_of("large product")))}
    assert [one.seconds for one in found] == sorted((one.seconds for one in found), reverse=True)
    assert sum(one.share for one in found) == pytest.approx(1.0)
    assert not any(one.name.startswith(("while", "call")) for one in found)
    assert dearest_operations(trace, [compiled.as_text()], 2) == found[:2]


def test_what_no_program_is_known_of_is_counted_without_a_line(trace):
    """A trace would end in an error, or leave out what runs beside the step."""
    found = dearest_operations(trace, [], 100)
    assert found and {(one.primitive, one.source) for one in found} == {("-", "-")}


FORMATS = {
    "places in tables": """HloModule jit_f, is_scheduled=true

FileNames
1 "/code/a.py"
2 "/code/b.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=4 end_column=9}
2 {file_name_id=2 function_name_id=1 line=30 end_line=30 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%fused (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %add.1 = f32[2]{0} add(%p, %p), metadata={op_name="jit(f)/jvp/add" stack_frame_id=2}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %fusion = f32[2]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %copy = f32[2]{0} copy(%fusion)
}
""",
    "places in each line": """HloModule jit_f

fused {
  p = f32[2]{0} parameter(0)
  ROOT add.1 = f32[2]{0} add(p, p), metadata={op_name="jit(f)/jvp/add" source_file="/code/b.py" source_line=30}
}

ENTRY main {
  x = f32[2]{0} parameter(0)
  fusion = f32[2]{0} fusion(x), kind=kLoop, calls=fused
  ROOT copy = f32[2]{0} copy(fusion)
}
""",
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_fusion_has_the_line_of_what_was_fused(name):
    """Most of what takes long on a GPU has no line of its own; XLA has written places in two ways."""
    found = instructions(FORMATS[name])
    assert found["add.1"][:2] == found["fusion"][:2] == ("add", "/code/b.py:30")
    assert found["copy"][:2] == found["x"][:2] == ("-", "-")
    assert not re.search("fused|main", " ".join(found))
