"""One experiment on any mesh: the loss curve is that of one device, and the work is divided."""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import pytest
import tiny_runs
from support import by_day, unchecked_annotations

from tformer_jax.nn.placement import fetched
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.parallel import AXES, ParallelConfig

STEPS = 20
MESHES = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(sizes) == 8]
TASKS = ("translation", *tiny_runs.TASKS)
# Those of one side share all but the ends of their models: for three tasks, one axis alone, and each with every other one.
ALONE_OR_WITH_OTHERS = [sizes for sizes in MESHES if sizes.count(1) != 2]
# By day all axes but data, which `test_filler.py` has.
CASES = [
    ("image_classification", (1, 2, 2, 2)),
    *itertools.product(("translation", "causal_lm"), MESHES),
    *itertools.product(("masked_lm", "text_classification"), ALONE_OR_WITH_OTHERS),
    *(("image_classification", sizes) for sizes in ALONE_OR_WITH_OTHERS if sizes != (1, 2, 2, 2)),
]


@pytest.fixture(scope="module")
def experiment(config, configs, tmp_path_factory):
    """`experiment(task)`: an experiment wide enough for eight parts of everything, its task and its batches."""

    @functools.cache
    def experiment(name):
        given = config if name == "translation" else configs[name]
        model = given["model"] | {
            "d_model": 32,
            "attention": {"num_heads": 8},
            "feed_forward": {"width": 64},
            "dropout_rate": 0.1,
        }
        training = given["training"] | {"steps": STEPS}
        data = given["data"] | ({"batch_tokens": 128} if "batch_tokens" in given["data"] else {})
        found = Experiment.from_config(given | {"model": model, "training": training, "data": data})
        directory = tmp_path_factory.mktemp(name)
        batches = found.load_data(directory).train_batches()
        return found, found.restore_task(directory), batches

    return experiment


@pytest.fixture(scope="module")
def flops(experiment):
    """`flops(parallel)`: of a training step of the language model, on each device."""

    @functools.cache
    def flops(parallel):
        found, task, batches = experiment("causal_lm")
        batch = {name: np.zeros(x.shape, x.dtype) for name, x in batches.batch(0).items()}
        with unchecked_annotations():
            return found.trainer(task, parallel).lower(batch).compile().cost_analysis()["flops"]

    return flops


@pytest.fixture(scope="module")
def trainer(experiment):
    """`trainer(task, parallel, dropout_rate)`: one, and its batches; the last one is kept."""

    @functools.lru_cache(maxsize=1)
    def trainer(name, parallel, dropout_rate):
        found, task, batches = experiment(name)
        found = dataclasses.replace(found, model={**found.model, "dropout_rate": dropout_rate})
        trainer = found.trainer(task, parallel)
        return trainer, trainer.placed(batches)

    return trainer


@pytest.fixture(scope="module")
def initial(trainer):
    """`initial(task, dropout_rate)`: the state before the first step, as one device makes it."""

    @functools.cache
    def initial(name, dropout_rate):
        made, _ = trainer(name, ParallelConfig(data=1), dropout_rate)
        with unchecked_annotations():
            return fetched(made.initial())

    return initial


@pytest.fixture(scope="module")
def curve(trainer, initial):
    """`curve(task, parallel, dropout_rate)`: the losses of 20 steps; `nudge`: of weights whose last bits it draws.

    On a mesh of several axes the state is not made but placed, for that takes a third of the time; but of images it is made
    on every mesh, and of every task where an axis is alone.
    """

    @functools.cache
    def curve(name, parallel, dropout_rate, nudge=None):
        makes = name == "image_classification" or alone(parallel)
        made = None if makes else initial(name, dropout_rate)
        (trained, placed), losses = trainer(name, parallel, dropout_rate), []
        with unchecked_annotations():
            arrays = trained.initial() if made is None else jax.device_put(made, trained.shardings)
            if nudge is not None:
                rng = np.random.default_rng(nudge)
                last = lambda x: np.float32(1) + np.float32(2**-23) * rng.choice(np.float32([-1, 1]), x.shape)
                is_float = lambda x: np.issubdtype(x.dtype, np.floating)
                arrays = {name: x * last(x) if is_float(x) else x for name, x in arrays.items()}
            for i in range(STEPS):
                arrays, metrics = trained.step(arrays, placed.batch(i))
                losses.append(float(metrics["loss"]))
        return np.array(losses)

    return curve


