"""What the suites of the benchmark do and say, without the processes of contenders."""

import importlib
import json
import pkgutil
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P

from experiments.benchmark import fits, suites
from experiments.benchmark.collectives import collectives, size_of
from experiments.benchmark.data import SOURCE
from experiments.benchmark.picture import draw_ratios
from experiments.benchmark.presets import config_of
from experiments.benchmark.report import lines
from experiments.benchmark.suites import (
    Row,
    checkpoints,
    growth,
    input as reading,
    loading,
    plans,
    scaling,
    startup,
    sweeps,
    train_step,
)
from experiments.benchmark.turns import CEILING, PROJECT, Times
from tformer_jax.data.pixels import read_image

FACTS = {"count": 10, "unit": "steps", "flops": 1.0, "predicted": None}
SMALL = {
    "model.d_model": 16, "model.num_layers": 1, "model.attention.num_heads": 2, "model.feed_forward.width": 16,
    "data.source": SOURCE, "data.vocab_size": 400,
}  # fmt: skip
FEW_DOCUMENTS = SMALL | {"data.source_options": "count=20"}


def times(name, *seconds, **notes):
    return Times(name, list(seconds), 0.0, 0, FACTS, notes)


def settings_of(suite, name):
    return next(row.settings for row in suite.ROWS if row.name == name)


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(suites.__path__)])
def test_rows_have_names_of_their_own_and_some_are_measured_by_default(name):
    """A row could not be asked for, or a suite would measure nothing."""
    suite = importlib.import_module(f"experiments.benchmark.suites.{name}")
    names = [row.name for row in suite.ROWS]
    assert len(set(names)) == len(names) and suite.rows([])
    assert suite.rows(names[-1:]) == suite.ROWS[-1:]


