"""The cost of an experiment, before it is paid: the step is compiled for a mesh and nothing is allocated.

    python -m experiments.inspect --config=experiments/configs/causal_lm.py:gpt2 --mesh=data=64,tensor=4

On a machine without an accelerator, as many devices are simulated as the mesh has: parameters, optimiser and
FLOPs are what they are anywhere; temporaries are those of a CPU's program, which an accelerator's differs from. Batches
are the largest that the data's config allows; a vocabulary or a number of classes that only the data tells is a guess.
"""

import dataclasses
import math
import re

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from tformer_jax.analysis.flops import TRAINING, Cost
from tformer_jax.analysis.peaks import PEAKS
from tformer_jax.config import RUN, ConfigError, build, check_positive, fields_of, merged, plain_kinds
from tformer_jax.tasks import Task
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.parallel import AXES, ParallelConfig
from tformer_jax.training.sharding import bytes_per_device, split_over
from tformer_jax.training.trainer import Trainer

from . import cli
from .parsers import define_number, define_switch, define_text

MESH = define_text("mesh", None, "Mesh sizes, such as data=64,tensor=4; by default those of config.parallel.")
MFU = define_number("mfu", 0.4, "Model FLOPs utilisation to assume: the share of the peak that a step reaches.")
DEVICE = define_text("device", "h100", "Device whose peak the step time assumes.")
PEAK = define_number("peak_tflops", None, "Peak in TFLOP/s of a device that --device does not know.")
TOTALS_ONLY = define_switch("totals_only", "Leave out the table of parameters.")

_MOST_DEVICES = 2048
# A million times what the fastest device reaches; beyond it, a step would take no time.
_MOST_TFLOPS, _LEAST = 1e9, 1e-9


def main() -> None:
    experiment = Experiment.from_config(cli.config())
    parallel = _mesh(MESH.value) if MESH.value else dataclasses.replace(experiment.parallel, mode="jit")
    peak = _peak()
    _simulate(parallel)
    cli.say(*experiment.remarks)
    task = experiment.planned_task()
    with cli.terminal.phase("laying out the parameters"):
        trainer = experiment.trainer(task, parallel)
    batch = experiment.largest_batch()
    if not TOTALS_ONLY.value:
        _print_parameters(trainer)
    _print_totals(experiment, task, trainer, batch, peak)


