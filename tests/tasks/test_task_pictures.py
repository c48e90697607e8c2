"""The pictures of each task: made of inputs that the model reads, of what was evaluated, and none without a reason."""

import jax
import numpy as np
import pytest
import tiny_runs
from support import by_day

from tformer_jax.analysis.plots import Subject
from tformer_jax.tasks import Evaluation, Task
from tformer_jax.tasks.pictures import Pictured, draw_attention, weights_of, words

EVERY = by_day([*tiny_runs.TASKS, "translation"], 0, 3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """`finished(name)`: a finished run of a task, and what its pictures are made of."""
    place, made = tmp_path_factory.getbasetemp(), {}

    def finished(name):
        if name not in made:
            if name == "translation":
                found = tiny_runs.run_and_train(tiny_runs.translation(place), place / "tiny runs" / "drawn")
            else:
                found = tiny_runs.finished(place, name)
            evaluation = found.task.evaluate(found.model, found.data, ["test"])["test"]
            made[name] = found, Pictured(found.data, "test", evaluation, place, Subject("mine", name, "test"))
        return made[name]

    return finished


@pytest.mark.parametrize("name", EVERY)
def test_what_an_example_counts_is_what_is_looked_at(finished, name):
    """Words would stand beside the weights of others, or padding be drawn as if it was text."""
    found, of = finished(name)
    example = found.task.example(found.model, of)
    for place, weights in weights_of(found.task.read, found.model, example).items():
        queries, keys = example.of(place)
        B, T, S = weights.shape[1], *weights.shape[3:]
        assert queries.counted.shape == (B, T) and keys.counted.shape == (B, S)
        assert len(queries.places) == T and len(keys.places) == S
        for row in range(B):
            looking = weights[:, row][:, :, queries.counted[row] > 0]
            assert (looking[..., keys.counted[row] == 0] == 0).all(), place
            np.testing.assert_allclose(looking.sum(-1), 1, atol=1e-5)
        if queries.image is None:
            assert len(queries.words) == queries.counted[0].sum() and len(keys.words) == keys.counted[0].sum()


def test_words_are_the_text_of_the_row(finished):
    """The axes would have the words of another row, shifted ones, or ids."""
    found, of = finished("causal_lm")
    example = found.task.example(found.model, of)
    (queries, _), tokenizer = example.of("decoder"), found.task.tokenizer
    tokens = example.batch["tokens"][0, : len(queries.words)]
    text = tokenizer.decode(list(map(int, tokens)), skip_special_tokens=False)
    assert "".join(queries.words).replace("␣", "") == text.replace(" ", "").replace("\n", "⏎")
    assert words(tokenizer, tokenizer.encode("a\nb", add_special_tokens=False).ids)[1] == "⏎"


@pytest.mark.parametrize("name", by_day(["text_classification", "image_classification"], 1))
def test_outcomes_are_those_of_each_example(finished, name):
    """Confusion and reliability would be of other examples than the accuracy: rows of padding, or another order."""
    found, of = finished(name)
    outcomes = of.evaluation.outcomes
    assert outcomes.right.mean() == pytest.approx(of.evaluation.metrics["accuracy"])
    if name == "image_classification":
        part = found.data.splits["test"]
        labels, images = part.labels, part.pixels(np.arange(len(part)), 8, 1)
        rows = [found.model((image[None] / 255 - 0.5) / 0.5) for image in jax.numpy.asarray(images, float)]
    else:
        texts, tokens = found.data.encode("test")
        labels = found.data.labels(texts)
        rows = [found.model(jax.numpy.asarray([ids], "int32")) for ids in tokens]
    logits = np.stack([np.asarray(row[0], np.float64) for row in rows])
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert outcomes.examples.tolist() == list(range(len(labels)))
    assert outcomes.labels.tolist() == labels.tolist() and outcomes.guesses.tolist() == logits.argmax(-1).tolist()
    np.testing.assert_allclose(outcomes.probabilities, chances.max(-1), atol=1e-5)


def test_a_task_without_an_example_says_so(finished, tmp_path):
    """A report would end in an error, or pictures be missing without a word."""
    found, of = finished("causal_lm")
    task = Task(None)
    task.name = "mine"
    remarks = task.plot(found.model, of._replace(directory=tmp_path, evaluation=Evaluation({})))
    assert remarks == ["no pictures of attention: the task mine has no example to look at"]
    assert [file.name for file in tmp_path.iterdir()] == ["positions.png"]


def test_weights_that_fill_the_memory_are_refused_before_they_are_made(finished, tmp_path):
    """An image of many patches would end a report, for want of memory."""
    found, of = finished("image_classification")
    example = found.task.example(found.model, of)
    huge = lambda model, batch: model(jax.numpy.zeros((len(batch["images"]), 8, 8, 1)))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="attention weights of one input take"):
        patch.setattr("tformer_jax.tasks.pictures._MOST_BYTES", 8)
        draw_attention(huge, found.model, example, of._replace(directory=tmp_path))
    assert not list(tmp_path.iterdir())
