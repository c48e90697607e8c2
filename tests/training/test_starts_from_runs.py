"""Runs of every task that start from a run: on other text, in another domain, with other classes and sizes of images."""

import copy
import json

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from tformer_jax.config import ConfigError
from tformer_jax.training.directories import RunError


@pytest.fixture
def started(train, tmp_path):
    """`started(config, run, section=dict, ...)`: a run of one step, which changes nothing, that starts from another run."""

    def started(config, run, **sections):
        config = copy.deepcopy(config)
        config["optimizer"]["learning_rate"] = 1e-30
        config["training"] = {"steps": 1, "evaluate_every": 1}
        config["task"]["init_from"] = str(run)
        for name, fields in sections.items():
            config[name] |= fields
        return train(config, tmp_path / "run")

    return started


def assert_same(found, wanted, but=()):
    """Every parameter, but for those with these beginnings."""
    found, wanted = tiny_runs.named_arrays(found), tiny_runs.named_arrays(wanted)
    common = [name for name in wanted if not name.startswith(but)]
    assert len(common) > 5 and found.keys() == wanted.keys()
    for name in common:
        np.testing.assert_allclose(found[name], wanted[name], 0, 1e-20, err_msg=name)


@pytest.fixture
def others(tmp_path):
    """Other documents, of other words."""
    folder = tmp_path / "others"
    folder.mkdir()
    for i in range(30):
        words = [f"{chr(97 + (i * 7 + j) % 26)}{'aeiou'[j % 5]}x" for j in range(24)]
        (folder / f"{i}.txt").write_text(" ".join(words) + "\n")
    return folder


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
def test_a_language_model_goes_on_with_other_text(configs, finished, started, others, task):
    """It would begin from scratch, or read the new text with tokens that its vectors are not of."""
    there = finished(task)
    found = started(configs[task], there.run.directory, data={"path": str(others)})
    assert_same(found.model, there.model)
    assert (found.run.directory / "tokenizer.json").read_bytes() == (
        there.run.directory / "tokenizer.json"
    ).read_bytes()
    assert any(line.startswith("30 ") or "(files, split by document)" in line for line in found.said)


def test_a_tokenizer_of_another_size_is_not_made(configs, finished, started, others):
    """The preset's size of a vocabulary, which is another one, would be refused; or a new tokenizer be trained."""
    there = finished("causal_lm")
    found = started(configs["causal_lm"], there.run.directory, data={"path": str(others), "vocab_size": 290})
    assert found.model.config.vocab_size == there.model.config.vocab_size
    assert_same(found.model, there.model)


def test_a_translator_goes_on_in_another_domain(config, trained, started, tmp_path):
    """Its words would be those of the new sentences, and its vectors those of the old ones."""
    lines = [f"box {word} {i}\t{word.upper()} BOX {i}" for i, word in enumerate(tiny_runs.WORDS * 5)]
    (tmp_path / "domain.tsv").write_text("\n".join(lines) + "\n")
    found = started(config, trained.run.directory, data={"tsv_file": str(tmp_path / "domain.tsv")})
    assert_same(found.model, trained.model)
    assert (found.run.directory / "tokenizer.json").read_bytes() == (
        trained.run.directory / "tokenizer.json"
    ).read_bytes()


def test_a_classifier_of_texts_has_other_classes(configs, finished, started, tmp_path):
    """Its head would be refused, or that of the old classes."""
    there = finished("text_classification")
    lines = [f"{'abc'[i % 3]}\t{' '.join(tiny_runs.WORDS[i % 9 : i % 9 + 4])} {i}" for i in range(60)]
    (tmp_path / "labelled.tsv").write_text("\n".join(lines) + "\n")
    found = started(configs["text_classification"], there.run.directory, data={"path": str(tmp_path / "labelled.tsv")})
    assert_same(found.model, there.model, ("classifier.",))
    assert tiny_runs.named_arrays(found.model)["classifier.b"].shape == (3,)


@pytest.fixture
def pictures(tmp_path):
    """Images of three classes, of 16 x 16."""
    for i in range(60):
        folder = tmp_path / "pictures" / "train" / "abc"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, (16, 16)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def test_a_classifier_of_images_has_other_classes(configs, finished, started, pictures):
    """Its head would be refused, or that of the old classes."""
    there = finished("image_classification")
    found = started(configs["image_classification"], there.run.directory, data={"path": str(pictures)})
    assert_same(found.model, there.model, ("classifier.",))
    assert tiny_runs.named_arrays(found.model)["classifier.b"].shape == (3,)


def test_images_of_another_size_have_interpolated_positions(configs, finished, started, pictures):
    """Positions of a run on smaller images would be refused, or not be where they were in the image."""
    there = finished("image_classification")
    found = started(
        configs["image_classification"], there.run.directory, data={"path": str(pictures), "image_size": 16}
    )
    assert_same(found.model, there.model, ("classifier.", "positions."))
    held, before = (tiny_runs.named_arrays(model)["positions.table"] for model in (found.model, there.model))
    extra = before.shape[0] - 4  # what stands before the 2 x 2 patches
    grid = before[extra:].reshape(2, 2, -1)
    larger = [Image.fromarray(grid[..., i].copy()).resize((4, 4), Image.BICUBIC) for i in range(grid.shape[-1])]
    np.testing.assert_array_equal(held[:extra], before[:extra])
    np.testing.assert_allclose(held[extra:], np.stack(larger, -1).reshape(16, -1), 0, 1e-6)


def test_another_model_is_refused_by_its_field(configs, finished, started):
    """It would start from parameters of another function."""
    there = finished("image_classification")
    with pytest.raises(ConfigError, match=r"holds another model: model\.feed_forward\.activation"):
        width = {"width": 24, "activation": "gelu"}
        started(configs["image_classification"], there.run.directory, model={"feed_forward": width})


def test_a_member_of_a_sweep_is_exported_first(configs, started, tmp_path):
    """A person would not know how to start from the best member."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "sweep.json").write_text(json.dumps({"config": {}, "members": {}}))
    for start, number in ((sweep, "NUMBER"), (f"{sweep}:3", "3")):
        with pytest.raises(RunError) as error:
            started(configs["causal_lm"], start)
        assert f"python -m experiments.export --workdir={sweep} --member={number} --to=DIRECTORY makes" in str(
            error.value
        )
        assert "\n" not in str(error.value)
