"""Byte-level BPE and characters: nothing is lost, words keep together, and special tokens are never text."""

import inspect
import tracemalloc
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from tokenizers import Tokenizer, models

from tformer_jax.data import files, tokenizers
from tformer_jax.data.pieces import cut, encode_pieces
from tformer_jax.data.tokenizers import (
    BOS_ID,
    EOS_ID,
    MASK_ID,
    PAD_ID,
    decode,
    encode,
    kept,
    load,
    make_bytes,
    save,
    train_bpe,
    train_characters,
)

examples = settings(derandomize=True, deadline=None, max_examples=80)

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


# Lossless --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lossless():
    # With white space in runs, so that there are merges of it.
    return train_bpe([*TEXTS, *["a\n\n\n\n    b"] * 50], 325, lossless=True, mask=True)


@pytest.fixture(scope="module")
def characters():
    return train_characters(TEXTS, mask=True)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
KNOWN_TEXT = st.text(sorted(set("".join(TEXTS))), max_size=40)


@examples
@given(ANY_TEXT | st.text(" \n\t\rab", max_size=20))
@example("")
@example(" a\r\n\n  b \t")
@example("e\u0301 \ufb01 <mask><eos>")
def test_lossless_is_lossless(lossless, text):
    """A language model would be scored on other text than was written, or could not write a line's indentation."""
    assert decode(lossless, encode(lossless, [text])[0], strip=False) == text


@examples
@given(KNOWN_TEXT)
@example(" <eos> ")
def test_known_characters_are_lossless(characters, text):
    """White space or the pieces of a spelled-out special token would be lost."""
    assert decode(characters, encode(characters, [text])[0], strip=False) == text


@examples
@given(ANY_TEXT)
@example("a\nb\r\n")
@example("<mask>")
def test_every_character_is_one_token(characters, text):
    """Newlines or astral characters would vanish or be split: what is unknown is `<unk>`, after the special tokens."""
    vocabulary = characters.get_vocab()
    known = set("".join(TEXTS))
    assert vocabulary["<unk>"] == 4
    assert encode(characters, [text])[0] == [vocabulary[c] if c in known else 4 for c in text]


def test_characters_are_numbered_by_code_point(characters):
    """The order of a set would number them: two runs of one config would have other vocabularies."""
    vocabulary = characters.get_vocab()
    assert sorted(set("".join(TEXTS)), key=vocabulary.get) == sorted(set("".join(TEXTS)))
    assert sorted(vocabulary.values()) == list(range(5 + len(set("".join(TEXTS)))))


def test_special_tokens_are_no_characters(characters):
    """Padding would be printed, or start and end would have other ids than the model's."""
    (cat,) = encode(characters, ["cat"])
    assert decode(characters, [BOS_ID, *cat, PAD_ID, MASK_ID]) == "cat"


def test_decoding_strips_only_if_asked(lossless):
    """A generated line break or indentation would be lost, or a translation would begin with a blank."""
    (ids,) = encode(lossless, [" a\n"])
    assert (decode(lossless, ids, strip=False), decode(lossless, ids)) == (" a\n", "a")


@pytest.mark.parametrize(
    "train", [lambda **how: train_bpe(TEXTS, 300, **how), lambda **how: train_characters(TEXTS, **how)]
)
def test_the_mask_is_there_only_if_asked(train):
    """Every other model would carry a token it never sees, or the mask would be the id of some text."""
    assert train().token_to_id("<mask>") is None
    assert train(mask=True).token_to_id("<mask>") == MASK_ID == 3


def test_a_mask_takes_room_in_the_vocabulary():
    """The embedding table would be one row short."""
    with pytest.raises(ValueError, match="vocab_size must exceed 260 .*got 260"):
        train_bpe(TEXTS, 260, mask=True)
    assert train_bpe(TEXTS, 300, mask=True).get_vocab_size() == 300


@pytest.fixture(scope="module")
def bytes_alone():
    return make_bytes(mask=True)


@examples
@given(ANY_TEXT | st.text(" \n\t\rab", max_size=20))
@example("<eos> and <pad> 🙂")
def test_every_byte_is_one_token(bytes_alone, text):
    """A byte would be lost, or be another token where a text is typed than where it was trained on."""
    wanted = [byte + 4 for byte in text.encode("utf-8")]
    assert encode(bytes_alone, [text])[0] == wanted
    assert encode_pieces(bytes_alone, [text, "b", text]).ids.tolist() == [*wanted, ord("b") + 4, *wanted]
    assert decode(bytes_alone, wanted, strip=False) == text