def _mesh(text: str) -> ParallelConfig:
    """Parses a mesh such as "data=64,tensor=4"; axes that are left out have size 1."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in AXES or not re.fullmatch("-?[0-9]{1,9}", size):
            raise ConfigError(f"--mesh must be like data=64,tensor=4 with axes of {', '.join(AXES)}, got {text!r}")
        if name in sizes:
            raise ConfigError(f"--mesh has the axis {name} twice, got {text!r}")
        sizes[name] = int(size)
    return build(ParallelConfig, dict.fromkeys(AXES, 1) | sizes, "parallel")


def _peak() -> float:
    """FLOP/s of one device."""
    if PEAK.value is not None and flags.FLAGS["device"].present:
        raise ConfigError(
            "give --device or --peak_tflops, not both: the second is for a device that the first does not know"
        )
    if PEAK.value is None and DEVICE.value.lower() not in PEAKS:
        raise ConfigError(f"--device must be one of {', '.join(PEAKS)}, got {DEVICE.value!r}; or give --peak_tflops")
    peak = PEAKS[DEVICE.value.lower()] if PEAK.value is None else PEAK.value
    for name, value, most in (("peak_tflops", peak, _MOST_TFLOPS), ("mfu", MFU.value, 1)):
        check_positive(f"--{name}", value)
        if not _LEAST <= value <= most:
            raise ConfigError(f"--{name} must be from {_LEAST:g} to {most:g}, got {value:g}")
    return 1e12 * peak


def _simulate(parallel: ParallelConfig) -> None:
    """Prepares JAX to compile for a mesh larger than this machine, before it looks for devices."""
    sizes = [getattr(parallel, name) for name in AXES]
    if -1 in sizes:
        return
    if (count := math.prod(sizes)) > _MOST_DEVICES:
        raise ConfigError(f"a mesh of at most {_MOST_DEVICES:,} devices can be simulated, got {count:,}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def _print_parameters(trainer: Trainer) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("parameter", "shape", "count", "split over"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for path in trainer.layout.parameters:
        shape = trainer.layout.shapes[f"model.{path}"].shape
        spec = ", ".join(" ".join(axes) or "-" for axes in split_over(trainer.shardings[f"model.{path}"].spec))
        table.add_row(path, " ".join(map(str, shape)), f"{math.prod(shape):,}", spec)
    Console(width=140).print(table)
    cli.say("")


def _print_totals(experiment: Experiment, task: Task, trainer: Trainer, batch: dict, peak: float) -> None:
    devices, shapes = trainer.mesh.size, trainer.layout.shapes
    cost = task.cost(experiment.model_config(task.model_fields), batch)
    with cli.terminal.phase("counting operations"):
        counted = counted_flops(experiment, task, batch)
    with cli.terminal.phase("compiling the step"):
        memory = trainer.lower(batch).compile().memory_analysis()
    rows = next(iter(batch.values())).shape[0]
    forward, count, unit = cost or Cost(round(counted / TRAINING), rows, "row")
    adapted = experiment.training.adapter != "none"
    by_formula = cost and not adapted  # of an adapter alone, most matrices have no gradient, which the formula counts
    analytic = TRAINING * forward if by_formula else counted
    step, each = (f"{x:.4g} by formula, " if by_formula else "" for x in (analytic, analytic / count))
    parts = ("model", "adapter", "optimizer", "average")
    held = {name: bytes_per_device(shapes, trainer.shardings, f"{name}.") for name in parts}
    of_adapter = f"{trainer.trained_count:,} parameters, which alone are trained, {_bytes(held['adapter'])} a device"
    seconds = analytic / (devices * peak * MFU.value)
    sizes = ", ".join(f"{name} {size}" for name, size in trainer.mesh.shape.items())
    arrays = ", ".join(f"{name} {list(x.shape)}" for name, x in batch.items())
    cli.say(
        f"mesh                   {devices} device(s): {sizes}",
        f"batch                  {arrays}",
        f"parameters             {trainer.parameter_count:,}",
        *([f"adapter                {of_adapter}"] if adapted else []),
        f"FLOPs per step         {step}{counted:.4g} counted by the compiler",
        f"FLOPs per {unit:12} {each}{counted / count:.4g} counted",
        f"bytes a device         parameters {_bytes(held['model'])}, optimizer {_bytes(held['optimizer'])}, "
        f"average {_bytes(held['average'])}, temporaries {_bytes(memory.temp_size_in_bytes)}",
        f"step time              {seconds:.4g} s at an MFU of {MFU.value} and {peak / 1e12:g} TFLOP/s a device; "
        f"{count / seconds:,.0f} {unit}s/s",
        *trainer.idle([rows]),
    )


def counted_flops(experiment: Experiment, task: Task, batch: dict[str, jax.ShapeDtypeStruct]) -> float:
    """The compiler's own count for the same step on one device, before it optimises.

    It counts the body of a loop once, so layers are unrolled and what is computed in chunks is not; and
    nothing is computed twice to save memory.
    """
    layers = experiment.model_config(task.model_fields)
    most = max(layers.num_layers, getattr(layers, "decoder_layers", 0))
    plainly = {"scan_unroll": most, "remat": "none", "attention": {"implementation": "reference"}}
    model = merged(type(layers), experiment.model, plainly)
    training = dataclasses.replace(experiment.training, accumulate=1)
    fields = fields_of(type(experiment.task))
    switches = [name for name, hint, kind in fields if kind.part == RUN and bool in (plain_kinds(hint) or ())]
    plain_task = experiment.task.changed(**dict.fromkeys(switches, False))
    plain = dataclasses.replace(experiment, model=model, training=training, task=plain_task)
    return plain.trainer(plain.planned_task(), ParallelConfig(data=1)).lower(batch).cost_analysis()["flops"]


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.4g} {unit}"
        count /= 1024


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, "config", optional=("plugin",))


if __name__ == "__main__":
    run()
