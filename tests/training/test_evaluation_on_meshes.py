"""Evaluations, samples and beam search on a mesh: what one device gives, and no device holds the model whole."""

import contextlib
import functools
import math

import jax
import numpy as np
import pytest
import tiny_runs
from flax import nnx
from support import by_day, tiny_config, unchecked_annotations

from tformer_jax import decoding, models, nn
from tformer_jax.nn.parameters import by_path, parameters
from tformer_jax.nn.placement import on_mesh_of
from tformer_jax.progress import Progress
from tformer_jax.training.loading import load_models, load_run
from tformer_jax.training.parallel import ParallelConfig, make_mesh
from tformer_jax.training.run import Run
from tformer_jax.training.sharding import shardings, state_specs

MESHES = {
    "fsdp 4 data 2": {"data": 2, "fsdp": 4},
    "tensor 2": {"data": 1, "tensor": 2},
    "all": {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2},
    "pmap": {"mode": "pmap", "data": 2},
}
CASES = [("translation", mesh) for mesh in MESHES] + [(task, "all") for task in tiny_runs.TASKS]
CASES += [("causal_lm", "fsdp 4 data 2"), ("causal_lm", "tensor 2")]
SPLIT = [case for case in CASES if case[1] != "pmap"]  # under which every device has all of a model
DAILY = [CASES.index(case) for case in [("translation", "fsdp 4 data 2"), ("causal_lm", "tensor 2")]]


@pytest.fixture(scope="module")
def run_of(config, finished, tmp_path_factory):
    """`run_of(task)`: a finished run; that of translation has trained until it writes something."""

    @functools.cache
    def run_of(name):
        if name != "translation":
            return finished(name)
        longer = config | {"training": {"steps": 150, "log_every": 50, "evaluate_every": 150}}
        return tiny_runs.run_and_train(longer, tmp_path_factory.mktemp("translation") / "run")

    return run_of


@pytest.fixture(scope="module")
def loaded(run_of):
    """`loaded(task, mesh)`: the task and the model of its run, laid out as the mesh says; None: on one device."""

    def loaded(name, mesh):
        run = run_of(name).run
        there = Run(run.directory, run.config | {"parallel": MESHES[mesh]}) if mesh else run
        return load_run(there, spread=mesh is not None)[1:]

    return loaded


@pytest.fixture(scope="module")
def evaluated(run_of, loaded):
    """`evaluated(task, mesh)`: what its evaluation and its sample are."""

    @functools.cache
    def evaluated(name, mesh=None):
        task, model = loaded(name, mesh)
        with unchecked_annotations(), on_mesh_of(model):
            return task.evaluate(model, run_of(name).data, ["test"])["test"], task.sample(model) if task.samples else ""

    return evaluated


