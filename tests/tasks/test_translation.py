"""Translation: the loss from logits, packed or not, fused or not; translations in order; BLEU."""

import copy
import dataclasses
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu
from support import by_day, quick_jit, tiny_transformer

from tformer_jax import decoding
from tformer_jax.config import ConfigError, build
from tformer_jax.data.batches.packed import Packed
from tformer_jax.data.examples import Examples
from tformer_jax.data.files import DataError
from tformer_jax.data.sources import Pair
from tformer_jax.data.tokenizers import BOS_ID, EOS_ID
from tformer_jax.data.translation import TranslationData, TranslationDataConfig
from tformer_jax.tasks import Scores, TranslationTask, translation

MAX_LENGTH = 24
WORDS = "the red cat saw a small dog on that old green hill today".split()
SENTENCES = [" ".join(WORDS[(i * 5 + j) % 13] for j in range(1 + i % 9)) + f" {i}" for i in range(50)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """50 sentences of 1 to 9 words; the translation is in capitals, backwards. Some do not fit the model."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "corpus.tsv").write_text("".join(f"{s}\t{' '.join(reversed(s.upper().split()))}\n" for s in SENTENCES))
    config = TranslationDataConfig(
        source="files",
        tsv_file=str(folder / "corpus.tsv"),
        split="sentence",
        validation_size=9,
        test_size=12,
        vocab_size=330,
        batch_tokens=64,
        batching="buckets",
        num_buckets=2,
    )
    return TranslationData(config, MAX_LENGTH, folder)


@pytest.fixture(scope="module")
def model(data):
    size = data.tokenizers.target.get_vocab_size()
    return tiny_transformer(0, vocab_size=size, max_length=MAX_LENGTH, num_layers=1)


@pytest.fixture
def make_task(data):
    """`make_task(**fields)`: a task whose own programs are compiled in a hurry."""

    def make_task(**fields):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "jit", quick_jit)
            return TranslationTask(TranslationTask.Config(**fields), data.tokenizers)

    return make_task


# The loss --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forward(model):
    """`forward(sources, targets)`: log-probabilities [B 24 V] of what follows each target token, in float64.

    All in one shape; a causal decoder does not see the padding behind a target.
    """
    compiled = quick_jit(lambda model, source, seen, target: model(source, target, source_mask=seen))

    def forward(sources, targets):
        source, target = np.zeros((50, MAX_LENGTH), np.int32), np.zeros((50, MAX_LENGTH), np.int32)
        seen = np.zeros((50, MAX_LENGTH), bool)
        for row, (s, t) in enumerate(zip(sources, targets, strict=True)):
            source[row, : len(s)], seen[row, : len(s)], target[row, : len(t)] = s, True, t
        logits = np.asarray(compiled(model, *map(jnp.asarray, (source, seen, target))), np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    return forward


def by_hand(forward, sources, targets, smoothing=0.0):
    """Cross-entropy in nats a target token, and the number of target tokens."""
    log_probs, losses = forward(sources, [t[:-1] for t in targets]), []
    for row, target in enumerate(targets):
        for position, token in enumerate(target[1:]):
            distribution = log_probs[row, position]
            losses.append(-(1 - smoothing) * distribution[token] - smoothing * distribution.mean())
    return np.mean(losses), len(losses)


def test_the_evaluation_loss_is_the_mean_over_target_tokens(make_task, data, model, forward):
    """Padding would count, batches would weigh the same whatever they hold, or the targets would be shifted."""
    _, sources, targets = data.encode("train", MAX_LENGTH)
    wanted, _ = by_hand(forward, sources, targets)
    batches = data.train_batches()
    assert len({batches.batch(i)["target_lengths"].sum() for i in range(len(batches))}) > 2
    found = make_task().validate(model, batches)["loss"]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_the_evaluation_loss_has_no_smoothing(make_task, data, model):
    """Losses of runs with different `task.label_smoothing` could not be compared."""
    batches = data.evaluation_batches("validation")
    smoothed, plain = (make_task(label_smoothing=rate).validate(model, batches) for rate in (0.3, 0.0))
    assert smoothed == plain


def packed(data, limit=MAX_LENGTH):
    """The whole training split, two batches of packed rows, with the sentences that are in it."""
    _, sources, targets = data.encode("train", limit)
    return Packed((sources, targets), ("source", "target"), (50, 60), 1, 0), sources, targets


@pytest.mark.parametrize(("smoothing", "fused"), by_day([(0.0, False), (0.2, False), (0.2, True)], 0, 2))
def test_packed_sentences_have_the_loss_that_they_have_alone(make_task, data, model, forward, smoothing, fused):
    """Sentences of a row would see each other, the end of one would predict the start of the next, or the fused
    loss would be another one."""
    batches, sources, targets = packed(data)
    loss = quick_jit(make_task(label_smoothing=smoothing, fused_loss=fused).loss)
    parts = [loss(model, batches.batch(i), None)[:2] for i in range(len(batches))]
    losses, weights = np.asarray(parts, np.float64).T
    wanted, tokens = by_hand(forward, sources, targets, smoothing)
    assert weights.sum() == tokens
    assert (losses * weights).sum() / tokens == pytest.approx(wanted, rel=1e-5)


def test_the_training_loss_of_buckets_is_smoothed(make_task, data, model, forward):
    """`task.label_smoothing` would turn nothing: (1 - e) of the target, e spread over the vocabulary."""
    batches = data.train_batches()
    batch = batches.batch(0)
    loss, weight, _ = quick_jit(make_task(label_smoothing=0.2).loss)(model, batch, None)
    sides = [
        [list(tokens[:n]) for tokens, n in zip(batch[name], batch[f"{name}_lengths"], strict=True) if n]
        for name in ("source", "target")
    ]
    wanted, tokens = by_hand(forward, *sides, smoothing=0.2)
    assert float(weight) == tokens
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("field", [{"z_loss": 0.5}, {"fused_loss": True}, {"label_smoothing": 0.3}], ids=str)
def test_every_setting_of_the_loss_is_in_its_program(make_task, data, model, field):
    """A setting would turn nothing. What the loss makes of them is tested with language models."""
    batch = data.train_batches().batch(0)
    changed, plain = (str(jax.make_jaxpr(make_task(**f).loss)(model, batch, None)) for f in (field, {}))
    assert changed != plain


# Translating -----------------------------------------------------------------------------------


@pytest.fixture
def echo(monkeypatch):
    """Searches that translate a sentence by itself; what they were asked for is recorded."""
    asked = []

    def repeat(model, source, **how):
        asked.append(how)
        behind = jnp.arange(source.shape[1]) >= how["source_mask"].lengths[:, None]
        return jnp.where(behind, EOS_ID, source)

    def repeat_best(model, source, **how):
        tokens = repeat(model, source, **how)[:, None]
        return decoding.Hypotheses(tokens, jnp.zeros(tokens.shape[:2]))

    monkeypatch.setattr(translation.decoding, "greedy_search", repeat)
    monkeypatch.setattr(translation.decoding, "beam_search", repeat_best)
    return asked


def test_translations_come_in_order(make_task, model, echo):
    """Sentences would get each other's translation: batches put sentences of like length together."""
    assert make_task().translate(model, SENTENCES) == SENTENCES


def test_the_settings_reach_the_search(make_task, model, echo):
    """`task.beam_size` or `task.length_penalty` would turn nothing."""
    make_task(beam_size=3, length_penalty=1.5).translate(model, ["the cat"])
    (how,) = echo
    assert (how["beam_size"], how["length_penalty"], how["num_results"]) == (3, 1.5, 1)
    assert (how["bos_id"], how["eos_id"]) == (BOS_ID, EOS_ID)


def test_a_translation_may_fill_the_model_but_no_more(make_task, model, echo):
    """Translations would be cut short, or run past the model's positions."""
    make_task().translate(model, SENTENCES)
    assert {how["max_length"] for how in echo} == {MAX_LENGTH}


def test_one_beam_is_greedy_search(make_task, data, model, forward):
    """`task.beam_size=1` would translate otherwise than by the most probable token of each step: uncached, by hand."""
    texts = SENTENCES[:6]
    sources = data.tokenizers.encode_sources(texts)
    found = [[BOS_ID] for _ in texts]
    for step in range(MAX_LENGTH):
        best = forward(sources, found)[: len(texts), step].argmax(-1)
        for tokens, token in zip(found, best, strict=True):
            tokens.append(EOS_ID if tokens[-1] == EOS_ID else int(token))
        if all(tokens[-1] == EOS_ID for tokens in found) or step == MAX_LENGTH - 1:
            break
        found = [tokens[:MAX_LENGTH] for tokens in found]
    wanted = [data.tokenizers.target.decode([t for t in tokens if t > EOS_ID]).strip() for tokens in found]
    assert make_task(beam_size=1, length_penalty=0.0).translate(model, texts) == wanted


@pytest.mark.parametrize("texts", [[""], ["", ""], ["", "the cat"], ["the cat", ""]])
def test_the_translation_of_nothing_is_nothing(make_task, model, monkeypatch, texts):
    """An empty line would be an error, shift the lines after it, or be translated into whatever comes to mind."""

    def talk(model, source, **how):
        return decoding.Hypotheses(jnp.full((len(source), 1, 8), 40), jnp.zeros((len(source), 1)))

    monkeypatch.setattr(translation.decoding, "beam_search", talk)
    found = make_task().translate(model, texts)
    assert [bool(text) for text in found] == [bool(text) for text in texts]


def test_no_texts_have_no_translations(make_task, model):
    """An empty list would be an error."""
    assert make_task().translate(model, []) == []


def test_a_sentence_that_is_too_long_is_refused_by_number(make_task, data, model):
    """A sentence would be cut, or the error would not say which one and by how much."""
    long = " ".join(WORDS * 3)
    (ids,) = data.tokenizers.encode_sources([long])
    with pytest.raises(DataError, match=f"sentence 2 has {len(ids)} tokens, but the model reads at most {MAX_LENGTH}"):
        make_task().translate(model, ["the cat", long, "a dog"])


# Evaluating ------------------------------------------------------------------------------------


def test_the_score_is_that_of_sacrebleu(make_task, data, model, echo):
    """BLEU would be of other sentences, of swapped sides, or of another tokenisation than its signature says."""
    evaluation = make_task().evaluate(model, data, ["test"])["test"]
    hypotheses, references = [s.translation for s in evaluation.samples], [s.reference for s in evaluation.samples]
    assert evaluation.metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references]).score, abs=1e-9)
    assert evaluation.note.startswith("signature nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_the_score_does_not_depend_on_the_unicode_form(make_task, data, model, monkeypatch, forms):
    """A model that writes every reference would score next to nothing where the references come from a Mac."""
    there, written = (lambda text, form=form: unicodedata.normalize(form, f"{text} größer") for form in forms)
    changed = {name: [p._replace(target=there(p.target)) for p in part] for name, part in data.splits.items()}
    pairs = {name: Examples.of(Pair, part, "source") for name, part in changed.items()}
    answers = {pair.source: written(pair.target) for pair in data.splits["test"]}
    other, task = copy.copy(data), make_task()
    other.splits = pairs
    monkeypatch.setattr(task, "translate", lambda model, texts, *_: [answers[text] for text in texts])
    monkeypatch.setattr(task, "score", lambda *_: Scores({}, 1.0, []))
    assert task.evaluate(model, other, ["test"])["test"].metrics["bleu"] == pytest.approx(100)


def test_every_sentence_of_a_split_is_scored(make_task, data, model, echo):
    """Sentences would be lost, or samples would show references of other sentences."""
    evaluations = make_task().evaluate(model, data, ["test", "validation"])
    for split, evaluation in evaluations.items():
        pairs = data.pairs(split)
        assert [(s.source, s.reference) for s in evaluation.samples] == [(p.source, p.target) for p in pairs]
        assert [s.translation for s in evaluation.samples] == [p.source for p in pairs]
        assert evaluation.metrics["sentences"] == len(pairs)


def test_the_loss_of_an_evaluation_is_that_of_its_split(make_task, data, model, forward, echo):
    """The loss would be reported of another split."""
    evaluations = make_task().evaluate(model, data, ["test", "validation"])
    for split, evaluation in evaluations.items():
        wanted, _ = by_hand(forward, *data.encode(split, MAX_LENGTH)[1:])
        assert evaluation.metrics["loss"] == pytest.approx(wanted, rel=1e-5)


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "translate"}, r"task\.name must be one of .*did you mean 'translation'"),
        ({"label_smoothing": 1.0}, r"task\.label_smoothing must be in \[0, 1\), got 1\.0"),
        ({"label_smoothing": -0.1}, r"task\.label_smoothing must be in \[0, 1\), got -0\.1"),
        ({"z_loss": -1.0}, r"task\.z_loss must be finite and not negative, got -1\.0"),
        ({"beam_size": 0}, r"task\.beam_size must be a positive integer, got 0"),
        ({"length_penalty": -1.0}, r"task\.length_penalty must be finite and not negative, got -1\.0"),
        ({"beam_size": 1}, r"task\.length_penalty .*must be 0 with task.beam_size=1"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """A wrong value would be ignored, or surface at the first evaluation."""
    with pytest.raises(ConfigError, match=message):
        build(TranslationTask.Config, fields, "task")


def test_every_field_of_the_config_is_seen_here():
    """A field was added to the config that no test above turns; `init_from` is that of tests/training/test_starts.py."""
    fields = {field.name for field in dataclasses.fields(TranslationTask.Config)}
    assert fields == {"init_from", "label_smoothing", "z_loss", "fused_loss", "beam_size", "length_penalty"}
