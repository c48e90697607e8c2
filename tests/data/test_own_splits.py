"""Sources of texts that have splits themselves: what a plugin gives, and what a config must then leave out."""

import numpy as np
import pytest

from tformer_jax.config import ConfigError, build
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.files import DataError
from tformer_jax.data.sources import DOCUMENTS, LABELLED_TEXTS, PAIRS, Document, LabelledText, Pair, Stream
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.translation import TranslationData, TranslationDataConfig

PARTS = {"train": range(30), "validation": range(28, 34), "test": range(40, 45)}
MAKE = {
    "documents": lambda n: Document(f"name {n}", f"document {n}\n"),
    "pairs": lambda n: Pair(f"one {n}", f"eins {n}"),
    "texts": lambda n: LabelledText(f"text {n}", f"{n % 2}"),
}
READS = []  # what was read


def parts_of(kind, which):
    """The parts of a source: a generator, a list and a stream, which all must do."""
    made = {name: [MAKE[kind](n) for n in PARTS[name]] for name in which}
    READS.append(which)
    forms = {"train": iter, "validation": list, "test": lambda found: Stream(lambda: iter(found))}
    return {name: forms[name](found) for name, found in made.items()}


def register(registry, kind, which):
    """Registers a source of these parts, which says so."""
    source = lambda: parts_of(kind, which)
    source.splits = which
    registry.register(f"own_{which[1]}_{len(which)}")(source)


for _registry, _kind in ((DOCUMENTS, "documents"), (PAIRS, "pairs"), (LABELLED_TEXTS, "texts")):
    for _which in (("train", "validation", "test"), ("train", "test"), ("train", "validation")):
        register(_registry, _kind, _which)


@DOCUMENTS.register("unsaid")
def unsaid():
    """Does not say what splits it has."""
    return parts_of("documents", ("train", "test"))


KINDS = {
    "documents": (CausalLMData, CausalLMDataConfig, dict(vocab_size=300, row_length=8, batch_tokens=16), "share", 0.2, ()),
    "pairs": (TranslationData, TranslationDataConfig, dict(vocab_size=300, batch_tokens=64, num_buckets=1), "size", 4, (40,)),
    "texts": (
        TextClassificationData, TextClassificationDataConfig, dict(vocab_size=300, batch_tokens=64), "size", 4, (40,)
    ),
}  # fmt: skip


def section(kind, source, **sizes):
    """The section of a source; `sizes`: of "validation" and "test"."""
    _, config, fields, end, size, _ = KINDS[kind]
    held = {f"{name}_{end}": size if sizes.get(name) else None for name in ("validation", "test")}
    more = {"split": "sentence"} if kind == "pairs" else {}
    return build(config, fields | held | more | {"source": source}, "data")


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`make(kind, source, **sizes)`: the data."""
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))

    def make(kind, source, **sizes):
        (tmp_path / "run").mkdir(exist_ok=True)
        data, *_, limit = KINDS[kind]
        return data(section(kind, source, **sizes), *limit, tmp_path / "run")

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_splits_of_the_source_are_as_they_are(make, kind):
    """A number would be of other examples than those that others report it of; or training would lose what is in them."""
    for _ in range(2):  # made, and found in the stores
        data = make(kind, "own_validation_3")
        assert list(data.splits) == ["train", "validation", "test"]
        for name, numbers in PARTS.items():
            assert list(data.splits[name]) == [MAKE[kind](n) for n in numbers]
        assert f"2 training {data.unit} are also in the validation split of the source; both keep them" in data.report
        assert "own_validation_3)" in data.report[0] and "split by" not in data.report[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "own", "held"), [("own_test_2", "test", "validation"), ("own_validation_2", "validation", "test")]
)
def test_what_the_source_lacks_is_held_out_of_training(make, kind, source, own, held):
    """There would be no validation, or it would come out of the official test."""
    data = make(kind, source, **{held: True})
    assert list(data.splits) == ["train", "validation", "test"]
    assert list(data.splits[own]) == [MAKE[kind](n) for n in PARTS[own]]
    train, found = set(data.splits["train"]), set(data.splits[held])
    assert len(found) >= 4 and train | found == {MAKE[kind](n) for n in PARTS["train"]} and not train & found


@pytest.mark.parametrize("kind", KINDS)
def test_a_size_goes_with_exactly_what_is_held_out(kind):
    """A size would be without effect, or a split be missing."""
    end, before = KINDS[kind][3], len(READS)
    with pytest.raises(ConfigError, match=f"^data.test_{end} must be None, as the source has its own test split; got"):
        section(kind, "own_test_2", validation=True, test=True)
    with pytest.raises(ConfigError, match=f"^data.validation_{end} is needed, as the source has no validation split"):
        section(kind, "own_test_2")
    assert len(READS) == before


@pytest.mark.parametrize(
    ("sizes", "message"), [({"test": True, "validation": True}, "must be None"), ({}, "is needed")]
)
def test_splits_that_are_not_said_are_known_when_it_is_read(make, sizes, message):
    """A plugin's own test would be held out of training besides, or nothing be validated."""
    with pytest.raises(ConfigError, match=rf"^data\.\w+ {message}"):
        make("documents", "unsaid", **sizes)
    assert len(make("documents", "unsaid", validation=True).splits["test"]) == 5


