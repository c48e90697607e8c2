"""Files: lines of text; what is written, whole or not at all."""

import concurrent.futures
import os
import shutil
import sys
from pathlib import Path

import pytest
from support import full_disk

from tformer_jax.data import files
from tformer_jax.data.files import (
    MOST_TEXT_BYTES,
    DataError,
    GrowingFile,
    WriteError,
    files_in,
    passed_over,
    read_bytes,
    read_lines,
    write_whole,
)


def test_the_cache_is_in_the_home_directory_by_default(monkeypatch, tmp_path):
    """An unset (or empty) TFORMER_DATA would put the data into the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFORMER_DATA", "")
    assert files.cache_dir() == tmp_path / ".cache" / "tformer_jax"


# Files as people have them -----------------------------------------------------------------------


def test_what_programs_leave_in_a_folder_is_passed_over(tmp_path):
    """Backups and previews would be learnt beside what they are of, or held out of it."""
    here = ["a.txt", "deep/b.txt", "deep/deeper/c"]
    left = [".a.txt", "._a.txt", ".ipynb_checkpoints/a.txt", "__MACOSX/a.txt", "deep/.git/a.txt", "deep/@eaDir/b.txt"]
    for name in here + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    assert files_in(tmp_path) == here


def test_a_folder_that_is_itself_hidden_may_be_read(tmp_path):
    """Data in ~/.data would be no data."""
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.txt").write_text("a")
    assert files_in(tmp_path / ".data") == ["a.txt"]


def test_files_passed_over_are_counted_by_suffix(tmp_path):
    """A user would not see that half of a folder is not read."""
    names = ["a.TIF", "deep/b.tif", "c.jfif", "README"]
    assert passed_over(tmp_path, names) == [f"files not read in {tmp_path}: 1 .jfif, 2 .tif, 1 without a suffix"]
    assert passed_over(tmp_path, []) == []


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path):
    """A mistaken path would fill the memory before anything is said."""
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(MOST_TEXT_BYTES + 1)  # of which the disk holds nothing
    with pytest.raises(DataError, match=f"huge.txt holds more than {MOST_TEXT_BYTES:,} bytes"):
        read_lines(tmp_path / "huge.txt")


def test_what_has_no_size_is_read_as_far_as_the_limit():
    """A device would be read for ever; a pipe, which has no size either, would be empty."""
    with pytest.raises(DataError, match="/dev/zero holds more than 1,000 bytes"):
        read_bytes("/dev/zero", 1000)
    read, write = os.pipe()
    os.write(write, b"one\ntwo")
    os.close(write)
    assert read_lines(f"/dev/fd/{read}") == ["one", "two"]
    os.close(read)


# Lines -----------------------------------------------------------------------------------------


def test_invalid_utf8_is_refused_with_file_and_line(write):
    """A file in another encoding would train on replacement characters, or stop without saying where."""
    file = write("latin.txt", "first\nsecond\nübel\n".encode("latin-1"))
    with pytest.raises(DataError, match="latin.txt, line 3: not valid UTF-8"):
        read_lines(file)


@pytest.mark.parametrize("content", ["", "\n", " \r\n\n"])
def test_an_empty_file_is_refused(write, content):
    """An empty file would end far away in the split or in the tokenizer."""
    with pytest.raises(DataError, match="empty.txt is empty"):
        read_lines(write("empty.txt", content))


def test_a_missing_file_is_refused_by_name(tmp_path):
    """A misspelt path would end in a traceback."""
    with pytest.raises(DataError, match="cannot read .*missing.txt: No such file"):
        read_lines(tmp_path / "missing.txt")


def test_a_directory_is_refused_by_name(tmp_path):
    """A path to a folder would end in a traceback."""
    with pytest.raises(DataError, match="cannot read .*: Is a directory"):
        read_lines(tmp_path)


@pytest.mark.parametrize("content", ["one\ntwo", "one\ntwo\n", "one\r\ntwo\r\n", "one\r\ntwo"])
def test_line_ends_do_not_matter(write, content):
    """Files from Windows would have a carriage return in every sentence; a last line without its end would be lost."""
    assert read_lines(write("a.txt", content)) == ["one", "two"]


def test_a_blank_line_keeps_its_place(write):
    """Skipping empty lines on one side would shift every pair after them."""
    assert read_lines(write("a.txt", "one\n\nthree\n\n")) == ["one", "", "three", ""]


def test_only_line_feeds_separate_lines(write):
    """A form feed or a Unicode line separator in one sentence would shift every pair after it."""
    assert read_lines(write("a.txt", "a\x0cb\nc\u2028d\x85e\n")) == ["a\x0cb", "c\u2028d\x85e"]


# Writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "before"])
def test_what_does_not_fit_on_the_disk_is_not_written_at_all(tmp_path, before):
    """Half a config, tokenizer or picture would be left, in place of the whole one; or what takes up the last room."""
    file = tmp_path / "config.json"
    if before:
        file.write_text(before)
    with pytest.raises(WriteError, match=f"^cannot write {file}: File too large$"), full_disk(10):
        write_whole(file, "x" * 11)
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == ({file.name: before} if before else {})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: file.mkdir(), "Is a directory"),
        (lambda file: file.symlink_to("/dev/full"), "No space left on device"),
        (lambda file: file.symlink_to("no/such/folder"), "No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_cause(tmp_path, make, reason):
    """The message would name a file that nobody knows of, or none."""
    make(file := tmp_path / "file")
    with pytest.raises(WriteError, match=f"^cannot write {file}: {reason}$"):
        write_whole(file, b"x")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file"}


def test_what_a_killed_writer_left_is_taken_over(tmp_path):
    """Each kill would leave a file, for ever; or what it holds would be in front of what is written next."""
    for name in ("config.json", "ä" * 127):
        (tmp_path / "folder").mkdir()
        file = tmp_path / "folder" / name
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(os, "replace", lambda *_: sys.exit())
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # as if it were killed
            write_whole(file, "half of what was to be written")
        (left,) = (tmp_path / "folder").iterdir()
        assert left.name.startswith(f".{name[:90]}") and files_in(tmp_path / "folder") == []
        write_whole(file, "whole")
        assert [entry.name for entry in (tmp_path / "folder").iterdir()] == [name] and file.read_text() == "whole"
        shutil.rmtree(tmp_path / "folder")


def test_several_writers_of_one_file_leave_it_whole(tmp_path):
    """Two processes that write the same results would mix them, or fail for each other's sake."""
    contents = {str(i): str(i) * 50_000 for i in range(8)}

    def write(i):
        for _ in range(30):
            write_whole(tmp_path / "file", contents[i])
            assert (tmp_path / "file").read_text() in contents.values()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_and_a_device_are_written_through(tmp_path):
    """A plot that is a link to a folder elsewhere would be there no more; /dev/null would be an ordinary file."""
    (tmp_path / "there").write_text("before")
    (tmp_path / "link").symlink_to("there")
    write_whole(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_text() == "after"
    (tmp_path / "null").symlink_to(os.devnull)
    write_whole(tmp_path / "null", "after")
    assert (tmp_path / "null").is_char_device()


def test_a_piece_that_does_not_fit_leaves_those_before(tmp_path):
    """The last row of a file would be cut on a full disk, and the next process go on behind it."""
    file = tmp_path / "metrics.jsonl"
    file.write_text("first\n")
    grows = GrowingFile(file)
    grows.write(b"second\n")
    with pytest.raises(WriteError, match=f"^cannot write {file}: File too large$"), full_disk(18):
        grows.write(b"third\n")
    assert file.read_text() == "first\nsecond\n"
    grows.write(b"third\n")
    grows.close()
    assert file.read_text() == "first\nsecond\nthird\n"
