"""What importing the pure functions costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys, time
import jax, jax.numpy
before, start = set(sys.modules), time.process_time()
import tformer_jax.functional
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "new": sorted(set(sys.modules) - before)}))
"""


@pytest.fixture(scope="module")
def imported():
    """Seconds of CPU time and the modules that `import tformer_jax.functional` adds to `import jax`."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


@pytest.mark.parametrize("package", ["flax", "optax", "orbax", "grain", "torch", "tokenizers", "beartype"])
def test_functional_needs_jax_alone(imported, package):
    """Research code that wants one function pays for a framework."""
    assert not [name for name in imported["new"] if name.split(".")[0] == package]


def test_functional_brings_no_other_room(imported):
    """The pure functions import a room that stands on them; the package itself has the config and its presets."""
    rooms = {name.split(".")[1] for name in imported["new"] if name.startswith("tformer_jax.")}
    assert rooms <= {"functional", "config", "presets", "registry"}


def test_functional_imports_in_under_a_third_of_a_second(imported):
    """`import tformer_jax.functional` costs as much as a framework."""
    assert imported["seconds"] < 0.3
