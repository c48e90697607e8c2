"""What a disk, a crash or a full quota do to checkpoints: found, named, put aside, and never in the way."""

import asyncio
import contextlib
import hashlib
import multiprocessing
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tformer_jax.config import ConfigError
from tformer_jax.training.checkpoints import CheckpointConfig, CheckpointError, Checkpoints

CONFIG = {"model": {"d_model": 8}}
SUMS, TIMES, DONE = Path("SHA256SUMS"), Path("_CHECKPOINT_METADATA"), Path("commit_success.txt")


def make_arrays(step, size=30):
    """A state of several dtypes; noise, so that no file of it shrinks."""
    rng = np.random.default_rng(step)
    return {
        "step": jnp.int32(step),
        "model.w": jnp.asarray(rng.standard_normal((size, size)), jnp.float32),
        "model.half": jnp.asarray(rng.standard_normal(7), jnp.bfloat16),
    }


def shapes_of(arrays):
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}


SHAPES = shapes_of(make_arrays(0))


def bits(arrays):
    return {name: (x.shape, str(x.dtype), np.asarray(x).tobytes()) for name, x in arrays.items()}


def open_checkpoints(directory, **how):
    return Checkpoints(directory, CheckpointConfig(every=1, keep=9), **how)


def files_of(folder):
    """Every file below a folder, by its path there."""
    return sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoints of steps 1 to 3, which stay as they are."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    with open_checkpoints(directory) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_arrays(step), CONFIG)
    return directory


@pytest.fixture
def directory(whole, tmp_path):
    """A copy of them in a run of its own."""
    return shutil.copytree(whole, tmp_path / "run" / "checkpoints")


# Found -----------------------------------------------------------------------------------------


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


DAMAGES = {
    "missing": lambda file: file.unlink(),
    "cut to half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "first bit flipped": lambda file: flip(file, 0),
    "middle bit flipped": lambda file: flip(file, 4 * file.stat().st_size),
    "last bit flipped": lambda file: flip(file, 8 * file.stat().st_size - 1),
}


@contextlib.contextmanager
def damaged(file, damage):
    """Within its context, the file is; after it, whole again."""
    content = file.read_bytes()
    try:
        DAMAGES[damage](file)
        yield
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_is_found_and_named(directory, damage):
    """A run would go on from other parameters than were saved, or end in an error that is the library's own."""
    folder, tried = directory / "3", 0
    with open_checkpoints(directory) as checkpoints:
        for name in files_of(folder):
            if name == DONE or name == TIMES and "flipped" in damage:  # see the next two tests
                continue
            with damaged(folder / name, damage), pytest.raises(CheckpointError) as error:
                checkpoints.check(3)
            # A damaged list of sums may put the blame on a file that is in it.
            blamed = folder if name == SUMS else folder / name
            assert f"the checkpoint of step 3 is damaged: {blamed}" in str(error.value)
            tried += 1
        checkpoints.check(3)
    assert tried >= 10


def test_a_flipped_bit_among_the_times_is_named_or_does_no_harm(directory):
    """The one file that has no sum would change what is restored, or how restoring fails: some bits all over it."""
    file, found = directory / "3" / TIMES, []
    content = file.read_bytes()
    for bit in range(0, 8 * len(content), 71):
        flip(file, bit)
        with open_checkpoints(directory) as checkpoints:
            try:
                found.append(bits(checkpoints.restore(3, SHAPES)) == bits(make_arrays(3)))
            except CheckpointError as error:
                assert str(file) in str(error)
                found.append("named")
        file.write_bytes(content)
    assert set(found) == {True, "named"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_mark_of_a_commit_decides_nothing(directory, damage):
    """A checkpoint whose arrays are whole would be thrown away: it has its name only once it is complete."""
    DAMAGES[damage](directory / "3" / DONE)
    with open_checkpoints(directory) as checkpoints:
        step, arrays = checkpoints.restore_newest(SHAPES, print)
    assert (step, bits(arrays)) == (3, bits(make_arrays(3)))


def test_the_sums_are_those_of_all_files(whole):
    """A file would be changed or lost unnoticed: by hashlib, all but the two that are written later."""
    lines = [line.split("  ") for line in (whole / "3" / SUMS).read_text("utf-8").splitlines()]
    files = [file for file in files_of(whole / "3") if file not in (SUMS, TIMES, DONE)]
    wanted = [[hashlib.sha256((whole / "3" / file).read_bytes()).hexdigest(), str(file)] for file in files]
    assert sorted(lines) == sorted(wanted)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_the_sums_can_be_checked_without_this_package(whole):
    """Whoever archives a checkpoint would need this code to see whether it is whole."""
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=whole / "3", check=True)


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_a_list_of_sums_that_ends_early_is_damage(directory, kept):
    """Files whose sum is gone would not be compared: a crash that cuts the list at the end of a line."""
    file = directory / "3" / SUMS
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:kept]), "utf-8")
    with open_checkpoints(directory) as checkpoints, pytest.raises(CheckpointError, match="step 3 is damaged"):
        checkpoints.check(3)


