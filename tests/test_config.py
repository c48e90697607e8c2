"""Every field of the configuration is checked, and every field changes the program."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr
from support import as_text, by_day, tiny_config

import tformer_jax.functional as F
from tformer_jax import TransformerConfig, models
from tformer_jax.config import _CHOICES, PRESETS, ConfigError, Precision, build, check_choice, nearest

# No silent knobs -------------------------------------------------------------------------------

MODELS = ("Transformer", "CausalLM", "MaskedLM", "TextClassifier", "VisionTransformer")
CLASSIFIERS = ("TextClassifier", "VisionTransformer")
WITH_OUTPUT = ("Transformer", "CausalLM", "MaskedLM")
OF_TEXT = (*WITH_OUTPUT, "TextClassifier")

# For each field: another valid value, and what else has to be so for it to be valid.
FLIPS = {
    "vocab_size": dict(vocab_size=17),
    "source_vocab_size": (dict(source_vocab_size=17), dict(share_embeddings=False)),
    "share_embeddings": dict(share_embeddings=False),
    "tie_output": dict(tie_output=False),
    "scale_embeddings": dict(scale_embeddings=False),
    "embedding_norm": dict(embedding_norm=True),
    "num_token_types": dict(num_token_types=2),
    "d_model": dict(d_model=12),
    "num_heads": dict(num_heads=4),
    "num_kv_heads": dict(num_kv_heads=1),
    "head_dim": dict(head_dim=3),
    "qk_norm": dict(qk_norm=True),
    "attention_softcap": dict(attention_softcap=5.0),
    "window": dict(window=2),
    "d_ff": dict(d_ff=16),
    "activation": dict(activation="silu"),
    "gated": dict(gated=True),
    "num_layers": dict(num_layers=3),
    "num_decoder_layers": dict(num_decoder_layers=3),
    "use_bias": dict(use_bias=False),
    "norm": dict(norm="rms"),
    "norm_position": dict(norm_position="pre"),
    "norm_eps": dict(norm_eps=1e-6),
    "parallel_block": (dict(parallel_block=True), dict(norm_position="pre")),
    "positions": dict(positions="learned"),
    "rotary_base": (dict(rotary_base=500.0), dict(positions="rotary")),
    "rotary_scaling": (
        dict(rotary_scaling="ntk"),
        dict(positions="rotary", rotary_scaling="linear", rotary_factor=2.0),
    ),
    "rotary_factor": (dict(rotary_factor=3.0), dict(positions="rotary", rotary_scaling="linear", rotary_factor=2.0)),
    "relative_buckets": (dict(relative_buckets=16), dict(positions="relative")),
    "relative_max_distance": (dict(relative_max_distance=64), dict(positions="relative")),
    "max_length": dict(max_length=20),
    "image_size": dict(image_size=12),
    "patch_size": dict(patch_size=2),
    "num_channels": dict(num_channels=1),
    "num_classes": dict(num_classes=5),
    "pooling": dict(pooling="mean"),
    "pooler": dict(pooler=True),
    "output_softcap": dict(output_softcap=5.0),
    "dropout_rate": dict(dropout_rate=0.3),
    "attention_dropout_rate": dict(attention_dropout_rate=0.3),
    "activation_dropout_rate": dict(activation_dropout_rate=0.3),
    "init_std": dict(init_std=0.02),
    "scale_residual_init": dict(scale_residual_init=True),
    "parametrization": dict(parametrization="mup"),
    "base_width": (dict(base_width=4), dict(parametrization="mup")),
    "attention_implementation": dict(attention_implementation="blockwise"),
    "scan_unroll": dict(scan_unroll=2),
    "remat": dict(remat="full"),
    "precision": dict(precision="compute=bfloat16"),
}

# Fields that some models have no use for; all others belong to every model.
OF_SOME_MODELS = {
    "vocab_size": OF_TEXT,
    "source_vocab_size": ("Transformer",),
    "share_embeddings": ("Transformer",),
    "tie_output": WITH_OUTPUT,
    "scale_embeddings": OF_TEXT,
    "num_token_types": ("MaskedLM", "TextClassifier"),
    "window": ("CausalLM",),
    "num_decoder_layers": ("Transformer",),
    "parallel_block": ("CausalLM", "MaskedLM", "TextClassifier", "VisionTransformer"),
    "rotary_base": OF_TEXT,
    "rotary_scaling": OF_TEXT,
    "rotary_factor": OF_TEXT,
    "relative_buckets": OF_TEXT,
    "relative_max_distance": OF_TEXT,
    "max_length": OF_TEXT,
    "image_size": ("VisionTransformer",),
    "patch_size": ("VisionTransformer",),
    "num_channels": ("VisionTransformer",),
    "num_classes": CLASSIFIERS,
    "pooling": CLASSIFIERS,
    "pooler": ("MaskedLM", "TextClassifier"),
    "output_softcap": WITH_OUTPUT,
}

# Fields of the initial values alone: training from the same values is the same program.
OF_THE_START = ("init_std", "scale_residual_init")

TAKEN = [(model, field) for field in FLIPS for model in OF_SOME_MODELS.get(field, MODELS)]
REFUSED = [(model, field) for field in FLIPS for model in MODELS if (model, field) not in TAKEN]


def flip(field):
    """(changes, given) of a field."""
    return FLIPS[field] if isinstance(FLIPS[field], tuple) else (FLIPS[field], {})


def training_loss(name, config):
    """loss(model, key) on a batch of zeros."""
    tokens, labels = jnp.zeros((2, 4), int), jnp.zeros(2, int)

    def loss(model, key):
        if name == "Transformer":
            return F.cross_entropy(model(jnp.zeros((2, 5), int), tokens, key=key), tokens)
        if name == "CausalLM":
            return F.causal_lm_loss(model(tokens, key=key), tokens)
        if name == "MaskedLM":
            logits, captured = model(tokens, key=key, capture=("residual", *(["pooled"] if config.pooler else [])))
            # BERT's second task reads the pooled state.
            return F.masked_lm_loss(logits, tokens, tokens == 0) + captured.get("pooled", jnp.zeros(())).sum()
        if name == "TextClassifier":
            return F.cross_entropy(model(tokens, lengths=jnp.array([4, 2]), key=key), labels)
        images = jnp.zeros((2, config.image_size, config.image_size, config.num_channels))
        return F.cross_entropy(model(images, key=key), labels)

    return loss


def constructor(name, config):
    return lambda: getattr(models, name)(config, rngs=nnx.Rngs(0))


@functools.cache
def training_program(name: str, config: TransformerConfig) -> str:
    """A training loss as text, shapes of the parameters included; what its gradient is follows from it."""
    model = jax.eval_shape(constructor(name, config))
    return as_text(jax.make_jaxpr(training_loss(name, config))(model, jax.random.key(0)))


@functools.cache
def initial_program(name: str, config: TransformerConfig) -> str:
    """How the initial values are made, as text."""
    return as_text(jax.make_jaxpr(constructor(name, config))())


def test_every_field_has_a_flip():
    """A field was added to TransformerConfig without saying here how it changes the program."""
    assert set(FLIPS) == {field.name for field in dataclasses.fields(TransformerConfig)}


def shortest(field):
    """The model that takes a field and has the shortest program; the others' programs are of the same parts."""
    return next(m for m in ("CausalLM", *MODELS) if m in OF_SOME_MODELS.get(field, MODELS))


