"""A training step on a mesh of eight simulated devices, and what they send each other in it.

Below the table stands what each device computes, by formula and evenly shared, and the collectives that it runs, as the
compiled program has them (see `collectives`). Eight devices share the cores of one machine, so that times say nothing
of eight real ones: only of what the same mesh took before, or takes with `--peers=tformer_jax@FIELD=VALUE`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from . import Row, Work, train_step

_DEVICES = 8
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={_DEVICES}"}

_GPT = dict(task="causal_lm", d_model=256, layers=4, heads=8, rows=16, length=128, vocab_size=1024)
_MESHES = {
    "data": dict(data=8),
    "fsdp": dict(data=1, fsdp=8),
    "tensor": dict(data=1, tensor=8),
    "sequence": dict(data=1, sequence=8),
    "mixed": dict(data=2, fsdp=2, tensor=2),
}
ROWS = [Row(name, _GPT | dict(mesh=mesh)) for name, mesh in _MESHES.items()]


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    import jax

    from tformer_jax.nn.placement import row_sharding
    from tformer_jax.training.parallel import ParallelConfig
    from tformer_jax.training.trainer import Trainer

    from ..collectives import collectives

    *_, alone = train_step.product(settings, changes)
    trainer = Trainer(alone.program, ParallelConfig(**settings["mesh"]))
    batch = train_step.product_batch(settings)
    placed = jax.device_put(batch, {name: row_sharding(trainer.mesh, len(x)) for name, x in batch.items()})
    compiled, state = trainer.lower(batch).compile(), {"arrays": trainer.initial()}

    def turn() -> None:
        state["arrays"], metrics = compiled(state["arrays"], placed)
        jax.block_until_ready((state["arrays"], metrics))

    flops, count, unit = train_step.cost(settings)
    found = {"devices": trainer.mesh.size, "flops": 3 * flops, "collectives": collectives(compiled.as_text())}
    return Work(turn, count, unit, 3 * flops, compiled.memory_analysis().temp_size_in_bytes, notes=lambda: found)


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says what each device computes and sends, a sentence for each line of the project."""
    return [
        f"{line['row']}, {line['contender']}: each of {notes['devices']} devices computes "
        f"{notes['flops'] / notes['devices'] / 1e9:.3g} GFLOP and runs {_said(notes['collectives'])}"
        for line in lines
        if (notes := line["notes"])
    ]


def _said(found: Mapping[str, tuple[int, int]]) -> str:
    each = (f"{count} {kind} of {size / 2**20:.3g} MiB" for kind, (count, size) in found.items())
    return ", ".join(each) or "no collective"
