"""An experiment: a config's sections, validated, and what they build."""

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .. import interop
from ..analysis.flops import TRAINING
from ..config import FUNCTION, ConfigError, Precision, build, check_choice, leaves, nearest, nested
from ..data.batches import Batches, Part, checked
from ..data.digest import check_kept
from ..data.files import write_whole
from ..nn import ModelConfig, parametrization
from ..nn.adapters import Adapter
from ..nn.parameters import by_path, named
from ..nn.placement import on_mesh_of
from ..progress import SILENT, Progress
from ..registry import load_plugin
from ..tasks import TASKS, Task
from . import reading
from .checkpoints import CheckpointConfig, Checkpoints
from .directories import RunError
from .interruption import Interruption
from .loop import Validate, Validated, train
from .optimizers import OptimizerConfig
from .pace import StepFlops
from .parallel import ParallelConfig
from .paths import some
from .pretrained import folder_arrays
from .processes import agreed, first_then_others, is_first
from .program import Program, TrainingConfig
from .run import Run, changed_plugins
from .step import Arrays
from .terminal import Terminal
from .trainer import Trainer

# Batches whose rows are counted, to say which devices have none.
_LOOKED_AT = 100
# The matrix of an output, and the table of tokens that may be in its place, by their paths in a state.
_OUTPUT, _TOKEN_TABLE = "model.output.w", re.compile(r"model\.(encoder\.|target_)?embedding\.table")


def section_classes(task: type[Task]) -> dict[str, type]:
    """Returns the dataclass of each section of a task's config, by the section's name."""
    return {
        "task": task.Config,
        "data": task.DataConfig,
        "model": task.Model.Config,
        "optimizer": OptimizerConfig,
        "training": TrainingConfig,
        "parallel": ParallelConfig,
        "checkpoint": CheckpointConfig,
    }


