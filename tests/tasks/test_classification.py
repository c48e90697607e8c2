"""Text classification: loss and accuracy over texts, not over rows; classes by probability; what is too long."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import quick_jit, tiny_model, with_leaf

from tformer_jax.config import ConfigError, build
from tformer_jax.data import tokenizers
from tformer_jax.data.files import DataError
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.tokenizers import BOS_ID, EOS_ID
from tformer_jax.tasks import TextClassificationTask

MAX_LENGTH = 20
CLASSES = ["bad", "fair", "good"]
WORDS = {"good": "fine great lovely", "bad": "poor awful boring", "fair": "so okay meh"}
FILLER = "the film and its long story about a small town".split()


def text(i):
    """A label and a text of 2 to 9 words; "bad" is the most frequent."""
    label = ("bad", "good", "bad", "fair")[i % 4]
    words = [FILLER[(i * 3 + j) % len(FILLER)] for j in range(1 + i % 8)]
    return label, " ".join([*words, WORDS[label].split()[i % 3], str(i)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """80 texts, some of which have more tokens than the model reads."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "texts.tsv").write_text("".join("\t".join(text(i)) + "\n" for i in range(80)))
    config = TextClassificationDataConfig(
        source="files", path=str(folder / "texts.tsv"), validation_size=14, test_size=26, vocab_size=280,
        batch_tokens=100, num_buckets=2,
    )  # fmt: skip
    return TextClassificationData(config, MAX_LENGTH, folder)


@pytest.fixture(scope="module")
def model(data):
    """Predicts each class now and then."""
    size = data.tokenizer.get_vocab_size()
    fields = dict(vocab_size=size, max_length=MAX_LENGTH, num_classes=3, num_layers=1, pooling="mean")
    model = tiny_model("TextClassifier", **fields)
    logits = [logits_of(model, ids) for ids in data.encode("train")[1]]
    return with_leaf(model, "classifier.b", model.classifier.b[...] - jnp.asarray(np.mean(logits, 0), jnp.float32))


@pytest.fixture(scope="module")
def make_task(data, quick):
    """`make_task(**fields)`: the task of these fields; its own programs are compiled once, in a hurry."""
    return functools.cache(
        lambda **fields: quick(
            lambda: TextClassificationTask(TextClassificationTask.Config(**fields), data.tokenizer, data.classes)
        )
    )


@quick_jit
def forward(model, tokens, lengths):
    return model(tokens, lengths=lengths)


def logits_of(model, ids):
    """Of one text, from start to end token."""
    padded = np.zeros((1, MAX_LENGTH), np.int32)
    padded[0, : len(ids)] = ids
    return np.asarray(forward(model, padded, np.int32([len(ids)])), np.float64)[0]


def by_hand(model, data, split):
    """Logits and labels of the texts of a split that the model can read, one text at a time."""
    labels = {f"{t.text}": t.label for t in data.splits[split]}
    rows = [[BOS_ID, *ids, EOS_ID] for ids in tokenizers.encode(data.tokenizer, list(labels))]
    kept = [(row, CLASSES.index(label)) for row, label in zip(rows, labels.values(), strict=True) if len(row) <= 20]
    return np.stack([logits_of(model, row) for row, _ in kept]), np.array([label for _, label in kept])


# The loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_training_loss_is_the_mean_over_texts(make_task, data, model, smoothing):
    """Rows that only fill up would count, or `task.label_smoothing` turn nothing."""
    batches = data.evaluation_batches("test")
    loss = quick_jit(make_task(label_smoothing=smoothing).loss)
    parts = [loss(model, batches.batch(i), jax.random.key(0))[:2] for i in range(len(batches))]
    losses, weights = np.asarray(parts, np.float64).T
    logits, labels = by_hand(model, data, "test")
    assert weights.sum() == len(labels) < sum(len(batches.batch(i)["labels"]) for i in range(len(batches)))
    wanted = oracles.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert (losses * weights).sum() / weights.sum() == pytest.approx(wanted, rel=1e-5)


def test_dropout_follows_the_key(make_task, data, model):
    """Training would have no dropout, or the same in every step."""
    dropping = tiny_model("TextClassifier", **{**dataclasses.asdict(model.config), "dropout_rate": 0.3})
    batch, loss = data.train_batches().batch(0), quick_jit(make_task().loss)
    first, again, other = (float(loss(dropping, batch, jax.random.key(k))[0]) for k in (0, 0, 1))
    assert first == again != other


def test_validation_is_loss_and_accuracy_over_texts(make_task, data, model):
    """Batches would weigh the same whatever they hold, or padded rows count as wrong, or as right."""
    batches = data.evaluation_batches("test")
    assert len({(batches.batch(i)["labels"] >= 0).sum() for i in range(len(batches))}) > 1
    logits, labels = by_hand(model, data, "test")
    accuracy = (logits.argmax(-1) == labels).mean()
    assert 0 < accuracy < 1 and set(logits.argmax(-1)) == {0, 1, 2}
    assert make_task().validate(model, batches) == {
        "loss": pytest.approx(oracles.cross_entropy(logits, labels), rel=1e-5),
        "accuracy": pytest.approx(accuracy, abs=1e-6),
    }


