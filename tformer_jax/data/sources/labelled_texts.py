"""Sources of labelled texts: a pinned archive of rated sentences, and the user's own files."""

import functools
import html
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import DataError
from ..text import canonical
from .archives import SourceDistribution
from .lines import check_there, text_rows
from .registered import Sources
from .streams import Stream


class LabelledText(NamedTuple):
    """A text, its label, both canonical, and the document that it comes from, if any."""

    text: str
    label: str
    group: str | None = None


LABELLED_TEXTS = Sources("source of labelled texts", LabelledText)

# MIT; Hutto and Gilbert, 2014. Twenty people rated each sentence.
_RATED = SourceDistribution(
    "vaderSentiment",
    "2.5",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
    ("vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz",),
    ("--no-binary=vaderSentiment",),
    "f3af64f9131e22516f2a694133ba3154ee192ce416bd5588a0f9beeced584a4c",
)
DOMAINS = {
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
    "tweets": "tweets",
}


def rated_sentences(domain: str) -> list[LabelledText]:
    """Reads sentences whose mean rating is "positive" or "negative"; the group of products and news is the document.

    `domain`: "movies", "products", "news" or "tweets".
    """
    name = f"hutto_ICWSM_2014/{DOMAINS[domain]}_GroundTruth.txt"
    with tarfile.open(_RATED.unpacked() / _RATED.members[0]) as archive:
        lines = archive.extractfile(name).read().decode("utf-8").rstrip("\r\n").split("\r\n")
    texts = []
    for line in lines:
        number, score, text = line.split("\t")
        document, _, sentence = number.partition("_")
        if float(score):
            label = "positive" if float(score) > 0 else "negative"
            texts.append(LabelledText(canonical(html.unescape(text)), label, document if sentence else None))
    return texts


for _domain in DOMAINS:
    LABELLED_TEXTS.register(_domain)(functools.partial(rated_sentences, _domain))


@LABELLED_TEXTS.register("files")
def read_labelled(path: Path | str) -> Stream[LabelledText]:
    """Reads one UTF-8 file with a label, a tab and a text on each line; blank lines at the end do not count.

    Raises:
      DataError: the file is not there; while it is read, as `text_lines`, or a line that does not hold exactly one tab, or
        lacks one of the two.
    """

    def texts() -> Iterator[LabelledText]:
        for number, line in enumerate(text_rows(Path(path)), 1):
            fields = line.split("\t")
            if len(fields) != 2 or not all(field.strip() for field in fields):
                raise DataError(f"{path}, line {number}: expected label, tab, text; got {line[:40]!r}")
            yield LabelledText(canonical(fields[1]), canonical(fields[0].strip()))

    check_there(Path(path))
    return Stream(texts, [Path(path)])
