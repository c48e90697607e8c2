"""Tokens on the disk against those of the library, text by text."""

import itertools

import numpy as np
import pytest
import tokenizers as library

from tformer_jax.data import examples as examples_module, tokenizers, tokens as module
from tformer_jax.data.examples import Examples
from tformer_jax.data.pieces import encode_pieces
from tformer_jax.data.sources import Document
from tformer_jax.data.tokens import kept_tokens

WORDS = "the cat sat on\n\nmats, über \n🙂日本 x\u00a0 y".split(" ")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, count)) for count in (0, 1, 3000, 0, 7, 1, 9000, 40, 1, 0)]


@pytest.fixture(scope="module")
def bpe(texts):
    return tokenizers.train_bpe(texts, 280, lossless=True)


def documents(texts):
    return Examples.of(Document, [Document(str(i), text) for i, text in enumerate(texts)], "text")


def by_the_library(tokenizer, texts):
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


@pytest.fixture(params=["whole", "in small pieces"])
def sizes(request, monkeypatch):
    if request.param == "in small pieces":
        monkeypatch.setattr(examples_module, "_BLOCK_BYTES", 1000)
        monkeypatch.setattr(module, "_TOGETHER", 9000)
        monkeypatch.setattr(module, "_COMMIT_EVERY", 20_000)


@pytest.mark.parametrize("which", ["bpe", "characters"])
def test_each_text_has_the_tokens_of_the_library(which, texts, bpe, sizes):
    """A model would be trained on other tokens than it is prompted with; a text would begin in the one before it."""
    tokenizer = bpe if which == "bpe" else tokenizers.train_characters(texts[:5], mask=False)
    found = kept_tokens(documents(texts), "text", tokenizer)
    assert [ids.tolist() for ids in found.ids] == [e.ids for e in by_the_library(tokenizer, texts)]
    assert found.ids.values.dtype == np.uint16 and found.words is None


def test_words_are_told_apart_as_the_library_does(texts, bpe, sizes):
    """Half of a word would be masked and the other half give it away."""
    found = kept_tokens(documents(texts), "text", bpe, words=True)
    at = 0
    for encoding in by_the_library(bpe, texts):
        ours = found.words[at : at + len(encoding.ids)].tolist()
        pairs = zip(itertools.pairwise(ours), itertools.pairwise(encoding.word_ids), strict=True)
        assert all((a != b) == (c != d) for (a, b), (c, d) in pairs)
        at += len(ours)
    assert at == len(found.words)


def test_words_of_a_vocabulary_from_elsewhere_are_not_read_letter_by_letter():
    """A tokenizer of whole words is taken for one of characters: every word of a text is unknown."""
    vocabulary = {"[UNK]": 0, "the": 1, "cat": 2, "a": 3}
    words = library.Tokenizer(library.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = library.pre_tokenizers.Whitespace()
    found = kept_tokens(documents(["the cat sat on a mat"]), "text", words, words=True)
    assert found.ids[0].tolist() == [1, 2, 0, 0, 3, 0] and (np.diff(found.words.astype(int)) != 0).all()


def test_a_large_vocabulary_has_wider_numbers():
    """Token 65,536 would be token 0."""
    vocabulary = {f"w{i}": i for i in range(70_000)}
    words = library.Tokenizer(library.models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    found = kept_tokens(documents(["w65535 w65536 w69999"]), "text", words)
    assert found.ids[0].tolist() == [65535, 65536, 69999] and found.ids.values.dtype == np.uint32


def test_they_are_made_once(texts, bpe, monkeypatch):
    """Every start would encode 40 GB again; another text, tokenizer or question would have the old answer."""
    kept_tokens(documents(texts), "text", bpe)
    other = tokenizers.train_bpe(texts, 270, lossless=True)
    asked = []
    monkeypatch.setattr(module, "encode_pieces", lambda *of, **how: asked.append(1) or encode_pieces(*of, **how))
    kept_tokens(documents(texts), "text", bpe)
    assert not asked
    for changed in (
        (documents(texts[1:]), "text", bpe),
        (documents(texts), "name", bpe),
        (documents(texts), "text", other),
    ):
        kept_tokens(*changed)
        assert asked
        asked.clear()
    kept_tokens(documents(texts), "text", bpe, words=True)
    assert asked


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_killed_process_is_taken_up_bit_for_bit(after, texts, bpe, monkeypatch, tmp_path):
    """Texts would be missing, stand there twice, or two words be one where the second process began."""
    monkeypatch.setattr(examples_module, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(module, "_TOGETHER", 9000)
    monkeypatch.setattr(module, "_COMMIT_EVERY", 1)
    wanted = kept_tokens(documents(texts), "text", bpe, words=True)
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "other"))
    calls, commit = itertools.count(1), module.Writer.commit

    def dies(self, state):
        commit(self, state)
        if next(calls) == after:
            self.append("ids", np.full(99, 9, np.uint16))
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module.Writer, "commit", dies)
        kept_tokens(documents(texts), "text", bpe, words=True)
    found = kept_tokens(documents(texts), "text", bpe, words=True)
    np.testing.assert_array_equal(found.ids.values, wanted.ids.values)
    np.testing.assert_array_equal(found.ids.offsets, wanted.ids.offsets)
    np.testing.assert_array_equal(found.words, wanted.words)
