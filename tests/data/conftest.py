"""What the tests of the data share: files written by hand, and a small parallel corpus."""

import pytest


@pytest.fixture
def write(tmp_path):
    """`write(name, content)` puts text (as UTF-8, line ends untouched) or bytes into a file and returns its path."""

    def write(name, content):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return file

    return write


@pytest.fixture(scope="session")
def sentences():
    """60 pairs of distinct sentences of 1 to 12 words; the target is the source in capitals, backwards."""
    words = "the red cat saw a small dog on that old green hill today".split()
    sources = [" ".join(words[(i * 5 + j * (1 + i % 3)) % len(words)] for j in range(1 + i % 12)) for i in range(60)]
    sources = [f"{source} {i}" for i, source in enumerate(sources)]
    return [(source, " ".join(reversed(source.upper().split()))) for source in sources]
