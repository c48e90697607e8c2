"""Tokens that are bytes: a byte-level BPE without a merge, by which other programs read it."""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def _alphabet() -> list[str]:
    """The characters that stand for the bytes 0 to 255 in a byte-level vocabulary (Radford et al., 2019).

    Those that can be seen, of Latin-1, are themselves; the others, in order, those from 256 on.
    """
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]


_BYTES = _alphabet()


def made(special: Sequence[str]) -> Tokenizer:
    """Returns a tokenizer of some special tokens and, after them, the 256 bytes in order."""
    vocabulary = {token: number for number, token in enumerate([*special, *_BYTES])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.add_special_tokens([*special])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def are_all(tokenizer: Tokenizer) -> bool:
    """Returns whether a tokenizer has the bytes and nothing else, but for special tokens, and reads texts as they are."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    if not isinstance(tokenizer.model, models.BPE) or tokenizer.get_vocab_size() != len(_BYTES) + len(special):
        return False
    return tokenizer.normalizer is None and {*tokenizer.get_vocab()} - special == {*_BYTES}


def encoded(tokenizer: Tokenizer, pieces: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of pieces of text, one after another, and the number of each piece's; both int64.

    A look-up, which takes a hundredth of the time of the tokenizer itself. `tokenizer`: of which `are_all` is true.
    """
    table = np.asarray([tokenizer.token_to_id(token) for token in _BYTES], np.int64)
    written = [piece.encode("utf-8") for piece in pieces]
    lengths = np.asarray([len(piece) for piece in written], np.int64)
    return table[np.frombuffer(b"".join(written), np.uint8)], lengths
