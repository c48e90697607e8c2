"""Members trained together against the same configs trained alone, step by step; and what the program is made of."""

import functools
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
import tiny_runs
from support import unchecked_annotations

from tformer_jax.config import NOT_NEGATIVE, field
from tformer_jax.nn import POSITIONS, PositionScheme
from tformer_jax.sweeps import calibration
from tformer_jax.sweeps.groups import MemberData
from tformer_jax.sweeps.members import make_members
from tformer_jax.sweeps.text import parse
from tformer_jax.sweeps.vectorized import ALIVE, Population, program_of, varying_numbers
from tformer_jax.training.parallel import ParallelConfig

STEPS = 100
# Everything that may be a number of a program, in members that differ in all of them.
NUMBERS = (
    "zip(optimizer.learning_rate=1e-3,3e-3,6e-3; optimizer.warmup_steps=1,7,30; optimizer.b1=0.8,0.9,0.95;"
    "optimizer.b2=0.9,0.98,0.999; optimizer.eps=1e-9,1e-6,1e-8; optimizer.weight_decay=0.01,0.1,0.3;"
    "optimizer.clip_norm=0.5,1.0,3.0; training.average_decay=0.9,0.99,0.5; task.label_smoothing=0.05,0.1,0.2;"
    "model.dropout_rate=0.1,0.3,0.2; model.attention.dropout_rate=0.2,0.1,0.05;"
    "model.feed_forward.dropout_rate=0.1,0.05,0.3; model.init.std=0.02,0.05,0.1; seed=0,7,4000000000"
)
OF_A_TASK = {
    "translation": "; task.z_loss=1e-4,1e-3,1e-2)",
    "causal_lm": "; task.z_loss=1e-4,1e-3,1e-2)",
    "masked_lm": "; task.z_loss=1e-4,1e-3,1e-2)",
    "text_classification": ")",
    "image_classification": "; task.mixup=0.1,0.4,1.0)",
}


def config_of(place, name, **sections):
    config = tiny_runs.translation(place) if name == "translation" else tiny_runs.configs(place)[name]
    changed = {section: config[section] | fields for section, fields in sections.items()}
    return config | changed


@functools.cache
def members_of(place, name, text):
    sections = {"optimizer": {"name": "adamw", "schedule": "cosine", "warmup_steps": 1}, "training": {"steps": STEPS}}
    return make_members(config_of(place, name, **sections), parse(text).members())


@functools.cache
def data_of(place, name):
    """The data and the task of the members above."""
    members = members_of(place, name, NUMBERS + OF_A_TASK[name])
    directory = place / "data" / name
    directory.mkdir(parents=True)
    return MemberData(members, 0, directory, fresh=True)


def population(place, name, members, chunk, devices=1):
    task = members[0].experiment.restore_task(data_of(place, name).directory)
    return Population(members, task, jax.devices()[:devices], chunk, varying_numbers(members))


def trained(population, data, steps):
    """The metrics of each step, by name [steps members ...], and the last states."""
    arrays, rows = population.initial({}), []
    orders = [data.batches(order, 1) for order in population.orders]
    for step in range(steps):
        arrays, metrics = population.step(arrays, [batches.batch(step) for batches in orders])
        rows.append(metrics)
    count = len(population.members)
    rows = jax.device_get(rows)
    return {name: np.stack([row[name][:count] for row in rows]) for name in rows[0]}, population.states(arrays)


@functools.cache
def alone(place, name, number):
    """The losses of one member, trained by itself."""
    member = members_of(place, name, NUMBERS + OF_A_TASK[name])[number]
    data = data_of(place, name)
    trainer = member.experiment.trainer(member.experiment.restore_task(data.directory), ParallelConfig(data=1))
    batches = trainer.placed(data.batches(member.experiment.data.order_seed, 1))
    arrays, losses = trainer.initial(), []
    for step in range(STEPS):
        arrays, metrics = trainer.step(arrays, batches.batch(step))
        losses.append(metrics["loss"])
    return np.asarray(jax.device_get(losses)), jax.device_get(arrays)


