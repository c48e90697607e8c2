"""Schedules against their formulas in NumPy; Adam, AdamW and clipping against PyTorch and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support import quick_jit, tiny_model

from tformer_jax.config import ConfigError
from tformer_jax.training.optimizers import OptimizerConfig, make_optimizer, make_schedule

# Schedules -------------------------------------------------------------------------------------

PEAK, WARMUP, TOTAL = 0.3, 5, 20
FORMULAS = {
    "rsqrt": lambda t: PEAK * (WARMUP / t) ** 0.5,
    "cosine": lambda t: PEAK * 0.5 * (1 + np.cos(np.pi * (t - WARMUP) / (TOTAL - WARMUP))),
    "linear": lambda t: PEAK * (TOTAL - t) / (TOTAL - WARMUP),
    "constant": lambda t: PEAK * t**0.0,
}


def rates(steps, total=TOTAL, **fields):
    """The learning rates of these steps, counted from 0."""
    schedule = make_schedule(OptimizerConfig(**fields), total)
    return np.asarray(schedule(np.asarray(steps)))


@pytest.mark.parametrize("name", FORMULAS)
def test_after_the_warm_up_the_schedule_is_its_formula(name):
    """The learning rate would fall otherwise than asked for; t is the number of the update, from 1."""
    t = np.arange(WARMUP, TOTAL + 1)
    found = rates(t - 1, learning_rate=PEAK, schedule=name, warmup_steps=WARMUP)
    np.testing.assert_allclose(found, FORMULAS[name](t), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_warm_up_is_linear(name):
    """The first updates would be too large, or the first would be no update at all."""
    t = np.arange(1, WARMUP + 1)
    found = rates(t - 1, learning_rate=PEAK, schedule=name, warmup_steps=WARMUP)
    np.testing.assert_allclose(found, PEAK * t / WARMUP, rtol=1e-6)


def test_rsqrt_is_the_schedule_of_the_paper():
    """Vaswani et al., section 5.3: d_model^-0.5 min(t^-0.5, t w^-1.5) with w = 4000 could not be asked for."""
    d_model, warmup = 512, 4000
    t = np.array([1, 2, 100, 3999, 4000, 4001, 50_000, 100_000])
    wanted = d_model**-0.5 * np.minimum(t**-0.5, t * float(warmup) ** -1.5)
    found = rates(t - 1, total=100_000, learning_rate=(d_model * warmup) ** -0.5, schedule="rsqrt", warmup_steps=warmup)
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_without_a_warm_up_the_schedule_starts_at_its_peak(name):
    """No warm-up would mean a division by zero, or a first step without learning."""
    (first,) = rates([0], learning_rate=PEAK, schedule=name)
    assert first == pytest.approx(PEAK, rel=0.051)  # linear: 19/20 of it


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_past_the_last_step_the_rate_stays_at_zero(name):
    """The rate would turn negative, or rise again."""
    found = rates([TOTAL - 1, TOTAL, TOTAL + 7], learning_rate=PEAK, schedule=name, warmup_steps=WARMUP)
    np.testing.assert_allclose(found, 0.0, atol=1e-7)


# Optimisers ------------------------------------------------------------------------------------


class Model(nnx.Module):
    """One parameter of each kind that a Transformer has, under the names that it has there."""

    def __init__(self):
        rng = np.random.default_rng(0)
        shapes = {
            "w": (3, 4),
            "w_out": (2, 3, 2),
            "table": (5, 2),
            "b": (4,),
            "beta": (4,),
            "gamma": (4,),
            "b_q": (2, 3),
        }
        for name, shape in shapes.items():
            setattr(self, name, nnx.Param(jnp.asarray(rng.standard_normal(shape), jnp.float32)))


NAMES = ("w", "w_out", "table", "b", "beta", "gamma", "b_q")
DECAYING = ("w", "w_out", "table")
STEPS = 12


def arrays_of(model):
    return {name: np.asarray(getattr(model, name)[...]) for name in NAMES}


def gradients_at(step, scale=1.0):
    """The same invented gradients for whoever asks."""
    rng = np.random.default_rng(100 + step)
    return {
        name: (scale * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in arrays_of(Model()).items()
    }


def trajectory(steps=STEPS, gradients=gradients_at, **fields):
    """The parameters after each step."""
    config = OptimizerConfig(**{"learning_rate": 0.05, "schedule": "constant"} | fields)
    optimizer = make_optimizer(config, make_schedule(config, steps))
    model = Model()
    structure = jax.tree.structure(model)
    order = [path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(model)]
    state, found = optimizer.init(model), []

    @jax.jit
    def step(model, state, leaves):
        updates, state = optimizer.update(jax.tree.unflatten(structure, leaves), state, model)
        return optax.apply_updates(model, updates), state

    for i in range(steps):
        grads = gradients(i)
        model, state = step(model, state, [jnp.asarray(grads[name]) for name in order])
        found.append(arrays_of(model))
    return found


def torch_trajectory(make, learning_rates, decay=0.0):
    """The same with torch.optim; only the matrices decay."""
    torch = pytest.importorskip("torch")
    params = {name: torch.nn.Parameter(torch.tensor(value.copy())) for name, value in arrays_of(Model()).items()}
    groups = [
        {"params": [params[name] for name in DECAYING], "weight_decay": decay},
        {"params": [params[name] for name in NAMES if name not in DECAYING], "weight_decay": 0.0},
    ]
    optimizer, found = make(torch, groups), []
    for i, rate in enumerate(learning_rates):
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        for name, grad in gradients_at(i).items():
            params[name].grad = torch.tensor(grad)
        optimizer.step()
        found.append({name: p.detach().numpy().copy() for name, p in params.items()})
    return found


def assert_same_trajectory(found, wanted):
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        for name in NAMES:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-5, atol=2e-6, err_msg=f"{name} after step {i + 1}")


@pytest.mark.parity
def test_adam_follows_torch():
    """The moments, their bias correction or the place of epsilon would be wrong."""
    hyper = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
    wanted = torch_trajectory(
        lambda torch, groups: torch.optim.Adam(groups, betas=(0.8, 0.95), eps=1e-3), [0.05] * STEPS
    )
    assert_same_trajectory(trajectory(**hyper), wanted)


@pytest.mark.parity
def test_adamw_with_a_schedule_follows_torch():
    """Decay would not be decoupled, not scale with the learning rate, or reach biases and norms."""
    rates = np.minimum(0.1 * np.arange(1, STEPS + 1) / 4, 0.1 * (4 / np.arange(1, STEPS + 1)) ** 0.5)
    wanted = torch_trajectory(
        lambda torch, groups: torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9), rates, decay=0.3
    )
    found = trajectory(name="adamw", weight_decay=0.3, learning_rate=0.1, schedule="rsqrt", warmup_steps=4)
    assert_same_trajectory(found, wanted)


def test_decay_skips_biases_and_norms():
    """Biases, scales and shifts would be pulled to zero: without a gradient only matrices and tables may shrink."""
    start = arrays_of(Model())
    (end,) = trajectory(1, lambda step: gradients_at(step, 0.0), name="adamw", weight_decay=0.5)
    for name in NAMES:
        factor = 1 - 0.05 * 0.5 if name in DECAYING else 1.0
        np.testing.assert_allclose(end[name], factor * start[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("model", "fields"),
    {
        "Transformer": dict(share_embeddings=False, tie_output=False, positions="learned"),
        "CausalLM": dict(gated=True, qk_norm=True, positions="relative", norm="rms"),
        "MaskedLM": dict(num_token_types=2, pooler=True, embedding_norm=True, positions="learned"),
        "TextClassifier": dict(pooler=True),
        "VisionTransformer": dict(positions="learned", pooling="cls"),
    }.items(),
)
def test_every_parameter_of_a_model_is_known_to_decay_or_not(model, fields):
    """A projection or a table under another name would not decay, or a bias would."""
    model = tiny_model(model, **fields)
    config = OptimizerConfig(name="adamw", weight_decay=1.0, learning_rate=1.0, schedule="constant")
    optimizer = make_optimizer(config, make_schedule(config, 1))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), model)
    updates, _ = quick_jit(lambda zeros, model: optimizer.update(zeros, optimizer.init(model), model))(zeros, model)
    shrinks = {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): bool(np.any(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
    }
    last = {name: name.rsplit(".", 1)[-1] for name in shrinks}
    matrices = {"w", "w1", "w2", "w_gate", "w_q", "w_k", "w_v", "w_o", "table", "position_table"}
    others = {"gamma", "beta", "b", "b1", "b2", "b_gate", "b_q", "b_k", "b_v", "b_o", "class_token"}
    assert set(last.values()) <= matrices | others  # else: say here what the new one is
    assert shrinks == {name: last[name] in matrices for name in shrinks}


def adam_by_hand(gradients, rate=0.05, b1=0.9, b2=0.98, eps=1e-9):
    """Kingma & Ba, algorithm 1, in float64."""
    params = {name: value.astype(np.float64) for name, value in arrays_of(Model()).items()}
    m = {name: 0.0 for name in NAMES}
    v = {name: 0.0 for name in NAMES}
    for t, grads in enumerate(gradients, 1):
        for name in NAMES:
            m[name] = b1 * m[name] + (1 - b1) * grads[name]
            v[name] = b2 * v[name] + (1 - b2) * grads[name] ** 2
            params[name] = params[name] - rate * (m[name] / (1 - b1**t)) / (np.sqrt(v[name] / (1 - b2**t)) + eps)
    return params


@pytest.mark.parametrize("clip_norm", [0.5, 1e3])
def test_clipping_scales_large_gradients_to_the_norm(clip_norm):
    """One outlier would throw the parameters off, or small gradients would be scaled too."""

    def outlier(step):
        return gradients_at(step, 50.0 if step == 2 else 0.3)

    clipped = []
    for step in range(STEPS):
        grads = {name: g.astype(np.float64) for name, g in outlier(step).items()}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        clipped.append({name: g * min(1.0, clip_norm / norm) for name, g in grads.items()})
    wanted, found = adam_by_hand(clipped), trajectory(gradients=outlier, clip_norm=clip_norm)[-1]
    for name in NAMES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adamv"}, r"optimizer\.name .*did you mean 'adam"),
        ({"schedule": "cosin"}, r"optimizer\.schedule .*did you mean 'cosine'"),
        ({"schedule": "cosine", "warmup_steps": -1}, r"optimizer\.warmup_steps must not be negative, got -1"),
        ({"schedule": "rsqrt"}, r"optimizer\.schedule='rsqrt' .*warmup_steps must be positive"),
        ({"learning_rate": 0.0, "schedule": "cosine"}, r"optimizer\.learning_rate must be positive, got 0"),
        ({"clip_norm": 0.0, "schedule": "cosine"}, r"optimizer\.clip_norm must be positive, got 0"),
        ({"weight_decay": 0.1, "schedule": "cosine"}, r"weight_decay has no meaning for 'adam', only for adamw, .*got 0.1"),
        ({"b1": 1.0, "schedule": "cosine"}, r"optimizer\.b1 must be in \[0, 1\), got 1"),
        ({"b2": 1.5, "schedule": "cosine"}, r"optimizer\.b2 must be in \[0, 1\), got 1.5"),
        ({"eps": -1.0, "schedule": "cosine"}, r"optimizer\.eps must .*got -1"),
        ({"learning_rate": math.nan, "schedule": "cosine"}, r"optimizer\.learning_rate must be finite, got nan"),
        ({"clip_norm": math.inf, "schedule": "cosine"}, r"optimizer\.clip_norm must be finite, got inf"),
        ({"name": "adamw", "weight_decay": -0.1, "schedule": "cosine"}, r"optimizer\.weight_decay must not be neg"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """A wrong value would be ignored, or end in NaN after the first step."""
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**{"learning_rate": 0.1} | fields)
