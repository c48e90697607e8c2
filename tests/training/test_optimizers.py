"""Schedules against their formulas in NumPy; optimisers against PyTorch and, in float64, by hand."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support import by_day, optimizer_config, quick_jit

from tformer_jax.training.optimizers import make_optimizer
from tformer_jax.training.schedules import make_schedule

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
    schedule = make_schedule(optimizer_config(**fields), total)
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


class Module(nnx.Module):
    """Parameters by name, and other modules."""

    def __init__(self, **held):
        for name, value in held.items():
            setattr(self, name, value)


# What a parameter says that it is, by the end of its path: its axes, of which contracted, its role.
SAID = {
    "output.w": ("a b", "a", "output"), "w": ("a b", "a", "hidden"), "w1": ("a b", "a", "hidden"),
    "w2": ("a b", "a", "hidden"), "w_q": ("a b c", "a", "hidden"), "w_k": ("a b c", "a", "hidden"),
    "w_o": ("a b c", "a b", "hidden"), "w_out": ("a b c", "a b", "hidden"), "table": ("a b", "a", "embedding"),
    "b": ("a", "", "bias"), "b1": ("a", "", "bias"), "beta": ("a", "", "bias"), "b_q": ("a b", "", "bias"),
    "gamma": ("a", "", "gain"), "experts.w_in": ("e a b", "a", "hidden"),
    "experts.w_between": ("a e b c", "a", "hidden"),
}  # fmt: skip


def parameter(path, value):
    axes, contracted, role = next(said for end, said in SAID.items() if f".{path}".endswith(f".{end}"))
    batch = ("e",) if ".experts." in f".{path}" else ()
    said = {"axes": tuple(axes.split()), "contracted": tuple(contracted.split()), "batch": batch, "role": role}
    return nnx.Param(value, **said)


def module(shapes, seed=0):
    """A module of random parameters of these shapes, by their paths."""
    rng, tree = np.random.default_rng(seed), {}
    for path, shape in shapes.items():
        *above, name = path.split(".")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = parameter(path, jnp.asarray(rng.standard_normal(shape), jnp.float32))

    def build(held):
        return Module(**{name: build(x) if isinstance(x, dict) else x for name, x in held.items()})

    return build(tree)


# One parameter of each kind that a Transformer has, under the names that it has there.
SHAPES = {"w": (3, 4), "w_out": (2, 3, 2), "table": (5, 2), "b": (4,), "beta": (4,), "gamma": (4,), "b_q": (2, 3)}
DECAYING = ("w", "w_out", "table")
STEPS = 12


def name_of(path):
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def arrays_of(model):
    return {name_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def gradients_at(step, scale=1.0, shapes=SHAPES):
    """The same invented gradients for whoever asks."""
    rng = np.random.default_rng(100 + step)
    return {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def trajectory(steps=STEPS, gradients=gradients_at, shapes=SHAPES, start=None, **fields):
    """The parameters after each step."""
    config = optimizer_config(**{"learning_rate": 0.05, "schedule": "constant"} | fields)
    optimizer = make_optimizer(config, make_schedule(config, steps))
    model = module(shapes) if start is None else start
    structure, order = jax.tree.structure(model), list(arrays_of(model))
    state, found = optimizer.init(model), []

    @quick_jit
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
    params = {name: torch.nn.Parameter(torch.tensor(value.copy())) for name, value in arrays_of(module(SHAPES)).items()}
    groups = [
        {"params": [params[name] for name in DECAYING], "weight_decay": decay},
        {"params": [params[name] for name in SHAPES if name not in DECAYING], "weight_decay": 0.0},
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


def assert_same_trajectory(found, wanted, rtol=2e-5, atol=2e-6):
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=atol, err_msg=f"{name} after step {i + 1}")


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


@pytest.mark.parity
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sgd_follows_torch(momentum):
    """Momentum would be damped, be Nesterov's, or be there without being asked for."""
    wanted = torch_trajectory(lambda torch, groups: torch.optim.SGD(groups, momentum=momentum), [0.05] * STEPS)
    assert_same_trajectory(trajectory(name="sgd", momentum=momentum), wanted)


