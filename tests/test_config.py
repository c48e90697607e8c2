"""Every field of a model's config is checked, and every field changes the program."""

import dataclasses
import functools
import pickle
import re
from types import NoneType
from typing import Literal, Optional, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr
from support import as_text, by_day, tiny_config

import tformer_jax.functional as F
from tformer_jax import models, nn
from tformer_jax.config import (
    COUNT,
    FUNCTION,
    POSITIVE,
    Component,
    ConfigError,
    Precision,
    build,
    check_choice,
    component_of,
    field,
    fields_of,
    hints_of,
    leaves,
    merged,
    nearest,
    one_of,
    to_dict,
)
from tformer_jax.presets import PRESETS
from tformer_jax.registry import Registry

# No silent knobs -------------------------------------------------------------------------------

MODELS = ("CausalLM", "Transformer", "MaskedLM", "TextClassifier", "VisionTransformer")
CONFIGS = {name: getattr(models, name).Config for name in MODELS}
# Of a component that models choose by name: what it is called there, and those that there are.
FAMILIES = {
    "attention": nn.ATTENTIONS, "positions": nn.POSITIONS, "norm": nn.NORMS, "feed_forward": nn.FEED_FORWARDS,
    "layer": nn.LAYERS,
}  # fmt: skip

# For each field: another valid value, and what else has to be so for it to be valid.
LINEAR = {"positions.scaling": "linear", "positions.factor": 2.0}
LLAMA3 = {"positions.scaling": "llama3", "positions.factor": 2.0, "positions.trained_length": 16}
YARN = LLAMA3 | {"positions.scaling": "yarn", "positions.trained_length": 6000}  # its last pair lies between two
LONGROPE = {"positions.scaling": "longrope", "positions.trained_length": 16}
LONGROPE |= {"positions.short_divisors": (1.0, 2.0), "positions.long_divisors": (2.0, 3.0)}
QK_NORM = {"attention.qk_norm": True}
FLIPS = {
    "d_model": (12, {}),
    "num_layers": (3, {"num_decoder_layers": 2}),  # or it would be enough that the decoder grows
    "pattern": (({"attention": {"window": 2}}, {}), {}),
    "embedding_norm": (True, {}),
    "dropout_rate": (0.3, {}),
    "scan_unroll": (1, {}),
    "remat": ("full", {}),
    "precision": ("compute=bfloat16", {}),
    "attention.num_heads": (4, {}),
    "attention.num_kv_heads": (1, {}),
    "attention.head_dim": (3, {}),
    "attention.window": (2, {}),
    "attention.scale": (0.3, {}),
    "attention.softcap": (5.0, {}),
    "attention.qk_norm": (True, {}),
    "attention.joint_qk_norm": (True, QK_NORM),
    "attention.own_qk_norms": (True, QK_NORM),
    "attention.qk_norm_kind": ("layer", QK_NORM),
    "attention.qk_norm_bias": (True, QK_NORM | {"attention.qk_norm_kind": "layer"}),
    "attention.qkv_clip": (0.5, {}),
    "attention.qkv_bias": (False, {}),
    "attention.output_bias": (False, {}),
    "attention.dropout_rate": (0.3, {}),
    "attention.implementation": ("blockwise", {}),
    "positions.base": (500.0, {}),
    "positions.scaling": ("ntk", LINEAR),
    "positions.factor": (3.0, LINEAR),
    "positions.trained_length": (32, LLAMA3),
    "positions.turns": ((0.5, 3.0), LLAMA3),
    "positions.whole_pairs": (False, YARN),
    "positions.magnitude": (1.5, YARN),
    "positions.short_divisors": ((1.0, 5.0), LONGROPE),
    "positions.long_divisors": ((1.0, 5.0), LONGROPE),
    "positions.width": (2, {}),
    "positions.layout": ("interleaved", {}),
    "positions.first": (2, {}),
    "positions.scaled": (False, {"scale_embeddings": True}),
    "positions.concatenated": (True, {}),
    "padding_token": (1, {}),
    "pooler_activation": ("relu", {"pooler": True}),
    "positions.num_buckets": (16, {}),
    "positions.max_distance": (64, {}),
    "positions.by_layer": (True, {}),
    "norm.eps": (1e-3, {}),
    "norm.bias": (False, {}),
    "norm.gain": (False, {}),
    "norm.unit_offset": (True, {}),
    "feed_forward.width": (16, {}),
    "feed_forward.activation": ("silu", {}),
    "feed_forward.bias": (False, {}),
    "feed_forward.dropout_rate": (0.3, {}),
    "layer.norm_position": ("pre", {}),
    "layer.parallel": (True, {"layer.norm_position": "pre"}),
    "layer.shared_norm": (False, {"layer.norm_position": "pre", "layer.parallel": True}),
    "layer.attention_norm": (False, {"layer.norm_position": "pre"}),
    "layer.layer_scale": (0.5, {}),
    "layer.final_norm": (False, {"layer.norm_position": "pre"}),
    "init.std": (0.02, {}),
    "init.scale_residual": (True, {}),
    "init.mup_base_width": (4, {}),
    "output.tie": (False, {}),
    "output.bias": (True, {"output.bias": False}),
    "output.scale": (0.3, {}),
    "output.softcap": (5.0, {}),
    "vocab_size": (17, {}),
    "max_length": (20, {}),
    "scale_embeddings": (False, {}),
    "embedding_width": (6, {}),
    "embedding_projection": ("last", {"embedding_width": 6}),
    "source_vocab_size": (17, {"share_embeddings": False}),
    "share_embeddings": (False, {}),
    "num_decoder_layers": (3, {}),
    "num_token_types": (2, {}),
    "pooler": (True, {}),
    "pooler_bias": (False, {"pooler": True}),
    "pooler_norm": (True, {"pooler": True}),
    "transform_bias": (False, {}),
    "patch_bias": (False, {}),
    "num_registers": (1, {"positions.name": "learned"}),
    "register_positions": (False, {"positions.name": "learned", "num_registers": 1}),
    "transform_activation": ("silu", {}),
    "num_classes": (5, {}),
    "pooling": ("mean", {}),
    "image_size": (12, {}),
    "patch_size": (2, {}),
    "num_channels": (1, {}),
}

