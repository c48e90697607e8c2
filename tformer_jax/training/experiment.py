"""An experiment: a config's sections, validated, and what they build."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import ConfigError, TransformerConfig, build, nearest
from ..data.files import DataError
from ..data.translation import Tokenizers, TranslationData, TranslationDataConfig
from ..models import Transformer
from ..tasks import Translation, TranslationConfig
from .checkpoints import CheckpointConfig, Checkpoints
from .loop import Trainer, TrainingConfig, train
from .optimizers import OptimizerConfig
from .run import Run, RunError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The sections of an experiment config, each as its dataclass.

    `model` is still a mapping of `TransformerConfig` fields: its vocabulary sizes come from the
    tokenizers.
    """

    task: TranslationConfig
    data: TranslationDataConfig
    model: Mapping[str, Any]
    optimizer: OptimizerConfig
    training: TrainingConfig
    checkpoint: CheckpointConfig
    precision: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Experiment":
        """From plain nested dictionaries; checks everything that can be checked without data.

        Raises:
          ConfigError: an unknown or missing section or field (the nearest is suggested), or a
            value that cannot be, by its name.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in config:
            if name not in known:
                raise ConfigError(f"the config has no section {name!r}{nearest(name, known)}")
        if missing := sorted(known - config.keys()):
            raise ConfigError(f"the config lacks the section(s) {', '.join(missing)}")
        for name in ("vocab_size", "source_vocab_size"):
            if name in config["model"]:
                raise ConfigError(f"model.{name} follows from the data; set data.{name}")
        experiment = cls(
            task=build(TranslationConfig, config["task"], "task"),
            data=build(TranslationDataConfig, config["data"], "data"),
            model=config["model"],
            optimizer=build(OptimizerConfig, config["optimizer"], "optimizer"),
            training=build(TrainingConfig, config["training"], "training"),
            checkpoint=build(CheckpointConfig, config["checkpoint"], "checkpoint"),
            precision=config["precision"],
        )
        experiment.model_config(experiment.data.vocab_size, experiment.data.source_vocab_size)
        return experiment

    def model_config(self, vocab_size: int, source_vocab_size: int | None) -> TransformerConfig:
        """The architecture, for these vocabularies."""
        sizes = {"vocab_size": vocab_size, "source_vocab_size": source_vocab_size}
        return TransformerConfig.from_dict({**self.model, **sizes, "precision": self.precision})

    def trainer(self, task: Translation) -> Trainer:
        """The compiled side of the experiment."""
        source, target = (tokenizer.get_vocab_size() for tokenizer in task.tokenizers)
        own = None if self.data.source_vocab_size is None else source
        config = self.model_config(target, own)
        return Trainer(lambda rngs: Transformer(config, rngs=rngs), task.loss, self.training, self.optimizer)

    def load_data(self, directory: Path) -> TranslationData:
        """The data, with its tokenizers kept in `directory`."""
        return TranslationData(self.data, self.model["max_length"], directory)


def run_training(run: Run, say: Callable[[str], None]) -> tuple[Translation, TranslationData, Any]:
    """Trains the run's experiment, or goes on with it; returns the task, the data and the model.

    Raises:
      ConfigError: the config or the data are not what they must be.
      Diverged: see `train`.
    """
    experiment = Experiment.from_config(run.config)
    try:
        data = experiment.load_data(run.directory)
        batches = data.train_batches(experiment.training.accumulate)
        validation = data.evaluation_batches("validation")
    except (ConfigError, DataError):
        run.withdraw()
        raise
    task = Translation(experiment.task, data.tokenizers)
    trainer = experiment.trainer(task)
    for line in (*data.report, f"{trainer.parameter_count:,} parameters"):
        say(line)

    def validate(model):
        return task.evaluation_loss(model, validation)

    model = train(trainer, batches, validate, run, experiment.checkpoint, say)
    return task, data, model


def load_run(run: Run, step: int | None = None) -> tuple[Experiment, Translation, Any]:
    """The experiment, task and model of a run, from its newest checkpoint or that of `step`.

    Raises:
      RunError: it has no (such) checkpoint.
    """
    experiment = Experiment.from_config(run.config)
    task = Translation(experiment.task, Tokenizers.load(run.directory))
    trainer = experiment.trainer(task)
    with Checkpoints(run.checkpoints, experiment.checkpoint) as checkpoints:
        if checkpoints.latest is None:
            raise RunError(f"{run.directory} has no checkpoint yet")
        step = checkpoints.latest if step is None else step
        if step not in checkpoints.steps:
            raise RunError(f"{run.directory} has no checkpoint of step {step}, only of {checkpoints.steps}")
        return experiment, task, trainer.model(checkpoints.restore(step, trainer.layout.shapes))