@pytest.mark.parametrize(("model", "field"), by_day(TAKEN, *(i for i, (m, f) in enumerate(TAKEN) if m == shortest(f))))
def test_no_silent_knobs(model, field):
    """The field is declared and never reaches the program of a model that it belongs to."""
    changes, given = flip(field)
    if (model, field) == ("Transformer", "num_layers"):
        given = dict(num_decoder_layers=2)  # or it would be enough that the decoder grows
    before, after = tiny_config(model, **given), tiny_config(model, **given | changes)
    assert getattr(before, field) != getattr(after, field) == changes[field]
    program = initial_program if field in OF_THE_START else training_program
    assert program(model, before) != program(model, after)


@pytest.mark.parametrize(("model", "field"), REFUSED)
def test_a_field_of_another_model_is_refused(model, field):
    """A model takes a field that it has no use for, and ignores it."""
    with pytest.raises(ConfigError, match=field):
        constructor(model, tiny_config(model, **flip(field)[0]))()


@pytest.mark.parametrize("scheme", ["rotary", "alibi", "relative"])
def test_images_have_no_positions_within_attention(scheme):
    """A distance in a line of patches is taken for one in the image."""
    with pytest.raises(ConfigError, match=f"^positions of VisionTransformer must be .*, got {scheme!r}"):
        constructor("VisionTransformer", tiny_config("VisionTransformer", positions=scheme))()


