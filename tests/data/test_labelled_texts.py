"""Where labelled texts come from: the real layout in miniature, and the user's own file."""

import pytest

from tformer_jax.data.files import DataError
from tformer_jax.data.sources import LABELLED_TEXTS, labelled_texts
from tformer_jax.data.sources.labelled_texts import LabelledText, rated_sentences, read_labelled


@pytest.fixture
def rated(put_by_hand, tar_gz, monkeypatch):
    """`rated(**domains)`: an sdist like the one of the rated sentences, an archive in an archive."""

    def rated(**domains):
        inner = {
            f"hutto_ICWSM_2014/{labelled_texts.DOMAINS[domain]}_GroundTruth.txt": content
            for domain, content in domains.items()
        }
        sdist = put_by_hand(labelled_texts._RATED, {labelled_texts._RATED.members[0]: tar_gz(inner)})
        monkeypatch.setattr(labelled_texts, "_RATED", sdist)

    return rated


def test_the_sign_of_the_rating_is_the_label(rated):
    """Classes would be swapped, or sentences without a tendency would be learnt as having one."""
    rated(movies="1\t2.25\tGood.\r\n2\t-0.05\tBad.\r\n3\t0\tSo so.\r\n4\t0.0\tSo so.\r\n5\t0.1\tFine.")
    assert rated_sentences("movies") == [
        LabelledText("Good.", "positive"),
        LabelledText("Bad.", "negative"),
        LabelledText("Fine.", "positive"),
    ]


def test_sentences_of_a_document_are_a_group(rated):
    """The sentences of one review would be trained on and tested."""
    rated(products="1_1\t1\tA\r\n1_2\t1\tB\r\n12_3\t1\tC\r\n", tweets="1\t1\tD\r\n")
    assert [text.group for text in rated_sentences("products")] == ["1", "1", "12"]
    assert [text.group for text in rated_sentences("tweets")] == [None]


def test_entities_are_what_they_stand_for(rated):
    """A model would learn "&amp;" as a word, and meet "&" in what it is asked."""
    rated(news="1_1\t1\tR&amp;D &lt;3\u2028 caf\u00e9 \r\n")
    assert rated_sentences("news") == [LabelledText("R&D <3\u2028 café ", "positive", "1")]


def test_every_domain_has_its_own_file(rated):
    """`data.source` would turn nothing."""
    rated(**{domain: f"1\t1\t{domain}\r\n" for domain in labelled_texts.DOMAINS})
    assert {domain: LABELLED_TEXTS[domain]()[0].text for domain in labelled_texts.DOMAINS} == {
        domain: domain for domain in ("movies", "products", "news", "tweets")
    }


def test_lines_are_label_tab_text(write):
    """Text and label would be swapped, or the text split at blanks."""
    assert list(read_labelled(write("a.tsv", "good\tI like it\r\nbad\tnot so much"))) == [
        LabelledText("I like it", "good"),
        LabelledText("not so much", "bad"),
    ]


def test_a_label_ends_before_its_blanks(write):
    """ "good " would be another class than "good"."""
    assert [text.label for text in read_labelled(write("a.tsv", "good \tyes\n good\tof course\n"))] == ["good", "good"]


@pytest.mark.parametrize("line", ["no tab", "a\tb\tc", "", "\ttext", " \ttext", "label\t", "label\t "])
def test_a_line_without_label_and_text_is_refused_by_number(write, line):
    """A malformed line would be cut or dropped, or the user would search for it by hand."""
    with pytest.raises(DataError, match="a.tsv, line 2: expected label, tab, text; got"):
        list(read_labelled(write("a.tsv", f"good\tyes\n{line}\nbad\tno\n")))


def test_blank_lines_at_the_end_are_no_texts(write):
    """A file as editors leave it is refused for its last line."""
    assert [text.text for text in read_labelled(write("a.tsv", "good\tyes\r\nbad\tno\r\n\r\n \n"))] == ["yes", "no"]


def test_a_missing_file_is_refused_by_name(tmp_path):
    """A misspelt path would end in a traceback."""
    with pytest.raises(DataError, match="cannot read .*missing.tsv"):
        list(read_labelled(tmp_path / "missing.tsv"))
