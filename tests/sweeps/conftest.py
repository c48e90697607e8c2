import pytest


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Where everything of these tests lies."""
    return tmp_path_factory.mktemp("sweeps")