@pytest.mark.parametrize(
    ("model", "field"),
    [(model, "vocab_size") for model in OF_TEXT]
    + [(model, "num_classes") for model in CLASSIFIERS]
    + [("VisionTransformer", "image_size"), ("VisionTransformer", "patch_size")],
)
def test_a_model_names_the_field_that_it_lacks(model, field):
    """A required field gets a value that nobody chose, or its lack is found out far away."""
    with pytest.raises(ConfigError, match=f"^{model} needs {field}$"):
        constructor(model, tiny_config(model, **{field: None}))()


POLICIES = ("", "params=bfloat16", "compute=bfloat16", "compute=float16", "output=bfloat16")
OF_MOST = {field: choices for field, choices in _CHOICES.items() if field != "pooling"} | {"precision": POLICIES}
CHOICES = [("CausalLM", *item) for item in OF_MOST.items()]
CHOICES += [("VisionTransformer", "positions", ("sinusoidal", "learned", "none"))]
CHOICES += [(model, "pooling", _CHOICES["pooling"]) for model in CLASSIFIERS]
BY_DAY = range(len(CHOICES))
CHOICES += [("Transformer", *item) for item in OF_MOST.items()] + [("MaskedLM", "activation", _CHOICES["activation"])]


@pytest.mark.parametrize(("model", "field", "choices"), by_day(CHOICES, *BY_DAY))
def test_each_choice_of_a_field_is_a_program_of_its_own(model, field, choices):
    """Two choices of one field are the same program: one of them is a name for nothing."""
    choices = [choice for choice in choices if choice != "auto"]  # which is one of the others
    programs = set()
    for choice in choices:
        given = dict(positions="rotary", rotary_factor=1.0 + (choice != "none")) if field == "rotary_scaling" else {}
        programs.add(training_program(model, tiny_config(model, **given | {field: choice})))
    assert len(programs) == len(choices)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_configuration_is_the_same_program(model):
    """The comparisons above would call any two programs different."""
    for program in (training_program, initial_program):
        assert program.__wrapped__(model, tiny_config(model)) == program(model, tiny_config(model))


EVERYTHING = dict(
    gated=True, qk_norm=True, embedding_norm=True, norm_position="sandwich", tie_output=False, positions="relative",
    pooler=True, num_token_types=2, share_embeddings=False,
)  # fmt: skip


@pytest.mark.parametrize("positions", ["relative", "learned"])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_reaches_the_loss(name, positions):
    """A parameter is made, counted, saved and never used."""
    if (name, positions) == ("VisionTransformer", "relative"):
        positions = "sinusoidal"  # and so without a table
    wanted = {k: v for k, v in EVERYTHING.items() if name in OF_SOME_MODELS.get(k, MODELS)} | dict(positions=positions)
    config = tiny_config(name, **wanted)
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


def fields_of(kind):
    return [field.name for field in dataclasses.fields(TransformerConfig) if field.type in (kind, kind | None)]


def test_every_field_is_of_a_kind():
    """A field is checked by none of the tests below: its type is not among them."""
    kinds = {kind: fields_of(kind) for kind in (int, bool, float, str)}
    assert sum(map(len, kinds.values())) == len(dataclasses.fields(TransformerConfig))
    assert set(kinds[str]) == {*_CHOICES, "precision"}


