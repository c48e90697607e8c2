"""The arrays that a run starts from: those of another run, or of a folder of Hugging Face's."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from .. import interop
from ..config import FUNCTION, ConfigError, leaves
from ..nn import ModelConfig
from ..nn.parameters import by_path, named
from ..tasks import Task
from . import reading
from .checkpoints import Checkpoints
from .directories import RunError
from .experiment import Experiment
from .paths import some
from .pretrained import folder_arrays
from .processes import agreed
from .run import Run

# The matrix of an output, and the table of tokens that may be in its place, by their paths in a state.
_OUTPUT, _TOKEN_TABLE = "model.output.w", re.compile(r"model\.(encoder\.|target_)?embedding\.table")


def initial_arrays(
    experiment: Experiment, task: Task, shapes: Mapping[str, Any], say: Callable[[str], None]
) -> Mapping[str, np.ndarray]:
    """Returns the arrays that parameters of a model with these shapes start from, if the task names where they are."""
    if (start := experiment.task.init_from) is None:
        return {}
    here = experiment.model_config(task.model_fields)
    if (tokens := task.model_fields.get("vocab_size", 0)) > getattr(here, "vocab_size", tokens):
        raise ConfigError(f"the tokenizer has {tokens:,} tokens, and the model of {start} {here.vocab_size:,}")
    if interop.is_pretrained(start):
        there = interop.read_config(start, task.Model.__name__)
        read = lambda: _fitting(folder_arrays(start, task, here), shapes, task, start)
    else:
        run = run_to_start_from(start)
        there = Experiment.from_config(run.config).model_config({})
        read = lambda: pretrained_arrays(run, shapes, task, getattr(here, "image_size", None))
    _check_same_pattern(start, there, here)  # first: it says more than which arrays are missing
    found = read()
    _check_same_function(start, there, here)
    say(f"{len(found)} arrays are initialised from {start}")
    return found


def run_to_start_from(start: str) -> Run:
    """Opens the run that `task.init_from` names.

    Raises:
      RunError: there is none; it is a sweep, or SWEEP:NUMBER (says how a member becomes a run).
    """
    sweep, _, number = start.rpartition(":")
    if re.fullmatch("[0-9]+", number) and (Path(sweep) / "sweep.json").is_file() and not Path(start).exists():
        command = f"python -m experiments.export --workdir={sweep} --member={number} --to=DIRECTORY"
        raise RunError(f"{start} is a member of a sweep: {command} makes it a run, to start from")
    return Run.open(start)


def pretrained_arrays(
    run: Run, shapes: Mapping[str, Any], task: Task, image_size: int | None = None
) -> dict[str, np.ndarray]:
    """The parameters of a run's newest checkpoint that a model with these shapes starts from.

    Args:
      run: that was trained.
      shapes: of the state of a model.
      task: that will train it.
      image_size: of a model of images; positions of another size are interpolated.

    Raises:
      ConfigError: see `_fitting`.
      RunError, CheckpointError: see `load_run`.
    """
    with reading.whole(run.checkpoints) as checkpoint:
        run.check_identity(checkpoint.identity, checkpoint.step)
        if agreed(str(checkpoint.step)) != str(checkpoint.step):
            raise RunError(
                f"{run.directory} is being trained: the processes found different newest checkpoints; try again later"
            )
        arrays = _merged(run, checkpoint.restore_as_saved())
    # The moving average, where there is one, is the model that was evaluated, in the model's dtypes.
    found = {
        name: arrays.get(name.replace("model.", "average.", 1), x).astype(x.dtype, copy=False)
        for name, x in arrays.items()
        if name.startswith("model.")
    }
    return _fitting(_resized(run, found, image_size), shapes, task, str(run.directory))


def _resized(run: Run, found: dict[str, np.ndarray], image_size: int | None) -> dict[str, np.ndarray]:
    """The arrays of a run's model, as they are for images of this size."""
    if image_size is None:
        return found
    experiment = Experiment.from_config(run.config)
    task = experiment.restore_task(run.directory)
    config = experiment.model_config(task.model_fields)
    if image_size == config.image_size:
        return found
    model = nnx.eval_shape(lambda: task.Model(config, rngs=nnx.Rngs(0)))
    model = by_path(lambda path, _: jnp.asarray(found[f"model.{path}"]), model)
    return {f"model.{path}": np.asarray(x) for path, x in named(model.resized(image_size)).items()}


