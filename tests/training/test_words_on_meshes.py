"""Vocabularies of any size on any mesh: the numbers of one device, on each device its part, everywhere V rows."""

import dataclasses
import functools
import itertools
import math
import re

import jax
import numpy as np
import pytest
from support import by_day, optimizer_config, tiny_config, unchecked_annotations

from tformer_jax import interop, models, tasks
from tformer_jax.data import tokenizers
from tformer_jax.data.translation import Tokenizers
from tformer_jax.nn import parametrization
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.parallel import ParallelConfig
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.trainer import Trainer

# Primes: of the target, of the source, and one that there are fewer words of than devices.
V, SOURCE, FEW = 1009, 503, 5
D, B, T, STEPS = 32, 8, 16, 3

ADAM = dict(name="adamw", eps=1e-3, weight_decay=0.1)  # with a small eps, rounding decides the sign of some updates


@dataclasses.dataclass(frozen=True)
class Case:
    """Fields of the sections of an experiment; for the model, its name and short names of fields."""

    model: str = "CausalLM"
    fields: dict = dataclasses.field(default_factory=lambda: {"tie_output": False})
    task: dict = dataclasses.field(default_factory=dict)
    optimizer: dict = dataclasses.field(default_factory=lambda: ADAM)
    training: dict = dataclasses.field(default_factory=dict)


CASES = {
    "tied": Case(fields={}),
    "tied, in parts": Case(fields={}, training={"accumulate": 2}),
    "fused, with bias": Case(fields={"tie_output": False, "output.bias": True}, task={"fused_loss": True}),
    "smoothed, z-loss": Case(task={"label_smoothing": 0.1, "z_loss": 1e-3}),
    "masked": Case("MaskedLM", {}),
    "two vocabularies": Case("Transformer", {"source_vocab_size": SOURCE, "share_embeddings": False}),
    "narrow": Case(fields={"d_model": 36, "num_heads": 6, "tie_output": False}),  # eight does not divide it
    "few words": Case(fields={"vocab_size": FEW, "tie_output": False}),
    "maximal update parametrization": Case(fields={"mup_base_width": 8}),
    "adafactor": Case(optimizer=dict(name="adafactor")),
    "muon": Case(optimizer=ADAM | {"name": "muon"}),
    "sgd": Case(optimizer=dict(name="sgd", clip_norm=1.0)),
}
MESHES = {
    "tensor 8": {"tensor": 8},
    "fsdp 2 tensor 4": {"fsdp": 2, "tensor": 4},
    "data 2 tensor 2 sequence 2": {"data": 2, "tensor": 2, "sequence": 2},
    "fsdp 8": {"fsdp": 8},
}
DAILY = [
    ("tied", "fsdp 2 tensor 4"),
    ("fused, with bias", "tensor 8"),
    ("masked", "data 2 tensor 2 sequence 2"),
    ("few words", "tensor 8"),
]
# Optimizers see what is stored, by words and by the stream: two meshes have both.
STORED = [*itertools.product(("adafactor", "muon", "sgd"), ("fsdp 2 tensor 4", "fsdp 8"))]
EVERYWHERE = [pair for pair in itertools.product(CASES, MESHES) if pair[0] not in ("adafactor", "muon", "sgd")]
REST = [pair for pair in EVERYWHERE + STORED if pair not in DAILY]


def task_of(model, fields):
    """A task with tokenizers of no text."""
    kind = {"CausalLM": tasks.CausalLMTask, "MaskedLM": tasks.MaskedLMTask, "Transformer": tasks.TranslationTask}[model]
    one = tokenizers.planned(V)
    return kind(kind.Config(**fields), Tokenizers(tokenizers.planned(SOURCE), one) if model == "Transformer" else one)