@pytest.mark.parametrize("field", fields_of(int))
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8"])
def test_counts_must_be_positive_integers(field, value):
    """A count that is none is rounded, clipped or fails far away."""
    with pytest.raises(ValueError, match=f"^{field} must be a positive integer, got {re.escape(repr(value))}"):
        tiny_config(**{field: value})


@pytest.mark.parametrize("field", fields_of(bool))
@pytest.mark.parametrize("value", [0, 1, "false", None])
def test_switches_must_be_booleans(field, value):
    """A string from a command line, "false" included, is true."""
    with pytest.raises(ConfigError, match=f"^{field} must be True or False, got {value!r}"):
        tiny_config(**{field: value})


RATES = ["dropout_rate", "attention_dropout_rate", "activation_dropout_rate"]


@pytest.mark.parametrize("field", [field for field in fields_of(float) if field not in RATES])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", True])
def test_other_numbers_must_be_positive(field, value):
    """A cap, a deviation or a base that cannot be gives NaN in the middle of a run."""
    with pytest.raises(ConfigError, match=f"^{field} must be positive, got {value!r}"):
        tiny_config(**{field: value})


@pytest.mark.parametrize("field", RATES)
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), True])
def test_rates_must_be_in_zero_to_one(field, value):
    """A rate that cannot be is clipped, or found out in the middle of a run."""
    with pytest.raises(ValueError, match=rf"^{field} must be in \[0, 1\), got {value}"):
        tiny_config(**{field: value})


@pytest.mark.parametrize("field", sorted(_CHOICES))
def test_choices_are_listed_and_the_nearest_is_named(field):
    """A misspelt choice falls back to another one, or the error does not help."""
    right = _CHOICES[field][-1]
    wrong = right + "x"
    with pytest.raises(ValueError, match=f"^{field} must be one of .*, got {wrong!r}; did you mean {right!r}"):
        tiny_config(**{field: wrong})