def test_whoever_does_not_train_is_told_and_moves_nothing(directory):
    """Evaluating would report on other parameters, or take a checkpoint away from the run that writes there."""
    DAMAGES["middle bit flipped"](directory / "3" / "arrays" / "manifest.ocdbt")
    before = contents(directory.parent)
    with open_checkpoints(directory, read_only=True) as checkpoints:
        restore = lambda step: checkpoints.restore(step, SHAPES)
        for use in (restore, checkpoints.restore_as_saved):
            with pytest.raises(CheckpointError, match=r"step 3 is damaged: .*manifest\.ocdbt is not what was written"):
                use(3)
    assert contents(directory.parent) == before


# Put aside -------------------------------------------------------------------------------------


def spoil(directory, step):
    """Flips a bit of the arrays; returns the file."""
    file = max((directory / str(step) / "arrays" / "d").iterdir(), key=lambda file: file.stat().st_size)
    DAMAGES["middle bit flipped"](file)
    return file


def restore_newest(directory):
    """What `restore_newest` returns, with the bits of the arrays; and what it said."""
    said = []
    with open_checkpoints(directory) as checkpoints:
        found = checkpoints.restore_newest(SHAPES, said.append)
    return found and (found[0], bits(found[1])), said


def test_the_newest_one_that_is_whole_is_restored(directory):
    """One flipped bit would cost the whole run, although the checkpoint before is there."""
    spoil(directory, 3)
    assert restore_newest(directory)[0] == (2, bits(make_arrays(2)))


def test_what_is_damaged_is_put_aside_by_name(directory):
    """What is left of a checkpoint would be deleted, or nobody would hear of it: step, file and place are said."""
    file = spoil(directory, 3)
    before, place = contents(directory / "3"), directory.parent / "damaged" / "3"
    _, (line,) = restore_newest(directory)
    assert line == f"the checkpoint of step 3 is damaged: {file} is not what was written; it is now in {place}"
    assert contents(place) == before


def test_putting_aside_leaves_the_others_alone(directory):
    """The checkpoint that the run goes on from would be touched."""
    spoil(directory, 3)
    before = {step: contents(directory / step) for step in ("1", "2")}
    restore_newest(directory)
    assert {entry.name: contents(entry) for entry in directory.iterdir()} == before


def test_what_was_put_aside_is_no_checkpoint_any_more(directory):
    """Pruning would count it as one, or the next process would find it damaged again."""
    spoil(directory, 3)
    with open_checkpoints(directory) as checkpoints:
        checkpoints.restore_newest(SHAPES, print)
        assert (checkpoints.latest, checkpoints.steps) == (2, [1, 2])
    assert restore_newest(directory) == ((2, bits(make_arrays(2))), [])


def test_a_step_that_was_put_aside_can_be_saved_again(directory):
    """The run would have no checkpoint of the step that it has made again, or fail there."""
    spoil(directory, 3)
    with open_checkpoints(directory) as checkpoints:
        checkpoints.restore_newest(SHAPES, print)
        checkpoints.save(3, make_arrays(33), CONFIG)
    assert restore_newest(directory) == ((3, bits(make_arrays(33))), [])


def test_with_all_damaged_there_is_none(directory):
    """A run would end in an error instead of beginning again, or lose what could still be looked into."""
    for step in (1, 2, 3):
        spoil(directory, step)
    found, said = restore_newest(directory)
    assert found is None
    assert [line.split(" is damaged")[0] for line in said] == [f"the checkpoint of step {step}" for step in (3, 2, 1)]
    assert sorted(entry.name for entry in (directory.parent / "damaged").iterdir()) == ["1", "2", "3"]
    assert list(directory.iterdir()) == []


