"""A tiny experiment of each task, on real files: trained once for the tests of several folders."""

import functools
import types

import jax
import numpy as np
import pytest
from PIL import Image
from support import quick_jit, unchecked_annotations

from tformer_jax.nn.parameters import named
from tformer_jax.training.run import Run
from tformer_jax.training.running import run_training

TASKS = ("causal_lm", "masked_lm", "text_classification", "image_classification")
WORDS = "the red cat saw a small dog on that old green hill today".split()


def run_and_train(config, directory):
    """A finished run: its `run`, `task`, `data`, `model` and what was `said`."""
    said = []
    run = Run.start(directory, config)
    with pytest.MonkeyPatch.context() as patch, unchecked_annotations():
        patch.setattr(jax, "jit", quick_jit)
        task, data, model = run_training(run, said.append)
    return types.SimpleNamespace(run=run, task=task, data=data, model=model, said=said)


def named_arrays(model):
    """The arrays of a model, by path, on the host."""
    return {name: np.asarray(x) for name, x in named(model).items()}


@functools.cache
def files(place):
    """Documents, labelled texts and labelled images: `texts/*.txt`, `labelled.tsv`, `images/train/CLASS/*.png`.

    `place`: a directory of this session, here and below; always the same, so that there is one of each run.
    """
    folder = place / "tiny files"
    (folder / "texts").mkdir(parents=True)
    labelled = []
    for i in range(60):
        words = [WORDS[(i * 5 + j * (1 + i % 3)) % 13] for j in range(3 + i % 8)]
        (folder / "texts" / f"{i:02}.txt").write_text(" ".join(words * 3) + "\n")
        labelled.append(f"{'long' if len(words) > 6 else 'short'}\t{' '.join(words)} {i}\n")
        for name, value in (("dark", 30), ("light", 200)):
            (folder / "images" / "train" / name).mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(i).integers(0, 50, (8, 8)).astype(np.uint8)
            Image.fromarray(noise + np.uint8(value)).save(folder / "images" / "train" / name / f"{i}.png")
    (folder / "labelled.tsv").write_text("".join(labelled))
    return folder


@functools.cache
def configs(place):
    """A config of each task but translation, by its name."""
    folder = files(place)
    small = {"d_model": 16, "num_layers": 1, "attention": {"num_heads": 2}, "feed_forward": {"width": 24}}
    text = small | {"positions": {"name": "rotary"}, "max_length": 48}
    documents = {
        "source": "files",
        "path": str(folder / "texts"),
        "validation_share": 0.1,
        "test_share": 0.1,
        "vocab_size": 300,
        "row_length": 16,
        "batch_tokens": 64,
    }
    labelled = {"source": "files", "path": str(folder / "labelled.tsv"), "validation_size": 8, "test_size": 8}
    labelled |= {"vocab_size": 300, "batch_tokens": 128, "num_buckets": 1}
    images = {"source": "folders", "path": str(folder / "images"), "image_size": 8, "num_channels": 1}
    images |= {"validation_size": 8, "test_size": 9, "batch_size": 16}
    vision = small | {"patch_size": 4, "positions": {"name": "learned"}}
    parts = {
        "causal_lm": ({"sample_tokens": 4}, documents, text),
        "masked_lm": ({"pseudo_perplexity_rows": 2}, documents, text | {"pooler": True}),
        "text_classification": ({}, labelled, text | {"pooling": "mean"}),
        "image_classification": ({"max_shift": 1}, images, vision),
    }
    return {
        name: {
            "task": {"name": name} | task,
            "data": data,
            "model": model | {"dropout_rate": 0.0},
            "optimizer": {"learning_rate": 0.01, "schedule": "constant", "warmup_steps": 0},
            "training": {"steps": 12, "log_every": 4, "evaluate_every": 6},
            "parallel": {"data": 1},
            "checkpoint": {"every": 6},
            "precision": "params=float32,compute=float32,output=float32",
        }
        for name, (task, data, model) in parts.items()
    }


@functools.cache
def translation(place):
    """A config of translation: 80 sentences of 1 to 8 words; the translation is in capitals, backwards."""
    file = files(place) / "corpus.tsv"
    sources = [" ".join(WORDS[(i * 5 + j * (1 + i % 3)) % 13] for j in range(1 + i % 8)) + f" {i}" for i in range(80)]
    file.write_text("".join(f"{s}\t{' '.join(reversed(s.upper().split()))}\n" for s in sources))
    return {
        "task": {"name": "translation", "label_smoothing": 0.1, "beam_size": 2},
        "data": {
            "source": "files",
            "tsv_file": str(file),
            "split": "sentence",
            "validation_size": 6,
            "test_size": 7,
            "vocab_size": 4000,
            "batch_tokens": 128,
            "batching": "buckets",
            "num_buckets": 1,
        },
        "model": {
            "d_model": 16,
            "num_layers": 1,
            "max_length": 40,
            "attention": {"num_heads": 2},
            "feed_forward": {"width": 24},
            "layer": {"norm_position": "pre"},
        },
        "optimizer": {"learning_rate": 0.01, "schedule": "linear", "warmup_steps": 4},
        "training": {"steps": 24, "log_every": 4, "evaluate_every": 12},
        "parallel": {"data": 1},
        "checkpoint": {"every": 10, "keep": 2},
        "precision": "params=float32,compute=float32,output=float32",
    }


@functools.cache
def finished(place, name):
    """A finished run of a task; it stays as it is."""
    return run_and_train(configs(place)[name], place / "tiny runs" / name)
