"""Tables as a config names them: each format for each kind of text, with what it asks for."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tformer_jax.config import ConfigError, build
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.sources import DOCUMENTS, FORMATS, LABELLED_TEXTS, PAIRS
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.translation import TranslationData, TranslationDataConfig

PAIR_FIELDS = "source_field=pair.en,target_field=pair.de"
HELD_OUT = dict(vocab_size=300, batch_tokens=64, validation_size=5, test_size=5)
KINDS = {
    "documents": (CausalLMData, CausalLMDataConfig, dict(vocab_size=300, row_length=8, batch_tokens=32)),
    "pairs": (
        TranslationData, TranslationDataConfig,
        HELD_OUT | dict(num_buckets=1, split="sentence", source_options=PAIR_FIELDS),
    ),
    "labelled texts": (TextClassificationData, TextClassificationDataConfig, HELD_OUT),
}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """A Parquet file of 60 rows that have a text, a label and a pair."""
    rows = [{"text": f"text {i}", "label": i % 2, "pair": {"en": f"one {i}", "de": f"eins {i}"}} for i in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    return str(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_a_table_are_split_and_batched(kind, table, tmp_path):
    """A table would be read, and the experiment fail on what a list has and a stream has not."""
    make, config, fields = KINDS[kind]
    config = build(config, fields | dict(source="parquet", path=table), "data")
    limits = {} if kind == "documents" else {"max_length": 40}
    data = make(config, directory=tmp_path, **limits)
    assert sum(map(len, data.splits.values())) == 60
    assert len(data.train_batches()) > 0 and len(data.evaluation_batches("test")) > 0


@pytest.mark.parametrize("registry", [DOCUMENTS, PAIRS, LABELLED_TEXTS])
def test_every_format_is_there_for_every_kind(registry):
    """Who has translations in Parquet would have to turn them into another format."""
    assert {*FORMATS} == {"jsonl", "parquet", "arrow", "huggingface"} <= {*registry}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("documents", {"path": None}, r"data\.path goes with data\.source='parquet', and is needed there"),
        (
            "documents",
            {"source_options": "feild=a"},
            r"data\.source_options has no field 'feild'; did you mean 'field'",
        ),
        ("documents", {"source_options": "text_field=a"}, r"data\.source_options has no field 'text_field'"),
        ("documents", {"source_options": "part=train"}, r"data\.source_options has no field 'part'"),
        ("pairs", {"source_options": "source_field=a"}, r"data\.source_options needs target_field"),
        ("pairs", {"tsv_file": "a"}, r"data\.tsv_file goes with data\.source='files'; got tsv_file='a'"),
        (
            "pairs",
            {"source": "verses_en_fr"},
            r"data\.path goes with data\.source='jsonl' or 'parquet' or .*; got path=",
        ),
        (
            "labelled texts",
            {"source": "movies"},
            r"data\.path goes with data\.source='files' or 'jsonl' or .*; got path=",
        ),
    ],
)
def test_what_a_table_cannot_be_given_is_refused(kind, changes, message):
    """An option would be ignored, or the fault be found after hours of reading."""
    _, config, fields = KINDS[kind]
    with pytest.raises(ConfigError, match=message):
        build(config, fields | dict(source="parquet", path="a.parquet") | changes, "data")


def test_packages_of_formats_are_imported_when_they_are_read():
    """Every run would need them, and start seconds later."""
    names = "pyarrow", "datasets", "zstandard"
    code = f"import sys, tformer_jax.data.sources; print([name for name in {names} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
