"""Fields of a `config.json` that say how heads are turned, and in what layers differ."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config import ConfigError
from ..functional.rotary import TURNS
from ..nn import ModelConfig
from .fields import Field, Ours, Theirs, at, found

FULL, SLIDING = "full_attention", "sliding_attention"
_THETA = ("rope_theta", "rotary_emb_base")
_FRACTION = ("partial_rotary_factor", "rotary_pct")
_LENGTH = "original_max_position_embeddings"


def rope(theta: float = 10_000.0, fraction: float | None = None, *, layout: str = "half") -> Field:
    """Makes the field of rotary positions, in the new form (`rope_parameters`) and the old ones (`rope_scaling` ...).

    Args:
      theta, fraction: what they are where they are absent; None: theirs turns whole heads, whatever a file says.
      layout: of the pairs, see `functional.rotate`.
    """

    def read(theirs: Theirs) -> Ours:
        said = {**(theirs.get("rope_scaling") or {}), **(theirs.get("rope_parameters") or {})}
        keys = (*_THETA, *_FRACTION)
        said = {key: theirs[key] for key in keys if theirs.get(key) is not None} | said
        if theirs.get(_LENGTH) is not None:  # which theirs believes before the table's
            said[_LENGTH] = theirs[_LENGTH]
        return {f"positions.{name}": x for name, x in turned(said, theirs, theta, fraction, layout).items()}

    def write(config: ModelConfig) -> dict[str, Any]:
        whole = {} if fraction in (None, 1.0) else {"partial_rotary_factor": 1.0}
        return {"rope_parameters": whole | parameters_of(config)}

    return Field(("rope_parameters", "rope_scaling", *_THETA, *_FRACTION), read, write)


def ropes(
    full: tuple[str, float], local: tuple[str, float], *, scaled: Sequence[str] = (FULL,)
) -> tuple[Field, Callable[[Theirs], Ours]]:
    """Makes the field of rotary positions that layers under a window have another of, and what is different in these.

    Args:
      full, local: the old key of the base of layers without a window and of those under one, and what it is by default.
      scaled: the kinds of layers that the old `rope_scaling` is of.
    """

    def said(theirs: Theirs, kind: str, key: str, theta: float) -> Ours:
        both, old = theirs.get("rope_parameters") or {}, theirs.get("rope_scaling") or {}
        own = both.get(kind) or {"rope_type": "default"}
        return {"rope_theta": theirs.get(key, theta), **own, **(old if kind in scaled else {})}

    def read(theirs: Theirs) -> Ours:
        return {f"positions.{name}": x for name, x in turned(said(theirs, FULL, *full), theirs, full[1]).items()}

    def write(config: ModelConfig) -> dict[str, Any]:
        kinds = [bool(window) for window in windows_of(config)]
        tables = [parameters_of(layer) for layer in of_layers(config)]
        of = lambda there: tables[kinds.index(there) if there in kinds else 0]
        return {"rope_parameters": {FULL: of(False), SLIDING: of(True)}}

    keys = ("rope_parameters", "rope_scaling", full[0], local[0])
    different = lambda theirs: {"positions": turned(said(theirs, SLIDING, *local), theirs, local[1])}
    return Field(keys, read, write), different


def turned(said: Theirs, theirs: Theirs, theta: float, fraction: float | None = None, layout: str = "half") -> Ours:
    """Returns the fields of our rotary positions that a table of `rope_parameters` says; see `rope`."""
    part = found(said, _FRACTION, fraction or 1.0)
    if fraction is None and part not in (None, 1.0):
        raise ConfigError(f"config.json says partial_rotary_factor={part!r}, which is not supported: it must be 1.0")
    kind = said.get("rope_type", said.get("type")) or "default"
    kind = "longrope" if "short_factor" in said else kind  # the old "su" and "yarn" of Phi 3
    if kind not in _SCALINGS:
        raise ConfigError(f"config.json says rope_type={kind!r}, which is not supported; known are {list(_SCALINGS)}")
    head = theirs.get("head_dim") or found(theirs, ("hidden_size",)) // found(theirs, ("num_attention_heads",))
    width = int(head * (part or 1.0))
    return {
        "name": "rotary",
        "base": float(found(said, _THETA, theta)),
        "width": None if width == head else width,
        "layout": layout,
        "factor": 1.0,
        **{"trained_length": None, "magnitude": None, "turns": (), "short_divisors": (), "long_divisors": ()},
        "whole_pairs": True,
        **_SCALINGS[kind](said, theirs),
    }


def _trained_length(said: Theirs, theirs: Theirs) -> int:
    return found(said, (_LENGTH,), theirs.get("max_position_embeddings"))


def _llama3(said: Theirs, theirs: Theirs) -> Ours:
    turns = said.get("low_freq_factor", 1.0), said.get("high_freq_factor", 4.0)
    return {
        "scaling": "llama3", "factor": said["factor"], "trained_length": _trained_length(said, theirs),
        "turns": () if turns == TURNS["llama3"] else turns,
    }  # fmt: skip


def _yarn(said: Theirs, theirs: Theirs) -> Ours:
    length = _trained_length(said, theirs)
    factor = said.get("factor") or theirs["max_position_embeddings"] / length
    turns = said.get("beta_slow") or 1, said.get("beta_fast") or 32
    magnitude, scales = said.get("attention_factor"), (said.get("mscale"), said.get("mscale_all_dim"))
    if magnitude is None and all(scales):
        above, below = (0.1 * scale * math.log(factor) + 1.0 for scale in scales)
        magnitude = above / below
    return {
        "scaling": "yarn", "factor": factor, "trained_length": length, "magnitude": magnitude,
        "turns": () if turns == TURNS["yarn"] else turns, "whole_pairs": bool(said.get("truncate", True)),
    }  # fmt: skip


def _longrope(said: Theirs, theirs: Theirs) -> Ours:
    length, longest = _trained_length(said, theirs), theirs["max_position_embeddings"]
    factor, magnitude = said.get("factor") or longest / length, said.get("attention_factor")
    if magnitude is None:
        magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))
    divisors = {"short_divisors": tuple(said["short_factor"]), "long_divisors": tuple(said["long_factor"])}
    return {"scaling": "longrope", "trained_length": length, "magnitude": magnitude} | divisors


# Their names of scalings, and what each says in ours.
_SCALINGS: dict[str, Callable[[Theirs, Theirs], Ours]] = {
    "default": lambda said, theirs: {"scaling": "none"},
    "linear": lambda said, theirs: {"scaling": "linear", "factor": said["factor"]},
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def parameters_of(config: ModelConfig) -> dict[str, Any]:
    """Returns the table of `rope_parameters` that says how a layer's heads are turned; {} if they are not."""
    positions, head = config.positions, config.attention.head_width(config.d_model)
    if positions.name != "rotary":
        return {}
    scaling = positions.scaling
    said = {"rope_theta": positions.base, "rope_type": "default" if scaling == "none" else scaling}
    if positions.width is not None:
        said["partial_rotary_factor"] = positions.width / head
    if scaling in ("linear", "llama3", "yarn"):
        said["factor"] = positions.factor
    if scaling in ("llama3", "yarn", "longrope"):
        said[_LENGTH] = positions.trained_length
    if scaling in TURNS:
        keys = ("low_freq_factor", "high_freq_factor") if scaling == "llama3" else ("beta_slow", "beta_fast")
        said |= dict(zip(keys, positions.turns or TURNS[scaling], strict=True))
    if scaling == "yarn":
        said["truncate"] = positions.whole_pairs
    if scaling in ("yarn", "longrope") and positions.magnitude is not None:
        said["attention_factor"] = positions.magnitude
    if scaling == "longrope":
        said |= {"short_factor": list(positions.short_divisors), "long_factor": list(positions.long_divisors)}
    return said


