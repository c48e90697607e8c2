"""Byte-level BPE, single characters, or bytes: made of the run's own text and saved with it; or what others have trained."""

import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..config import ConfigError
from ..progress import SILENT, Progress
from . import byte_tokens
from .files import DataError, read_json, reading, write_whole
from .pieces import cut
from .text import canonical

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
MASK, MASK_ID = "<mask>", 3  # where a tokenizer is asked for it

UNKNOWN = "<unk>"  # of characters alone

FILE = "tokenizer.json"  # in a run's directory
# What a folder of Hugging Face's says of special tokens: by name in the one file, by number in the other. A run that starts
# from one keeps these tables under the same names.
TOKENS_FILE, IDS_FILE = "tokenizer_config.json", "generation_config.json"
START = "decoder_start_token_id"  # what a target of a translation starts with

_OLD_TOKENS_FILE = "special_tokens_map.json"
# What those files call the special tokens of each role; encoders have names of their own for the start and the end.
_KEYS = {
    "pad": ("pad_token",),
    "bos": ("bos_token", "cls_token"),
    "eos": ("eos_token", "sep_token"),
    "mask": ("mask_token",),
    "unk": ("unk_token",),
}
# What special tokens are called, in this package first and then elsewhere, where no file says it; of a text that goes on,
# the last token of one is the first of the next.
_NAMES = {
    "pad": (PAD, "[PAD]", "<PAD>", "<|pad|>", "<|padding|>"),
    "bos": (BOS, "[CLS]", "<BOS_TOKEN>", "<|begin_of_text|>", "<s>", "<|endoftext|>"),
    "eos": (EOS, "[SEP]", "<|END_OF_TURN_TOKEN|>", "<|end_of_text|>", "</s>", "<|endoftext|>"),
    "mask": (MASK, "[MASK]", "<MASK_TOKEN>"),
    "unk": (UNKNOWN, "[UNK]"),
}
# In the words of an error.
_DOES = {"pad": "fills up rows", "bos": "starts a text", "eos": "ends a text", "mask": "stands for a hidden one"}


class Said(NamedTuple):
    """Special tokens as the files beside a tokenizer say them.

    Attributes:
      tokens: by key, such as "eos_token"; None: there is none.
      ids: by key, such as "eos_token_id".
    """

    tokens: Mapping[str, str | None] = {}
    ids: Mapping[str, int] = {}


def said_of(tokenizer: Tokenizer) -> Said:
    """Returns what the files said beside which `load` found a tokenizer; nothing, of one that was made."""
    return getattr(tokenizer, "said", Said())


def special(tokenizer: Tokenizer, *roles: str) -> tuple[int, ...]:
    """Returns special tokens: "bos" and "eos" start and end a text, "mask" stands for a hidden token, "pad" fills up rows.

    They are what the files beside the tokenizer say, or else are known by their names. Without a token of padding, which
    nothing reads, the end of a text fills up rows.

    Raises:
      ConfigError: one is not known.
    """
    names = special_names(tokenizer)
    names.setdefault("pad", names.get("eos"))
    for role in roles:
        if names.get(role) is None:
            raise ConfigError(
                f"none of the tokenizer's tokens is known as the one that {_DOES[role]}: "
                f"say which is, as {_KEYS[role][0]} in {TOKENS_FILE} beside its {FILE}"
            )
    return tuple(tokenizer.token_to_id(names[role]) for role in roles)


