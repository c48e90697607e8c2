"""A tiny experiment of each task on real files, trained once for all tests here."""

import copy
import functools

import pytest
import tiny_runs


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """A config of translation."""
    return tiny_runs.translation(tmp_path_factory.getbasetemp())


@pytest.fixture
def changed(config):
    """`changed(section=dict, ...)`: the config with fields of its sections replaced."""

    def changed(**sections):
        result = copy.deepcopy(config)
        for name, fields in sections.items():
            if isinstance(fields, dict):
                result.setdefault(name, {}).update(fields)
            else:
                result[name] = fields
        return result

    return changed


@pytest.fixture(scope="session")
def train():
    """`train(config, directory)`: a finished run: its `run`, `task`, `data`, `model` and what was `said`."""
    return tiny_runs.run_and_train


@pytest.fixture(scope="session")
def trained(config, train, tmp_path_factory):
    """A finished run of `config`."""
    return train(config, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="session")
def configs(tmp_path_factory):
    """A config of each task but translation, by its name."""
    return tiny_runs.configs(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """`finished(name)`: a finished run of that task."""
    return functools.partial(tiny_runs.finished, tmp_path_factory.getbasetemp())
