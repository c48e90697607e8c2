"""The cost of a member of a vectorised sweep, against training it alone, and of twice as many members.

    python -m experiments.benchmark_sweeps --config=experiments/configs/causal_lm.py:tiny --members=8

All take turns in one process, and the results are medians of paired ratios: a machine's speed drifts, a ratio does
not. Members differ in seed and learning rate; batches, and the numbers of every step, go to and from the host as in
training. How the members run is calibrated first, as a sweep does.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

from tformer_jax.sweeps.calibration import calibrate
from tformer_jax.sweeps.groups import MemberData
from tformer_jax.sweeps.members import make_members
from tformer_jax.sweeps.text import parse
from tformer_jax.sweeps.vectorized import Population
from tformer_jax.training.parallel import ParallelConfig

from . import cli
from .parsers import define_integer

MEMBERS = define_integer("members", 8, "Number of members trained together.", lowest=2)
STEPS = define_integer("steps", 10, "Number of steps per measurement.")
ROUNDS = define_integer("rounds", 9, "Number of rounds; each measures every way once.")


def main() -> None:
    config, count = cli.config(), MEMBERS.value
    text = f"zip(training.seed=0..{2 * count - 1}; optimizer.learning_rate=log(1e-4,1e-2,{2 * count}))"
    members = make_members(config, parse(text).members())
    with tempfile.TemporaryDirectory() as directory:
        data = MemberData(members, 0, Path(directory), fresh=True)
        task = members[0].experiment.restore_task(Path(directory))
        batches = data.batches(members[0].experiment.data.order_seed, members[0].experiment.training.accumulate)
        _, some = calibrate(members[:count], task, batches.batch(0), jax.local_devices(), cli.say)
        trainer = members[0].experiment.trainer(task, ParallelConfig(data=1))
        alone = _turns(trainer.step, trainer.placed(batches).batch, trainer.initial())
        turns = {"alone": alone, "some": _of(some, batches), "twice": _of(some.of(members), batches)}
        seconds = [{name: turn() for name, turn in turns.items()} for _ in range(ROUNDS.value + 1)][1:]
    device, step = jax.devices()[0].device_kind, 1000 / STEPS.value
    of_some = statistics.median(x["some"] / x["alone"] for x in seconds)
    twice = statistics.median(x["twice"] / x["some"] for x in seconds)
    cli.say(
        f"{device}, {len(jax.local_devices())} device(s): a step of one member alone takes "
        f"{step * statistics.median(x['alone'] for x in seconds):.1f} ms, one of {count} members together "
        f"{of_some:.2f} times that, {of_some / count:.3f} times per member; one of {2 * count} members takes "
        f"{twice:.3f} times the step of {count}"
    )


def _of(population: Population, batches) -> Callable[[], float]:
    return _turns(population.step, lambda i: [batches.batch(i)], population.initial({}))


def _turns(step: Callable, batch: Callable, arrays) -> Callable[[], float]:
    """A function that trains on for a turn and gives its seconds."""

    def turn() -> float:
        nonlocal arrays
        began = time.perf_counter()
        for i in range(STEPS.value):
            arrays, metrics = step(arrays, batch(i))
            jax.device_get(metrics)
        jax.block_until_ready(arrays)
        return time.perf_counter() - began

    return turn


if __name__ == "__main__":
    cli.run(main, "config")
