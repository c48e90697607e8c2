"""Which parameters decay, learn at another rate or not at all; what a config and a model refuse of each other."""

import functools
import itertools
import json
import math
import re
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import by_day, optimizer_config, quick_jit, tiny_model, unchecked_annotations

from tformer_jax.config import ConfigError
from tformer_jax.training.optimizers import is_frozen, make_optimizer, stop_frozen
from tformer_jax.training.schedules import make_schedule

NAMES = ("adam", "adamw", "adafactor", "lion", "muon", "sgd")
SOME = pytest.mark.parametrize("name", by_day(NAMES, 1, 4))
RATE = 0.125  # a power of 2, as every factor here: nothing is rounded


@functools.cache
def model(seed=0):
    """A stack of layers, a table and a classifier; the other seeds are its gradients."""
    return tiny_model("TextClassifier", seed)


def name_of(path):
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def named(tree):
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def config_of(**fields):
    return optimizer_config(**{"learning_rate": RATE, "schedule": "constant"} | fields)


def optimizer_of(factors=MappingProxyType({}), **fields):
    config = config_of(**fields)
    return make_optimizer(config, make_schedule(config, 10), factors)


def updates_of(gradients, **fields):
    """The first updates, by path."""
    optimizer = optimizer_of(**fields)
    state = optimizer.init(model())
    return named(quick_jit(lambda *given: optimizer.update(*given)[0])(gradients, state, model()))


def zeros():
    return jax.tree.map(jnp.zeros_like, model())


# Tables ----------------------------------------------------------------------------------------

RATES = ((r".*\.layers\..*", 0.5), (r"classifier\.w", 0.0), (r"encoder\..*", 2.0), (".*", 1.0))


def rate_factor(path):
    return 0.5 if "layers" in path else {"classifier.w": 0.0, "encoder.embedding.table": 2.0}.get(path, 1.0)


@pytest.mark.parametrize("name", by_day(["adam", "adafactor", "muon"], 0))
def test_the_learning_rate_table_multiplies_updates(name):
    """A parameter would learn at another's rate, or a factor be lost in what the optimiser makes of gradients."""
    plain = updates_of(model(1), name=name)
    found = updates_of(model(1), name=name, learning_rate_table=RATES)
    for path, update in plain.items():
        np.testing.assert_array_equal(found[path], rate_factor(path) * update, err_msg=path)


def test_the_learning_rate_table_multiplies_decay():
    """A parameter that learns slowly would decay at full speed, and one that does not learn vanish."""
    found = updates_of(zeros(), name="adamw", weight_decay=0.5, learning_rate_table=RATES)
    for path, before in named(model()).items():
        decays = re.fullmatch(r"w\w*|\w*table", path.rsplit(".", 1)[-1])
        wanted = -RATE * 0.5 * rate_factor(path) * before if decays else jnp.zeros_like(before)
        np.testing.assert_array_equal(found[path], wanted, err_msg=path)


FACTORS = {"hidden": 0.25, "bias": 0.5}


@pytest.mark.parametrize(
    ("name", "freeze"), by_day(itertools.product(("adamw", "lion"), ((), (r"classifier\.w",))), 1), ids=str
)
def test_the_factors_of_a_parametrization_multiply_no_decay(name, freeze):
    """Wide models would hardly decay, or factors be lost in what the optimiser makes of gradients, or in a table."""
    how = {"name": name, "learning_rate_table": RATES, "freeze": freeze}
    decaying = how | {"weight_decay": 0.5}
    found = updates_of(model(1), factors=FACTORS, **decaying)
    plain, decay = updates_of(model(1), **how), updates_of(zeros(), **decaying)
    for path, update in found.items():
        last = path.split(".")[-1]
        factor = 0.5 if last[0] == "b" else 0.25 if "layers" in path and last[0] == "w" else 1.0
        np.testing.assert_allclose(update, factor * plain[path] + decay[path], rtol=1e-5, atol=1e-8, err_msg=path)


