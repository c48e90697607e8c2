"""Sources of data: functions that give documents, sentence pairs, labelled texts or images, by name.

A source of one's own is a function in a file that `--plugin` names:

    @DOCUMENTS.register("sums")
    def sums(count: int = 1000) -> list[Document]:
        return [Document(f"{n}", f"{n} + {n} = {2 * n}\\n") for n in range(count)]

It is chosen by `data.source=sums`; what a parameter is given: see `registered.Sources`. What gives more than memory holds
gives a `Stream`. Tables in files of JSON Lines, Parquet and Arrow: see `tables`; benchmarks by name: see `benchmarks`.

One that has splits of its own gives them by name, and says which they are; nothing of them is changed:

    @LABELLED_TEXTS.register("parities")
    def parities() -> dict[str, list[LabelledText]]:
        of = lambda numbers: [LabelledText(f"{n}", "odd" if n % 2 else "even") for n in numbers]
        return {"train": of(range(900)), "test": of(range(900, 1000))}

    parities.splits = ("train", "test")
"""

from .benchmarks import BENCHMARKS
from .documents import DOCUMENTS, Document, Yardstick, read_documents
from .images import IMAGES, ImageSource, LabelledImages
from .labelled_texts import LABELLED_TEXTS, LabelledText
from .pairs import PAIRS, Pair
from .parquet_images import read_parquet
from .registered import Sources
from .streams import Stream
from .tables import FORMATS
from .webdataset import read_webdataset

__all__ = [
    "BENCHMARKS",
    "DOCUMENTS",
    "FORMATS",
    "IMAGES",
    "LABELLED_TEXTS",
    "PAIRS",
    "Document",
    "ImageSource",
    "LabelledImages",
    "LabelledText",
    "Pair",
    "Sources",
    "Stream",
    "Yardstick",
    "read_documents",
    "read_parquet",
    "read_webdataset",
]
