"""Small data of the form that the benchmarks have on the hub, written by the package `datasets` itself."""

import io

import datasets
from PIL import Image

SENTENCES = {
    "train": [f"a fine film number {i}" for i in range(40)],
    "validation": [f"a poor film number {i}" for i in range(6)],
    "test": [f"nobody knows {i}" for i in range(5)],
}
# Rows of WikiText are lines; the second title stands within a sentence, and is none.
LINES = {
    "train": ["", " = First = \n", "", " Some words here . \n", " = No title = \n", "", " = = Part = = \n", "", " More . \n"]
    + ["", " = E = mc2 = \n", "", " 日本 and words \n", "", " = Third article = \n", "", " The end \n"],
    "validation": ["", " = Other = \n", "", " Words to validate \n"],
    "test": ["", " = Last = \n", "", " Two words \n", "", " = Very last = \n", "", " three more words \n"],
}  # fmt: skip
ENWIK = ("<page>" + "Zoë's naïve café 日本 🙂. " * 40 + "</page>\n").encode("utf-8")


def save(folder, **parts):
    """Writes a `DatasetDict`, as `save_to_disk` does."""
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


def pairs(count, name):
    """Rows of WMT: {"translation": {"de": ..., "en": ...}}."""
    rows = [{"de": f"das {name} {i}", "en": f"the {name} {i}"} for i in range(count)]
    features = datasets.Features({"translation": datasets.Translation(languages=["de", "en"])})
    return datasets.Dataset.from_dict({"translation": rows}, features=features)


def wmt(folder):
    """40 training pairs, of which one is tested on too; 4 of newstest2013 and 5 of newstest2014."""
    train = datasets.concatenate_datasets([pairs(39, "house"), pairs(1, "tree")])
    return save(folder, train=train, validation=pairs(4, "dog"), test=pairs(5, "tree"))


def sst2(folder):
    """Sentences with a `ClassLabel`; labels of the test are -1."""
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["negative", "positive"]),
            "idx": datasets.Value("int32"),
        }
    )

    def part(name):
        texts = SENTENCES[name]
        labels = [-1 if name == "test" else i % 2 for i in range(len(texts))]
        table = {"sentence": texts, "label": labels, "idx": list(range(len(texts)))}
        return datasets.Dataset.from_dict(table, features=features)

    return save(folder, **{name: part(name) for name in SENTENCES})


def wikitext(folder):
    """Three articles to train on, one to validate, two to test."""
    return save(folder, **{name: datasets.Dataset.from_dict({"text": lines}) for name, lines in LINES.items()})


def texts(folder, **parts):
    """Rows of texts alone."""
    return save(folder, **{name: datasets.Dataset.from_dict({"text": rows}) for name, rows in parts.items()})


def picture(number):
    """The bytes of a PNG whose colour tells its number, and whose size is not that of the next one's."""
    file = io.BytesIO()
    Image.new("RGB", (8 + number % 3, 8), (number, 2 * number, 7)).save(file, "png")
    return file.getvalue()


def pictures(numbers, image="image", classes=7, labelled=True):
    """Rows of images, whose class is their number modulo `classes`, or -1."""
    names = [f"class {i}" for i in range(classes)]
    features = datasets.Features({image: datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers]
    labels = [n % classes if labelled else -1 for n in numbers]
    return datasets.Dataset.from_dict({image: images, "label": labels}, features=features)


def imagenet(folder):
    """42 images to train on in two files, 14 of the official validation, 3 of a test without labels."""
    parts = {
        "train": pictures(range(42)),
        "validation": pictures(range(50, 64)),
        "test": pictures(range(3), labelled=False),
    }
    shards = {"train": 2, "validation": 1, "test": 1}
    datasets.DatasetDict(parts).save_to_disk(str(folder), num_shards=shards)
    return folder
