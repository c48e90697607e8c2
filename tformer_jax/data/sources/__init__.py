"""Sources of data: functions that give documents, sentence pairs, labelled texts or images, by name.

A source of one's own is a function in a file that `--plugin` names:

    @DOCUMENTS.register("sums")
    def sums(count: int = 1000) -> list[Document]:
        return [Document(f"{n}", f"{n} + {n} = {2 * n}\\n") for n in range(count)]

It is chosen by `data.source=sums`; what a parameter is given: see `registered.Sources`. What gives more than memory holds
gives a `Stream`. Tables in files of JSON Lines, Parquet and Arrow: see `tables`.
"""

from .documents import DOCUMENTS, Document, read_documents
from .images import IMAGES, ImageSource, LabelledImages
from .labelled_texts import LABELLED_TEXTS, LabelledText
from .pairs import PAIRS, Pair
from .parquet_images import read_parquet
from .registered import Sources
from .streams import Stream
from .tables import FORMATS
from .webdataset import read_webdataset

__all__ = [
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
    "read_documents",
    "read_parquet",
    "read_webdataset",
]
