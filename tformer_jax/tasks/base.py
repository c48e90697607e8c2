"""The interface of every task: its sections of a config, a loss, and what evaluation and prediction mean."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from ..analysis.flops import Cost
from ..analysis.positions import plot_positions
from ..config import ORDER, TRAINING, Component, ConfigError, field, hints_of, leaves, plain_kinds
from ..data import tokenizers
from ..data.base import Data
from ..data.batches import Batches
from ..data.classes import load_classes
from ..data.files import DataError
from ..data.text_data import BoundedData
from ..data.translation import Tokenizers
from ..nn import ModelConfig
from ..nn.placement import fetched, placed
from ..progress import SILENT, Progress
from ..registry import Registry
from .pictures import Example, Pictured, draw_attention

# The training loss, a mean; the weight of its batch in a mean over batches; and other means over the same targets, by
# name, which join the step's metrics.
Loss = tuple[Float[Array, ""], Float[Array, ""], dict[str, Float[Array, ""]]]

# Of a batch of an evaluation: means by name, their weight, and what else is wanted of it.
Measured = tuple[dict[str, Array], Array, Any]


class Scores(NamedTuple):
    """The results of a pass over batches: means by name, the sum of their weights, and what else each batch gave."""

    means: dict[str, float]
    weight: float
    outputs: list[Any]


class Evaluation(NamedTuple):
    """The numbers of one split, what has to be said of them, examples (NamedTuples of strings), and what pictures need."""

    metrics: dict[str, float]
    note: str = ""
    samples: Sequence[Any] = ()
    outcomes: Any = None


class Learnt(NamedTuple):
    """Ways to get what data have learnt without them: from a run's directory; from fields of the model's config, a mere
    stand-in where its size alone matters."""

    load: Callable[[Path], Any]
    plan: Callable[[Mapping[str, Any]], Any]


def _stand_in(fields: Mapping[str, Any]) -> Tokenizers:
    source, target = fields["source_vocab_size"], tokenizers.planned(fields["vocab_size"])
    return Tokenizers(target if source is None else tokenizers.planned(source), target)


LEARNT = {
    "tokenizer": Learnt(
        lambda directory: tokenizers.load(directory / tokenizers.FILE),
        lambda fields: tokenizers.planned(fields["vocab_size"]),
    ),
    "tokenizers": Learnt(Tokenizers.load, _stand_in),
    "classes": Learnt(load_classes, lambda fields: [f"class {number}" for number in range(fields["num_classes"])]),
}


class TaskConfig(Component):
    """The `task` section of a config: `name` says which task.

    Attributes:
      init_from: what the parameters start from, and the tokenizer if there is one: the directory of a run, or a folder of
        Hugging Face's, whose model this one then is, but for its head; None: from scratch.
    """

    init_from: str | None = field(None, part=TRAINING)


class Task:
    """One objective. The training loop and the command lines know nothing else of it.

        @TASKS.register("regression")
        class Regression(TextTask): ...

    It must have `Data`, `DataConfig`, `Model` and `prepared_loss`; of everything else there is a simple one here.

    Attributes:
      Config: the `task` section of a config.
      DataConfig, Data: the `data` section, and what reads it.
      Model: what it trains.
      Prediction: what may be asked of `predict`: a flag of `experiments.predict` for each field.
      typed: the field of `Prediction` that a line is which somebody types; None: predictions need more than a line.
      name: by which it is registered.
      unit: what the weight of a batch counts.
      learnt: what the data have learnt that the task is made of, attributes of both, in this order; see `LEARNT`.
      fixed_fields: fields of the model's config that are the same for every experiment.
      new_parameters: prefixes of parameters that a model which it starts from need not have, or may have in another
        shape: a head.
      samples: whether `sample` makes something.
      validated: names of the numbers of a validation.
      judged_by: the number, of validations or evaluations, that is drawn beside the loss.
      config: the `task` section.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    DataConfig: ClassVar[type]
    Data: ClassVar[type[Data]]
    Model: ClassVar[type]
    Prediction: ClassVar[type[Component]] = Component
    typed: ClassVar[str | None] = None
    name: ClassVar[str]
    unit: ClassVar[str] = "tokens"
    learnt: ClassVar[tuple[str, ...]] = ()
    fixed_fields: ClassVar[Mapping[str, Any]] = {}
    new_parameters: ClassVar[tuple[str, ...]] = ()
    samples: ClassVar[bool] = False
    validated: ClassVar[tuple[str, ...]] = ("loss",)
    judged_by: ClassVar[str] = "loss"

    def __init__(self, config: Any, *learnt: Any):
        self.config = config
        for name, value in zip(self.learnt, learnt, strict=True):
            setattr(self, name, value)

    # The data, and what follows from them.

    @classmethod
    def from_data(cls, config: Any, data: Any) -> "Task":
        """Makes the task with what was learnt from its data: tokenizers, names of classes."""
        return cls(config, *(getattr(data, name) for name in cls.learnt))

    @classmethod
    def restore(cls, config: Any, directory: Path) -> "Task":
        """Makes the task with what its data left in the run's directory."""
        return cls(config, *(LEARNT[name].load(directory) for name in cls.learnt))

    @classmethod
    def planned(cls, config: Any, data: Any) -> "Task":
        """Makes the task as far as configs tell, without data: for shapes and costs."""
        fields = cls.planned_fields(data)
        return cls(config, *(LEARNT[name].plan(fields) for name in cls.learnt))

    @classmethod
    def load_data(cls, config: Any, model: ModelConfig, directory: Path, progress: Progress = SILENT) -> Any:
        """Loads the splits and their batches; leaves in `directory` what `restore` needs."""
        limit = (model.max_length,) if issubclass(cls.Data, BoundedData) else ()
        return cls.Data(config, *limit, directory, progress)

    @classmethod
    def data_key(cls, task: Any, data: Any, model: Mapping[str, Any]) -> dict[str, Any]:
        """Returns all that `load_data` makes the data of, but the order of their batches: whose agree share them.

        A task whose data depend on more than their section and the run that it starts from adds it.
        """
        limit = {"model.max_length": model.get("max_length")} if issubclass(cls.Data, BoundedData) else {}
        section = {name: value for name, value, kind in leaves(data, "data.") if kind.part != ORDER}
        return section | limit | {"task.init_from": task.init_from}

    @classmethod
    def inherit(cls, start: Path, directory: Path) -> None:
        """Takes over into a run's directory what its data need of the run that the parameters start from.

        Raises:
          DataError: it is not there.
        """

    @classmethod
    def planned_fields(cls, data: Any) -> dict[str, Any]:
        """Returns the fields of the model's config that follow from task and data, as far as their configs tell."""
        return dict(cls.fixed_fields)

    @property
    def model_fields(self) -> dict[str, Any]:
        """The fields of the model's config that follow from task and data."""
        return dict(self.fixed_fields)

    @classmethod
    def check(cls, data: Any, model: Any) -> None:
        """Refuses a `data` section that does not go with the model's config."""

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> Cost | None:
        """Returns the cost of a training batch whose arrays have these shapes; None: there is no formula."""
        return None

    # Training.

    def loss(self, model: Any, batch: Any, key: Array | None) -> Loss:
        """Returns the training loss, the weight of the batch in a mean over batches, and other means by name."""
        return self.prepared_loss(model, self.prepare(batch, key), key)

    def prepare(self, batch: Any, key: Array | None) -> Any:
        """Returns the batch with what is random about it, which may mix its rows: corruption, augmentation.

        Apart from the rest of the loss, which may be computed of some of the rows alone. It sees the rows of a batch
        as the data made them: those that `pmap` fills up with come afterwards.
        """
        return batch

    def prepared_loss(self, model: Any, batch: Any, key: Array | None) -> Loss:
        """Returns `loss` for a batch that is prepared."""
        raise NotImplementedError

    # Evaluation.

    def measure(self, model: Any, batch: Any, number: int) -> Measured:
        """Returns the numbers of a batch of an evaluation, which is the same each time: the loss with nothing random.

        `number`: of the batch.
        """
        return _plain_loss(self, model, batch)

    def score(self, model: Any, batches: Batches, progress: Progress = SILENT, what: str = "validating") -> Scores:
        """Measures one pass over batches in order; the next one is on its way while one is awaited.

        The means are weighted, in float64.

        Raises:
          DataError: no batch has a target.
        """
        found, next_one = [], None
        with progress.phase(what, len(batches), "batches") as advance:
            for i in range(len(batches) + 1):
                one, next_one = next_one, self.measure(model, placed(batches, i), i) if i < len(batches) else None
                # Without the wait, the device's queue would hold all batches, and the count would run ahead of it.
                if one is not None:
                    found.append(fetched(one))
                    advance()
        weights = np.asarray([weight for _, weight, _ in found], np.float64)
        total = float(weights.sum())
        if total == 0:
            raise DataError("cannot evaluate: no batch has a target; give a larger split")
        values = {name: np.asarray([means[name] for means, *_ in found], np.float64) for name in found[0][0]}
        means = {name: float((value * weights).sum() / total) for name, value in values.items()}
        return Scores(means, total, [outputs for *_, outputs in found])

    def validate(self, model: Any, batches: Batches, progress: Progress = SILENT) -> dict[str, float]:
        """Returns the numbers of one pass over batches in order, those of `validated`."""
        return self.score(model, batches, progress).means

    def evaluate(
        self, model: Any, data: Any, splits: Sequence[str], progress: Progress = SILENT
    ) -> dict[str, Evaluation]:
        """Evaluates splits; returns what is reported of each."""
        return {split: self.evaluate_split(model, data, split, progress) for split in splits}

    def evaluate_split(self, model: Any, data: Any, split: str, progress: Progress = SILENT) -> Evaluation:
        """Evaluates one split."""
        return Evaluation(self.score(model, data.evaluation_batches(split), progress, f"scoring {split}").means)

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Describes the numbers of an evaluation in a line."""
        return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())

    def sample(self, model: Any, progress: Progress = SILENT) -> str:
        """Makes something with the model that can be read while it trains."""
        raise NotImplementedError

    # Pictures.

    def example(self, model: Any, of: Pictured) -> Example | None:
        """Returns inputs of the split that is evaluated to look at a model with; None: there are none."""
        return None

    def read(self, model: Any, batch: Any) -> Any:
        """Runs the model on the batch of an `example`, with nothing random, for what it looks at; not compiled by itself."""
        return self.loss(model, batch, None)

    def plot(self, model: Any, of: Pictured) -> list[str]:
        """Draws pictures of one evaluation; returns, a line each, which are not there and why."""
        remarks, example = [], self.example(model, of)
        if example is None:
            remarks.append(f"no pictures of attention: the task {self.name} has no example to look at")
        else:
            try:
                draw_attention(self.read, model, example, of)
            except ValueError as error:
                remarks.append(f"no pictures of attention: {error}")
        if reason := plot_positions(model, of.directory / "positions.png", subject=of.subject):
            remarks.append(f"no picture of positions: {reason}")
        return remarks

    # Prediction.

    def predict(self, model: Any, asked: Any, progress: Progress = SILENT) -> Iterator[str]:
        """Yields what the model predicts, in pieces as they come, which joined are what is printed.

        `asked`: a `Prediction`.

        Raises:
          ConfigError, DataError: what is asked cannot be.
        """
        raise ConfigError(f"the task {self.name} does not say what prediction means: it has no method predict")


def _lacks(task: type[Task]) -> str | None:
    """Returns what the parts of a task lack that a config and a command ask for; None: nothing."""
    for name, family in (("Config", TaskConfig), ("DataConfig", Component), ("Prediction", Component)):
        if not (isinstance(found := getattr(task, name), type) and issubclass(found, family)):
            return f"must have a {name} that is a subclass of {family.__name__}, got {found!r}"
    config = getattr(task.Model, "Config", None)
    if not (isinstance(config, type) and issubclass(config, ModelConfig)):
        return f"must have a Model whose Config is a subclass of ModelConfig, got {config!r}"
    for of in dataclasses.fields(task.Prediction):
        hint = hints_of(task.Prediction)[of.name]
        if hint != tuple[str, ...] and len({*(plain_kinds(hint) or ())} - {NoneType}) != 1:
            said = "an integer, a number, a text, True or False, or texts (`tuple[str, ...]`), to be a flag"
            return f"must have a Prediction whose field {of.name} is {said}; it is {hint}"
    return None


def _register_section(name: str, task: type[Task]) -> None:
    """Makes the `Config` of a task the `task` section of its name; a task that inherits one gets one of its own."""
    if "Config" not in vars(task):
        task.Config = type("Config", (task.Config,), {"__module__": task.__module__})
    _SECTIONS.register(name)(task.Config)


_SECTIONS: Registry[type[TaskConfig]] = Registry("task", family=TaskConfig)
TASKS: Registry[type[Task]] = Registry(
    "task", family=Task, needs=("Data", "DataConfig", "Model", "prepared_loss"), lacks=_lacks, then=_register_section
)


def with_auxiliary(loss: Float[Array, ""], weight: Float[Array, ""], *losses: Mapping[str, Array]) -> Loss:
    """Adds the auxiliary losses of one or more stacks to a mean loss; each joins the step's metrics by its name.

    Of several stacks, those of one name are added up.
    """
    names = dict.fromkeys(name for of_stack in losses for name in of_stack)
    total = {name: sum(of_stack.get(name, 0.0) for of_stack in losses) for name in names}
    return sum(total.values(), loss), weight, total


@functools.partial(jax.jit, static_argnums=0)
def _plain_loss(task: Task, model: Any, batch: Any) -> Measured:
    loss, weight, others = task.loss(model, batch, None)
    return {"loss": loss} | others, weight, None