# Fields of the initial values alone: training from the same values is the same program.
OF_THE_START = ("init.std", "init.scale_residual")


def walked(cls, prefix=""):
    """(field, what to choose for it to be there) of every field within a class, of each member of a family."""
    for of in dataclasses.fields(cls):
        path, inner = f"{prefix}{of.name}", component_of(hints_of(cls)[of.name])
        if inner is None:
            yield path, {}
        elif inner.registry is None:
            yield from walked(inner, f"{path}.")
        else:
            for name, member in inner.registry.items():
                yield from ((p, {f"{path}.name": name} | given) for p, given in walked(member, f"{path}."))


def images_have(given):
    """Whether images have these positions: see `test_images_have_no_positions_within_attention`."""
    return given.get("positions.name") not in ("rotary", "alibi", "relative")


# A model, a field, and what to choose. Decoder layers are not parallel.
# What a model refuses.
NOT_OF_ALL = (
    ("Transformer", "layer.parallel"), ("Transformer", "layer.shared_norm"), ("VisionTransformer", "positions.first"),
    ("VisionTransformer", "positions.scaled"), ("VisionTransformer", "positions.concatenated"),
)  # fmt: skip
TAKEN = [
    (model, path, given)
    for model in MODELS
    for path, given in walked(CONFIGS[model])
    if (model != "VisionTransformer" or images_have(given)) and (model, path) not in NOT_OF_ALL
]
# By day, each with the model that has the shortest program; the others' programs are of the same parts.
FIRST = {(path, str(given)): i for i, (_, path, given) in reversed(list(enumerate(TAKEN)))}.values()


def training_loss(name, config):
    """loss(model, key) on a batch of zeros."""
    tokens, labels = jnp.zeros((2, 4), int), jnp.zeros(2, int)

    def loss(model, key):
        if name == "Transformer":
            return F.cross_entropy(model(jnp.zeros((2, 5), int), tokens, key=key), tokens)
        if name == "CausalLM":
            return F.cross_entropy(model(tokens, key=key), tokens)
        if name == "MaskedLM":
            logits, captured = model(tokens, key=key, capture=("residual", *(["pooled"] if config.pooler else [])))
            # BERT's second task reads the pooled state.
            return F.cross_entropy(logits, tokens) + captured.get("pooled", jnp.zeros(())).sum()
        if name == "TextClassifier":
            return F.cross_entropy(model(tokens, lengths=jnp.array([4, 2]), key=key), labels)
        images = jnp.zeros((2, config.image_size, config.image_size, config.num_channels))
        return F.cross_entropy(model(images, key=key), labels)

    return loss


def constructor(name, config):
    return lambda: getattr(models, name)(config, rngs=nnx.Rngs(0))


@functools.cache
def training_program(name: str, config: nn.ModelConfig) -> str:
    """A training loss as text, shapes of the parameters included; what its gradient is follows from it."""
    model = jax.eval_shape(constructor(name, config))
    return as_text(jax.make_jaxpr(training_loss(name, config))(model, jax.random.key(0)))


@functools.cache
def initial_program(name: str, config: nn.ModelConfig) -> str:
    """How the initial values are made, as text."""
    return as_text(jax.make_jaxpr(constructor(name, config))())


def config_of(model, *tables):
    """A tiny config from dotted names, of which the model may not have all."""
    known = {path for path, _, _ in fields_of(CONFIGS[model])}
    return tiny_config(model, **{n: x for table in tables for n, x in table.items() if n in known})


def test_every_field_has_a_flip():
    """A field was added to a model or a component without saying here how it changes the program."""
    assert set(FLIPS) == {path for _, path, _ in TAKEN}


@pytest.mark.parametrize(("model", "path", "chosen"), by_day(TAKEN, *FIRST))
def test_no_silent_knobs(model, path, chosen):
    """The field is declared and never reaches the program of a model that it belongs to."""
    value, given = FLIPS[path]
    before = config_of(model, chosen, given)
    after = config_of(model, chosen, given, {path: value})
    values = [{n: x for n, x, _ in leaves(config)}[path] for config in (before, after)]
    assert values[0] != values[1] == value
    program = initial_program if path in OF_THE_START else training_program
    assert program(model, before) != program(model, after)


@pytest.mark.parametrize("model", MODELS)
def test_a_field_of_another_model_is_refused(model):
    """A model takes a field that it has no use for, and ignores it."""
    known = {path for path, _, _ in fields_of(CONFIGS[model])}
    others = [path for path in FLIPS if path not in known]
    assert others
    for path in others:
        with pytest.raises(ConfigError, match=f"^model has no field '{path.partition('.')[0]}'"):
            tiny_config(model, **{path: FLIPS[path][0]})


@pytest.mark.parametrize("scheme", ["rotary", "alibi", "relative"])
def test_images_have_no_positions_within_attention(scheme):
    """A distance in a line of patches is taken for one in the image."""
    with pytest.raises(ConfigError, match=f"^model.positions.name of images must be one of .*, got {scheme!r}"):
        tiny_config("VisionTransformer", positions=scheme)


def test_images_have_no_first_position():
    """Rows of a table that are left out would be those of patches."""
    with pytest.raises(ConfigError, match="^model.positions.first and .* are of text: leave them"):
        tiny_config("VisionTransformer", positions="learned", **{"positions.first": 2})


