"""Masked language modelling: the loss of the chosen tokens alone, accuracy, pseudo-perplexity, and filling gaps."""

import ast
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import by_day, quick_jit, tiny_model, with_leaf

import tformer_jax.functional as F
from tformer_jax.config import ConfigError, build
from tformer_jax.data import tokenizers
from tformer_jax.data.files import DataError
from tformer_jax.data.masked_lm import MaskedLMData, MaskedLMDataConfig
from tformer_jax.data.tokenizers import BOS_ID, EOS_ID, MASK_ID, PAD_ID
from tformer_jax.tasks import MaskedLMTask, Scores, masked_lm

ROW = 24
FIELDS = dict(source="files", validation_share=0.2, test_share=0.2, vocab_size=300, row_length=ROW, batch_tokens=120)


@pytest.fixture(scope="module")
def data_of(folder, tmp_path_factory):
    """`data_of(**changes)`: 24 documents; the tokenizer is trained anew for each set of changes."""

    def data_of(**changes):
        return MaskedLMData(
            MaskedLMDataConfig(**(FIELDS | dict(path=str(folder)) | changes)), tmp_path_factory.mktemp("r")
        )

    return data_of


@pytest.fixture(scope="module")
def data(data_of):
    return data_of()


@pytest.fixture(scope="module")
def model(data):
    size = data.tokenizer.get_vocab_size()
    return tiny_model("MaskedLM", vocab_size=size, max_length=ROW, num_layers=1, output_softcap=2.0)


@pytest.fixture(scope="module")
def make_task(data, quick):
    """`make_task(**fields)`: the task of these fields; its own programs are compiled once, in a hurry."""
    tokenizer = data.tokenizer
    return functools.cache(lambda **fields: quick(lambda: MaskedLMTask(MaskedLMTask.Config(**fields), tokenizer)))


# The loss --------------------------------------------------------------------------------------


@quick_jit
def forward(model, tokens, lengths):
    """All logits [B T V], of the chosen and of the others."""
    return model(tokens, mask=F.AttentionMask(lengths=lengths))


def corrupted(batch, key, rate, V):
    """What the model reads, and which tokens are chosen."""
    words = jnp.asarray(batch["word_ids"]) if "word_ids" in batch else None
    special = (PAD_ID, BOS_ID, EOS_ID)
    how = dict(mask_id=MASK_ID, vocab_size=V, special_ids=special, rate=rate)
    found = quick_jit(F.mask_tokens, static_argnames=tuple(how))(
        jnp.asarray(batch["tokens"]), key, word_ids=words, **how
    )
    return tuple(map(np.asarray, found))


def dense(model, batch, key, rate):
    """Logits and targets of the chosen tokens, from the logits of all."""
    tokens, chosen = corrupted(batch, key, rate, model.config.vocab_size)
    logits = np.asarray(forward(model, tokens, batch["lengths"]))
    return logits[chosen], batch["tokens"][chosen]


@pytest.mark.parametrize(
    ("whole_words", "fields"),
    by_day([
        (False, {}),
        (True, {"label_smoothing": 0.2, "z_loss": 0.1, "mask_rate": 0.4}),
        (False, {"label_smoothing": 0.2, "z_loss": 0.1, "mask_rate": 0.4, "fused_loss": True}),
    ], 2),
    ids=str,
)  # fmt: skip
def test_the_training_loss_is_that_of_the_chosen_tokens(make_task, data_of, model, whole_words, fields):
    """Others would count, chosen ones would be lost on the way or paired with other targets, or smoothing, z-loss or
    the fused loss would turn nothing or something else."""
    batch = data_of(whole_words=whole_words).train_batches().batch(0)
    key = jax.random.key(3)
    loss, weight, _ = quick_jit(make_task(**fields).loss)(model, batch, key)
    logits, targets = dense(model, batch, jax.random.split(key)[0], fields.get("mask_rate", 0.15))
    how = {name: value for name, value in fields.items() if name in ("label_smoothing", "z_loss")}
    assert float(weight) == len(targets) > 5
    assert float(loss) == pytest.approx(oracles.cross_entropy(logits, targets, **how), rel=1e-5)


