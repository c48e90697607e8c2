"""Parquet, Arrow and data sets of Hugging Face's as sources, written by the libraries themselves."""

import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError
from tformer_jax.data.sources import DOCUMENTS, LABELLED_TEXTS, PAIRS, Document, LabelledText, Pair

ROWS = [{"text": f"text {i}", "n": i, "pair": {"de": f"Haus {i}", "en": f"house {i}"}} for i in range(2500)]
TABLE = pa.Table.from_pylist(ROWS)


def write_file(table, file, rows=700):
    with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_file(opened, table.schema) as writer:
        writer.write_table(table, rows)


def write_stream(table, file, rows=700):
    with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_stream(opened, table.schema) as writer:
        writer.write_table(table, rows)


def saved(table, folder):
    datasets.Dataset(table).save_to_disk(folder, num_shards=3 if len(table) > 3 else 1)


# How each writes a table, the source, and the name of what it writes.
WRITERS = {
    "parquet": (lambda table, file: pq.write_table(table, file, row_group_size=600), "parquet", "a.parquet"),
    "arrow file": (write_file, "arrow", "a.arrow"),
    "arrow stream": (write_stream, "arrow", "a.arrow"),
    "saved, as arrow": (saved, "arrow", "a"),
    "saved": (saved, "huggingface", "a"),
}


@pytest.fixture(params=WRITERS)
def put(request, tmp_path):
    """`put(table)` writes a table in one of the ways; returns the name of the source that reads it, and its path."""
    write, source, name = WRITERS[request.param]

    def put(table):
        write(table, tmp_path / name)
        return source, str(tmp_path / name)

    return put


def test_every_row_is_read_in_order(put):
    """Rows where two batches, row groups or shards meet would be lost, or come twice."""
    source, path = put(TABLE)
    stream = DOCUMENTS[source](path=path)
    assert [one.text for one in stream] == [one.text for one in stream] == [row["text"] for row in ROWS]
    assert len({one.name for one in stream}) == len(ROWS)


def test_fields_within_others_are_read(put):
    """The layout of WMT's translations, a table in each row, could not be read."""
    source, path = put(TABLE)
    fields = {"source_field": "pair.en", "target_field": "pair.de", "group_field": "n"}
    assert list(PAIRS[source](path=path, **fields)) == [
        Pair(row["pair"]["en"], row["pair"]["de"], f"{row['n']}") for row in ROWS
    ]


def test_columns_of_other_types_are_read_as_texts(put):
    """Columns as pandas and Polars write them would be refused."""
    table = pa.table(
        {
            "large": pa.array(["a", "b"], pa.large_string()),
            "few": pa.array(["x", "y"]).dictionary_encode(),
            "a.b": ["dotted", "name"],
            "score": pa.array([0.5, 2.0], pa.float32()),
            "yes": [True, False],
        }
    )
    source, path = put(table)
    read = lambda **fields: [one[:2] for one in LABELLED_TEXTS[source](path=path, **fields)]
    assert read(text_field="large", label_field="few") == [("a", "x"), ("b", "y")]
    assert read(text_field="few", label_field="score") == [("x", "0.5"), ("y", "2.0")]
    assert read(text_field="a.b", label_field="yes") == [("dotted", "true"), ("name", "false")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"field": "txet"}, r"has no field 'txet'; set .*=field=\.\.\. to one that it has: 'n', 'pair\.de', 'pair\.en', 't"),
        ({"field": "pair.fr"}, r"has no field 'pair\.fr'"),
        ({"field": "text.de"}, r"has no field 'text\.de'"),
        ({"field": "n"}, r"the field 'n' must be a text, got int64; mend it, or set data\.source_options=field=\.\.\."),
        ({"field": "pair"}, r"the field 'pair' must be a text, got struct<.*>"),
        ({"name_field": "pair"}, r"the field 'pair' must be a text or a number, got struct<.*>"),
    ],
)  # fmt: skip
def test_a_table_without_the_columns_is_refused(put, fields, message):
    """The error would be a KeyError's, or another column be learnt."""
    source, path = put(TABLE)
    with pytest.raises(DataError, match=message):
        list(DOCUMENTS[source](path=path, **fields))


