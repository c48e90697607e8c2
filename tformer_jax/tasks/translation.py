"""Translation: an encoder-decoder under cross-entropy, judged by BLEU."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import decoding, functional as F
from ..analysis import flops
from ..analysis.lengths import plot_by_length
from ..config import COUNT, NOT_NEGATIVE, SHARE, TRAINING, ConfigError, field
from ..data import files, tokenizers
from ..data.batches.buckets import Buckets, ladder
from ..data.ragged import Ragged
from ..data.text import canonical
from ..data.translation import Tokenizers, TranslationData, TranslationDataConfig, inherit_tokenizers
from ..data.vocabularies import check_there, planned_size
from ..models import Transformer
from ..nn import ModelConfig
from ..nn.layers import split_key
from ..nn.placement import fetched, placed
from ..progress import SILENT, Progress
from .base import TASKS, Evaluation, Loss, Measured, Task, with_auxiliary
from .pictures import LONGEST_EXAMPLE, Example, Pictured, text_side, words
from .text import SOME_TOKENS, TextPrediction
from .vocabulary import VocabularyLossConfig, loss_inputs, plain_loss, target_weights

_DECODING_TOKENS = 4096
_PLOTTED_WORDS = 8
_EXAMPLES = 8  # sentences to look at a model with


class Sample(NamedTuple):
    """A sentence, its reference, and what the model made of it."""

    source: str
    reference: str
    translation: str


@TASKS.register("translation")
class TranslationTask(Task):
    """An encoder-decoder `Transformer` under cross-entropy; evaluated by loss and BLEU.

    A batch holds "source" [B S] and "target" [B T+1], from start to end token, with
    "source_lengths" and "target_lengths" [B], or with "source_segments" and "target_segments"
    where several pairs share a row.
    """

    class Config(VocabularyLossConfig):
        """The `task` section of a translation experiment.

        Attributes:
          beam_size: number of hypotheses kept when translating; 1 is greedy search.
          length_penalty: exponent of the length by which the score of a hypothesis is divided; 0: it is not. See
            `decoding.beam_search`.
          others: see `VocabularyLossConfig`.
        """

        label_smoothing: float = field(0.1, SHARE, part=TRAINING, traced=True)
        beam_size: int = field(4, COUNT)
        length_penalty: float = field(0.6, NOT_NEGATIVE)

        def check(self):
            if self.beam_size == 1 and self.length_penalty:
                raise ConfigError("length_penalty must be 0 with task.beam_size=1: it ranks the hypotheses of a beam")

    Prediction, typed = TextPrediction, "text"
    DataConfig, Data, Model = TranslationDataConfig, TranslationData, Transformer
    learnt = ("tokenizers",)
    judged_by = "bleu"

    tokenizers: Tokenizers

    @classmethod
    def inherit(cls, start: Path, directory: Path) -> None:
        inherit_tokenizers(start, directory)

    @classmethod
    def planned_fields(cls, data: TranslationDataConfig) -> dict[str, Any]:
        target = planned_size(data.vocab_size, data.tokenizer_path) or SOME_TOKENS
        path = data.source_tokenizer_path
        source = planned_size(data.source_vocab_size, path) or (None if path is None else SOME_TOKENS)
        return {"vocab_size": target, "source_vocab_size": source}

    @classmethod
    def planned(cls, config: Any, data: TranslationDataConfig) -> Task:
        check_there(data.tokenizer_path, data.source_tokenizer_path)
        return super().planned(config, data)

    @property
    def model_fields(self) -> dict[str, Any]:
        source, target = map(tokenizers.room, self.tokenizers[:2])
        shared = self.tokenizers.source is self.tokenizers.target
        return {"vocab_size": target, "source_vocab_size": None if shared else source}

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> flops.Cost:
        (rows, source), target = batch["source"].shape, batch["target"].shape[1] - 1
        return flops.Cost(flops.transformer_flops(model, rows, source, target), rows * target)

    def prepared_loss(self, model: Transformer, batch: Any, key: Array | None) -> Loss:
        """The smoothed training loss, a mean over target tokens, and how many they are."""
        return _loss(model, batch, key, self.config)

    def measure(self, model: Transformer, batch: Any, number: int) -> Measured:
        """Cross-entropy in nats per target token, without smoothing or dropout."""
        return plain_loss(_loss, model, batch)

    def evaluate(
        self, model: Transformer, data: TranslationData, splits: Sequence[str], progress: Progress = SILENT
    ) -> dict[str, Evaluation]:
        """Loss and BLEU of each split (pairs beyond the model's max_length are reported and left out)."""
        pairs = {split: data.pairs(split) for split in splits}
        # All at once: their sentences share batches and compiled programs.
        sources = [pair.source for split in splits for pair in pairs[split]]
        translations = iter(self.translate(model, sources, progress))
        evaluations = {}
        for split in splits:
            samples = [Sample(pair.source, pair.target, next(translations)) for pair in pairs[split]]
            score = self.bleu(samples).score
            scoring = f"scoring {len(samples):,} sentences of {split}"
            numbers = self.score(model, data.evaluation_batches(split), progress, scoring).means
            metrics = numbers | {"bleu": score, "sentences": len(samples)}
            evaluations[split] = Evaluation(metrics, f"signature {_judge().get_signature()}", samples)
        return evaluations

    def describe(self, metrics: Mapping[str, float]) -> str:
        return f"BLEU {metrics['bleu']:.2f}, loss {metrics['loss']:.4f} nats a token, {metrics['sentences']} sentences"

    def predict(self, model: Transformer, asked: TextPrediction, progress: Progress = SILENT) -> Iterator[str]:
        """Yields the translation of each text."""
        for translation in self.translate(model, asked.texts(), progress):
            yield translation.replace("\n", " ") + "\n"  # one line a sentence, whatever the model writes

    def translate(self, model: Transformer, texts: list[str], progress: Progress = SILENT) -> list[str]:
        """The translation of each text, in order.

        Raises:
          DataError: a text has more tokens than the model's max_length (says which and how many).
        """
        encoded, limit = self.tokenizers.encode_sources(texts), model.config.max_length
        for number, ids in enumerate(encoded, 1):
            if len(ids) > limit:
                raise files.DataError(
                    f"sentence {number} has {len(ids)} tokens, but the model reads at most {limit}; shorten it"
                )
        translations = [""] * len(texts)
        # By length, so that the sentences of a batch end at about the same step.
        order = sorted((i for i in range(len(texts)) if encoded[i]), key=lambda i: len(encoded[i]))
        if not order:
            return translations
        lengths = ladder(len(encoded[order[-1]]), limit)
        sides = (Ragged.from_lists([encoded[i] for i in order]),)
        batches = Buckets(sides, ("source",), lengths, _DECODING_TOKENS, None, self.tokenizers.pad)
        with progress.phase(f"translating, beam of {self.config.beam_size}", len(order), "sentences") as advance:
            for i in range(len(batches)):
                examples = batches.indices(i)
                tokens = fetched(self._search(model, placed(batches, i)))
                for example, row in zip(examples, tokens[: len(examples)], strict=True):
                    translations[order[example]] = tokenizers.decode(self.tokenizers.target, row)
                advance(len(examples))
        return translations

    def _search(self, model: Transformer, batch: Any) -> Array:
        source, (end,) = batch["source"], tokenizers.special(self.tokenizers.target, "eos")
        how = {
            "source_mask": F.AttentionMask(lengths=batch["source_lengths"]),
            # Room for half as much again and a few; more only feeds repetitions.
            "max_length": min(model.config.max_length, 3 * source.shape[1] // 2 + 10),
            "bos_id": self.tokenizers.start,
            "eos_id": end,
        }
        if self.config.beam_size == 1:
            return decoding.greedy_search(model, source, **how)
        beam = {"beam_size": self.config.beam_size, "length_penalty": self.config.length_penalty, "num_results": 1}
        return decoding.beam_search(model, source, **how, **beam).tokens[:, 0]

    def example(self, model: Transformer, of: Pictured) -> Example | None:
        """Returns sentences of about eight words, and what the model makes of them."""
        said = [sample for sample in of.evaluation.samples if sample.source.strip()]
        some = sorted(said, key=lambda s: abs(len(s.source.split()) - _PLOTTED_WORDS))[:_EXAMPLES]
        if not some:
            return None
        limit = min(model.config.max_length, LONGEST_EXAMPLE)
        sources = [ids[:limit] for ids in self.tokenizers.encode_sources([s.source for s in some])]
        targets = [ids[: limit + 1] for ids in self.tokenizers.encode_targets([s.translation for s in some])]
        batch = {}
        for name, rows in (("source", sources), ("target", targets)):
            lengths = batch[f"{name}_lengths"] = np.int32([len(row) for row in rows])
            fill = lambda row, width=lengths.max(): [*row, *[self.tokenizers.pad] * (width - len(row))]
            batch[name] = np.int32([fill(row) for row in rows])
        source = text_side(self.tokenizers.source, batch["source"], batch["source_lengths"])
        # A row of weights is of the token that it writes: its words are those after the ones that it reads.
        target = text_side(self.tokenizers.target, batch["target"][:, 1:], batch["target_lengths"] - 1)
        read = target._replace(words=words(self.tokenizers.target, batch["target"][0, : len(target.words)]))
        sides = {"encoder": (source, source), "decoder": (target, read), "decoder.cross": (target, source)}
        return Example(batch, sides, "a row is of the word that is written next")

    def plot(self, model: Transformer, of: Pictured) -> list[str]:
        """Draws also lengths.png: BLEU by the length of the source sentence."""
        samples = of.evaluation.samples
        lengths = [len(sample.source.split()) for sample in samples]
        score = lambda chosen: self.bleu([samples[i] for i in chosen]).score
        file = of.directory / "lengths.png"
        plot_by_length(lengths, score, file, number="BLEU (of 100)", unit="words", subject=of.subject)
        return super().plot(model, of)

    @staticmethod
    def bleu(samples: Sequence[Sample]) -> Any:
        """Returns the BLEU of translations, as one corpus: a `sacrebleu.metrics.bleu.BLEUScore`."""
        # The tokenizer reads NFC, so that is what a model writes, whatever the references are in.
        written = [canonical(sample.translation) for sample in samples]
        return _judge().corpus_score(written, [[canonical(sample.reference) for sample in samples]])


@functools.cache
def _judge() -> Any:
    """The `sacrebleu.BLEU` of the field."""
    import sacrebleu  # here: a command that judges no translations starts without it

    return sacrebleu.BLEU()


def _loss(model: Transformer, batch: Any, key: Array | None, config: VocabularyLossConfig | None) -> Loss:
    target, segments = batch["target"], batch.get("target_segments")  # [B T+1]
    weights = target_weights(target, batch.get("target_lengths"), segments)
    if segments is None:
        source_side, seen = {"mask": F.AttentionMask(lengths=batch["source_lengths"]), "segments": None}, None
    else:
        source_side, seen = {"mask": None, "segments": batch["source_segments"]}, segments[:, :-1]
    encoder_key, decoder_key = split_key(key, 2)
    memory, encoder = model.encode(batch["source"], **source_side, key=encoder_key)
    source = {f"source_{name}": value for name, value in source_side.items()}
    hidden, decoder = model.hidden(target[:, :-1], memory, **source, target_segments=seen, key=decoder_key)  # [B T D]
    scores, how = loss_inputs(model, hidden, config)
    loss = F.causal_lm_loss(scores, target, weights=weights, **how)
    auxiliary = () if config is None else (encoder.losses, decoder.losses)  # of training alone
    return with_auxiliary(loss, weights.sum(dtype=jnp.float32), *auxiliary)
