"""A tiny experiment of each task on real files, trained once for all tests here."""

import copy
import functools

import pytest
import tiny_runs


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """A config as nested dictionaries: 80 sentences of 1 to 8 words; the translation is in capitals, backwards."""
    file = tmp_path_factory.mktemp("corpus") / "corpus.tsv"
    sources = [
        " ".join(tiny_runs.WORDS[(i * 5 + j * (1 + i % 3)) % 13] for j in range(1 + i % 8)) + f" {i}" for i in range(80)
    ]
    file.write_text("".join(f"{s}\t{' '.join(reversed(s.upper().split()))}\n" for s in sources))
    return {
        "task": {"name": "translation", "label_smoothing": 0.1, "beam_size": 2},
        "data": {
            "source": "files",
            "tsv_file": str(file),
            "split": "sentence",
            "validation_size": 6,
            "test_size": 7,
            "vocab_size": 4000,
            "batch_tokens": 128,
            "batching": "buckets",
            "num_buckets": 1,
        },
        "model": {"d_model": 16, "num_heads": 2, "d_ff": 24, "num_layers": 1, "norm_position": "pre", "max_length": 40},
        "optimizer": {"learning_rate": 0.01, "schedule": "linear", "warmup_steps": 4},
        "training": {"steps": 24, "log_every": 4, "evaluate_every": 12},
        "parallel": {"data": 1},
        "checkpoint": {"every": 10, "keep": 2},
        "precision": "params=float32,compute=float32,output=float32",
    }


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
