"""Files of JSON Lines as sources: what is read of them, compressed or not, and what is refused by file and line."""

import bz2
import gzip
import json

import pytest
import zstandard
from hypothesis import given, settings, strategies as st

from tformer_jax.data.files import DataError
from tformer_jax.data.sources import (
    DOCUMENTS,
    LABELLED_TEXTS,
    PAIRS,
    Document,
    LabelledText,
    Pair,
    lines as lines_of_files,
)

documents, pairs, labelled = (kind["jsonl"] for kind in (DOCUMENTS, PAIRS, LABELLED_TEXTS))


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


ROWS = [{"text": "one"}, {"text": "deux\nécole"}, {"text": "three\u2028"}]
TEXTS = [row["text"] for row in ROWS]
PACKED = {
    "a.jsonl": lambda data: data,
    "a.json": lambda data: data,
    "a.jsonl.gz": gzip.compress,
    "a.JSON.GZ": gzip.compress,
    "a.jsonl.zst": zstandard.compress,
    "two members.json.gz": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "two frames.jsonl.zst": lambda data: zstandard.compress(data[:9]) + zstandard.compress(data[9:]),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_file_is_read_by_lines_however_it_is_packed(write, name):
    """The rest of a file that was packed in pieces would be left out, or a line be cut where two pieces meet."""
    file = write(name, PACKED[name](lines(*ROWS)))
    assert [document.text for document in documents(path=str(file), field="text")] == TEXTS


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.booleans(), st.sampled_from([b"\n", b"\r\n"]))
def test_any_text_comes_as_it_was_written(tmp_path_factory, texts, as_ascii, end):
    """A character that other programs take for an end of a line would split a row."""
    file = tmp_path_factory.mktemp("any") / "a.jsonl"
    file.write_bytes(b"".join(json.dumps({"t": t}, ensure_ascii=as_ascii).encode() + end for t in [*texts, "last"]))
    assert [document.text for document in documents(path=str(file), field="t")] == [*texts, "last"]


def test_each_kind_of_text_is_made_of_its_fields(write):
    """A translation would be paired with its source's group, or a label with a name."""
    row = {"id": 7, "translation": {"de": "Haus", "en": "house"}, "label": "noun", "text": "un mot", "a.b": "dotted"}
    given = {"path": str(write("a.jsonl", lines(row)))}
    assert list(documents(**given, name_field="id")) == [Document("7", "un mot")]
    assert list(documents(**given, field="a.b")) == [Document("a.jsonl:1", "dotted")]
    fields = {"source_field": "translation.en", "target_field": "translation.de"}
    assert list(pairs(**given, **fields)) == [Pair("house", "Haus")]
    assert list(pairs(**given, **fields, group_field="id")) == [Pair("house", "Haus", "7")]
    assert list(labelled(**given)) == [LabelledText("un mot", "noun")]
    assert list(labelled(**given, label_field="id", group_field="label")) == [LabelledText("un mot", "7", "noun")]


@pytest.mark.parametrize(
    ("label", "name"),
    [(3, "3"), (-0.5, "-0.5"), (True, "true"), (10**400, "1" + 400 * "0"), (" good ", "good"), ("e\u0301", "é")],
)
def test_a_label_is_a_text_or_a_number(write, label, name):
    """The numbers that most data sets have as labels would be refused, or one class be two."""
    file = write("a.jsonl", lines({"text": "e\u0301", "label": label}))
    assert list(labelled(path=str(file))) == [LabelledText("é", name)]


def test_a_folder_is_read_by_name_and_the_rest_is_told(tmp_path):
    """Shards would come in the order of the disk, another on each machine, or what is left out go unnoticed."""
    (tmp_path / "more").mkdir()
    for name in ("b.jsonl", "a.jsonl", "more/c.jsonl.gz", ".hidden.jsonl", "notes.txt", "info.json"):
        data = lines({"text": name})
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    told = []
    found = documents(path=str(tmp_path), say=told.append)
    assert [one.text for one in found] == ["a.jsonl", "b.jsonl", "more/c.jsonl.gz"]
    assert [one.name for one in found] == ["a.jsonl:1", "b.jsonl:1", "more/c.jsonl.gz:1"]
    assert found.files == tuple(tmp_path / name for name in ("a.jsonl", "b.jsonl", "more/c.jsonl.gz"))
    assert told == [f"files not read in {tmp_path}: 1 .json, 1 .txt"]


def test_a_pattern_chooses_among_the_files_of_a_folder(tmp_path):
    """The test split that lies beside the training split would be trained on."""
    for name in ("train-1.jsonl", "train-0.jsonl", "test-0.jsonl"):
        (tmp_path / name).write_bytes(lines({"text": name}))
    found = documents(path=str(tmp_path / "train-*"))
    assert [(one.name, one.text) for one in found] == [(f"train-{i}.jsonl:1", f"train-{i}.jsonl") for i in range(2)]
    with pytest.raises(DataError, match=r"^no file is called .*valid-\*: correct data\.path$"):
        documents(path=str(tmp_path / "valid-*"))