def _fitting(
    found: Mapping[str, np.ndarray], shapes: Mapping[str, Any], task: Task, start: str
) -> dict[str, np.ndarray]:
    """Those of the arrays that a model with these shapes starts from, but for those of another head.

    An output matrix of its own, of a model whose output was tied, starts as the table of tokens.

    Raises:
      ConfigError: a parameter has another shape there, or is not there and not one that `task` adds (names them).
    """
    wanted = {name: shape for name, shape in shapes.items() if name.startswith("model.")}
    tables = [name for name in found if _TOKEN_TABLE.fullmatch(name)]
    if _OUTPUT in wanted.keys() - found.keys() and tables:
        found = {**found, _OUTPUT: found[tables[0]].T}
    missing = [n for n in wanted if n not in found and not n.startswith(task.new_parameters)]
    if missing:
        raise ConfigError(f"the model of {start} lacks {some(missing)} of this one")
    said = {n: [Checkpoints.describe(x[n]) for x in (found, wanted)] for n in wanted if n in found}
    differing = {n: f"{n} ({there} there, {here} here)" for n, (there, here) in said.items() if there != here}
    if refused := [text for n, text in differing.items() if not n.startswith(task.new_parameters)]:
        raise ConfigError(f"the model of {start} does not fit this one: {some(refused)}")
    # On the host: they are held for as long as the run trains.
    return {name: np.asarray(found[name]) for name in said if name not in differing}


def _merged(run: Run, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a run's state; of one with an adapter, those of the model that has it merged."""
    if not any(name.startswith("adapter.") for name in arrays):
        return arrays
    experiment = Experiment.from_config(run.config)
    model = experiment.program(experiment.restore_task(run.directory)).evaluated(arrays)
    return {f"model.{path}": np.asarray(x) for path, x in named(model).items()}


def _check_same_pattern(start: str, there: ModelConfig, here: ModelConfig) -> None:
    """Refuses a model whose layers differ among themselves in another way than those of the old one."""

    def by_layer(model: ModelConfig) -> list[dict[str, Any]]:
        shared, layers = _function(model), [model.of_layer(i) for i in range(len(model.pattern))]
        return [{n: x for n, x in _function(layer).items() if shared.get(n) != x} for layer in layers]

    if by_layer(there) != by_layer(here):
        differing = f"model.pattern ({there.pattern!r} there, {here.pattern!r} here)"
        raise ConfigError(f"{start} holds another model: {differing}")


def _check_same_function(start: str, there: ModelConfig, here: ModelConfig) -> None:
    """Parameters of the right shapes are not enough: the model must compute with them what the old one did.

    An output that was tied may be so no longer, see `_fitting`.
    """
    old, new = ({**_function(model), **_output(model)} for model in (there, here))
    differing = [f"model.{n} ({old[n]!r} there, {new[n]!r} here)" for n in sorted(old) if n in new and old[n] != new[n]]
    differing = [text for text in differing if text != "model.output.tie (True there, False here)"]
    if differing:
        raise ConfigError(f"{start} holds another model: {some(differing)}")


def _function(model: ModelConfig) -> dict[str, Any]:
    """The fields of the function that a model computes, by name, but for what differs by layer."""
    return {name: x for name, x, kind in leaves(model) if kind.part == FUNCTION and name != "pattern"}


def _output(model: ModelConfig) -> dict[str, Any]:
    """The fields of a model's projection to a vocabulary, by name; {}: it has none."""
    output = getattr(model, "output", None)
    return {} if output is None else {name: x for name, x, _ in leaves(output, "output.")}
