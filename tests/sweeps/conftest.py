import jax
import pytest
from optuna.storages import RDBStorage


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Where everything of these tests lies."""
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def compiled_once(place):
    """What one run has compiled, another one with the same config finds."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(place / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


@pytest.fixture(scope="session")
def tables(place):
    """A database with Optuna's tables, of which others are copies: to make them takes longer than a pretended trial."""
    RDBStorage(f"sqlite:///{place}/tables.db").engine.dispose()
    return place / "tables.db"
