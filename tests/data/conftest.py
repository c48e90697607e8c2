"""What the tests of the data share: files and archives put by hand, and a small parallel corpus."""

import dataclasses
import hashlib
import io
import tarfile
import zipfile

import pytest

from tformer_jax.data.sources.archives import Wheel


@pytest.fixture
def write(tmp_path):
    """`write(name, content)` puts text (as UTF-8, line ends untouched) or bytes into a file and returns its path."""

    def write(name, content):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return file

    return write


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty data cache, and a pip that finds no index."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TFORMER_DATA", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return folder


@pytest.fixture
def tar_gz():
    """`tar_gz(members)`: the bytes of a .tar.gz of {name: text or bytes}."""

    def tar_gz(members):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                content = content if isinstance(content, bytes) else content.encode("utf-8")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    return tar_gz


@pytest.fixture
def put_by_hand(cache, tar_gz):
    """`put_by_hand(archive, members)`: its file lies in the cache, with {name: text or bytes} in it.

    Returns the archive with the hash that the file has.
    """

    def put_by_hand(archive, members, folder=cache):
        file = folder / archive.filename
        if isinstance(archive, Wheel):
            with zipfile.ZipFile(file, "w") as zipped:
                for name, content in members.items():
                    zipped.writestr(name, content)
        else:
            file.write_bytes(tar_gz(members))
        return dataclasses.replace(archive, sha256=hashlib.sha256(file.read_bytes()).hexdigest())

    return put_by_hand


@pytest.fixture(scope="session")
def sentences():
    """60 pairs of distinct sentences of 1 to 12 words; the target is the source in capitals, backwards."""
    words = "the red cat saw a small dog on that old green hill today".split()
    sources = [" ".join(words[(i * 5 + j * (1 + i % 3)) % len(words)] for j in range(1 + i % 12)) for i in range(60)]
    sources = [f"{source} {i}" for i, source in enumerate(sources)]
    return [(source, " ".join(reversed(source.upper().split()))) for source in sources]
