"""Benchmarks by name, on small data of the same form: official splits, untouched, and one line where they are not there."""

import json
import sys

import benchmark_data as benchmarks
import datasets
import numpy as np
import pyarrow as pa
import pytest

from tformer_jax.config import ConfigError, build
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.files import DataError
from tformer_jax.data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from tformer_jax.data.sources import BENCHMARKS, DOCUMENTS, IMAGES, LABELLED_TEXTS, PAIRS
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.translation import TranslationData, TranslationDataConfig

ROWS = dict(row_length=16, batch_tokens=64)
LABELLED = dict(vocab_size=300, batch_tokens=64, num_buckets=1)
BYTES = dict(validation_share=None, test_share=None, tokenizer="bytes", vocab_size=None) | ROWS


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No network, and nothing in the caches of either package."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))


@pytest.fixture
def make(tmp_path):
    """`make(kind, section, fields, *limit)`: the data of a config, with their splits."""

    def make(kind, section, fields, *limit):
        directory = tmp_path / "run"
        directory.mkdir(exist_ok=True)
        return kind(build(section, fields, "data"), *limit, directory)

    return make


def test_wmt_has_its_splits_and_says_what_is_in_two(tmp_path, make):
    """BLEU would be of other sentences than newstest2014, or of fewer: those that training has, too."""
    path = str(benchmarks.wmt(tmp_path / "wmt14"))
    fields = dict(source="wmt14_en_de", path=path, validation_size=None, test_size=None) | LABELLED
    data = make(TranslationData, TranslationDataConfig, fields, 40)
    assert [(p.source, p.target) for p in data.splits["test"]] == [(f"the tree {i}", f"das tree {i}") for i in range(5)]
    assert [p.source for p in data.splits["validation"]] == [f"the dog {i}" for i in range(4)]
    assert len(data.splits["train"]) == 40
    assert data.report[0] == "40 train, 4 validation, 5 test pairs (wmt14_en_de)"
    assert "1 training pairs are also in the test split of the source; both keep them" in data.report


def test_of_sst2_the_official_validation_is_the_test(tmp_path, make):
    """Accuracy would be of secret labels, or of texts held out of training, which nobody compares."""
    path = str(benchmarks.sst2(tmp_path / "sst2"))
    fields = dict(source="sst2", path=path, validation_size=5, test_size=None) | LABELLED
    data = make(TextClassificationData, TextClassificationDataConfig, fields, 40)
    assert [(t.text, t.label) for t in data.splits["test"]] == [
        (text, ("negative", "positive")[i % 2]) for i, text in enumerate(benchmarks.SENTENCES["validation"])
    ]
    train, validation = ([t.text for t in data.splits[name]] for name in ("train", "validation"))
    assert len(validation) == 5 and sorted(train + validation) == sorted(benchmarks.SENTENCES["train"])


def test_wikitext_is_articles_with_every_line(tmp_path, make):
    """An article would be a line or the whole split, a line be lost, or what looks like a title cut an article."""
    path = str(benchmarks.wikitext(tmp_path / "wikitext"))
    fields = dict(source="wikitext103", path=path, validation_share=None, test_share=None, vocab_size=300) | ROWS
    data = make(CausalLMData, CausalLMDataConfig, fields)
    names = {name: [document.name for document in part] for name, part in data.splits.items()}
    wanted = ["1 First", "2 E = mc2", "3 Third article"]
    assert names == {"train": wanted, "validation": ["1 Other"], "test": ["1 Last", "2 Very last"]}
    for name, lines in benchmarks.LINES.items():
        whole = "".join(line if line else "\n" for line in lines)
        assert "".join(document.text for document in data.splits[name]) == whole


def test_openwebtext_holds_documents_out(tmp_path, make):
    """The one benchmark without a split would have none."""
    pages = [f"page {i} of the web, {'with more ' * (i % 4)}words\n" for i in range(30)]
    path = str(benchmarks.texts(tmp_path / "pages", train=pages))
    fields = dict(source="openwebtext", path=path, validation_share=0.1, test_share=0.1, vocab_size=300) | ROWS
    data = make(CausalLMData, CausalLMDataConfig, fields)
    assert sorted(document.text for part in data.splits.values() for document in part) == sorted(pages)
    assert all(len(part) >= 3 for part in data.splits.values())


