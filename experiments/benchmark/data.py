"""Texts, pairs and pictures by chance, always the same, for what needs data and not what it says.

They are sources that `data.source` calls "chance". Words are as frequent as Zipf found them, so that a tokenizer has
something to learn.
"""

import numpy as np

from tformer_jax.data.sources.documents import DOCUMENTS, Document
from tformer_jax.data.sources.images import IMAGES, ImageSource, LabelledImages
from tformer_jax.data.sources.labelled_texts import LABELLED_TEXTS, LabelledText
from tformer_jax.data.sources.pairs import PAIRS, Pair

SOURCE = "chance"
_WORDS, _CLASSES, _GROUPS = 5000, 10, 100


def sentences(count: int, seed: int, most_words: int = 30) -> list[str]:
    """Draws sentences of 1 to `most_words` words."""
    draw = np.random.default_rng(seed)
    letters = draw.choice(list("etaoinshrdlucmwfgypbvk"), (_WORDS, 9))
    words = np.array(["".join(row[: 2 + rank % 8]) for rank, row in enumerate(letters)])
    chances = 1 / (np.arange(_WORDS) + 2.7)
    lengths = draw.integers(1, most_words, count, endpoint=True)
    drawn = words[draw.choice(_WORDS, lengths.sum(), p=chances / chances.sum())]
    return [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]


@DOCUMENTS.register(SOURCE)
def documents(count: int = 100) -> list[Document]:
    """Draws documents of 200 sentences."""
    lines = sentences(200 * count, seed=0)
    return [Document(f"{n}", "\n".join(lines[200 * n : 200 * (n + 1)]) + "\n") for n in range(count)]


@PAIRS.register(SOURCE)
def pairs(count: int = 20_000) -> list[Pair]:
    """Draws pairs of sentences, in groups."""
    both = zip(sentences(count, seed=1), sentences(count, seed=2), strict=True)
    return [Pair(source, target, f"{n % _GROUPS}") for n, (source, target) in enumerate(both)]


@LABELLED_TEXTS.register(SOURCE)
def labelled(count: int = 20_000) -> list[LabelledText]:
    """Draws sentences of two classes."""
    return [LabelledText(text, "ab"[n % 2]) for n, text in enumerate(sentences(count, seed=3))]


@IMAGES.register(SOURCE)
def pictures(count: int = 5000, image_size: int = 28, num_channels: int = 1) -> ImageSource:
    """Draws pictures of ten classes."""
    draw = np.random.default_rng(4)
    pixels = draw.integers(0, 256, (count, image_size, image_size, num_channels), np.uint8)
    labels = (np.arange(count) % _CLASSES).astype(np.int32)
    return ImageSource([f"class {n}" for n in range(_CLASSES)], {"train": LabelledImages(pixels, labels)})


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    """Draws uint8 [height width 3] that compresses as a photograph does: amplitudes fall with frequency (Field, 1987)."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1

    def channel() -> np.ndarray:
        found = np.fft.irfft2(np.fft.rfft2(draw.standard_normal((height, width))) / frequency, (height, width))
        return found / found.std()

    grey = channel()
    colours = np.stack([128 + 45 * grey + 12 * channel() for _ in range(3)], axis=-1)
    return colours.clip(0, 255).astype(np.uint8)
