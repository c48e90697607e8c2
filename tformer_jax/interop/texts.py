"""The tokenizer beside a checkpoint: what `transformers` reads of one, and how it frames a text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from ..data import tokenizers
from ..data.files import DataError, read_json
from .files import write_json

START = tokenizers.START  # key of `config.json`
TOKENIZER, _CONFIG = tokenizers.FILE, tokenizers.TOKENS_FILE
# Tokens that begin and end a text and have keys of their own in `tokenizer_config.json`.
_KEYS = {"[CLS]": "cls_token", "[SEP]": "sep_token"}
_ENDS = {"bos_token", "eos_token", *_KEYS.values()}
# What a run's data put around a text: a model that goes on with it sees no end, an encoder of sources neither.
_TEXT = "$A"
_FRAMES, _WHOLE = {"CausalLM": ("bos", _TEXT), "Transformer": (_TEXT,)}, ("bos", _TEXT, "eos")
_SAID = ("bos", "eos", "pad")  # by their numbers in `config.json`


def read_tokenizer(folder: Path, vocab_size: int | None) -> Tokenizer | None:
    """Returns the tokenizer in a folder; None if there is none, or the model has no vocabulary.

    Raises:
      DataError: it has more tokens than the model.
      ConfigError: its file holds none.
    """
    if vocab_size is None or not (folder / TOKENIZER).is_file():
        return None
    tokenizer = tokenizers.load(folder / TOKENIZER)
    if (size := 1 + max(tokenizer.get_vocab().values(), default=-1)) > vocab_size:  # numbers may have gaps
        raise DataError(f"{folder / TOKENIZER} has {size:,} tokens, the model {vocab_size:,}: it is another model's")
    return tokenizer


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns what a folder says of its tokenizer beside the tokenizer itself; {}: nothing."""
    return read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}


def write_tokenizer(tokenizer: Tokenizer, folder: Path, model: Any, settings: dict[str, Any]) -> None:
    """Writes a tokenizer as a folder of `PreTrainedTokenizerFast`, which makes of a text the row that the model reads.

    Args:
      tokenizer: one of a run's, or another.
      folder: to write to.
      model: that reads its tokens.
      settings: from `read_settings`; {}: there are none.
    """
    said = tokenizers.said_of(tokenizer).tokens
    settings = settings or _settings(tokenizer, said, model)
    tokenizers.save(_framing(tokenizer, model), folder / TOKENIZER)
    # What the settings say alike stays as it is spelt: a table may say more of a token than its text.
    changed = {key: x for key, x in said.items() if tokenizers.text_of(settings.get(key), key, folder) != x}
    write_json(folder / _CONFIG, settings | changed)


def _settings(tokenizer: Tokenizer, said: Mapping[str, str | None], model: Any) -> dict[str, Any]:
    """The settings of a run's tokenizer, with its special tokens by their usual names where nothing is said of them."""
    names = tokenizers.special_names(tokenizer)
    # Files that say how a text ends, and not how it starts, mean that nothing starts it.
    left = names.keys() - ({"bos", "eos"} if said.keys() & _ENDS else set())
    usual = {_KEYS.get(names[role], f"{role}_token"): names[role] for role in left}
    return usual | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.max_length}


def special_tokens(tokenizer: Tokenizer | None, model: Any) -> dict[str, int | None]:
    """Returns the special tokens of a `config.json`, which has to say them: their defaults may be beyond the vocabulary."""
    names = {} if tokenizer is None else tokenizers.special_names(tokenizer)
    found = {f"{role}_token_id": tokenizer.token_to_id(names[role]) if role in names else None for role in _SAID}
    starts = type(model).__name__ == "Transformer" and found["bos_token_id"] is not None
    return found | ({START: found["bos_token_id"]} if starts else {})


def _framing(tokenizer: Tokenizer, model: Any) -> Tokenizer:
    """A run's tokenizer, whose rows the data frame, as one that does it."""
    names, template = tokenizers.special_names(tokenizer), _FRAMES.get(type(model).__name__, _WHOLE)
    if tokenizers.frames(tokenizer) or not names.keys() | {_TEXT} >= set(template):
        return tokenizer
    framed = Tokenizer.from_str(tokenizer.to_str())
    used = [(names[role], tokenizer.token_to_id(names[role])) for role in template if role != _TEXT]
    single = " ".join(names.get(role, role) for role in template)
    frame = processors.TemplateProcessing(single=single, special_tokens=used)
    there = tokenizer.post_processor
    framed.post_processor = frame if there is None else processors.Sequence([there, frame])
    return framed
