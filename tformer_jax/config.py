"""Every architectural choice of a model, validated where it is made."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

_T = TypeVar("_T")

_DTYPES = ("float32", "bfloat16", "float16")


class ConfigError(ValueError):
    """A config that cannot be; the message names the field, what it got and what it wants."""


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ConfigError that lists the choices and names the nearest one."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(f"{name} must be one of {choices}, got {value!r}{nearest(str(value), choices)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for the known name closest to `name`, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def build(cls: type[_T], fields: Mapping[str, Any], where: str) -> _T:
    """`cls(**fields)` for a dataclass, with an error that helps: unknown and missing fields are named.

    Args:
      cls: a dataclass.
      fields: its values by name.
      where: what the user calls this group of fields, for the message.

    Raises:
      ConfigError: a field that `cls` does not have (the nearest one is suggested), or a
        required one that is missing.
    """
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in fields:
        if name not in known:
            raise ConfigError(f"{where} has no field {name!r}{nearest(name, known)}")
    required = (n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING)
    missing = [name for name in required if name not in fields]
    if missing:
        raise ConfigError(f"{where} needs {', '.join(missing)}")
    return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtypes of parameters, computation and logits; softmax, norms and losses stay float32."""

    params: str = "float32"
    compute: str = "float32"
    output: str = "float32"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_choice(f"precision: {field.name}", getattr(self, field.name), _DTYPES)

    @classmethod
    def parse(cls, policy: str) -> Self:
        """From "params=float32,compute=bfloat16,output=float32"; what is left out is float32."""
        try:
            fields = dict(part.split("=") for part in policy.replace(" ", "").split(",") if part)
        except ValueError:
            raise ConfigError(f"precision must read 'params=...,compute=...,output=...', got {policy!r}") from None
        return build(cls, fields, "precision")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The architecture of a model. Every field changes the program or raises.

    Attributes:
      vocab_size: V, of the target side (and of the source, when shared).
      source_vocab_size: of the source side; None: source and target share one vocabulary.
      share_embeddings: one table embeds source and target; needs a shared vocabulary.
      tie_output: the output projection is the target embedding, transposed.
      scale_embeddings: multiply embeddings by √d_model (Vaswani et al., section 3.4).
      d_model: D, the width of the residual stream.
      num_heads: N, query heads.
      num_kv_heads: K, key/value heads, a divisor of num_heads; None: num_heads.
      head_dim: H; None: d_model / num_heads.
      d_ff: F, the width inside the feed-forward network.
      num_layers: L, of the encoder and (unless told apart) of the decoder.
      num_decoder_layers: of the decoder; None: num_layers.
      activation: inside the feed-forward network; "gelu" is the exact one.
      use_bias: biases in attention and feed-forward projections.
      norm_position: "post" (the paper) or "pre" (adds a final norm to each stack).
      norm_eps: added to the variance.
      positions: "sinusoidal" or "learned".
      max_length: the longest sequence, in tokens.
      dropout_rate: of embeddings and of each sublayer's output.
      attention_dropout_rate: of attention weights.
      activation_dropout_rate: inside the feed-forward network.
      attention_implementation: see `functional.scaled_dot_product_attention`.
      scan_unroll: layers per iteration of the scan over layers.
      remat: what the backward pass recomputes: "none", "dots" (all but matrix products) or
        "full" (everything but the layers' inputs).
      precision: "params=...,compute=...,output=...".

    Raises:
      ConfigError: a value that cannot be, by the field's name.
    """

    vocab_size: int
    source_vocab_size: int | None = None
    share_embeddings: bool = True
    tie_output: bool = True
    scale_embeddings: bool = True
    d_model: int = 512
    num_heads: int = 8
    num_kv_heads: int | None = None
    head_dim: int | None = None
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    activation: str = "relu"
    use_bias: bool = True
    norm_position: str = "post"
    norm_eps: float = 1e-5
    positions: str = "sinusoidal"
    max_length: int = 512
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    activation_dropout_rate: float = 0.0
    attention_implementation: str = "auto"
    scan_unroll: int = 1
    remat: str = "none"
    precision: str = "params=float32,compute=float32,output=float32"

    def __post_init__(self):
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} must be a positive integer, got {value!r}")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in _RATES:
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0.0 <= value < 1.0:
                raise ConfigError(f"{name} must be in [0, 1), got {value!r}")
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if type(self.norm_eps) not in (int, float) or self.norm_eps <= 0:
            raise ConfigError(f"norm_eps must be positive, got {self.norm_eps!r}")
        if self.scan_unroll > min(self.num_layers, self.num_decoder_layers or self.num_layers):
            raise ConfigError(f"scan_unroll={self.scan_unroll} exceeds the layers of a stack")
        if self.head_dim is None and self.d_model % self.num_heads:
            raise ConfigError(
                f"d_model must be divisible by num_heads unless head_dim is given, "
                f"got d_model={self.d_model}, num_heads={self.num_heads}"
            )
        if self.num_heads % self.kv_heads:
            raise ConfigError(f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}")
        if self.share_embeddings and self.source_vocab_size is not None:
            raise ConfigError(
                f"share_embeddings needs one vocabulary, got source_vocab_size={self.source_vocab_size} "
                f"beside vocab_size={self.vocab_size}; leave it None or set share_embeddings=False"
            )
        Precision.parse(self.precision)

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_width(self) -> int:
        """H."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def dtypes(self) -> Precision:
        """The parsed precision policy."""
        return Precision.parse(self.precision)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From a mapping, such as the `model` section of an experiment config."""
        return build(cls, fields, "model")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A published model by name, with changes: `preset("transformer_base", vocab_size=32_000)`."""
        check_choice("preset", name, PRESETS)
        return cls.from_dict(PRESETS[name] | changes)


_COUNTS = (
    "vocab_size", "source_vocab_size", "d_model", "num_heads", "num_kv_heads", "head_dim", "d_ff",
    "num_layers", "num_decoder_layers", "max_length", "scan_unroll",
)  # fmt: skip

_SWITCHES = ("share_embeddings", "tie_output", "scale_embeddings", "use_bias")

_RATES = ("dropout_rate", "attention_dropout_rate", "activation_dropout_rate")

_CHOICES = {
    "activation": ("relu", "gelu", "gelu_tanh", "silu"),
    "norm_position": ("post", "pre"),
    "positions": ("sinusoidal", "learned"),
    "attention_implementation": ("auto", "reference", "blockwise"),
    "remat": ("none", "dots", "full"),
}

# Vaswani et al., 2017, table 3, with the 37,000 shared tokens of English-German.
_BASE = dict(vocab_size=37_000, d_model=512, num_heads=8, d_ff=2048, num_layers=6, dropout_rate=0.1)

PRESETS: dict[str, dict[str, Any]] = {
    "transformer_base": _BASE,
    "transformer_big": _BASE | dict(d_model=1024, num_heads=16, d_ff=4096, dropout_rate=0.3),
}
