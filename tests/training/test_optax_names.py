"""Transformations of Optax by their names: what Optax itself does, what they refuse; schedules from outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support import by_day, optimizer_config, quick_jit, tiny_model, unchecked_annotations

from tformer_jax.config import ConfigError
from tformer_jax.training.optimizers import OPTIMIZERS, make_optimizer
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.schedules import SCHEDULES, after_warmup, make_schedule

RATE, STEPS = 0.1, 3
SCHEDULE = {"learning_rate": RATE, "schedule": "linear", "warmup_steps": 2}


@functools.cache
def model(seed=0):
    return tiny_model("TextClassifier", seed)


def trajectory(optimizer, make):
    """The parameters after some steps, from and with trees of what `make(seed)` has."""

    @quick_jit
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, state = make(0), optimizer.init(make(0))
    for seed in range(1, STEPS + 1):
        params, state = step(params, state, make(seed))
    return jax.tree.leaves(params)


def leaves(seed):
    """The same arrays without modules around them."""
    return jax.tree.leaves(model(seed))


def ours(**fields):
    config = optimizer_config(**SCHEDULE | fields)
    return trajectory(make_optimizer(config, make_schedule(config, 10)), model)


def schedule(step):
    t = step + 1
    return RATE * jnp.where(t <= 2, t / 2, (10 - t) / 8)


COMPLETE = [
    ("optax.lamb", {"weight_decay": 0.1, "b1": 0.8}), ("optax.adamw", {}), ("optax.lars", {}), ("optax.novograd", {}),
    ("optax.adafactor", {"min_dim_size_to_factor": 4}), ("optax.sgd", {"momentum": 0.5, "nesterov": True}),
    ("optax.contrib.prodigy", {}), ("optax.contrib.ademamix", {}), ("optax.contrib.dadapt_adamw", {}),
    ("optax.fromage", {}), ("optax.lion", {}), ("optax.contrib.madgrad", {}), ("optax.radam", {}),
]  # fmt: skip
DIRECTIONS = [
    ("optax.scale_by_adan", {"b1": 0.9}), ("optax.scale_by_yogi", {}), ("optax.contrib.scale_by_adopt", {}),
    ("optax.scale_by_sm3", {}), ("optax.scale_by_belief", {}), ("optax.trace", {"decay": 0.5, "nesterov": True}),
    ("optax.scale_by_rms", {}), ("optax.scale_by_sign", {}), ("optax.scale_by_trust_ratio", {}),
]  # fmt: skip


def function_of(name):
    return getattr(optax.contrib if name.startswith("optax.contrib.") else optax, name.rsplit(".", 1)[-1])


@pytest.mark.parametrize(("name", "arguments"), by_day(COMPLETE, 0, 6))
def test_a_complete_optimizer_is_that_of_optax_with_the_schedule(name, arguments):
    """Its updates would be scaled by the learning rate once more, or an argument be lost."""
    wanted = trajectory(function_of(name)(learning_rate=schedule, **arguments), leaves)
    for found, exact in zip(ours(name=name, arguments=arguments), wanted, strict=True):
        np.testing.assert_allclose(found, exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "arguments"), by_day(DIRECTIONS, 0, 5))
def test_a_direction_of_optax_is_followed_by_decay_and_the_learning_rate(name, arguments):
    """Decay would reach biases, go through the memory, or be left out, as the learning rate would."""
    decays = [x.ndim - (path.startswith("encoder.layers.layers.")) > 0 and path.rsplit(".", 1)[-1][:1] in "wt"
              for path, x in paths().items()]  # fmt: skip
    decay = optax.add_decayed_weights(0.5, mask=lambda params: decays)
    wanted = optax.chain(function_of(name)(**arguments), decay, optax.scale_by_learning_rate(schedule))
    found = ours(name=name, arguments=arguments, weight_decay=0.5)
    for x, exact in zip(found, trajectory(wanted, leaves), strict=True):
        np.testing.assert_allclose(x, exact, rtol=2e-5, atol=1e-6)


def paths():
    held = jax.tree_util.tree_leaves_with_path(model())
    return {jax.tree_util.keystr(p, simple=True, separator=".").removesuffix(".value"): x for p, x in held}


def test_our_own_names_are_those_of_optax():
    """A name would be another algorithm here than there."""
    hyper = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
    pairs = [
        ({"name": "adamw", **hyper}, "optax.scale_by_adam", hyper),
        ({"name": "lion", "b1": 0.8, "b2": 0.95}, "optax.scale_by_lion", {"b1": 0.8, "b2": 0.95}),
        ({"name": "sgd", "momentum": 0.5}, "optax.trace", {"decay": 0.5}),
    ]
    for fields, name, arguments in pairs:
        wanted = ours(name=name, arguments=arguments, weight_decay=0.5, clip_norm=0.5)
        for x, exact in zip(ours(**fields, weight_decay=0.5, clip_norm=0.5), wanted, strict=True):
            np.testing.assert_array_equal(x, exact)


REFUSED = {
    "optax.scale_by_adn": (
        {},
        r"a transformation of Optax, got 'optax\.scale_by_adn'; did you mean 'optax\.scale_by_ad",
    ),
    "lamb": ({}, r"got 'lamb'; did you mean 'optax\.lamb'"),
    "optax.softmax_cross_entropy": ({}, r"must be one of .* or a transformation of Optax"),
    "optax.contrib.nothing.at_all": ({}, r"must be one of .* or a transformation of Optax"),
    "optax.lamb": ({"arguments": {"b3": 1}}, r"arguments of optax\.lamb: .*'b3'; did you mean 'b"),
    "optax.adan": ({"arguments": {"learning_rate": 1.0}}, r"arguments must not have 'learning_rate'"),
    "optax.scale_by_lion": ({"arguments": [0.9]}, r"arguments must be a table of arguments of optax\.scale_by_lion"),
    "optax.ema": ({}, r"arguments of optax\.ema: missing a required argument: 'decay'"),
    "optax.chain": ({}, r"name='optax\.chain' puts transformations together, .* whose make\(\) returns optax\.chain"),
    "optax.yogi": ({"weight_decay": 0.1}, r"weight_decay must be 0 with name='optax\.yogi'"),
    "optax.scale_by_adam": ({"momentum": 0.1}, r"has no field 'momentum', which goes with name='sgd'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_transformation_or_has_no_such_argument_is_refused(name):
    """It would show in the first step, as an error within Optax, or never."""
    fields, message = REFUSED[name]
    with unchecked_annotations(), pytest.raises(ConfigError, match=rf"^optimizer.*{message}"):
        optimizer_config(**SCHEDULE | {"name": name} | fields)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("optax.polyak_sgd", {}), ("optax.rprop", {}), ("optax.scale_by_adam", {"b1": "x"}), ("optax.scale_by_schedule",
      {"step_size_fn": 1.0}), ("optax.update_moment", dict.fromkeys(("updates", "moments", "decay", "order"), 1))],
)  # fmt: skip
def test_what_needs_more_than_gradients_is_refused_before_the_first_step(name, arguments):
    """A run would end in its first step, after minutes of compilation, with an error of Optax's own."""
    config = optimizer_config(**SCHEDULE, name=name, arguments=arguments)
    with pytest.raises(ConfigError, match=rf"^optimizer\.name='{name}' "):
        jax.eval_shape(make_optimizer(config, make_schedule(config, 10)).init, model())


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS])
def test_numbers_may_be_known_to_the_program_alone(name):
    """A vectorised sweep would compile a program for every learning rate, or be refused."""
    config = optimizer_config(**SCHEDULE, name=name, clip_norm=1.0, **{} if name == "adam" else {"weight_decay": 0.5})
    numbers = {"learning_rate": 0.05, "clip_norm": 0.5, "warmup_steps": 1.0}
    numbers |= {field: 0.25 for field in ("b1", "momentum", "weight_decay") if getattr(config, field, 0)}

    def first(numbers):
        changed = config.changed(**numbers)
        optimizer = make_optimizer(changed, make_schedule(changed, 10))
        return optimizer.update(model(1), optimizer.init(model()), model())[0]

    with unchecked_annotations():
        found = quick_jit(first)(numbers)
    wanted = quick_jit(lambda: first(numbers | {"warmup_steps": 1}))()
    for x, exact in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, exact, rtol=1e-4, atol=1e-7)


