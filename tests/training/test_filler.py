"""Rows that only fill up a batch for `pmap`: nothing that mixes or averages rows may meet them."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import by_day, optimizer_config, quick_jit, unchecked_annotations

from tformer_jax.data.batches import Batches
from tformer_jax.nn import Beside
from tformer_jax.tasks import ImageClassificationTask
from tformer_jax.training.parallel import ParallelConfig, SplitBatches
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.step import TrainState, make_train_step
from tformer_jax.training.trainer import Trainer

CLASSES = 5


class Rows(Batches):
    """Batches of so many rows."""

    filler = {"labels": -1}

    def __init__(self, rows, shape=(4,)):
        rng = np.random.default_rng(rows)
        self.rows = rows
        self.arrays = {
            "images": rng.integers(1, 256, (rows, *shape), np.uint8),
            "labels": (np.arange(rows) % CLASSES).astype(np.int32),
        }

    def row_count(self, i):
        return self.rows

    def batch(self, i, rows=slice(None)):
        return {name: x[rows] for name, x in self.arrays.items()}


def centred(batch, key):
    """Each image less the mean over all: what a mean over rows makes of others; and how many those were."""
    images = batch["images"].astype(jnp.float32)
    seen = jnp.full(len(images), float(len(images)))
    return {"x": images - images.mean(0), "seen": seen, "labels": batch["labels"]}


def squares(params, batch, key):
    """The mean over the real rows of what a linear model makes of them, and the number of rows that they were among."""
    weights = (batch["labels"] >= 0).astype(jnp.float32)
    total = jnp.where(weights.sum() == 0, 1.0, weights.sum())
    values = jnp.square(batch["x"] @ params["w"]) + batch["seen"]
    mean = (weights * values).sum() / total
    return mean, weights.sum(), {"again": mean}


@pytest.mark.parametrize(
    ("rows", "devices", "parts"),
    by_day([
        (10, 8, 1), (10, 8, 2), (10, 8, 5), (16, 8, 2), (3, 2, 1), (3, 2, 3), (1, 4, 1), (12, 8, 6), (9, 4, 3), (7, 1, 7),
    ], 0, 2, 5, 6),
)  # fmt: skip
def test_what_is_prepared_together_is_the_real_rows(rows, devices, parts):
    """Empty rows count as images where a batch, or a part of it, is centred; or some real rows are left out."""
    batches, w = Rows(rows), np.arange(1.0, 5.0)
    descent = optax.sgd(1.0)
    step = make_train_step(squares, descent, lambda step: 1.0, parts, prepare=centred, axis="devices")
    params = {"w": jnp.asarray(w, jnp.float32)}
    state = TrainState(jnp.int32(0), params, descent.init(params))
    # Devices of one program, without a device for each.
    on_devices = quick_jit(jax.vmap(step, (None, 0, None), axis_name="devices"))
    after, metrics = on_devices(state, SplitBatches(batches, devices, parts).batch(0), jax.random.key(0))
    x, loss, gradient = batches.arrays["images"].astype(np.float64), 0.0, 0.0
    for j in range(parts):
        part = x[j::parts] - x[j::parts].mean(0)
        loss += (np.square(part @ w).sum() + len(part) ** 2) / rows
        gradient = gradient + 2 * part.T @ (part @ w) / rows
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["again"], loss, rtol=1e-5)
    np.testing.assert_array_equal(metrics["weight"], rows)
    np.testing.assert_allclose(after.model["w"], np.broadcast_to(w - gradient, (devices, 4)), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("axis", [None, "devices"])
def test_rows_that_parts_cannot_share_are_refused(axis):
    """The error is a reshape's, or one part has more of the filler than another."""
    descent, params = optax.sgd(1.0), {"w": jnp.ones(4)}
    step = make_train_step(squares, descent, lambda step: 1.0, 3, prepare=centred, axis=axis)
    batch = Rows(10).batch(0) if axis is None else SplitBatches(Rows(10), 2, 3).batch(0)
    step = step if axis is None else jax.vmap(step, (None, 0, None), axis_name=axis)
    with pytest.raises(ValueError, match="a batch of 10 rows does not divide into accumulate=3 parts"):
        step(TrainState(jnp.int32(0), params, descent.init(params)), batch, jax.random.key(0))


# Mixed images ----------------------------------------------------------------------------------


def task_of(**fields):
    return ImageClassificationTask(ImageClassificationTask.Config(**fields), [str(c) for c in range(CLASSES)])


def test_real_images_are_mixed_with_real_ones_alone():
    """An empty row lends its black, and a target that is no distribution, to an image."""
    batch = {"images": np.full((16, 2, 2, 1), 255, np.uint8), "labels": np.arange(16, dtype=np.int32) % CLASSES}
    batch["labels"][[0, 3, 4, 9, 14]] = -1
    batch["images"][batch["labels"] < 0] = 0
    prepare, real = quick_jit(task_of(mixup=1.0).prepare), batch["labels"] >= 0
    mixed = 0
    for seed in range(5):
        found = prepare(batch, jax.random.key(seed))
        np.testing.assert_allclose(found["targets"].sum(1)[real], 1.0, rtol=1e-6)
        np.testing.assert_allclose(found["images"][real], 1.0, rtol=1e-6)
        np.testing.assert_array_equal(found["weights"], real)
        mixed += (found["targets"].max(1)[real] < 0.999).sum()
    assert mixed > 20  # of 55


@functools.cache
def curve(mode, accumulate):
    """The losses and weights of a linear classifier of mixed images, 10 rows a batch."""
    task, batches = task_of(mixup=0.4, flip=True, max_shift=1), Rows(10, (4, 4, 1))

    def loss(params, batch, key):
        flat = lambda images, key: (images.reshape(len(images), -1) @ params["w"], Beside({}, {}))
        return task.prepared_loss(types.SimpleNamespace(hidden=flat, logits=lambda x: x), batch, key)

    training = TrainingConfig(steps=9, evaluate_every=9, accumulate=accumulate)
    optimizer = optimizer_config(name="sgd", momentum=0.0, learning_rate=0.1, schedule="constant")
    with unchecked_annotations():
        start = lambda rngs: {"w": jnp.zeros((16, CLASSES))}
        program = Program(start, loss, training, optimizer, prepare=task.prepare)
        trainer = Trainer(program, ParallelConfig(mode=mode, data=8 if mode == "pmap" else 1))
        arrays, placed, found = trainer.initial(), trainer.placed(batches), []
        for i in range(6):
            arrays, metrics = trainer.step(arrays, placed.batch(i))
            found.append([float(metrics[name]) for name in ("loss", "gradient_norm", "weight")])
    return np.array(found)


@pytest.mark.parametrize("accumulate", by_day([1, 2], 1))
def test_ten_mixed_images_on_eight_devices_give_the_losses_of_one(accumulate):
    """Six empty rows are mixed into ten images, or partners and shares are those of sixteen."""
    wanted = curve("jit", accumulate)
    assert wanted[0, 0] == pytest.approx(math.log(CLASSES)) and len({*wanted[:, 0]}) == len(wanted)
    np.testing.assert_allclose(curve("pmap", accumulate), wanted, rtol=1e-5)
