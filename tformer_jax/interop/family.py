"""A family of checkpoints: its table of tensors, and what each field of its `config.json` is in ours."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from .. import models
from ..config import ENDS, FUNCTION, ConfigError, build, leaves, merged, nested
from ..nn import ModelConfig
from ..registry import Registry
from .fields import REQUIRED, Field, at, found
from .layers import of_layers
from .tensors import Row

# Of every `config.json`: what says nothing of the function that a model computes.
_HARMLESS = frozenset(
    """
    architectures auto_map attn_implementation _attn_implementation bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cross_attention_hidden_size custom_pipelines decoder_start_token_id diversity_penalty do_sample
    dtype early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_factor initializer_range
    is_encoder_decoder label2id language length_penalty max_length min_length model_type name_or_path _name_or_path
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences output_attentions output_hidden_states
    output_past output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values repetition_penalty
    return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p
    use_bfloat16 use_cache use_return_dict vocab_padding
    """.split()
)
_LEFTOVERS = (
    r".*rotary_emb\.inv_freq", r".*\.attn\.(attention\.)?(masked_)?bias", r".*\.attention\.(masked_)?bias",
    r".*position_ids", r".*token_type_ids",
)  # fmt: skip
_OLD_NAMES = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))


@dataclasses.dataclass(frozen=True)
class Head:
    """What one of a family's models has beside the others.

    Attributes:
      fields: of the `config.json`.
      rows: of the table of tensors.
      carried: patterns of tensors, see `Family`.
    """

    fields: tuple[Field, ...] = ()
    rows: tuple[Row, ...] = ()
    carried: tuple[str, ...] = ()


class Family:
    """A family, as a subclass that is nothing but tables.

        @FAMILIES.register("gpt2")
        class GPT2(Family): ...

    Its name is the `model_type` of its `config.json`.

    Attributes:
      architectures: from the names of classes of `transformers` to those of our models; the first is that of a file that
        says none.
      prefix: what names of tensors of a model with a head begin with, and those of a bare one do not.
      fields: of its `config.json`, see `fields`.
      harmless: keys of it that say nothing of the function that a model computes, beside those that all have.
      rows: of its table of tensors, see `tensors`.
      heads: by the name of our model, or of theirs where several of theirs are one of ours, what it has beside.
      bare: the model without a head, by either name, and what the paths of others have before its own: ("TextEncoder",
        "encoder.").
      leftovers: patterns of tensors that old files hold, and nobody needs, beside those that all have; the tensors of a head
        are so where another one is asked for.
      carried: patterns of tensors that our model has no use for, and theirs has: they are kept for the way back.
      optional: patterns of tensors whose parameters are zeros where a file does not hold them.
      embedding, output: the names of the tensors of the table of tokens, and of an output matrix of its own; a file with one
        of them alone has a tied output. "": it has none.
    """

    architectures: ClassVar[Mapping[str, str]] = {}
    prefix: ClassVar[str] = ""
    fields: ClassVar[Sequence[Field]] = ()
    harmless: ClassVar[Sequence[str]] = ()
    rows: ClassVar[Sequence[Row]] = ()
    heads: ClassVar[Mapping[str, Head]] = {}
    bare: ClassVar[tuple[str, str]] = ("", "")
    leftovers: ClassVar[Sequence[str]] = ()
    carried: ClassVar[Sequence[str]] = ()
    optional: ClassVar[Sequence[str]] = ()
    embedding: ClassVar[str] = "model.embed_tokens.weight"
    output: ClassVar[str] = "lm_head.weight"

    @classmethod
    def model_of(cls, architecture: str) -> type:
        """Returns our model for one of theirs."""
        return getattr(models, cls.architectures[architecture])

    @classmethod
    def _head(cls, architecture: str) -> Head:
        return cls.heads.get(architecture) or cls.heads.get(cls.architectures[architecture]) or Head()

    @classmethod
    def fields_of(cls, architecture: str) -> list[Field]:
        """Returns the fields of one of their models."""
        return [*cls.fields, *cls._head(architecture).fields]

    @classmethod
    def rows_of(cls, architecture: str) -> list[Row]:
        """Returns the rows of one of their models: of a bare one without the beginnings that others have."""
        rows = [*cls.rows, *cls._head(architecture).rows]
        name, before = cls.bare
        if name not in (architecture, cls.architectures[architecture]):
            return rows
        short = lambda path: path.removeprefix(before)
        return [
            Row(r.theirs.removeprefix(cls.prefix), tuple(map(short, r.ours)), r.view, short(r.beside), short(r.without))
            for r in rows
        ]

    @classmethod
    def read_config(cls, theirs: Mapping[str, Any], architecture: str, **changes: Any) -> ModelConfig:
        """Returns the config of ours that a `config.json` says.

        Args:
          theirs: its table.
          architecture: the class of theirs.
          changes: of our config, beside what it says.

        Raises:
          ConfigError: a key that is missing, or says what is not supported, or that nobody knows.
        """
        fields, model = cls.fields_of(architecture), cls.model_of(architecture)
        known = {key for field in fields for key in field.keys}.union(_HARMLESS, cls.harmless)
        if unknown := sorted(key for key, value in theirs.items() if key not in known and value):
            said = ", ".join(f"{key}={theirs[key]!r}" for key in unknown)
            raise ConfigError(f"config.json says {said}, which the family {cls.name!r} does not know")
        flat, said = {}, cls.completed(theirs, architecture)
        for field in fields:
            try:
                flat |= field.read(said)
            except ConfigError:
                raise
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                what = f"{', '.join(field.keys) or 'its sizes'} ({type(error).__name__}: {error})"
                raise ConfigError(f"config.json does not say what can be read of {what}") from None
        return build(model.Config, merged(model.Config, nested(flat), changes), "config.json")

    @classmethod
    def completed(cls, theirs: Mapping[str, Any], architecture: str) -> dict[str, Any]:
        """Returns a `config.json` in which each key that has a default is there, by the name that is written."""
        defaulted = [field for field in cls.fields_of(architecture) if field.default is not REQUIRED]
        return {**theirs, **{field.keys[0]: found(theirs, field.keys, field.default) for field in defaulted}}

    @classmethod
    def write_config(cls, config: ModelConfig, architecture: str) -> dict[str, Any]:
        """Returns the `config.json` that says a config of ours, as one of their models.

        Raises:
          ConfigError: the family cannot say it (names the fields).
        """
        theirs: dict[str, Any] = {"model_type": cls.name}
        for field in cls.fields_of(architecture):
            theirs |= field.write(config)
        try:
            again = cls.read_config(theirs, architecture, **cls.said_by_tensors(config))
        except ConfigError as error:
            raise ConfigError(f"the family {cls.name!r} cannot say this model: its {error}") from None
        said, wanted = _function(again), _function(config)
        differing = [path for path in wanted | said if said.get(path) != wanted.get(path)]
        if differing:
            # What all layers say, the first says for all.
            first = {path.rpartition(": ")[2]: wanted.get(path) for path in reversed(differing)}
            # Of a component of another kind, its name says enough.
            kinds = [path.removesuffix("name") for path in first if path.endswith(".name")]
            of_kind = lambda path: any(path.startswith(kind) and path != f"{kind}name" for kind in kinds)
            what = ", ".join(f"{path}={value!r}" for path, value in sorted(first.items()) if not of_kind(path))
            raise ConfigError(f"the family {cls.name!r} cannot say {what}")
        return theirs

    @classmethod
    def said_by_tensors(cls, config: ModelConfig) -> dict[str, Any]:
        """Returns what of a config the tensors say, as tables, and no key has to: whether the output is tied."""
        return {} if (tie := at(config, "output.tie")) is None else {"output": {"tie": tie}}

    @classmethod
    def by_tensors(cls, stored: Collection[str]) -> dict[str, Any]:
        """Returns what of a config the names of the tensors in a file say, as tables, beside a tie."""
        return {}

    @classmethod
    def is_leftover(cls, name: str) -> bool:
        """Returns whether a tensor is one that old files hold and nobody needs."""
        of_heads = (re.escape(r.theirs).replace(r"\{\}", r"\d+") for head in cls.heads.values() for r in head.rows)
        return fits(name, (*_LEFTOVERS, *cls.leftovers, *of_heads))

    @classmethod
    def is_carried(cls, name: str, architecture: str) -> bool:
        """Returns whether a tensor is one that our model has no use for, and theirs has."""
        return fits(name, (*cls.carried, *cls._head(architecture).carried))

    @classmethod
    def names(cls, stored: Mapping[str, Any], expected: Sequence[str]) -> dict[str, str]:
        """Returns the name in a file of each expected tensor that is there: older spellings, with or without prefix."""
        wanted, found = set(expected), {}
        for name in stored:
            new = name
            for old, instead in _OLD_NAMES:
                new = re.sub(old, instead, new)
            for candidate in (name, new, cls.prefix + new, new.removeprefix(cls.prefix)):
                if candidate in wanted:
                    found.setdefault(candidate, name)
                    break
        return found


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Returns whether a name is one that a pattern says."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


FAMILIES: Registry[type[Family]] = Registry(
    "family of checkpoints", family=Family, needs=("architectures", "fields", "rows")
)


def _function(config: ModelConfig) -> dict[str, Any]:
    """The fields of the function that a model computes, by dotted names: of the whole, and of each layer."""
    said = {path: value for path, value, kind in leaves(config) if kind.part in (FUNCTION, ENDS) and path != "pattern"}
    if len(config.pattern) > 1:  # what layers read is said by layer
        said = {path: value for path, value in said.items() if path.partition(".")[0] not in _OF_LAYERS}
    for i, layer in enumerate(of_layers(config)):
        of_layer = {path: value for path, value, kind in leaves(layer) if kind.part == FUNCTION}
        said |= {f"layer {i}: {path}": x for path, x in of_layer.items() if path.partition(".")[0] in _BY_LAYER}
    return said


_BY_LAYER = ("attention", "positions", "norm", "feed_forward", "layer")
_OF_LAYERS = ("attention", "feed_forward", "layer")