def test_a_row_without_a_value_is_refused_by_number(put):
    """The tokenizer would fail on what is no text, or "None" be learnt."""
    source, path = put(pa.table({"text": ["a", "b", None]}))
    with pytest.raises(DataError, match=r"a.*, row \d: the field 'text' must be a text, got None; mend it"):
        list(DOCUMENTS[source](path=path))


def test_a_row_of_a_null_table_is_refused(put):
    """A pair that is missing as a whole would end in a traceback."""
    type_ = pa.struct([("de", pa.string()), ("en", pa.string())])
    source, path = put(pa.table({"pair": pa.array([{"de": "a", "en": "b"}, None], type_)}))
    with pytest.raises(DataError, match=r"row \d: the field 'pair.en' must be a text, got None"):
        list(PAIRS[source](path=path, source_field="pair.en", target_field="pair.de"))


def test_a_table_without_rows_is_refused(put):
    """A shard that was never filled would not be missed."""
    source, path = put(TABLE.slice(0, 0))
    with pytest.raises(DataError, match=r"has no rows: "):
        list(DOCUMENTS[source](path=path))


@pytest.mark.parametrize("name", ["parquet", "arrow file", "arrow stream"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.01, 0])
def test_a_file_that_is_not_whole_is_refused(tmp_path, name, kept):
    """A download that broke off would be trained on as if it were whole."""
    write, source, file = WRITERS[name]
    write(TABLE, tmp_path / file)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=rf"^cannot read .*{file}: .*fetch it again$") as refusal:
        list(DOCUMENTS[source](path=str(tmp_path / file)))
    assert "\n" not in str(refusal.value)


def test_a_shard_of_another_schema_is_refused_by_name(tmp_path):
    """The error would not say which of a thousand files it is."""
    pq.write_table(TABLE, tmp_path / "0.parquet")
    pq.write_table(TABLE.rename_columns(["content", "n", "pair"]), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet has no field 'text'; .*: 'content', "):
        list(DOCUMENTS["parquet"](path=str(tmp_path)))


def test_only_the_needed_columns_are_read(tmp_path):
    """A text would be read together with the images or the numbers beside it, which may be a hundred times larger."""
    file, large = tmp_path / "a.parquet", pa.array([bytes(1000)] * 5, pa.binary())
    table = pa.table({"other": large, "text": ["a", "b", "c", "d", "e"]})
    pq.write_table(table, file, use_dictionary=False, compression="none")
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    content = bytearray(file.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 100] = bytes(100)
    file.write_bytes(content)
    with pytest.raises(OSError):
        pq.read_table(file)
    assert [one.text for one in DOCUMENTS["parquet"](path=str(file))] == ["a", "b", "c", "d", "e"]


def test_what_map_leaves_beside_a_saved_data_set_is_not_read(tmp_path):
    """Rows that were worked on would be trained on, together with those that they were made from."""
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path)
    datasets.load_from_disk(tmp_path).map(lambda row: {"text": row["text"] * 2})
    assert list(tmp_path.glob("cache-*.arrow"))
    assert [one.text for one in DOCUMENTS["arrow"](path=str(tmp_path))] == ["a", "b"]


def test_splits_that_lie_together_are_chosen_from(tmp_path):
    """The test split would be trained on."""
    train, test = (datasets.Dataset.from_dict({"text": [name]}) for name in ("a", "b"))
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"holds the splits train, test: name the folder of one, data\.path=.*/\.\.\."):
        DOCUMENTS["arrow"](path=str(tmp_path))
    with pytest.raises(DataError, match=r"has the parts train, test: set data\.source_options=part=\.\.\. to one of"):
        DOCUMENTS["huggingface"](path=str(tmp_path))
    assert list(DOCUMENTS["huggingface"](path=str(tmp_path), part="test")) == [Document(f"{tmp_path.name}:1", "b")]
    assert [one.text for one in DOCUMENTS["arrow"](path=str(tmp_path / "train"))] == ["a"]
    with pytest.raises(DataError, match=r"train has no parts: leave part=test out of data\.source_options$"):
        DOCUMENTS["huggingface"](path=str(tmp_path / "train"), part="test")