def test_the_weight_decay_table_multiplies_decay():
    """Other parameters than those asked for would decay, or by another factor."""
    table = ((r".*\.b_\w", 2.0), (r"classifier\.w", 0.5), (r".*\.layers\..*", 1.0), (".*", 0.0))
    found = updates_of(zeros(), name="adamw", weight_decay=0.5, weight_decay_table=table)
    for path, before in named(model()).items():
        factor = 2.0 if ".b_" in path else 1.0 if "layers" in path else 0.5 if path == "classifier.w" else 0.0
        np.testing.assert_array_equal(found[path], -RATE * 0.5 * factor * before, err_msg=path)


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
    optimizer = optimizer_of(name="adamw", weight_decay=1.0)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), model)
    updates, _ = quick_jit(lambda zeros, model: optimizer.update(zeros, optimizer.init(model), model))(zeros, model)
    shrinks = {path: bool(np.any(leaf)) for path, leaf in named(updates).items()}
    last = {name: name.rsplit(".", 1)[-1] for name in shrinks}
    matrices = {"w", "w1", "w2", "w_gate", "w_q", "w_k", "w_v", "w_o", "table", "position_table"}
    others = {"gamma", "beta", "b", "b1", "b2", "b_gate", "b_q", "b_k", "b_v", "b_o", "class_token"}
    assert set(last.values()) <= matrices | others  # else: say here what the new one is
    assert shrinks == {name: last[name] in matrices for name in shrinks}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("Transformer", {"num_decoder_layers": 3}),
        ("TextClassifier", {"norm_position": "pre", "positions": "relative"}),
        ("MaskedLM", {"norm_position": "pre"}),
        ("VisionTransformer", {"norm_position": "pre"}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
@pytest.mark.parametrize("name", by_day(["adafactor", "muon"], 0))
def test_what_knows_layers_takes_every_model(name, model, fields):
    """A model whose stack has other paths, or two of them, would be refused in the first step."""
    model = tiny_model(model, **fields)
    optimizer = optimizer_of(name=name)
    state = jax.eval_shape(optimizer.init, model)
    updates, after = jax.eval_shape(optimizer.update, model, state, model)
    for got, wanted in ((updates, model), (after, state)):
        assert [x.shape for x in jax.tree.leaves(got)] == [x.shape for x in jax.tree.leaves(wanted)]


# Freezing --------------------------------------------------------------------------------------

FREEZE = (r".*\.attention\.w_\w", r"encoder\.embedding\..*")


def stays(path):
    """Whether `FREEZE` has the parameter, without regular expressions."""
    return "attention.w_" in path or path.startswith("encoder.embedding.")


@functools.cache
def trained(name, freeze):
    """The parameters after three steps, with decay where there is one."""
    optimizer = optimizer_of(name=name, freeze=freeze, weight_decay=0.0 if name == "adam" else 0.5)

    @quick_jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = model(), optimizer.init(model())
    for seed in (1, 2, 3):
        params, state = step(params, state, model(seed))
    return named(params)


@SOME
def test_frozen_parameters_keep_every_bit(name):
    """Decay, or an update that is not quite zero, would change them."""
    after = trained(name, FREEZE)
    for path, before in named(model()).items():
        assert np.array_equal(after[path], before) == stays(path), path


@SOME
def test_freezing_some_leaves_the_others_as_they_were(name):
    """The others would lose their own rule or their place in the state."""
    without = trained(name, ())
    for path, after in trained(name, FREEZE).items():
        if not stays(path):
            np.testing.assert_allclose(after, without[path], rtol=1e-6, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_have_no_state(name):
    """Most of the memory that freezing is for would be held all the same."""
    state = named(jax.eval_shape(optimizer_of(name=name, freeze=FREEZE).init, model()))
    held = {path for path in named(model()) if any(f".{path}." in f".{leaf}." for leaf in state)}
    assert held == {path for path in named(model()) if not stays(path)}


@pytest.mark.parametrize("part", ["layers", "classifier"])
@pytest.mark.parametrize("name", NAMES)
def test_one_part_can_be_trained_alone(name, part):
    """The optimiser would stumble over a kind of parameters of which none is left."""
    optimizer = optimizer_of(name=name, freeze=(rf"(?!.*{part}\.).*",))
    state = jax.eval_shape(optimizer.init, model())
    updates, after = jax.eval_shape(optimizer.update, model(), state, model())
    assert [x.shape for x in jax.tree.leaves(updates)] == [x.shape for x in jax.tree.leaves(model())]
    assert [x.shape for x in jax.tree.leaves(after)] == [x.shape for x in jax.tree.leaves(state)]


def test_frozen_parameters_have_no_gradient():
    """Their gradients would be computed, and count in the norm that is reported and clipped."""

    def loss(params):
        return sum((x**2).sum() for x in jax.tree.leaves(stop_frozen(config_of(freeze=FREEZE), params)))

    gradients = named(quick_jit(jax.grad(loss))(model()))
    for path, before in named(model()).items():
        np.testing.assert_allclose(gradients[path], 0.0 * before if stays(path) else 2 * before, err_msg=path)


def test_stopping_gradients_keeps_values():
    """The model would compute something else as soon as a part of it is frozen."""
    stopped = named(stop_frozen(config_of(freeze=FREEZE), model()))
    assert all(np.array_equal(stopped[path], before) for path, before in named(model()).items())


def test_the_norm_that_is_clipped_is_that_of_trained_parameters():
    """Large gradients of what does not learn would shrink the steps of what does."""
    gradients = jax.tree_util.tree_map_with_path(lambda path, x: 1e6 * x if stays(name_of(path)) else x, model(1))
    found = updates_of(gradients, name="sgd", momentum=0.0, freeze=FREEZE, clip_norm=0.5)
    left = {path: np.asarray(g, np.float64) for path, g in named(model(1)).items() if not stays(path)}
    norm = np.sqrt(sum((g**2).sum() for g in left.values()))
    for path, g in left.items():
        np.testing.assert_allclose(found[path], -RATE * 0.5 / norm * g, rtol=1e-5, atol=1e-8, err_msg=path)


@pytest.mark.parametrize(("path", "frozen"), [("output.w", True), ("output.w1", False), ("my.output.w", False)])
def test_what_is_frozen_is_matched_as_a_whole(path, frozen):
    """A pattern would freeze whatever contains it."""
    assert is_frozen(config_of(freeze=(r"nothing", r"output\.w")), path) == frozen


# What a model refuses --------------------------------------------------------------------------

ANY = (".*", 1.0)
OVER = (r"encoder\..*", 0.5)


@pytest.mark.parametrize("field", ["weight_decay_table", "learning_rate_table"])
@pytest.mark.parametrize(
    ("table", "named"),
    [
        ((("decoder.*", 0.5), ANY), "decoder.*"),
        ((("table", 0.5), ANY), "table"),
        ((OVER, (r"encoder\.embedding\.table", 2.0), ANY), r"encoder\.embedding\.table"),
        ((ANY, OVER), OVER[0]),
        ((OVER, (r"classifier\..*", 1.0), OVER), OVER[0]),
    ],
    ids=["no such path", "no whole path", "shadowed", "below all", "twice"],
)
def test_a_row_that_decides_nothing_is_refused(field, table, named):
    """A row with a misspelt path, or below a wider one, would silently do nothing."""
    wanted = rf"optimizer\.{field}: .*{re.escape(repr(named))}"
    with pytest.raises(ConfigError, match=wanted):
        jax.eval_shape(optimizer_of(name="adamw", weight_decay=0.1, **{field: table}).init, model())


@pytest.mark.parametrize("field", ["weight_decay_table", "learning_rate_table"])
def test_a_parameter_without_a_row_is_as_usual(field):
    """A table of exceptions would have to say the rule too, or what it leaves out learn or decay as nobody said."""
    usual = updates_of(model(1), name="adamw", weight_decay=0.5)
    rule = (r".*\.(w\w*|table)|classifier\.w", 1.0), (".*", 1.0 if field == "learning_rate_table" else 0.0)
    for table, other in (((OVER,), (OVER, *rule)), ((), rule)):
        found, wanted = (updates_of(model(1), name="adamw", weight_decay=0.5, **{field: t}) for t in (table, other))
        for path, update in wanted.items():
            np.testing.assert_array_equal(found[path], update, err_msg=path)
        assert (table == ()) == all(np.array_equal(found[path], usual[path]) for path in usual)


def test_a_last_row_for_all_may_find_none_left():
    """The usual last row would have to be deleted where the others say everything."""
    table = (OVER, (r"classifier\..*", 1.0), ANY)
    jax.eval_shape(optimizer_of(learning_rate_table=table).init, model())


@pytest.mark.parametrize("pattern", [r"decoder\..*", "table", r"encoder\.embedding"])
def test_a_pattern_that_freezes_nothing_is_refused(pattern):
    """What should stay would be trained, because its path is misspelt or not whole."""
    with pytest.raises(ConfigError, match=rf"optimizer\.freeze: .*{re.escape(repr(pattern))}"):
        jax.eval_shape(optimizer_of(freeze=(*FREEZE, pattern)).init, model())


@pytest.mark.parametrize("freeze", [(".*",), (r"encoder\..*", r"classifier\..*")], ids=["one", "several"])
def test_freezing_everything_is_refused(freeze):
    """A run would go on for days and learn nothing."""
    with pytest.raises(ConfigError, match=r"optimizer\.freeze leaves no parameter to train"):
        jax.eval_shape(optimizer_of(freeze=freeze).init, model())


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adamv"}, r"optimizer\.name .*did you mean 'adam"),
        ({"schedule": "cosin"}, r"optimizer\.schedule .*did you mean 'cosine'"),
        ({"schedule": "cosine", "warmup_steps": -1}, r"optimizer\.warmup_steps must not be negative, got -1"),
        ({"schedule": "rsqrt"}, r"optimizer\.schedule='rsqrt' .*warmup_steps must be positive"),
        ({"learning_rate": 0.0, "schedule": "cosine"}, r"optimizer\.learning_rate must be positive and finite, got 0"),
        ({"clip_norm": 0.0, "schedule": "cosine"}, r"optimizer\.clip_norm must be positive and finite, got 0"),
        ({"b1": 1.0, "schedule": "cosine"}, r"optimizer\.b1 must be in \[0, 1\), got 1"),
        ({"b2": 1.5, "schedule": "cosine"}, r"optimizer\.b2 must be in \[0, 1\), got 1.5"),
        ({"eps": -1.0, "schedule": "cosine"}, r"optimizer\.eps must .*got -1"),
        (
            {"learning_rate": math.nan, "schedule": "cosine"},
            r"optimizer\.learning_rate must be positive and finite, got nan",
        ),
        ({"clip_norm": math.inf, "schedule": "cosine"}, r"optimizer\.clip_norm must be positive and finite, got inf"),
        (
            {"name": "adamw", "weight_decay": -0.1, "schedule": "cosine"},
            r"optimizer\.weight_decay must be finite and not negative",
        ),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """A wrong value would be ignored, or end in NaN after the first step."""
    with pytest.raises(ConfigError, match=message):
        optimizer_config(**{"learning_rate": 0.1} | fields)


@pytest.mark.parametrize("field", ["weight_decay_table", "learning_rate_table"])
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[.*, 1]", r"must be a tuple of pairs \(regular expression, value\), got '\[\.\*, 1\]'"),
        ({".*": 1.0}, r"must be a tuple of pairs"),
        (None, r"must be a tuple of pairs .*got None"),
        ((".*", 1.0), r"must be a tuple of pairs"),
        (("ab",), r"must be a tuple of pairs"),
        (((".*",),), r"must be a tuple of pairs"),
        (((".*", 1.0, 2.0),), r"must be a tuple of pairs"),
        ((("(", 0.5), ANY), r": '\(' is no regular expression"),
        (((1, 0.5), ANY), r": 1 is no regular expression"),
        ((("w.*", -0.5), ANY), r": the value of 'w\.\*' must not be negative, got -0\.5"),
        ((("w.*", math.nan), ANY), r": the value of 'w\.\*' must be finite, got nan"),
        ((("w.*", math.inf), ANY), r": the value of 'w\.\*' must be finite, got inf"),
        ((("w.*", "0.5"), ANY), r": the value of 'w\.\*' must be a number, got '0\.5'"),
        ((("w.*", True), ANY), r": the value of 'w\.\*' must be a number, got True"),
        ((("w.*", None), ANY), r": the value of 'w\.\*' must be a number, got None"),
    ],
    ids=repr,
)
def test_a_table_that_cannot_be_names_the_field(field, table, message):
    """A mistake in a table would come out as an error in JAX, or as parameters that grow instead of decaying."""
    with (
        unchecked_annotations(),
        pytest.raises(ConfigError, match=rf"^optimizer\.{field}:? ?{message.removeprefix(': ')}"),
    ):
        config_of(**{field: table})


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("encoder.*", r" must be a tuple of regular expressions, got 'encoder\.\*'"),
        (None, r" must be a tuple of regular expressions, got None"),
        (("encoder.*", "["), r": '\[' is no regular expression"),
        ((7,), r": 7 is no regular expression"),
    ],
)
def test_a_list_of_the_frozen_that_cannot_be_names_the_field(freeze, message):
    """The letters of a string would be taken for patterns, or a mistake show only in the first step."""
    with unchecked_annotations(), pytest.raises(ConfigError, match=rf"^optimizer\.freeze{message}"):
        config_of(freeze=freeze)