@pytest.mark.parametrize("name", ["enwik8", "text8", "tiny_shakespeare"])
@pytest.mark.parametrize("form", ["file", "rows"])
def test_one_text_is_cut_by_position(tmp_path, make, name, form):
    """Bits per character would be of another part of the text than everybody's last 5 %."""
    content = ("abc defg\n" * 50).encode()
    if form == "file":
        (tmp_path / name).write_bytes(content)
    else:  # in rows, and parts, however these are
        text = content.decode()
        benchmarks.texts(tmp_path / name, train=[text[:100], text[100:430]], test=[text[430:]])
    data = make(CausalLMData, CausalLMDataConfig, dict(source=name, path=str(tmp_path / name)) | BYTES)
    found = {split: "".join(document.text for document in part).encode() for split, part in data.splits.items()}
    assert found == {"train": content[:405], "validation": content[405:427], "test": content[427:]}
    size = f"{BENCHMARKS[name].size:,}"
    said = f"{name} has {size} bytes, this text 450: its numbers do not compare with those of the literature"
    assert said in data.report


@pytest.mark.parametrize("before", range(8))
def test_no_character_is_cut_in_two(tmp_path, make, before):
    """Half a character would be no text, or its bytes be lost."""
    content = b"x" * before + benchmarks.ENWIK
    (tmp_path / "enwik8").write_bytes(content)
    data = make(CausalLMData, CausalLMDataConfig, dict(source="enwik8", path=str(tmp_path / "enwik8")) | BYTES)
    parts = [b"".join(d.text.encode() for d in data.splits[name]) for name in ("train", "validation", "test")]
    assert b"".join(parts) == content
    for cut, share in ((len(parts[0]), 90), (len(parts[0] + parts[1]), 95)):
        wanted = len(content) * share // 100
        moved = f"the split at byte {wanted:,} is within a character: it is made at byte {cut:,}"
        assert 0 <= wanted - cut <= 3 and (moved in data.report) == (cut != wanted)
    tokens = [token - 3 for token in data.tokens("train").ids.values.tolist()]  # after <pad>, <bos> and <eos>
    assert bytes(tokens) == parts[0] and data.tokenizer.get_vocab_size() == 259


def test_the_size_of_the_benchmark_is_not_remarked(tmp_path):
    """Everybody would be told that numbers do not compare."""
    file, said = tmp_path / "tiny", []
    file.write_bytes(b"0123456789\n" * 101_399 + b"01234")
    DOCUMENTS["tiny_shakespeare"](path=str(file), say=said.append)
    assert file.stat().st_size == 1_115_394 and said == []


@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_images_lie_in_the_files_of_datasets(tmp_path, make, name):
    """Images would be decoded at once or copied, have one another's labels, or the test be one without labels."""
    if name == "imagenet":
        path, test = benchmarks.imagenet(tmp_path / "images"), range(50, 64)
    else:
        parts = {"train": benchmarks.pictures(range(42), "img"), "test": benchmarks.pictures(range(50, 60), "img")}
        path, test = benchmarks.save(tmp_path / "images", **parts), range(50, 60)
    fields = dict(
        source=name, path=str(path), image_size=8, num_channels=3, validation_size=7, test_size=None, batch_size=7
    )
    data = make(ImageClassificationData, ImageClassificationDataConfig, fields)
    found = IMAGES[name](path=str(path)).splits
    for split, numbers in (("train", range(42)), ("test", test)):
        images = found[split]
        assert [images.picture(k).content for k in range(len(images))] == [benchmarks.picture(n) for n in numbers]
        assert images.labels.tolist() == [n % 7 for n in numbers]
    assert len(data.splits["train"]) == 35 and len(data.splits["validation"]) == 7
    assert data.classes == [f"class {i}" for i in range(7)] and data.splits["test"].labels.tolist() == [
        n % 7 for n in test
    ]
    assert all(file.startswith(str(path)) for file in data.splits["train"].images.files)
    assert not (tmp_path / "cache" / "images").exists()
    batch = data.evaluation_batches("test").batch(0)
    assert np.array_equal(batch["images"][:, 4, 4, 0], list(test)[:7])