def test_parallel_layers_do_not_attend_to_a_memory():
    """Half of a decoder's layer would be parallel."""
    with pytest.raises(ConfigError, match="^model.layer.parallel is not for layers that attend to a memory"):
        tiny_config("Transformer", parallel_block=True, norm_position="pre")


@pytest.mark.parametrize("model", [model for model in MODELS if model != "VisionTransformer"])
def test_a_map_of_embeddings_needs_their_width(model):
    """The place of a map that is not there is ignored."""
    with pytest.raises(
        ConfigError, match="^model.embedding_projection='last' needs embedding_width: give it, or leave"
    ):
        tiny_config(model, embedding_projection="last")


@pytest.mark.parametrize("model", MODELS)
def test_layers_that_end_with_a_norm_have_no_final_one_to_leave_out(model):
    """The norm of the last layer is thought to be left out."""
    with pytest.raises(ConfigError, match="^model.layer.final_norm=False goes with another norm_position than 'post'"):
        tiny_config(model, **{"layer.final_norm": False})


REQUIRED = [
    (model, of.name)
    for model in MODELS
    for of in dataclasses.fields(CONFIGS[model])
    if of.default is of.default_factory is dataclasses.MISSING
]


@pytest.mark.parametrize(("model", "name"), REQUIRED)
def test_a_model_names_the_field_that_it_lacks(model, name):
    """A required field gets a value that nobody chose, or its lack is found out far away."""
    tables = to_dict(tiny_config(model))
    del tables[name]
    with pytest.raises(ConfigError, match=f"^model needs {name}$"):
        build(CONFIGS[model], tables, "model")


def choices_of(model):
    """(field, what to choose for it, its choices) of each field of a model that has few values."""
    for name, registry in FAMILIES.items():
        yield f"{name}.name", {}, list(registry)
    found = {path: kind for path, _, kind in fields_of(CONFIGS[model])}
    for path, given in dict(walked(CONFIGS[model])).items():
        kind = found[path]
        choices = list(kind.among or (kind.wanted.choices if kind.wanted else ()))
        if choices and (model != "VisionTransformer" or images_have(given)):
            yield path, given, choices
    yield "precision", {}, ["params=bfloat16", "compute=bfloat16", "compute=float16", "output=bfloat16"]


CHOICES = [(model, *item) for model in MODELS for item in choices_of(model)]
CHOICES_BY_DAY = {path: i for i, (_, path, _, _) in reversed(list(enumerate(CHOICES)))}.values()


@pytest.mark.parametrize(("model", "path", "given", "choices"), by_day(CHOICES, *CHOICES_BY_DAY))
def test_each_choice_of_a_field_is_a_program_of_its_own(model, path, given, choices):
    """Two choices of one field are the same program: one of them is a name for nothing."""
    choices = [choice for choice in choices if choice not in ("auto", "cudnn", "splash")]  # of the others, or elsewhere
    if (model, path) == ("VisionTransformer", "positions.name"):
        choices = [choice for choice in choices if images_have({path: choice})]
    programs = set()
    for choice in choices:
        needs = {}
        if path == "positions.scaling":
            needs = {"llama3": LLAMA3, "yarn": YARN, "longrope": LONGROPE, "none": {}}.get(choice, LINEAR)
        if path == "attention.qk_norm_kind":
            needs = QK_NORM
        if path == "embedding_projection":
            needs = {"embedding_width": 6}
        if path == "pooler_activation":
            needs = {"pooler": True}
        if choice == "prefix":
            needs = {"num_registers": 1, "positions.name": "learned"}
        programs.add(training_program(model, config_of(model, given, needs, {path: choice})))
    assert len(programs) == len(choices)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_configuration_is_the_same_program(model):
    """The comparisons above would call any two programs different."""
    for program in (training_program, initial_program):
        assert program.__wrapped__(model, tiny_config(model)) == program(model, tiny_config(model))


EVERYTHING = {
    "feed_forward.name": "gated", "attention.qk_norm": True, "embedding_norm": True, "layer.norm_position": "sandwich",
    "output.tie": False, "output.bias": True, "pooler": True, "num_token_types": 2, "share_embeddings": False,
    "num_layers": 3, "pattern": ({}, {"norm": {"name": "rms"}}), "embedding_width": 6, "embedding_projection": "last",
}  # fmt: skip


@pytest.mark.parametrize("positions", ["relative", "learned"])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_reaches_the_loss(name, positions):
    """A parameter is made, counted, saved and never used."""
    if (name, positions) == ("VisionTransformer", "relative"):
        positions = "sinusoidal"  # and so without a table
    config = config_of(name, EVERYTHING, {"positions.name": positions})
    model = jax.eval_shape(constructor(name, config))
    jaxpr = jax.make_jaxpr(training_loss(name, config))(model, jax.random.key(0)).jaxpr
    *used, _ = dce_jaxpr(jaxpr, [True])[1]  # the last is the key
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(model)]
    assert [path for path, use in zip(paths, used, strict=True) if not use] == []


def test_constants_are_part_of_a_program():
    """The comparisons above would call two programs the same that differ in a table alone."""

    def program(numbers):
        return as_text(jax.make_jaxpr(lambda x: jax.lax.cond(x[0] > 0, lambda: x + numbers, lambda: x))(jnp.zeros(3)))

    assert program(np.array([1.0, 2.0, 3.0])) != program(np.array([1.0, 2.0, 4.0]))


# Validation ------------------------------------------------------------------------------------

