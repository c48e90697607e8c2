"""What is remembered of many files: for as long as none of them changes, whoever hides it."""

import os
import shutil
import time

import pytest

from tformer_jax.data import unchanged
from tformer_jax.data.files import DataError
from tformer_jax.data.unchanged import code_of, contents, remembered


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Some files, looked at as if long after they were written."""
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(unchanged, "_FEWEST", 3)
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)
    (tmp_path / "files").mkdir()
    for name in "abcd":
        (tmp_path / "files" / name).write_text(f"content of {name}")
    return [str(tmp_path / "files" / name) for name in "abcd"]


@pytest.fixture
def look():
    """`look(files, about)`: whether they are read."""

    def look(files, about=b""):
        read = []
        value = remembered(files, about, lambda: read.append(1) or {"sum": [open(file).read() for file in files]})
        assert value == {"sum": [open(file).read() for file in files]}
        return bool(read)

    return look


def rewritten(files):
    """As many bytes, and the same time of the last change."""
    before = os.stat(files[1])
    with open(files[1], "r+") as file:
        file.write("CONTENT")
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(files[1]).st_mtime_ns == before.st_mtime_ns
    return files


def replaced(files):
    """As with `cp -p` of a file that is as long, and as old."""
    other = f"{files[1]}.other"
    shutil.copy2(files[1], other)
    before = os.stat(other)
    with open(other, "r+") as file:
        file.write("CONTENT")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, files[1])
    return files


def renamed(files):
    os.rename(files[2], f"{files[2]}2")
    return [*files[:2], f"{files[2]}2", files[3]]


CHANGES = {
    "rewritten": rewritten, "replaced": replaced, "renamed": renamed, "fewer": lambda files: files[:3],
    "in another order": lambda files: files[::-1],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_files_are_read_once_until_one_changes(files, look, change):
    """A start takes minutes, or data that changed are taken for those that were trained on."""
    assert [look(files) for _ in range(3)] == [True, False, False]
    assert look(CHANGES[change](files))


def test_what_else_a_value_follows_from_counts(files, look):
    """Images would keep the sum of other labels."""
    assert [look(files, about) for about in (b"0", b"1", b"0")] == [True, True, False]


def test_what_may_be_changing_still_is_not_remembered(files, look, monkeypatch):
    """A file that is written twice within the grain of a clock would be taken for what it was in between."""
    monkeypatch.undo()
    monkeypatch.setattr(unchanged, "_FEWEST", 3)
    monkeypatch.setenv("TFORMER_DATA", f"{files[0]}-cache")
    assert [look(files), look(files)] == [True, True]


@pytest.mark.parametrize("content", ["", "[]", "null", "3", "{}", '{"value": {"sum": []}, "sha256": "0"}', None])
def test_a_damaged_memory_is_none(files, look, tmp_path, content):
    """A run would be refused its own data."""
    look(files)
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    if content is None:
        kept.unlink()
        kept.mkdir()
        assert look(files) and look(files)
        return
    kept.write_text(content)
    assert [look(files), look(files)] == [True, False]


def test_a_cache_that_cannot_be_written_is_in_nobody_s_way(files, look, tmp_path):
    """Data could not be read because the disk is full."""
    (tmp_path / "cache").write_text("a file")
    assert look(files) and look(files)


def test_a_file_that_is_gone_is_named(files, look):
    os.unlink(files[3])
    with pytest.raises(DataError, match=f"cannot read {files[3]}: No such file"):
        look(files)


# Contents --------------------------------------------------------------------------------------


def test_contents_are_other_ones_when_a_file_changes(files):
    """What was made of the old text would be taken for what is made of the new one."""
    before = contents(files)
    assert contents(files) == before != contents(files[1:])
    with open(files[0], "r+") as opened:
        opened.write("C")
    assert contents(files) != before


def test_contents_are_the_same_elsewhere(files, tmp_path):
    """Each host would make another store of a copy of the same files."""
    shutil.copytree(tmp_path / "files", tmp_path / "copies")
    assert contents([tmp_path / "copies" / name for name in "abcd"]) == contents(files)


def test_a_pipe_is_not_read_for_its_contents():
    """Its text would be gone when it is to be read."""
    read, write = os.pipe()
    os.write(write, b"text")
    os.close(write)
    contents([f"/dev/fd/{read}"])
    assert os.read(read, 100) == b"text"
    os.close(read)


# Code ------------------------------------------------------------------------------------------


def test_the_code_of_a_function_is_its_file(tmp_path):
    """An edited source of one's own would give what it gave before."""
    file = tmp_path / "own_source.py"

    def code(text):
        file.write_text(text)
        made = {}
        exec(compile(text, str(file), "exec"), made)
        return code_of(made["source"])

    first = code("A = 1\ndef source(): return A")
    assert first == code("A = 1\ndef source(): return A") != code("A = 2\ndef source(): return A")


def test_the_code_of_a_function_without_a_file_is_its_own():
    """A source that is written in a notebook would end in a traceback, or be taken for another one."""

    def code(text):
        made = {}
        exec(compile(text, "<cell>", "exec"), made)
        return code_of(made["source"])

    assert code("def source(): return 1") == code("def source(): return 1") != code("def source(): return 2")
