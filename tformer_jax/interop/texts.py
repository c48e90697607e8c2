"""The tokenizer beside a checkpoint: what `transformers` reads of one, and how it frames a text."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from ..data import tokenizers
from ..data.files import DataError
from .files import read_json, write_json

TOKENIZER, _CONFIG = tokenizers.FILE, "tokenizer_config.json"
_SPECIAL = {"bos_token": tokenizers.BOS, "eos_token": tokenizers.EOS, "pad_token": tokenizers.PAD}
_SPECIAL |= {"mask_token": tokenizers.MASK, "unk_token": tokenizers.UNKNOWN}
# What a run's data put around a text: a model that goes on with it sees no end, an encoder of sources neither.
_FRAMES = {"CausalLM": [tokenizers.BOS, "$A"], "Transformer": ["$A"]}


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
      settings: from `read_settings`; {}: there are none, and names of special tokens are those of a run.
    """
    special = {key: token for key, token in _SPECIAL.items() if tokenizer.token_to_id(token) is not None}
    settings = settings or {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.max_length}
    tokenizers.save(_framing(tokenizer, model), folder / TOKENIZER)
    write_json(folder / _CONFIG, special | settings)


def special_tokens(tokenizer: Tokenizer | None, model: Any) -> dict[str, int | None]:
    """Returns the special tokens of a `config.json`, which has to say them: their defaults may be beyond the vocabulary."""
    number = lambda key: None if tokenizer is None else tokenizer.token_to_id(_SPECIAL[key])
    found = {f"{key}_id": number(key) for key in ("bos_token", "eos_token", "pad_token")}
    starts = type(model).__name__ == "Transformer" and found["bos_token_id"] is not None
    return found | ({"decoder_start_token_id": found["bos_token_id"]} if starts else {})


def _framing(tokenizer: Tokenizer, model: Any) -> Tokenizer:
    """A run's tokenizer, whose rows the data frame, as one that does it."""
    if tokenizer.post_processor is not None or tokenizer.token_to_id(tokenizers.BOS) is None:
        return tokenizer
    framed = Tokenizer.from_str(tokenizer.to_str())
    template = _FRAMES.get(type(model).__name__, [tokenizers.BOS, "$A", tokenizers.EOS])
    used = [(token, tokenizer.token_to_id(token)) for token in template if token != "$A"]
    framed.post_processor = processors.TemplateProcessing(single=" ".join(template), special_tokens=used)
    return framed