@pytest.mark.parametrize("name", by_day(["adamw", "adafactor", "lion", "muon", "sgd"], 0, 1, 3))
def test_decay_skips_biases_and_norms(name):
    """Biases, scales and shifts would be pulled to zero: without a gradient only matrices and tables may shrink."""
    shapes = SHAPES | {f"encoder.layers.{last}": (2, *shape) for last, shape in SHAPES.items()}
    start, none = module(shapes), {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    (end,) = trajectory(1, lambda step: none, start=start, name=name, weight_decay=0.5)
    for path, before in arrays_of(start).items():
        factor = 1 - 0.05 * 0.5 if path.rsplit(".", 1)[-1] in DECAYING else 1.0
        np.testing.assert_allclose(end[path], factor * before, rtol=1e-6, err_msg=path)


# Optimisers by hand ----------------------------------------------------------------------------


def by_hand(direction, steps=STEPS, gradients=gradients_at, shapes=SHAPES, start=None, rate=0.05, decay=0.0):
    """The parameters after each step, in float64.

    `direction(path, g, p, s, t)` is what a parameter goes against in step t, from 1; `s` is its memory, a dictionary.
    """
    params = {path: x.astype(np.float64) for path, x in arrays_of(start or module(shapes)).items()}
    memory, found = {path: {} for path in params}, []
    for t in range(1, steps + 1):
        grads = {path: g.astype(np.float64) for path, g in gradients(t - 1).items()}
        shrink = {path: decay * path.rsplit(".", 1)[-1].startswith(("w", "table")) for path in params}
        against = {path: direction(path, grads[path], p, memory[path], t) for path, p in params.items()}
        params = {path: p - rate * (against[path] + shrink[path] * p) for path, p in params.items()}
        found.append(params)
    return found


def adam_rule(b1=0.9, b2=0.98, eps=1e-9):
    """Kingma & Ba, algorithm 1."""

    def direction(path, g, p, s, t):
        s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
        s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
        return s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)

    return direction


@pytest.mark.parametrize("clip_norm", [0.5, 1e3])
def test_clipping_scales_large_gradients_to_the_norm(clip_norm):
    """One outlier would throw the parameters off, or small gradients would be scaled too."""

    def outlier(step):
        return gradients_at(step, 50.0 if step == 2 else 0.3)

    def clipped(step):
        grads = {name: g.astype(np.float64) for name, g in outlier(step).items()}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        return {name: g * min(1.0, clip_norm / norm) for name, g in grads.items()}

    found = trajectory(gradients=outlier, clip_norm=clip_norm)
    assert_same_trajectory(found, by_hand(adam_rule(), gradients=clipped), 1e-4, 1e-5)


def test_sgd_decays_beside_its_momentum():
    """Decay would go through the momentum, and last longer than asked for."""

    def direction(path, g, p, s, t):
        s["m"] = 0.8 * s.get("m", 0.0) + g
        return s["m"].copy()

    assert_same_trajectory(trajectory(name="sgd", momentum=0.8, weight_decay=0.3), by_hand(direction, decay=0.3))


def test_lion_is_that_of_the_paper():
    """Chen et al., algorithm 2: the betas would change places, or the decay be part of the sign."""

    def direction(path, g, p, s, t, b1=0.7, b2=0.95):
        m = s.get("m", 0.0)
        s["m"] = b2 * m + (1 - b2) * g
        return np.sign(b1 * m + (1 - b1) * g)

    found = trajectory(name="lion", b1=0.7, b2=0.95, weight_decay=0.3)
    assert_same_trajectory(found, by_hand(direction, decay=0.3))


# Adafactor: `first.w` and `second.w` are the layers of `w1`, each a matrix on its own.
LARGE = {
    "encoder.layers.0.feed_forward.w1": (2, 128, 130),
    "encoder.layers.0.feed_forward.w2": (2, 127, 130),
    "encoder.layers.0.attention.w_q": (2, 128, 2, 65),
    "encoder.layers.0.attention.w_o": (2, 2, 65, 128),
    "encoder.layers.norm.gamma": (2, 6),
    "encoder.layers.norm.beta": (2, 6),
    "embedding.table": (131, 128),
    "first.w": (128, 130),
    "second.w": (128, 130),
    "norm.beta": (6,),
}
W1 = "encoder.layers.0.feed_forward.w1"


def large():
    """Layers of different sizes; shifts that start at zero, in one layer or in all."""
    model = module(LARGE)
    params = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}
    params[W1] = params[W1] * jnp.array([1.0, 3.0])[:, None, None]
    params["encoder.layers.norm.beta"] = params["encoder.layers.norm.beta"].at[0].set(0.0)
    params |= {"first.w": params[W1][0], "second.w": params[W1][1], "norm.beta": jnp.zeros(6)}
    return jax.tree_util.tree_map_with_path(lambda path, _: params[name_of(path)], model)


