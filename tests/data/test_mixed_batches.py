"""Batches of mixtures: each row, or batch, against those of the sources by themselves."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sequences import ragged

from tformer_jax.config import ConfigError
from tformer_jax.data.batches.buckets import Buckets
from tformer_jax.data.batches.mixed import MixedBatches, MixedRows, as_many_rows, mixed
from tformer_jax.data.batches.windows import Windows
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.files import DataError
from tformer_jax.data.masked_lm import MaskedLMData, MaskedLMDataConfig
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.tokenizers import decode
from tformer_jax.data.translation import TranslationData, TranslationDataConfig

examples = settings(derandomize=True, deadline=None, max_examples=25)
WEIGHTS = [0.6, 0.3, 0.1]


def windows(*lengths, rows):
    (documents,) = ragged([(n,) for n in lengths])
    make = lambda rows: Windows(documents, 5, rows, 3, "segments", 1, 2)
    return as_many_rows(make, rows)


@pytest.fixture(scope="module")
def rows():
    """Of three sources, one of which has too few rows for a batch."""
    return MixedRows([windows(90, 40, rows=7), windows(55, rows=7), windows(11, rows=7)], WEIGHTS, 7, 5)


@examples
@given(st.integers(0, 200), st.integers(0, 7), st.integers(0, 7))
def test_each_row_is_the_next_one_of_its_source(rows, i, first, last):
    """A row would be trained on twice or never, or be another one on another number of processes."""
    found = rows.batch(i, slice(first, last))
    sources, within = mixed(5, WEIGHTS, np.arange(7 * i, 7 * i + 7))
    wanted = []
    for number, row in [*zip(sources.tolist(), within.tolist(), strict=True)][first:last]:
        source = rows.sources[number]
        wanted.append({name: x[row % source.rows] for name, x in source.batch(row // source.rows).items()})
    assert {name: len(x) for name, x in found.items()} == dict.fromkeys(("tokens", "segments"), len(wanted))
    for at, row in enumerate(wanted):
        for name, values in row.items():
            np.testing.assert_array_equal(found[name][at], values)


def test_an_epoch_has_as_many_rows_as_all_sources(rows):
    """The report would tell another length of an epoch."""
    assert len(rows) == sum(len(source) * source.rows for source in rows.sources) // 7


def test_a_source_without_a_row_is_refused():
    """A batch would wait for rows that there are none of, for ever."""
    with pytest.raises(DataError, match="do not fill a batch of 1"):
        windows(1, rows=8)


def test_each_batch_of_buckets_is_the_next_one_of_its_source():
    """A batch would be trained on twice or never."""
    sources = [Buckets(ragged([(n, n)] * count), ("x", "y"), [4], 8, 3) for n, count in ((2, 20), (3, 9))]
    both, at = MixedBatches(sources, [0.75, 0.25], 1), [0, 0]
    for i in range(40):
        source = int(mixed(1, [0.75, 0.25], np.array([i]))[0][0])
        wanted = sources[source].batch(at[source], slice(1, None))
        for name, values in both.batch(i, slice(1, None)).items():
            np.testing.assert_array_equal(values, wanted[name])
        assert both.row_count(i) == sources[source].row_count(at[source])
        at[source] += 1
    assert at == [30, 10]


# From a config ---------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Folders and tables of three sources, whose texts are of the letters a, b and c."""
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for letter in "abc":
        (tmp_path / letter).mkdir()
        word = lambda: letter * int(rng.integers(1, 6))
        text = lambda: " ".join(word() for _ in range(12))
        texts = [text() for _ in range(40)]
        for number in range(0, 40, 2):
            (tmp_path / letter / f"{number}.txt").write_text("\n".join(texts[number : number + 2]) + "\n")
        (tmp_path / f"{letter}.tsv").write_text("".join(f"{t}\t{t.upper()}\n" for t in texts))
        (tmp_path / f"{letter}_labels.tsv").write_text("".join(f"{i % 2}\t{t}\n" for i, t in enumerate(texts)))
    return tmp_path


def letters(data, tokenizer, arrays):
    """The letters that the rows of a batch are of."""
    return [{*decode(tokenizer, [x for x in row if x > 3]).lower()} - {" ", "\n"} for row in arrays]


DOCUMENTS = dict(
    source="mixture", validation_share=0.1, test_share=0.1, tokenizer="characters", row_length=16, batch_tokens=160
)


