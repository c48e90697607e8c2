"""Lines of files, one after the other."""

import pytest
from hypothesis import given, settings, strategies as st

from tformer_jax.data.files import DataError, read_lines
from tformer_jax.data.sources import lines
from tformer_jax.data.sources.lines import text_lines, text_rows

examples = settings(derandomize=True, deadline=None, max_examples=100)
contents = st.lists(
    st.sampled_from([b"a", b"\n", b"\r", b" ", b"\xef\xbb\xbf", "é".encode(), "\u00a0".encode(), b"\x0c"])
).map(b"".join)


def read(how, file):
    """The lines, or the message where they are refused."""
    try:
        return list(how(file))
    except DataError as error:
        return str(error)


@examples
@given(contents)
def test_lines_are_those_of_the_whole_file(tmp_path_factory, content):
    """A text would be cut otherwise than as documents are, and lines of two files no longer align."""
    file = tmp_path_factory.mktemp("lines") / "a.txt"
    file.write_bytes(content)
    expected = read(read_lines, file)
    assert read(text_lines, file) == expected
    if isinstance(expected, list):
        filled = [number for number, line in enumerate(expected, 1) if line.strip()]
        assert read(text_rows, file) == expected[: max(filled, default=0)]


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "a.txt is empty"), (b"a\n\xfc", "a.txt, line 2: not valid UTF-8")]
)
def test_what_is_no_text_is_refused_by_name(write, content, message):
    """It would be trained on, or be searched for by hand."""
    with pytest.raises(DataError, match=message):
        list(text_lines(write("a.txt", content)))


def test_a_line_without_an_end_is_refused(write, monkeypatch):
    """A file that has no lines, a binary one, would fill the memory."""
    monkeypatch.setattr(lines, "MOST_TEXT_BYTES", 5)
    file = write("a.txt", "12345\n123456\n")
    with pytest.raises(DataError, match=r"a\.txt, line 1 has more than 5 bytes: cut it into several$"):
        list(text_lines(file))
    assert list(text_lines(write("b.txt", "1234\n12345"))) == ["1234", "12345"]


def test_a_file_is_read_no_further_than_it_is_asked_for(write):
    """All of it would be in memory before its first line is seen."""
    assert next(text_lines(write("a.txt", b"one\n\xfc"))) == "one"
