"""Byte-level BPE, or single characters: trained on the run's own text and saved with it."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..config import ConfigError
from ..progress import SILENT, Progress
from .files import write_whole
from .text import canonical

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
MASK, MASK_ID = "<mask>", 3  # where a tokenizer is asked for it

UNKNOWN = "<unk>"  # of characters alone

FILE = "tokenizer.json"  # in a run's directory
START = "decoder_start_token_id"
START_FILE = "generation_config.json"  # which says, of a tokenizer from elsewhere, what a target starts with

_PIECE, _TOGETHER = 4_000, 128
# What special tokens are called, in this package first and then elsewhere; of a text that goes on, the last token of one is
# the first of the next.
_NAMES = {
    "pad": (PAD, "[PAD]", "<PAD>", "<|pad|>", "<|padding|>", "<|endoftext|>"),
    "bos": (BOS, "[CLS]", "<BOS_TOKEN>", "<|begin_of_text|>", "<s>", "<|endoftext|>"),
    "eos": (EOS, "[SEP]", "<|END_OF_TURN_TOKEN|>", "<|end_of_text|>", "</s>", "<|endoftext|>"),
    "mask": (MASK, "[MASK]", "<MASK_TOKEN>"),
    "unk": (UNKNOWN, "[UNK]"),
}


class Special(NamedTuple):
    """The special tokens of a tokenizer: padding, the start and the end of a text, and what stands for a hidden token."""

    pad: int
    bos: int
    eos: int
    mask: int


def special(tokenizer: Tokenizer) -> Special:
    """Returns a tokenizer's special tokens, which are known by their names; those of a run that it lacks have its numbers."""
    usual = Special(PAD_ID, BOS_ID, EOS_ID, MASK_ID)._asdict()
    found = {role: tokenizer.token_to_id(name) for role, name in special_names(tokenizer).items() if role in usual}
    return Special(**usual | found)


def special_names(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns what a tokenizer calls its special tokens, as far as it has them: of "pad", "bos", "eos", "mask" and "unk"."""
    there = {role: [x for x in names if tokenizer.token_to_id(x) is not None] for role, names in _NAMES.items()}
    return {role: names[0] for role, names in there.items() if names}


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
    characters = sorted(set().union(*texts))
    vocabulary = {token: number for number, token in enumerate([*special, UNKNOWN, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def planned(vocab_size: int) -> Tokenizer:
    """Returns a tokenizer of this many tokens and no text, where only their number matters."""
    return Tokenizer(models.WordLevel({str(i): i for i in range(vocab_size)}, unk_token="0"))


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
    used = special(tokenizer)
    return [[used.bos, *ids, used.eos] for ids in encode(tokenizer, texts)]


def encode_typed(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the token ids of a typed text, in the Unicode form that the vocabulary was made of.

    That is: of the text as it is, canonical and decomposed, which are the same to a reader, the form with the fewest
    unknown characters and then the fewest tokens. For lossless tokenizers; the others read one form alone.
    """
    unknown = unknown_id(tokenizer)
    forms = encode(tokenizer, [text, canonical(text), unicodedata.normalize("NFD", text)])
    return min(forms, key=lambda ids: (ids.count(unknown), len(ids)))


def encode_words(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns token ids and word numbers, int32 [n] each, of long texts; the tokens of one word have its number.

    A word is what the tokenizer never joins to its neighbours. For lossless tokenizers: texts are
    encoded in pieces, which bounds the memory and changes none of their tokens.
    """
    if _of_characters(tokenizer):
        return _encode_characters(tokenizer, texts)
    tokenizer.encode_special_tokens = True
    pieces = [(number, piece) for number, text in enumerate(texts) for piece in cut(text)]
    ids: list[list[np.ndarray]] = [[np.zeros(0, np.int32)] for _ in texts]
    words: list[list[np.ndarray]] = [[np.zeros(0, np.int32)] for _ in texts]
    for at in range(0, len(pieces), _TOGETHER):
        numbers, group = zip(*pieces[at : at + _TOGETHER], strict=True)
        encodings = tokenizer.encode_batch(list(group), add_special_tokens=False)
        for number, encoding in zip(numbers, encodings, strict=True):
            before = 1 + words[number][-1].max(initial=-1)
            ids[number].append(np.asarray(encoding.ids, np.int32))
            words[number].append((np.asarray(encoding.word_ids) + before).astype(np.int32))
    return [(np.concatenate(i), np.concatenate(w)) for i, w in zip(ids, words, strict=True)]


def _of_characters(tokenizer: Tokenizer) -> bool:
    """Says that tokens are characters, as those of `train_characters` are; one from elsewhere may have words."""
    known = {*_special_tokens(mask=True), UNKNOWN}
    vocabulary = tokenizer.get_vocab() if isinstance(tokenizer.model, models.WordLevel) else ()
    return UNKNOWN in vocabulary and all(len(token) == 1 or token in known for token in vocabulary)


def _encode_characters(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    # A look-up: a hundred times as fast as a regular expression for each character.
    table = np.full(0x110000, tokenizer.token_to_id(UNKNOWN), np.int32)
    for token, number in tokenizer.get_vocab().items():
        if len(token) == 1:
            table[ord(token)] = number
    ids = [table[np.frombuffer(text.encode("utf-32-le"), np.uint32)] for text in texts]
    return [(row, np.arange(len(row), dtype=np.int32)) for row in ids]


def cut(text: str, size: int = _PIECE) -> Iterator[str]:
    """Yields the text in pieces of `size` characters or somewhat more; all but the first begin with white space.

    A lossless tokenizer never joins white space to what stands before it.
    """
    start = 0
    while start < len(text):
        match = _BEFORE_SPACE.search(text, start + size)
        end = match.start() if match else len(text)
        yield text[start:end]
        start = end


def frames(tokenizer: Tokenizer) -> bool:
    """Returns whether a tokenizer frames a text itself, as those from elsewhere do."""
    return tokenizer.num_special_tokens_to_add(is_pair=False) > 0


def decode(tokenizer: Tokenizer, tokens: Iterable[int], *, strip: bool = True) -> str:
    """Returns the text of `tokens` up to the first end-of-sequence, without outer blanks if `strip`."""
    end = special(tokenizer).eos
    before_end = itertools.takewhile(lambda token: token != end, tokens)
    text = tokenizer.decode([int(token) for token in before_end], skip_special_tokens=True)
    return text.strip() if strip else text


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Returns the token of what the vocabulary does not have; None where there is no such text."""
    model = tokenizer.model
    return tokenizer.token_to_id(model.unk_token) if isinstance(model, models.WordLevel) else None


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
    """Loads a tokenizer saved by `Tokenizer.save`.

    Raises:
      ConfigError: the file is not there or holds no tokenizer.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ConfigError(f"cannot load a tokenizer from {file}: {error}") from None


_BEFORE_SPACE = re.compile(r"(?<=\S)(?=[ \n])")
