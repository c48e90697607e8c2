"""Causal language modelling: predict what comes next, judged by bits per byte."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .. import decoding
from ..analysis import flops
from ..config import ConfigError, check_positive
from ..data import tokenizers
from ..data.causal_lm import CausalLMData, CausalLMDataConfig
from ..models import CausalLM
from ..nn import ModelConfig
from ..progress import SILENT, Progress
from .base import (
    DocumentTask,
    Evaluation,
    Loss,
    VocabularyLossConfig,
    check_name,
    measured,
    perplexity,
    vocabulary_loss,
    weighted_means,
)

_PROMPT_CHARACTERS = 120
_CONTINUED = 3
# Every sample, with or without a prompt, is written by one program.
_SAMPLE_PROMPT = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLMTaskConfig(VocabularyLossConfig):
    """The `task` section of a causal language modelling experiment.

    Attributes:
      name: "causal_lm".
      label_smoothing, z_loss, fused_loss: see `VocabularyLossConfig`.
      sample_tokens: length of the samples written while training and evaluating, in tokens; at most half of
        the model's max_length.
      sample_temperature: sampling temperature of those samples; see `decoding.sampling`.

    Raises:
      ConfigError: an invalid value, by the field's name.
    """

    name: str = "causal_lm"
    sample_tokens: int = 64
    sample_temperature: float = 0.8

    def __post_init__(self):
        super().__post_init__()
        check_name(self.name, "causal_lm")
        if self.sample_tokens < 1:
            raise ConfigError(f"task.sample_tokens must be at least 1, got {self.sample_tokens}")
        check_positive("task.sample_temperature", self.sample_temperature)


class Continuation(NamedTuple):
    """The beginning of a document and the continuation that the model wrote."""

    prompt: str
    continuation: str


class CausalLMTask(DocumentTask):
    """A `CausalLM` under cross-entropy; evaluated by bits per byte and perplexity.

    A batch holds "tokens" [B T+1], with "segments" [B T+1] where attention must not cross from one
    document to the next (0 is padding), or with "lengths" [B] where it may.
    """

    Config, DataConfig, Data, Model = CausalLMTaskConfig, CausalLMDataConfig, CausalLMData, CausalLM
    samples = True
    validated = ("loss", "perplexity")

    def prepared_loss(self, model: CausalLM, batch: Any, key: Array | None) -> Loss:
        """The training loss, a mean over target tokens, and how many they are."""
        return _loss(model, batch, key, self.config)

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> flops.Cost:
        rows, length = batch["tokens"].shape
        return flops.Cost(flops.causal_lm_flops(model, rows, length - 1), rows * (length - 1))

    def validate(self, model: CausalLM, batches: Any, progress: Progress = SILENT) -> dict[str, float]:
        """Cross-entropy in nats per token, without smoothing or dropout, and its exponential."""
        return self._measured(model, batches, progress)[0]

    def _measured(self, model, batches, *shown) -> tuple[dict[str, float], float]:
        """The numbers, and how many tokens they are the mean of."""
        losses = measured(lambda batch, _: _evaluation_loss(model, batch), batches, *shown)
        means, count = weighted_means([({"loss": loss}, weight) for loss, weight, _ in losses])
        return means | {"perplexity": perplexity(means["loss"])}, count

    def evaluate(
        self, model: CausalLM, data: CausalLMData, splits: Sequence[str], progress: Progress = SILENT
    ) -> dict[str, Evaluation]:
        """Loss, perplexity a token and bits per byte of text of each split, and some continuations.

        The end of each document is predicted too: its bits count, and it has no bytes. Rows see nothing
        of the row before them, so that longer rows give better numbers. A character that no training text has
        costs the bits of `<unk>`, which do not tell which one it is: the note counts them.
        """
        evaluations = {}
        for split in splits:
            batches, text = data.evaluation_batches(split), sum(len(ids) for ids, _ in data.encode(split))
            metrics, tokens = self._measured(model, batches, progress, f"scoring {text:,} tokens of {split}")
            bits = metrics["loss"] * tokens / math.log(2)
            metrics = metrics | {"bits_per_byte": bits / data.byte_count(split), "tokens": tokens}
            samples = self._continued(model, data.splits[split][:_CONTINUED], progress, split)
            unknown = data.unknown_count(split)
            note = f"{unknown:,} characters are not in the training split and are scored as <unk>" if unknown else ""
            evaluations[split] = Evaluation(metrics, note, samples)
        return evaluations

    def _continued(self, model, documents, progress: Progress, split: str) -> list[Continuation]:
        samples = []
        with progress.phase(f"writing samples of {split}", len(documents), "samples") as advance:
            for text in (document.text[:_PROMPT_CHARACTERS] for document in documents):
                # A beginning may fill a short context.
                pieces = self.continue_text(model, text, slide=True, pad_to=_SAMPLE_PROMPT)
                samples.append(Continuation(text, "".join(pieces)))
                advance()
        return samples

    def describe(self, metrics: Mapping[str, float]) -> str:
        return (
            f"{metrics['bits_per_byte']:.4f} bits per byte, perplexity {metrics['perplexity']:.2f} a token, "
            f"loss {metrics['loss']:.4f} nats a token, {metrics['tokens']:,.0f} tokens"
        )

    def sample(self, model: CausalLM, progress: Progress = SILENT) -> str:
        """Samples a text from its beginning."""
        with progress.phase("writing a sample"):
            return "".join(self.continue_text(model, "", pad_to=_SAMPLE_PROMPT))

    def continue_text(
        self,
        model: CausalLM,
        text: str,
        *,
        max_new_tokens: int | None = None,
        sampler: decoding.Sampler | None = None,
        key: Array | None = None,
        slide: bool = False,
        pad_to: int = 0,
    ) -> Iterator[str]:
        """Continues the beginning of a document, in pieces as they come.

        Args:
          text: the beginning; may be empty.
          max_new_tokens, sampler: by default those of the config's samples.
          key: of the sampler, by default `jax.random.key(0)`.
          slide, pad_to: see `decoding.generate`.

        Raises:
          ValueError: as `decoding.generate`.
        """
        ids = tokenizers.encode_typed(self.tokenizer, text)
        wanted = self.config.sample_tokens if max_new_tokens is None else max_new_tokens
        if max_new_tokens is None:
            wanted = min(wanted, max(1, model.config.max_length // 2))
        sampler = decoding.sampling(temperature=self.config.sample_temperature) if sampler is None else sampler
        steps = decoding.stream(
            model,
            [[tokenizers.BOS_ID, *ids]],
            max_new_tokens=wanted,
            sampler=sampler,
            key=jax.random.key(0) if key is None else key,
            eos_id=tokenizers.EOS_ID,
            slide=slide,
            pad_to=pad_to,
        )
        new: list[int] = []
        said = whole = ""
        for token in steps:
            new.append(int(token[0]))
            whole = tokenizers.decode(self.tokenizer, new, strip=False)
            # A character may take several tokens; until the last, decoding gives a replacement for it.
            if not whole.endswith("\ufffd"):
                yield whole[len(said) :]
                said = whole
        yield whole[len(said) :]


def _loss(model: CausalLM, batch: Any, key: Array | None, config: VocabularyLossConfig) -> Loss:
    inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    segments = batch.get("segments")
    if segments is None:
        weights = jnp.arange(1, batch["tokens"].shape[1]) < batch["lengths"][:, None]
    else:
        # The first token of a document has nothing to be predicted from.
        weights = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        segments = segments[:, :-1]
    weights = weights.astype(jnp.float32)
    hidden, _ = model.hidden(inputs, segments=segments, key=key)
    return vocabulary_loss(model, hidden, targets, weights, config), weights.sum(), {}


@jax.jit  # of the module, not of a task: all that have such a model share it
def _evaluation_loss(model: CausalLM, batch: Any) -> Loss:
    return _loss(model, batch, None, VocabularyLossConfig())