def test_corruption_and_dropout_follow_the_key(make_task, data, model):
    """The same tokens would be hidden in every step, or others when a step is run again; or nothing dropped."""
    dropping = tiny_model("MaskedLM", **{**dataclasses.asdict(model.config), "dropout_rate": 0.5})
    batch, loss = data.train_batches().batch(0), quick_jit(make_task().loss)
    (first, weight), (again, _), (other, _) = (loss(dropping, batch, jax.random.key(k))[:2] for k in (0, 0, 1))
    assert float(first) == float(again) != float(other)
    logits, targets = dense(dropping, batch, jax.random.split(jax.random.key(0))[0], 0.15)
    assert float(weight) == len(targets)  # dropout does not choose
    assert float(first) != pytest.approx(oracles.cross_entropy(logits, targets), rel=1e-3)


@pytest.mark.parametrize(("tokens", "rate"), [(120, 0.15), (2048, 0.15), (2048, 0.4), (65536, 0.15), (24, 0.9)])
def test_there_is_room_for_what_is_chosen(tokens, rate):
    """Chosen tokens would not be predicted, or (where it matters) logits be computed for all."""
    room = masked_lm._room(tokens, rate)
    deviation = math.sqrt(tokens * rate * (1 - rate))
    assert min(tokens, tokens * rate + 7 * deviation) <= room <= min(tokens, tokens * rate + 8 * deviation + 8)


def test_the_first_that_are_chosen_are_kept():
    """What does not fit would take the place of what does, or what fills up would count."""
    chosen = jnp.asarray([[False, True, True, False, False, True], [True, False, False, False, True, False]])
    for count, places, weights in (
        (2, [[1, 2], [0, 4]], [[1, 1], [1, 1]]),
        (3, [[1, 2, 5], [0, 4, 1]], [[1, 1, 1], [1, 1, 0]]),
        (5, [[1, 2, 5, 0, 3], [0, 4, 1, 2, 3]], [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]),
    ):
        found = masked_lm.first_chosen(chosen, count)
        np.testing.assert_array_equal(found[0], places)
        np.testing.assert_array_equal(found[1], weights)


def task_row(data):
    """The longest row of the split for testing, without padding."""
    batches = data.evaluation_batches("test")
    rows = [row[:n] for i in range(len(batches)) for row, n in zip(*map(batches.batch(i).get, ("tokens", "lengths")))]
    return max(rows, key=len)


# Validation and evaluation -----------------------------------------------------------------------


def by_hand(model, batches, rate=0.15):
    """Loss and accuracy of the tokens that a validation chooses."""
    keys = jax.random.split(jax.random.key(0), len(batches))
    parts = [dense(model, batches.batch(i), keys[i], rate) for i in range(len(batches))]
    logits, targets = (np.concatenate(side) for side in zip(*parts, strict=True))
    return oracles.cross_entropy(logits, targets), (logits.argmax(-1) == targets).mean()


@pytest.fixture(scope="module")
def guessing(model, data):
    """A model that is right now and then: it takes every token for the most frequent one."""
    ids = data.tokens("train").ids.values
    bias = np.zeros(model.config.vocab_size, np.float32)
    bias[np.bincount(ids).argmax()] = 3.0
    output = dataclasses.asdict(model.config) | {"output_softcap": None}
    return with_leaf(tiny_model("MaskedLM", **output), "output.b", jnp.asarray(bias))


def test_validation_is_loss_and_accuracy_of_the_chosen(make_task, data, guessing):
    """Batches would weigh the same, or tokens that nobody hid would count as right."""
    batches = data.train_batches()
    loss, accuracy = by_hand(guessing, batches)
    numbers = make_task().validate(guessing, batches)
    assert numbers == {"loss": pytest.approx(loss, rel=1e-5), "masked_accuracy": pytest.approx(accuracy, abs=1e-6)}
    assert 0 < accuracy < 1


def test_every_validation_hides_the_same_tokens(make_task, data, model):
    """Two validations of one model would differ, and the loss curve would be noise."""
    batches = data.evaluation_batches("validation")
    first, again = (make_task().validate(model, batches) for _ in range(2))
    assert first == again