def special_names(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns what a tokenizer calls its special tokens, as far as it has them: of "pad", "bos", "eos", "mask" and "unk"."""
    found = {role: _name(tokenizer, role) for role in _KEYS}
    return {role: name for role, name in found.items() if name is not None and tokenizer.token_to_id(name) is not None}


def _name(tokenizer: Tokenizer, role: str) -> str | None:
    """Name of the token of a role: what is said to be it, or else the first of the usual names that the tokenizer has."""
    said = said_of(tokenizer)
    by_name = (said.tokens.get(key) for key in _KEYS[role])
    # A number beyond the vocabulary is the default of a family that nobody set.
    by_id = (tokenizer.id_to_token(said.ids[f"{key}_id"]) for key in _KEYS[role] if f"{key}_id" in said.ids)
    usual = (name for name in _NAMES[role] if tokenizer.token_to_id(name) is not None)
    return next((name for name in itertools.chain(by_name, by_id, usual) if name is not None), None)


def train_bpe(texts: Iterable[str], vocab_size: int, *, lossless: bool = False, mask: bool = False) -> Tokenizer:
    """Trains a byte-level BPE (Sennrich et al., 2016; Radford et al., 2019), over NFC text unless `lossless`.

    Every byte is in the alphabet, so nothing is ever unknown.

    Args:
      texts: the training split alone.
      vocab_size: V, the special tokens and the 256 bytes included.
      lossless: decoding gives back every text exactly; else a first word has the tokens of the same word inside.
      mask: `<mask>` is a special token too.

    Raises:
      ConfigError: `vocab_size` leaves no room for merges.
    """
    check_bpe_size("vocab_size", vocab_size, mask=mask)
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), _special_tokens(mask)
    tokenizer = Tokenizer(models.BPE())
    if not lossless:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=not lossless)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in cut(text)) if lossless else texts, trainer)
    return tokenizer


def check_bpe_size(name: str, vocab_size: int | None, *, mask: bool = False) -> None:
    """Raises a ConfigError if a vocabulary, that of the field `name`, leaves no room for merges; None: there is none."""
    least = len(pre_tokenizers.ByteLevel.alphabet()) + len(_special_tokens(mask))
    if vocab_size is not None and vocab_size <= least:
        raise ConfigError(f"{name} must exceed {least} (bytes and special tokens), got {vocab_size}")


def train_characters(texts: Iterable[str], *, mask: bool = False) -> Tokenizer:
    """Makes a token for each character of `texts`, in the order of their code points; all others are `<unk>`."""
    special = _special_tokens(mask)
    characters: set[str] = set()
    for text in texts:  # of which there may be more than memory holds
        characters.update(text)
    vocabulary = {token: number for number, token in enumerate([*special, UNKNOWN, *sorted(characters)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def make_bytes(*, mask: bool = False) -> Tokenizer:
    """Makes a token for each of the 256 bytes of UTF-8, after the special ones, in order: nothing is ever unknown."""
    return byte_tokens.made(_special_tokens(mask))


def of_bytes(tokenizer: Tokenizer) -> bool:
    """Says that tokens are bytes, as those of `make_bytes` are, and nothing else."""
    return byte_tokens.are_all(tokenizer)


def planned(vocab_size: int) -> Tokenizer:
    """Returns a tokenizer of this many tokens and no text, where only their number matters."""
    names = [*_special_tokens(mask=True), *map(str, range(vocab_size))][:vocab_size]
    return Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=PAD))


def _special_tokens(mask: bool) -> list[str]:
    return [PAD, BOS, EOS, *([MASK] if mask else [])]


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Returns the token ids of each text, without special tokens: a "<eos>" that a text spells out stays text."""
    tokenizer.encode_special_tokens = True  # not kept by Tokenizer.save
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def encode_framed(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Returns the token ids of each text as a row that models read: as the tokenizer itself frames it, or else between the
    start and the end token."""
    if frames(tokenizer):
        tokenizer.encode_special_tokens = True
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    start, end = special(tokenizer, "bos", "eos")
    return [[start, *ids, end] for ids in encode(tokenizer, texts)]


def encode_typed(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the token ids of a typed text, in the Unicode form that the vocabulary was made of.

    That is: of the text as it is, canonical and decomposed, which are the same to a reader, the form with the fewest
    unknown characters and then the fewest tokens. For lossless tokenizers; the others read one form alone.
    """
    unknown = unknown_id(tokenizer)
    forms = encode(tokenizer, [text, canonical(text), unicodedata.normalize("NFD", text)])
    return min(forms, key=lambda ids: (ids.count(unknown), len(ids)))


def frames(tokenizer: Tokenizer) -> bool:
    """Returns whether a tokenizer frames a text itself, as those from elsewhere do."""
    return tokenizer.num_special_tokens_to_add(is_pair=False) > 0


def decode(tokenizer: Tokenizer, tokens: Iterable[int], *, strip: bool = True) -> str:
    """Returns the text of `tokens` up to the first end-of-sequence, if there is such a token, without outer blanks if
    `strip`."""
    (end,) = special(tokenizer, "eos") if "eos" in special_names(tokenizer) else (None,)
    before_end = itertools.takewhile(lambda token: token != end, tokens)
    text = tokenizer.decode([int(token) for token in before_end], skip_special_tokens=True)
    return text.strip() if strip else text


def room(tokenizer: Tokenizer) -> int:
    """Returns how many tokens a model of a tokenizer's tokens has: their numbers may have gaps."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Returns the token of what the vocabulary does not have; None where there is no such text."""
    model = tokenizer.model
    return tokenizer.token_to_id(model.unk_token) if isinstance(model, models.WordLevel) else None


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """Returns the token that stands for what the vocabulary does not have; None where none does that alone."""
    names = special_names(tokenizer)
    alone = "unk" in names and names["unk"] not in (names.get("bos"), names.get("eos"))
    return tokenizer.token_to_id(names["unk"]) if alone else None


def save(tokenizer: Tokenizer, file: Path) -> None:
    """Saves a tokenizer, whole or not at all."""
    write_whole(file, tokenizer.to_str(pretty=True))


def kept(file: Path, train: Callable[[], Tokenizer], progress: Progress = SILENT) -> Tokenizer:
    """Loads the tokenizer in `file`; if there is none, make it with `train` and save it there."""
    if not file.exists():
        with progress.phase("training a tokenizer"):
            save(train(), file)
    return load(file)


def load(file: Path) -> Tokenizer:
    """Loads a tokenizer saved by `Tokenizer.save`, with what files beside it say of its special tokens.

    Raises:
      ConfigError: the file is not there or holds no tokenizer.
      DataError: a file beside it is damaged.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ConfigError(f"cannot load a tokenizer from {file}: {error}") from None
    # What was in force when it was saved, which would cut texts and fill them up to the length of others.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.said = read_said(file.parent)  # not kept by Tokenizer.save
    return tokenizer


def inherit(start: Path, directory: Path) -> None:
    """Takes a tokenizer over from another directory, a run's or a folder of Hugging Face's, and what is said of it.

    Raises:
      DataError: there is none, or a file is damaged.
    """
    if not (start / FILE).exists():
        raise DataError(f"{start} has no {FILE}: a task on text starts from a model and its tokenizer")
    take_over(start / FILE, directory)


def take_over(file: Path, directory: Path) -> None:
    """Takes a tokenizer's file over into a directory, as its `FILE`, and what the files beside it say.

    Raises:
      DataError: a file cannot be read, or is damaged.
    """
    said = read_said(file.parent)
    for name, table in ((TOKENS_FILE, said.tokens), (IDS_FILE, said.ids)):
        if table:
            write_whole(directory / name, json.dumps(table, sort_keys=True, ensure_ascii=False) + "\n")
    with reading(file):
        content = file.read_bytes()
    write_whole(directory / FILE, content)  # last: where it is, the others are


def read_said(directory: Path) -> Said:
    """Returns what the files in a directory say of special tokens, each as `transformers` reads it.

    Raises:
      DataError: one is damaged.
    """
    tables = {
        name: read_json(directory / name) if (directory / name).is_file() else {}
        for name in (TOKENS_FILE, _OLD_TOKENS_FILE, IDS_FILE, "config.json")
    }
    # Since it has this table, the old file is left there for old programs.
    old = {} if "added_tokens_decoder" in tables[TOKENS_FILE] else tables[_OLD_TOKENS_FILE]
    keys = [key for keys in _KEYS.values() for key in keys]
    tokens = {key: text_of(x, key, directory) for key, x in (tables[TOKENS_FILE] | old).items() if key in keys}
    ids = {
        key: number
        for name in ("config.json", IDS_FILE)  # the second decides
        for key in (*(f"{key}_id" for key in keys), START)
        if (number := _number_of(tables[name].get(key), key, directory / name)) is not None
    }
    return Said(tokens, ids)


def text_of(token: Any, key: str, directory: Path) -> str | None:
    """Returns the text of a token as the files in a directory have it: as text, or in a table; None: there is none.

    Raises:
      DataError: it is something else.
    """
    text = token.get("content", token) if isinstance(token, dict) else token
    if not isinstance(text, str | None) or (text and _HALF.search(text)):
        raise DataError(f"{directory / TOKENS_FILE}, or {_OLD_TOKENS_FILE}: {key} must be a text, got {token!r}")
    return text


def _number_of(number: Any, key: str, file: Path) -> int | None:
    """A token's number, of several ends of a text the first; None: there is none, for which old files have -1."""
    first = number[0] if isinstance(number, list) and number else number
    if first is not None and (type(first) is not int or first >= 1 << 31):  # a bool is an int, and no number
        raise DataError(f"{file}: {key} must be the number of a token, got {number!r}")
    return None if first is None or first < 0 else first


_HALF = re.compile("[\ud800-\udfff]")  # of a character, which JSON can have alone and UTF-8 cannot