# Every field of every model: its name, a model that has it, what to choose for it, its type and what it is.
FIELDS = {
    path: (model, given, *next((hint, kind) for p, hint, kind in fields_of(CONFIGS[model]) if p == path))
    for model, path, given in reversed(TAKEN)
}
# Those whose values are checked by tests of their own.
OWN_TESTS = ("pattern", "precision", "positions.first", "padding_token", "num_registers")
OWN_TESTS += ("positions.turns", "positions.short_divisors", "positions.long_divisors")


def of_type(kind):
    return [path for path, (_, _, hint, _) in FIELDS.items() if hint in (kind, kind | None) and path not in OWN_TESTS]


def refused(path, value):
    """The message for a value of a field, after the field's name."""
    model, given, *_ = FIELDS[path]
    with pytest.raises(ConfigError) as error:
        config_of(model, given, {path: value})
    assert str(error.value).startswith(f"model.{path} must "), error.value
    return str(error.value).removeprefix(f"model.{path} must ")


def test_every_field_is_of_a_kind():
    """A field is checked by none of the tests below: its type is not among them."""
    assert sum(len(of_type(kind)) for kind in (int, bool, float, str)) == len(FIELDS) - len(OWN_TESTS)


@pytest.mark.parametrize("path", of_type(int))
def test_counts_must_be_positive_integers(path):
    """A count that is none is rounded, clipped or fails far away."""
    wanted = "be (a positive (even )?integer|an integer|one of)"
    for value in (0, -1, 2.0, True, "8", [8], float("nan"), 10**400):
        assert re.match(f"{wanted}.*, got {re.escape(repr(value))}|be below 2.31", refused(path, value))


@pytest.mark.parametrize("path", of_type(bool))
def test_switches_must_be_booleans(path):
    """A string from a command line, "false" included, is true."""
    for value in (0, 1, "false", None, np.bool_(True)):
        assert refused(path, value) == f"be True or False, got {value!r}"


RATES = [path for path in of_type(float) if path.endswith("dropout_rate")]


@pytest.mark.parametrize("path", of_type(float))
def test_numbers_must_be_what_they_can_be(path):
    """A rate, a cap, a deviation or a base that cannot be is clipped, or gives NaN in the middle of a run."""
    zero = [] if path in RATES else [0.0]
    for value in (*zero, -0.1, float("nan"), float("inf"), "1", [1.0]):
        wanted = r"be in \[0, 1\)" if path in RATES else "be positive and finite"
        assert re.fullmatch(f"{wanted}, got {re.escape(repr(value))}", refused(path, value))
    assert re.search("got True", refused(path, True))
    assert path not in RATES or refused(path, 1) == "be in [0, 1), got 1.0"


@pytest.mark.parametrize("path", of_type(str))
def test_choices_are_listed_and_the_nearest_is_named(path):
    """A misspelt choice falls back to another one, or the error does not help."""
    _, _, _, kind = FIELDS[path]
    right = list(kind.among or kind.wanted.choices)[-1]
    assert re.fullmatch(f"be one of .*, got '{right}x'; did you mean '{right}'.", refused(path, f"{right}x"))


@pytest.mark.parametrize("name", FAMILIES)
def test_components_are_listed_and_the_nearest_is_named(name):
    """A misspelt component falls back to another one, or the error does not help."""
    right = list(FAMILIES[name])[-1]
    with pytest.raises(ConfigError, match=f"^model.{name}.name must be one of .*'{right}x'; did you mean '{right}'"):
        tiny_config(**{name: {"name": f"{right}x"}})
    for value in (None, "", ["rotary"], 1):
        with pytest.raises(ConfigError, match=f"^model.{name}.name must be one of "):
            tiny_config(**{name: {"name": value}})


@pytest.mark.parametrize("path", [p for p, (_, _, hint, _) in FIELDS.items() if NoneType not in get_args(hint)])
def test_none_is_refused_where_it_has_no_meaning(path):
    """It would end in arithmetic with None, far from where it was written."""
    assert "None" in refused(path, None)


