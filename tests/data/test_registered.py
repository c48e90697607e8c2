"""Sources from outside: each is given what its parameters ask for, and what it gives is what its kind is."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from tformer_jax.config import ConfigError, build
from tformer_jax.data.base import DataConfig
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.classes import load_classes
from tformer_jax.data.files import DataError
from tformer_jax.data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from tformer_jax.data.sources import (
    DOCUMENTS,
    IMAGES,
    LABELLED_TEXTS,
    PAIRS,
    Document,
    ImageSource,
    LabelledImages,
    LabelledText,
    Pair,
    Sources,
)
from tformer_jax.data.splits import split_examples
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.tokenizers import decode
from tformer_jax.data.translation import TranslationData, TranslationDataConfig


@DOCUMENTS.register("counted")
def counted(count: int, word: str = "word", share: float = 0.5, seed: int = 9, say=print):
    """A generator, as well as a list, is an iterable."""
    say(f"{count} {word} {share} {seed}")
    yield from (Document(f"{i}", f"{word} {i}\n" * 20) for i in range(count))


@DOCUMENTS.register("texts_alone")
def texts_alone():
    return ["", "a text"]


@PAIRS.register("doubled")
def doubled(times: int = 2):
    return [Pair(f"{i}", f"{times * i}") for i in range(60)]


@LABELLED_TEXTS.register("parities")
def parities():
    return [LabelledText(f"number {i}", ("even", "odd")[i % 2]) for i in range(60)]


@IMAGES.register("shades")
def shades(image_size: int):
    """A field of the section is one of the source's too."""
    labels = np.arange(40, dtype=np.int32) % 2
    pixels = np.broadcast_to(100 * labels[:, None, None, None], (40, image_size, image_size, 1)).astype(np.uint8)
    return ImageSource(["dark", "light"], {"train": LabelledImages(pixels, labels)})


FIELDS = dict(source="counted", vocab_size=300, row_length=8, batch_tokens=32)


def section(**changes):
    return build(CausalLMDataConfig, FIELDS | changes, "data")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("count=4", "4 word 0.5 3"),
        ("count=4,word=12,share=1", "4 12 1 3"),
        (" count = 4 , word=a=b , share=2.5", "4 a=b 2.5 3"),
    ],
)
def test_a_source_is_given_its_options_and_fields_of_the_section(options, said):
    """An option would turn nothing, come as another type, or hide `data.seed`."""
    told = []
    found = section(source_options=options, seed=3).read(told.append)
    assert (told, len(found), type(found)) == ([said], 4, list)


def test_an_input_that_a_source_may_do_without_is_optional():
    """A source that reads a file or makes its own would need two names."""
    registry = Sources("kind of documents", Document)
    registry.register("perhaps")(lambda path=None: [Document("a", f"{path}")])
    registry.register("never")(lambda: [])

    class Section(DataConfig):
        sources, inputs = registry, ("path",)
        path: str | None = None

    assert [Section(source="perhaps", path=path).read()[0].text for path in (None, "there")] == ["None", "there"]
    with pytest.raises(ConfigError, match=r"path goes with data\.source='perhaps'; got path='a' with source='never'"):
        Section(source="never", path="a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"data\.source_options needs count"),
        ({"source_options": "cuont=3"}, r"data\.source_options has no field 'cuont'; did you mean 'count'"),
        ({"source_options": "count=three"}, r"data\.source_options\.count must be an integer, got 'three'"),
        ({"source_options": "count"}, r"data\.source_options must read 'name=value,\.\.\.', each .*, got 'count'"),
        ({"source_options": "count=1,count=2"}, r"data\.source_options must read .* once"),
        ({"source_options": "seed=1,count=2"}, r"data\.source_options has no field 'seed'"),
        ({"source": "speeches", "source_options": "count=2"}, r"data\.source_options has no field 'count'"),
        ({"source_options": "count=1", "path": "a"}, r"data\.path goes with data\.source='files'.*got path='a'"),
        ({"source": "cuonted"}, r"data\.source must be one of .*'counted'.*; did you mean 'counted'"),
    ],
)
def test_what_a_source_cannot_be_given_is_refused(changes, message):
    """An option would be ignored, or end in a traceback of the source's."""
    with pytest.raises(ConfigError, match=message):
        section(**changes)


def test_what_is_of_another_kind_is_refused_where_it_is_made():
    """The error would be an attribute's that a text does not have, far from the source."""
    with pytest.raises(DataError, match=r"'texts_alone' \(.*test_registered\.py:\d+\) must give Documents, got ''"):
        section(source="texts_alone").read()


@pytest.mark.parametrize(
    ("gives", "example", "message"),
    [
        (LabelledText, ("good", 1), r"must give LabelledTexts whose label is str, got 1"),
        (Pair, ("one", None), r"must give Pairs whose target is str, got None"),
        (Document, (3, "text"), r"must give Documents whose name is str, got 3"),
        (LabelledText, ("good", "yes", 2), r"must give LabelledTexts whose group is str or NoneType, got 2"),
    ],
)
def test_what_has_a_field_of_another_kind_is_refused_where_it_is_made(gives, example, message):
    """Labels that are numbers would end in a traceback about their length."""
    registry = Sources("source", gives)
    registry.register("numbers")(lambda: [gives(*example)])

    class Section(DataConfig):
        sources = registry

    with pytest.raises(DataError, match=rf"'numbers' \(.*\) {message}"):
        Section(source="numbers").read()


class NumberData(TextClassificationData):
    """Sentences with a number each."""

    def split(self, found, say):
        return split_examples(
            found["train"], by=None, validation_size=5, test_size=5, seed=self.config.seed, what="text"
        )

    def labels(self, texts):
        return np.asarray([float(text.label) for text in texts], np.float32)