class Rows:
    """Tokens of the whole vocabulary, the last one among them."""

    def __init__(self, model, words):
        self.model, self.words = model, words

    def batch(self, i):
        rng = np.random.default_rng(i)

        def side(name, words, prefix=""):
            ids = rng.integers(min(4, words - 1), words, (B, T)).astype(np.int32)
            ids[:, 1] = words - 1
            return {name: ids, f"{prefix}lengths": rng.integers(T // 2, T + 1, B).astype(np.int32)}

        if self.model == "Transformer":
            return side("source", SOURCE, "source_") | side("target", self.words, "target_")
        return side("tokens", self.words)


@functools.cache
def trainer(name, mesh=None):
    case = CASES[name]
    # Without biases: that of keys has no gradient but what is rounded.
    wide = dict(vocab_size=V, d_model=D, d_ff=64, num_heads=8, max_length=32, num_layers=1, use_bias=False)
    config, task = tiny_config(case.model, **wide | case.fields), task_of(case.model, case.task)
    program = Program(
        lambda rngs: task.Model(config, rngs=rngs),
        task.prepared_loss,
        TrainingConfig(steps=STEPS, evaluate_every=1, average_decay=0.5, **case.training),
        optimizer_config(**{"learning_rate": 0.02, "schedule": "constant"} | case.optimizer),
        learning_rate_factors=parametrization.learning_rate_factors(config),
        prepare=task.prepare,
    )
    parallel = ParallelConfig(**{"data": 1} | (MESHES[mesh] if mesh else {}))
    return Trainer(program, parallel), task, Rows(case.model, config.vocab_size)


@functools.cache
def trained(case, mesh=None):
    """The state before the first step and after the last one, on the host; the numbers of the steps; the last arrays."""
    made, _, rows = trainer(case, mesh)
    with unchecked_annotations():
        arrays, placed, numbers = made.initial(), made.placed(rows), []
        before = {name: np.array(x) for name, x in arrays.items()}
        for i in range(STEPS):
            arrays, metrics = made.step(arrays, placed.batch(i))
            numbers.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
    return before, {name: np.array(x) for name, x in arrays.items()}, numbers, arrays


def assert_as_on_one_device(case, mesh):
    before, after, numbers, _ = trained(case, mesh)
    start, wanted, losses, _ = trained(case)
    np.testing.assert_allclose(numbers, losses, rtol=2e-5)
    for name, x in wanted.items():
        np.testing.assert_array_equal(before[name], start[name], err_msg=name)
        # By what its largest number is: moments are small, and the smallest of them are sums of what cancels.
        np.testing.assert_allclose(after[name], x, rtol=1e-4, atol=1e-4 * max(abs(x).max(), 1e-6), err_msg=name)
    assert losses[-1] != losses[0]


@pytest.mark.parametrize(("case", "mesh"), DAILY)
def test_any_vocabulary_trains_as_on_one_device(case, mesh):
    """Devices with less than their share of words would add what fills it up: to losses, gradients or the state."""
    assert_as_on_one_device(case, mesh)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "mesh"), REST)
def test_any_vocabulary_trains_as_on_one_device_everywhere(case, mesh):
    """As above, of all cases and meshes: that takes too long for every day."""
    assert_as_on_one_device(case, mesh)


# What a device holds ---------------------------------------------------------------------------


def sizes_with_words(lowered, parts):
    """The number of elements of every value of a program that has an axis of all words, filled up or not, by its shape."""
    text = lowered.compile().as_text()
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"\w\[([\d,]+)\]", text)}
    filled_up = {words + -words % n for words in (V, SOURCE) for n in (1, parts)}
    return {shape: math.prod(shape) for shape in shapes if filled_up & {*shape}}


def assert_in_parts(lowered, made, alone):
    """No value of a program has more numbers with an axis of words than a device's share of a table."""
    parts, (table, *_) = made.mesh.shape["tensor"], [n for n in made.shardings if n.endswith("embedding.table")]
    share = (V + -V % parts) * made.shardings[table].shard_shape(made.layout.shapes[table].shape)[1]
    assert {shape: size for shape, size in sizes_with_words(lowered, parts).items() if size > share} == {}
    assert max(sizes_with_words(alone, 1).values()) >= V * D  # else there is nothing to find


HELD = [("smoothed, z-loss", "tensor 8"), ("tied", "fsdp 2 tensor 4"), ("tied, in parts", "fsdp 2 tensor 4"),
        ("masked", "tensor 8"), ("fused, with bias", "fsdp 2 tensor 4"), ("narrow", "fsdp 2 tensor 4"),
        ("two vocabularies", "data 2 tensor 2 sequence 2")]  # fmt: skip


@pytest.mark.parametrize(("case", "mesh"), by_day(HELD, 0, 1))
def test_no_device_has_a_whole_table_or_the_logits_of_all_words(case, mesh):
    """A large vocabulary would not fit, or each device do the work of all: no value of the step has such a shape."""
    (made, _, rows), (alone, _, _) = trainer(case, mesh), trainer(case)
    with unchecked_annotations():
        assert_in_parts(made.lower(rows.batch(0)), made, alone.lower(rows.batch(0)))


def test_no_device_has_a_whole_table_where_the_state_is_made():
    """It would not fit before the first step."""

    def lowered(made):
        with jax.set_mesh(made.mesh):
            return jax.jit(made.program.initial, out_shardings=made.shardings).lower(made.config.key, {})

    made = trainer("tied", "fsdp 2 tensor 4")[0]
    assert_in_parts(lowered(made), made, lowered(trainer("tied")[0]))


