"""The way from the training loop to the mathematics, as a traceback shows it: whoever reads one has to pass it."""

import copy
import traceback
from pathlib import Path

import pytest
import tiny_runs

import tformer_jax
from tformer_jax.functional.kernels import ScoreOptions
from tformer_jax.models import CausalLM

PACKAGE = Path(tformer_jax.__file__).parent


def own_frames():
    """The functions of the package on the stack from the loop's `steps` on, outermost first."""
    frames = [f for f in traceback.extract_stack() if PACKAGE in Path(f.filename).parents]
    names = [f.name for f in frames]
    return names[names.index("steps") :] if "steps" in names else []


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """The functions from the loop to the model, and to the weights of a softmax, while the step of a real run is traced."""
    place, found = tmp_path_factory.mktemp("short way"), {}
    config = copy.deepcopy(tiny_runs.configs(place)["causal_lm"])
    config["training"] |= {"steps": 1, "evaluate_every": 1}

    def seen(name, function):
        def traced(*args, **how):
            found.setdefault(name, own_frames())
            return function(*args, **how)

        return traced

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalLM, "hidden", seen("model", CausalLM.hidden))
        patch.setattr(ScoreOptions, "averages", seen("softmax", ScoreOptions.averages))
        tiny_runs.run_and_train(config, place / "run")
    return found


def test_the_model_is_six_functions_from_the_loop(ways):
    """A closure was put around the step, or around the loss, that every traceback and every reader passes through."""
    assert ways["model"][0] == "steps" and len(ways["model"]) <= 6, ways["model"]


def test_the_softmax_is_fourteen_functions_from_the_loop(ways):
    """A wrapper was put between a layer and its mathematics."""
    assert ways["softmax"][0] == "steps" and len(ways["softmax"]) <= 14, ways["softmax"]