def other_models(task: type[Task], name: str) -> list[str]:
    """Returns the models of other tasks that have a field which that of `task` does not have."""
    having = {
        one.Model.__name__ for one in TASKS.values() if name in {f.name for f in dataclasses.fields(one.Model.Config)}
    }
    return [] if task.Model.__name__ in having else sorted(having)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The sections of an experiment config, each as its dataclass.

    `model` is still a table of fields: some follow from the data, such as the
    size of the vocabulary. `task_class` is what `task.name` says.
    """

    task_class: type[Task]
    task: Any
    data: Any
    model: Mapping[str, Any]
    optimizer: OptimizerConfig
    training: TrainingConfig
    parallel: ParallelConfig
    checkpoint: CheckpointConfig
    precision: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Experiment":
        """Makes an experiment from plain nested dictionaries; checks everything that can be checked without data.

        Raises:
          ConfigError: an unknown or missing section or field (the nearest is suggested), or a
            value that cannot be, by its name.
        """
        for plugin in _plugins(config):
            load_plugin(plugin)
        known = {field.name for field in dataclasses.fields(cls)} - {"task_class"}
        for name, section in config.items():
            if name not in (*known, "plugins"):
                raise ConfigError(f"the config has no section {name!r}{nearest(name, known)}")
            if name not in ("precision", "plugins") and not isinstance(section, Mapping):
                raise ConfigError(f"config.{name} must be a section with fields, got {section!r}")
        if missing := sorted(known - config.keys()):
            raise ConfigError(f"the config lacks the section(s) {', '.join(missing)}")
        task_class = TASKS.named(config["task"].get("name"), "task.name")
        classes = section_classes(task_class)
        del classes["model"]
        sections = {name: build(section, config[name], name) for name, section in classes.items()}
        experiment = cls(task_class=task_class, model=config["model"], precision=config["precision"], **sections)
        if not config["precision"]:
            raise ConfigError("precision must not be empty; 'params=float32' is the default")
        Precision.parse(config["precision"])
        _check_one_tokenizer(experiment)
        for name in config["model"]:
            of_start = name == "vocab_size" and experiment.task.init_from is not None  # see `pretrained.completed`
            if name in task_class.planned_fields(experiment.data) and not of_start:
                raise ConfigError(f"model.{name} follows from the data; set it in the data section")
            if name == "precision":
                raise ConfigError("model.precision is that of the whole experiment; set precision itself")
            if others := other_models(task_class, name):
                raise ConfigError(f"model.{name} is not for {task_class.Model.__name__} but for {', '.join(others)}")
        model = experiment.model_config({})
        parametrization.check_optimizer(model, experiment.optimizer)
        experiment.training.check_trained(experiment.optimizer)
        task_class.check(experiment.data, model)
        experiment.checkpoint.check_validated(experiment.training.evaluate_every)
        if experiment.checkpoint.keep_best:
            check_choice("checkpoint.best_metric", experiment.checkpoint.best_metric, task_class.validated)
        if experiment.training.patience is not None:
            check_choice("training.patience_metric", experiment.training.patience_metric, task_class.validated)
        return experiment

    @property
    def remarks(self) -> list[str]:
        """Warnings about what is allowed but seldom meant, a line each."""
        warmup, steps = self.optimizer.warmup_steps, self.training.steps
        if warmup <= steps:
            return []
        return [
            f"optimizer.warmup_steps={warmup} exceeds training.steps={steps}: the learning rate rises to the end and "
            f"never reaches {self.optimizer.learning_rate:g}"
        ]

    def model_config(self, fields: Mapping[str, Any]) -> ModelConfig:
        """The architecture; `fields` are what the data, once read, says otherwise than its config."""
        planned = self.task_class.planned_fields(self.data)
        tables = {**self.model, **planned, **fields, "precision": self.precision}
        if "vocab_size" in self.model:  # of the model that it starts from, which may have room for more tokens
            tables["vocab_size"] = self.model["vocab_size"]
        return build(self.task_class.Model.Config, tables, "model")

    def trainer(self, task: Task, parallel: ParallelConfig | None = None) -> Trainer:
        """The compiled side of the experiment; `parallel`: where to run it, if not where its config says."""
        return Trainer(self.program(task), self.parallel if parallel is None else parallel)

    def program(self, task: Task, numbers: Mapping[str, Any] = MappingProxyType({})) -> Program:
        """The program of the experiment: what it computes.

        Args:
          task: made from the data.
          numbers: in place of those of the config, by "section.field", known only when the program runs; each is not
            0 and not None where the config's is neither.
        """

        def traced(section: str, config: Any) -> Any:
            prefix = f"{section}."
            mine = {n.removeprefix(prefix): x for n, x in numbers.items() if n.startswith(prefix)}
            return config.changed(**nested(mine)) if mine else config

        model, task = traced("model", self.model_config(task.model_fields)), copy.copy(task)
        task.config = traced("task", task.config)
        return Program(
            lambda rngs: task.Model(model, rngs=rngs),
            task.prepared_loss,
            traced("training", self.training),
            traced("optimizer", self.optimizer),
            learning_rate_factors=parametrization.learning_rate_factors(model),
            prepare=task.prepare,
        )

    def planned_task(self) -> Task:
        """The task as far as the config tells, without data: for shapes and costs."""
        return self.task_class.planned(self.task, self.data)

    def largest_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of the largest training batch, as far as they are known without the data."""
        limit = getattr(self.model_config({}), "max_length", None)
        shapes = self.data.largest_batch(limit, self.training.accumulate)
        return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def step_flops(self, task: Task) -> StepFlops | None:
        """The model's FLOPs in a training step, by formula; None: there is none for what it trains."""
        if self.training.adapter != "none" or self.optimizer.freeze or self.parallel.mode == "pmap":
            return None  # most matrices would have no gradient, which it counts; or a batch other axes
        model = self.model_config(task.model_fields)

        def count(batch: Mapping[str, Any]) -> int | None:
            cost = task.cost(model, batch)
            return cost and TRAINING * cost.flops

        return count

    def load_data(self, directory: Path, progress: Progress = SILENT) -> Any:
        """The data, with its tokenizers or classes kept in `directory`."""
        return self.task_class.load_data(self.data, self.model_config({}), directory, progress)

    def validation_batches(self, data: Any) -> Batches:
        """Returns the batches of a validation during training: all of the split, or a part of it."""
        batches, count = data.evaluation_batches("validation"), self.training.validation_batches
        checked(batches, "the batches to validate on")
        if count is None or count >= len(batches):
            return batches
        data.report.append(f"each validation uses {count} of {len(batches)} batches, evenly spread over the split")
        return Part(batches, count)

    def restore_task(self, directory: Path) -> Task:
        """The task, with what the data left in `directory`."""
        return self.task_class.restore(self.task, directory)