@pytest.mark.parametrize(
    ("kind", "config"),
    [(CausalLMData, CausalLMDataConfig), (MaskedLMData, MaskedLMDataConfig)],
    ids=["causal", "masked"],
)
def test_rows_of_running_text_have_the_shares_of_their_sources(files, kind, config):
    """A source would be trained on more than was asked for, or rows be of several sources."""
    mixture = ",".join(f"files(path={files / x}):{w}" for x, w in zip("abc", WEIGHTS, strict=True))
    data = kind(config(mixture=mixture, **DOCUMENTS), files)
    batches, found = data.train_batches(), []
    for i in range(20):
        found += letters(data, data.tokenizer, batches.batch(i)["tokens"])
    counts = [sum(row == {letter} for row in found) for letter in "abc"]
    assert all(len(row) < 2 for row in found)  # a piece may be a blank
    np.testing.assert_allclose(counts, np.array(WEIGHTS) * 200, atol=2 + sum(not row for row in found))
    assert sum(line.startswith("files (") for line in data.report) == 3


def pairs(files, run="run", **changes):
    mixture = ",".join(f"files(tsv_file={files / x}.tsv):{w}" for x, w in zip("ab", (0.75, 0.25), strict=True))
    fields = dict(source="mixture", mixture=mixture, split="sentence", validation_size=6, test_size=6)
    fields |= dict(vocab_size=300, batch_tokens=128, batching="buckets", num_buckets=2)
    (files / run).mkdir(exist_ok=True)
    return TranslationData(TranslationDataConfig(**(fields | changes)), 80, files / run)


def test_batches_of_pairs_have_the_shares_of_their_sources(files):
    """A source would be trained on more than was asked for."""
    data = pairs(files)
    batches = data.train_batches()
    found = [letters(data, data.tokenizers.source, batches.batch(i)["source"]) for i in range(40)]
    assert all(row in ({letter}, set()) for batch in found for row in batch for letter in max(batch, key=len))
    assert [sum({letter} in batch for batch in found) for letter in "ab"] == [30, 10]


def test_packed_rows_of_pairs_have_the_shares_of_their_sources(files):
    """A source would be trained on more than was asked for."""
    data = pairs(files, batching="packed", num_buckets=None, row_length=80, batch_tokens=320)
    batches = data.train_batches()
    found = [row for i in range(20) for row in letters(data, data.tokenizers.source, batches.batch(i)["source"])]
    np.testing.assert_allclose([sum(row == {letter} for row in found) for letter in "ab"], [60, 20], atol=1)


def test_labels_of_mixed_texts_are_their_own(files):
    """Texts would be trained on with the labels of another source."""
    mixture = ",".join(f"files(path={files / x}_labels.tsv):0.5" for x in "ab")
    fields = dict(source="mixture", validation_size=5, test_size=5, vocab_size=300, batch_tokens=256)
    data = TextClassificationData(TextClassificationDataConfig(mixture=mixture, **fields), 100, files)
    known = {(data.classes.index(text.label), text.text) for text in data.splits["train"]}
    batches = data.train_batches()
    for i in range(10):
        batch = batches.batch(i)
        for row, n, label in zip(batch["tokens"], batch["lengths"], batch["labels"], strict=True):
            assert n == 0 or (label, decode(data.tokenizer, row[1:n])) in known


def test_what_one_source_has_is_not_held_out_of_another(files):
    """A text of two sources would be trained on and tested on."""
    (files / "b.tsv").write_text((files / "a.tsv").read_text())
    splits = pairs(files).splits
    held_out = {pair.source for name in ("validation", "test") for pair in splits[name]}
    assert held_out and not held_out & {pair.source for pair in splits["train"]}


def test_a_source_with_too_little_is_named(files):
    """One line would say that something does not fill a batch, but not what."""
    (files / "c.tsv").write_text("c\tc\n" * 3)  # one sentence, which some seed holds out
    mixture = f"files(tsv_file={files / 'a.tsv'}):0.9,files(tsv_file={files / 'c.tsv'}):0.1"
    seeds = (pairs(files, f"run{seed}", mixture=mixture, seed=seed) for seed in range(99))
    data = next(data for data in seeds if data.splits["test"][0].target == "c")
    with pytest.raises(DataError, match=r"^files \(0\.1 of the mixture\) has no pairs left to train on"):
        data.train_batches()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mixture=None), "mixture goes with data.source='mixture', and is needed there"),
        (dict(source="speeches"), "mixture goes with data.source='mixture', and is needed there"),
        (dict(path="x"), r"path is of one source: give it as NAME\(path=\.\.\.\) in data\.mixture, got 'x'"),
        (dict(source_options="a=1"), "source_options is of one source"),
        (dict(mixture="speeches:0.5,mixture:0.5"), "mixture has 'mixture', of which mixture goes with"),
    ],
)
def test_a_mixture_that_cannot_be_names_the_field(changes, message):
    """Files would be read that nobody asked for, or given ones not be read."""
    with pytest.raises(ConfigError, match=message):
        CausalLMDataConfig(**(DOCUMENTS | dict(mixture="speeches:1") | changes))