@pytest.mark.parametrize("names", [("test",), ("train", "dev"), ()])
def test_other_splits_are_refused(make, names):
    """A split by another name would be lost without a word."""
    DOCUMENTS.register(f"odd {names}")(lambda: {name: [Document("a", "b")] for name in names})
    with pytest.raises(DataError, match=r"must give 'train', and may give 'validation' and 'test', got"):
        make("documents", f"odd {names}", validation=True, test=True)


def test_pairs_without_a_side_are_left_out_of_every_split(make):
    """A sentence without a reference would be scored against nothing."""
    parts = {"train": [Pair(f"{i}", f"{i}") for i in range(9)], "validation": [Pair("a", "b")]}
    parts["test"] = [Pair("a", " "), Pair("c", "d")]
    PAIRS.register("blank")(lambda: parts)
    data = make("pairs", "blank")
    assert list(data.splits["test"]) == [Pair("c", "d")]
    assert "1 of 2 pairs have an empty side and are left out" in data.report


def test_tokens_are_those_of_their_own_split(make):
    """Splits that lie in stores of their own would share one's tokens."""
    data = make("documents", "own_validation_3")
    for name in PARTS:
        tokens = data.tokens(name).ids
        texts = [data.tokenizer.decode(ids.tolist()) for ids in tokens]
        assert texts == [MAKE["documents"](n).text for n in PARTS[name]]
        assert np.sum(tokens.lengths) == len(tokens.values)


def test_a_mixture_has_the_splits_of_all_its_sources(tmp_path, monkeypatch):
    """Official tests would be trained on as soon as a source is mixed with another one."""
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))
    others = {name: [Document(f"{name} {i}", f"another {name} {i}\n") for i in range(9)] for name in PARTS}
    DOCUMENTS.register("others")(lambda: others)
    config = section("documents", "own_validation_3")
    config = config.changed(source="mixture", mixture="own_validation_3:0.5,others:0.5")
    data = CausalLMData(config, tmp_path)
    for name, numbers in PARTS.items():
        assert list(data.splits[name]) == [*map(MAKE["documents"], numbers), *others[name]]
    assert data.train_batches().batch(0)["tokens"].size and data.yardstick is None


def test_sources_with_other_splits_are_not_mixed():
    """A test split would be of one source alone, and look as if it was of the mixture."""
    config = section("documents", "own_validation_3")
    with pytest.raises(
        ConfigError, match="mixture has 'own_test_2', of which validation_share is needed, as the source has no"
    ):
        config.changed(source="mixture", mixture="own_validation_3:0.5,own_test_2:0.5")