ROTARY, RELATIVE = dict(positions="rotary"), dict(positions="relative")
TOGETHER = "^model.positions.scaling and factor go together"
LENGTH = "^model.positions.trained_length goes with scaling='llama3', 'yarn' or 'longrope', which need it"
BUCKETS = "^model.positions.num_buckets must be a multiple of 4 and max_distance above half of it"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(num_heads=3),
            "^model.d_model must be divisible by attention.num_heads unless attention.head_dim is given, got d_model=8, "
            "attention.num_heads=3",
        ),
        (dict(num_kv_heads=3), "^model.attention.num_heads=2 must be a multiple of num_kv_heads=3"),
        (dict(num_kv_heads=4), "^model.attention.num_heads=2 must be a multiple of num_kv_heads=4"),
        (dict(num_heads=4, num_kv_heads=3), "^model.attention.num_heads=4 must be a multiple of num_kv_heads=3"),
        (dict(source_vocab_size=9), "^model.share_embeddings needs one vocabulary, got source_vocab_size=9.*=False"),
        (dict(source_vocab_size=13), "^model.share_embeddings needs one vocabulary, got source_vocab_size=13"),
        (dict(parallel_block=True), "^model.layer.parallel needs norm_position='pre', got 'post'"),
        (dict(parallel_block=True, norm_position="sandwich"), "^model.layer.parallel needs norm_position='pre'"),
        (ROTARY | dict(head_dim=5), "^model.positions.name='rotary' turns pairs: the head width must be even, got 5"),
        (ROTARY | {"positions.width": 6}, "^model.positions.width=6 exceeds the head width 4"),
        (
            {"positions.width": 2},
            "^model.positions has no field 'width', which goes with name='rotary'; this is name='sin",
        ),
        (RELATIVE | dict(rotary_factor=2.0), "^model.positions has no field 'factor', which goes with name='rotary'"),
        (
            RELATIVE | dict(relative_buckets=8192, relative_max_distance=9000),
            "^model.positions.num_buckets must be a positive integer, at most 4,096, got 8192",
        ),
        (ROTARY | dict(rotary_factor=2.0), f"{TOGETHER}.*, got 'none' with 2.0"),
        (ROTARY | dict(rotary_scaling="linear"), f"{TOGETHER}.*, got 'linear' with 1.0"),
        (ROTARY | LLAMA3 | {"positions.trained_length": None}, f"{LENGTH}, got None with 'llama3'"),
        (ROTARY | LINEAR | {"positions.trained_length": 16}, f"{LENGTH}, got 16 with 'linear'"),
        ({"attention.joint_qk_norm": True}, "^model.attention.joint_qk_norm=True goes with qk_norm=True"),
        ({"attention.own_qk_norms": True}, "^model.attention.own_qk_norms=True goes with qk_norm=True"),
        (
            QK_NORM | {"attention.qk_norm_bias": True},
            "^model.attention.qk_norm_bias=True goes with qk_norm_kind='layer'",
        ),
        (
            QK_NORM | {"attention.own_qk_norms": True, "attention.joint_qk_norm": True},
            "^model.attention.joint_qk_norm=True and own_qk_norms=True exclude each other",
        ),
        ({"norm.gain": False, "norm.unit_offset": True}, "^model.norm.unit_offset=True goes with gain=True"),
        (ROTARY | {"positions.whole_pairs": False}, "^model.positions.whole_pairs=False goes with scaling='yarn'"),
        (ROTARY | {"positions.turns": (1.0, 2.0)}, "^model.positions.turns goes with scaling='llama3' or 'yarn'"),
        (
            ROTARY | YARN | {"positions.turns": (2.0, 1.0)},
            "^model.positions.turns must be two numbers, the lower one first",
        ),
        (
            ROTARY | {"positions.long_divisors": (1.0, 1.0)},
            "^model.positions.long_divisors goes with scaling='longrope'",
        ),
        (
            ROTARY | LONGROPE | {"positions.long_divisors": (1.0,)},
            "^model.positions.long_divisors must be 2 numbers, one for each pair, got 1",
        ),
        (
            ROTARY | LONGROPE | {"positions.long_divisors": (1.0, "2")},
            "^model.positions.long_divisors must be a tuple of positive numbers",
        ),
        (dict(positions="learned") | {"positions.first": -1}, "^model.positions.first must not be negative, got -1"),
        (ROTARY | dict(rotary_scaling="ntk", rotary_factor=0.5), f"{TOGETHER}.*, got 'ntk' with 0.5"),
        (
            ROTARY | dict(head_dim=2, rotary_scaling="ntk", rotary_factor=2.0),
            "^model.positions.scaling='ntk' needs a head wid",
        ),
        (dict(relative_buckets=16), "^model.positions has no field 'num_buckets', which goes with name='relative'"),
        (RELATIVE | dict(relative_buckets=6), f"{BUCKETS}, got 6 and 128"),
        (RELATIVE | dict(relative_buckets=32, relative_max_distance=16), f"{BUCKETS}, got 32 and 16"),
        ({"norm.name": "rms", "norm.bias": True}, "^model.norm has no field 'bias', which goes with name='layer'"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes, message):
    """One of two contradicting fields wins."""
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


def test_patches_divide_an_image():
    """The rest of an image is cut off."""
    with pytest.raises(ConfigError, match="^model.patch_size=3 must divide image_size=8"):
        tiny_config("VisionTransformer", patch_size=3)


@pytest.mark.parametrize("buckets", [4, 8, 12, 32])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_bucket_count_that_is_taken_has_its_buckets(buckets, bidirectional):
    """A configuration passes whose buckets cannot be made, in one direction or in both."""
    limit = buckets // 2 + 1
    tiny_config(positions="relative", relative_buckets=buckets, relative_max_distance=limit)
    how = dict(bidirectional=bidirectional, num_buckets=buckets, max_distance=limit)
    used = set(np.asarray(F.relative_position_buckets(jnp.arange(-99, 99), **how)).tolist())
    assert used <= set(range(buckets)) and len(used) >= limit


def test_head_dim_frees_d_model_from_num_heads():
    """A head width that is given is checked against d_model / num_heads all the same."""
    attention = tiny_config(num_heads=3, head_dim=5).attention
    assert (attention.head_width(8), attention.kv_heads) == (5, 3)


# Patterns --------------------------------------------------------------------------------------

WINDOW = {"attention": {"window": 2}}