def test_bytes_are_all_there_and_last(bytes_alone, tmp_path):
    """A byte that no text has would have no token; a model read elsewhere would have other tokens."""
    assert bytes_alone.get_vocab_size() == 260 and make_bytes().get_vocab_size() == 259
    save(bytes_alone, tmp_path / "tokenizer.json")
    read = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert read.encode("aé").ids == [ord("a") + 4, 0xC3 + 4, 0xA9 + 4]
    assert decode(bytes_alone, [PAD_ID, BOS_ID, ord("a") + 4, MASK_ID, ord("b") + 4, EOS_ID, ord("c") + 4]) == "ab"


@pytest.mark.parametrize("name", ["lossless", "characters"])
def test_loading_changes_no_token(name, request, tmp_path):
    """A checkpoint would be read with other token ids than it was trained with."""
    tokenizer = request.getfixturevalue(name)
    save(tokenizer, tmp_path / "tokenizer.json")
    reloaded = load(tmp_path / "tokenizer.json")
    texts = [*TEXTS[:3], " unseen Wörter\t!\n", "", "<mask>"]
    assert encode(reloaded, texts) == encode(tokenizer, texts)
    assert [decode(reloaded, ids, strip=False) for ids in encode(reloaded, texts[:3])] == texts[:3]


# Long texts ------------------------------------------------------------------------------------


@examples
@given(st.text(st.sampled_from("ab' \n\t\r\x1c\u2028\xa0!1é"), max_size=60), st.integers(1, 20))
def test_cutting_a_text_changes_no_token(lossless, text, size):
    """A long document would have other tokens where it is cut, and other words."""
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    assert all(len(piece) >= size for piece in pieces[:-1])
    assert sum(encode(lossless, pieces), []) == encode(lossless, [text])[0]


def long_texts():
    rng = np.random.default_rng(0)
    return [
        "",
        *(" ".join(rng.choice("the cat sat on\n\nmats, über".split(" "), count)) for count in (1, 7, 5000)),
        "x",
    ]


@pytest.mark.parametrize("name", ["lossless", "characters"])
def test_pieces_have_the_tokens_of_whole_texts(name, request):
    """A language model would be trained on other tokens than it is prompted with."""
    tokenizer = request.getfixturevalue(name)
    for text in [*long_texts(), "unknown: ☃ \U0001f468"]:
        pieces = [*cut(text, 100)]
        found = encode_pieces(tokenizer, pieces)
        assert found.begins_word is None  # nobody asked
        assert found.ids.tolist() == encode(tokenizer, [text])[0]
        assert found.lengths.tolist() == [len(ids) for ids in encode(tokenizer, pieces)]


def test_words_are_what_one_would_call_words(lossless):
    """Punctuation would be masked with the word before it."""
    found = encode_pieces(lossless, ["über zebras, sat", " on", "", " it"], words=True)
    words = np.split(found.ids, np.flatnonzero(found.begins_word)[1:])
    texts = [decode(lossless, ids, strip=False) for ids in words]
    assert texts == ["über", " zebras", ",", " sat", " on", " it"]


# Keeping ---------------------------------------------------------------------------------------


def test_a_kept_tokenizer_is_trained_once(tmp_path, lossless):
    """A resumed run would train again, and on other text it would get another vocabulary."""
    first = kept(tmp_path / "tokenizer.json", lambda: lossless)
    second = kept(tmp_path / "tokenizer.json", lambda: pytest.fail("trained again"))
    assert first.to_str() == second.to_str() == lossless.to_str()


def test_an_interrupted_save_leaves_no_half_file(tmp_path, lossless, monkeypatch):
    """A run killed while saving would find half a tokenizer and stop for ever."""
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "tokenizer.json", lambda: lossless)
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parity
@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "Llama", "Gemma", "Cohere", "Bart", "Bert", "XLMRoberta"])
def test_special_tokens_of_other_tokenizers_are_known(name):
    """A text would begin with the unknown token, or have no end, since a family calls them otherwise."""
    transformers = pytest.importorskip("transformers", minversion="5.23")
    known = inspect.signature(getattr(transformers, f"{name}Tokenizer").__init__).parameters
    said = lambda *keys: next((str(known[key].default) for key in keys if key in known), None)
    of = {"pad": said("pad_token"), "bos": said("bos_token", "cls_token"), "eos": said("eos_token", "sep_token")}
    of = {role: token for role, token in of.items() if token not in (None, "None")}
    words = ["unused", "another", "a third", "a fourth", *dict.fromkeys(of.values())]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="unused"))
    assert len(of) > 1 and tokenizers.special(made, *of) == tuple(words.index(token) for token in of.values())


def test_characters_of_any_amount_of_text_are_found():
    """All of the text would lie in memory at once, a gigabyte and more."""
    texts = (chr(0x100 + i) * 100_000 for i in range(200))
    tracemalloc.start()
    tokenizer = tokenizers.train_characters(texts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tokenizer.token_to_id(chr(0x100 + 199)) is not None and peak < 5_000_000