def test_blank_lines_and_a_byte_order_mark_are_no_rows(write):
    """A file as some editors leave it would be refused, and the names of rows would not be those of lines."""
    file = write("a.jsonl", b"\xef\xbb\xbf" + lines(ROWS[0]) + b"\n \r\n" + lines(ROWS[1]) + b"\n")
    assert [one.name for one in documents(path=str(file))] == ["a.jsonl:1", "a.jsonl:4"]


def test_a_file_is_read_as_far_as_it_is_asked_for(write):
    """The whole of it would be in memory before the first row is seen."""
    found = iter(documents(path=str(write("a.jsonl", lines(ROWS[0]) + b"no JSON\n"))))
    assert next(found).text == "one"
    with pytest.raises(DataError):
        next(found)


OTHERS = {f"field {i:02}": "" for i in range(20)}
REFUSED = {
    "no JSON": (b"{'text': 1}\n", r"a\.jsonl, line 2 is no JSON: .*; write one table a line$"),
    "deep": (b"[" * 100_000 + b"\n", r"a\.jsonl, line 2 is no JSON: .*$"),
    "list": (b'["text"]\n', r"a\.jsonl, line 2 must be a table, such as .*, got \[\"text\"\]"),
    "Latin-1": ('{"text": "é"}\n'.encode("latin-1"), r"a\.jsonl, line 2: not valid UTF-8 .* byte 10\); save it as"),
    "no field": (
        lines({"b": "", "a": {"c": ""}}),
        r"a\.jsonl, line 2 has no field 'text'; set data\.source_options=field=\.\.\. to one that it has: 'a\.c', 'b'$",
    ),
    "many fields": (lines(OTHERS), r"line 2 has no field 'text'.*'field 00', .*, 'field 11', \.\.\.$"),
    "no fields": (lines({}), r"line 2 has no field 'text'.*: none$"),
    "null": (lines({"text": None}), r"line 2: the field 'text' must be a text, got None; mend it"),
    "number": (lines({"text": 3}), r"line 2: the field 'text' must be a text, got 3; mend it"),
    "half": (b'{"text": "a\\ud800"}\n', r"line 2: the field 'text' must be a text, got half a character, '\\ud800'"),
    "long": (lines({"text": "x" * 200}), r"a\.jsonl, line 2 has more than 100 bytes: cut it into several$"),
}


@pytest.mark.parametrize("content", REFUSED)
def test_a_bad_line_is_refused_by_file_and_number(write, content, monkeypatch):
    """Whoever has a million lines would search for the one by hand, or it would be trained on as something else."""
    data, message = REFUSED[content]
    if content == "long":
        monkeypatch.setattr(lines_of_files, "MOST_TEXT_BYTES", 100)
    with pytest.raises(DataError, match=message) as refusal:
        list(documents(path=str(write("a.jsonl", lines(ROWS[0]) + data))))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("label", [None, [1], {"name": "good"}, float("nan"), float("inf"), "", " "])
def test_a_label_that_names_nothing_is_refused(write, label):
    """A class "nan" or "" would be learnt."""
    file = write("a.jsonl", lines({"text": "x", "label": label}))
    with pytest.raises(
        DataError, match=r"line 1: the field 'label' must be a text or a number, got .*label_field=\.\."
    ):
        list(labelled(path=str(file)))


DAMAGED = {
    "cut.jsonl.gz": lambda data: gzip.compress(data)[:-20],
    "cut.jsonl.zst": lambda data: zstandard.compress(data)[:-20],
    "trailer.jsonl.gz": lambda data: gzip.compress(data)[:-8],
    "flipped.jsonl.gz": lambda data: gzip.compress(data)[:-8] + bytes(8),
    "flipped.jsonl.zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data)[:-4] + bytes(4),
    "other.jsonl.gz": bz2.compress,
    "other.jsonl.zst": bz2.compress,
    "plain.jsonl.gz": lambda data: data,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(write, name):
    """A download that broke off would be trained on as if it were whole."""
    rows = [{"text": f"{i} {i * i} {i**3}"} for i in range(2000)]
    file = write(name, DAMAGED[name](lines(*rows)))
    with pytest.raises(DataError, match=rf"^cannot read .*{name}.*; it is damaged or not whole: fetch it again"):
        list(documents(path=str(file)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_rows_is_refused(tmp_path, name, content):
    """A shard whose download failed would not be missed."""
    (tmp_path / "0.jsonl").write_bytes(lines(ROWS[0]))
    (tmp_path / name).write_bytes(PACKED[name](content))
    with pytest.raises(DataError, match=rf"{name} has no lines: fetch it again, or move it away$"):
        list(documents(path=str(tmp_path)))


def test_what_is_not_there_is_refused_at_once(tmp_path):
    """The run would find out when it begins to read."""
    with pytest.raises(DataError, match=r"^cannot read .*missing: No such file or directory$"):
        documents(path=str(tmp_path / "missing"))
    with pytest.raises(DataError, match=r"holds no \*\.jsonl or \*\.jsonl\.gz or .* file$"):
        documents(path=str(tmp_path))
