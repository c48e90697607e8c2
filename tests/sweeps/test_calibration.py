"""How members run is measured for a tenth of the sweep at most: with compilers and steps that only move a clock."""

import math
import types

import jax
import pytest
from recorded import Recorder

from tformer_jax.sweeps import calibration
from tformer_jax.sweeps.calibration import calibrate
from tformer_jax.sweeps.loop import Halving, _share

MEMBERS = 8
COMPILING = 20.0


@pytest.fixture
def machine(monkeypatch):
    """`machine(seconds)`: seconds of a member and step, by the size of a chunk; what was spent is `machine.spent`."""
    machine = types.SimpleNamespace(now=0.0, spent={}, needs={}, chunks=[])

    class Fake:
        """A population that takes time, and has nothing in it."""

        def __init__(self, members, task, devices, chunk, varying):
            self.members, self.size, self.width, self.device_count = list(members), chunk, len(members), 1
            self.orders = [None]
            machine.chunks.append(chunk)

        def initial(self, pretrained):
            return {}

        def step(self, states, batches):
            seconds = machine.seconds[self.size] * len(self.members)
            machine.now += seconds
            machine.spent[self.size] = machine.spent.get(self.size, 0.0) + seconds
            return states, None

    def compiles(population, batch):
        machine.now += COMPILING
        machine.spent[population.size] = machine.spent.get(population.size, 0.0) + COMPILING
        return machine.needs.get(population.size, 0)

    monkeypatch.setattr(calibration, "Population", Fake)
    monkeypatch.setattr(calibration, "_bytes", compiles)
    monkeypatch.setattr(calibration, "varying_numbers", lambda members: [])
    monkeypatch.setattr(calibration, "available_bytes", lambda device: 100)
    clock = types.SimpleNamespace(perf_counter=lambda: machine.now)
    monkeypatch.setattr(calibration, "time", clock)
    return machine


def choose(machine, seconds, steps, count=MEMBERS, **how):
    """The chunk that is chosen, what was said, and seconds that a sweep without calibration would not have spent."""
    machine.seconds, machine.spent, machine.chunks, said = seconds, {}, [], []
    member_steps = steps * count
    way, _ = calibrate(range(count), None, None, jax.devices()[:1], said.append, member_steps=member_steps, **how)
    return way.chunk, said[-1], sum(machine.spent.values()) - COMPILING


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 40, 100, 300, 1000, 3000, 10**6])
@pytest.mark.parametrize("second", [0.001, 0.01, 0.1, 1.0])
def test_calibration_costs_a_tenth_of_the_sweep_at_most(machine, steps, second):
    """A sweep of some minutes would be measured for minutes."""
    _, _, cost = choose(machine, {1: second, 4: second, MEMBERS: second}, steps)
    assert cost <= 0.1 * (COMPILING + steps * MEMBERS * second) + 1e-9


def test_a_long_sweep_tries_all_ways_and_takes_the_fastest(machine):
    """A sweep of hours would run in the way that is slowest; or in one that is faster by noise."""
    recorder = Recorder()
    chunk, said, _ = choose(machine, {1: 0.1, 4: 0.06, MEMBERS: 0.05}, 2000, progress=recorder)
    assert chunk == MEMBERS
    assert said == (
        "milliseconds per member and step: one after the other 100.0, in chunks of 4 60.0, all at once 50.0; "
        "members run all at once"
    )
    assert [phase.what for phase in recorder.phases] == [
        "compiling the step of 8 members, one after the other", "measuring how members run fastest",
        "compiling the step of 8 members, all at once", "compiling the step of 8 members, in chunks of 4",
        "measuring how members run fastest",
    ]  # fmt: skip
    assert all(phase.done == (phase.total or 0) for phase in recorder.phases)
    chunk, _, _ = choose(machine, {1: 0.1, 4: 0.1, MEMBERS: 0.095}, math.inf)
    assert chunk == 1


def test_a_sweep_of_some_minutes_tries_the_way_that_differs_most(machine):
    """All of the time would go into the way between, or nothing be tried at all."""
    chunk, said, _ = choose(machine, {1: 0.1, 4: 0.06, MEMBERS: 0.02}, 400)
    assert machine.chunks == [1, MEMBERS] and chunk == MEMBERS and "chunks of 4" not in said


def test_a_short_sweep_measures_nothing(machine):
    """A trial of two steps would compile three programs."""
    chunk, said, cost = choose(machine, {1: 0.1, 4: 0.06, MEMBERS: 0.01}, 2)
    assert (chunk, cost) == (1, 0.0)
    assert said == "members run one after the other: measuring other ways does not pay for 2 steps"
    _, said, _ = choose(machine, {1: 0.1, 4: 0.06, MEMBERS: 0.01}, 50)
    assert said.startswith("milliseconds per member and step: one after the other 100.0; members run so, because")


def test_a_way_that_does_not_fit_is_not_chosen(machine):
    """The fastest way would end a sweep for want of memory."""
    machine.needs = {MEMBERS: 101}
    assert choose(machine, {1: 0.1, 4: 0.06, MEMBERS: 0.01}, math.inf)[0] == 4


@pytest.mark.parametrize(
    ("members", "stages", "factor", "wanted"),
    [(8, [40], None, 1.0), (8, [10, 20, 40], 2, (8 * 10 + 4 * 10 + 2 * 20) / 320), (5, [1, 4], 2, (5 + 3 * 3) / 20)],
)
def test_halving_shortens_the_sweep_that_calibration_is_a_tenth_of(members, stages, factor, wanted):
    """A halving sweep would be measured for longer than it takes."""
    halving = factor and Halving(factor=factor, first_rung=stages[0])
    assert _share(members, stages, halving) == pytest.approx(wanted)