def follows(place, name, chunk):
    """Fails unless members are what they are alone; says by how much their losses differ."""
    members = members_of(place, name, NUMBERS + OF_A_TASK[name])
    assert len({program_of(member, one_order=False) for member in members}) == 1
    metrics, states = trained(population(place, name, members, chunk), data_of(place, name), STEPS)
    worst = 0.0
    for i in range(len(members)):
        losses, arrays = alone(place, name, i)
        np.testing.assert_allclose(metrics["loss"][:, i], losses, rtol=1e-4, err_msg=str(members[i].overrides))
        worst = max(worst, (np.abs(metrics["loss"][:, i] - losses)[losses > 0] / losses[losses > 0]).max())
        assert states.keys() - {ALIVE} == arrays.keys(), "a member's state is not that of a run of its own"
    return f"{name}, {chunk} at once: worst relative difference in {STEPS} steps {worst:.1e}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chunk"), [("causal_lm", 1), ("causal_lm", 3), *((name, 2) for name in OF_A_TASK)])
def test_every_member_of_every_task_follows_the_curve_of_its_config_alone(place, name, chunk, record_property):
    """A number does not reach the program, or reaches it as another member's; or the batches or keys are others'.

    Of every task, for what only it has: its losses, augmentation and corruption. Of three members, two are trained at once
    and then the last one; of the language model, one after the other and all at once too.
    """
    with unchecked_annotations():
        record_property("summary", follows(place, name, chunk))