def test_no_device_has_a_whole_table_or_the_logits_of_all_words_in_an_evaluation():
    """A model that can be trained could not be validated."""

    def lowered(mesh):
        made, task, rows = trainer("tied", mesh)
        *_, arrays = trained("tied", mesh)
        with unchecked_annotations(), jax.set_mesh(made.mesh):
            measure = jax.jit(lambda model, batch: task.measure(model, batch, 0)[0])
            return measure.lower(made.model(arrays), made.placed(rows).batch(0))

    assert_in_parts(lowered("fsdp 2 tensor 4"), trainer("tied", "fsdp 2 tensor 4")[0], lowered(None))


def test_a_device_stores_its_share_of_the_table_and_of_its_memory():
    """GPT-2's 50,257 words would lie on every device, with their moments and average."""
    made, _, _ = trainer("fused, with bias", "fsdp 2 tensor 4")
    names = [name for name in made.layout.shapes if name.endswith(("embedding.table", "output.w"))]
    assert len(names) == 2 * (1 + 2 + 1)  # parameters, two moments, the average
    for name in names:
        assert math.prod(made.shardings[name].shard_shape(made.layout.shapes[name].shape)) == V * D // 8, name


# What leaves the mesh --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Checkpoints with that of a state of a mesh, and the state."""
    _, after, _, arrays = trained("tied", "fsdp 2 tensor 4")
    with Checkpoints(tmp_path_factory.mktemp("checkpoints"), CheckpointConfig(every=1)) as checkpoints:
        checkpoints.save(STEPS, arrays, {})
        checkpoints.wait()
        yield checkpoints, after


@pytest.mark.parametrize("mesh", [None, *MESHES])
def test_a_checkpoint_goes_to_any_other_mesh(checkpoint, mesh):
    """A run could not go on elsewhere, or would with other bits."""
    checkpoints, wanted = checkpoint
    made, _, _ = trainer("tied", mesh)
    for name, x in checkpoints.restore(STEPS, made.placed_shapes).items():
        assert x.sharding.is_equivalent_to(made.shardings[name], x.ndim)
        np.testing.assert_array_equal(np.asarray(x), wanted[name], err_msg=name)


def test_a_checkpoint_has_the_words_that_there_are(checkpoint):
    """Other programs would read words that fill up."""
    checkpoints, _ = checkpoint
    found = {n: x.shape for n, x in checkpoints.restore_as_saved(STEPS).items() if n.endswith("table") and x.ndim == 2}
    assert set(found.values()) == {(V, D)}


def test_a_model_that_leaves_the_mesh_has_the_words_that_there_are(tmp_path):
    """Generation could pick, and an exported model would hold, words that fill up."""
    made, _, rows = trainer("tied", "fsdp 2 tensor 4")
    *_, arrays = trained("tied", "fsdp 2 tensor 4")
    model = jax.device_put(made.model(arrays), jax.devices()[0])
    *_, alone = trained("tied")
    tokens = rows.batch(0)["tokens"]
    logits = jax.jit(lambda model, tokens: model(tokens))
    found = logits(model, tokens)
    assert found.shape == (B, T, V)
    np.testing.assert_allclose(found, logits(trainer("tied")[0].model(alone), tokens), atol=1e-4)


def test_an_export_from_a_mesh_has_the_words_that_there_are(tmp_path):
    """Other libraries would refuse a table with more rows than the vocabulary."""
    config = models.CausalLM.Config.preset(
        "gpt2", vocab_size=V, max_length=32, d_model=D, num_layers=1, attention={"num_heads": 8}
    )
    made, _, _ = trainer("tied", "fsdp 2 tensor 4")
    program = Program(
        lambda rngs: models.CausalLM(config, rngs=rngs), lambda *_: None, made.config, made.program.optimizer
    )
    on_mesh = Trainer(program, mesh=made.mesh)
    model = on_mesh.model(on_mesh.initial())
    assert not model.embedding.table[...].sharding.is_fully_replicated
    interop.save_pretrained(model, tmp_path)
    wanted = {name: np.asarray(x) for name, x in on_mesh.initial().items()}["model.embedding.table"]
    back, _ = interop.load_pretrained(tmp_path)
    np.testing.assert_array_equal(back.embedding.table[...], wanted)
    assert (back.config.vocab_size, wanted.shape) == (V, (V, D))


@pytest.mark.parametrize("case", by_day(["masked", "tied", "two vocabularies"], 0))
def test_an_evaluation_on_the_mesh_is_that_of_one_device(case):
    """Validations would count words that fill up, and could take one for the most probable."""
    found = []
    for mesh in (None, "fsdp 2 tensor 4"):
        made, task, rows = trainer(case, mesh)
        *_, arrays = trained(case, mesh)
        with unchecked_annotations(), jax.set_mesh(made.mesh):
            batch = made.placed(rows).batch(0)
            means, weight, _ = task.measure(made.model(arrays), batch, 0)
        found.append(jax.device_get(means | {"weight": weight}))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, err_msg=name)