def _check_one_tokenizer(experiment: Experiment) -> None:
    """Refuses a tokenizer's path beside a model that brings its own."""
    for name in ("tokenizer_path", "source_tokenizer_path"):
        if experiment.task.init_from is not None and getattr(experiment.data, name, None) is not None:
            start = f"task.init_from={experiment.task.init_from!r}"
            raise ConfigError(f"data.{name} must be None with {start}, whose model brings its own tokenizer")


def _plugins(config: Mapping[str, Any]) -> Sequence[str]:
    """The plugins that a config names."""
    plugins = config.get("plugins", [])
    if not isinstance(plugins, list | tuple) or not all(isinstance(plugin, str) and plugin for plugin in plugins):
        raise ConfigError(f"config.plugins must be a list of files and modules, got {plugins!r}")
    return plugins


def run_training(
    run: Run,
    say: Callable[[str], None],
    validated: Validated = lambda step, numbers: False,
    terminal: Terminal | None = None,
    **how: Any,
) -> tuple[Task, Any, Any]:
    """Trains the run's experiment, or goes on with it; returns the task, the data and the model.

    The model lies on the run's mesh: evaluate it within `nn.placement.on_mesh_of(model)`. `validated`, `terminal`, and `how`
    (`tracked`, `profile`): see `train`.

    Raises:
      ConfigError: the config or the data are not what they must be.
      Diverged, Interrupted, CheckpointError: see `train`.
    """
    experiment = Experiment.from_config(run.config)
    terminal = terminal or Terminal()
    progress = terminal if is_first() else SILENT
    try:
        with Interruption() as interruption, interruption.at_once("before the first step", run.withdraw):
            data, batches, validation = read_batches(experiment, run, progress)
            task = experiment.task_class.from_data(experiment.task, data)
            with progress.phase("building the model"):
                trainer = experiment.trainer(task)
            initial = functools.cache(lambda: initial_arrays(experiment, task, trainer.layout.shapes, say))
            if not run.has_checkpoint:  # else the run that this one started from may be gone by now
                initial()
    except BaseException:  # whatever it is, the corrected command must find the directory free
        run.withdraw()
        raise
    remarks = (*changed_plugins(run.directory, run.config), *experiment.remarks)
    for line in (*remarks, *data.report, size_line(trainer), *device_lines(trainer, batches)):
        say(line)

    try:
        how |= {"unit": task.unit, "initial": initial, "validated": validated, "terminal": terminal}
        how |= {"step_flops": experiment.step_flops(task), "validation_work": validation_work(batches, validation)}
        validate = validator(trainer, task, validation, run, progress)
        arrays = train(trainer, batches, validate, run, experiment.checkpoint, say, **how)
    except RunError:  # of a checkpoint that lay there already
        run.withdraw()
        raise
    except BaseException:
        if not run.has_checkpoint:
            run.withdraw()
        raise
    return task, data, trainer.model(arrays)


def validator(trainer: Trainer, task: Task, validation: Batches, run: Run, progress: Progress) -> Validate:
    """Function that makes the numbers of a validation of a state, and leaves a sample in the run."""

    def validate(step: int, arrays: Arrays) -> dict[str, float]:
        model = trainer.model(arrays)
        with on_mesh_of(model):
            sample = task.sample(model, progress) if task.samples else None
            if sample is not None and is_first():
                write_whole(run.samples / f"step_{step}.txt", sample)
            return task.validate(model, validation, progress)

    return validate


def validation_work(training: Batches, validation: Batches) -> float:
    """Returns how many steps take about as long as a validation, in which a batch is read once.

    A step reads a batch and goes back through it, which takes twice as long: of batches of a size, it is three of them.
    """
    size = lambda batches: batches.row_count(0) * max(x.size for x in batches.batch(0, slice(1)).values())
    return len(validation) * size(validation) / size(training) / 3


def read_batches(experiment: Experiment, run: Run, progress: Progress) -> tuple[Any, Any, Any]:
    """The data, and the batches to train and to validate on."""
    fresh = not run.has_checkpoint
    data = first_then_others(lambda: load_data(experiment, run.directory, fresh=fresh, progress=progress))
    with progress.phase("preparing batches"):
        batches = checked(data.train_batches(experiment.training.accumulate), "the training batches")
        return data, batches, experiment.validation_batches(data)


