"""Image classification: the loss with and without augmentation, accuracy over images, mistakes by name."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from PIL import Image
from support import quick_jit, tiny_config, tiny_model, with_leaf

from tformer_jax import models
from tformer_jax.config import ConfigError, build
from tformer_jax.data.files import DataError
from tformer_jax.data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from tformer_jax.nn import Beside
from tformer_jax.tasks import ImageClassificationTask

SIZE, ROWS = 8, 5
CLASSES = ["blue", "green", "red"]


def picture(i):
    """A noisy image with one channel brighter than the others."""
    rng = np.random.default_rng(i)
    image = rng.integers(0, 160, (SIZE, SIZE, 3))
    image[..., 2 - i % 3] += 60
    return image.astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder for each class, of 14 images."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(42):
        (folder / "train" / CLASSES[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(folder / "train" / CLASSES[i % 3] / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def data(files, tmp_path_factory):
    config = ImageClassificationDataConfig(
        source="folders", path=str(files), image_size=SIZE, num_channels=3, validation_size=7, test_size=13,
        batch_size=ROWS,
    )  # fmt: skip
    return ImageClassificationData(config, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(data):
    """Predicts each class now and then."""
    model = tiny_model("VisionTransformer", image_size=SIZE, num_channels=3, num_layers=1, pooling="mean")
    logits = np.mean(logits_of(model, data.splits["train"].pixels(np.arange(22), SIZE, 3)), 0)
    return with_leaf(model, "classifier.b", model.classifier.b[...] - jnp.asarray(logits, jnp.float32))


@pytest.fixture(scope="module")
def make_task(quick):
    """`make_task(**fields)`: the task of these fields; its own programs are compiled once, in a hurry."""
    return functools.cache(
        lambda **fields: quick(lambda: ImageClassificationTask(ImageClassificationTask.Config(**fields), CLASSES))
    )


@quick_jit
def forward(model, images):
    return model(images)


def logits_of(model, pixels):
    """Of bytes, shown to the model as numbers from -1 to 1; in batches of one shape."""
    images = np.zeros((50, SIZE, SIZE, 3), np.float32)
    images[: len(pixels)] = pixels / 127.5 - 1
    return np.asarray(forward(model, images), np.float64)[: len(pixels)]


def by_hand(model, data, split):
    """Logits and labels of a split."""
    images = data.splits[split]
    return logits_of(model, images.pixels(np.arange(len(images)), SIZE, 3)), images.labels


# The loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_images_as_they_are_is_cross_entropy(make_task, data, model, smoothing):
    """Without augmentation something would be done to the images, or `task.label_smoothing` turn nothing."""
    batch = data.train_batches().batch(0)
    loss, weight, _ = quick_jit(make_task(label_smoothing=smoothing).loss)(model, batch, jax.random.key(0))
    logits = logits_of(model, batch["images"])
    wanted = oracles.cross_entropy(logits, batch["labels"], label_smoothing=smoothing)
    assert (float(weight), float(loss)) == (ROWS, pytest.approx(wanted, rel=1e-5))


def test_dropout_follows_the_key(make_task, data, model):
    """Training would have no dropout, or the same in every step."""
    dropping = tiny_model("VisionTransformer", **{**dataclasses.asdict(model.config), "dropout_rate": 0.3})
    batch, loss = data.train_batches().batch(0), quick_jit(make_task().loss)
    first, again, other = (float(loss(dropping, batch, jax.random.key(k))[0]) for k in (0, 0, 1))
    assert first == again != other


class Probe(models.VisionTransformer):
    """Keeps the images that it is shown; its states, and logits, are the mean of the first row, of the last row and of all."""

    shown: list = []

    def hidden(self, images, *, key=None, capture=()):
        self.shown.append(np.asarray(images))
        states = [images[:, 0].mean((1, 2)), images[:, -1].mean((1, 2)), images.mean((1, 2, 3))]
        return jnp.stack(states, -1), Beside({}, {})

    def logits(self, pooled):
        return pooled


@pytest.fixture
def probe():
    """`probe(task, pixels, labels, seed)`: the images in [0, 1] that a model is shown, and the loss."""
    config = tiny_config("VisionTransformer", image_size=SIZE, num_channels=3)
    model = jax.eval_shape(lambda: Probe(config, rngs=nnx.Rngs(0)))

    def probe(task, pixels, labels, seed):
        batch = {"images": jnp.asarray(pixels), "labels": jnp.asarray(labels, jnp.int32)}
        loss, _, _ = task.loss(model, batch, jax.random.key(seed))
        return (Probe.shown.pop() + 1) / 2, float(loss)

    yield probe
    Probe.shown.clear()


def probe_logits(images):
    images = 2 * images.astype(np.float64) - 1
    return np.stack([images[:, 0].mean((1, 2)), images[:, -1].mean((1, 2)), images.mean((1, 2, 3))], -1)


def test_images_are_scaled_by_the_mean_and_the_deviation_of_each_channel(make_task, model, probe):
    """Training, or evaluation, would show a model other pixels than it was made for."""
    task = make_task(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.5))
    wanted = (PICTURES / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.25, 0.5])
    shown, _ = probe(task, PICTURES, [0] * ROWS, 0)
    np.testing.assert_allclose(2 * shown - 1, wanted, atol=1e-5)
    batch = {"images": jnp.asarray(PICTURES), "labels": jnp.zeros(ROWS, jnp.int32)}
    _, _, (_, best, _) = task.measure(model, batch, 0)
    np.testing.assert_array_equal(best, quick_jit(model)(jnp.asarray(wanted, jnp.float32)).argmax(-1))


PICTURES = np.stack([picture(i) for i in range(ROWS)])


def near(a, b):
    return np.abs(a - b).max() < 1e-5


def test_half_of_the_images_are_flipped(make_task, probe):
    """`task.flip` would turn nothing, turn all alike, or upside down."""
    flipped = []
    for seed in range(12):
        shown, _ = probe(make_task(flip=True), PICTURES, [0] * ROWS, seed)
        for image, original in zip(shown, PICTURES / 255, strict=True):
            assert near(image, original) != near(image, original[:, ::-1])
            flipped.append(near(image, original[:, ::-1]))
    assert 15 <= sum(flipped) <= 45  # of 60


def test_images_move_by_at_most_the_shift(make_task, probe):
    """`task.max_shift` would turn nothing, move all alike, or further than it says."""
    padded = np.pad(PICTURES / 255, ((0, 0), (2, 2), (2, 2), (0, 0)))
    moves = [(dy, dx) for dy in range(5) for dx in range(5)]
    seen = set()
    for seed in range(12):
        shown, _ = probe(make_task(max_shift=2), PICTURES, [0] * ROWS, seed)
        for image, wide in zip(shown, padded, strict=True):
            (move,) = [m for m in moves if near(image, wide[m[0] : m[0] + SIZE, m[1] : m[1] + SIZE])]
            seen.add(move)
    assert len(seen) > 18 and {dy for dy, _ in seen} == {dx for _, dx in seen} == set(range(5))


def test_mixed_images_have_mixed_targets(make_task, probe):
    """The shares of the images would not be those of their labels, or smoothing would be lost on the way."""
    values = np.array([0, 40, 90, 150, 255])
    pixels = np.broadcast_to(values[:, None, None, None], (ROWS, SIZE, SIZE, 3)).astype(np.uint8)
    labels, smoothing = np.array([0, 1, 2, 1, 0]), 0.3
    targets = oracles.target_distribution(labels, 3, smoothing)
    mixed = 0
    for seed in range(6):
        shown, loss = probe(make_task(mixup=0.8, label_smoothing=smoothing), pixels, labels, seed)
        now = shown[:, 0, 0, 0].astype(np.float64) * 255
        # Each image is between two of the batch; who its partner was follows from the loss of all, over every choice.
        logs = oracles.log_softmax(probe_logits(shown))
        possible = {0.0}
        for row in range(ROWS):
            terms = set()
            for partner in range(ROWS):
                span = values[row] - values[partner]
                share = 1.0 if span == 0 else (now[row] - values[partner]) / span
                if -1e-4 <= share <= 1 + 1e-4 and near(now[row], share * values[row] + (1 - share) * values[partner]):
                    terms.add(-(share * targets[row] + (1 - share) * targets[partner]) @ logs[row])
            possible = {total + term for total in possible for term in terms}
        assert min(abs(loss - total / ROWS) for total in possible) < 1e-5
        mixed += (np.abs(now - values) > 1).sum()
    assert mixed > 15  # of 30


def test_augmentation_follows_the_key(make_task, probe):
    """Every step would show an image alike, or a resumed run another image than an undisturbed one."""
    task = make_task(flip=True, max_shift=2, mixup=0.5)
    first, again, other = (probe(task, PICTURES, [0, 1, 2, 0, 1], seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not near(first, other)
    assert first.min() >= -1e-6 and first.max() <= 1 + 1e-6


# Validation and evaluation -----------------------------------------------------------------------


def test_validation_is_loss_and_accuracy_over_images(make_task, data, model):
    """Padded rows would count as wrong, or as right, or batches weigh the same."""
    batches = data.evaluation_batches("test")
    assert (batches.batch(2)["labels"] == -1).sum() == 2
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
    changed = make_task(label_smoothing=0.3, flip=True, max_shift=2, mixup=0.8)
    assert changed.validate(model, batches) == make_task().validate(model, batches)


def test_an_evaluation_lists_the_mistakes(make_task, data, model):
    """Mistakes would be of other images, swap the two classes, or include rows that only fill up."""
    for split, evaluation in make_task().evaluate(model, data, ["validation", "test"]).items():
        logits, labels = by_hand(model, data, split)
        best = logits.argmax(-1)
        wanted = [
            (f"image {i}", CLASSES[label], CLASSES[b])
            for i, (label, b) in enumerate(zip(labels, best, strict=True))
            if label != b
        ]
        assert [tuple(sample) for sample in evaluation.samples] == wanted
        assert len(wanted) > 0
        assert evaluation.metrics == {
            "loss": pytest.approx(oracles.cross_entropy(logits, labels), rel=1e-5),
            "accuracy": pytest.approx(1 - len(wanted) / len(labels), abs=1e-6),
            "images": len(labels),
        }


def test_an_evaluation_is_described(make_task):
    """What is printed would be another number than what is kept."""
    line = make_task().describe(dict(accuracy=0.87654, loss=0.34567, images=123))
    assert line == "accuracy 87.65 %, loss 0.3457 nats, 123 images"


# Classifying -----------------------------------------------------------------------------------


def test_files_are_classified_like_the_data(make_task, data, model, files):
    """An image would be read otherwise than in training, or classes be out of order."""
    chosen = [files / "train" / CLASSES[i % 3] / f"{i:02}.png" for i in (0, 1, 5, 9)]
    found = make_task().classify(model, chosen)
    logits = logits_of(model, np.stack([picture(i) for i in (0, 1, 5, 9)]))
    for ranked, row in zip(found, logits, strict=True):
        p = np.exp(oracles.log_softmax(row))
        order = np.argsort(-p)
        assert [c.name for c in ranked] == [CLASSES[i] for i in order]
        assert [c.probability for c in ranked] == pytest.approx(p[order].tolist(), rel=1e-4)


def test_an_image_of_another_size_is_fitted(make_task, model, tmp_path):
    """Only images of the training size could be classified."""
    Image.fromarray(np.full((20, 30), 77, np.uint8)).save(tmp_path / "grey.png")
    found = make_task().classify(model, [tmp_path / "grey.png"])
    (row,) = logits_of(model, np.full((1, SIZE, SIZE, 3), 77, np.uint8))
    assert found[0][0].name == CLASSES[row.argmax()]
    assert found[0][0].probability == pytest.approx(np.exp(oracles.log_softmax(row)).max(), rel=1e-4)


def test_a_file_that_is_no_image_is_named(make_task, model, tmp_path):
    """The error would not say which of many files is broken."""
    (tmp_path / "notes.png").write_text("no image")
    for name in ("notes.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            make_task().classify(model, [tmp_path / name])


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_smoothing": 1.0}, r"task\.label_smoothing must be in \[0, 1\), got 1\.0"),
        ({"max_shift": -1}, r"task\.max_shift must be finite and not negative, got -1"),
        ({"mixup": -0.5}, r"task\.mixup must be finite and not negative, got -0\.5"),
        ({"std": (0.2, 0.0, 0.1)}, r"task\.std must be a tuple of one or three positive numbers, got \(0\.2, 0\.0"),
        ({"mean": (0.1, 0.2)}, r"task\.mean must be a tuple of one or three numbers, got \(0\.1, 0\.2\)"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """A wrong value would be ignored, or surface at the first step."""
    with pytest.raises(ConfigError, match=message):
        build(ImageClassificationTask.Config, fields, "task")


def test_every_field_of_the_config_is_seen_here():
    """A field was added to the config that no test above turns; `init_from` is that of tests/training/test_starts.py."""
    fields = {field.name for field in dataclasses.fields(ImageClassificationTask.Config)}
    assert fields == {"init_from", "label_smoothing", "flip", "max_shift", "mixup", "mean", "std"}
