"""Sources that are read one example after the other: checked as they come, as often as they are asked for."""

import itertools

import pytest

from tformer_jax.data.base import DataConfig
from tformer_jax.data.files import DataError
from tformer_jax.data.sources import Document, Sources, Stream, registered


@pytest.fixture
def registry():
    """A registry of documents, and `section(source)` of it."""
    registry = Sources("kind of documents", Document)

    class Section(DataConfig):
        sources = registry

    return registry, lambda source: Section(source=source)


def test_a_stream_has_the_examples_on_every_pass(registry):
    """The second pass, which makes tokens after a tokenizer is trained, would find nothing."""
    registry, section = registry
    documents = [Document(f"{i}", f"text {i}") for i in range(5)]
    registry.register("list")(lambda: documents)
    registry.register("generator")(lambda: iter(documents))
    registry.register("stream")(lambda: Stream(lambda: iter(documents)))
    for name in registry:
        stream = registry.streams(section(name))["train"]
        assert [list(stream) for _ in range(3)] == 3 * [documents], name
        assert registry.read(section(name)) == documents, name


def test_a_pass_that_is_left_early_does_not_shorten_the_next(registry):
    """What was looked at for a moment would be missing from the training."""
    registry, section = registry
    registry.register("counted")(lambda: (Document(f"{i}", "text") for i in range(5)))
    stream = registry.streams(section("counted"))["train"]
    assert [one.name for one in itertools.islice(stream, 2)] == ["0", "1"]
    assert [one.name for one in stream] == ["0", "1", "2", "3", "4"]


def test_a_stream_is_read_no_further_than_it_is_asked_for(registry):
    """A corpus of tens of gigabytes would be read, and held, before its first document is seen."""
    registry, section = registry
    registry.register("endless")(lambda: (Document(f"{i}", "text") for i in itertools.count()))
    assert len(list(itertools.islice(registry.streams(section("endless"))["train"], 1000))) == 1000


def test_a_source_says_what_is_to_be_known_once(registry):
    """A note would stand in the report once for every pass."""
    registry, section = registry
    told = []

    @registry.register("told")
    def source(say):
        say("a note")
        yield Document("a", "text")

    stream = registry.streams(section("told"), told.append)["train"]
    assert len(list(stream)) == len(list(stream)) == 1
    assert told == ["a note"]


def test_a_stream_tells_its_files(registry, tmp_path):
    """Nobody could tell whether the data changed since they were made into tokens."""
    registry, section = registry
    registry.register("files")(lambda: Stream(lambda: iter([]), [tmp_path / "b", tmp_path / "a"]))
    registry.register("made")(lambda: [])
    assert registry.streams(section("files"))["train"].files == (tmp_path / "b", tmp_path / "a")
    assert registry.streams(section("made"))["train"].files == ()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("text", r"the kind of documents 'wrong' \(.*test_streams\.py:\d+\) must give Documents, got 'text'"),
        (Document("a", 3), "must give Documents whose text is str or LargeText, got 3"),
    ],
)
def test_an_example_of_another_kind_is_refused_when_it_comes(registry, wrong, message):
    """It would be trained on, or end in a traceback of the tokenizer's."""
    registry, section = registry
    registry.register("wrong")(lambda: [Document("a", "right"), wrong])
    passing = iter(registry.streams(section("wrong"))["train"])
    assert next(passing) == Document("a", "right")
    with pytest.raises(DataError, match=message):
        next(passing)


def test_one_thing_that_is_no_list_is_one_example(registry):
    """A document is a tuple: its name and text would each be taken for a document."""
    registry, section = registry
    registry.register("one")(lambda: Document("a", "text"))
    assert list(registry.streams(section("one"))["train"]) == [Document("a", "text")]


def test_too_much_text_is_not_read_into_memory(registry, monkeypatch):
    """Files that are small, or compressed, would fill the memory together; one by one they may be as many as they are."""
    registry, section = registry
    registry.register("two")(lambda: [Document("a", "ab"), Document("b", "abc")])
    monkeypatch.setattr(registered, "MOST_TEXT_BYTES", 7)
    assert len(registry.read(section("two"))) == 2
    monkeypatch.setattr(registered, "MOST_TEXT_BYTES", 6)
    with pytest.raises(DataError, match=r"^data\.source='two' has more than 6 characters, .*: give fewer files$"):
        registry.read(section("two"))
    assert len(list(registry.streams(section("two"))["train"])) == 2
