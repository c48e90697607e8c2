"""Fixtures of tests of pictures."""

import matplotlib.image
import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, which it is with few dots: these are drawn sooner."""
    saved, save = [], Figure.savefig

    def savefig(figure, file, dpi, **how):
        saved.append(figure)
        save(figure, file, dpi=dpi / 3, **how)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


@pytest.fixture
def assert_picture():
    def check(file):
        """A PNG that can be decoded and is not one colour."""
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        pixels = matplotlib.image.imread(file)
        assert min(pixels.shape[:2]) > 100
        assert pixels[..., :3].std() > 0.01

    return check
