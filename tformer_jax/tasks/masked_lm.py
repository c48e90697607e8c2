"""Masked language modelling: predict hidden tokens from both sides, judged by how many are right."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int
from tokenizers.models import WordLevel

from .. import functional as F
from ..analysis import flops
from ..config import COUNT, INSIDE, field
from ..data import tokenizers
from ..data.batches.buckets import EVALUATION_TOKENS, Buckets, padded
from ..data.files import DataError
from ..data.masked_lm import MaskedLMData, MaskedLMDataConfig
from ..data.ragged import Ragged
from ..models import MaskedLM
from ..nn import ModelConfig
from ..nn.partitioning import row_groups, spread_groups
from ..nn.placement import fetched, placed, row_parts
from ..progress import SILENT, Progress
from .base import TASKS, Evaluation, Loss, Measured, with_auxiliary
from .pictures import Example, Pictured, text_side
from .text import DocumentTask, RankedPrediction, TextPrediction
from .vocabulary import VocabularyLossConfig, loss_inputs, perplexity, projection

MASK_TEXT = "[MASK]"

_SHOWN = 5
# Of a sample: so many tokens on each side of its gap, and so many guesses.
_AROUND, _GUESSES = 12, 3
_HIDDEN = 7  # of as many tokens of an example one is hidden


class Filled(NamedTuple):
    """A gap in the text around it, the likeliest tokens for it with their probabilities, and the true one."""

    masked: str
    predicted: str
    original: str


class Guess(NamedTuple):
    """A token for a gap, and its probability."""

    token: str
    probability: float


@TASKS.register("masked_lm")
class MaskedLMTask(DocumentTask):
    """A `MaskedLM` that restores corrupted tokens; evaluated by masked accuracy and pseudo-perplexity.

    A batch holds "tokens" [B T], "lengths" [B], and "word_ids" [B T] where words are masked whole. The
    corruption is drawn in the program: from the step's key in training, from the batch's number in
    evaluation, so that every evaluation hides the same tokens.
    """

    class Config(VocabularyLossConfig):
        """The `task` section of a masked language modelling experiment.

        Attributes:
          mask_rate: share of the tokens that are predicted; see `functional.mask_tokens`.
          pseudo_perplexity_rows: number of rows of a split whose tokens are all masked, one at a time, for
            the pseudo-perplexity (Salazar et al., 2020): each costs as many forward passes as it has tokens.
          others: see `VocabularyLossConfig`.
        """

        mask_rate: float = field(0.15, INSIDE)
        pseudo_perplexity_rows: int = field(32, COUNT)

    class Prediction(TextPrediction, RankedPrediction):
        """The texts whose gaps to fill."""

    DataConfig, Data, Model = MaskedLMDataConfig, MaskedLMData, MaskedLM
    unit = "masked tokens"
    new_parameters = ("model.transform.", "model.transform_norm.", "model.output.")
    validated = ("loss", "masked_accuracy")
    judged_by = "masked_accuracy"

    @property
    def _mask(self) -> int:
        return tokenizers.special(self.tokenizer, "mask")[0]

    @property
    def _corruption(self) -> "_Corruption":
        kept = tokenizers.special(self.tokenizer, "pad", "bos", "eos")
        return _Corruption(tokenizers.room(self.tokenizer), self._mask, kept, self.config.mask_rate)

    @property
    def _gap(self) -> str:
        # A token of a byte-level BPE holds the blank before its word, and so does a gap; characters and bytes stand alone.
        alone = isinstance(self.tokenizer.model, WordLevel) or tokenizers.of_bytes(self.tokenizer)
        return MASK_TEXT if alone else " " + MASK_TEXT

    def prepare(self, batch: Any, key: Array) -> Any:
        """The batch with what takes the place of its tokens, "corrupted", and which were chosen, "masked" [B T]."""
        corruption_key, _ = jax.random.split(key)
        return _corrupted(batch, corruption_key, self._corruption)

    def prepared_loss(self, model: MaskedLM, batch: Any, key: Array) -> Loss:
        """The training loss, a mean over the chosen tokens, and how many they are."""
        _, dropout_key = jax.random.split(key)
        hidden, targets, weights, losses = _chosen(model, batch, dropout_key, self.config.mask_rate)
        scores, how = loss_inputs(model, hidden, self.config)
        return with_auxiliary(F.masked_lm_loss(scores, targets, weights, **how), weights.sum(), losses)

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> flops.Cost:
        rows, length = batch["tokens"].shape
        predicted = _room(rows * length, self.config.mask_rate)
        return flops.Cost(flops.masked_lm_flops(model, rows, length, predicted), rows * length)

    def measure(self, model: MaskedLM, batch: Any, number: int) -> Measured:
        """Cross-entropy in nats per chosen token, without smoothing or dropout, and the share that is right."""
        return _measure(model, batch, number, self._corruption)

    def evaluate_split(
        self, model: MaskedLM, data: MaskedLMData, split: str, progress: Progress = SILENT
    ) -> Evaluation:
        """Loss, masked accuracy and pseudo-perplexity, and some filled gaps."""
        batches = data.evaluation_batches(split)
        tokens = data.token_count(split)
        metrics = self.score(model, batches, progress, f"scoring {tokens:,} tokens of {split}").means
        rows = self._rows(batches, self.config.pseudo_perplexity_rows)
        metrics |= {"pseudo_perplexity": self.pseudo_perplexity(model, rows, progress), "rows": len(rows)}
        filled = functools.partial(self._filled, model)
        samples = progress.each(f"filling gaps of {split}", [*enumerate(rows[:_SHOWN])], "samples", filled)
        return Evaluation(metrics, f"pseudo-perplexity of {len(rows)} rows", samples)

    def example(self, model: MaskedLM, of: Pictured) -> Example:
        """Returns rows of the split in which every seventh token is hidden."""
        found = super().example(model, of)
        tokens, lengths = np.array(found.batch["tokens"]), found.batch["lengths"]
        hidden = np.arange(tokens.shape[1]) % _HIDDEN == _HIDDEN // 2
        tokens[hidden & (np.arange(tokens.shape[1]) < lengths[:, None] - 1)] = self._mask
        note = "; ".join(filter(None, (found.note, f"every {_HIDDEN}th token is hidden")))
        side = text_side(self.tokenizer, tokens, lengths)
        return Example({"tokens": tokens, "lengths": lengths}, side, note)

    def read(self, model: MaskedLM, batch: Any) -> Any:
        return model(batch["tokens"], mask=F.AttentionMask(lengths=batch["lengths"]))

    def describe(self, metrics: Mapping[str, float]) -> str:
        return (
            f"masked accuracy {100 * metrics['masked_accuracy']:.2f} %, loss {metrics['loss']:.4f} nats a masked "
            f"token, pseudo-perplexity {metrics['pseudo_perplexity']:.2f} a token"
        )

    def pseudo_perplexity(self, model: MaskedLM, rows: Sequence[np.ndarray], progress: Progress = SILENT) -> float:
        """exp of the mean of -log P(x_i | all other tokens of its row), over every token but start and end.

        Source: Salazar et al., 2020.

        Args:
          model: any.
          rows: token ids, each from start to end token and no longer than max_length.
          progress: is told of each row.
        """
        length, at_once, total = max(len(row) for row in rows), row_parts(), 0.0
        how = {"batch_tokens": at_once * length, "seed": None, "rows_multiple": at_once}
        batches = Buckets((Ragged.from_lists(rows),), ("tokens",), [length], **how)
        with progress.phase("pseudo-perplexity", len(rows), "rows") as advance:
            for i in range(len(batches)):
                sums = fetched(_token_log_probs(model, placed(batches, i), self._mask))
                total += np.sum(sums, dtype=np.float64)
                advance(len(batches.indices(i)))
        return perplexity(-total / sum(len(row) - 2 for row in rows))

    def predict(self, model: MaskedLM, asked: Prediction, progress: Progress = SILENT) -> Iterator[str]:
        """Yields a line for each gap of each text: the likeliest tokens."""
        texts, filled = self.known_texts(asked), []
        with progress.phase("filling gaps", len(texts), "texts") as advance:
            for text, where in texts:
                try:
                    filled.append(self.fill(model, text, asked.top))
                except DataError as error:
                    raise DataError(str(error).replace("the text", where)) from None
                advance()
        for gaps in filled:
            for number, guesses in enumerate(gaps, 1):
                yield f"{MASK_TEXT} {number}: {_said(guesses)}\n"

    def first_unknown(self, text: str) -> int | None:
        at = 0
        for part in text.split(MASK_TEXT):  # a gap is no text: its characters need not be known
            if (found := super().first_unknown(part)) is not None:
                return at + found
            at += len(part) + len(MASK_TEXT)
        return None

    def fill(self, model: MaskedLM, text: str, count: int = 5) -> list[list[Guess]]:
        """The `count` likeliest tokens for each `[MASK]` of a text, likeliest first.

        Raises:
          DataError: no gap, or more tokens than the model reads.
        """
        return self._guesses(model, np.asarray(self._with_gaps(text, model.config.max_length)), count)

    def _guesses(self, model: MaskedLM, tokens: np.ndarray, count: int) -> list[list[Guess]]:
        """The likeliest tokens for each gap of a row."""
        best_first = []
        for probabilities in self._predicted(model, tokens)[tokens == self._mask]:
            best = np.argsort(-probabilities, kind="stable")[:count]
            best_first.append([Guess(self._text([i]), float(probabilities[i])) for i in best])
        return best_first

    def _predicted(self, model: MaskedLM, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """The probabilities [n V] of the tokens at each place of a row."""
        row, size = padded(tokens, model.config.max_length), len(tokens)
        return fetched(_probabilities(model, row, np.int32(size)))[:size]

    def _with_gaps(self, text: str, limit: int) -> list[int]:
        parts = text.replace(self._gap, MASK_TEXT).split(MASK_TEXT)
        if len(parts) == 1:
            raise DataError(f"the text has no {MASK_TEXT} to fill in")
        encoded = [tokenizers.encode_typed(self.tokenizer, part) for part in parts]
        start, end = tokenizers.special(self.tokenizer, "bos", "eos")
        tokens = [start, *encoded[0]]
        for part in encoded[1:]:
            tokens += [self._mask, *part]
        tokens.append(end)
        if len(tokens) > limit:
            raise DataError(f"the text has {len(tokens)} tokens, but the model reads at most {limit}; shorten it")
        return tokens

    def _rows(self, batches: Any, count: int) -> list[np.ndarray]:
        """`count` rows, evenly spread over all, without padding."""
        lengths = (fetched(placed(batches, i)["lengths"]) for i in range(len(batches)))
        places = [(i, int(row)) for i, of_batch in enumerate(lengths) for row in np.flatnonzero(of_batch > 2)]
        chosen = np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)
        found = [batches.batch(i, slice(row, row + 1)) for i, row in (places[n] for n in chosen)]
        return [batch["tokens"][0, : batch["lengths"][0]] for batch in found]

    def _filled(self, model: MaskedLM, numbered: tuple[int, np.ndarray]) -> Filled:
        """One token of a row, anywhere but at its ends, as the model guesses it from all others."""
        number, row = numbered
        place = np.random.default_rng(number).integers(1, len(row) - 1)
        (guesses,) = self._guesses(model, np.where(np.arange(len(row)) == place, self._mask, row), _GUESSES)
        before, after = row[1:place], row[place + 1 : -1]
        start, end = (" ..." if len(part) > _AROUND else "" for part in (before, after))
        around = self._text(before[-_AROUND:]), self._gap, self._text(after[:_AROUND])
        return Filled(start + "".join(around) + end, _said(guesses), repr(self._text([row[place]])))

    def _text(self, tokens: Iterable[Any]) -> str:
        return tokenizers.decode(self.tokenizer, tokens, strip=False)


def _said(guesses: Iterable[Guess]) -> str:
    """Guesses in a line. Quoted: a token may be blank, or begin with the blank before its word."""
    return "  ".join(f"{guess.token!r} {guess.probability:.3f}" for guess in guesses)


class _Corruption(NamedTuple):
    """What `functional.mask_tokens` has to know beside the tokens."""

    vocab_size: int
    mask_id: int
    special_ids: tuple[int, ...]
    rate: float


def _corrupted(batch: Any, key: Array, how: _Corruption) -> Any:
    corrupted, masked = F.mask_tokens(
        batch["tokens"],
        key,
        mask_id=how.mask_id,
        vocab_size=how.vocab_size,
        special_ids=how.special_ids,
        rate=how.rate,
        word_ids=batch.get("word_ids"),
    )
    return batch | {"corrupted": corrupted, "masked": masked}


def _chosen(model: MaskedLM, batch: Any, dropout_key: Array | None, rate: float):
    """States [G M D], original tokens [G M] and weights [G M] of the chosen tokens alone, and auxiliary losses."""
    tokens, masked = batch["tokens"], batch["masked"]
    mask = F.AttentionMask(lengths=batch["lengths"])
    states, beside = model.hidden(batch["corrupted"], mask=mask, key=dropout_key)
    # Each group of devices picks from its own rows.
    groups = row_groups(len(tokens))
    tokens, masked, states = (x.reshape(groups, -1, *x.shape[2:]) for x in (tokens, masked, states))
    chosen, weights = first_chosen(masked, _room(tokens.shape[1], rate))
    states = jnp.take_along_axis(spread_groups(states), chosen[..., None], axis=1)
    targets = jnp.take_along_axis(tokens, chosen, axis=1)
    return model.transformed(spread_groups(states)), targets, weights, beside.losses


@functools.partial(jax.jit, static_argnames="how")  # of the module: shared by all with such a model
def _measure(model: MaskedLM, batch: Any, number: Int[Array, ""], how: _Corruption) -> Measured:
    key = jax.random.fold_in(jax.random.key(0), number)
    hidden, targets, weights, _ = _chosen(model, _corrupted(batch, key, how), None, how.rate)
    logits = model.logits(hidden)  # [G M V]
    right = (logits.argmax(-1) == targets).astype(jnp.float32)
    accuracy = F.weighted_mean(right, weights)
    return {"loss": F.masked_lm_loss(logits, targets, weights), "masked_accuracy": accuracy}, weights.sum(), None


def first_chosen(masked: Bool[Array, "G N"], count: int) -> tuple[Int[Array, "G M"], Float[Array, "G M"]]:
    """Returns where the first `count` True values of each group stand, and weights: 1 for them, 0 for padding."""
    places = jnp.argsort(~masked, axis=1, stable=True)[:, :count]
    return places, jnp.take_along_axis(masked, places, axis=1).astype(jnp.float32)


def _room(tokens: int, rate: float) -> int:
    """Places for the chosen among `tokens`: the mean and eight standard deviations, in eights.

    Of what is chosen beyond, which may happen where whole words are, the last are not predicted.
    """
    wanted = tokens * rate + 8 * math.sqrt(tokens * rate * (1 - rate))
    return min(tokens, 8 * math.ceil(wanted / 8))


@functools.partial(jax.jit, static_argnames="mask_id")
def _token_log_probs(model: MaskedLM, batch: Any, mask_id: int) -> Float[Array, "B"]:
    """The sum over the tokens of each row, but its first and last, of log P(token | the others)."""
    tokens, lengths = batch["tokens"], batch["tokens_lengths"]  # [B T], [B]
    mask, T = F.AttentionMask(lengths=lengths), tokens.shape[1]

    def log_prob(place):
        states, _ = model.encoder(tokens.at[:, place].set(mask_id), mask=mask)
        hidden = model.transformed(states[:, place])  # [B D]
        log_probs = F.output_log_probs(hidden, **projection(model, hidden))  # [B V]
        return jnp.take_along_axis(log_probs, tokens[:, place, None], axis=1)[:, 0]

    # As many copies of a row at a time, each without another token, as other evaluations have tokens.
    places = jnp.arange(1, T - 1)
    log_probs = jax.lax.map(log_prob, places, batch_size=max(1, EVALUATION_TOKENS // T))  # [T-2 B]
    return jnp.where(places < lengths[:, None] - 1, log_probs.T, 0.0).sum(1)


@jax.jit
def _probabilities(model: MaskedLM, row: Int[Array, "T"], size: Int[Array, ""]) -> Float[Array, "T V"]:
    return jax.nn.softmax(model(row[None], mask=F.AttentionMask(lengths=size[None]))[0].astype(jnp.float32))