@LABELLED_TEXTS.register("halves")
def halves():
    return [LabelledText(f"half of {i}", f"{i / 2}") for i in range(60)]


def test_texts_may_have_numbers_instead_of_classes(tmp_path):
    """Regression on a sentence would need its own tokenizer, buckets and digests."""
    config = build(TextClassificationDataConfig, TEXT | dict(source="halves", num_buckets=1), "data")
    data = NumberData(config, 40, tmp_path)
    batch = data.train_batches().batch(0)
    rows = zip(batch["tokens"], batch["lengths"], strict=True)
    texts = [decode(data.tokenizer, row[:n], strip=False) for row, n in rows]
    assert batch["labels"].dtype == np.float32 and not (tmp_path / "classes.json").exists()
    assert texts == [f"half of {2 * label:.0f}" if label >= 0 else "" for label in batch["labels"]]


TEXT = dict(vocab_size=300, batch_tokens=64, validation_size=5, test_size=5)
KINDS = {
    "documents": (CausalLMData, CausalLMDataConfig, FIELDS | {"source_options": "count=30"}),
    "pairs": (
        functools.partial(TranslationData, max_length=40), TranslationDataConfig,
        TEXT | dict(source="doubled", source_options="times=3", split="sentence", num_buckets=1),
    ),
    "labelled texts": (
        functools.partial(TextClassificationData, max_length=40), TextClassificationDataConfig,
        TEXT | dict(source="parities"),
    ),
    "images": (
        ImageClassificationData, ImageClassificationDataConfig,
        dict(source="shades", image_size=4, num_channels=1, validation_size=4, test_size=4, batch_size=8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_data_from_outside_are_split_compared_and_batched(kind, tmp_path):
    """What the package's own sources have, others would not: splits, batches, a refusal when they change."""
    make, config, fields = KINDS[kind]
    config = build(config, fields, "data")
    data = make(config, directory=tmp_path)
    assert len(data.train_batches()) > 0 and len(data.evaluation_batches("test")) > 0
    make(config, directory=tmp_path)
    with pytest.raises(DataError, match="the data are not those of"):
        make(dataclasses.replace(config, seed=1), directory=tmp_path)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("a=1,b=1,c=1,d=1", (1, 1, "1", "1")),
        ("a=1.5,b=None,c=None,d=x", (1.5, None, None, "x")),
        ("a=[],b=True,c=[],d=a b", ("[]", True, "[]", "a b")),
        ("a={{}},b=1,c={[]:1},d=x", ("{{}}", 1, "{[]:1}", "x")),
    ],
)
def test_an_option_is_what_its_annotation_wants(text, given):
    """A folder called 2024 would come as a number, or a number as a text."""
    registry, found = Sources("kind of documents", Document), []

    @registry.register("typed")
    def typed(a, b: int | bool | None, c: str | None, d: Path):
        found.extend((a, b, c, d))
        return []

    class Section(DataConfig):
        sources = registry

    Section(source="typed", source_options=text).read()
    assert tuple(found) == given


def test_labels_of_one_unicode_form_are_one_class(tmp_path):
    """A run would be trained whose classes nobody can load: the same name stands there twice."""
    LABELLED_TEXTS.register("accents")(lambda: [LabelledText(f"{i}", ("e", "é", "e\u0301")[i % 3]) for i in range(60)])
    data = TextClassificationData(
        build(TextClassificationDataConfig, TEXT | dict(source="accents"), "data"), 40, tmp_path
    )
    assert data.classes == load_classes(tmp_path) == ["e", "é"]
    assert {example.label for part in data.splits.values() for example in part} == {"e", "é"}


def image_data(source, directory):
    """Data of images in memory that a source gives."""
    fields = dict(source=source, image_size=4, num_channels=1, validation_size=4, test_size=4, batch_size=8)
    return ImageClassificationData(build(ImageClassificationDataConfig, fields, "data"), directory)


def test_a_source_may_keep_the_images_that_it_gives(tmp_path):
    """What is held out would be put into the source's own table, and it refused the second time."""
    IMAGES.register("kept")(functools.cache(functools.partial(shades, 4)))
    sizes = [{n: len(part) for n, part in image_data("kept", tmp_path).splits.items()} for _ in range(2)]
    assert sizes == 2 * [{"train": 32, "validation": 4, "test": 4}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((40, 4, 4, 1), np.float32)}, r"must be uint8 \[N Y X C\], got float32 \[40, 4, 4, 1\]"),
        ({"images": np.zeros((40, 4, 4), np.uint8)}, r"must be uint8 \[N Y X C\], got uint8 \[40, 4, 4\]"),
        ({"labels": np.arange(40) % 3}, r"each image of source='\w+' must have a label, an integer in \[0, 2\)"),
        ({"labels": np.arange(40) % 2 - 1}, "must have a label"),
        ({"labels": np.arange(40) % 2.0}, "must have a label"),
        ({"labels": np.arange(41) % 2}, "must have a label"),
    ],
)
def test_images_that_cannot_be_trained_on_are_refused(tmp_path, changes, message):
    """Pixels from 0 to 1 would all become 0, and an image of no class be trained on as if it were of none."""
    classes, splits = shades(4)
    name = f"wrong {len(IMAGES)}"
    wrong = dataclasses.replace(splits["train"], **changes)
    IMAGES.register(name)(lambda: ImageSource(classes, {"train": wrong}))
    with pytest.raises(DataError, match=message.replace(r"\w+", name)):
        image_data(name, tmp_path)
