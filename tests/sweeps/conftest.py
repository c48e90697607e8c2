import pytest
from optuna.storages import RDBStorage
from pictures import assert_picture, figures  # noqa: F401


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Where everything of these tests lies."""
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="session")
def tables(place):
    """A database with Optuna's tables, of which others are copies: to make them takes longer than a pretended trial."""
    RDBStorage(f"sqlite:///{place}/tables.db").engine.dispose()
    return place / "tables.db"