def test_training_settings_do_not_reach_the_validation(make_task, data, model):
    """Losses of runs with other settings could not be compared."""
    batches = data.evaluation_batches("validation")
    changed = make_task(label_smoothing=0.3, z_loss=1.0, fused_loss=True)
    assert changed.validate(model, batches) == make_task().validate(model, batches)


def test_pseudo_perplexity_masks_one_token_at_a_time(make_task, data, model):
    """A token would see itself or the padding, start or end would count, or rows would weigh the same."""
    rows = make_task()._rows(data.evaluation_batches("test"), 3)
    assert len({len(row) for row in rows}) > 1
    logs = []
    for row in rows:
        assert (row[0], row[-1]) == (BOS_ID, EOS_ID)
        hidden = np.tile(row, (len(row), 1))
        np.fill_diagonal(hidden, MASK_ID)
        logits = oracles.log_softmax(forward(model, hidden, np.full(len(row), len(row), np.int32)))
        logs += [logits[place, place, row[place]] for place in range(1, len(row) - 1)]
    assert make_task().pseudo_perplexity(model, rows) == pytest.approx(math.exp(-np.mean(logs)), rel=1e-4)


def test_the_pseudo_perplexity_of_a_very_bad_model_is_infinite(make_task, guessing):
    """An evaluation would end in a traceback: no float holds the exponential of more than 709.78 nats."""
    certain = with_leaf(guessing, "output.b", guessing.output.b[...] * 1e3)  # of another token
    assert make_task().pseudo_perplexity(certain, [np.array([BOS_ID, *[MASK_ID + 1] * 5, EOS_ID])]) == math.inf