def test_a_line_is_that_of_least_squares():
    """The cost of a layer, or what a step costs without any, would be another one."""
    x, y = np.array([2.0, 4, 8, 12, 16, 24]), np.array([30.0, 44, 81, 110, 152, 221])
    slope, start = np.polyfit(x, y, 1)
    r2 = 1 - ((y - start - slope * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    np.testing.assert_allclose(fits.line(list(zip(x, y, strict=True))), (start, slope, r2), rtol=1e-12)


def test_a_power_law_is_that_of_least_squares_of_logarithms():
    """The exponent would be of another law, or weighted by the longest rows."""
    x, y = np.array([4096.0, 8192, 16_384]), np.array([1.7, 6.1, 26.0])
    assert fits.power(list(zip(x, y, strict=True))).slope == pytest.approx(np.polyfit(np.log(x), np.log(y), 1)[0])
    assert fits.power([(t, 3 * t**1.5) for t in x]).slope == pytest.approx(1.5)


def test_growth_is_said_of_each_contender_with_enough_rows():
    """The ceiling would be fitted, or a line drawn through two points."""
    rows = [Row(f"depth-{depth}", {}) for depth in (2, 4, 8)]
    found = [
        line
        for row, depth in zip(rows, (2, 4, 8), strict=True)
        for line in lines(row, [times(CEILING, 1.0), times(PROJECT, 0.010 + 0.005 * depth)])
    ]
    found += lines(Row("length-4096", {}), [times(PROJECT, 1.0)])
    assert growth.summary(found) == ["tformer_jax by depth: 10 + 5 * depth milliseconds, R² 1.0000"]
    found += [line for T in (8192, 16_384) for line in lines(Row(f"length-{T}", {}), [times(PROJECT, (T / 4096) ** 2)])]
    assert (
        growth.summary(found)[1] == "tformer_jax by length: time grows as length ** 2.00, R² 1.0000 of the logarithms"
    )


def mapped(function):
    """The text of a program of eight devices with 1,024 float32 numbers each."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    spread = jax.shard_map(function, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=False)
    return jax.jit(spread).lower(jnp.zeros(8 * 1024)).compile().as_text()


RING = [(i, (i + 1) % 8) for i in range(8)]
KNOWN = {
    "a sum": (lambda x: lax.psum(x, "d"), {"all-reduce": (1, 4096)}),
    "a gathering": (lambda x: lax.all_gather(x, "d", tiled=True), {"all-gather": (1, 8 * 4096)}),
    "a scattered sum": (lambda x: lax.psum_scatter(x, "d", tiled=True), {"reduce-scatter": (1, 4096)}),
    "a shift": (lambda x: lax.ppermute(x, "d", RING), {"collective-permute": (1, 4096)}),
    "an exchange": (lambda x: lax.all_to_all(x.reshape(8, 128), "d", 0, 0).reshape(-1), {"all-to-all": (1, 4096)}),
    "a loop": (lambda x: lax.fori_loop(0, 5, lambda i, x: lax.psum(x, "d") / 8, x), {"all-reduce": (5, 5 * 4096)}),
    "several": (
        lambda x: lax.psum(lax.ppermute(x[:512], "d", RING), "d") + lax.ppermute(x[512:], "d", RING),
        {"all-reduce": (1, 2048), "collective-permute": (2, 4096)},
    ),
    "nothing": (lambda x: 2 * x, {}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_collectives_are_those_of_the_formula(name):
    """A loop would count once, a result as large as its part, a program without any as one with some."""
    function, expected = KNOWN[name]
    assert collectives(mapped(function)) == expected


ASYNCHRONOUS = """HloModule jit_f, is_scheduled=true, num_partitions=4

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%exchange (p: bf16[8,2]) -> bf16[8,2] {
  %p = bf16[8,2]{1,0} parameter(0)
  ROOT %all-to-all.1 = bf16[8,2]{1,0} all-to-all(%p), channel_id=5, replica_groups=[1,4]<=[4], dimensions={0}
}

ENTRY %main (a: f32[4], b: bf16[8,2], c: s8[3]) -> f32[16] {
  %a = f32[4]{0:T(256)} parameter(0)
  %b = bf16[8,2]{1,0:T(8,128)(2,1)} parameter(1)
  %c = s8[3]{0} parameter(2)
  %g = (f32[4]{0:T(256)}, f32[16]{0:T(256)}) all-gather-start(%a), channel_id=1, replica_groups={}, dimensions={0}
  %g2 = ((f32[4]{0}, s8[3]{0}), (f32[16]{0}, /*index=1*/s8[12]{0})) all-gather-start(%a, %c), channel_id=2, dimensions={0}
  %r = (f32[4]{0}, s8[3]{0}) all-reduce-start(%a, %c), channel_id=3, replica_groups=[1,4]<=[4], to_apply=%add
  %p = (bf16[8,2]{1,0}, bf16[8,2]{1,0}, u32[], u32[]) collective-permute-start(%b), source_target_pairs={{0,1},{1,0}}
  %e = ((bf16[8,2]{1,0}), bf16[8,2]{1,0}) async-start(%b), calls=%exchange
  %e.1 = bf16[8,2]{1,0} async-done(%e), calls=%exchange
  %p.1 = bf16[8,2]{1,0} collective-permute-done(%p)
  %r.1 = (f32[4]{0}, s8[3]{0}) all-reduce-done(%r)
  ROOT %g.1 = f32[16]{0} all-gather-done(%g), metadata={op_name="not an all-reduce(%a)"}
}
"""


def test_collectives_that_run_beside_others_count_once():
    """What is started and what is done would be two, or what goes in and what comes out be added."""
    assert collectives(ASYNCHRONOUS) == {
        "all-reduce": (1, 16 + 3), "all-gather": (2, 64 + 64 + 12), "all-to-all": (1, 32), "collective-permute": (1, 32),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[4,2]{1,0}", 32),
        ("(bf16[3], pred[])", 7),
        ("f8e4m3fn[5]", 5),
        ("s4[6]", 3),
        ("c64[<=2,2]", 32),
        ("token[]", 0),
    ],
)
def test_sizes_are_those_of_the_dtypes(shape, size):
    """Bytes of half precision, or of complex numbers, would be counted as others."""
    assert size_of(shape) == size


def test_devices_that_share_rows_add_their_gradients_once():
    """The bytes of a step would not be those of all gradients, and of its few numbers."""
    small = dict(task="causal_lm", d_model=16, layers=2, heads=2, rows=8, length=16, vocab_size=32)
    work = scaling.prepare(small | dict(mesh=dict(data=8)), PROJECT, {})
    work.turn()
    *_, trainer = train_step.product(small, {})
    found = work.notes()
    (kind, (_, size)), devices = *found["collectives"].items(), found["devices"]
    # The table is used twice, for tokens and for logits, and has two gradients; the last position is not used.
    gradients = trainer.parameter_count + 32 * 16 - 16
    assert kind == "all-reduce" and 0 <= size - 4 * gradients < 100 and devices == 8
    (sentence,) = scaling.summary(lines(Row("data", {}), [times(PROJECT, 1.0, **json.loads(json.dumps(found)))]))
    assert re.fullmatch(
        r"data, tformer_jax: each of 8 devices computes \S+ GFLOP and runs \d+ all-reduce of \S+ MiB", sentence
    )


@pytest.mark.parametrize("name", ["packed", "buckets", "labelled-buckets", "windows", "pieces"])
def test_batches_of_tokens_are_read_and_counted(name):
    """Batches of a task could not be made, or an epoch would hold nothing."""
    settings = settings_of(reading, name)
    fewer = {"data.validation_size": 100, "data.test_size": 100, "data.source_options": "count=2500"}
    few = {"data.source_options": "count=4"} if name in ("windows", "pieces") else fewer
    work = reading.prepare(settings, PROJECT, few | {"data.vocab_size": 500})
    work.turn(), work.turn()
    json.dumps(work.count)
    assert work.count > 5000 and work.unit == "tokens"


def test_batches_of_pictures_are_read_and_counted():
    """An epoch of 400 pictures has six whole batches of 64, from memory and from files."""
    held_out = {"data.validation_size": 50, "data.test_size": 50, "data.source_options": "count=500"}
    work = reading.prepare(settings_of(reading, "pictures"), PROJECT, held_out)
    work.turn()
    assert (work.count, work.unit) == (6 * 64, "images")
    settings = settings_of(reading, "pictures-files") | dict(pixels=12, each=50)
    work = reading.prepare(settings, PROJECT, {"data.image_size": 16, "data.batch_size": 64})
    work.turn()
    assert (work.count, work.unit) == (6 * 64, "images")


@pytest.mark.parametrize("name", ["buckets", "packed"])
def test_plans_say_how_much_is_padding(name):
    """A plan could be made fast by leaving rows half empty, and nobody would see it."""
    work = plans.prepare(settings_of(plans, name) | {"pairs": 3000}, PROJECT, {})
    work.turn()
    notes = json.loads(json.dumps(work.notes()))
    assert (work.count, work.unit) == (3000, "pairs") and 0 < notes["padding"] < 0.5
    (sentence,) = plans.summary(lines(Row(name, {}), [times(PROJECT, 1.0, **notes)]))
    assert re.fullmatch(rf"{name}, tformer_jax: \d+\.\d % padding", sentence)


def test_lengths_of_plans_are_those_that_are_said():
    """Plans would be of longer or shorter pairs than the suite says, or of sides that have nothing to do with another."""
    found = plans.lengths(100_000, 256)
    np.testing.assert_allclose(found.mean(1), 28, atol=0.3)
    np.testing.assert_allclose(found.std(1), 15, atol=0.5)
    assert np.corrcoef(np.log(found))[0, 1] == pytest.approx(0.9, abs=0.02)
    assert found.min() >= 1 and found.max() <= 256


@pytest.fixture
def torch_pictures(monkeypatch):
    """The peer, of which the loader is left out; and a list of what it would be given."""
    torch, given = pytest.importorskip("torch"), []
    from experiments.benchmark.peers import torch_pictures

    monkeypatch.setattr(torch.utils.data, "DataLoader", lambda pictures, rows, **how: given.append(pictures) or [])
    return torch_pictures, given


@pytest.mark.parametrize(("how", "difference"), [("", 0.5), (".uint8", 0.5), (".bilinear", 6)])
def test_torch_makes_the_same_pictures(torch_pictures, how, difference):
    """The peer would be faster because it makes other ones, on average by so much of 255 than ours."""
    peer, given = torch_pictures
    work = reading.prepare(settings_of(reading, "jpeg") | dict(pictures=4, rows=2, image_size=150), f"torch{how}", {})
    assert (work.count, work.unit, len(given[0])) == (4, "images", 4)
    found = given[0][3].numpy().astype(float)
    if how != ".uint8":
        mean, std = (np.reshape(numbers, (3, 1, 1)) for numbers in (peer._MEAN, peer._STD))
        found = (found * std + mean) * 255
    assert np.abs(found - read_image(given[0].files[3], 150, 3).transpose(2, 0, 1)).mean() < difference


@pytest.mark.parametrize("how", ["", ".uint8", ".bilinear"])
def test_torch_makes_as_large_crops(torch_pictures, how):
    """The peer would be faster because its pictures are smaller."""
    _, given = torch_pictures
    reading.prepare(settings_of(reading, "jpeg-crops") | dict(pictures=2, rows=2, image_size=40), f"torch{how}", {})
    assert given[0][1].shape == (3, 40, 40) and given[0].crop_area == 0.08


@pytest.mark.parametrize("name", ["jpeg", "jpeg-crops"])
def test_jpegs_are_read_and_counted(name):
    """An epoch of five pictures has two batches of two; a row would measure something else."""
    settings = settings_of(reading, name) | dict(pictures=5, rows=2, image_size=24)
    work = reading.prepare(settings, PROJECT, {})
    work.turn()
    assert (work.count, work.unit) == (4, "images")


def test_padding_does_not_count():
    """A suite with more padding would be faster."""
    batch = {
        "source": np.array([[5, 6, 0], [7, 0, 0]]),
        "target": np.array([[8, 0]]),
        "source_lengths": np.array([2, 1]),
    }
    assert reading.counted([batch, batch]) == (8, "tokens")
    assert reading.counted([{"images": np.zeros((3, 2, 2, 1)), "labels": np.array([4, 0, -1])}]) == (2, "images")


@pytest.mark.slow
def test_a_command_starts_and_is_ended_at_its_first_step():
    """A turn would measure a failure, or all that comes after the first step."""
    work = startup.prepare(settings_of(startup, "cold"), PROJECT, {"model.d_model": 16, "model.feed_forward.width": 16})
    work.turn()
    assert work.peak() > 100 * 2**20


@pytest.mark.slow
def test_a_short_run_goes_to_its_end(monkeypatch, tmp_path):
    """The report, or the last checkpoint, would not be in its time."""
    monkeypatch.setattr(startup, "scratch", lambda: tmp_path)
    work = startup.prepare(
        settings_of(startup, "short"), PROJECT, {"model.d_model": 16, "model.feed_forward.width": 16}
    )
    work.turn()
    (checkpoint,) = tmp_path.glob("turn 0/run/checkpoints/[0-9]*")
    assert checkpoint.name == "2"
    assert "plots and checkpoints are in" in (tmp_path / "turn 0" / "said").read_text()


def test_a_command_that_fails_is_said(tmp_path):
    """A refused command would be the fastest."""
    with pytest.raises(RuntimeError, match="data.path"):
        startup.run(tmp_path / "run", {"data.source": "files"}, "off", "none", until_first_step=True)


@pytest.mark.parametrize("changes", [{}, {"checkpoint": ""}], ids=["without", "with"])
def test_steps_with_and_without_a_checkpoint(changes):
    """The base would save, or the other one not."""
    settings = dict(preset="causal_lm:tiny", steps=2)
    work = checkpoints.prepare(settings, PROJECT, changes | FEW_DOCUMENTS)
    work.turn(), work.turn()
    notes = json.loads(json.dumps(work.notes()))
    assert (notes["stands still"] is not None) == bool(changes) and notes["bytes"] > 3 * 4 * 400 * 16


def test_the_cost_of_a_checkpoint_is_said():
    """The share would be of another ratio than that of rounds."""
    notes = {"steps": 100, "bytes": 2**20}
    base = times(PROJECT, 1.0, 2.0, 4.0, **notes, **{"stands still": None})
    other = times("tformer_jax@checkpoint", 1.02, 2.08, 4.12, **notes, **{"stands still": 0.025})
    assert checkpoints.summary(lines(Row("translation-100", {}), [base, other])) == [
        "translation-100, tformer_jax@checkpoint: a checkpoint of 1.0 MiB every 100 steps takes 3.00 % of their time "
        "(median of 3 rounds); training stands still for 25.0 ms"
    ]


def test_steps_that_are_logged(monkeypatch, tmp_path):
    """Logging would cost nothing because nothing is logged."""
    monkeypatch.setattr(checkpoints, "scratch", lambda: tmp_path)
    changes = FEW_DOCUMENTS | {"logging": "", "training.log_every": 2}
    work = checkpoints.prepare(dict(preset="causal_lm:tiny", steps=3), PROJECT, changes)
    work.turn(), work.turn()
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6] and rows[0].keys() > {"loss", "mean_loss", "seconds"}
    assert list((tmp_path / "tensorboard").iterdir())
    assert work.notes()["steps"] == 6 and work.notes()["logging"] > 0


def test_the_cost_of_logging_is_said():
    """The share would be of another ratio than that of rounds."""
    base, other = times(PROJECT, 1.0, 2.0, 4.0), times("tformer_jax@logging", 1.01, 2.01, 4.04, steps=9, logging=12e-6)
    assert checkpoints.summary(lines(Row("vision", {}), [base, other])) == [
        "vision, tformer_jax@logging: logging takes 1.00 % of the steps' time (median of 3 rounds), by itself 12 "
        "microseconds a step"
    ]


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}], ids=["as it is", "cast"])
def test_a_checkpoint_is_written_and_loaded(changes):
    """The files would be of another model, or of one shard, or nothing be loaded."""
    small = dict(hidden_size=32, num_hidden_layers=2, intermediate_size=24, vocab_size=100)
    settings = settings_of(loading, "llama-touched")
    settings = settings | dict(config=settings["config"] | small, shard_bytes=10_000)
    work = loading.prepare(settings, PROJECT, changes)
    work.turn(), work.turn()
    notes = json.loads(json.dumps(work.notes()))
    assert notes["first"] > 0 and notes["bytes"] > 4 * 2 * (100 * 32 + 3 * 32 * 24) and notes["peak"] == work.peak()


def test_the_memory_of_loading_is_said():
    """The share would be of another size than that of the files."""
    notes = {"first": 0.25, "bytes": 2**20, "peak": 3 * 2**19}
    found = lines(Row("gpt2", {}), [times(CEILING, 1.0), times(PROJECT, 1.0, **notes)])
    assert loading.summary(found) == [
        "gpt2, tformer_jax: the first time 250 ms; at most 2 MiB of memory, 1.50 times the files' 1 MiB"
    ]


@pytest.mark.parametrize("changes", [{}, {"members": 16}], ids=["alone", "together"])
def test_members_train(changes):
    """One member would train as a sweep of one, or sixteen as eight."""
    work = sweeps.prepare(dict(preset="causal_lm:tiny", steps=1), PROJECT, changes | FEW_DOCUMENTS)
    work.turn()
    assert work.count == work.notes()["members"] == changes.get("members", 1)


def test_the_cost_of_members_is_said():
    """Ratios would be of medians, or sixteen members be held against one."""
    some = [
        times(PROJECT, 1.0, 2.0, 4.0, members=1, steps=10),
        times("tformer_jax@members=8", 6.0, 12.0, 28.0, members=8, steps=10),
        times("tformer_jax@members=16", 12.0, 36.0, 56.0, members=16, steps=10),
        times("tformer_jax@model.d_model=64", 1.0, 1.0, 1.0, members=1, steps=10),
    ]
    assert sweeps.summary(lines(Row("causal_lm", {}), some)) == [
        "causal_lm: a step of one member alone takes 200.0 ms; one of 8 members together 6 times that of 1, 0.750 times "
        "per member; one of 16 members together 2 times that of 8"
    ]
    assert not sweeps.summary(lines(Row("causal_lm", {}), some[:1]))


def test_changes_reach_the_config():
    """A contender would be measured as it was."""
    config = config_of("causal_lm:tiny", {"model.attention.num_heads": 2, "data.row_length": 64, "precision": "x"})
    assert config["model"]["attention"]["num_heads"] == 2 and config["data"]["row_length"] == 64
    assert config["precision"] == "x" and config["model"]["d_model"] == 128


def test_ratios_are_drawn(tmp_path):
    """Rows, or contenders, would be left out, or a row that lacks one of them end in an error."""
    base = times(PROJECT, 1.0, 1.0, 1.0)
    found = lines(Row("long", {}), [base, times("torch", 0.9, 1.1, 1.0), times("flax", 2.0, 3.0, 20.0)])
    found += lines(Row("short", {}), [base, times("torch", 0.5, 0.4, 0.6)])
    draw_ratios([line for line in found if line["contender"] != PROJECT], tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