def assert_same_curve(curve, task, parallel, dropout_rate):
    """Fails unless the losses are those of one device, but for what rounding may do, which training multiplies."""
    one, found = ParallelConfig(data=1), curve(task, parallel, dropout_rate)
    wanted, *nudged = (curve(task, one, dropout_rate, nudge) for nudge in (None, 0, 1, 2))
    assert wanted[-1] < wanted[0]
    np.testing.assert_array_less(np.abs(found - wanted), 1e-4 * wanted + 2 * np.abs(np.array(nudged) - wanted).max(0))


def alone(parallel):
    """Whether it has one axis, or none."""
    return sum(getattr(parallel, axis) != 1 for axis in AXES) <= 1


def on(sizes):
    return ParallelConfig(**dict(zip(AXES, sizes, strict=True)))


@pytest.mark.parametrize(("task", "sizes"), by_day(CASES, 0), ids=str)
def test_a_mesh_gives_the_losses_of_one_device(curve, task, sizes):
    """Where an experiment runs would change its result: sums over devices missing or doubled, other draws."""
    assert_same_curve(curve, task, on(sizes), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in TASKS if task != "causal_lm"])
def test_pmap_gives_the_losses_of_one_device(curve, task):
    """Means of means, rows that fill up counted, corruption or augmentation drawn for each device by itself.

    Dropout alone is: without it. The language model is compared by the next test; mixed images, by day, in
    `test_filler.py`.
    """
    assert_same_curve(curve, task, ParallelConfig(mode="pmap"), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [on((4, 2, 1, 1)), ParallelConfig(mode="pmap")], ids=["jit", "pmap"])
def test_parts_of_a_batch_are_spread_like_the_whole(experiment, parallel):
    """Accumulation would give other gradients on several devices: parts must have the same rows everywhere."""
    found, task, batches = experiment("causal_lm")
    training = dataclasses.replace(found.training, accumulate=2)
    found, losses = dataclasses.replace(found, training=training, model={**found.model, "dropout_rate": 0.0}), []
    for where in (ParallelConfig(data=1), parallel):
        trainer = found.trainer(task, where)
        arrays, placed = trainer.initial(), trainer.placed(batches)
        for i in range(3):
            arrays, metrics = trainer.step(arrays, placed.batch(i))
        losses.append([float(metrics[name]) for name in ("loss", "gradient_norm", "weight")])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_an_adapter_on_a_mesh_is_that_of_one_device(experiment):
    """What is whole on every device, and added to matrices that are not, would be another one on each."""
    found, task, batches = experiment("causal_lm")
    fields = dict(adapter="lora", adapter_rank=4, adapter_on=(".*attention.w_[qo]", ".*w1"))
    found, losses = dataclasses.replace(found, training=found.training.changed(**fields)), []
    for where in (ParallelConfig(data=1), on((1, 2, 2, 2))):
        trainer = found.trainer(task, where)
        placed = trainer.placed(batches)
        with unchecked_annotations():
            arrays = trainer.initial()
            for i in range(STEPS):
                arrays, metrics = trainer.step(arrays, placed.batch(i))
        losses.append([float(metrics[name]) for name in ("loss", "gradient_norm", "weight")])
        for name, x in arrays.items():
            assert not name.startswith("adapter.") or x.sharding.is_fully_replicated
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("sizes", by_day([((1, 8, 1, 1),), ((1, 1, 8, 1),), ((1, 1, 1, 8),)], 1), ids=str)
def test_the_work_is_divided(flops, sizes):
    """Devices would all do the same: of the operations of one device, each must have about an eighth.

    What all do is what a small model has much of: sums over parameters, norms of streams that heads share.
    """
    assert flops(on(sizes)) < 0.3 * flops(ParallelConfig(data=1))
