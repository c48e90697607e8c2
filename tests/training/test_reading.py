"""Checkpoints of a run that trains meanwhile: read whole, whoever deletes them, and never changed."""

import multiprocessing
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tformer_jax.training import reading
from tformer_jax.training.checkpoints import CheckpointConfig, CheckpointError, Checkpoints
from tformer_jax.training.run import RunError, steps_in


def make_arrays(step):
    return {"step": jnp.int32(step), "w": jnp.full((300, 300), step, jnp.float32)}


SHAPES = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in make_arrays(0).items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoints of steps 1 to 3, which stay as they are."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(directory, CheckpointConfig(every=1, keep=9)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_arrays(step), {"of": step})
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run" / "checkpoints")


@pytest.fixture
def while_opening(monkeypatch):
    """`while_opening(function, times)`: the first looks at a checkpoint each call it with the folder, when they begin."""

    def while_opening(function, times=1):
        original, calls = reading._hold, []

        def hold(folder, links, held):
            if len(calls) < times:
                calls.append(folder)
                function(folder)
            original(folder, links, held)

        monkeypatch.setattr(reading, "_hold", hold)

    return while_opening


def test_a_checkpoint_that_is_deleted_while_it_is_read_stays_whole(directory):
    """Predicting with a run that trains would end in a traceback, or with the arrays of two steps."""
    with reading.whole(directory) as checkpoint:
        shutil.rmtree(directory)
        assert (checkpoint.step, checkpoint.identity) == (3, {"of": 3})
        for arrays in (checkpoint.restore(SHAPES), checkpoint.restore_as_saved()):
            for name, wanted in make_arrays(3).items():
                np.testing.assert_array_equal(arrays[name], wanted)


def half_delete(folder):
    for file in sorted(file for file in folder.rglob("*") if file.is_file())[::2]:
        file.unlink()


@pytest.mark.parametrize("delete", [shutil.rmtree, half_delete])
def test_what_is_deleted_while_it_is_opened_is_not_damaged(directory, while_opening, delete):
    """A run whose newer checkpoints are there already would be called damaged."""

    def newer_comes(folder):
        shutil.copytree(directory / "2", directory / "4")
        delete(folder)

    while_opening(newer_comes)
    with reading.whole(directory) as checkpoint:
        assert (checkpoint.step, checkpoint.identity) == (4, {"of": 2})


def test_the_next_newest_is_read_if_the_newest_is_taken_away(directory, while_opening):
    """A checkpoint that its run has put aside as damaged would end its evaluation."""
    while_opening(shutil.rmtree, times=2)
    with reading.whole(directory) as checkpoint:
        assert checkpoint.step == 1


def test_a_step_that_was_asked_for_and_is_deleted_is_refused_by_name(directory, while_opening):
    """Another step's arrays would be taken for those that were asked for."""
    while_opening(shutil.rmtree)
    with pytest.raises(RunError, match=r"has no checkpoint of step 2, only of \[1, 3\]"), reading.whole(directory, 2):
        pass


def test_damage_that_stays_is_said_and_nothing_is_moved(directory):
    """A reader would wait for ever, or put a checkpoint of another process aside."""
    half_delete(directory / "3")
    before = sorted(directory.parent.rglob("*"))
    with pytest.raises(CheckpointError, match=r"step 3 is damaged: .*/run/checkpoints/3/"), reading.whole(directory):
        pass
    assert sorted(directory.parent.rglob("*")) == before


def test_damage_names_the_newest_whole_checkpoint(directory):
    """Whoever wants to use an older one would have to guess which."""
    for damaged, wanted in ((3, "that of step 2 is whole: --step=2"), (2, "that of step 1 is whole: --step=1"),
                            (1, "none of the others is whole")):  # fmt: skip
        half_delete(directory / str(damaged))
        step = None if damaged != 2 else 3
        with pytest.raises(CheckpointError, match=f"{wanted}$"), reading.whole(directory, step, ": --step={step}"):
            pass
    for step in "12":
        shutil.rmtree(directory / step)
    with pytest.raises(CheckpointError, match="there is no other$"), reading.whole(directory):
        pass


def test_checkpoints_that_never_stand_still_are_given_up(directory, while_opening, monkeypatch):
    """A reader would never end."""
    monkeypatch.setattr(reading, "_SECONDS_BETWEEN", 0)
    monkeypatch.setattr(reading, "_LOOKS", 5)

    def newer_comes(folder):
        folder.rename(folder.with_name(str(int(folder.name) + 1)))

    while_opening(newer_comes, times=9)
    with pytest.raises(CheckpointError, match="change faster than they can be opened"), reading.whole(directory):
        pass


@pytest.mark.parametrize("name", ["²", "007", "-3", "4.5", "notes", "4.orbax-checkpoint-tmp", "9"])
def test_other_things_among_checkpoints_are_none(directory, name):
    """A note that somebody left there would be a step, or end in a traceback; 9 is a file here."""
    place = directory / name
    place.write_text("") if name == "9" else place.mkdir()
    assert steps_in(directory) == [1, 2, 3]
    with reading.whole(directory) as checkpoint:
        assert checkpoint.step == 3


def save_and_delete(directory, until):
    """What another process does that trains: a checkpoint a step, of which one is kept."""
    with Checkpoints(Path(directory), CheckpointConfig(every=1, keep=1)) as checkpoints:
        step = 0
        while not until.is_set():
            step += 1
            checkpoints.save(step, make_arrays(step), {"of": step})


def test_a_run_that_saves_all_the_time_can_be_read_all_the_time(tmp_path):
    """Readers would be too slow: what they find is gone before they have read it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tformer_jax.training.running"])
    until = context.Event()
    process = context.Process(target=save_and_delete, args=(tmp_path / "checkpoints", until), daemon=True)
    process.start()
    steps = []
    while len(steps) < 20:
        if steps or steps_in(tmp_path / "checkpoints"):
            with reading.whole(tmp_path / "checkpoints") as checkpoint:
                arrays = checkpoint.restore_as_saved()
            assert {int(x) for x in np.unique(arrays["w"])} == {checkpoint.step} == {int(arrays["step"])}
            steps.append(checkpoint.step)
    until.set()
    process.join()
    assert process.exitcode == 0
    assert steps == sorted(steps) and len({*steps}) > 1
