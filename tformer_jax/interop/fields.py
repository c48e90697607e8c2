"""Fields of a `config.json` and of our configs: each says one fact in both languages, and reads and writes it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config import ConfigError
from ..nn import ModelConfig

Theirs, Ours = Mapping[str, Any], dict[str, Any]
REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Field:
    """A fact of a config.

    Attributes:
      keys: of a `config.json` that it reads, old spellings too.
      read: from theirs to ours, by dotted names such as "attention.num_heads".
      write: from our config to theirs.
      default: of the first key, where none is there: other fields may read it; `REQUIRED`: there is none.
    """

    keys: tuple[str, ...]
    read: Callable[[Theirs], Ours]
    write: Callable[[ModelConfig], dict[str, Any]]
    default: Any = REQUIRED


def at(config: Any, path: str) -> Any:
    """Returns the value of a dotted name within a config; None where its components have none."""
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def found(theirs: Theirs, keys: Sequence[str], default: Any = REQUIRED) -> Any:
    """Returns what the first of these keys says that is there.

    Raises:
      ConfigError: none is, and there is no default.
    """
    for key in keys:
        if key in theirs:
            return theirs[key]
    if default is REQUIRED:
        raise ConfigError(f"config.json has no {' or '.join(map(repr, keys))}")
    return default


def same(
    theirs: str, ours: str | tuple[str, ...], default: Any = REQUIRED, *, spelt: Sequence[str] = (), null: bool = True
) -> Field:
    """Makes a field that has the same value in both; `ours` may be several, all alike.

    Args:
      theirs: the key that is written.
      ours: dotted names.
      default: what it is where the key is absent; none: it has to be there.
      spelt: other keys by which it is read.
      null: whether theirs may be null; where it may not, the default is written for a None of ours, which the family then
        cannot say.
    """
    paths, keys = (ours,) if isinstance(ours, str) else ours, (theirs, *spelt)

    def write(config: ModelConfig) -> dict[str, Any]:
        value = at(config, paths[0])
        return {theirs: default if value is None and not null else value}

    return Field(keys, lambda config: dict.fromkeys(paths, found(config, keys, default)), write, default)


def named(theirs: str, table: Mapping[Any, Ours], default: Any = REQUIRED, *, spelt: Sequence[str] = ()) -> Field:
    """Makes a field whose values mean something in ours: {their value: {our name: value}}, the first to be written first.

    A value that the table does not have is refused.
    """
    keys = (theirs, *spelt)

    def read(config: Theirs) -> Ours:
        value = found(config, keys, default)
        if value not in table:
            raise ConfigError(f"config.json says {theirs}={value!r}; known are {list(table)}")
        return dict(table[value])

    def write(config: ModelConfig) -> dict[str, Any]:
        fitting = [value for value, ours in table.items() if all(at(config, path) == x for path, x in ours.items())]
        return {theirs: fitting[0] if fitting else default}

    return Field(keys, read, write, default)


def only(theirs: str, *values: Any) -> Field:
    """Makes a field that must have one of these values, which say nothing in ours; absent, it has the first."""

    def read(config: Theirs) -> Ours:
        if (value := config.get(theirs, values[0])) not in values:
            raise ConfigError(f"config.json says {theirs}={value!r}, which is not supported: it must be {values[0]!r}")
        return {}

    return Field((theirs,), read, lambda config: {theirs: values[0]})


def always(**ours: Any) -> Field:
    """Makes what a family always is: `always(layer=dict(norm_position="pre"))`."""
    flat = dict(_flat(ours))
    return Field((), lambda config: flat, lambda config: {})


def alike(theirs: Sequence[str], ours: str, default: Any) -> Field:
    """Makes one field of ours from several of theirs, which must not differ."""

    def read(config: Theirs) -> Ours:
        values = [config.get(key, default) for key in theirs]
        if any(value != values[0] for value in values):
            said = ", ".join(f"{key}={value!r}" for key, value in zip(theirs, values, strict=True))
            raise ConfigError(f"config.json says {said}, which is not supported: they must be alike")
        return {ours: values[0]}

    return Field(tuple(theirs), read, lambda config: dict.fromkeys(theirs, at(config, ours)))


# Their names of activations, those that are written first.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh",
    "sigmoid": "sigmoid", "quick_gelu": "quick_gelu", "relu2": "relu_squared", "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
}  # fmt: skip


def activation(theirs: str, default: str, ours: str = "feed_forward.activation", **meaning: str) -> Field:
    """Makes the field of an activation; `meaning`: by their names, those of ours that mean another one here."""
    # The tanh form has many names: the family's own is written.
    names = {default: ACTIVATIONS[default], **ACTIVATIONS, **meaning}
    return named(theirs, {name: {ours: mine} for name, mine in names.items()}, default)


def width(theirs: str, *, of: Sequence[str] = ("hidden_size",)) -> Field:
    """Makes the field of a feed-forward network's width, which where it is null or absent is 4 times that of the model."""

    def read(config: Theirs) -> Ours:
        return {"feed_forward.width": config.get(theirs) or 4 * found(config, of)}

    return Field((theirs,), read, lambda config: {theirs: at(config, "feed_forward.width")}, None)


def head_dim(
    default: int | None = None, theirs: str = "head_dim", of: tuple[str, str] = ("hidden_size", "num_attention_heads")
) -> Field:
    """Makes the field of the width of a head; null or absent it is `default`, or else that of the model over the heads.

    Args:
      default: see above.
      theirs: the key.
      of: the keys of the model's width and of the number of heads.
    """

    def read(config: Theirs) -> Ours:
        value, even = config[theirs], config[of[0]] / config[of[1]]
        return {"attention.head_dim": None if value is None or value == even else value}

    return Field((theirs,), read, lambda config: {theirs: config.attention.head_width(config.d_model)}, default)


def kv_heads(default: int | None = None) -> Field:
    """Makes the field of the number of heads of keys; absent it is `default`, null as many as those of queries."""

    def read(config: Theirs) -> Ours:
        value = config["num_key_value_heads"]
        return {"attention.num_kv_heads": None if value in (None, config["num_attention_heads"]) else value}

    write = lambda config: {"num_key_value_heads": at(config, "attention.kv_heads")}
    return Field(("num_key_value_heads",), read, write, default)


def labels() -> Field:
    """Makes the field of the number of classes, which theirs has as names of classes."""

    def read(config: Theirs) -> Ours:
        return {"num_classes": config.get("num_labels") or len(config.get("id2label") or {}) or 2}

    return Field(("num_labels", "id2label", "label2id"), read, lambda config: {"num_labels": config.num_classes})


def _flat(tables: Mapping[str, Any], prefix: str = ""):
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
