"""Maximal update parametrization: its rules, and what they are for, that what is learned has one size at any width."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import nnx
from support import (
    as_text,
    assert_close,
    by_day,
    equations,
    fill,
    normal,
    optimizer_config,
    quick_jit,
    tiny_config,
    tiny_model,
)

import tformer_jax.functional as F
from tformer_jax import models, nn
from tformer_jax.config import ConfigError
from tformer_jax.nn.parameters import parameters
from tformer_jax.nn.parametrization import attention_scale, check_optimizer, learning_rate_factors
from tformer_jax.tasks import TASKS, loss_inputs
from tformer_jax.training.optimizers import make_optimizer
from tformer_jax.training.schedules import make_schedule

D, M = 8, 4  # of the tiny models here
MUP = dict(mup_base_width=D // M)
VARIANTS = {
    "Transformer": dict(share_embeddings=False, tie_output=False, positions="learned"),
    "CausalLM": dict(tie_output=False, positions="relative", gated=True, norm_position="sandwich", qk_norm=True),
    "MaskedLM": dict(tie_output=False, positions="learned", num_token_types=2, pooler=True, embedding_norm=True),
    "TextClassifier": dict(positions="relative", head_dim=4, pooler=True),
    "VisionTransformer": dict(positions="learned"),
}
EACH = pytest.mark.parametrize("name", VARIANTS)
SOME = pytest.mark.parametrize("name", by_day(VARIANTS, 1))

TOKENS, OTHERS = jnp.array([[4, 8, 2, 6, 11], [9, 2, 12, 7, 1]]), jnp.array([[1, 5, 0], [3, 10, 10]])
IMAGES, SEEN = normal(0, 2, 8, 8, 3), ("attention_weights", "residual")
CALLS = {
    "Transformer": lambda model: model(TOKENS, OTHERS, capture=(*SEEN, "cross_attention_weights")),
    "CausalLM": lambda model: model(TOKENS, capture=SEEN),
    "MaskedLM": lambda model: model(TOKENS, token_types=TOKENS % 2, capture=(*SEEN, "pooled")),
    "TextClassifier": lambda model: model(TOKENS),
    "VisionTransformer": lambda model: model(IMAGES, capture=SEEN),
}


def constructor(name, config):
    return lambda key: getattr(models, name)(config, rngs=nnx.Rngs(key))


def path_of(path):
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


@EACH
@pytest.mark.parametrize("init_std", [None, 0.3])
def test_initial_values_of_16_bits_are_drawn_in_float32(name, init_std):
    """A normal draw in bfloat16 has 128 values, none beyond 2.9 deviations, and a mean of -0.01 of them."""
    policy = "params=bfloat16,compute=bfloat16"
    config = tiny_config(name, **VARIANTS[name], **MUP, init_std=init_std, precision=policy)
    program = jax.make_jaxpr(constructor(name, config))(jax.random.key(0))
    assert {x.aval.dtype.name for x in program.jaxpr.outvars} == {"bfloat16"}
    made = [e.primitive.name for e in equations(program) if e.outvars[0].aval.dtype == jnp.bfloat16]
    assert set(made) == {"convert_element_type", "broadcast_in_dim"}  # rounded from float32, or zeros and ones


def named(tree):
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


# Each parameter --------------------------------------------------------------------------------

# By the last two parts of a path; vectors by the last.
KINDS = {
    "hidden": "attention.w_q attention.w_k attention.w_v attention.w_o cross_attention.w_q cross_attention.w_k "
    "cross_attention.w_v cross_attention.w_o feed_forward.w_gate feed_forward.w1 feed_forward.w2 transform.w pooler.w",
    "output": "output.w classifier.w",
    "patches": "patch_embedding.w",
    "table": "embedding.table source_embedding.table target_embedding.table token_types.table scheme.table "
    "positions.table",
    "bias table": "position_bias.table",
    "vector": "gamma beta b b1 b2 b_gate b_q b_k b_v b_o class_token",
}


def kind_of(path):
    """Of a parameter, from the table above; a new one has to be put there."""
    ends = ".".join(path.split(".")[-2:]), path.split(".")[-1]
    (kind,) = (kind for kind, listed in KINDS.items() if set(ends) & set(listed.split()))
    return kind


@EACH
def test_hidden_matrices_alone_learn_by_the_width(name):
    """A parameter is taken for another kind."""
    config = tiny_config(name, **VARIANTS[name] | MUP)
    abstract, factors = jax.eval_shape(constructor(name, config), jax.random.key(0)), learning_rate_factors(config)
    found = parameters(abstract)
    for path in named(abstract):
        assert (path, factors.get(found[path].role, 1.0)) == (path, 1 / M if kind_of(path) == "hidden" else 1.0)


def test_every_kind_is_that_of_a_parameter():
    """The table of this test has names that no model has any more."""
    found = set()
    for name, fields in VARIANTS.items():
        abstract = jax.eval_shape(constructor(name, tiny_config(name, **fields)), jax.random.key(0))
        found |= {end for path in named(abstract) for end in (path.split(".")[-1], ".".join(path.split(".")[-2:]))}
    assert set(" ".join(KINDS.values()).split()) <= found


def glorot(fan_in, fan_out):
    return math.sqrt(6 / (fan_in + fan_out))


# How many times larger than under "standard" it starts: limits of uniform matrices, deviations of normal tables.
V, CLASSES, PIXELS, BUCKETS, HEADS = 13, 3, 4 * 4 * 3, 32, 2
STARTS = {
    "hidden": 1.0,
    "output.w": glorot(D / M, V) / glorot(D, V),
    "classifier.w": glorot(D / M, CLASSES) / glorot(D, CLASSES),
    "patches": glorot(PIXELS, D / M) / glorot(PIXELS, D),
    "table": (D / M) ** -0.5 / D**-0.5,
    "bias table": 1.0,
    "bias table of more heads": glorot(BUCKETS, HEADS / M) / glorot(BUCKETS, HEADS),
    "vector": 1.0,
}


@pytest.mark.parametrize(
    ("name", "init_std"),
    by_day([*((name, None) for name in VARIANTS), ("CausalLM", 0.02), ("VisionTransformer", 0.02)], 1),
)
def test_initial_sizes_are_those_of_the_base_width_but_of_hidden_matrices(name, init_std):
    """Something starts larger or smaller the wider the model is, or a hidden matrix does not become smaller."""
    fields = VARIANTS[name] | dict(init_std=init_std)
    plain, wide = (constructor(name, tiny_config(name, **fields | changes)) for changes in ({}, MUP))
    plain, wide = map(named, quick_jit(lambda key: (plain(key), wide(key)))(jax.random.key(0)))
    for path, x in plain.items():
        kind = kind_of(path)
        if init_std is not None:
            wanted = M**-0.5 if kind == "hidden" else 1.0
        else:
            more = " of more heads" if kind == "bias table" and "head_dim" in fields else ""
            wanted = STARTS[path if kind == "output" else kind + more]
        np.testing.assert_allclose(wide[path], wanted * np.asarray(x, np.float64), rtol=1e-5, err_msg=path)


E = 6  # of embeddings
MAPS = {  # how many times larger they start; they learn as fast
    "positions.projection.w": glorot(E, D / M) / glorot(E, D),
    "output.projection.w": glorot(D / M, E) / glorot(D, E),
    "transform.w": glorot(D / M, E) / glorot(D, E),
    "embedding.table": 1.0,
    "output.w": 1.0,
}


@pytest.mark.parametrize("name", ["CausalLM", "MaskedLM"])
def test_a_width_of_embeddings_does_not_grow(name):
    """A table of a width that is always the same starts smaller, or a map that one of its sides grows learns more slowly."""
    fields = dict(embedding_width=E, tie_output=False)
    plain, wide = (tiny_config(name, **fields | changes) for changes in ({}, MUP))
    plain, made = (quick_jit(constructor(name, config))(jax.random.key(0)) for config in (plain, wide))
    found, infos, factors = named(made), parameters(made), learning_rate_factors(wide)
    for path, x in named(plain).items():
        if (of := path.removeprefix("encoder.")) in MAPS:
            np.testing.assert_allclose(found[path], MAPS[of] * np.asarray(x, np.float64), rtol=1e-5, err_msg=path)
            assert factors.get(infos[path].role, 1.0) == 1.0


# The forward pass ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [64, 256, 320])
@pytest.mark.parametrize("head_dim", [None, 16])
def test_scores_are_divided_by_the_width_of_heads_that_get_wider(width, head_dim):
    """The scale is another at base width than 1 / √H, falls as 1 / √H with the width, or where H is always the same."""
    heads = 4 if head_dim is None else width // head_dim
    config = tiny_config(d_model=width, num_heads=heads, head_dim=head_dim, mup_base_width=64)
    wanted = 1 / math.sqrt(16) if head_dim else math.sqrt(64 / 4) / (width / 4)
    np.testing.assert_allclose(attention_scale(config), wanted, rtol=1e-14)


def of_standard(config, path, x):
    """The parameter with which a standard model computes the same."""
    end, kind = path.split(".")[-1], kind_of(path)
    queries = "q_norm.gamma" in path if config.attention.qk_norm else end in ("w_q", "b_q")
    if queries and config.attention.head_dim is None:
        return x / math.sqrt(M)
    if kind == "table" and path != "positions.table":
        return x / math.sqrt(M)  # it is scaled by √D
    return x / M if kind == "output" else x


@SOME
def test_the_forward_pass_is_that_of_a_standard_model_of_other_parameters(name):
    """A scale of embeddings, scores (captured ones too) or logits is missing, is there twice, or a bias has it."""
    model = tiny_model(name, **VARIANTS[name] | MUP)
    plain = jax.eval_shape(constructor(name, tiny_config(name, **VARIANTS[name])), jax.random.key(0))
    leaves = [of_standard(model.config, path, x) for path, x in named(model).items()]
    plain = jax.tree.unflatten(jax.tree.structure(plain), leaves)
    got, wanted = (jax.tree.leaves(quick_jit(CALLS[name])(m)) for m in (model, plain))
    for a, b in zip(got, wanted, strict=True):
        assert_close(a, b, 1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_divided_by_m_without_their_bias(tied, bias):
    """Logits of wider models are larger, a tied table counts as an input alone, or the bias is divided."""
    config = tiny_config(tie_output=tied, **MUP | {"output.bias": bias})
    embedding = fill(lambda: nn.Embedding(V, config, rngs=nnx.Rngs(0)), 1)
    output = fill(lambda: nn.Output(config, rngs=nnx.Rngs(0)), 2)
    hidden = normal(0, 2, 5, D)
    w = oracles.f64(embedding.table[...]).T if tied else oracles.f64(output.w[...])
    wanted = oracles.f64(hidden) @ w / M + (oracles.f64(output.b[...]) if bias else 0)
    assert_close(output(hidden, embedding), wanted, 1e-5)


@pytest.mark.parametrize(
    ("name", "fields"),
    by_day([
        ("CausalLM", dict(output_softcap=0.5)),
        ("CausalLM", dict(tie_output=False)),
        ("Transformer", {}),
        ("MaskedLM", {}),
        ("CausalLM", dict(embedding_width=6)),
    ], 3),
    ids=["soft cap", "untied", "encoder-decoder", "bias", "narrow"],
)  # fmt: skip
def test_the_fused_loss_is_the_plain_one(name, fields):
    """The fused loss or its gradient is of logits that are not divided, or twice, or with their bias."""
    model = tiny_model(name, **fields | MUP)
    hidden, targets, weights = normal(0, 2, 5, model.config.token_axis[1]), TOKENS, normal(1, 2, 5) ** 2

    def losses(model, hidden):
        configs = [TASKS["masked_lm"].Config(fused_loss=fused) for fused in (True, False)]
        inputs = [loss_inputs(model, hidden, config) for config in configs]
        return jnp.stack([F.masked_lm_loss(scores, targets, weights, **how) for scores, how in inputs])

    values, gradients = quick_jit(lambda *given: (losses(*given), jax.jacrev(losses, (0, 1))(*given)))(model, hidden)
    assert_close(values[0], values[1], 1e-6)
    for path, x in named(gradients).items():
        assert_close(x[0], x[1], 1e-6, path)


def test_dividing_changes_no_dtype():
    """16-bit weights of the output come out in 32 bits: the fused loss would make a copy of twice the size."""
    dtype = "bfloat16"
    config = tiny_config("CausalLM", precision=f"params={dtype},compute={dtype},output={dtype}", **MUP)
    model = jax.eval_shape(constructor("CausalLM", config), jax.random.key(0))
    weights, _ = jax.eval_shape(lambda model: model.output_weights(), model)
    assert weights.dtype == jax.eval_shape(lambda model: model(TOKENS), model).dtype == dtype


# At the base width -----------------------------------------------------------------------------


def training_program(name, **changes):
    """Initial parameters, what the model gives, and what a step with decay makes of them, as a program's text."""
    config = tiny_config(name, **VARIANTS[name] | changes)
    optimizer = optimizer_config(name="adamw", learning_rate=0.1, schedule="constant", weight_decay=0.1)
    factors = learning_rate_factors(config) if changes else {}  # the standard program has no place for them
    optimizer = make_optimizer(optimizer, make_schedule(optimizer, 2), factors)

    def squares(model):
        found = CALLS[name](model)
        return sum(jnp.square(x).sum() for x in jax.tree.leaves(found)), found

    def train(key):
        model = constructor(name, config)(key)
        state = optimizer.init(model)
        gradients, found = jax.grad(squares, has_aux=True)(model)
        return model, found, optimizer.update(gradients, state, model)

    return as_text(jax.make_jaxpr(train)(jax.random.key(0)))


