"""One text in several Unicode forms: the same wherever texts, labels and names are compared."""

import unicodedata

import pytest

from tformer_jax.data import tokenizers
from tformer_jax.data.classes import keep_classes, load_classes
from tformer_jax.data.files import DataError
from tformer_jax.data.sources.documents import Document
from tformer_jax.data.sources.images import read_folders
from tformer_jax.data.sources.labelled_texts import read_labelled
from tformer_jax.data.sources.pairs import Pair, clean
from tformer_jax.data.splits import split_documents, split_examples
from tformer_jax.data.text import canonical, file_name

FORMS = ("NFC", "NFD")


def nfd(text):
    return unicodedata.normalize("NFD", text)


def test_the_forms_of_a_text_are_one():
    """An accent typed on one machine would be another letter than the same accent copied from another."""
    for text in ("é", "größer", "한국어", "Å", "tiếng Việt", "plain"):
        assert {canonical(unicodedata.normalize(form, text)) for form in FORMS} == {unicodedata.normalize("NFC", text)}
    assert canonical("\u212b") == "Å"


def test_bytes_of_a_name_that_are_no_text_do_not_stop_anything():
    """A file that an old program named would end in a traceback far away, where its name is written or hashed."""
    assert file_name("caf\udce9.txt").encode("utf-8") == "caf\ufffd.txt".encode()


@pytest.mark.parametrize("seed", range(5))
def test_no_sentence_is_in_two_splits_in_two_forms(seed):
    """Held-out sentences would be trained on."""
    texts = [f"numéro {i} à côté" for i in range(30)]
    pairs = [Pair(form(text), "x", group) for text in texts for form, group in ((str, text[7:9]), (nfd, f"b{text}"))]
    for by in ("sentence", "group"):
        splits = split_examples(pairs, by=by, validation_size=6, test_size=6, seed=seed)
        found = {name: {canonical(pair.source) for pair in part} for name, part in splits.items()}
        assert not found["train"] & (found["validation"] | found["test"])


def test_the_split_does_not_depend_on_the_form():
    """The same file, copied through a Mac, would be split otherwise, so that results could not be compared."""
    texts = [f"numéro {i} à côté" for i in range(30)]
    splits = [split_examples([Pair(form(text), "x") for text in texts], by="sentence", validation_size=5, test_size=5, seed=0)
              for form in (str, nfd)]  # fmt: skip
    assert splits[0] == {name: [Pair(canonical(p.source), "x") for p in part] for name, part in splits[1].items()}
    named = [split_documents([Document(form(text), str(i)) for i, text in enumerate(texts)], by="document",
                             validation_share=0.2, test_share=0.2, seed=0) for form in (str, nfd)]  # fmt: skip
    assert [d.text for d in named[0]["test"]] == [d.text for d in named[1]["test"]]


def test_what_stands_there_twice_in_two_forms_counts_once():
    """A sentence, or a document, would be learnt twice, or be held out beside itself."""
    assert clean([Pair("one é", "eins"), Pair(nfd("one é"), "eins"), Pair("é", nfd("é"))]) == [Pair("one é", "eins")]
    texts = [f"numéro {i}" for i in range(9)]
    documents = [Document(str(form) + text, form(text)) for text in texts for form in (str, nfd)]
    splits = split_documents(documents, by="document", validation_share=0.2, test_share=0.2, seed=0)
    assert sorted(document.text for part in splits.values() for document in part) == texts


def test_labels_in_two_forms_are_one_class(write, tmp_path):
    """One class would be two, of which a model could only guess which was meant."""
    lines = [f"{form('é')}\t{form('à')} {i}" for i in range(4) for form in (str, nfd)] + [f"b\tb {i}" for i in range(8)]
    texts = list(read_labelled(write("a.tsv", "\n".join(lines))))
    assert {text.label for text in texts} == {"é", "b"}
    splits = split_examples(texts, by=None, validation_size=3, test_size=3, seed=0)
    assert not {t.text for t in splits["train"]} & {t.text for name in ("validation", "test") for t in splits[name]}


def test_class_folders_in_two_forms_are_one_class(tmp_path):
    """Folders copied to and fro between a Mac and a server would double a class, or a test split have other ones."""
    for number, name in enumerate((f"train/{nfd('zoé')}", "train/a", "train/zoé", f"test/{nfd('zoé')}", "test/a")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / f"{number}.png").write_bytes(b"x")
    classes, splits = read_folders(tmp_path)
    assert classes == ["a", "zoé"]
    assert splits["train"].labels.tolist() == [0, 1, 1]
    assert splits["test"].labels.tolist() == [0, 1]
    assert [str(file)[-5:] for file in splits["train"].images] == ["1.png", "0.png", "2.png"]


def test_a_run_that_goes_on_finds_its_classes_in_any_form(tmp_path):
    """A run begun on a Mac could not go on on a server."""
    (tmp_path / "classes.json").write_text(f'["a", "{nfd("é")}"]')
    keep_classes(["a", "é"], tmp_path)
    assert load_classes(tmp_path) == ["a", "é"]


def test_a_class_twice_in_the_file_is_refused(tmp_path):
    """Of two outputs with one name, a prediction would not say which."""
    (tmp_path / "classes.json").write_text(f'["é", "{nfd("é")}"]')
    with pytest.raises(DataError, match="classes.json must hold each name once"):
        load_classes(tmp_path)


TEXT = "où êtes-vous allés hier soir ? à côté du café fermé, près du théâtre. " * 20


@pytest.mark.parametrize("trained", FORMS)
@pytest.mark.parametrize("typed", FORMS)
def test_a_prompt_is_read_in_the_form_of_the_training_text(trained, typed):
    """A model would refuse, or stumble over, an accent that it has seen a thousand times."""
    text = unicodedata.normalize(trained, TEXT)
    prompt = unicodedata.normalize(typed, "près du café")
    for tokenizer in (tokenizers.train_characters([text]), tokenizers.train_bpe([text], 400, lossless=True)):
        assert (
            tokenizers.encode_typed(tokenizer, prompt)
            == tokenizers.encode(tokenizer, [unicodedata.normalize(trained, prompt)])[0]
        )


def test_a_prompt_that_no_form_helps_stays_as_it_is():
    """What is unknown would be said of another text than the one that was typed."""
    tokenizer = tokenizers.train_characters(["abc e\u0301"])
    assert tokenizers.encode_typed(tokenizer, "aüc") == tokenizers.encode(tokenizer, ["aüc"])[0]
    assert tokenizers.encode_typed(tokenizer, "") == []