def uneven_gradients(step):
    """Those of the second layer are much larger; those of the third step too, so that its updates are clipped."""
    grads = gradients_at(step, 10.0 if step == 2 else 1.0, LARGE)
    for name in grads:
        if "layers" in name:
            grads[name][1] *= 100
    rows = np.linspace(0.1, 5.0, 128, dtype=np.float32)[:, None]  # else rows and columns would tell nothing
    grads[W1] *= rows
    return grads | {"first.w": grads[W1][0], "second.w": grads[W1][1]}


def adafactor_rule(path, g, p, s, t):
    """Shazeer & Stern, algorithm 4 without its learning rate, algorithm 5; each layer is a parameter."""
    if "layers." in path and not any(beside in path for beside in ("final_norm", "position_bias")):
        layers = [s.setdefault(i, {}) for i in range(len(g))]
        return np.stack([adafactor_rule("", *one, t) for one in zip(g, p, layers, strict=True)])
    if path == "" and g.ndim == 3:  # the projection of a layer: D x N H, or N H x D
        shape = (128, 130) if g.shape[0] == 128 else (130, 128)
        return adafactor_rule("", g.reshape(shape), p.reshape(shape), s, t).reshape(g.shape)
    decay, square = 1 - t**-0.8, g**2 + 1e-30
    if g.ndim == 2 and min(g.shape) >= 128:
        s["r"] = decay * s.get("r", 0.0) + (1 - decay) * square.sum(1)
        s["c"] = decay * s.get("c", 0.0) + (1 - decay) * square.sum(0)
        v = np.outer(s["r"], s["c"]) / s["r"].sum()
    else:
        v = s["v"] = decay * s.get("v", 0.0) + (1 - decay) * square
    u = g / np.sqrt(v)
    return max(1e-3, np.sqrt((p**2).mean())) * u / max(1.0, np.sqrt((u**2).mean()) / 1.0)


@pytest.fixture(scope="module")
def adafactor():
    return trajectory(4, uneven_gradients, start=large(), name="adafactor", weight_decay=0.3)


def test_adafactor_is_that_of_the_paper(adafactor):
    """Its statistics, their decay, the clipping of updates or their size would be another's."""
    wanted = by_hand(adafactor_rule, 4, uneven_gradients, start=large(), decay=0.3)
    assert_same_trajectory(adafactor, wanted, 1e-4, 1e-6)


@pytest.mark.parametrize(("layer", "alone"), [(0, "first.w"), (1, "second.w")])
def test_adafactor_updates_a_layer_like_a_matrix_of_its_own(adafactor, layer, alone):
    """The large gradients or parameters of one layer would change the updates of another."""
    for after in adafactor:
        np.testing.assert_allclose(after[W1][layer], after[alone], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("path", [W1, "encoder.layers.0.attention.w_q", "encoder.layers.0.attention.w_o"])
def test_adafactor_holds_rows_and_columns_of_each_layer(path):
    """Its memory would be that of Adam, which is why one takes it."""
    config = optimizer_config(name="adafactor", learning_rate=0.1, schedule="constant")
    state = jax.eval_shape(make_optimizer(config, make_schedule(config, 1)).init, large())
    held = [leaf for where, leaf in jax.tree_util.tree_leaves_with_path(state) if path in name_of(where)]
    assert 2 * (128 + 130) <= sum(math.prod(x.shape) for x in held) < 2 * (128 + 130) + 9


STACKS = {
    "none": SHAPES,
    "different": {"encoder.layers.0.w": (2, 3, 4), "decoder.layers.0.w": (3, 3, 4), "b": (4,)},
    "beside": {
        "encoder.layers.layers.w": (2, 3, 4),
        "encoder.layers.final_norm.gamma": (4,),
        "encoder.layers.position_bias.table": (5, 2),
    },
}


@pytest.mark.parametrize("stacks", STACKS)
def test_adafactor_takes_any_stacks(stacks):
    """No layers, stacks of different heights, or what lies beside the layers of a stack could not be trained."""
    shapes = STACKS[stacks]
    gradients = functools.partial(gradients_at, shapes=shapes)
    found = trajectory(3, gradients, shapes, name="adafactor")
    assert_same_trajectory(found, by_hand(adafactor_rule, 3, gradients, shapes), 1e-4, 1e-6)


# Muon: D = 5, N = 3, H = 2, F = 4.
STACKED = {
    "encoder.layers.0.attention.w_q": (2, 5, 3, 2),
    "encoder.layers.0.attention.w_k": (2, 5, 1, 2),
    "encoder.layers.0.attention.w_o": (2, 3, 2, 5),
    "encoder.layers.0.attention.b_q": (2, 3, 2),
    "encoder.layers.0.feed_forward.w1": (2, 5, 4),
    "encoder.layers.0.feed_forward.b1": (2, 4),
    "encoder.layers.experts.w_in": (2, 3, 5, 4),
    "encoder.layers.norm.gamma": (2, 5),
    "embedding.table": (7, 5),
    "output.w": (5, 3),
}
MATRICES = {  # fan-in, fan-out
    "encoder.layers.0.attention.w_q": (5, 6),
    "encoder.layers.0.attention.w_k": (5, 2),
    "encoder.layers.0.attention.w_o": (6, 5),
    "encoder.layers.0.feed_forward.w1": (5, 4),
    "encoder.layers.experts.w_in": (5, 4),
}


def stacked_gradients(step):
    return gradients_at(step, 10.0 ** (step % 3), STACKED)


def muon_rule(b1):
    """Jordan et al. with Nesterov's momentum, corrected as by Dozat; scaled as by Liu et al.; Adam for the others.

    Each matrix of a layer and an expert by itself, in a loop.
    """
    adam = adam_rule(b1, 0.95, 1e-3)

    def direction(path, g, p, s, t):
        if path not in MATRICES:
            return adam(path, g, p, s, t)
        s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
        ahead = b1 * s["m"] / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        return np.stack([orthogonal(x) for x in ahead.reshape(-1, *MATRICES[path])]).reshape(g.shape)

    def orthogonal(x):
        scale = 0.2 * max(x.shape) ** 0.5
        x = x / np.linalg.norm(x)
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
        return scale * x

    return direction


@pytest.fixture(scope="module")
def muon():
    hyper = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}
    return trajectory(gradients=stacked_gradients, shapes=STACKED, name="muon", **hyper)


