"""Every field of the configuration is checked, and every field changes the program."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support import tiny_config

import tformer_jax.functional as F
from tformer_jax import TransformerConfig, models
from tformer_jax.config import _CHOICES, PRESETS, Precision, build, check_choice, nearest

# No silent knobs -------------------------------------------------------------------------------

# For each field: another valid value, and what else has to be so for it to be valid.
FLIPS = {
    "vocab_size": dict(vocab_size=17),
    "source_vocab_size": (dict(source_vocab_size=17), dict(share_embeddings=False)),
    "share_embeddings": dict(share_embeddings=False),
    "tie_output": dict(tie_output=False),
    "scale_embeddings": dict(scale_embeddings=False),
    "d_model": dict(d_model=12),
    "num_heads": dict(num_heads=4),
    "num_kv_heads": dict(num_kv_heads=1),
    "head_dim": dict(head_dim=3),
    "d_ff": dict(d_ff=16),
    "num_layers": (dict(num_layers=3), dict(num_decoder_layers=2)),
    "num_decoder_layers": dict(num_decoder_layers=3),
    "activation": dict(activation="silu"),
    "use_bias": dict(use_bias=False),
    "norm_position": dict(norm_position="pre"),
    "norm_eps": dict(norm_eps=1e-6),
    "positions": dict(positions="learned"),
    "max_length": dict(max_length=20),
    "dropout_rate": dict(dropout_rate=0.3),
    "attention_dropout_rate": dict(attention_dropout_rate=0.3),
    "activation_dropout_rate": dict(activation_dropout_rate=0.3),
    "attention_implementation": dict(attention_implementation="blockwise"),
    "scan_unroll": dict(scan_unroll=2),
    "remat": dict(remat="full"),
    "precision": dict(precision="compute=bfloat16"),
}


def program(**changes) -> str:
    """The gradient of a training loss as text, shapes of the parameters and of every constant included."""
    return trace(tiny_config(**changes))


@functools.cache
def trace(config: TransformerConfig) -> str:
    model = jax.eval_shape(lambda: models.Transformer(config, rngs=nnx.Rngs(0)))
    source, target = jnp.zeros((2, 5), int), jnp.zeros((2, 4), int)

    def loss(model, key):
        return F.cross_entropy(model(source, target, key=key), target)

    jaxpr = jax.make_jaxpr(jax.grad(loss))(model, jax.random.key(0))
    return re.sub(r"0x[0-9a-f]+|id=\d+", "", str(jaxpr))


def test_every_field_has_a_flip():
    """A field was added to TransformerConfig without saying here how it changes the program."""
    assert set(FLIPS) == {field.name for field in dataclasses.fields(TransformerConfig)}


@pytest.mark.parametrize("field", FLIPS)
def test_no_silent_knobs(field):
    """The field is declared and never reaches the program."""
    flip = FLIPS[field]
    changes, given = flip if isinstance(flip, tuple) else (flip, {})
    assert field in changes and getattr(tiny_config(**given), field) != changes[field]
    assert program(**given) != program(**given | changes)


POLICIES = ("", "params=bfloat16", "compute=bfloat16", "compute=float16", "output=bfloat16")


@pytest.mark.parametrize(("field", "choices"), [*_CHOICES.items(), ("precision", POLICIES)])
def test_each_choice_of_a_field_is_a_program_of_its_own(field, choices):
    """Two choices of one field are the same program: one of them is a name for nothing."""
    choices = [choice for choice in choices if choice != "auto"]  # which is one of the others
    assert len({program(**{field: choice}) for choice in choices}) == len(choices)


def test_the_same_configuration_is_the_same_program():
    """The comparison above would call any two programs different."""
    assert trace.__wrapped__(tiny_config()) == trace.__wrapped__(tiny_config())


# Validation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    ["vocab_size", "source_vocab_size", "d_model", "num_heads", "num_kv_heads", "head_dim", "d_ff", "num_layers",
     "num_decoder_layers", "max_length", "scan_unroll"],
)  # fmt: skip
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8"])
def test_counts_must_be_positive_integers(field, value):
    """A count that is none is rounded, clipped or fails far away."""
    with pytest.raises(ValueError, match=f"^{field} must be a positive integer, got {re.escape(repr(value))}"):
        tiny_config(**{field: value})


@pytest.mark.parametrize("field", ["dropout_rate", "attention_dropout_rate", "activation_dropout_rate"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(norm_eps=0), "^norm_eps must be positive, got 0"),
        (
            dict(num_heads=3),
            "^d_model must be divisible by num_heads unless head_dim is given, got d_model=8, num_heads=3",
        ),
        (dict(num_kv_heads=3), "^num_heads=2 must be a multiple of num_kv_heads=3"),
        (dict(num_kv_heads=4), "^num_heads=2 must be a multiple of num_kv_heads=4"),
        (dict(source_vocab_size=9), "^share_embeddings needs one vocabulary, got source_vocab_size=9.*=False"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes, message):
    """One of two contradicting fields wins."""
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


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


def test_a_missing_field_is_named():
    """A required field gets a value that nobody chose."""
    with pytest.raises(ValueError, match="^model needs vocab_size"):
        TransformerConfig.from_dict(dict(d_model=4))


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
    with pytest.raises(ValueError, match="^thing has no field 'sise'; did you mean 'size'"):
        build(Thing, dict(sise=3), "thing")