@pytest.mark.parametrize(
    ("pattern", "changes", "message"),
    [
        ((), {}, r"^model.pattern must be a tuple of tables, one for each layer of a period, got \(\)"),
        ({}, {}, "^model.pattern must be a tuple of tables"),
        ("({},)", {}, "^model.pattern must be a tuple of tables"),
        ((None,), {}, "^model.pattern must be a tuple of tables"),
        (None, {}, "^model.pattern must be a tuple of tables.*None"),
        (({},) * 3, {}, "^model.pattern has 3 layers, more than num_layers=2"),
        (({},) * 2, dict(num_decoder_layers=1), "^model.pattern has 2 layers, more than num_decoder_layers=1"),
        (({"d_model": 4},), {}, r"^model.pattern\[0\] may change attention, .*, got 'd_model'"),
        (({}, {"atention": {}}), {}, r"^model.pattern\[1\] may change .*, got 'atention'; did you mean 'attention'"),
        (({}, {"attention": {"windw": 2}}), {}, r"^model.pattern\[1\].attention has no field 'windw'; did you mean 'w"),
        (
            ({"attention": {"window": 0}},),
            {},
            r"^model.pattern\[0\].attention.window must be a positive integer, got 0",
        ),
        (({"attention": 2},), {}, r"^model.pattern\[0\].attention must be a table of fields"),
        (({"positions": {"width": 2}},), {}, r"^model.pattern\[0\].positions has no field 'width', which goes with"),
        (({"norm": {"name": "rsm"}},), {}, r"^model.pattern\[0\].norm.name must be one of .*; did you mean 'rms'"),
        # What all layers share cannot differ by layer.
        (({"positions": {"name": "learned"}},), {}, r"^model.pattern\[0\].positions must be those of the model"),
        (({"positions": {"name": "none"}},), {}, r"^model.pattern\[0\].positions must be those of the model, 'sinus"),
        (({"positions": {"name": "alibi"}},), ROTARY, r"^model.pattern\[0\].positions must be those .*, got 'alibi'"),
        (({"positions": {"num_buckets": 8}},), RELATIVE, r"^model.pattern\[0\].positions must be those of the model"),
        (
            ({"attention": {"num_heads": 4}},),
            RELATIVE,
            r"^model.pattern\[0\].attention.num_heads must be the model's, 2",
        ),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(pattern, changes, message):
    """A layer differs from what is asked for, or from nothing, without a word."""
    with pytest.raises(ConfigError, match=message):
        tiny_config(pattern=pattern, **changes)


def test_a_pattern_changes_layers_and_keeps_the_rest():
    """A change of one field of a layer resets the others of its component, or a list of JSON is another pattern."""
    changes = [{"attention": {"window": 2}, "positions": {"base": 500.0}}, {"positions": {"name": "none"}}]
    config = tiny_config("CausalLM", pattern=changes, num_kv_heads=1, **ROTARY)
    first, second = config.of_layer(0), config.of_layer(1)
    assert (first.attention.window, first.attention.num_kv_heads, first.positions.base) == (2, 1, 500.0)
    assert (second.attention.window, second.positions.name) == (None, "none")
    assert config == tiny_config("CausalLM", pattern=tuple(changes), num_kv_heads=1, **ROTARY)


def test_a_pattern_cannot_be_changed_behind_its_validation():
    """A table that somebody still holds is changed after it was checked."""
    table = {"attention": {"window": 2}}
    config = tiny_config(pattern=(table,))
    table["attention"]["window"] = 0
    assert config.of_layer(0).attention.window == 2


# Components ------------------------------------------------------------------------------------


def test_a_configuration_cannot_be_changed_behind_its_validation():
    """A field is set after it was checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().d_model = 7


def test_a_change_keeps_what_components_share():
    """Another norm loses the epsilon that was asked for, or a change of one field resets the others."""
    config = tiny_config("CausalLM", norm_eps=1e-3, num_kv_heads=1)
    changed = config.changed(norm={"name": "rms"}, attention={"window": 2})
    assert (changed.norm, changed.norm.eps) == (nn.NORMS["rms"](eps=1e-3), 1e-3)
    assert (changed.attention.window, changed.attention.num_kv_heads) == (2, 1)
    assert changed.norm.changed(name="layer", bias=False) == nn.NORMS["layer"](eps=1e-3, bias=False)
    assert (config.norm.name, config.attention.window) == ("layer", None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_modle": 4}, "^model has no field 'd_modle'; did you mean 'd_model'"),
        ({"window": 4}, "^model has no field 'window'; did you mean model.attention.window"),
        ({"attention": {"width": 4}}, "^model.attention has no field 'width'; did you mean .*model.feed_forward.width"),
        ({"attention": {"d_model": 4}}, "^model.attention has no field 'd_model'; did you mean model.d_model"),
        ({"norm": {"tie": True}}, "^model.norm has no field 'tie'; did you mean model.output.tie"),
        (
            {"attention.window": 4},
            r"^model has no field 'attention.window'; did you mean \{'attention': \{'window': ...}}",
        ),
        ({"activaton": "relu"}, "^model has no field 'activaton'; did you mean model.feed_forward.activation"),
        ({1: 2}, "^model has no field 1"),
        ({"positions": "rotary"}, "^model.positions must be a table of fields.*; did you mean {'name': 'rotary'}"),
        ({"attention": [1]}, r"^model.attention must be a table of fields, those of AttentionConfig, got \[1\]"),
        ({"init": None}, "^model.init must be a table of fields, those of InitConfig, got None"),
        ({"positions": {"width": 2}}, "^model.positions has no field 'width', which goes with name='rotary'"),
    ],
)
def test_a_field_that_is_not_there_is_refused_with_the_one_that_is_meant(fields, message):
    """An unknown field is ignored, or the error does not help."""
    with pytest.raises(ConfigError, match=message):
        build(models.CausalLM.Config, {"vocab_size": 5} | fields, "model")


def test_a_component_may_be_given_as_an_instance_or_as_a_table():
    """The two ways to write a component are two components."""
    table = models.CausalLM.Config(vocab_size=5, positions={"name": "rotary", "base": 500})
    instance = models.CausalLM.Config(vocab_size=5, positions=nn.POSITIONS["rotary"](base=500.0))
    assert table == instance and hash(table) == hash(instance)
    assert build(models.CausalLM.Config, to_dict(table), "model") == table


def test_numbers_are_pythons():
    """A number of NumPy is refused, or an integer makes another program than the same float."""
    config = tiny_config(d_model=np.int64(16), dropout_rate=np.float32(0.25), output_softcap=5)
    assert type(config.d_model) is int and config.d_model == 16
    assert type(config.dropout_rate) is float and config.dropout_rate == 0.25
    assert type(config.output.softcap) is float
    with pytest.raises(ConfigError, match=r"^model.dropout_rate must be in \[0, 1\), got -1.0"):
        tiny_config(dropout_rate=np.float64(-1.0))


def test_equal_components_have_one_hash_in_every_process():
    """Two equal configs are two keys of a cache, here or after a pickle."""

    tables = [{"attention": {"window": 2}, "norm": {"eps": 1e-3}}, {"norm": {"eps": 1e-3}, "attention": {"window": 2}}]
    a, b = (tiny_config(pattern=(table,)) for table in tables)
    assert a == b and hash(a) == hash(b) and a != tiny_config()
    assert "_hash" not in vars(pickle.loads(pickle.dumps(a)))
    assert nn.NORMS["rms"]() != nn.NORMS["layer"]()


def test_traced_numbers_are_compared_by_identity():
    """A config with a number that only the running program knows cannot be compared, or equals another one's."""

    @jax.jit
    def compare(rate):
        config, other = (tiny_config(dropout_rate=rate * factor) for factor in (1, 1))
        same = config.changed(d_model=8)
        assert config == same and hash(config) == hash(same) and config != other
        with pytest.raises(ConfigError, match="^model.norm.eps must be"):
            tiny_config(norm_eps=rate)
        return rate

    compare(0.1)


def test_what_a_field_is_stands_at_the_field():
    """A number is traced, or a field compared between models, that nobody declared to be so."""
    known = {path: kind for path, _, kind in leaves(tiny_config("CausalLM"))}
    assert known["dropout_rate"].traced and known["init.std"].traced and not known["norm.eps"].traced
    assert known["positions.name"].part == FUNCTION != known["attention.implementation"].part


def test_a_component_checks_itself():
    """A component of somebody else's takes what its fields do not want."""

    class Inner(Component):
        size: int = field(2, COUNT)

    class Outer(Component):
        kind: str = field("plain", one_of("plain", "round"))
        inner: Inner | None = field(lambda: Inner(size=3))
        rate: float = field(1.0, POSITIVE)

    assert Outer(inner={"size": 4}).inner == Inner(size=4) and Outer().inner.size == 3
    assert build(Outer, {"inner": None}, "outer").inner is None
    for fields, message in {
        "inner.size": ({"inner": {"size": 0}}, "be a positive integer, got 0"),
        "inner": ({"inner": 3}, "be a table of fields, those of Inner, got 3"),
        "kind": ({"kind": "rund"}, r"be one of \['plain', 'round'\], got 'rund'; did you mean 'round'"),
        "rate": ({"rate": "1"}, "be positive and finite, got '1'"),
    }.values():
        with pytest.raises(ConfigError, match=f"must {message}"):
            build(Outer, fields, "outer")
    with pytest.raises(TypeError):
        Outer("round")


# Precision -------------------------------------------------------------------------------------


def test_optional_fields_and_literals_are_checked():
    """What somebody writes as `typing` has it would be taken for a table, of which anything goes."""

    class Written(Component):
        size: Optional[int] = None  # noqa: UP045
        kind: Literal["wide", "narrow"] = "wide"
        order: Optional[Literal[1, 2]] = None  # noqa: UP045

    assert Written(size=3, kind="narrow", order=2).changed(size=None, order=None) == Written(kind="narrow")
    for wrong, message in (
        ({"size": "x"}, "size must be an integer or None, got 'x'"),
        ({"kind": "wid"}, r"kind must be one of \['wide', 'narrow'\], got 'wid'; did you mean 'wide'"),
        ({"kind": None}, "kind must be a text, got None"),
        ({"order": 3}, r"order must be one of \[1, 2\], got 3$"),
    ):
        with pytest.raises(ConfigError, match=f"^{message}"):
            Written(**wrong)


def test_another_component_keeps_no_value_of_another_kind():
    """A scheme of one's own whose width is a number would get the None that rotary has for its own."""

    class Schemes(Component):
        registry = None

    family = Registry("scheme", family=Schemes)

    @family.register("old")
    class Old(Schemes):
        width: int | None = None
        size: int = 3
        scale: int = 2
        kind: str = "wide"

    @family.register("new")
    class New(Schemes):
        width: int = 16
        size: int = 4
        scale: float = 0.5
        kind: bool = True

    found = merged(Schemes, to_dict(Old(size=5)), {"name": "new"})
    assert build(Schemes, found, "scheme") == New(width=16, size=5, scale=2.0, kind=True)


def test_precision_reads_what_is_given_and_is_float32_elsewhere():
    """A part of the policy is read into another, or the default is not float32."""
    assert Precision.parse("compute=bfloat16") == Precision("float32", "bfloat16", "float32")
    assert Precision.parse(" params=bfloat16, output=float16 ") == Precision("bfloat16", "float32", "float16")
    assert Precision.parse("params=float32") == Precision("float32", "float32", "float32")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("bfloat16", "precision must read 'params=...,compute=...,output=...', got 'bfloat16'"),
        ("", "precision must not be empty"),
        (None, "precision must be a text, got None"),
        ("compute=bfloat16=x", "precision must read"),
        ("compute=bf16", "precision: compute must be one of .*, got 'bf16'; did you mean 'bfloat16'"),
        ("compue=bfloat16", "precision has no field 'compue'; did you mean 'compute'"),
        ("params=int8", "precision: params must be one of"),
        ("params=float32,params=float32", "precision must name params once"),
    ],
)
def test_a_precision_that_cannot_be_read_is_refused(policy, message):
    """A misspelt policy is float32 without a word."""
    with pytest.raises(ValueError, match=message):
        tiny_config(precision=policy)


