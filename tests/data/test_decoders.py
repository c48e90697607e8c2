"""Processes that decode images: what threads give, whatever ends a process, and nothing that is left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tformer_jax.data import decoders as processes
from tformer_jax.data.crops import RandomCrop
from tformer_jax.data.decoders import Decoders, Picture
from tformer_jax.data.files import DataError
from tformer_jax.data.sources import images
from tformer_jax.data.sources.images import read_folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven photographs of two classes, each of its own size."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(11):
        file = folder / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40 + number, 50, 3), np.uint8)).save(file)
    return folder


@pytest.fixture(scope="module")
def two():
    made = Decoders(2)
    yield made
    made.close()


def pictures(folder, crop=None):
    return [Picture(None, file, crop) for file in read_folders(folder).splits["train"].images]


def decoded(decoders, given, size=16, channels=3):
    found = np.zeros((len(given), size, size, channels), np.uint8)
    decoders.put(lambda row: given[row], found)
    return found


@pytest.mark.parametrize(("size", "channels"), [(16, 3), (33, 1), (8, 3)])
def test_processes_give_what_this_one_would(two, folder, size, channels):
    """A model would see other pixels on a machine with more cores, or rows in another order; sizes may change."""
    given = pictures(folder, RandomCrop(0.3, 1, np.int64(2), 3))
    want = [picture.shown(size, channels) for picture in given]
    np.testing.assert_array_equal(decoded(two, given, size, channels), want)


def test_contents_that_were_read_are_decoded_too(two, folder):
    """Images of tars and Parquet would be looked for as files."""
    given = pictures(folder)
    read = [Picture(open(picture.name, "rb").read(), "an image of a tar") for picture in given]
    np.testing.assert_array_equal(decoded(two, read), decoded(two, given))


def test_a_batch_of_many_images_is_that_of_threads(folder, monkeypatch):
    """A part of a data set would be other images than the whole has."""
    found = read_folders(folder).splits["train"]
    want = found.pixels(np.arange(11)[::-1], 16, 3)
    monkeypatch.setattr(images, "cores", lambda: 3)
    monkeypatch.setattr(images, "FEW_IMAGES", 10)
    used = []
    monkeypatch.setattr(images, "decoders", lambda *given: used.append(given) or processes.decoders(2, os.getpid()))
    np.testing.assert_array_equal(found.pixels(np.arange(11)[::-1], 16, 3), want)
    assert used == [(3, os.getpid())]
    assert len(found.pixels(np.arange(0), 16, 3)) == 0


@pytest.mark.parametrize("bad", [b"no image", None])
def test_the_first_image_that_cannot_be_decoded_is_named(two, folder, bad):
    """A run would end without a word of which file it was, or go on with zeros."""
    given = pictures(folder)
    given[5], given[9] = Picture(bad, "fifth.jpg"), Picture(b"no image either", "ninth.jpg")
    for _ in range(3):
        with pytest.raises(DataError, match=r"fifth\.jpg"):
            decoded(two, given)
    assert len(decoded(two, pictures(folder))) == 11


def test_a_file_of_any_name_is_decoded(two, folder, tmp_path):
    """A run would end at the first photograph whose name is of another encoding, or has a line break."""
    given = pictures(folder)[:2]
    files = [tmp_path / name for name in (os.fsdecode(b"\xe4.jpg"), "two\nlines.jpg")]
    for file, picture in zip(files, given, strict=True):
        shutil.copy(picture.name, file)
    np.testing.assert_array_equal(decoded(two, [Picture(None, str(file)) for file in files]), decoded(two, given))


def test_a_crop_that_cannot_be_sent_does_no_harm(two, folder):
    """Half a message would stay in the pipe, and what is asked for next never be answered."""
    with pytest.raises(TypeError):
        decoded(two, pictures(folder, lambda width, height: (0, 0, width, height)))
    assert len(decoded(two, pictures(folder))) == 11


def test_a_process_that_is_killed_is_said_and_replaced(folder):
    """A run would wait for ever, or every batch after it fail."""
    before = children(os.getpid())
    decoders = Decoders(2)
    try:
        want = decoded(decoders, pictures(folder))
        for pid in {*children(os.getpid())} - {*before}:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            DataError, match=r"a process that decodes images ended by signal 9, at one of \d from .*\.jpg on"
        ):
            decoded(decoders, pictures(folder))
        for _ in range(2):  # of two that were killed, one may not have been asked
            try:
                found = decoded(decoders, pictures(folder))
            except DataError:
                continue
        np.testing.assert_array_equal(found, want)
    finally:
        decoders.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_what_is_sent_to_all_processes_of_a_run_does_not_end_them(two, folder, number):
    """A scheduler's signal would end the run in an error, before the checkpoint in which it should end."""
    want = decoded(two, pictures(folder))
    for pid in children(os.getpid()):
        os.kill(pid, number)
    np.testing.assert_array_equal(decoded(two, pictures(folder)), want)


def children(of):
    """The decoders of a process, by their numbers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # of one that ended meanwhile
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == of and b"decoders import serve" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


PROGRAM = """
import sys
import numpy as np
from tformer_jax.data.decoders import Picture, decoders
found = np.zeros((1, 4, 4, 3), np.uint8)
decoders(2, 0).put(lambda row: Picture(None, sys.argv[1]), found)
print("decoded", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["ends", signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_asks(folder, how):
    """Each run would leave a process for every core, after Ctrl-C or kill -9."""
    command = [sys.executable, "-c", PROGRAM, pictures(folder)[0].name]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "decoded\n"
        left = children(process.pid)
        assert len(left) == 2
        if how != "ends":
            process.send_signal(how)
        _, errors = process.communicate("", timeout=60)
    assert errors.endswith("KeyboardInterrupt\n") if how == signal.SIGINT else errors == ""
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in left) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
