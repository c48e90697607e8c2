"""Fixtures of tests of pictures."""

import matplotlib.image
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend


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
def assert_apart():
    def check(figure):
        """No text of a figure lies on another, nor beyond the edge."""
        FigureCanvasAgg(figure).draw()  # places everything for its own dots
        inside, texts = figure.bbox, [figure._suptitle]
        texts += [text for legend in figure.findobj(Legend) for text in legend.get_texts()]
        for axes in figure.findobj(Axes):
            texts += [axes.title, *axes.texts]
            for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
                texts += [axis.label, axis.get_offset_text()]
                texts += [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)]
        shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
        boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
        for i, (words, box) in enumerate(boxes):
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= inside.x1 + 1 and box.y1 <= inside.y1 + 1, words
            for others, other in boxes[:i]:
                across = min(box.x1, other.x1) - max(box.x0, other.x0)
                along = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert across <= 1 or along <= 1, f"{words!r} lies on {others!r}"

    return check


@pytest.fixture
def assert_picture():
    def check(file):
        """A PNG that can be decoded and is not one colour."""
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        pixels = matplotlib.image.imread(file)
        assert min(pixels.shape[:2]) > 100
        assert pixels[..., :3].std() > 0.01

    return check