# Names -----------------------------------------------------------------------------------------


def test_a_misspelt_preset_is_refused_with_the_nearest():
    """A misspelt preset builds another model."""
    with pytest.raises(ValueError, match="^preset must be one of .*; did you mean 'transformer_big'"):
        models.Transformer.Config.preset("transformer_bigg")


def test_a_preset_of_another_model_is_refused():
    """A part of a published model is left out, and the rest trained."""
    with pytest.raises(
        ConfigError, match="^the preset 'bert_base' is of another model: CausalLMConfig has no .*pooler"
    ):
        models.CausalLM.Config.preset("bert_base")


def test_a_preset_takes_changes():
    """A change is lost, or leaks into the preset for those who come after."""
    preset = models.Transformer.Config.preset
    config = preset("transformer_base", vocab_size=100, dropout_rate=0.0, attention={"window": 7})
    assert (config.vocab_size, config.dropout_rate, config.d_model) == (100, 0.0, 512)
    assert (config.attention.num_heads, config.attention.window) == (8, 7)
    assert (preset("transformer_base").vocab_size, preset("transformer_base").attention.window) == (37_000, None)
    with pytest.raises(ConfigError, match="^gpt2 has no field 'num_heads'; did you mean gpt2.attention.num_heads"):
        models.CausalLM.Config.preset("gpt2", num_heads=3)


