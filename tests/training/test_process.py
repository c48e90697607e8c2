"""What a command sets for its whole process, in processes of their own."""

import os
import subprocess
import sys

from tformer_jax.training.compilation import OFF

KEEPS = """
import resource, jax, jax.numpy as jnp
from tformer_jax.training.memory import keep_freed_memory
assert keep_freed_memory()
x = jnp.ones((1000, 1000))
program = jax.jit(lambda x: jax.lax.sort(jnp.sin(x)[None] + jnp.arange(40.0)[:, None, None]).sum())
for _ in range(2):
    jax.block_until_ready(program(x))
faults = []
for _ in range(3):  # what else goes on in the process may lie in the way of one
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(program(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults), program.lower(x).compile().memory_analysis().temp_size_in_bytes)
"""

COMPILES = """
import sys, jax, jax.numpy as jnp
from tformer_jax.training.compilation import keep_compiled
print(keep_compiled(*sys.argv[1:]))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
"""


def run(code, *arguments, **environment):
    environment = {
        n: x for n, x in os.environ.items() if n not in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    } | environment
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_memory_that_a_program_frees_serves_its_next_run():
    """The system zeroes hundreds of MiB anew at every step."""
    faults, temporaries = map(int, run(KEEPS, JAX_PLATFORMS="cpu").split())
    assert temporaries > 100 << 20 and faults < temporaries / 4096 / 10


def test_compiled_programs_are_kept_in_the_users_cache_folder(tmp_path):
    """Each start compiles everything anew, or the folder is one of another kind of processor."""
    place = run(COMPILES, XDG_CACHE_HOME=str(tmp_path))
    assert place.startswith(str(tmp_path / "tformer_jax")) and any("lambda" in name for name in os.listdir(place))


def test_a_folder_is_given_or_none(tmp_path):
    """A flag has no effect."""
    assert run(COMPILES, str(tmp_path / "mine")) == str(tmp_path / "mine") and os.listdir(tmp_path / "mine")
    assert run(COMPILES, OFF, XDG_CACHE_HOME=str(tmp_path / "home")) == "None" and not (tmp_path / "home").exists()


def test_what_jax_was_told_stays(tmp_path):
    """A folder that a user has set for all programs is not used."""
    assert run(COMPILES, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "told")) == str(tmp_path / "told")