@pytest.fixture
def outside(monkeypatch):
    """Names that are registered within a test are gone after it."""
    for registry in (SCHEDULES, OPTIMIZERS):
        monkeypatch.setattr(registry, "_things", dict(registry._things))


def test_a_schedule_from_outside_is_one_of_them(outside):
    """An idea for a schedule would need an edit of the package."""

    @SCHEDULES.register("decay_at_the_end")
    def decay_at_the_end(t, warmup, total):
        return jnp.minimum(1.0, 4 * (1 - after_warmup(t, warmup, total)))

    config = optimizer_config(learning_rate=RATE, schedule="decay_at_the_end", warmup_steps=4)
    steps = np.arange(24)
    wanted = [RATE * min(1, (step + 1) / 4, 4 * (23 - step) / 20) for step in steps]
    np.testing.assert_allclose(make_schedule(config, 24)(steps), wanted, rtol=1e-5, atol=1e-8)
    with pytest.raises(ConfigError, match="did you mean 'decay_at_the_end'"):
        optimizer_config(learning_rate=RATE, schedule="decay_at_end", warmup_steps=4)


class Point(nnx.Module):
    def __init__(self, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (5,)))
        self.still = nnx.Param(jnp.ones(2))


def distance(model, batch, key):
    squares = jnp.square(model.w[...] - batch).sum() + jnp.square(model.still[...]).sum()
    return squares, jnp.float32(1), {}


@pytest.mark.parametrize("freeze", [(), ("still",)])
def test_a_schedule_free_optimizer_is_evaluated_at_its_average_and_begins_where_the_parameters_do(freeze):
    """What is evaluated would be where gradients are taken; a start from another run would be drawn to a random point."""
    name = "optax.contrib.schedule_free_adamw"
    config = optimizer_config(learning_rate=RATE, schedule="constant", name=name, freeze=freeze)
    program = Program(Point, distance, TrainingConfig(steps=4, evaluate_every=4), config)
    start, batches = jnp.arange(5.0), [jnp.full((1, 5), x) for x in (2.0, -1.0, 3.0, 0.5)]
    arrays = program.initial(jax.random.key(0), {"w": start})
    step = quick_jit(program.step)
    for i, batch in enumerate(batches):
        arrays, _ = step(arrays, batch, jax.random.key(i))

    optimizer = optax.contrib.schedule_free_adamw(learning_rate=RATE)
    w, state = start, optimizer.init(start)
    for batch in batches:
        updates, state = optimizer.update(2 * (w - batch[0]), state, w)
        w = optax.apply_updates(w, updates)
    model = program.evaluated(arrays)
    np.testing.assert_allclose(model.w[...], optax.contrib.schedule_free_eval_params(state, w), rtol=2e-5)
    np.testing.assert_allclose(arrays["model.w"], w, rtol=2e-5)
    assert (np.array_equal(model.still[...], np.ones(2))) == bool(freeze)