def pattern(tables: Sequence[Mapping[str, Any]]) -> Ours:
    """Returns the fields that give each layer its table of changes, in the shortest pattern; tables have one level more.

    Where all layers have the same one, it is the model's.
    """
    sizes = range(1, len(tables) + 1)
    size = next(n for n in sizes if all(table == tables[i % n] for i, table in enumerate(tables)))
    if size > 1:
        return {"pattern": tuple(dict(table) for table in tables[:size])}
    return {f"{part}.{name}": x for part, fields in tables[0].items() for name, x in fields.items()}


def of_layers(config: ModelConfig) -> list[ModelConfig]:
    """Returns the config of each layer."""
    period = [config.of_layer(i) for i in range(len(config.pattern))]
    return [period[i % len(period)] for i in range(config.num_layers)]


def windows_of(config: ModelConfig) -> list[int | None]:
    """Returns the window of each layer's attention; None: it has none."""
    return [at(layer, "attention.window") for layer in of_layers(config)]


def sliding(
    is_sliding: Callable[[Theirs, int], bool], *, keys: Sequence[str] = (),
    local: Callable[[Theirs], Mapping[str, Any]] = lambda theirs: {},
    says: Callable[[ModelConfig], dict[str, Any]] = lambda config: {},
    first: Mapping[str, Any] | None = None, both_sides: tuple[str, int] | None = None,
) -> Field:  # fmt: skip
    """Makes the field of layers some of which see a window: `layer_types`, and `sliding_window`, 4,096 where it is absent.

    Args:
      is_sliding: whether a layer does, by its number, where `layer_types` is absent.
      keys: others that `is_sliding` reads; what they say is written as `layer_types`.
      local: what is different beside in such a layer, as a table of changes.
      says: what else is written.
      first: what is different in the first layer, as a table of changes.
      both_sides: of a model that reads a text from both, the key in the place of `sliding_window`, which counts the tokens
        that are seen on both together, and what it is by default.
    """
    key, default = both_sides or ("sliding_window", 4096)

    def read(theirs: Theirs) -> Ours:
        count, window = found(theirs, ("num_hidden_layers",)), theirs.get(key, default)
        window = window // 2 + 1 if both_sides else window
        kinds = theirs.get("layer_types") or [SLIDING if is_sliding(theirs, i) else FULL for i in range(count)]
        if len(kinds) != count or not {FULL, SLIDING}.issuperset(kinds):
            raise ConfigError(f"config.json: layer_types must be {count} of {FULL!r} and {SLIDING!r}, got {kinds}")
        there = {"attention": {"window": window}} if window is not None else {}
        tables = [there | dict(local(theirs)) if kind == SLIDING else {} for kind in kinds]
        return pattern([tables[0] | dict(first or {}), *tables[1:]])

    def write(config: ModelConfig) -> dict[str, Any]:
        windows = windows_of(config)
        window = next(filter(None, windows), None)
        if both_sides:
            window = default if window is None else 2 * (window - 1)
        kinds = [FULL if of is None else SLIDING for of in windows]
        return {"layer_types": kinds, key: window} | says(config)

    return Field(("layer_types", key, *keys), read, write)