@SOME
def test_at_the_base_width_it_is_the_standard_program(name):
    """A model at base width starts, computes or learns otherwise than the one that its learning rate was found on."""
    standard = training_program(name)
    assert training_program(name, mup_base_width=D) == standard
    assert training_program(name, **MUP) != standard


# Optimisers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adafactor", "muon", "sgd"])
def test_an_optimizer_that_needs_other_factors_is_refused(name):
    """Its updates do not have the size of the learning rate: the factors would be those of another rule."""
    rate = {"learning_rate": 0.1, "schedule": "constant"}
    with pytest.raises(ConfigError, match=rf"mup_base_width must be one of \['adam', 'adamw', 'lion'\], got '{name}'"):
        check_optimizer(tiny_config(**MUP), optimizer_config(name=name, **rate))
    check_optimizer(tiny_config(), optimizer_config(name=name, **rate))
    for other in ("adam", "adamw", "lion"):
        check_optimizer(tiny_config(**MUP), optimizer_config(name=other, **rate))


# Coordinates -----------------------------------------------------------------------------------

BASE, STEPS, RATE = 64, 4, 0.01
CASES = {
    "wider heads, tied": (dict(num_heads=4), (64, 128, 256, 512, 1024)),
    "more heads, untied": (dict(head_dim=16, tie_output=False, init_std=0.02, positions="learned"), (64, 256, 1024)),
    "narrow embeddings": (dict(num_heads=4, embedding_width=16), (64, 256, 1024)),
}


