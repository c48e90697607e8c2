"""Byte-level BPE, trained on the run's own text and saved with it."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..config import ConfigError

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) over NFC-normalised text.

    Every byte is in the alphabet, so nothing is ever unknown.

    Args:
      texts: the training split alone.
      vocab_size: V, the special tokens and the 256 bytes included.

    Raises:
      ConfigError: `vocab_size` leaves no room for merges.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet) + 3:
        raise ConfigError(f"vocab_size must exceed {len(alphabet) + 3} (bytes and special tokens), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens: a "<eos>" that a text spells out stays text."""
    tokenizer.encode_special_tokens = True  # not kept by Tokenizer.save
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def decode(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of `tokens` up to the first end-of-sequence."""
    kept = []
    for token in tokens:
        if token == EOS_ID:
            break
        kept.append(int(token))
    return tokenizer.decode(kept, skip_special_tokens=True).strip()


def load(file: Path) -> Tokenizer:
    """A tokenizer saved by `Tokenizer.save`.

    Raises:
      ConfigError: the file is not there or holds no tokenizer.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ConfigError(f"cannot load a tokenizer from {file}: {error}") from None