def test_rows_of_the_pseudo_perplexity_are_spread_over_the_split(make_task, data):
    """It would be that of the first documents alone, count a row twice, or include rows of padding."""
    batches = data.evaluation_batches("train")
    every = make_task()._rows(batches, 10_000)
    pieces = sum(-(-len(ids) // (ROW - 2)) for ids in data.tokens("train").ids)
    assert len(every) == pieces
    some = make_task()._rows(batches, 4)
    places = [next(i for i, row in enumerate(every) if np.array_equal(row, one)) for one in some]
    assert (places[0], places[-1], len(set(places))) == (0, pieces - 1, 4)


def test_an_evaluation_has_what_it_promises(make_task, data, model, monkeypatch):
    """`task.pseudo_perplexity_rows` would turn nothing, or numbers be of another split than they say."""
    task = make_task()
    monkeypatch.setattr(task, "config", dataclasses.replace(task.config, pseudo_perplexity_rows=2))
    monkeypatch.setattr(task, "_filled", lambda model, numbered: None)
    evaluations = task.evaluate(model, data, ["validation", "test"])
    for split, evaluation in evaluations.items():
        batches = data.evaluation_batches(split)
        loss, accuracy = by_hand(model, batches)
        wanted = {"loss": pytest.approx(loss, rel=1e-5), "masked_accuracy": pytest.approx(accuracy, abs=1e-6)}
        rows = task._rows(batches, 2)
        wanted |= {"pseudo_perplexity": pytest.approx(task.pseudo_perplexity(model, rows), rel=1e-6), "rows": 2}
        assert evaluation.metrics == wanted
        assert evaluation.note == "pseudo-perplexity of 2 rows"


def test_a_sample_shows_one_gap_its_guesses_and_what_stood_there(make_task, data, model, monkeypatch):
    """A reader would have to look for the gap in a wall of text, or see guesses for another one."""
    task = make_task()
    monkeypatch.setattr(task, "score", lambda *_: Scores({}, 1.0, []))
    monkeypatch.setattr(task, "pseudo_perplexity", lambda *_: 1.0)
    samples = task.evaluate(model, data, ["test"])["test"].samples
    texts = " ".join(" ".join(document.text.split()) for document in data.splits["test"])
    assert len(samples) > 1
    for sample in samples:
        before, after = sample.masked.removeprefix(" ...").removesuffix(" ...").split(" [MASK]")
        assert " ".join(f"{before}{ast.literal_eval(sample.original)}{after}".split()) in texts
        assert len(tokenizers.encode(data.tokenizer, [sample.masked])[0]) < 40


def test_a_sample_is_guessed_from_the_rest_of_its_row(make_task, data, model):
    """The model would see the answer, or less than the row; probabilities would be of another token."""
    task, row = make_task(), task_row(data)
    found = {task._filled(model, (number, row)) for number in range(8)}
    wanted = set()
    for place in range(1, len(row) - 1):
        read = np.where(np.arange(len(row)) == place, MASK_ID, row)
        logits = np.asarray(forward(model, jnp.asarray(np.pad(read, (0, ROW - len(row))))[None], np.int32([len(row)])))
        scores = np.exp(logits[0, place].astype(np.float64))
        best = np.argsort(-scores)[:3]
        texts = [tokenizers.decode(data.tokenizer, [token], strip=False) for token in (*best, row[place])]
        said = "  ".join(f"{t!r} {scores[i] / scores.sum():.3f}" for t, i in zip(texts[:3], best, strict=True))
        wanted.add((said, repr(texts[3])))
    assert len(found) > 1 and {(one.predicted, one.original) for one in found} <= wanted


def test_an_evaluation_is_described(make_task):
    """What is printed would be another number than what is kept."""
    line = make_task().describe(dict(masked_accuracy=0.12345, loss=2.34567, pseudo_perplexity=45.678))
    wanted = "masked accuracy 12.35 %, loss 2.3457 nats a masked token, pseudo-perplexity 45.68 a token"
    assert line == wanted.replace("12.35", f"{12.345:.2f}")


# Filling gaps ----------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch, make_task):
    """A task that records the tokens that its model reads."""
    task, seen = make_task(), []
    probabilities = masked_lm._probabilities

    def record(model, row, size):
        seen.append(row[:size].tolist())
        return probabilities(model, row, size)

    monkeypatch.setattr(masked_lm, "_probabilities", record)
    return task, seen


def test_guesses_are_the_likeliest_tokens(make_task, data, model):
    """Tokens would be in another order, of another place, or their probabilities not those of the model."""
    first, second = make_task().fill(model, "the [MASK] cat [MASK]", count=4)
    (ids,) = tokenizers.encode(data.tokenizer, ["the cat"])
    (before,) = tokenizers.encode(data.tokenizer, ["the"])
    row = np.asarray([BOS_ID, *before, MASK_ID, *ids[len(before) :], MASK_ID, EOS_ID], np.int32)
    logits = np.asarray(forward(model, row[None], np.int32([len(row)])), np.float64)[0]
    for guesses, place in zip((first, second), np.flatnonzero(row == MASK_ID), strict=True):
        p = np.exp(oracles.log_softmax(logits[place]))
        best = np.argsort(-p)[:4]
        assert [g.probability for g in guesses] == pytest.approx(p[best].tolist(), rel=1e-4)
        assert [g.token for g in guesses] == [tokenizers.decode(data.tokenizer, [i], strip=False) for i in best]
        assert sum(g.probability for g in guesses) <= 1


def test_all_guesses_together_are_certain(make_task, data, model):
    """Probabilities would not be a distribution."""
    size = data.tokenizer.get_vocab_size()
    (guesses,) = make_task().fill(model, "[MASK]", count=size + 5)
    assert len(guesses) == size
    assert sum(g.probability for g in guesses) == pytest.approx(1, rel=1e-5)
    assert guesses == sorted(guesses, key=lambda g: -g.probability)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("the [MASK] cat", ["the", None, " cat"]),
        ("[MASK] cat", [None, " cat"]),
        ("the [MASK]", ["the", None]),
        ("to[MASK]y", ["to", None, "y"]),
        ("a [MASK] [MASK] b", ["a", None, None, " b"]),
        ("a [MASK][MASK]", ["a", None, None]),
        ("a  [MASK] b", ["a ", None, " b"]),
    ],
)
def test_a_gap_takes_the_place_of_a_word_with_its_blank(read, data, model, text, parts):
    """A blank would be left before the gap: the model would never have seen such a text."""
    task, seen = read
    task.fill(model, text)
    wanted = [[MASK_ID] if part is None else tokenizers.encode(data.tokenizer, [part])[0] for part in parts]
    assert seen == [[BOS_ID, *(token for part in wanted for token in part), EOS_ID]]


