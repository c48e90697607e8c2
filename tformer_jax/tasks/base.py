"""The interface of every task: the sections of its config, a loss, and what evaluation means."""

import bisect
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from tokenizers import Tokenizer

from .. import functional as F
from ..analysis.flops import Cost
from ..config import ORDER, ConfigError, check_choice, check_positive, field, leaves
from ..data import tokenizers
from ..data.batches import Batches
from ..data.files import DataError
from ..nn import ModelConfig
from ..progress import SILENT, Progress

# Placeholder for a vocabulary that only the text tells: any number will do to check the other fields.
_SOME_CHARACTERS = 256


# The training loss, a mean; the weight of its batch in a mean over batches; and other means over the same targets, by
# name, which join the step's metrics.
Loss = tuple[Float[Array, ""], Float[Array, ""], dict[str, Float[Array, ""]]]


class Evaluation(NamedTuple):
    """The numbers of one split, what has to be said of them, and examples (NamedTuples of strings)."""

    metrics: dict[str, float]
    note: str
    samples: list[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularyLossConfig:
    """The fields that losses over a vocabulary share. They hold for training; evaluation has plain cross-entropy.

    Attributes:
      label_smoothing, z_loss: see `functional.cross_entropy`.
      fused_loss: use `functional.fused_cross_entropy`, which never holds all logits.

    Raises:
      ConfigError: an invalid value, by the field's name.
    """

    label_smoothing: float = field(0.0, traced=True)
    z_loss: float = field(0.0, traced=True)
    fused_loss: bool = False

    def __post_init__(self):
        check_label_smoothing(self.label_smoothing)
        check_positive("task.z_loss", self.z_loss, or_zero=True)
        if not isinstance(self.fused_loss, bool):
            raise ConfigError(f"task.fused_loss must be True or False, got {self.fused_loss!r}")


def vocabulary_loss(
    model: Any,
    hidden: Float[Array, "*batch D"],
    targets: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
    config: VocabularyLossConfig,
) -> Float[Array, ""]:
    """Returns the cross-entropy of the model's output on its states, the mean over `weights`."""
    how = {"weights": weights, "label_smoothing": config.label_smoothing, "z_loss": config.z_loss}
    if not config.fused_loss:
        return F.cross_entropy(model.logits(hidden), targets, **how)
    w_out, b_out = model.output_weights()
    w_out = w_out.astype(hidden.dtype)
    cap = model.config.output.softcap
    return F.fused_cross_entropy(hidden, w_out, targets, b_out=b_out, logit_softcap=cap, **how)


class Task:
    """One objective. The training loop and the command lines know nothing else of it.

    Attributes:
      Config, DataConfig: the dataclasses of the config's `task` and `data` sections.
      Model: what it trains.
      unit: what the weight of a batch counts.
      new_parameters: prefixes of parameters that a pre-trained model need not have.
      samples: whether `sample` makes something.
      validated: names of the numbers of a validation.
      config: the `task` section.
    """

    Config: ClassVar[type]
    DataConfig: ClassVar[type]
    Model: ClassVar[type]
    unit: ClassVar[str] = "tokens"
    new_parameters: ClassVar[tuple[str, ...]] = ()
    samples: ClassVar[bool] = False
    validated: ClassVar[tuple[str, ...]] = ("loss",)
    config: Any

    @classmethod
    def restore(cls, config: Any, directory: Path) -> "Task":
        """Makes the task with what its data left in the run's directory: tokenizers, names of classes."""
        raise NotImplementedError

    @classmethod
    def planned(cls, config: Any, data: Any) -> "Task":
        """Makes the task as far as configs tell, without data: for shapes and costs."""
        raise NotImplementedError

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> Cost:
        """Returns the cost of a training batch whose arrays have these shapes."""
        raise NotImplementedError

    @classmethod
    def load_data(
        cls, config: Any, model: ModelConfig, directory: Path, progress: Progress = SILENT
    ) -> Any:
        """Loads the splits and their batches; leaves in `directory` what `restore` needs."""
        raise NotImplementedError

    @classmethod
    def data_key(cls, task: Any, data: Any, model: Mapping[str, Any]) -> dict[str, Any]:
        """Returns all that `load_data` makes the data of, but the order of their batches: whose agree share them.

        A task whose data depend on more than their section adds it.
        """
        return {name: value for name, value, kind in leaves(data, "data.") if kind.part != ORDER}

    @classmethod
    def planned_fields(cls, data: Any) -> dict[str, Any]:
        """The fields of the model's config that follow from the data, as far as its config tells."""
        raise NotImplementedError

    @property
    def model_fields(self) -> dict[str, Any]:
        """The fields of the model's config that follow from the data."""
        raise NotImplementedError

    @classmethod
    def check(cls, data: Any, model: Any) -> None:
        """Refuses a `data` section that does not go with the model's config."""

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

    def validate(self, model: Any, batches: Batches, progress: Progress = SILENT) -> dict[str, float]:
        """Returns the numbers of one pass over batches in order, those of `validated`."""
        raise NotImplementedError

    def evaluate(
        self, model: Any, data: Any, splits: Sequence[str], progress: Progress = SILENT
    ) -> dict[str, Evaluation]:
        """Evaluates splits; returns what is reported of each."""
        raise NotImplementedError

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Describes the numbers of an evaluation in a line."""
        raise NotImplementedError

    def sample(self, model: Any, progress: Progress = SILENT) -> str:
        """Makes something with the model that can be read while it trains."""
        raise NotImplementedError

    def plot(self, model: Any, evaluation: Evaluation, directory: Path) -> None:
        """Draws pictures of one evaluation."""


class DocumentTask(Task):
    """A task on running text: a tokenizer that the data left, and rows that the model can read.

    Attributes:
      Data: what reads a `DataConfig`.
    """

    Data: ClassVar[type]

    def __init__(self, config: Any, tokenizer: Tokenizer):
        self.config, self.tokenizer = config, tokenizer

    @classmethod
    def restore(cls, config: Any, directory: Path) -> Task:
        return cls(config, tokenizers.load(directory / "tokenizer.json"))

    @classmethod
    def planned(cls, config: Any, data: Any) -> Task:
        return cls(config, tokenizers.planned(cls.planned_fields(data)["vocab_size"]))

    @classmethod
    def load_data(
        cls, config: Any, model: ModelConfig, directory: Path, progress: Progress = SILENT
    ) -> Any:
        return cls.Data(config, directory, progress)

    @classmethod
    def planned_fields(cls, data: Any) -> dict[str, Any]:
        return {"vocab_size": data.vocab_size or _SOME_CHARACTERS}

    @property
    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.tokenizer.get_vocab_size()}

    def first_unknown(self, text: str) -> int | None:
        """Returns the index of the first character that the tokenizer does not have, in any Unicode form of the text.

        None of a BPE, which has every byte.
        """
        unknown = tokenizers.unknown_id(self.tokenizer)
        if unknown not in tokenizers.encode_typed(self.tokenizer, text):
            return None
        # A character of the text may be a part of one in another form: the shortest beginning that has an unknown one.
        begins = range(1, len(text) + 1)
        key = lambda n: unknown in tokenizers.encode_typed(self.tokenizer, text[:n])  # noqa: E731
        return bisect.bisect_left(begins, True, key=key)

    @classmethod
    def check(cls, data: Any, model: ModelConfig) -> None:
        if data.row_length > model.max_length:
            raise ConfigError(f"data.row_length={data.row_length} exceeds model.max_length={model.max_length}")


def measured(
    measure: Callable[[Any, int], Any], batches: Batches, progress: Progress, what: str = "validating"
) -> list[Any]:
    """Yields `measure(batch, i)` for each batch, on the host; the next one is on its way while one is awaited.

    Without the wait, the device's queue would hold all batches, and the count would run ahead of it.
    """
    found, waiting = [], []
    with progress.phase(what, len(batches), "batches") as advance:
        for i in range(len(batches)):
            waiting.append(measure(batches.batch(i), i))
            if len(waiting) > 1:
                found.append(jax.device_get(waiting.pop(0)))
                advance()
        for last in waiting:
            found.append(jax.device_get(last))
            advance()
    return found


def told(progress: Progress, *what: str) -> tuple[Any, ...]:
    """Returns the arguments of a method that may know nothing of progress: none where all is silent."""
    return () if progress is SILENT else (progress, *what)


def weighted_means(measured: Sequence[tuple[dict[str, Any], Any]]) -> tuple[dict[str, float], float]:
    """Returns the weighted means over batches, `(means, weight)` each, in float64, and the sum of the weights.

    Raises:
      DataError: nothing was measured.
    """
    weights = np.asarray([weight for _, weight in measured], np.float64)
    total = float(weights.sum())
    if total == 0:
        raise DataError("cannot evaluate: no batch has a target; give a larger split")
    values = {name: np.asarray([means[name] for means, _ in measured], np.float64) for name in measured[0][0]}
    return {name: float((value * weights).sum() / total) for name, value in values.items()}, total


def perplexity(nats: float) -> float:
    """Returns the exponential of a mean negative log-likelihood; infinite above 709.78 nats, beyond float64."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(nats)))


def check_label_smoothing(value: float) -> None:
    """Refuses a label smoothing outside [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ConfigError(f"task.label_smoothing must be in [0, 1), got {value}")


def check_name(name: str, known: str) -> None:
    """Refuses a `task` section that was written for another task."""
    check_choice("task.name", name, (known,))