def test_presets_are_the_papers():
    """Vaswani et al., 2017, table 3: a published setting is another one here."""
    for name, wanted in {
        "transformer_base": [512, 8, 64, 2048, 6, 0.1, "post"],
        "transformer_big": [1024, 16, 64, 4096, 6, 0.3, "post"],
    }.items():
        config = models.Transformer.Config.preset(name)
        attention = config.attention
        assert [config.d_model, attention.num_heads, attention.head_width(config.d_model), config.feed_forward.width,
                config.num_layers, config.dropout_rate, config.layer.norm_position] == wanted  # fmt: skip


# Radford et al., 2019, Touvron et al., 2023, Grattafiori et al., 2024, Devlin et al., 2018, Dosovitskiy et al.,
# 2021, and Touvron et al., 2021, as counted in the weights that were published.
PUBLISHED = {
    "gpt2": ("CausalLM", 124_439_808),
    "gpt2_medium": ("CausalLM", 354_823_168),
    "gpt2_large": ("CausalLM", 774_030_080),
    "gpt2_xl": ("CausalLM", 1_557_611_200),
    "llama_1b": ("CausalLM", 1_235_814_400),
    "llama_3b": ("CausalLM", 3_212_749_824),
    "llama_7b": ("CausalLM", 6_738_415_616),
    "llama_8b": ("CausalLM", 8_030_261_248),
    "llama_13b": ("CausalLM", 13_015_864_320),
    "llama_70b": ("CausalLM", 70_553_706_496),
    "bert_base": ("MaskedLM", 109_482_240 + 622_650),  # and the head of masked language modelling
    "bert_large": ("MaskedLM", 335_141_888 + 1_082_170),
    "vit_ti16": ("VisionTransformer", 5_717_416),
    "vit_s16": ("VisionTransformer", 22_050_664),
    "vit_b16": ("VisionTransformer", 86_567_656),
    "vit_b32": ("VisionTransformer", 88_224_232),
    "vit_l16": ("VisionTransformer", 304_326_632),
}


def test_every_preset_is_counted():
    """A preset was added without its published number of parameters (the Transformer's: tests/models)."""
    assert set(PRESETS) == {"transformer_base", "transformer_big", *PUBLISHED}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_have_the_published_number_of_parameters(preset):
    """A published model is built with another width, depth, bias, norm or table."""
    name, published = PUBLISHED[preset]
    model = jax.eval_shape(constructor(name, CONFIGS[name].preset(preset)))
    assert sum(leaf.size for leaf in jax.tree.leaves(model)) == published


def test_nearest_says_nothing_when_nothing_is_near():
    """A suggestion that has nothing to do with what was written."""
    assert nearest("zzz", ["d_model", "dropout_rate"]) == ""
    with pytest.raises(ValueError, match="^colour must be one of .*, got 'zzz'$"):
        check_choice("colour", "zzz", ["red", "green"])


def test_build_names_the_group_of_fields():
    """The message does not say which section of a configuration is wrong."""

    @dataclasses.dataclass
    class Thing:
        size: int
        kind: str = "plain"

    assert build(Thing, dict(size=3), "thing") == Thing(3)
    with pytest.raises(ConfigError, match="^thing has no field 'sise'; did you mean 'size'"):
        build(Thing, dict(sise=3), "thing")
    with pytest.raises(ConfigError, match="^thing needs size$"):
        build(Thing, dict(kind="round"), "thing")


def subclasses(cls):
    return {cls.__name__: cls} | {name: x for sub in cls.__subclasses__() for name, x in subclasses(sub).items()}


@pytest.mark.parametrize("name", PRESETS)
def test_the_text_of_a_config_makes_an_equal_one(name):
    """A config could not be pasted back, or its text would hide a field that was changed."""
    fitting = [c for c in CONFIGS.values() if PRESETS[name]().keys() <= {of.name for of in dataclasses.fields(c)}]
    for cls in fitting:
        config = cls.preset(name, **({"num_classes": 2} if cls is models.TextClassifier.Config else {}))
        assert eval(repr(config), subclasses(Component)) == config


def test_the_text_of_a_config_has_what_differs():
    """Whoever prints a config would search for its own choices among sixty fields."""
    config = models.CausalLM.Config(vocab_size=9, max_length=8, attention={"num_heads": 4, "window": 3})
    assert (
        repr(config)
        == "CausalLMConfig(attention=MultiHeadAttention(num_heads=4, window=3), vocab_size=9, max_length=8)"
    )
    assert repr(config.positions) == f"{type(config.positions).__name__}()"
    told = []
    jax.eval_shape(lambda rate: told.append(repr(config.changed(dropout_rate=rate))), 0.5)
    assert "dropout_rate=" in told[0]  # a traced number is no value to compare
