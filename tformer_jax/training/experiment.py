"""An experiment: a config's sections, validated, and what they build."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from ..analysis.flops import TRAINING
from ..config import ConfigError, Precision, build, check_choice, nearest, nested
from ..data.batches import Batches, Part, checked
from ..nn import ModelConfig, parametrization
from ..progress import SILENT, Progress
from ..registry import load_plugin
from ..tasks import TASKS, Task
from .checkpoints import CheckpointConfig
from .optimizers import OptimizerConfig
from .pace import StepFlops
from .parallel import ParallelConfig
from .program import Program, TrainingConfig
from .trainer import Trainer


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
