"""Byte-level BPE: nothing is unknown, nothing is lost, and special tokens are never text."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tformer_jax.data import tokenizers
from tformer_jax.data.tokenizers import BOS_ID, EOS_ID, PAD_ID, decode, encode, load, train_bpe

examples = settings(derandomize=True, deadline=None, max_examples=200)

TEXTS = ["the cat sat on the mat", "über den Wolken", "<eos> and <pad> are spelled out here"] * 20
TEXTS += [f"sentence number {i} is about {i * i} different things" for i in range(20)]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, 320)


# Surrogates are no text; what this Python's Unicode has not assigned may have a normal form elsewhere.
UNICODE = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=40)


@examples
@given(UNICODE)
@example("")
@example(" \n")
@example("\tthe  cat\u00a0sat ")
@example("<eos> a<pad>b <bos>")
@example("e\u0301 \ufb01 \U0001f468\u200d\U0001f469 日本語 ﷽")
def test_text_survives_up_to_nfc_and_outer_blanks(bpe, text):
    """Some characters would be unknown, changed or lost on the way through the tokens."""
    (ids,) = encode(bpe, [text])
    assert decode(bpe, ids) == unicodedata.normalize("NFC", text).strip()


@examples
@given(UNICODE)
@example("<eos>")
@example("a<pad> <bos>")
def test_no_text_encodes_to_a_special_token(bpe, text):
    """A text that spells out "<eos>" would end the sentence, or be taken for padding."""
    assert not {PAD_ID, BOS_ID, EOS_ID} & set(encode(bpe, [text])[0])


@pytest.fixture
def reloaded(bpe, tmp_path):
    bpe.save(str(tmp_path / "tokenizer.json"))
    return load(tmp_path / "tokenizer.json")


def test_a_spelled_out_special_token_stays_text_after_loading(reloaded):
    """The file does not keep that special tokens are text: a resumed run would encode other ids."""
    (ids,) = encode(reloaded, ["<eos> here"])
    assert not {PAD_ID, BOS_ID, EOS_ID} & set(ids)
    assert decode(reloaded, ids) == "<eos> here"


def test_a_loaded_tokenizer_encodes_as_the_saved_one(bpe, reloaded):
    """A checkpoint would be read with other token ids than it was trained with."""
    texts = [*TEXTS[:3], "unseen Wörter\t!", ""]
    assert encode(reloaded, texts) == encode(bpe, texts)


def test_special_tokens_have_their_ids(bpe):
    """The model pads and ends with ids that the tokenizer gives to other tokens."""
    assert [bpe.token_to_id(token) for token in (tokenizers.PAD, tokenizers.BOS, tokenizers.EOS)] == [0, 1, 2]
    assert (PAD_ID, BOS_ID, EOS_ID) == (0, 1, 2)


def test_the_vocabulary_has_the_asked_size(bpe):
    """The embedding table would be larger or smaller than the tokens."""
    assert bpe.get_vocab_size() == 320


def test_frequent_words_become_single_tokens(bpe):
    """The merges would not be learnt: a sentence would be as long as its bytes."""
    assert len(encode(bpe, ["the cat sat on the mat"])[0]) == 6


def test_a_word_has_the_same_tokens_first_and_later(bpe):
    """The first word of each sentence would be another word than the same one inside."""
    first, second = encode(bpe, ["cat"])[0], encode(bpe, ["the cat"])[0]
    assert second[-len(first) :] == first


@pytest.mark.parametrize("size", [0, 3, 259])
def test_a_vocabulary_without_room_for_merges_is_refused(size):
    """A tokenizer of bytes alone would be trained without a word."""
    with pytest.raises(ValueError, match=f"vocab_size must exceed 259 .*got {size}"):
        train_bpe(TEXTS, size)


def test_decoding_stops_at_the_first_end(bpe):
    """What a search wrote after the end would be printed."""
    (cat,), (dog,) = encode(bpe, ["the cat"]), encode(bpe, ["the dog"])
    assert decode(bpe, [*cat, EOS_ID, *dog, EOS_ID]) == "the cat"


def test_decoding_leaves_out_start_and_padding(bpe):
    """Special tokens would be printed as text."""
    (cat,) = encode(bpe, ["the cat"])
    assert decode(bpe, [BOS_ID, *cat, PAD_ID, PAD_ID]) == "the cat"


def test_decoding_bytes_that_are_no_utf8_is_no_error(bpe):
    """An early model writes broken characters: evaluation would crash."""
    (ids,) = encode(bpe, ["ж"])
    assert "\ufffd" in decode(bpe, ids[:-1])


def test_training_is_deterministic():
    """Two runs of one config would have other vocabularies."""
    assert train_bpe(TEXTS, 300).to_str() == train_bpe(TEXTS, 300).to_str()


@pytest.mark.parametrize("content", [None, "", "{}", "no json"])
def test_a_file_without_a_tokenizer_is_refused_by_name(tmp_path, content):
    """A missing or damaged file would end in the tokenizer library's own exception."""
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match="cannot load a tokenizer from .*tokenizer.json"):
        load(file)