def sizes(width, fields):
    """Mean absolute values at the start, and of what some steps of Adam change, by what they are of."""
    shape = dict(vocab_size=32, max_length=16, d_model=width, d_ff=4 * width, num_heads=width // 16, num_layers=2)
    config = tiny_config("CausalLM", **shape | dict(norm_position="pre") | fields)
    optimizer = optimizer_config(learning_rate=RATE, schedule="constant", eps=1e-12)
    optimizer = make_optimizer(optimizer, make_schedule(optimizer, STEPS), learning_rate_factors(config))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (4, 16)))

    def loss(model):
        logits, captured = model(tokens, capture=SEEN)
        first, second = captured["residual"]
        seen = {"layer 1": first, "layer 2": second, "logits": logits, "weights": captured["attention_weights"]}
        return F.causal_lm_loss(logits, tokens), seen

    def step(carry, _):
        model, state = carry
        gradients, seen = jax.grad(loss, has_aux=True)(model)
        updates, state = optimizer.update(gradients, state, model)
        return (optax.apply_updates(model, updates), state), seen

    @quick_jit
    def run(key):
        model = models.CausalLM(config, rngs=nnx.Rngs(key))
        _, seen = jax.lax.scan(step, (model, optimizer.init(model)), length=STEPS + 1)
        start = {f"start of {name}": jnp.abs(x[0]).mean() for name, x in seen.items()}
        return start | {f"change of {name}": jnp.abs(x[-1] - x[0]).mean() for name, x in seen.items()}

    return run(jax.random.key(0))