def test_muon_is_that_of_the_papers(muon):
    """The momentum, the iteration, the axes of a projection or who follows Adam would be another's."""
    wanted = by_hand(muon_rule(0.8), gradients=stacked_gradients, shapes=STACKED, decay=0.3)
    assert_same_trajectory(muon, wanted, 1e-3, 1e-4)


@pytest.mark.parametrize("path", MATRICES)
def test_the_updates_of_muon_are_nearly_orthogonal(muon, path):
    """A layer's update would be large in some directions and vanish in others, or depend on its gradient's size."""
    params = [arrays_of(module(STACKED))[path]] + [after[path] for after in muon]
    for before, after in itertools.pairwise(params):
        update = ((before - after) / 0.05 - 0.3 * before).reshape(-1, *MATRICES[path])
        values = np.linalg.svd(update / (0.2 * max(MATRICES[path]) ** 0.5), compute_uv=False)
        assert values.min() > 0.3 and values.max() < 1.5


# Experts: E = 3, D = 5, F = 4 of two layers; and ones whose axis is not the first, of two axes out.
EXPERTS = {"layers.experts.w_in": (2, 3, 5, 4), "experts.w_between": (5, 3, 2, 2), "layers.router.w": (2, 5, 3)}


def of_each_expert(arrays):
    """The matrices of each layer and expert under names of their own, as a loop in NumPy cuts them."""
    found = {}
    for i in range(3):
        for layer in range(2):
            found[f"layer{layer}.{i}.w"] = arrays["layers.experts.w_in"][layer, i]
        found[f"between.{i}.w"] = arrays["experts.w_between"][:, i].reshape(5, 4)
    return found | {f"router{layer}.w": arrays["layers.router.w"][layer] for layer in range(2)}


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_experts_are_updated_like_matrices_of_their_own(name):
    """All experts would be made orthogonal as one matrix, or one's large gradients change the updates of another."""

    def uneven(step):
        grads = gradients_at(step, shapes=EXPERTS)
        grads["layers.experts.w_in"][:, 1] *= 100
        grads["experts.w_between"][:, 2] *= 100
        return grads

    start = module(EXPERTS)
    alone = {path: x.shape for path, x in of_each_expert(arrays_of(start)).items()}
    values = of_each_expert(arrays_of(start))
    apart = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(values[name_of(path)]), module(alone))
    how = {"name": name, "steps": 3, "weight_decay": 0.3}
    together = trajectory(gradients=uneven, start=start, **how)
    wanted = trajectory(gradients=lambda step: of_each_expert(uneven(step)), start=apart, **how)
    assert_same_trajectory([of_each_expert(after) for after in together], wanted)
