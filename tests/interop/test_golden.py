"""Every family without `transformers`: golden files say what it computes, see `make_golden.py`."""

import json

import numpy as np
import pytest
from checkpoints import CASES, EACH, golden, outputs, read_tensors, weights, write_checkpoint
from support import by_day, quick_jit

from tformer_jax import interop

USUAL = [i for i, (_, number) in enumerate(EACH) if number == 0]
each_case = pytest.mark.parametrize(("family", "number"), by_day(EACH, *USUAL))


@pytest.fixture
def checkpoint(tmp_path, family, number):
    """A folder as theirs is, and what they compute."""
    case = golden(family)[number]
    write_checkpoint(tmp_path / "theirs", case["config"], weights(case["shapes"]))
    return tmp_path / "theirs", case["outputs"]


def outputs_of(model):
    return {name: np.asarray(x) for name, x in quick_jit(outputs)(model).items()}


@each_case
def test_outputs_are_theirs(checkpoint):
    """A tensor lies where another one should, turned or split otherwise, or a field says something else."""
    folder, wanted = checkpoint
    model, _ = interop.load_pretrained(folder)
    got = outputs_of(model)
    assert got.keys() == wanted.keys()
    for name, x in wanted.items():
        assert np.abs(got[name] - x).max() <= 2e-5 * np.abs(x).max(), name


@each_case
def test_the_way_back_is_exact(checkpoint, tmp_path):
    """A tensor comes back under another name, in another shape, or with other bits; or the config says something else."""
    folder, _ = checkpoint
    model, _ = interop.load_pretrained(folder)
    interop.save_pretrained(model, tmp_path / "back")
    theirs, ours = read_tensors(folder), read_tensors(tmp_path / "back")
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, name, strict=True)
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    assert {key: after.get(key) for key in before} == before


@each_case
def test_a_config_alone_says_as_much(checkpoint, tmp_path, family):
    """A model that was not loaded from the family is saved with a key that is missing, or that says another thing."""
    model, _ = interop.load_pretrained(checkpoint[0])
    wanted = outputs_of(model)
    del model.origin
    interop.save_pretrained(model, tmp_path / "anew", family=family.split()[0])
    again, _ = interop.load_pretrained(tmp_path / "anew")
    for name, x in outputs_of(again).items():
        np.testing.assert_array_equal(x, wanted[name], name)


def test_every_family_has_a_golden_file():
    """A family was added that no test sees."""
    assert {name.split()[0] for name in CASES} == set(interop.FAMILIES)
