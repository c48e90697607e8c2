"""The numbers of benchmarks, as papers have them, against NumPy in float64: of small data of the same form."""

import functools
import re

import benchmark_data
import jax.numpy as jnp
import numpy as np
import pytest
from support import quick_jit, tiny_model

from tformer_jax.config import build
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from tformer_jax.data.sources import DOCUMENTS, Document, Yardstick
from tformer_jax.tasks import CausalLMTask, ImageClassificationTask

ROW = 24


@functools.cache
def forward_of(kind):
    return quick_jit(lambda model, batch: model(batch))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def nats_by_hand(model, data, split):
    """The nats of every token of a split, and of the end of each document: a piece of a row alone through the model."""
    documents = [[1, *ids.tolist(), 2] for ids in data.tokens(split).ids]
    stream = [(number, token) for number, document in enumerate(documents) for token in document]
    nats = 0.0
    for at in range(0, len(stream) - 1, ROW):
        row = stream[at : at + ROW + 1]
        for number in {n for n, _ in row}:
            piece = [token for n, token in row if n == number]
            read = np.zeros((1, ROW), np.int32)
            read[0, : len(piece) - 1] = piece[:-1]
            scores = log_softmax(forward_of("text")(model, jnp.asarray(read))[0])
            nats -= sum(scores[place, token] for place, token in enumerate(piece[1:]))
    return nats


def evaluated(tmp_path, quick, **fields):
    """The metrics of the test split, the line that says them, and its nats by hand."""
    held = dict(validation_share=None, test_share=None, row_length=ROW, batch_tokens=96)
    (tmp_path / "run").mkdir()
    data = CausalLMData(build(CausalLMDataConfig, held | fields, "data"), tmp_path / "run")
    model = tiny_model("CausalLM", vocab_size=data.tokenizer.get_vocab_size(), max_length=32, num_layers=1)
    task = quick(lambda: CausalLMTask(CausalLMTask.Config(sample_tokens=2), data.tokenizer))
    found = quick(lambda: task.evaluate(model, data, ["test"]))["test"].metrics
    return found, task.describe(found), nats_by_hand(model, data, "test")


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_bits_per_character_of_enwik8(tmp_path, quick, tokenizer):
    """Bits would be per token, or per character where a byte is meant; a BPE's would be others than bytes'."""
    (tmp_path / "enwik8").write_bytes(benchmark_data.ENWIK)
    size = None if tokenizer == "bytes" else 300
    fields = dict(source="enwik8", path=str(tmp_path / "enwik8"), tokenizer=tokenizer, vocab_size=size)
    found, said, nats = evaluated(tmp_path, quick, **fields)
    content = benchmark_data.ENWIK
    edge = len(content) * 95 // 100
    while content[edge] & 0xC0 == 0x80:
        edge -= 1
    count = len(content) - edge
    assert found["characters"] == count and found["bits_per_character"] == pytest.approx(
        nats / np.log(2) / count, rel=1e-5
    )
    assert said.startswith(f"bits per character {found['bits_per_character']:.4f}, {count} characters; ")


def test_word_perplexity_of_wikitext(tmp_path, quick):
    """It would be a perplexity of tokens, which a larger vocabulary makes worse, or not count the ends of lines."""
    path = str(benchmark_data.wikitext(tmp_path / "wikitext"))
    found, said, nats = evaluated(tmp_path, quick, source="wikitext103", path=path, vocab_size=300)
    words = sum(len(line.split()) + 1 for line in benchmark_data.LINES["test"])  # <eos> ends each line
    assert found["words"] == words == 20
    assert found["word_perplexity"] == pytest.approx(np.exp(nats / words), rel=1e-4)
    assert re.match(rf"word perplexity [\d,]+\.\d{{4}}, {words} words; ", said)


def test_a_source_of_ones_own_may_have_a_number(tmp_path, quick):
    """The numbers of benchmarks would be bound to their names."""

    def lines():
        return {split: [Document(split, f"{split}\na line\n")] for split in ("train", "validation", "test")}

    lines.splits = ("train", "validation", "test")
    lines.yardstick = Yardstick("nats_per_line", "lines", lambda text: text.count("\n"), lambda nats, n: nats / n)
    DOCUMENTS.register("lines")(lines)
    found, _, nats = evaluated(tmp_path, quick, source="lines", tokenizer="bytes", vocab_size=None)
    assert found["lines"] == 2 and found["nats_per_line"] == pytest.approx(nats / 2, rel=1e-5)


def test_top_5_of_imagenet(tmp_path, quick):
    """It would be top 4 or 6, count rows that only fill up, or be of other images than the official validation."""
    path = str(benchmark_data.imagenet(tmp_path / "imagenet"))
    fields = dict(source="imagenet", path=path, image_size=8, num_channels=3, validation_size=7, batch_size=5)
    (tmp_path / "run").mkdir()
    data = ImageClassificationData(build(ImageClassificationDataConfig, fields, "data"), tmp_path / "run")
    model = tiny_model("VisionTransformer", image_size=8, num_channels=3, num_layers=1, num_classes=7)
    task = quick(lambda: ImageClassificationTask(ImageClassificationTask.Config(), data.classes))
    found = quick(lambda: task.evaluate(model, data, ["test"]))["test"].metrics
    images = data.splits["test"].pixels(np.arange(14), 8, 3)
    logits = np.asarray(forward_of("image")(model, jnp.asarray(images / 127.5 - 1, jnp.float32)), np.float64)
    likeliest = np.argsort(-logits, axis=-1, kind="stable")
    labels = np.array([n % 7 for n in range(50, 64)])
    right = likeliest == labels[:, None]
    assert found["accuracy"] == pytest.approx(right[:, 0].mean(), abs=1e-6)
    assert found["top5_accuracy"] == pytest.approx(right[:, :5].any(-1).mean(), abs=1e-6)
    assert found["accuracy"] < found["top5_accuracy"] < 1
    assert f"top 5 {100 * found['top5_accuracy']:.2f} %" in task.describe(found)
