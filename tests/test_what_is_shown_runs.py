"""What the equation table shows is what runs: each of its functions is called by real runs of the tasks."""

import copy
import importlib
import inspect
import sys

import jax
import pytest
import tiny_runs
from test_readme import ROWS, _code

from tformer_jax.training.experiment import Experiment


def functions_of(name):
    """The code of a function, or of a class's methods, by the name that the table has."""
    room, name = name.rsplit(".", 1)
    found = getattr(importlib.import_module(f"tformer_jax.{room}"), name)
    held = vars(found).values() if inspect.isclass(found) else [found]
    return {inspect.unwrap(x).__code__ for x in held if inspect.isfunction(inspect.unwrap(x))}


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """The code of every function that is called while each task is trained for a step, evaluated, asked and costed."""
    seen, place = set(), tmp_path_factory.mktemp("what runs")
    configs = dict(tiny_runs.configs(place)) | {"translation": tiny_runs.translation(place)}
    jax.clear_caches()  # a program that another test has compiled would be traced no more
    sys.setprofile(lambda frame, event, argument: seen.add(frame.f_code) if event == "call" else None)
    try:
        for name, config in configs.items():
            config = copy.deepcopy(config)
            config["training"] |= {"steps": 1, "evaluate_every": 1}
            run = tiny_runs.run_and_train(config, place / name)
            run.task.evaluate(run.model, run.data, ["test"])
            experiment = Experiment.from_config(config)
            run.task.cost(experiment.model_config(run.task.model_fields), experiment.largest_batch())
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_a_function_of_the_table_runs(row, called):
    """A reader would study a function that no model and no task calls."""
    assert functions_of(_code(row[3])) & called
