"""The cost of a member of a vectorised sweep, against training it alone, and of twice as many members.

Members differ in seed and learning rate; batches, and the numbers of every step, go to and from the host as in
training. How the members run is calibrated first, for the first eight, as a sweep does. Data are those of the preset,
which fetches them.
"""

import itertools
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..turns import PROJECT
from . import Row, Work, scratch

_TASKS = ("causal_lm", "translation", "masked_lm", "text_classification", "image_classification")
_MEMBERS, _FEW, _MANY = "members", 8, 16
ROWS = [
    Row(task, dict(preset=f"{task}:tiny", steps=10), ways=tuple(f"{PROJECT}@{_MEMBERS}={n}" for n in (_FEW, _MANY)))
    for task in _TASKS
]
_BY_DEFAULT = ["causal_lm"]
# Those that differ in the number of members alone.
_COMPARED = re.compile(rf"{PROJECT}(@{_MEMBERS}=\d+)?")


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in (names or _BY_DEFAULT)]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    import jax

    from tformer_jax.sweeps.calibration import calibrate
    from tformer_jax.sweeps.groups import MemberData
    from tformer_jax.sweeps.members import make_members
    from tformer_jax.sweeps.text import parse
    from tformer_jax.training.parallel import ParallelConfig

    from ..presets import config_of

    fields = {name: value for name, value in changes.items() if name != _MEMBERS}
    count, most = changes.get(_MEMBERS), max(_MANY, changes.get(_MEMBERS, 1))
    space = f"zip(training.seed=0..{most - 1}; optimizer.learning_rate=log(1e-4,1e-2,{most}))"
    members = make_members(config_of(settings["preset"], fields), parse(space).members())
    folder, first, said = scratch(), members[0].experiment, []
    data = MemberData(members, 0, folder, fresh=True)
    task = first.restore_task(folder)
    batches = data.batches(first.data.order_seed, first.training.accumulate)
    if count is None:
        trainer = first.trainer(task, ParallelConfig(data=1))
        turn = _turn(trainer.step, trainer.placed(batches).batch, trainer.initial(), settings["steps"])
    else:
        _, some = calibrate(members[:_FEW], task, batches.batch(0), jax.local_devices(), said.append)
        population = some.of(members[:count])
        turn = _turn(population.step, lambda i: [batches.batch(i)], population.initial({}), settings["steps"])
    notes = {"members": count or 1, "steps": settings["steps"], "calibration": said}
    return Work(turn, (count or 1) * settings["steps"], "member steps", notes=lambda: notes)


def _turn(step: Callable, batch: Callable, arrays: Any, steps: int) -> Callable[[], None]:
    """A function that trains on for some steps."""
    import jax

    def turn() -> None:
        nonlocal arrays
        for i in range(steps):
            arrays, metrics = step(arrays, batch(i))
            jax.device_get(metrics)
        jax.block_until_ready(arrays)

    return turn


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says what members cost, a sentence for each row."""
    said = []
    for row in dict.fromkeys(line["row"] for line in lines):
        of_row = [line for line in lines if line["row"] == row and _COMPARED.fullmatch(line["contender"])]
        of_row.sort(key=lambda line: line["notes"]["members"])
        if len(of_row) > 1 and of_row[0]["notes"]["members"] == 1:
            said.append(f"{row}: {_sentence(of_row)}")
    return said


def _sentence(of_row: Sequence[Mapping[str, Any]]) -> str:
    """Says what each number of members costs against the number before, by the medians of the ratios of one round."""
    parts = [f"a step of one member alone takes {of_row[0]['milliseconds'] / of_row[0]['notes']['steps']:.1f} ms"]
    for before, line in itertools.pairwise(of_row):
        ratio = statistics.median(x / y for x, y in zip(line["seconds"], before["seconds"], strict=True))
        count, less = line["notes"]["members"], before["notes"]["members"]
        what = f"one of {count} members together {ratio:.3g} times that of {less}"
        parts.append(what + (f", {ratio / count:.3f} times per member" if less == 1 else ""))
    return "; ".join(parts)
