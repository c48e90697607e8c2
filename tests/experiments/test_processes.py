"""Several processes, and signals: real ones, on loopback, as a user starts and a scheduler ends them."""

import json
import shutil
import signal
import socket
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

LAST, EVERY = 120, 40  # as in conftest.py


def arrays_of(run):
    """The last state, read without this package."""
    saved = ocp.StandardCheckpointer().restore((run / "checkpoints" / str(LAST) / "arrays").absolute())
    return {name: np.asarray(x) for name, x in saved.items()}


def losses_of(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def wait_for_line(text, process):
    """The line of the process's output that holds `text`."""
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(process.communicate())


@pytest.fixture(scope="session")
def pair(start):
    """`pair(flags)`: two processes that train together, or more."""

    def pair(flags, count=2):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        together = [f"--coordinator=localhost:{port}", f"--num_processes={count}"]
        return [start("train", *flags, *together, f"--process_id={number}") for number in range(count)]

    return pair


@pytest.fixture(scope="session")
def lives(place, trained, flags, start, pair):
    """One run: two processes, both killed; two again, of which one gets SIGTERM; at last one that gets it over with."""
    run, ends = place / "several", []
    changes = {"model.dropout_rate": 0.1, "parallel.fsdp": 2, "parallel.data": -1}
    both = pair(flags(run, changes))
    wait_for(run / "checkpoints" / str(EVERY), both[0])
    for process in both:
        process.kill()
    ends.append([(process.communicate(), process.returncode) for process in both])
    both = pair(flags(run, changes))
    going_on = wait_for_line("going on", both[0])
    both[1].send_signal(signal.SIGTERM)
    ends.append([(process.communicate(), process.returncode) for process in both])
    alone = start("train", *flags(run))
    ends.append([(alone.communicate(), alone.returncode)])
    return run, ends, going_on


@pytest.mark.slow
def test_two_processes_go_on_from_their_checkpoint(lives):
    """A killed job would start again, or its processes disagree about where."""
    _, _, going_on = lives
    assert f"going on from the checkpoint of step {EVERY}" in going_on


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(lives):
    """The scheduler tells one of them: the others would wait for it for ever, or write no checkpoint."""
    run, (_, stopped, _), _ = lives
    errors = [error for (_, error), _ in stopped]
    assert [code for _, code in stopped] == [75, 75], errors
    lines = [[line for line in error.splitlines() if line.startswith("stopped after step")] for error in errors]
    assert lines[0] == lines[1] != []
    step = lines[0][0].split()[3]
    assert lines[0] == [f"stopped after step {step} of {LAST}, whose checkpoint is kept; the same command goes on"]


@pytest.mark.slow
def test_one_process_finishes_what_two_began(lives):
    """A run would be bound to the machines that it began on."""
    _, (_, stopped, (((output, error), code),)), _ = lives
    assert code == 0, error
    step = next(line for line in stopped[0][0][1].splitlines() if line.startswith("stopped")).split()[3]
    assert f"going on from the checkpoint of step {step}" in output


@pytest.mark.slow
def test_processes_come_and_go_without_a_trace(lives, trained):
    """The data would be another after a change, or the sums be taken over other rows: only rounding may differ."""
    run, _, _ = lives
    wanted, found = arrays_of(trained[0]), arrays_of(run)
    # A softmax does not see its keys' bias: the gradient is rounding, which Adam makes as large as any.
    for name in [name for name in wanted if not name.endswith("attention.b_k")]:
        # Of the array as a whole: which of its numbers Adam makes of rounding, the kind of processor decides.
        allowed = 2e-3 * np.linalg.norm(wanted[name]) + 2e-5 * np.sqrt(wanted[name].size)
        assert np.linalg.norm(found[name] - wanted[name]) <= allowed, name
    losses = losses_of(trained[0])
    assert losses_of(run).keys() == losses.keys()
    np.testing.assert_allclose(list(losses_of(run).values()), list(losses.values()), rtol=1e-4)


@pytest.mark.slow
def test_the_first_process_alone_speaks_and_writes(lives):
    """Every line and every row would be there twice."""
    _, ends, _ = lives
    outputs = [output.splitlines() for life in ends[:2] for (output, _), _ in life[1:]]
    assert [line for lines in outputs for line in lines if not line.startswith("[Gloo]")] == []


@pytest.fixture(scope="session", params=[2, 4])
def reported(request, place, trained, flags, pair):
    """A run that one process trained, whose report several made anew: it, and what became of each of them."""
    run = place / f"reported by {request.param}"
    shutil.copytree(trained[0], run)
    for folder in ("samples", "plots"):
        shutil.rmtree(run / folder)
    processes = pair(flags(run, {"parallel.fsdp": 2, "parallel.data": -1}), request.param)
    return run, [(process.communicate(), process.returncode) for process in processes]


@pytest.mark.slow
def test_several_processes_report_what_one_does(reported, trained):
    """Files would have the rows of the first process alone, or lines twice; only rounding may differ."""
    run, ends = reported
    assert [code for _, code in ends] == [0] * len(ends), ends
    assert (run / "samples/test.jsonl").read_bytes() == (trained[0] / "samples/test.jsonl").read_bytes()
    found, wanted = (
        json.loads((where / "samples/test_metrics.json").read_text("utf-8")) for where in (run, trained[0])
    )
    assert found.keys() == wanted.keys() and found["note"] == wanted["note"]
    for name in wanted.keys() - {"note"}:
        assert found[name] == pytest.approx(wanted[name], rel=1e-5), name
    assert {path.name for path in (trained[0] / "plots").iterdir()} - {
        path.name for path in (run / "plots").iterdir()
    } <= {"heads.png"}


@pytest.mark.slow
def test_of_several_processes_the_first_alone_reports(reported):
    """Every line of the report would be there twice."""
    _, ends = reported
    assert "test: BLEU" in ends[0][0][0]
    for (output, _), _ in ends[1:]:
        assert [line for line in output.splitlines() if not line.startswith("[Gloo]")] == []


# One process, and signals ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def interrupted(place, start, flags, command):
    """A training that gets SIGTERM after its first checkpoint, its end that gets SIGINT, and the end of that.

    Gives the run, what became of the two that were stopped, and of the last.
    """
    run = place / "interrupted"
    process = start("train", *flags(run))
    wait_for(run / "checkpoints" / str(EVERY), process)
    process.send_signal(signal.SIGTERM)
    stopped = [(process.communicate()[1], process.returncode)]
    process = start("train", *flags(run))
    wait_for_line("going on", process)
    process.send_signal(signal.SIGINT)
    stopped.append((process.communicate()[1], process.returncode))
    return run, stopped, command("train", *flags(run))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_in_a_checkpoint(interrupted, number):
    """A preempted run would lose what it did since its checkpoint, or look like a failure."""
    error, code = interrupted[1][number]
    assert code == 75, error
    line = error.splitlines()[-1]
    step = int(line.split()[3])
    assert line == f"stopped after step {step} of {LAST}, whose checkpoint is kept; the same command goes on"
    assert EVERY <= step < LAST


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_end(interrupted, trained):
    """A preempted run would go on from another step, or end elsewhere."""
    run, stopped, last = interrupted
    assert last.returncode == 0, last.stderr
    assert f"going on from the checkpoint of step {stopped[1][0].splitlines()[-1].split()[3]}" in last.stdout
    wanted, found = arrays_of(trained[0]), arrays_of(run)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert losses_of(run) == losses_of(trained[0])


@pytest.fixture(scope="session")
def taken(place, start, flags, command):
    """A long training: a second command on its run while it trains, its first answer to two signals, and its end."""
    run, long = place / "taken", {"training.steps": 100_000}
    process = start("train", *flags(run, long))
    wait_for(run / "checkpoints" / str(EVERY), process)
    second = command("train", *flags(run, long))
    process.send_signal(signal.SIGTERM)
    answer = process.stderr.readline()
    process.send_signal(signal.SIGSTOP)  # so that the second comes before the checkpoint is written
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.communicate()
    return run, process, second, answer


@pytest.mark.slow
def test_a_second_command_on_a_run_is_refused_while_the_first_trains(taken):
    """Two processes would write the same files, and each undo the other's checkpoints."""
    run, process, second, _ = taken
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith(f"error: {run} is in use: process {process.pid} on ")


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(taken):
    """A user who means it would have to wait for a step, or kill -9."""
    _, process, _, answer = taken
    assert answer == "SIGTERM: stopping after this step; send it again to stop at once\n"
    assert process.returncode == -signal.SIGINT


def test_a_mesh_that_the_machine_does_not_have_is_refused(place, here, flags):
    """It would end in a traceback."""
    result = here("train", *flags(place / "many", {"parallel.data": 3, "parallel.tensor": 5}))
    assert (result.returncode, result.stderr.count("Traceback")) == (1, 0)
    wanted = "error: parallel: data=3 x fsdp=1 x tensor=5 x sequence=1 needs 15 devices"
    assert result.stderr.splitlines()[-1].startswith(wanted)
