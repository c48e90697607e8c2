"""The cost of checkpoints: steps with one every so often, against the same number of steps without.

    python -m experiments.benchmark_checkpoints --config=experiments/configs/translation.py:tiny

The two take turns in one process, and the result is the median of the paired ratios: a machine's speed drifts, a
ratio does not. A checkpoint is written while the steps go on, as in training; its whole cost falls into its turn.
"""

import statistics
import tempfile
import time
from pathlib import Path

import jax

from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.experiment import Experiment

from . import cli
from .parsers import define_integer

EVERY = define_integer("every", 100, "Number of steps between checkpoints.")
ROUNDS = define_integer("rounds", 9, "Number of rounds; each measures both ways once.")


def main() -> None:
    experiment = Experiment.from_config(cli.config())
    with tempfile.TemporaryDirectory() as directory:
        batches = experiment.load_data(Path(directory)).train_batches(experiment.training.accumulate)
        trainer = experiment.trainer(experiment.restore_task(Path(directory)))
        placed, arrays = trainer.placed(batches), trainer.initial()

        def steps(arrays):
            began = time.perf_counter()
            for i in range(EVERY.value):
                arrays, metrics = trainer.step(arrays, placed.batch(i))
                jax.device_get(metrics)
            return arrays, time.perf_counter() - began

        arrays, _ = steps(arrays)
        ratios, saves = [], []
        with Checkpoints(Path(directory) / "checkpoints", CheckpointConfig(every=EVERY.value)) as checkpoints:
            for number in range(ROUNDS.value):
                arrays, without = steps(arrays)
                began = time.perf_counter()
                checkpoints.save(number + 1, arrays, {})
                saves.append(time.perf_counter() - began)
                arrays, with_checkpoint = steps(arrays)
                began = time.perf_counter()
                checkpoints.wait()
                ratios.append((saves[-1] + with_checkpoint + time.perf_counter() - began) / without)
                cli.say(f"{without:.3f} s without a checkpoint, {ratios[-1]:.4f} times that with one")
    size, share = sum(x.nbytes for x in arrays.values()) / 2**20, 100 * (statistics.median(ratios) - 1)
    cli.say(
        f"a checkpoint of {size:.1f} MiB every {EVERY.value} steps takes {share:.2f} % of their time (median of "
        f"{ROUNDS.value} rounds); training stands still for {1000 * statistics.median(saves):.1f} ms"
    )


if __name__ == "__main__":
    cli.run(main, "config")