def test_labels_are_called_as_the_data_set_calls_them(tmp_path):
    """Predictions would be numbers whose meaning stands elsewhere; a text without a label would be of the last class."""
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(tmp_path)
    found = iter(LABELLED_TEXTS["huggingface"](path=str(tmp_path)))
    assert [next(found), next(found)] == [LabelledText("a", "pos"), LabelledText("b", "neg")]
    with pytest.raises(DataError, match=r"row 3: the field 'label' must be a text or a number, got None"):
        next(found)


def test_translations_of_a_data_set_are_read(tmp_path):
    """WMT's own feature, which is no plain table, would be refused."""
    features = datasets.Features({"translation": datasets.Translation(["de", "en"])})
    rows = {"translation": [{"de": "Haus", "en": "house"}]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path)
    fields = {"source_field": "translation.en", "target_field": "translation.de"}
    assert list(PAIRS["huggingface"](path=str(tmp_path), **fields)) == [Pair("house", "Haus")]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the package, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_data_set_is_loaded_by_name(hub, tmp_path):
    """`name`, `subset` and `part` would turn nothing."""
    for subset in ("one", "two"):
        for part in ("train", "test"):
            folder = tmp_path / "mine" / subset
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": [f"{subset} {part}"]}), folder / f"{part}.parquet")
    card = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("one", "two"))
    (tmp_path / "mine" / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    read = lambda **options: list(DOCUMENTS["huggingface"](name=str(tmp_path / "mine"), **options))
    assert [one.text for one in read(subset="two", part="test")] == ["two test"]
    with pytest.raises(DataError, match=r"cannot load the data set .*one.*two"):
        read(part="test")
    with pytest.raises(DataError, match=r"cannot load the data set .*'?valid'?.*"):
        read(subset="one", part="valid")
    with pytest.raises(DataError, match=r"mine has the parts .*: set data\.source_options=part=\.\.\. to one of them$"):
        read(subset="one")


def test_a_data_set_that_is_not_in_the_cache_is_refused_in_one_line(hub):
    """Without a network a run would end in a page of tracebacks."""
    with pytest.raises(
        DataError, match=r"^cannot load the data set nobody/has_this: Couldn't reach .*; without a netw"
    ):
        DOCUMENTS["huggingface"](name="nobody/has_this", part="train")


@pytest.mark.parametrize("given", [{}, {"path": "a", "name": "b"}, {"path": "a", "subset": "b"}])
def test_a_data_set_has_one_name(given):
    """One of the two would be ignored."""
    with pytest.raises(ConfigError, match=r"^source='huggingface' needs data\.path, .*, or else name=\.\.\."):
        DOCUMENTS["huggingface"](**given)


@pytest.mark.parametrize(
    ("source", "module", "file"),
    [("parquet", "pyarrow.parquet", "a.parquet"), ("arrow", "pyarrow", "a.arrow"), ("jsonl", "pyarrow", "a.jsonl.zst")],
)
def test_a_package_that_is_missing_is_named(write, monkeypatch, source, module, file):
    """An ImportError would leave the reader to find out what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{file} needs pyarrow: pip install tformer_jax\[datasets\]$"):
        list(DOCUMENTS[source](path=str(write(file, b"anything"))))


def test_without_the_package_datasets_it_is_named(monkeypatch):
    """An ImportError would leave the reader to find out what to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"^the data set a needs datasets: pip install tformer_jax\[datasets\]$"):
        DOCUMENTS["huggingface"](name="a")