def test_members_with_adapters_are_runs_of_their_own(place):
    """An adapter is drawn from another member's seed, or its base is; or members of two scales have one."""
    lora = {"adapter": "lora", "adapter_rank": 2, "adapter_on": [".*attention.w_[qv]"], "steps": STEPS}
    config = config_of(place, "causal_lm", training=lora)
    members = make_members(config, parse("zip(learning_rate=1e-3,1e-2; seed=0,7); adapter_alpha=2.0,6.0").members())
    assert len({program_of(member, one_order=False) for member in members}) == 2
    same = [member for member in members if member.overrides["adapter_alpha"] == 6.0]
    data = data_of(place, "causal_lm")
    with unchecked_annotations():
        made = population(place, "causal_lm", same, 2)
        metrics, states = trained(made, data, 5)
        for i, member in enumerate(same):
            task = member.experiment.restore_task(data.directory)
            alone = member.experiment.trainer(task, ParallelConfig(data=1))
            batches, arrays = alone.placed(data.batches(member.experiment.data.order_seed, 1)), alone.initial()
            for step in range(5):
                arrays, found = alone.step(arrays, batches.batch(step))
                np.testing.assert_allclose(metrics["loss"][step, i], found["loss"], rtol=1e-5)
            assert states.keys() - {ALIVE} == arrays.keys()
            for name in ("adapter.decoder.layers.0.attention.w_q.b", "model.decoder.layers.0.attention.w_q"):
                np.testing.assert_allclose(states[name][i], arrays[name], rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def three(place):
    """Three members that differ in learning rate and seed, of which the second diverges; as a population of one."""
    members = members_of(place, "causal_lm", "zip(learning_rate=1e-3,1e30,1e-2; seed=0..2)")
    with unchecked_annotations():
        made = population(place, "causal_lm", members, 1)
        return members, made, trained(made, data_of(place, "causal_lm"), 12)


def test_a_sweep_is_reproducible_to_the_last_bit(place, three):
    """What a member computes depends on more than its config: on time, or on what ran before."""
    members, made, (metrics, states) = three
    with unchecked_annotations():
        again, final = trained(made.of(members), data_of(place, "causal_lm"), 12)
    for name in states:
        np.testing.assert_array_equal(states[name], final[name], err_msg=name)
    np.testing.assert_array_equal(metrics["loss"], again["loss"])


def test_a_member_that_diverged_stands_still(three):
    """A state that is not finite is kept, or a member that diverged is reported as well, or goes on."""
    _, _, (metrics, states) = three
    good = np.isfinite(metrics["loss"]) & np.isfinite(metrics["gradient_norm"])
    first = int(np.argmin(metrics["alive"][:, 1]))
    assert 0 < first < 12 and not metrics["alive"][first:, 1].any() and not good[first, 1]
    assert metrics["alive"][:, [0, 2]].all() and states[ALIVE].tolist() == [True, False, True]
    assert states["step"].tolist() == [12, first, 12]
    assert all(np.isfinite(x).all() for x in states.values())


def test_the_memory_that_is_predicted_holds_the_states(place, three):
    """Members are trained together whose states alone are more than fits."""
    _, made, (_, states) = three
    batch = data_of(place, "causal_lm").batches(0, 1).batch(0)
    assert calibration._bytes(made, batch) >= sum(x.nbytes for x in states.values())


def test_a_member_that_diverges_does_not_harm_the_others(place, three):
    """Members share more than a program."""
    members, made, (metrics, states) = three
    with unchecked_annotations():
        (calm,) = members_of(place, "causal_lm", "learning_rate=2e-3; seed=1")
        others, final = trained(made.of([members[0], calm, members[2]]), data_of(place, "causal_lm"), 12)
    np.testing.assert_array_equal(metrics["loss"][:, [0, 2]], others["loss"][:, [0, 2]])
    for name in states:
        np.testing.assert_array_equal(states[name][[0, 2]], final[name][[0, 2]], err_msg=name)


@pytest.mark.slow
def test_members_on_devices_of_their_own_do_not_communicate(place, three):
    """The program of eight devices waits for messages between members, or computes something else than one device."""
    members, _, (metrics, states) = three
    with unchecked_annotations():
        spread = population(place, "causal_lm", members, 1, devices=8)
        assert spread.width == 8
        data = data_of(place, "causal_lm")
        batches = [data.batches(order, 1).batch(0) for order in spread.orders]
        text = spread.compiled(spread.abstract(batches)).as_text()
        collectives = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|\bsend\b|\brecv\b"
        assert not re.findall(collectives, text) and "num_partitions=8" in text
        eight, final = trained(spread, data, 12)
    np.testing.assert_allclose(eight["loss"][:, [0, 2]], metrics["loss"][:, [0, 2]], rtol=1e-5)
    assert final["step"].tolist() == states["step"].tolist()


def test_threads_that_take_members_from_their_devices_get_the_ones_that_they_ask_for(place, three):
    """Validation, a thread a device, scores another member's model, or the sweep dies at random."""
    members, _, (_, states) = three
    spread = population(place, "causal_lm", members, 1, devices=3)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # a thread is interrupted wherever it can be
    try:
        with ThreadPoolExecutor(3) as pool, unchecked_annotations():
            arrays = spread.place(states)
            for _ in range(60):
                arrays = _copied(arrays)  # JAX lists the shards of each array when it is first asked
                taken = list(pool.map(lambda i, arrays=arrays: spread.model(arrays, i), range(3)))
                for i, model in enumerate(taken):
                    np.testing.assert_array_equal(model.embedding.table, states["model.embedding.table"][i])
    finally:
        sys.setswitchinterval(before)


@jax.jit
def _copied(arrays):
    return {name: jax.numpy.copy(x) for name, x in arrays.items()}


PROGRAMS = {
    "seed=0..3; learning_rate=1e-3,1e-2": 1,
    "warmup_steps=1,5; b1=0.5,0.9": 1,
    "data.order_seed=0..2": 1,
    "data.seed=0..2": 3,
    "dropout_rate=0.1,0.2,0.3": 1,
    "dropout_rate=0.0,0.1,0.2": 2,
    "weight_decay=0.0,0.1 ; average_decay=0.5": 2,
    "clip_norm=0.5,1.0": 1,
    "clip_norm=None,1.0": 2,
    "init.std=0.1,0.2; label_smoothing=0.1,0.2; z_loss=1e-4,1e-3": 1,
    "feed_forward.width=16,32": 2,
    "positions.name=rotary,alibi; seed=0..3": 2,
    "steps=10,20": 2,
    "schedule=linear,cosine; learning_rate=1e-3,1e-2": 2,
}


@pytest.mark.parametrize("text", PROGRAMS)
def test_members_share_a_program_if_they_differ_in_numbers_alone(place, text):
    """Members of different programs are trained by one of them, or those of one program are compiled several times."""
    members = members_of(place, "causal_lm", text)
    assert len({program_of(member, one_order=False) for member in members}) == PROGRAMS[text]


def test_none_and_zero_are_programs_of_their_own(place):
    """A member whose number is None, "as is usual", is trained with NaN by the program of one whose number is 0."""

    @POSITIONS.register("fading_or_not")
    class Fading(PositionScheme):
        rate: float | None = field(None, NOT_NEGATIVE, traced=True)

        def in_scores(self, model, *, bidirectional, rngs):
            rate = 0.1 if self.rate is None else self.rate
            return lambda queries, keys: -rate * abs(queries[:, None, :, None] - keys[:, None, None, :])

    config = config_of(place, "causal_lm")
    config["model"]["positions"] = {"name": "fading_or_not"}
    members = make_members(config, parse("positions.rate=None,0.0,0.5,0.7").members())
    assert len({program_of(member, one_order=False) for member in members}) == 3


def test_batches_of_several_shapes_part_members_by_their_order(place):
    """Members are trained together whose batches differ in shape."""
    members = members_of(place, "causal_lm", "seed=0..3; learning_rate=1e-3,1e-2")
    assert len({program_of(member, one_order=True) for member in members}) == 4