def size_line(trainer: Trainer) -> str:
    """Text about the number of parameters."""
    everything, trained = trainer.parameter_count, trainer.trained_count
    of_these = "" if trainer.config.adapter == "none" else f", and {trained:,} of an adapter, which alone are trained"
    return f"{everything:,} parameters{of_these}"


def device_lines(trainer: Trainer, batches: Batches) -> list[str]:
    """Lines that a person should know of the devices."""
    if trainer.mesh.size == 1:
        return []
    sizes = ", ".join(f"{name} {size}" for name, size in trainer.mesh.shape.items() if size > 1)
    rows = {batches.row_count(i) for i in range(min(len(batches), _LOOKED_AT))}
    return [f"{trainer.mesh.size} devices: {sizes}", *trainer.idle(rows)]


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


def load_run(
    run: Run, step: int | None = None, progress: Progress = SILENT, *, spread: bool = False
) -> tuple[Experiment, Task, Any]:
    """The experiment, task and model of a run, from its newest checkpoint or that of `step`, on the first device.

    `spread`: on the mesh that its `parallel` section says, if there are enough devices for it, see `ParallelConfig.at_hand`.

    Raises:
      RunError: it has no (such) checkpoint, or one of something else than the directory says (names the field or file).
      CheckpointError: the checkpoint is damaged.
    """
    experiment, task, trainer, arrays = _loaded(run, step, progress, spread)
    return experiment, task, trainer.model(arrays)


def load_models(run: Run, steps: Sequence[int], *, spread: bool = False) -> Iterator[tuple[int, Any]]:
    """Yields the models of several checkpoints of a run, each with its step; `spread`: see `load_run`.

    Raises:
      RunError, CheckpointError: see `load_run`.
    """
    experiment = Experiment.from_config(run.config)
    trainer = experiment.trainer(experiment.restore_task(run.directory), _where(experiment, spread))
    for step in steps:
        with reading.whole(run.checkpoints, step) as checkpoint:
            run.check_identity(checkpoint.identity, checkpoint.step)
            arrays = checkpoint.restore(trainer.placed_shapes)
        yield step, trainer.model(arrays)


def load_adapter(run: Run, step: int | None = None, progress: Progress = SILENT) -> tuple[Any, Adapter, float]:
    """The model that a run with an adapter started from, the adapter, and its scale; otherwise as `load_run`.

    Raises:
      RunError: it has no adapter, or see `load_run`.
      CheckpointError: the checkpoint is damaged.
    """
    experiment, _, trainer, arrays = _loaded(run, step, progress, spread=False)
    if experiment.training.adapter == "none":
        raise RunError(f"{run.directory} has no adapter: all of its model was trained")
    return trainer.program.apart(arrays)


def _where(experiment: Experiment, spread: bool) -> ParallelConfig:
    """The devices that a run is loaded on."""
    return experiment.parallel.at_hand(jax.device_count()) if spread else ParallelConfig(data=1)


def _loaded(run: Run, step: int | None, progress: Progress, spread: bool) -> tuple[Experiment, Task, Trainer, Arrays]:
    """A run as its config says it, and its state; `spread`: see `load_run`."""
    with (
        progress.phase("reading the checkpoint"),
        reading.whole(run.checkpoints, step, ": --step={step}") as checkpoint,
    ):
        run.check_identity(checkpoint.identity, checkpoint.step)  # before anything else believes config.json
        experiment = Experiment.from_config(run.config)
        task = experiment.restore_task(run.directory)
        trainer = experiment.trainer(task, _where(experiment, spread))
        return experiment, task, trainer, checkpoint.restore(trainer.placed_shapes)


def load_data(experiment: Experiment, directory: Path, *, fresh: bool, progress: Progress = SILENT) -> Any:
    """The data, with its tokenizers or classes kept in `directory`; `fresh`: nothing was trained there yet.

    What the task takes over of the run that it starts from, such as a tokenizer, becomes this one's.

    Raises:
      DataError: the data cannot be read, or are not known to be those that were trained on.
    """
    if not fresh:
        check_kept(directory)
    elif (start := experiment.task.init_from) is not None:
        folder = Path(start) if interop.is_pretrained(start) else run_to_start_from(start).directory
        experiment.task_class.inherit(folder, directory)
    return experiment.load_data(directory, progress)