@pytest.mark.parametrize(("task", "mesh"), by_day(CASES, *DAILY))
def test_a_mesh_evaluates_as_one_device_does(evaluated, task, mesh):
    """Rows would be missing, counted twice or in another order, or a search go on with another device's hypotheses."""
    (found, sample), (wanted, text) = evaluated(task, mesh), evaluated(task)
    assert found.metrics.keys() == wanted.metrics.keys()
    for name, value in wanted.metrics.items():
        # Of a loss near 0, what rounding does to logits near 1.
        np.testing.assert_allclose(found.metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert (found.note, [*map(said, found.samples)], sample) == (wanted.note, [*map(said, wanted.samples)], text)
    if task == "translation":
        assert any(sample.translation for sample in found.samples)  # else there is nothing to compare
    for x, y in zip(found.outcomes or [], wanted.outcomes or [], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


def said(sample):
    """A sample, of its probabilities two digits: the third may be rounded otherwise."""
    return tuple(" ".join(word[:4] if word[:2] in ("0.", "1.") else word for word in x.split(" ")) for x in sample)


# What a device holds ---------------------------------------------------------------------------


class Watched(Progress):
    """Looks at all arrays that there are, as often as something is done."""

    def __init__(self, model):
        split = [x for x in jax.tree.leaves(model) if not x.sharding.is_fully_replicated]
        self.shapes = {shape for x in split for shape in (x.shape, x.shape[1:]) if len(shape) > 1}
        self.before, self.looks = {id(x) for x in jax.live_arrays()}, 0

    def look(self):
        self.looks += 1
        whole = lambda x: any(shard.data.size == x.size for shard in x.addressable_shards)
        made = [x for x in jax.live_arrays() if id(x) not in self.before and x.shape in self.shapes]
        assert [x.shape for x in made if whole(x)] == []

    @contextlib.contextmanager
    def phase(self, what, total=None, unit=""):
        yield lambda count=1: self.look()
        self.look()


@pytest.mark.parametrize(("task", "mesh"), by_day(SPLIT, SPLIT.index(("causal_lm", "fsdp 4 data 2"))))
def test_no_device_holds_a_parameter_whole_that_the_mesh_splits(run_of, loaded, task, mesh):
    """A model that needs its mesh could be trained and neither sampled nor reported."""
    task, model = loaded(task, mesh)
    watched = Watched(model)
    assert watched.shapes
    with unchecked_annotations(), on_mesh_of(model):
        task.evaluate(model, run_of(task.name).data, ["test"], watched)
        if task.samples:
            for _ in task.continue_text(model, "the cat", max_new_tokens=8):
                watched.look()
    assert watched.looks > 1


@functools.cache
def deep_model(**sizes):
    """A model of twelve layers, in parts on a mesh."""
    config = tiny_config("CausalLM", vocab_size=64, d_model=128, d_ff=512, num_heads=8, num_layers=12)
    shapes = jax.eval_shape(lambda: models.CausalLM(config, rngs=nnx.Rngs(0)))
    mesh, infos = make_mesh(ParallelConfig(data=1, **sizes)), parameters(shapes)
    state = {f"model.{path}": jax.ShapeDtypeStruct(info.shape, np.float32) for path, info in infos.items()}
    placed = shardings(state_specs(infos, state, mesh), mesh)
    draw = np.random.default_rng(0).standard_normal
    put = lambda path, x: jax.device_put(0.1 * draw(x.shape).astype(np.float32), placed[f"model.{path}"])
    return by_path(put, shapes), mesh


def test_a_loop_over_tokens_does_not_gather_the_model():
    """All layers would be gathered before the loop, and the whole model lie on each device while it generates."""
    model, mesh = deep_model(fsdp=8)

    def four(model, token, cache):
        def step(_, at):
            logits, cache = model.extend(*at)
            return logits.argmax(-1).astype(np.int32), cache

        return jax.lax.fori_loop(0, 4, step, (token, cache))

    with unchecked_annotations(), jax.set_mesh(mesh):
        cache = model.start_cache(1, 8)
        program = jax.jit(four).lower(nn.apart(model), np.ones((1, 1), np.int32), cache).compile()
    whole = sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(model))
    assert program.memory_analysis().temp_size_in_bytes < whole / 2


def test_layers_that_stay_on_their_devices_are_taken_apart():
    """Split over heads and widths nothing is gathered, and a loop over tokens would copy each layer in vain."""
    model, mesh = deep_model(tensor=8)
    with jax.set_mesh(mesh):
        apart = nn.apart(model)
    assert not apart.decoder.layers and len(apart.decoder.tail) == 12
    split = [x for x in jax.tree.leaves(apart.decoder) if x.ndim > 1]
    assert split and all(8 * x.addressable_shards[0].data.size == x.size for x in split)


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_generation_on_a_mesh_is_that_of_one_device(rows):
    """Rows that devices do not divide, or that end on one device and not on another, would go on otherwise."""
    model, mesh = deep_model(fsdp=4, tensor=2)
    prompts = np.random.default_rng(1).integers(0, 64, (rows, 5)).tolist()
    how = {"max_new_tokens": 6, "sampler": decoding.sampling(temperature=0.5), "key": jax.random.key(3), "eos_id": 7}
    alone = jax.device_put(jax.device_get(model), jax.devices()[0])
    with unchecked_annotations():
        wanted = np.asarray(decoding.generate(alone, prompts, **how))
        with jax.set_mesh(mesh):
            found = np.asarray(decoding.generate(model, prompts, **how))
            streamed = np.stack([*decoding.stream(model, prompts, **how)], axis=1)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(streamed, wanted[:, : streamed.shape[1]])


# Where a run is loaded -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parallel", "devices"),
    [
        ({"data": -1}, 8),
        ({"fsdp": 2, "data": 2}, 4),
        ({"data": 1}, 1),
        ({"data": 16}, 1),
        ({"data": -1, "tensor": 3}, 1),
    ],
)
def test_a_run_is_loaded_on_its_mesh_if_there_are_the_devices(run_of, parallel, devices):
    """A run of a larger machine could not be evaluated, or one that needs its mesh be laid on one device."""
    run = run_of("text_classification").run
    run = Run(run.directory, run.config | {"parallel": parallel})
    for model, wanted in [
        (load_run(run, spread=True)[2], devices),
        (load_run(run)[2], 1),
        (next(load_models(run, [12], spread=True))[1], devices),
    ]:
        assert {len(x.sharding.device_set) for x in jax.tree.leaves(model)} == {wanted}