def test_a_step_that_is_damaged_twice_has_two_places(directory):
    """The second would overwrite the first, or fall into its folder."""
    kept = []
    for seed in (3, 33):
        with open_checkpoints(directory) as checkpoints:
            checkpoints.save(3, make_arrays(seed), CONFIG)
        spoil(directory, 3)
        kept.append(contents(directory / "3"))
        _, (line,) = restore_newest(directory)
        assert contents(Path(line.split(" it is now in ")[1])) == kept[-1]
    assert [contents(place) for place in sorted((directory.parent / "damaged").iterdir())] == kept


def test_a_place_that_is_taken_is_not_used_again(directory):
    """It would fall into the folder of another: someone has looked at the first of two and deleted it."""
    (taken := directory.parent / "damaged" / "3-2").mkdir(parents=True)
    spoil(directory, 3)
    before = contents(directory / "3")
    _, (line,) = restore_newest(directory)
    assert list(taken.iterdir()) == []
    assert contents(Path(line.split(" it is now in ")[1])) == before


def test_a_checkpoint_of_another_model_is_not_taken_for_damage(directory):
    """A changed config would throw away every checkpoint of the run."""
    other = SHAPES | {"model.w": jax.ShapeDtypeStruct((31, 30), jnp.float32)}
    with open_checkpoints(directory) as checkpoints, pytest.raises(ConfigError, match="does not fit this model"):
        checkpoints.restore_newest(other, print)
    assert not (directory.parent / "damaged").exists()
    assert sorted(entry.name for entry in directory.iterdir()) == ["1", "2", "3"]


# A full disk -----------------------------------------------------------------------------------

LARGE, LIMIT = 200, 60_000  # 160 kB of noise, and the bytes that a file may have


def save_beyond_the_limit(place, answers):
    """Step 1, then a limit, then step 2 in two directories; what was raised, by whom it was noticed."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for noticed in ("the next save", "leaving"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try:
            with open_checkpoints(place / noticed) as checkpoints:
                checkpoints.save(1, make_arrays(1, LARGE), CONFIG)
                checkpoints.wait()
                resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
                checkpoints.save(2, make_arrays(2, LARGE), CONFIG)
                if noticed == "the next save":
                    checkpoints.save(3, make_arrays(3, LARGE), CONFIG)
            answers.send((noticed, None, "", False))
        except Exception as error:
            answers.send((noticed, type(error).__name__, str(error), isinstance(error.__cause__, Exception)))


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory):
    """A directory for each way to notice, left by a process whose disk became full; and what it raised there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tformer_jax.training.running"])
    place, (answers, theirs) = tmp_path_factory.mktemp("full"), context.Pipe(duplex=False)
    process = context.Process(target=save_beyond_the_limit, args=(place, theirs))
    process.start()
    theirs.close()
    process.join()
    found = [answers.recv() for _ in range(2)]
    return {noticed: (place / noticed, raised) for noticed, *raised in found}


@pytest.fixture(params=["the next save", "leaving"])
def full(request, full_disk):
    return full_disk[request.param]


def test_a_full_disk_is_an_error_that_says_what_is_left(full):
    """Training would go on without checkpoints, or end in the library's traceback."""
    _, (kind, message, has_cause) = full
    assert (kind, has_cause) == ("CheckpointError", True)
    assert message == "the checkpoint of step 2 cannot be written: File too large; the newest complete one is of step 1"


def test_a_full_disk_leaves_the_checkpoint_before_whole(full, tmp_path):
    """The last good state would be lost with the attempt to save the next."""
    directory, wanted = shutil.copytree(full[0], tmp_path / "checkpoints"), make_arrays(1, LARGE)
    with open_checkpoints(directory) as checkpoints:
        assert checkpoints.steps == [1]
        checkpoints.check(1)
        step, arrays = checkpoints.restore_newest(shapes_of(wanted), pytest.fail)
    assert (step, bits(arrays)) == (1, bits(wanted))


