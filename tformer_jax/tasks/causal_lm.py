"""Causal language modelling: predict what comes next, judged by bits per byte."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

from .. import decoding, functional as F
from ..analysis import flops
from ..config import COUNT, POSITIVE, SEED, ConfigError, field
from ..data import tokenizers
from ..data.causal_lm import CausalLMData, CausalLMDataConfig
from ..models import CausalLM
from ..nn import ModelConfig
from ..progress import SILENT, Progress
from .base import TASKS, Evaluation, Loss, Measured, Scores, with_auxiliary
from .pictures import Example, Pictured, text_side
from .text import DocumentTask, TextPrediction
from .vocabulary import VocabularyLossConfig, loss_inputs, perplexity, plain_loss, target_weights

_PROMPT_CHARACTERS = 120
_CONTINUED = 3
# Every sample, with or without a prompt, is written by one program.
_SAMPLE_PROMPT = 128
# What is generated for a prompt, unless it is said.
_NEW_TOKENS = 100
_OF_EVERY_TEXT = ("loss", "perplexity", "bits_per_byte", "tokens")
_DRAW = ("temperature", "top_k", "top_p", "min_p", "seed", "num_samples")


class Continuation(NamedTuple):
    """The beginning of a document and the continuation that the model wrote."""

    prompt: str
    continuation: str


@TASKS.register("causal_lm")
class CausalLMTask(DocumentTask):
    """A `CausalLM` under cross-entropy; evaluated by bits per byte and perplexity.

    A batch holds "tokens" [B T+1], with "segments" [B T+1] where attention must not cross from one
    document to the next (0 is padding), or with "lengths" [B] where it may.
    """

    class Config(VocabularyLossConfig):
        """The `task` section of a causal language modelling experiment.

        Attributes:
          sample_tokens: length of the samples written while training and evaluating, in tokens; at most half of
            the model's max_length.
          sample_temperature: sampling temperature of those samples; see `decoding.sampling`.
          others: see `VocabularyLossConfig`.
        """

        sample_tokens: int = field(64, COUNT)
        sample_temperature: float = field(0.8, POSITIVE)

    class Prediction(TextPrediction):
        """The texts to continue, and how."""

        max_new_tokens: int | None = field(
            None, COUNT, help="Number of tokens to generate; by default 100, or half of max_length if that is less."
        )
        greedy: bool = field(False, help="Take the most probable token at each step instead of sampling.")
        temperature: float | None = field(None, help="Sampling temperature; by default 0.8.")
        top_k: int | None = field(None, COUNT, help="Sample from the k most probable tokens only.")
        top_p: float | None = field(
            None, help="Nucleus sampling: sample from the fewest tokens that together have this probability."
        )
        min_p: float | None = field(
            None, help="Sample only from tokens with at least this share of the highest probability."
        )
        repetition_penalty: float | None = field(
            None, help="Above 1, tokens that the text already contains become less probable."
        )
        seed: int | None = field(None, SEED, help="Random seed of sampling; by default 0.")
        num_samples: int | None = field(
            None, COUNT, help="Number of continuations of each text, each drawn by itself; by default 1."
        )
        slide: bool = field(False, help="If a text is too long for the model, read only its end.")

        def check(self):
            drawn = [name for name in _DRAW if getattr(self, name) is not None]
            if self.greedy and drawn:
                raise ConfigError(f"{drawn[0]} has no meaning with --greedy; leave one of them out")

        def sampler(self) -> decoding.Sampler:
            """Returns the sampler that is asked for.

            Raises:
              ValueError: one of its numbers cannot be.
            """
            if self.greedy:
                return decoding.greedy(repetition_penalty=self.repetition_penalty)
            filters = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
            temperature = 0.8 if self.temperature is None else self.temperature
            return decoding.sampling(temperature=temperature, repetition_penalty=self.repetition_penalty, **filters)

    DataConfig, Data, Model = CausalLMDataConfig, CausalLMData, CausalLM
    samples = True
    validated = ("loss", "perplexity")
    judged_by = "perplexity"
    prefix: ClassVar[bool] = False  # whether the tokens of a prompt see all of it, see `decoding.generate`

    @staticmethod
    def targets(batch: Any) -> Bool[Array, "B T"]:
        """Returns which tokens are to be predicted."""
        return target_weights(batch["tokens"], batch.get("lengths"), batch.get("segments"))

    @staticmethod
    def mask(batch: Any) -> Any:
        """Returns who sees whom within a segment, see `CausalLM`; None: causal.

        Continuations follow it too, and then do without a cache, unless `prefix` says what it is of a prompt.
        """
        return None

    def prepared_loss(self, model: CausalLM, batch: Any, key: Array | None) -> Loss:
        """The training loss, a mean over target tokens, and how many they are."""
        return self._loss(model, batch, key, self.config)

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> flops.Cost:
        rows, length = batch["tokens"].shape
        return flops.Cost(flops.causal_lm_flops(model, rows, length - 1), rows * (length - 1))

    def measure(self, model: CausalLM, batch: Any, number: int) -> Measured:
        """Cross-entropy in nats per token, without smoothing or dropout."""
        return plain_loss(self._loss, model, batch)

    @classmethod
    def _loss(cls, model: CausalLM, batch: Any, key: Array | None, config: VocabularyLossConfig | None) -> Loss:
        tokens, segments, weights = batch["tokens"], batch.get("segments"), cls.targets(batch)  # [B T+1]
        seen = None if segments is None else segments[:, :-1]
        hidden, beside = model.hidden(tokens[:, :-1], mask=cls.mask(batch), segments=seen, key=key)  # [B T D]
        scores, how = loss_inputs(model, hidden, config)
        loss = F.causal_lm_loss(scores, tokens, weights=weights, **how)
        auxiliary = {} if config is None else beside.losses  # of training alone
        return with_auxiliary(loss, weights.sum(dtype=jnp.float32), auxiliary)

    def score(self, model: CausalLM, batches: Any, progress: Progress = SILENT, what: str = "validating") -> Scores:
        scores = super().score(model, batches, progress, what)
        return scores._replace(means=scores.means | {"perplexity": perplexity(scores.means["loss"])})

    def evaluate_split(
        self, model: CausalLM, data: CausalLMData, split: str, progress: Progress = SILENT
    ) -> Evaluation:
        """Loss, perplexity a token and bits per byte of text, the number of the literature of the source, if it has a
        `yardstick`, and some continuations.

        The end of each document is predicted too: its bits count, and it has no bytes. Rows see nothing
        of the row before them, so that longer rows give better numbers. A character that no training text has
        costs the bits of `<unk>`, which do not tell which one it is: the note counts them. Of tokens of a file of which
        nobody knows the bytes, there are no bits per byte.
        """
        scoring = f"scoring {data.token_count(split):,} tokens of {split}"
        scores = self.score(model, data.evaluation_batches(split), progress, scoring)
        size, nats = data.byte_count(split), scores.means["loss"] * scores.weight
        bits = {"bits_per_byte": nats / math.log(2) / size} if size else {}
        metrics = scores.means | bits | {"tokens": scores.weight}
        if (yardstick := data.yardstick) is not None:
            count = sum(map(yardstick.count, data.splits[split].text("text")))
            metrics |= {yardstick.metric: yardstick.number(nats, count), yardstick.unit: count}
        texts = data.beginnings(split, _CONTINUED, _PROMPT_CHARACTERS)
        continued = functools.partial(self._continued, model)
        samples = progress.each(f"writing samples of {split}", [*enumerate(texts)], "samples", continued)
        return Evaluation(metrics, "; ".join(_remarks(data, split, size)), samples)

    def _continued(self, model: CausalLM, numbered: tuple[int, str]) -> Continuation:
        number, text = numbered
        how = {"key": _key_of_draw(0, number), "pad_to": _SAMPLE_PROMPT}
        return Continuation(
            text, "".join(self.continue_text(model, text, slide=True, **how))
        )  # it may fill the context

    def example(self, model: CausalLM, of: Pictured) -> Example | None:
        """Returns rows of the split; the last token of each is predicted alone."""
        found = super().example(model, of)
        tokens = found.batch["tokens"][:, :-1]
        lengths = np.full(len(tokens), tokens.shape[1])
        if (segments := found.batch.get("segments")) is not None:
            lengths = (segments[:, :-1] > 0).sum(1)
        elif "lengths" in found.batch:
            lengths = found.batch["lengths"] - 1
        return found._replace(sides=text_side(self.tokenizer, tokens, lengths))

    def read(self, model: CausalLM, batch: Any) -> Any:
        return self._loss(model, batch, None, None)

    def describe(self, metrics: Mapping[str, float]) -> str:
        bits = f"{metrics['bits_per_byte']:.4f} bits per byte, " if "bits_per_byte" in metrics else ""
        said = (
            f"{bits}perplexity {metrics['perplexity']:.2f} a token, "
            f"loss {metrics['loss']:.4f} nats a token, {metrics['tokens']:,.0f} tokens"
        )
        more = {name: x for name, x in metrics.items() if name not in _OF_EVERY_TEXT}
        words = [f"{x:,} {n}" if isinstance(x, int) else f"{n.replace('_', ' ')} {x:,.4f}" for n, x in more.items()]
        return f"{', '.join(words)}; {said}" if words else said

    def sample(self, model: CausalLM, progress: Progress = SILENT) -> str:
        """Samples a text from its beginning."""
        with progress.phase("writing a sample"):
            return "".join(self.continue_text(model, "", key=_key_of_draw(0, 0), pad_to=_SAMPLE_PROMPT))

    def predict(self, model: CausalLM, asked: Prediction, progress: Progress = SILENT) -> Iterator[str]:
        """Yields each text and its continuation, as it comes."""
        try:
            how = {"sampler": asked.sampler(), "slide": asked.slide}
        except ValueError as error:
            raise ConfigError(str(error)) from None
        how["max_new_tokens"] = asked.max_new_tokens or min(_NEW_TOKENS, max(1, model.config.max_length // 2))
        drawn = [placed for placed in self.known_texts(asked) for _ in range(asked.num_samples or 1)]
        for number, (text, where) in enumerate(drawn):
            pieces = self.continue_text(model, text, key=_key_of_draw(asked.seed or 0, number), **how)
            try:
                with progress.phase("compiling"):
                    first = next(pieces)  # what is refused is refused before anything is printed
            except ValueError as error:
                raise ConfigError(str(error).replace("prompt 0", where).replace("slide=True", "--slide")) from None
            yield from itertools.chain((text, first), pieces, "\n")

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
        start, end = tokenizers.special(self.tokenizer, "bos", "eos")
        if max_new_tokens is None:
            max_new_tokens = min(self.config.sample_tokens, max(1, model.config.max_length // 2))
        sampler = decoding.sampling(temperature=self.config.sample_temperature) if sampler is None else sampler
        of_rows = type(self).mask is not CausalLMTask.mask and not self.prefix
        steps = decoding.stream(
            decoding.Recomputed(model, type(self).mask) if of_rows else model,
            [[start, *tokenizers.encode_typed(self.tokenizer, text)]],
            max_new_tokens=max_new_tokens,
            sampler=sampler,
            key=jax.random.key(0) if key is None else key,
            eos_id=end,
            slide=slide,
            pad_to=pad_to,
            prefix=self.prefix,
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


def _remarks(data: CausalLMData, split: str, size: int | None) -> Iterator[str]:
    """Yields what has to be said of the bits per byte of a split of so many bytes."""
    if unknown := data.unknown_count(split):
        of_characters = tokenizers.unknown_id(data.tokenizer) is not None
        what = "characters are not in the training split" if of_characters else "tokens are unknown"
        yield f"{unknown:,} {what} and are scored as <unk>"
    if not data.is_given_back(split):
        yield "the tokenizer does not give texts back as they are: bits per byte are those of what it reads of them"
    if not size:
        yield "no bits per byte: a token of this tokenizer does not tell of how many bytes it is"


def _key_of_draw(seed: int, number: int) -> Array:
    """The key of one of several texts that are drawn, which would else go on alike."""
    return jax.random.fold_in(jax.random.key(seed), number)
