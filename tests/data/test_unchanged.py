"""What is remembered of many files: for as long as none of them changes, whoever hides it."""

import os
import shutil
import time

import pytest

from tformer_jax.data import unchanged
from tformer_jax.data.files import DataError
from tformer_jax.data.unchanged import fingerprint, remembered


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


# Fingerprints ----------------------------------------------------------------------------------


def test_a_fingerprint_is_another_one_when_a_file_changes(files):
    """What was made of the old text would be taken for what is made of the new one."""
    before = fingerprint(files, b"")
    assert fingerprint(files, b"") == before != fingerprint(files, b"x") and fingerprint(files[1:], b"") != before
    with open(files[0], "r+") as opened:
        opened.write("C")
    assert fingerprint(files, b"") != before


def test_a_fingerprint_of_what_was_written_just_now_is_of_its_content(files, monkeypatch):
    """A second write within the grain of the file system's clock would not be seen."""
    monkeypatch.setattr(unchanged, "_SETTLES_NS", 10**18)
    before, times = fingerprint(files, b""), os.stat(files[0])
    with open(files[0], "r+") as opened:
        opened.write("C")
    os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(files, b"") != before


def test_a_pipe_is_not_read_for_its_fingerprint():
    """Its text would be gone when it is to be read."""
    read, write = os.pipe()
    os.write(write, b"text")
    os.close(write)
    fingerprint([f"/dev/fd/{read}"], b"")
    assert os.read(read, 100) == b"text"
    os.close(read)