UNREAD = [
    ("adafactor", "b1", "name='adamw' or 'adam' or 'lion' or 'muon'"),
    ("sgd", "b1", "name='adamw' or 'adam' or 'lion' or 'muon'"),
    ("sgd", "b2", "name='adamw' or 'adam' or 'lion' or 'muon'"),
    ("lion", "eps", "name='adamw' or 'adam' or 'muon'"),
    ("adam", "momentum", "name='sgd'"),
]


@pytest.mark.parametrize(("name", "field", "readers"), UNREAD)
def test_a_field_that_the_optimizer_does_not_have_is_refused(name, field, readers):
    """A sweep over a field without an effect would look as if it made no difference."""
    message = rf"optimizer has no field '{field}', which goes with {readers}; this is name='{name}'"
    with pytest.raises(ConfigError, match=message):
        config_of(name=name, **{field: 0.5})


def test_adam_does_not_decay():
    """Its decay is AdamW's, or none: nobody would know which."""
    with pytest.raises(
        ConfigError, match=r"optimizer\.weight_decay must be 0 with name='adam', got 0\.5; take name='ad"
    ):
        config_of(name="adam", weight_decay=0.5)


def test_lists_of_json_do_as_well_as_tuples():
    """A config file, which has lists only, would be refused or mean something else."""
    fields = {"name": "sgd", "freeze": FREEZE, "learning_rate_table": RATES, "weight_decay": 0.5}
    fields["weight_decay_table"] = ((".*table", 2.0), (".*", 1.0))
    with unchecked_annotations():
        wanted, found = (updates_of(model(1), **given) for given in (fields, json.loads(json.dumps(fields))))
    for path, update in wanted.items():
        np.testing.assert_array_equal(found[path], update, err_msg=path)