def test_training_settings_do_not_reach_the_validation(make_task, data, model):
    """Losses of runs with other settings could not be compared."""
    batches = data.evaluation_batches("validation")
    assert make_task(label_smoothing=0.2).validate(model, batches) == make_task().validate(model, batches)


# Evaluating ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(make_task, data, model):
    return make_task().evaluate(model, data, ["validation", "test"])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_evaluation_is_of_the_texts_that_can_be_read(evaluated, data, model, split):
    """Texts that are too long would end the evaluation of a finished training, or be counted though not classified."""
    logits, labels = by_hand(model, data, split)
    assert len(labels) < len(data.splits[split])
    assert evaluated[split].metrics == {
        "loss": pytest.approx(oracles.cross_entropy(logits, labels), rel=1e-5),
        "accuracy": pytest.approx((logits.argmax(-1) == labels).mean(), abs=1e-6),
        "texts": len(labels),
    }


def test_the_most_frequent_class_is_told(evaluated, data, model):
    """Nobody could say whether an accuracy is better than none at all."""
    _, labels = by_hand(model, data, "test")
    share = 100 * np.bincount(labels).max() / len(labels)
    assert evaluated["test"].note == f"the most frequent class has {share:.2f} %"


def test_samples_are_texts_with_both_labels(evaluated, data, model):
    """Samples would show the labels of other texts."""
    logits, labels = by_hand(model, data, "test")
    samples = evaluated["test"].samples
    kept = [t for t in data.splits["test"] if t in data.encode("test")[0]]
    assert [(s.text, s.label) for s in samples] == [(t.text, t.label) for t in kept]
    assert [s.predicted for s in samples] == [CLASSES[i] for i in logits.argmax(-1)]


def test_an_evaluation_is_described(make_task):
    """What is printed would be another number than what is kept."""
    line = make_task().describe(dict(accuracy=0.87654, loss=0.34567, texts=123))
    assert line == "accuracy 87.65 %, loss 0.3457 nats, 123 texts"


# Classifying -----------------------------------------------------------------------------------


def test_classes_come_by_falling_probability(make_task, data, model):
    """The first class would not be the likeliest, or have another's probability."""
    texts = ["a fine film", "poor 7", "so meh", "the town", "awful", ""]
    found = make_task().classify(model, texts)
    encoded = tokenizers.encode(data.tokenizer, texts)
    for ranked, ids in zip(found, encoded, strict=True):
        p = np.exp(oracles.log_softmax(logits_of(model, [BOS_ID, *ids, EOS_ID])))
        order = np.argsort(-p)
        assert [c.name for c in ranked] == [CLASSES[i] for i in order]
        assert [c.probability for c in ranked] == pytest.approx(p[order].tolist(), rel=1e-4)
        assert sum(c.probability for c in ranked) == pytest.approx(1, rel=1e-5)
    assert len({ranked[0].name for ranked in found}) > 1


def test_no_texts_have_no_classes(make_task, model):
    """An empty list would be an error."""
    assert make_task().classify(model, []) == []


def test_the_unicode_form_of_a_text_does_not_matter(make_task, model):
    """A review copied from a PDF would be taken for something else than the same review typed."""
    typed, copied = make_task().classify(model, ["très réussi", "tre\u0300s re\u0301ussi"])
    assert typed == copied


def test_a_text_that_is_too_long_is_refused_by_number(make_task, data, model):
    """A text would be cut in silence, or the error would not say which one and by how much."""
    long = " ".join(FILLER * 4)
    (ids,) = tokenizers.encode(data.tokenizer, [long])
    message = f"text 2 has {len(ids) + 2} tokens, but the model reads at most {MAX_LENGTH}"
    with pytest.raises(DataError, match=message):
        make_task().classify(model, ["the film", long])


def test_a_text_may_fill_the_model(make_task, data, model):
    """A text of exactly max_length would be refused, or padded beyond it."""
    fitting = "x" * (MAX_LENGTH - 2)
    assert len(tokenizers.encode(data.tokenizer, [fitting])[0]) == MAX_LENGTH - 2
    assert len(make_task().classify(model, [fitting])) == 1
    with pytest.raises(DataError):
        make_task().classify(model, [fitting + "x"])


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_smoothing": 1.0}, r"task\.label_smoothing must be in \[0, 1\), got 1\.0"),
        ({"label_smoothing": -0.1}, r"task\.label_smoothing must be in \[0, 1\), got -0\.1"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """A wrong value would be ignored, or surface at the first step."""
    with pytest.raises(ConfigError, match=message):
        build(TextClassificationTask.Config, fields, "task")


def test_every_field_of_the_config_is_seen():
    """A field was added to the config that no test turns; `init_from` is that of tests/training/test_experiment.py."""
    fields = {field.name for field in dataclasses.fields(TextClassificationTask.Config)}
    assert fields == {"init_from", "label_smoothing"}