def test_files_as_the_hub_has_them_are_a_copy(tmp_path):
    """Whoever fetched a repository would have to load and save it first."""
    folder = tmp_path / "glue" / "sst2"
    folder.mkdir(parents=True)
    found = datasets.load_from_disk(str(benchmarks.sst2(tmp_path / "saved")))
    for part in found:
        found[part].to_parquet(str(folder / f"{part}-00000-of-00001.parquet"))
    files = [{"split": part, "path": f"sst2/{part}-*"} for part in found]
    page = {"configs": [{"config_name": "sst2", "data_files": files}, {"config_name": "cola", "data_files": files[:1]}]}
    (tmp_path / "glue" / "README.md").write_text(f"---\n{json.dumps(page)}\n---\n")
    streams = LABELLED_TEXTS["sst2"](path=str(tmp_path / "glue"))
    assert {name: len([*stream]) for name, stream in streams.items()} == {"train": 40, "test": 6}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_without_a_network_one_line_says_what_to_do(name):
    """A person would see a traceback, or wait for minutes."""
    with pytest.raises(DataError, match=rf"^cannot load {name} \(.*/.*\): .*; .*set data\.path to a copy: ") as error:
        BENCHMARKS[name].kind[name]()
    assert "\n" not in str(error.value)
    assert ("log in by `hf auth login`" in str(error.value)) == (name == "imagenet")


def test_without_datasets_the_extra_is_named(monkeypatch):
    """A person would not know what to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"^sst2 \(nyu-mll/glue\) needs datasets: pip install tformer_jax\[datasets\]$"):
        LABELLED_TEXTS["sst2"]()


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("sst2", {"train": {"text": ["a"]}}, "has the parts train, but not validation; .*a folder that save_to_disk wrote$"),
        ("wikitext103", dict.fromkeys(benchmarks.LINES, {"line": ["a"]}), "the columns line in train, but not text"),
        ("text8", {"train": {"text": [" "]}}, "is empty"),
    ],
)  # fmt: skip
def test_other_data_are_refused(tmp_path, name, parts, message):
    """The wrong folder would end in a traceback."""
    benchmarks.save(tmp_path / "a", **{part: datasets.Dataset.from_dict(table) for part, table in parts.items()})
    with pytest.raises(DataError, match=message):
        BENCHMARKS[name].kind[name](path=str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"abc \xff def" * 9, "not valid UTF-8 .* at byte 4"), (b"", "is empty"), (None, "cannot read")],
)
def test_a_damaged_text_is_named(tmp_path, content, message):
    """A file that was cut or is another one would end in a traceback."""
    if content is not None:
        (tmp_path / "enwik8").write_bytes(content)
    with pytest.raises(DataError, match=f"enwik8.*{message}|{message}.*enwik8"):
        list(DOCUMENTS["enwik8"](path=str(tmp_path / "enwik8"))["train"])


def test_images_that_are_paths_are_refused(tmp_path):
    """Images that are not in the copy would be none."""
    part = benchmarks.pictures(range(14), "img")
    benchmarks.save(tmp_path / "a", train=part, test=part)
    (file,) = (tmp_path / "a" / "train").glob("*.arrow")
    with pa.OSFile(str(file)) as opened:
        table = pa.ipc.open_stream(opened).read_all()
    images = pa.array([{"bytes": None, "path": f"{n}.png"} for n in range(14)], table.schema.field("img").type)
    with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_stream(opened, table.schema) as writer:
        writer.write_table(table.set_column(0, table.schema.field("img"), images))
    with pytest.raises(DataError, match="has an image without bytes"):
        IMAGES["cifar10"](path=str(tmp_path / "a"))


SECTIONS = {
    "documents": (CausalLMDataConfig, ROWS | dict(vocab_size=300, validation_share=0.1, test_share=0.1)),
    "pairs": (TranslationDataConfig, LABELLED),
    "labelled texts": (TextClassificationDataConfig, LABELLED),
    "images": (
        ImageClassificationDataConfig,
        dict(image_size=8, num_channels=3, batch_size=4, validation_size=3, test_size=3),
    ),
}
KINDS = {DOCUMENTS.kind: "documents", PAIRS.kind: "pairs", LABELLED_TEXTS.kind: "labelled texts", IMAGES.kind: "images"}


@pytest.mark.parametrize("name", [name for name, one in BENCHMARKS.items() if one.parts != {"train": "train"}])
def test_official_splits_are_not_asked_for_a_size(name):
    """A test split of one's own would be taken for the official one."""
    section, fields = SECTIONS[KINDS[BENCHMARKS[name].kind.kind]]
    with pytest.raises(ConfigError, match=r"^data\.\w+ must be None, as the source has its own \w+ split"):
        build(section, fields | {"source": name}, "data")
