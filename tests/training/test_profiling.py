"""Profiles of some steps: where they go, what is said of them, and that the run is what it is without."""

import re
import shutil

import jax
import numpy as np
import pytest
from recorded import Recorder
from support import untimed
from test_loop import STEPS, Data, make_trainer, rows_of, validation

from tformer_jax.config import ConfigError
from tformer_jax.training.checkpoints import CheckpointConfig
from tformer_jax.training.loop import train
from tformer_jax.training.profiling import Profile
from tformer_jax.training.run import Run


def go(run, profile, data=None):
    """The state at the end, and what was said."""
    recorder = Recorder()
    how = {"profile": profile, "terminal": recorder}
    arrays = train(make_trainer(), data or Data(), validation, run, CheckpointConfig(every=3), lambda line: None, **how)
    return arrays, recorder.said


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    run = Run.start(tmp_path_factory.mktemp("profiled") / "run", {"name": "test"})
    return run, *go(run, Profile(6, 3, run.profile))


def test_a_trace_is_where_tensorboard_looks(profiled):
    """Nothing would be shown: its plugin lists the folders plugins/profile/TIME, and reads HOST.xplane.pb in them."""
    (file,) = profiled[0].profile.rglob("*.xplane.pb")
    plugins, kind, when = file.relative_to(profiled[0].profile).parts[:-1]
    assert (plugins, kind) == ("plugins", "profile") and re.fullmatch(r"[\d_]+", when)


def test_a_trace_is_of_the_window_alone(profiled):
    """It would hold other steps, or compilation, which dwarfs all else."""
    (file,) = profiled[0].profile.rglob("*.xplane.pb")
    found = jax.profiler.ProfileData.from_file(str(file))
    events = [event for plane in found.planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
    assert sorted(steps) == [6, 7, 8]
    assert not any("backend_compile" in event.name for event in events)


def test_the_dearest_operations_are_said_with_their_code(profiled):
    """The trace would have to be opened to learn anything."""
    lines = profiled[2].splitlines()
    (head,) = (i for i, line in enumerate(lines) if line.split()[:4] == ["ms", "a", "step", "share"])
    rows = [line.split() for line in lines[head + 1 :] if re.match(r" +\d+\.\d{3}  +\d", line)]
    assert 1 <= len(rows) <= 10
    shares = [float(row[1].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 100.1
    assert any(re.search(r"\.py:\d+$", row[-1]) for row in rows)
    assert f"steps 6 to 8 are in {profiled[0].profile}" in profiled[2]


def test_a_profiled_run_is_the_run(profiled, tmp_path):
    """Looking at it would change the result."""
    run = Run.start(tmp_path / "run", {"name": "test"})
    arrays, _ = go(run, None)
    np.testing.assert_array_equal(profiled[1]["model.w"], arrays["model.w"])
    assert untimed(rows_of(profiled[0])) == untimed(rows_of(run))


def test_a_run_that_ends_within_the_window_ends_the_trace(tmp_path):
    """No other trace could be started, and the process would keep all that it sees."""
    run = Run.start(tmp_path / "run", {"name": "test"})
    with pytest.raises(InterruptedError):
        go(run, Profile(4, 3, run.profile), Data(stop_at=5))
    assert len(list(run.profile.rglob("*.xplane.pb"))) == 1
    shutil.rmtree(run.profile)  # JAX names a trace by its second, which may be the same
    with jax.profiler.trace(str(tmp_path / "another")):
        pass
    go(run, Profile(4, 2, run.profile))
    assert len(list(run.profile.rglob("*.xplane.pb"))) == 1


@pytest.mark.parametrize(
    ("first", "count", "done", "said"),
    [
        (10, 4, 0, "is of step 10 to 13, and the run ends at step 12"),
        (13, 1, 0, "and the run ends at step 12: give an earlier STEP or a smaller COUNT"),
        (6, 2, 6, "is of step 6 to 7, and the run goes on after step 6: give a later STEP"),
        (12, 1, 12, "and the run has made all of its 12 steps: leave --profile out"),
    ],
)
def test_a_window_that_never_comes_is_refused(first, count, done, said, tmp_path):
    """A run would take hours, and then have no profile."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        Profile(first, count, tmp_path).check(done, STEPS)
    Profile(done + 1, STEPS - done, tmp_path).check(done, STEPS) if done < STEPS else None
