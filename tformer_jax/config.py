"""The architecture of a model as a config: every choice, validated where it is made."""

import dataclasses
import difflib
import functools
import math
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, TypeVar

from .presets import PRESETS

_T = TypeVar("_T")

# As many as the deepest Transformer has (Wang et al., 2022); counting FLOPs unrolls them all.
_MOST_LAYERS = 1000

_DTYPES = ("float32", "bfloat16", "float16")


class ConfigError(ValueError):
    """An invalid config; the message names the field, what it got and what it wants."""


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ConfigError that lists the choices and names the nearest one."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(f"{name} must be one of {choices}, got {value!r}{nearest(str(value), choices)}")


def check_positive(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Raises a ConfigError unless a number is finite and positive, or 0 where that is allowed."""
    if not (0 < value < math.inf or or_zero and value == 0):
        wanted = "be finite" if not value <= 0 else "not be negative" if or_zero else "be positive"
        raise ConfigError(f"{name} must {wanted}, got {value}")


def check_seed(name: str, value: Any) -> None:
    """Raises a ConfigError unless a seed is one for NumPy's and for JAX's generators."""
    if type(value) is not int or not 0 <= value < 2**32:
        raise ConfigError(f"{name} must be an integer in [0, 2^32), got {value!r}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns '; did you mean ...?' with the known name closest to `name`, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


# What a field is for: a part of the function that a model computes, which a model that starts from another one's
# parameters must share; of training alone (a start, a regularisation); what stands before and after a model's layers,
# whose parameters fit or do not by their shapes; a way to run, which changes no result; the order of training batches,
# which leaves the data that they are made of as they are.
FUNCTION, TRAINING, ENDS, RUN, ORDER = "function", "training", "ends", "run", "order"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the value of a field must be, in words that follow "must", and whether a value is that."""

    text: str
    holds: Callable[[Any], bool]


POSITIVE = Wanted("be positive and finite", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Wanted("be finite and not negative", lambda x: 0 <= x < math.inf)
SHARE = Wanted("be in [0, 1)", lambda x: 0 <= x < 1)
INSIDE = Wanted("be in (0, 1)", lambda x: 0 < x < 1)
UNSIGNED = Wanted("not be negative", lambda x: x >= 0)
COUNT = Wanted("be a positive integer", lambda x: type(x) is int and x > 0)
SEED = Wanted("be an integer in [0, 2^32)", lambda x: type(x) is int and 0 <= x < 2**32)


def one_of(*choices: Any) -> Wanted:
    """Wants one of some values."""
    return Wanted(f"be one of {list(choices)}", lambda x: x in choices)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a field of a component is, beside its type: the only place that says so.

    Attributes:
      wanted: what its value must be, where it is not None; None: its type says all.
      among: the names that it may have, of which an error suggests the nearest.
      part: FUNCTION, TRAINING, ENDS, RUN or ORDER.
      traced: a number that a compiled program may take as an argument, unless it is 0 or None, which turns
        something off.
    """

    wanted: Wanted | None = None
    among: Mapping[str, Any] | Sequence[str] | None = None
    part: str = FUNCTION
    traced: bool = False


def field(
    default: Any = dataclasses.MISSING,
    wanted: Wanted | None = None,
    *,
    among: Mapping[str, Any] | Sequence[str] | None = None,
    part: str = FUNCTION,
    traced: bool = False,
) -> Any:
    """Makes a field of a component; see `Kind`. A `default` that is a function of nothing is called for each one.

    `among`, such as a registry, is looked at when a value is checked: plugins may add to it.
    """
    metadata = {"kind": Kind(wanted, among, part, traced)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def kind_of(of: dataclasses.Field) -> Kind:
    """Returns what a field is; one that was not made by `field` is of its type, and no more is known."""
    return of.metadata.get("kind", Kind())


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Component:
    """A part of a config. A subclass is a frozen dataclass with keywords alone, whose instances check themselves.

        class Rotary(PositionScheme):
            base: float = field(10_000.0, POSITIVE)

    Each value must be of the field's type and what its `field` wants; `check` says what fields must be beside each
    other. Two are equal if they are of one class and have the same values, of which a traced number equals itself alone.

    Attributes:
      registry: of a family whose members a config chooses by name; None: there is one class alone.
      name: in the registry.
    """

    registry: ClassVar[Mapping[str, type] | None] = None
    name: ClassVar[str | None] = None

    def __init_subclass__(cls, **how: Any):
        super().__init_subclass__(**how)
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)

    def __post_init__(self):
        hints = _hints(type(self))
        for of in dataclasses.fields(self):
            _check_value(of.name, getattr(self, of.name), hints[of.name], kind_of(of))
        self.check()

    def check(self) -> None:
        """Raises a ConfigError, which begins with the name of a field, where fields do not go together."""

    def changed(self, **changes: Any) -> Self:
        """Returns the same with other values; a table changes some fields of a component: `attention={"window": 8}`.

        A field that another component would have is refused, see `build`. Naming another component of a family keeps
        those fields that it has too.
        """
        return build(type(self), merged(type(self), to_dict(self), changes), self.name or type(self).__name__)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    def __hash__(self) -> int:
        if "_hash" not in self.__dict__:  # of a model's config, asked for once for each of its modules
            values = (_hashable(getattr(self, f.name)) for f in dataclasses.fields(self))
            self.__dict__["_hash"] = hash((type(self), *values))
        return self.__dict__["_hash"]


def _is_traced(value: Any) -> bool:
    """Returns whether only the running program knows a value."""
    return hasattr(value, "aval")


def _same(a: Any, b: Any) -> bool:
    return a is b if _is_traced(a) or _is_traced(b) else a == b


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((key, _hashable(x)) for key, x in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return id(value) if _is_traced(value) else value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def component_of(hint: Any) -> type[Component] | None:
    """Returns the class or family of components that an annotation asks for; None if it asks for something else."""
    kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Component)]
    return found[0] if found else None


def _check_value(name: str, value: Any, hint: Any, kind: Kind) -> None:
    if kind.traced and _is_traced(value):
        return
    if (cls := component_of(hint)) is not None:
        if not isinstance(value, cls) and not (value is None and NoneType in typing.get_args(hint)):
            raise ConfigError(f"{name} must be a {cls.__name__}, got {value!r}")
        return
    kinds = plain_kinds(hint)
    if value is None and (kinds is None or NoneType in kinds):
        return
    # "must be a positive integer" says more than "must be an integer"
    ok = type(value) in (kinds or ()) or type(value) is int and float in (kinds or ())
    if kind.wanted is not None and (ok or kinds is None) and not kind.wanted.holds(value):
        raise ConfigError(f"{name} must {kind.wanted.text}, got {value!r}")
    if kinds is not None:
        _check_plain(name, value, kinds)
    if kind.among is not None and value not in kind.among:
        raise ConfigError(
            f"{name} must be one of {list(kind.among)}, got {value!r}{nearest(str(value), list(kind.among))}"
        )


def build(cls: type[_T], fields: Mapping[str, Any], where: str) -> _T:
    """Returns `cls(**fields)` for a dataclass, its components built too, or raises an error that names what is wrong.

    Args:
      cls: a dataclass. Of a family of components, `fields["name"]` says which.
      fields: its values by name; tables for components.
      where: what the user calls this group of fields, for the message.

    Raises:
      ConfigError: a field that `cls` does not have (the nearest one is suggested), a required one that is missing,
        or a value of another type than the field's, an empty text, or a number that is not finite or too large.
    """
    if isinstance(fields, cls):
        return fields
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{where} must be a table of fields, got {fields!r}")
    cls, fields = _chosen(cls, fields, where)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in fields:
        if name not in known:
            raise ConfigError(f"{where} has no field {name!r}{_meant(cls, name, known)}")
    required = (n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING)
    missing = [name for name in required if name not in fields]
    if missing:
        raise ConfigError(f"{where} needs {', '.join(missing)}")
    hints, values = _hints(cls), {}
    for name, value in fields.items():
        inner = component_of(hints[name])
        if inner is not None and value is not None:
            value = build(inner, _completed(known[name], inner, value), f"{where}.{name}")
        elif not issubclass(cls, Component) and (kinds := plain_kinds(hints[name])) is not None:
            _check_plain(f"{where}.{name}", value, kinds)
        values[name] = value
    if not issubclass(cls, Component):
        return cls(**values)
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None


def _chosen(cls: type[_T], fields: Mapping[str, Any], where: str) -> tuple[type[_T], Mapping[str, Any]]:
    """The class that `fields["name"]` means, and the other fields."""
    registry = getattr(cls, "registry", None)
    if registry is None:
        return cls, fields
    if "name" not in fields:
        if cls.name is None:
            raise ConfigError(f"{where} needs name")
        return cls, fields
    chosen = registry.named(fields["name"], f"{where}.name")
    return chosen, {name: value for name, value in fields.items() if name != "name"}


def _completed(of: dataclasses.Field, family: type[Component], value: Any) -> Any:
    """A table that says no name, of a family: one of the default's name, with the default's fields."""
    if not isinstance(value, Mapping) or of.default_factory is dataclasses.MISSING:
        return value
    return merged(family, to_dict(of.default_factory()), value)


def _meant(cls: type, name: str, known: Mapping[str, Any]) -> str:
    """Returns which field may be meant by one that a class does not have: of another of its family, or the nearest."""
    registry = getattr(cls, "registry", None) or {}
    others = [n for n, other in registry.items() if name in {f.name for f in dataclasses.fields(other)}]
    if others:
        return f", which goes with name={' or '.join(map(repr, others))}; this is name={cls.name!r}"
    inside = [
        f"{outer}.{name}" for outer, hint in _hints(cls).items()
        if (inner := component_of(hint)) is not None and name in _all_fields(inner)
    ]  # fmt: skip
    return f"; did you mean {' or '.join(inside)}?" if inside else nearest(name, known)


def _all_fields(family: type[Component]) -> set[str]:
    """The fields of a component, or of any of a family."""
    classes = [family] if family.registry is None else family.registry.values()
    return {f.name for cls in classes for f in dataclasses.fields(cls)}


def to_dict(component: Component) -> dict[str, Any]:
    """Returns a component as nested tables, `build`'s argument; of a family, "name" comes first."""
    named = {} if component.registry is None else {"name": component.name}
    values = {f.name: getattr(component, f.name) for f in dataclasses.fields(component)}
    return named | {n: to_dict(x) if isinstance(x, Component) else x for n, x in values.items()}


def merged(cls: type, base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns tables of fields with changes, component by component.

    Where a change names another component of a family, those fields of the old one go that the new one does not have.
    """
    registry, result = getattr(cls, "registry", None), dict(base)
    if registry is not None:
        old, new = base.get("name", cls.name), changes.get("name", base.get("name", cls.name))
        cls = registry.get(new, cls) if isinstance(new, str) else cls  # `build` refuses another name
        if new != old:
            kept = {f.name for f in dataclasses.fields(cls)} | {"name"}
            result = {name: value for name, value in base.items() if name in kept}
    hints = _hints(cls)
    for name, value in changes.items():
        inner = component_of(hints.get(name))
        if inner is not None and isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            value = merged(inner, result[name], value)
        result[name] = value
    return result


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested tables from dotted names: {"attention.window": 8} is {"attention": {"window": 8}}."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        *outer, name = path.split(".")
        table = result
        for part in outer:
            table = table.setdefault(part, {})
        table[name] = value
    return result


def leaves(component: Any, prefix: str = "") -> Iterator[tuple[str, Any, Kind]]:
    """Yields every value within a component, with its dotted name and what it is; a family's choice is "....name"."""
    if getattr(component, "registry", None) is not None:
        yield f"{prefix}name", component.name, Kind()
    for of in dataclasses.fields(component):
        value = getattr(component, of.name)
        if isinstance(value, Component):
            yield from leaves(value, f"{prefix}{of.name}.")
        else:
            yield f"{prefix}{of.name}", value, kind_of(of)


def plain_kinds(hint: Any) -> tuple[type, ...] | None:
    """Returns the plain types that a field may have, by its annotation; None for a field of tables and lists."""
    kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return kinds if all(kind in _CALLED for kind in kinds) else None


def _check_plain(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    """Raises a ConfigError for what no field of these types can be."""
    of_kind = isinstance(value, (*kinds, int) if float in kinds else kinds) and not (
        isinstance(value, bool) and bool not in kinds
    )
    if not of_kind:
        wanted = " or ".join(_CALLED.get(kind, kind.__name__) for kind in kinds)
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")
    if value == "":
        raise ConfigError(f"{name} must not be empty")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{name} must not contain a NUL character, got {value!r}")
    if float in kinds and isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST:
        raise ConfigError(f"{name} must be finite, got {value}")
    if int in kinds and isinstance(value, int) and abs(value) >= 2**31 and not name.endswith("seed"):
        raise ConfigError(f"{name} must be below 2^31, because counts are int32, got {value}")


_LARGEST = sys.float_info.max
_CALLED = {int: "an integer", float: "a number", str: "a text", bool: "True or False", NoneType: "None"}


def with_traced(config: _T, numbers: Mapping[str, Any]) -> _T:
    """A dataclass's instance, some of whose numbers only the running program knows (tracers), as they are.

    It equals itself alone: what compares the static parts of modules must not compare tracers.

    Args:
      config: valid for some numbers of the same kind: not zero, not None.
      numbers: by the field's name.
    """
    cls = _compared_by_identity(type(config)) if numbers else type(config)
    changed = object.__new__(cls)
    changed.__dict__.update(config.__dict__, **numbers)
    return changed


@functools.cache
def _compared_by_identity(cls: type) -> type:
    return type(cls.__name__, (cls,), {"__eq__": object.__eq__, "__hash__": object.__hash__})


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtypes of parameters, computation and logits; softmax, norms and losses stay float32.

    So does all that training accumulates: gradients in parts, the optimiser's memory, the moving average. A parameter
    of 16 bits is rounded after every update, though: one that is smaller than half a unit in its last place (in
    bfloat16, 1/512 to 1/256 of the parameter) is lost. To train, keep "params=float32,compute=bfloat16".
    """

    params: str = "float32"
    compute: str = "float32"
    output: str = "float32"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_choice(f"precision: {field.name}", getattr(self, field.name), _DTYPES)

    @classmethod
    def parse(cls, policy: str) -> Self:
        """Parses a policy such as "params=float32,compute=bfloat16,output=float32"; what is left out is float32."""
        if not isinstance(policy, str):
            raise ConfigError(f"precision must be a string, got {policy!r}")
        pairs = [part.split("=") for part in policy.replace(" ", "").split(",") if part]
        names = [pair[0] for pair in pairs]
        if any(len(pair) != 2 for pair in pairs):
            raise ConfigError(f"precision must read 'params=...,compute=...,output=...', got {policy!r}")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"precision must name {twice} once, got {policy!r}")
        return build(cls, dict(pairs), "precision")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The architecture of a model. Every field changes the program or raises.

    Some fields are for some models only (`vocab_size` has no meaning for images); the others refuse
    them: see `check_for`.

    Attributes:
      vocab_size: V, the vocabulary size of the target side (and of the source, when shared).
      source_vocab_size: vocabulary size of the source side; None: source and target share one vocabulary.
      share_embeddings: embed source and target with one table; needs a shared vocabulary.
      tie_output: use the (target) embedding, transposed, as the output projection.
      scale_embeddings: multiply embeddings by √d_model (Vaswani et al., section 3.4).
      embedding_norm: normalise the embeddings, positions included (BERT).
      num_token_types: number of token types, each with an embedding of its own (BERT's segments); None: no types.
      d_model: D, the width of the residual stream.
      num_heads: N, the number of query heads.
      num_kv_heads: K, the number of key/value heads, a divisor of num_heads; None: num_heads.
      head_dim: H, the width of a head; None: d_model / num_heads.
      qk_norm: RMS-normalise queries and keys, each head by itself (Henry et al., 2020).
      attention_softcap: c of c tanh(score / c), on attention scores (Gemma 2); None: no cap.
      window: number of tokens that a token attends to, the last ones, itself included; None: all.
      d_ff: F, the width inside the feed-forward network.
      activation: nonlinearity of the feed-forward network: "relu", "gelu" (exact), "gelu_tanh" or "silu".
      gated: use `functional.gated_feed_forward`, which has a third projection.
      num_layers: L, the number of layers of the encoder, and of the decoder unless num_decoder_layers is set.
      num_decoder_layers: number of layers of the decoder; None: num_layers.
      use_bias: add biases in attention and feed-forward projections.
      norm: kind of normalisation, "layer" or "rms".
      norm_position: place of the norm in each sublayer: "post" (the paper), "pre" or "sandwich" (before and after;
        Ding et al., 2021). The last two add a final norm to each stack.
      norm_eps: number added to the variance.
      parallel_block: attention and feed-forward read the same normed stream and are added
        together (Wang & Komatsuzaki, 2021); with norm_position="pre".
      positions: encoding, "sinusoidal" (2-D for images), "learned", "rotary", "alibi", "relative" (T5's learned
        bias by distance, one table for all layers of a stack) or "none".
      rotary_base, rotary_scaling, rotary_factor: see `functional.apply_rotary`.
      relative_buckets, relative_max_distance: see `functional.relative_position_buckets`.
      max_length: length of the longest sequence, in tokens.
      image_size: height and width of an image, in pixels.
      patch_size: height and width of a patch, in pixels; divides image_size.
      num_channels: number of channels of an image, 1 (grey) or 3 (RGB).
      num_classes: number of classes of a classifier.
      pooling: what a classifier reads: "cls", the first token, or "mean", of all tokens.
      pooler: apply tanh(W x + b) to the pooled state, as BERT does.
      output_softcap: c of c tanh(logit / c), on the logits; None: no cap.
      dropout_rate: dropout rate of embeddings and of each sublayer's output.
      attention_dropout_rate: dropout rate of attention weights.
      activation_dropout_rate: dropout rate inside the feed-forward network.
      init_std: standard deviation of initial matrices and tables, which are normal; None: Glorot-uniform matrices,
        tables N(0, 1/D).
      scale_residual_init: divide the initial output projections of sublayers by √(2 num_layers) (GPT-2).
      parametrization: "standard", or "mup": a learning rate found on a narrow model serves a wide one (maximal
        update parametrization; Yang et al., 2022). See `nn.parametrization`.
      base_width: the d_model at which "mup" is "standard".
      attention_implementation: see `functional.scaled_dot_product_attention`.
      scan_unroll: the most layers per iteration of the scan over layers.
      remat: what the backward pass recomputes: "none", "dots" (all but matrix products) or
        "full" (everything but the layers' inputs).
      precision: dtypes, as "params=...,compute=...,output=..."; see `Precision`.

    Raises:
      ConfigError: a value that is invalid, alone or beside another, by the field's name.
    """

    vocab_size: int | None = None
    source_vocab_size: int | None = None
    share_embeddings: bool = True
    tie_output: bool = True
    scale_embeddings: bool = True
    embedding_norm: bool = False
    num_token_types: int | None = None
    d_model: int = 512
    num_heads: int = 8
    num_kv_heads: int | None = None
    head_dim: int | None = None
    qk_norm: bool = False
    attention_softcap: float | None = None
    window: int | None = None
    d_ff: int = 2048
    activation: str = "relu"
    gated: bool = False
    num_layers: int = 6
    num_decoder_layers: int | None = None
    use_bias: bool = True
    norm: str = "layer"
    norm_position: str = "post"
    norm_eps: float = 1e-5
    parallel_block: bool = False
    positions: str = "sinusoidal"
    rotary_base: float = 10_000.0
    rotary_scaling: str = "none"
    rotary_factor: float = 1.0
    relative_buckets: int = 32
    relative_max_distance: int = 128
    max_length: int = 512
    image_size: int | None = None
    patch_size: int | None = None
    num_channels: int = 3
    num_classes: int | None = None
    pooling: str = "cls"
    pooler: bool = False
    output_softcap: float | None = None
    dropout_rate: float = field(0.1, traced=True)
    attention_dropout_rate: float = field(0.0, traced=True)
    activation_dropout_rate: float = field(0.0, traced=True)
    init_std: float | None = field(None, traced=True)
    scale_residual_init: bool = False
    parametrization: str = "standard"
    base_width: int = 128
    attention_implementation: str = "auto"
    scan_unroll: int = 1
    remat: str = "none"
    precision: str = "params=float32,compute=float32,output=float32"

    def __post_init__(self):
        self._check_fields()
        self._check_heads()
        self._check_positions()
        if self.share_embeddings and self.source_vocab_size is not None:
            raise ConfigError(
                f"share_embeddings needs one vocabulary, got source_vocab_size={self.source_vocab_size} "
                f"beside vocab_size={self.vocab_size}; leave it None or set share_embeddings=False"
            )
        if self.parallel_block and self.norm_position != "pre":
            raise ConfigError(f"parallel_block needs norm_position='pre', got {self.norm_position!r}")
        if self.parametrization == "standard" and self.base_width != self.default("base_width"):
            raise ConfigError(f"base_width goes with parametrization='mup', got {self.base_width} with 'standard'")
        if self.image_size and self.patch_size and self.image_size % self.patch_size:
            raise ConfigError(f"patch_size={self.patch_size} must divide image_size={self.image_size}")
        Precision.parse(self.precision)

    def _check_fields(self) -> None:
        """Each field by itself."""
        for name in _COUNTS:
            value = getattr(self, name)
            if self._set(name) and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} must be a positive integer, got {value!r}")
            if name.endswith("_layers") and value is not None and value > _MOST_LAYERS:
                raise ConfigError(f"{name} must be at most {_MOST_LAYERS:,}, got {value:,}")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in _RATES:
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0.0 <= value < 1.0:
                raise ConfigError(f"{name} must be in [0, 1), got {value!r}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if self._set(name) and (type(value) not in (int, float) or not 0.0 < value < float("inf")):
                raise ConfigError(f"{name} must be positive, got {value!r}")
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.num_channels not in (1, 3):
            raise ConfigError(f"num_channels must be 1 (grey) or 3 (RGB), got {self.num_channels}")

    def _set(self, name: str) -> bool:
        """Returns whether an optional field is set, that is, not None."""
        return getattr(self, name) is not None or self.default(name) is not None

    def _check_heads(self) -> None:
        if self.head_dim is None and self.d_model % self.num_heads:
            raise ConfigError(
                f"d_model must be divisible by num_heads unless head_dim is given, "
                f"got d_model={self.d_model}, num_heads={self.num_heads}"
            )
        if self.num_heads % self.kv_heads:
            raise ConfigError(f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}")

    def _check_positions(self) -> None:
        for name, scheme in _OF_A_SCHEME.items():
            if self.positions != scheme and getattr(self, name) != self.default(name):
                raise ConfigError(f"{name} goes with positions={scheme!r}, got positions={self.positions!r}")
        if self.positions == "rotary" and self.head_width % 2:
            raise ConfigError(f"positions='rotary' turns pairs: the head width must be even, got {self.head_width}")
        if self.rotary_scaling == "ntk" and self.head_width == 2:
            raise ConfigError("rotary_scaling='ntk' needs a head width above 2, got 2")
        if (self.rotary_scaling == "none") != (self.rotary_factor == 1.0) or self.rotary_factor < 1.0:
            raise ConfigError(
                "rotary_scaling and rotary_factor go together: 'none' with 1, 'linear' or 'ntk' with a factor "
                f"above 1, got {self.rotary_scaling!r} with {self.rotary_factor}"
            )
        # T5: half of the buckets of a direction are exact, and the other half must reach further.
        if self.relative_buckets % 4 or self.relative_max_distance <= self.relative_buckets // 2:
            raise ConfigError(
                "relative_buckets must be a multiple of 4 and relative_max_distance above half of it, "
                f"got {self.relative_buckets} and {self.relative_max_distance}"
            )

    def check_for(self, model: str) -> None:
        """Refuses what has no meaning for a model, and what it lacks.

        Args:
          model: "Transformer", "CausalLM", "MaskedLM", "TextClassifier" or "VisionTransformer".

        Raises:
          ConfigError: by the field's name.
        """
        for name, models in _OF_SOME_MODELS.items():
            if model not in models and getattr(self, name) != self.default(name):
                raise ConfigError(
                    f"{name} is not for {model} but for {', '.join(models)}; leave it out, got {getattr(self, name)!r}"
                )
            if model in models and name in _NEEDED and getattr(self, name) is None:
                raise ConfigError(f"{model} needs {name}")
        if model == "VisionTransformer" and self.positions not in ("learned", "sinusoidal", "none"):
            raise ConfigError(f"positions of {model} must be 'learned', 'sinusoidal' or 'none', got {self.positions!r}")
        if model == "VisionTransformer" and self.positions == "sinusoidal" and self.d_model % 4:
            raise ConfigError(f"2-D positions='sinusoidal' needs d_model divisible by 4, got {self.d_model}")

    @classmethod
    def fields_of(cls, model: str) -> list[str]:
        """The fields that have a meaning for a model, by its class name."""
        names = [field.name for field in dataclasses.fields(cls)]
        return [name for name in names if model in _OF_SOME_MODELS.get(name, (model,))]

    @classmethod
    def models_with(cls, name: str) -> tuple[str, ...]:
        """The models that a field has a meaning for; none of a name that is no field."""
        return _OF_SOME_MODELS.get(name, _MODELS) if name in cls.__dataclass_fields__ else ()

    @classmethod
    def default(cls, name: str) -> Any:
        """The value of a field that nobody set."""
        return cls.__dataclass_fields__[name].default

    @property
    def kv_heads(self) -> int:
        """The number of key/value heads, K."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_width(self) -> int:
        """The width of a head, H."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def dtypes(self) -> Precision:
        """The parsed precision policy."""
        return Precision.parse(self.precision)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Makes a config from a mapping, such as the `model` section of an experiment config."""
        return build(cls, fields, "model")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Returns a published model's config by name, with changes: `preset("transformer_base", vocab_size=32_000)`."""
        check_choice("preset", name, PRESETS)
        return cls.from_dict(PRESETS[name] | changes)


_COUNTS = (
    "vocab_size", "source_vocab_size", "num_token_types", "d_model", "num_heads", "num_kv_heads", "head_dim", "window",
    "d_ff", "num_layers", "num_decoder_layers", "relative_buckets", "relative_max_distance", "max_length", "image_size",
    "patch_size", "num_channels", "num_classes", "base_width", "scan_unroll",
)  # fmt: skip

_SWITCHES = (
    "share_embeddings", "tie_output", "scale_embeddings", "embedding_norm", "qk_norm", "gated", "use_bias",
    "parallel_block", "pooler", "scale_residual_init",
)  # fmt: skip

_RATES = ("dropout_rate", "attention_dropout_rate", "activation_dropout_rate")

_POSITIVE = ("attention_softcap", "norm_eps", "rotary_base", "rotary_factor", "output_softcap", "init_std")

_CHOICES = {
    "activation": ("relu", "gelu", "gelu_tanh", "silu"),
    "norm": ("layer", "rms"),
    "norm_position": ("post", "pre", "sandwich"),
    "positions": ("sinusoidal", "learned", "rotary", "alibi", "relative", "none"),
    "rotary_scaling": ("none", "linear", "ntk"),
    "pooling": ("cls", "mean"),
    "parametrization": ("standard", "mup"),
    "attention_implementation": ("auto", "reference", "blockwise"),
    "remat": ("none", "dots", "full"),
}

_OF_A_SCHEME = {
    "rotary_base": "rotary",
    "rotary_scaling": "rotary",
    "rotary_factor": "rotary",
    "relative_buckets": "relative",
    "relative_max_distance": "relative",
}

_WITH_OUTPUT = ("Transformer", "CausalLM", "MaskedLM")
_OF_TEXT = (*_WITH_OUTPUT, "TextClassifier")
_MODELS = (*_OF_TEXT, "VisionTransformer")
_ONE_STACK = ("CausalLM", "MaskedLM", "TextClassifier", "VisionTransformer")

# Fields that only these models read; elsewhere they must keep their default.
_OF_SOME_MODELS = {
    "vocab_size": _OF_TEXT,
    "source_vocab_size": ("Transformer",),
    "share_embeddings": ("Transformer",),
    "num_decoder_layers": ("Transformer",),
    "tie_output": _WITH_OUTPUT,
    "output_softcap": _WITH_OUTPUT,
    "scale_embeddings": _OF_TEXT,
    "max_length": _OF_TEXT,
    "num_token_types": ("MaskedLM", "TextClassifier"),
    "window": ("CausalLM",),
    "parallel_block": _ONE_STACK,
    "image_size": ("VisionTransformer",),
    "patch_size": ("VisionTransformer",),
    "num_channels": ("VisionTransformer",),
    "num_classes": ("TextClassifier", "VisionTransformer"),
    "pooling": ("TextClassifier", "VisionTransformer"),
    "pooler": ("MaskedLM", "TextClassifier"),
}

_NEEDED = ("vocab_size", "image_size", "patch_size", "num_classes")