def slopes(by_width):
    """d log size / d log width."""
    logs = {width: {name: math.log(x) for name, x in found.items()} for width, found in by_width.items()}
    at = np.log(list(logs))
    return {name: np.polyfit(at, [found[name] for found in logs.values()], 1)[0] for name in logs[BASE]}


@pytest.mark.slow
@pytest.mark.parametrize(("fields", "widths"), CASES.values(), ids=CASES)
def test_what_is_learned_has_one_size_at_every_width(fields, widths, record_property):
    """One learning rate changes a wider model more, until it diverges, or less, until parts of it do not learn."""
    mup = {width: sizes(width, fields | dict(mup_base_width=BASE)) for width in widths}
    found = slopes(mup)
    layers = [f"{part} of layer {i}" for part in ("start", "change") for i in (1, 2)]
    assert max(abs(found[name]) for name in layers) < 0.1
    # These have random products in them, which shrink: of the change of logits, a small part.
    assert abs(found["change of logits"]) < 0.15
    assert max(found[name] for name in ("start of logits", "change of weights")) < 0.05
    shown = ", ".join(f"{name} {slope:+.2f}" for name, slope in found.items() if "change" in name)
    record_property("summary", f"slopes by width: {shown}")
    # It could have been otherwise.
    standard = slopes({BASE: mup[BASE], 4 * BASE: sizes(4 * BASE, fields)})
    assert min(standard[f"change of {name}"] for name in ("layer 1", "layer 2", "logits")) > 0.4
