"""Stores on the disk: real files, real processes, real kills."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support import full_disk

from tformer_jax.data import store
from tformer_jax.data.files import DataError, WriteError, cache_dir
from tformer_jax.data.store import MANIFEST, let_go, stored

KEY = {"what": "numbers", "count": 40}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))


def pieces(count=40):
    return [np.arange(i * i, i * i + i, dtype=np.uint16) for i in range(count)]


def counting(writer):
    """Makes the numbers, and says from where on."""
    start = writer.state or 0
    for i, piece in enumerate(pieces()[start:], start):
        writer.append("numbers", piece)
        writer.append("sizes", np.array([len(piece)], np.int64))
        writer.commit(i + 1)
    return {"from": start}


def whole(found):
    np.testing.assert_array_equal(found["numbers"], np.concatenate(pieces()))
    assert found["numbers"].dtype == np.uint16 and found["sizes"].tolist() == [*range(40)]


def refused(writer):
    raise AssertionError("made again")


def the_folder():
    (folder,) = [path for path in (cache_dir() / "test").iterdir() if not path.name.endswith(".unfinished")]
    return folder


def resident():
    """Bytes of files that are in this process's memory."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssFile"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc to tell what is resident")
def test_what_was_read_is_let_go_of():
    """A pass over 40 GB of text would count as 40 GB of memory."""
    found = stored("test", KEY, lambda writer: writer.append("x", np.arange(4_000_000)))["x"]  # 32 MB
    before = resident()
    assert found.sum() == 7_999_998_000_000 and resident() - before > 24 << 20
    let_go()
    assert resident() - before < 4 << 20
    assert found[::1000].tolist() == [*range(0, 4_000_000, 1000)]


def test_another_store_of_the_same_thing_is_told():
    """Tokens of 40 GB would be made again and nobody know why, or that the old ones still fill the disk."""
    said = []
    stored("test", KEY, counting, said.append, of="train")
    old = the_folder()
    stored("test", KEY, refused, said.append, of="train")
    stored("test", KEY | {"count": 0}, lambda writer: None, said.append, of="another")
    assert not said
    stored("test", KEY | {"count": 41}, lambda writer: None, said.append, of="train")
    (line,) = said
    assert line.startswith(f"the test of train are made anew: {old} changed in count;")


def test_a_store_is_made_once():
    """Every start would tokenise everything again."""
    whole(stored("test", KEY, counting))
    found = stored("test", KEY, refused)
    whole(found)
    assert found.about == {"from": 0} and not found["numbers"].flags.writeable
    found.check_sums()
    assert sorted(path.name for path in the_folder().iterdir()) == ["lock", MANIFEST, "numbers", "sizes"]


def test_another_key_is_another_store():
    """A changed tokenizer or split would be served what the old one made."""
    stored("test", KEY, counting)
    assert stored("test", KEY | {"count": 41}, lambda writer: "other").about == "other"


def test_an_empty_array_is_an_array():
    """A split without a long text, or texts without a token, would be no store."""
    found = stored("test", KEY, lambda writer: writer.append("none", np.zeros(0, np.uint32)))
    assert found["none"].shape == (0,) and found["none"].dtype == np.uint32 and "none" in found and "x" not in found


def shortened(folder):
    (folder / "numbers").write_bytes((folder / "numbers").read_bytes()[:-2])


def foreign(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"key": "another"}))


DAMAGE = {
    "truncated": (shortened, r"has 1,558 bytes in numbers in place of 1,560, and is made again"),
    "longer": (lambda folder: (folder / "sizes").write_bytes(bytes(321)), "has 321 bytes in sizes in place of 320"),
    "without an array": (lambda folder: (folder / "sizes").unlink(), r"damaged \(FileNotFoundError"),
    "without a manifest": (lambda folder: (folder / MANIFEST).unlink(), r"damaged \(FileNotFoundError"),
    "half a manifest": (
        lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:50]),
        r"damaged \(JSONDecodeError",
    ),
    "a manifest of nothing": (lambda folder: (folder / MANIFEST).write_text("[1]"), r"damaged \(TypeError"),
    "foreign": (foreign, "is of something else, and is made again"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_no_whole_store_is_named_and_made_again(name):
    """A run would train on half of its text, or on another one, and nobody would hear of it."""
    stored("test", KEY, counting)
    damage, message = DAMAGE[name]
    damage(the_folder())
    said = []
    whole(stored("test", KEY, counting, said.append))
    (line,) = said
    assert line.startswith(str(the_folder())) and re.search(message, line)


def test_a_changed_bit_is_found_by_the_sums():
    """A disk that loses a bit would change the text, and nobody could tell."""
    found = stored("test", KEY, counting)
    file = found.directory / "numbers"
    content = bytearray(file.read_bytes())
    content[100] ^= 4
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"numbers is damaged; delete .*, and it is made again"):
        found.check_sums()