def test_a_gap_in_characters_is_one_character(data_of, quick, monkeypatch):
    """Where blanks are tokens of their own, the one before the gap would be lost."""
    data = data_of(tokenizer="characters", vocab_size=None)
    model = tiny_model("MaskedLM", vocab_size=data.tokenizer.get_vocab_size(), max_length=ROW, num_layers=1)
    task = quick(lambda: MaskedLMTask(MaskedLMTask.Config(), data.tokenizer))
    probabilities, seen = masked_lm._probabilities, []
    record = lambda model, row, size: seen.append(row[:size].tolist()) or probabilities(model, row, size)
    monkeypatch.setattr(masked_lm, "_probabilities", record)
    task.fill(model, "the [MASK]at")
    (before, after) = tokenizers.encode(data.tokenizer, ["the ", "at"])
    assert seen == [[BOS_ID, *before, MASK_ID, *after, EOS_ID]]


def test_the_characters_of_a_gap_need_not_be_known():
    """A model of characters whose training text has no "[" or "K" could not be asked to fill a gap."""
    task = MaskedLMTask(MaskedLMTask.Config(), tokenizers.train_characters(["the cat sat"], mask=True))
    assert task.known_texts(task.Prediction(text="[MASK]he c[MASK]t")) == [("[MASK]he c[MASK]t", "the text")]
    with pytest.raises(DataError, match=r"the text has '\[' at 11, a character outside the model's vocabulary"):
        task.known_texts(task.Prediction(text="the [MASK]a[MASK"))


def test_a_special_token_that_is_spelt_out_is_text(read, data, model):
    """A text about tokenizers would have its words taken for commands."""
    task, seen = read
    task.fill(model, "<mask> [MASK]")
    assert seen[0].count(MASK_ID) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no gap", r"the text has no \[MASK\] to fill in"),
        ("no <mask> gap", r"the text has no \[MASK\] to fill in"),
        ("the [MASK] " + "cat " * 30, rf"the text has \d\d+ tokens, but the model reads at most {ROW}"),
    ],
)
def test_what_cannot_be_filled_is_refused(make_task, model, text, message):
    """A text would be cut in silence, or nothing be printed without a word."""
    with pytest.raises(DataError, match=message):
        make_task().fill(model, text)


def test_a_text_may_fill_the_model(make_task, data, model):
    """A text of exactly max_length would be refused, or padded beyond it."""
    for length in range(ROW - 8, ROW + 1):
        text = "[MASK]" + "x" * (length - 3)
        assert len(tokenizers.encode(data.tokenizer, [text[6:]])[0]) == length - 3
        assert len(make_task().fill(model, text)) == 1


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_smoothing": -0.1}, r"task\.label_smoothing must be in \[0, 1\), got -0\.1"),
        ({"z_loss": -1.0}, r"task\.z_loss must be finite and not negative, got -1\.0"),
        ({"mask_rate": 0.0}, r"task\.mask_rate must be in \(0, 1\), got 0\.0"),
        ({"mask_rate": 1.0}, r"task\.mask_rate must be in \(0, 1\), got 1\.0"),
        ({"pseudo_perplexity_rows": 0}, r"task\.pseudo_perplexity_rows must be a positive integer, got 0"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """A wrong value would be ignored, or surface at the first evaluation."""
    with pytest.raises(ConfigError, match=message):
        build(MaskedLMTask.Config, fields, "task")


def test_rows_that_the_model_cannot_read_are_refused(data, model):
    """Training would fail at its first step, after the data has been read and a tokenizer trained."""
    long = dataclasses.replace(data.config, row_length=ROW + 1)
    with pytest.raises(ConfigError, match=f"data.row_length={ROW + 1} exceeds model.max_length={ROW}"):
        MaskedLMTask.check(long, model.config)


def test_every_field_of_the_config_is_seen_here():
    """A field was added to the config that no test above turns; `init_from` is that of tests/training/test_starts.py."""
    fields = {field.name for field in dataclasses.fields(MaskedLMTask.Config)}
    assert fields == {"init_from", "label_smoothing", "z_loss", "fused_loss", "mask_rate", "pseudo_perplexity_rows"}
