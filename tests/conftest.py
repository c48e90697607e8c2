"""Before anything is imported: eight simulated devices, and every shape annotation checked at run time."""

import contextlib
import functools
import gc
import importlib.metadata
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and run little: half of the time would go into optimising what runs once.
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
# XLA's newer emitters of fusions take twice as long to compile, and threads for the parts of a program take from the other
# process of the tests. Where a flag is unknown, XLA aborts: these are for the versions that were tried.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_FLAGS))

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# JAX registers every dialect of MLIR anew for each program that it lowers: a fifth of the time of tests that lower 12,000
# small ones. One context serves them all. JAX's own name, not a public one: where it is gone, tests are only slower.
with contextlib.suppress(ImportError, AttributeError):
    from jax._src.interpreters import mlir

    mlir.make_ir_context = functools.cache(mlir.make_ir_context)

# Where a tracer has no sharding, JAX's error prints the operations that led to it, and Flax asks for one, twice for each
# array that is drawn: 7 % of the time in which a model is made and its step compiled. JAX's own name, as above.
with contextlib.suppress(ImportError, AttributeError):
    from jax._src.interpreters import partial_eval

    _ = partial_eval.DynamicJaxprTracer._origin_msg
    partial_eval.DynamicJaxprTracer._origin_msg = lambda tracer: ""

# Every room whose signatures name shapes. Not `config`: beartype cannot check `typing.Self` one method at a time.
_ROOMS = ("functional", "nn", "models", "decoding", "tasks", "training")
install_import_hook([f"tformer_jax.{room}" for room in _ROOMS], "beartype.beartype")


def pytest_configure(config):
    """What a run of the tests has compiled, the next one finds in pytest's cache: that takes half of the time the first
    time. `--cache-clear` forgets it."""
    if config.pluginmanager.has_plugin("cacheprovider"):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = (
            jax.config.jax_compilation_cache_dir
        )  # of the commands that tests start


def pytest_collection_finish():
    """What was imported stays: the garbage collector, which traces keep busy, need not look at it again."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_terminal_summary(terminalreporter):
    """What a test has counted, and people want to see: `record_property("summary", ...)`."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            if name == "summary":
                terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {value}")


@pytest.fixture(autouse=True, scope="session")
def data_of_the_tests_alone(tmp_path_factory):
    """Tests neither find what the user's data have been made into nor leave something there."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TFORMER_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True, scope="module")
def plugins_of_one_file():
    """What the tests of a file register, those of the next one do not see; rooms that are imported meanwhile stay."""
    registry = importlib.import_module("tformer_jax.registry")
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("tformer_jax")]
    found = [x for module in modules for x in vars(module).values() if isinstance(x, registry.Registry)]
    before = {id(held): set(held) for held in found}
    loaded = dict(registry._loaded)
    yield
    registry._loaded.clear()
    registry._loaded.update(loaded)
    for held in {id(x): x for x in found}.values():
        for name in set(held) - before[id(held)]:
            if "/tformer_jax/" not in held._places[name]:
                del held._things[name], held._places[name]