def test_a_full_disk_leaves_nothing_to_be_believed():
    """What did not fit would be missing from the text."""

    def long(writer):
        writer.append("numbers", np.zeros(200_000, np.uint16))
        writer.commit(1)

    with full_disk(100_000), pytest.raises(WriteError, match=r"cannot write .*numbers: File too large"):
        stored("test", KEY, long)
    whole(stored("test", KEY, counting))


def test_what_cannot_be_made_leaves_nothing():
    """Data that are refused would lie on the disk for ever."""

    def bad(writer):
        writer.append("numbers", np.zeros(2))
        writer.commit(1)
        raise DataError("no such field")

    with pytest.raises(DataError, match="no such field"):
        stored("test", KEY, bad)
    assert not list((cache_dir() / "test").iterdir())


@pytest.mark.parametrize("after", ["before a commit", "a lost file", "a damaged journal"])
def test_who_goes_on_begins_at_the_last_commit(after):
    """Numbers that were written twice, or not at all, would move all that come behind them."""

    def dies(writer):
        for i, piece in enumerate(pieces()[:7]):
            writer.append("numbers", piece)
            writer.append("sizes", np.array([len(piece)], np.int64))
            writer.commit(i + 1)
        writer.append("numbers", np.full(1000, 9, np.uint16))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored("test", KEY, dies)
    (folder,) = (cache_dir() / "test").iterdir()
    if after == "a lost file":
        (folder / "sizes").unlink()
    if after == "a damaged journal":
        (folder / "journal.json").write_text('{"state": 3')
    found = stored("test", KEY, counting)
    whole(found)
    found.check_sums()
    assert found.about == {"from": 7 if after == "before a commit" else 0}


PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
from data import test_store
from tformer_jax.data.store import stored

def slowly(writer):
    start = writer.state or 0
    for i, piece in enumerate(test_store.pieces()[start:], start):
        writer.append("numbers", piece)
        writer.append("sizes", test_store.np.array([len(piece)], "i8"))
        writer.commit(i + 1)
        print("at", i, flush=True)
        time.sleep(0.02)
    return {{"from": start}}

found = stored("test", test_store.KEY, slowly)
test_store.whole(found)
print("whole", found.about["from"], flush=True)
"""


def process():
    program = PROGRAM.format(tests=os.path.dirname(os.path.dirname(__file__)))
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_is_taken_up_where_it_was():
    """A machine that is restarted would begin with 40 GB of text again; or its store would have a gap."""
    first = process()
    while first.stdout.readline() != "at 5\n":
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    lines = process().communicate()[0].splitlines()
    assert "at 5" not in lines and lines[-1].startswith("whole ") and int(lines[-1].split()[1]) >= 6


def test_processes_that_start_together_make_it_once():
    """Several hosts would write into one another's files."""
    running = [process() for _ in range(3)]
    outputs = [one.communicate()[0].splitlines() for one in running]
    assert sorted(len(lines) for lines in outputs) == [1, 1, 41]
    assert all(lines[-1] == "whole 0" for lines in outputs)


def test_one_that_waits_takes_over_from_one_that_is_killed():
    """A host would wait for ever for one that is gone."""
    first = process()
    first.stdout.readline()
    second = process()
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.communicate(timeout=60)[0].splitlines()[-1].startswith("whole ")


def test_stores_made_apart_are_the_same_bytes(tmp_path, monkeypatch):
    """Hosts with disks of their own would train on different batches."""
    found = []
    for host in ("a", "b"):
        monkeypatch.setenv("TFORMER_DATA", str(tmp_path / host))
        stored("test", KEY, counting)
        found.append({path.name: path.read_bytes() for path in the_folder().iterdir()})
    assert found[0] == found[1] and store.MANIFEST in found[0]