def test_what_a_full_disk_left_half_written_is_tidied_up(full, tmp_path):
    """The step could never be saved, or its remains would fill the disk for good."""
    directory, wanted = shutil.copytree(full[0], tmp_path / "checkpoints"), make_arrays(2, LARGE)
    assert [entry.name for entry in directory.iterdir()] == ["1"]
    with open_checkpoints(directory) as checkpoints:
        checkpoints.save(2, wanted, CONFIG)
    assert sorted(entry.name for entry in directory.iterdir()) == ["1", "2"]
    with open_checkpoints(directory) as checkpoints:
        assert bits(checkpoints.restore(2, shapes_of(wanted))) == bits(wanted)


def test_a_disk_that_is_full_already_is_not_written_to(directory, monkeypatch):
    """An attempt that cannot succeed would leave its remains on the disk that has no room for them."""
    usage = shutil.disk_usage(directory)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    before = contents(directory)
    with open_checkpoints(directory) as checkpoints:
        message = r"step 4 cannot be written: it takes .* MiB left; the newest complete one is of step 3"
        with pytest.raises(CheckpointError, match=message):
            checkpoints.save(4, make_arrays(4), CONFIG)
        assert checkpoints.latest == 3
    assert contents(directory) == before


# Killed while saving ---------------------------------------------------------------------------


def leave_behind(directory, name):
    """What a save of step 7 leaves that was killed: some files, one of them cut, under a name that is none."""
    shutil.copytree(directory / "3", directory / name, ignore=shutil.ignore_patterns(str(SUMS), str(DONE)))
    DAMAGES["cut to half"](directory / name / "arrays" / "manifest.ocdbt")


LEFT = pytest.mark.parametrize("name", ["7.orbax-checkpoint-tmp", "7.orbax-checkpoint-tmp-1700000000"])


@LEFT
def test_what_a_killed_save_left_is_no_checkpoint(directory, name):
    """A run would go on from half a checkpoint."""
    leave_behind(directory, name)
    with open_checkpoints(directory) as checkpoints:
        assert (checkpoints.latest, checkpoints.steps) == (3, [1, 2, 3])


@LEFT
def test_what_a_killed_save_left_is_tidied_up(directory, name):
    """Every kill would cost disk space for good, also where nothing is saved any more."""
    leave_behind(directory, name)
    with open_checkpoints(directory):
        # Not in the background: what is saved next, perhaps by another object, would be taken for such a remainder.
        assert sorted(entry.name for entry in directory.iterdir()) == ["1", "2", "3"]


def test_nobody_tidies_up_while_the_next_checkpoint_is_written(directory, monkeypatch):
    """A sweep that is told to stop in its first step would find the checkpoint that it writes deleted meanwhile."""
    paths = pytest.importorskip("orbax.checkpoint._src.path.temporary_paths")
    listing, write_sums, saves = paths.all_temporary_paths, Checkpoints._write_sums, threading.Event()

    async def late(*args, **kwargs):  # what Orbax would tidy up in the background, were it asked to
        await asyncio.to_thread(saves.wait, 10)
        return await listing(*args, **kwargs)

    def slow(checkpoints):
        saves.set()
        time.sleep(0.2)
        write_sums(checkpoints)

    monkeypatch.setattr(paths, "all_temporary_paths", late)
    monkeypatch.setattr(Checkpoints, "_write_sums", slow)
    with open_checkpoints(directory):
        pass
    monkeypatch.setattr(paths, "all_temporary_paths", listing)
    with open_checkpoints(directory) as checkpoints:
        checkpoints.save(4, make_arrays(4), CONFIG)
    assert sorted(entry.name for entry in directory.iterdir()) == ["1", "2", "3", "4"]


@LEFT
def test_what_a_killed_save_left_is_not_in_the_way(directory, name):
    """A resumed run would fail at the step at which it was killed, or save a mixture of both attempts."""
    leave_behind(directory, name)
    with open_checkpoints(directory) as checkpoints:
        checkpoints.save(7, make_arrays(7), CONFIG)
    assert sorted(entry.name for entry in directory.iterdir()) == ["1", "2", "3", "7"]
    assert restore_newest(directory) == ((7, bits(make_arrays(7))), [])


@LEFT
def test_whoever_does_not_train_tidies_up_nothing(directory, name):
    """Evaluating a run that is being trained would delete the checkpoint that it is writing."""
    leave_behind(directory, name)
    before = contents(directory)
    with open_checkpoints(directory, read_only=True) as checkpoints:
        checkpoints.restore_as_saved(3)
    assert contents(directory) == before