ROTARY, RELATIVE = dict(positions="rotary"), dict(positions="relative")
IMAGES = dict(image_size=8, patch_size=4)
TOGETHER = "^rotary_scaling and rotary_factor go together"
BUCKETS = "^relative_buckets must be a multiple of 4 and relative_max_distance above half of it"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(num_heads=3),
            "^d_model must be divisible by num_heads unless head_dim is given, got d_model=8, num_heads=3",
        ),
        (dict(num_kv_heads=3), "^num_heads=2 must be a multiple of num_kv_heads=3"),
        (dict(num_kv_heads=4), "^num_heads=2 must be a multiple of num_kv_heads=4"),
        (dict(num_heads=4, num_kv_heads=3), "^num_heads=4 must be a multiple of num_kv_heads=3"),
        (dict(source_vocab_size=9), "^share_embeddings needs one vocabulary, got source_vocab_size=9.*=False"),
        (dict(source_vocab_size=13), "^share_embeddings needs one vocabulary, got source_vocab_size=13"),
        (dict(parallel_block=True), "^parallel_block needs norm_position='pre', got 'post'"),
        (dict(parallel_block=True, norm_position="sandwich"), "^parallel_block needs norm_position='pre'"),
        (ROTARY | dict(head_dim=5), "^positions='rotary' turns pairs: the head width must be even, got 5"),
        (dict(rotary_base=5.0), "^rotary_base goes with positions='rotary', got positions='sinusoidal'"),
        (RELATIVE | dict(rotary_factor=2.0), "^rotary_factor goes with positions='rotary', got positions='relative'"),
        (dict(rotary_scaling="ntk"), "^rotary_scaling goes with positions='rotary'"),
        (ROTARY | dict(rotary_factor=2.0), f"{TOGETHER}.*, got 'none' with 2.0"),
        (ROTARY | dict(rotary_scaling="linear"), f"{TOGETHER}.*, got 'linear' with 1.0"),
        (ROTARY | dict(rotary_scaling="ntk", rotary_factor=0.5), f"{TOGETHER}.*, got 'ntk' with 0.5"),
        (ROTARY | dict(head_dim=2, rotary_scaling="ntk", rotary_factor=2.0), "^rotary_scaling='ntk' needs a head wid"),
        (dict(relative_buckets=16), "^relative_buckets goes with positions='relative', got positions='sinusoidal'"),
        (ROTARY | dict(relative_max_distance=16), "^relative_max_distance goes with positions='relative'"),
        (RELATIVE | dict(relative_buckets=6), f"{BUCKETS}, got 6 and 128"),
        (RELATIVE | dict(relative_buckets=32, relative_max_distance=16), f"{BUCKETS}, got 32 and 16"),
        (dict(base_width=64), "^base_width goes with parametrization='mup', got 64 with 'standard'"),
        (IMAGES | dict(patch_size=3), "^patch_size=3 must divide image_size=8"),
        (IMAGES | dict(num_channels=2), r"^num_channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes, message):
    """One of two contradicting fields wins."""
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


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
    config = tiny_config(num_heads=3, head_dim=5)
    assert (config.head_width, config.kv_heads) == (5, 3)


def test_a_configuration_cannot_be_changed_behind_its_validation():
    """A field is set after it was checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().d_model = 7


# Precision -------------------------------------------------------------------------------------


def test_precision_reads_what_is_given_and_is_float32_elsewhere():
    """A part of the policy is read into another, or the default is not float32."""
    assert Precision.parse("compute=bfloat16") == Precision("float32", "bfloat16", "float32")
    assert Precision.parse(" params=bfloat16, output=float16 ") == Precision("bfloat16", "float32", "float16")
    assert Precision.parse("") == Precision("float32", "float32", "float32")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("bfloat16", "precision must read 'params=...,compute=...,output=...', got 'bfloat16'"),
        ("compute=bfloat16=x", "precision must read"),
        ("compute=bf16", "precision: compute must be one of .*, got 'bf16'; did you mean 'bfloat16'"),
        ("compue=bfloat16", "precision has no field 'compue'; did you mean 'compute'"),
        ("params=int8", "precision: params must be one of"),
    ],
)
def test_a_precision_that_cannot_be_read_is_refused(policy, message):
    """A misspelt policy is float32 without a word."""
    with pytest.raises(ValueError, match=message):
        tiny_config(precision=policy)


# Names -----------------------------------------------------------------------------------------


def test_a_misspelt_field_is_refused_with_the_nearest():
    """An unknown field of an experiment's `model` section is ignored."""
    with pytest.raises(ValueError, match="^model has no field 'd_modle'; did you mean 'd_model'"):
        TransformerConfig.from_dict(dict(vocab_size=5, d_modle=4))


def test_a_misspelt_preset_is_refused_with_the_nearest():
    """A misspelt preset builds another model."""
    with pytest.raises(ValueError, match="^preset must be one of .*; did you mean 'transformer_big'"):
        TransformerConfig.preset("transformer_bigg")


def test_a_preset_takes_changes():
    """A change is lost, or leaks into the preset for those who come after."""
    config = TransformerConfig.preset("transformer_base", vocab_size=100, dropout_rate=0.0)
    assert (config.vocab_size, config.dropout_rate, config.d_model) == (100, 0.0, 512)
    assert TransformerConfig.preset("transformer_base").vocab_size == 37_000


def test_presets_are_the_papers():
    """Vaswani et al., 2017, table 3: a published setting is another one here."""
    base, big = (TransformerConfig.preset(name) for name in ("transformer_base", "transformer_big"))
    fields = ("d_model", "num_heads", "head_width", "d_ff", "num_layers", "dropout_rate", "norm_position")
    assert [getattr(base, f) for f in fields] == [512, 8, 64, 2048, 6, 0.1, "post"]
    assert [getattr(big, f) for f in fields] == [1024, 16, 64, 4096, 6, 0.3, "post"]
    assert set(PRESETS) >= {"transformer_base", "transformer_big"}


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
    model = jax.eval_shape(constructor(name, TransformerConfig.preset(preset)))
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


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(TransformerConfig) if f.default is not None])
def test_none_is_refused_where_it_has_no_meaning(field):
    """It would end in arithmetic with None, far from where it was written."""
    with pytest.raises(ConfigError, match=f"{field} must .*None"):
        TransformerConfig(**{"vocab_size": 13, field: None})
