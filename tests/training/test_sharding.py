"""Where each array lies: by the names of its axes, and on each device its part and no more."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from support import by_day, optimizer_config, tiny_config

from tformer_jax import models
from tformer_jax.config import ConfigError
from tformer_jax.nn.parameters import ParameterInfo, parameters
from tformer_jax.training.parallel import ParallelConfig, make_mesh
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.sharding import bytes_per_device, parameter_spec, shardings, state_specs, undivided
from tformer_jax.training.trainer import Trainer

VARIANTS = {
    "Transformer": dict(share_embeddings=False, tie_output=False, positions="learned"),
    "CausalLM": dict(gated=True, qk_norm=True, positions="relative", norm="rms"),
    "MaskedLM": dict(num_token_types=2, pooler=True, embedding_norm=True, positions="learned"),
    "TextClassifier": dict(pooler=True, embedding_width=4),
    "VisionTransformer": dict(positions="learned", pooling="cls"),
}


@functools.cache
def infos(model, **changes):
    """What each parameter is, by its path; nothing is allocated."""
    config = tiny_config(model, **VARIANTS[model] | changes)
    return parameters(jax.eval_shape(lambda: getattr(models, model)(config, rngs=nnx.Rngs(0))))


def mesh_of(**sizes):
    return make_mesh(ParallelConfig(**{"data": 1} | sizes))


def info_of(*shape, axes="", contracted="", role="hidden"):
    return ParameterInfo(shape, tuple(axes.split()), tuple(contracted.split()), (), role)


# Axes ------------------------------------------------------------------------------------------

# What must be split, by the last part of a path: the axes of the parameter, those before them being of layers.
SPLIT = {
    "w_q": "D N H", "w_k": "D N H", "w_v": "D N H", "w_o": "N H D", "b_q": "N H", "b_k": "N H", "b_v": "N H",
    "w1": "D F", "w_gate": "D F", "w2": "F D", "b1": "F", "b_gate": "F",
    "embedding.table": "V D", "output.w": "D V", "output.b": "V", "transform.w": "D E", "pooler.w": "D E",
    "transform.b": "E", "pooler.b": "E", "classifier.w": "D c", "patch_embedding.w": "p D",
    "positions.scheme.table": "t D", "token_types.table": "t D", "positions.table": "t D", "position_bias.table": "b N",
    "positions.projection.w": "D d",  # of two widths, the first is split
}  # fmt: skip
OF = {"N": "tensor", "F": "tensor", "V": "tensor", "E": "tensor", "D": "fsdp"}


@pytest.mark.parametrize("model", VARIANTS)
def test_matrices_are_split_by_what_their_axes_are(model):
    """Heads would be torn apart, or what is large be whole: heads, widths and words go to tensor, D goes to fsdp."""
    for path, info in infos(model).items():
        axes = next((axes for end, axes in SPLIT.items() if re.fullmatch(rf"(.*[._])?{re.escape(end)}", path)), "")
        wanted = [OF.get(axis) for axis in axes.split()]
        wanted = [None] * (len(info.shape) - len(wanted)) + wanted if any(wanted) else []
        assert (path, list(parameter_spec(path, info, mesh_of()))) == (path, wanted)


@pytest.mark.parametrize(
    ("info", "wanted"),
    [
        (info_of(3, 4, 8, 8, axes="experts model ff", contracted="model"), (None, "tensor", "fsdp", None)),
        (info_of(6, 8, 8, axes="experts model ff", contracted="model"), (None, "fsdp", "tensor")),
        (info_of(4, 8, axes="experts model", role="bias"), ("tensor", None)),
        (info_of(8, 4, axes="model experts", contracted="model"), ("fsdp", "tensor")),
        (info_of(8, 8, axes="left right", contracted="left"), ()),
    ],
    ids=["experts", "experts that do not divide", "biases of experts", "router", "unknown"],
)
def test_a_mesh_axis_goes_to_the_first_axis_that_divides(info, wanted):
    """An axis of the mesh would be given twice, which JAX refuses, or be left unused where another could take it."""
    assert tuple(parameter_spec("w", info, mesh_of(fsdp=2, tensor=4))) == wanted


def test_a_row_of_the_users_table_comes_before_the_names():
    """One could not lay out otherwise what a name says nothing of, or says too much."""
    info = info_of(3, 8, 8, axes="model ff", contracted="model")
    table = ((r"a\..*", ("tensor", "fsdp")), (r"b", (None, None)), (r"c", ("tensor",)))
    found = {
        path: tuple(parameter_spec(path, info, mesh_of(fsdp=2, tensor=4), table)) for path in ("a.w", "b", "c", "ab")
    }
    assert found == {
        "a.w": (None, "tensor", "fsdp"),
        "b": (),
        "c": (None, None, "tensor"),
        "ab": (None, "fsdp", "tensor"),
    }
    with pytest.raises(ConfigError, match=r"sharding_table: the row 'b' has 4 axes, b is \[3, 8, 8\]"):
        parameter_spec("b", info, mesh_of(), ((r"b", (None,) * 4),))


# The state -------------------------------------------------------------------------------------


@functools.cache
def trainer(optimizer="adam", mode="jit", **sizes):
    """Of a CausalLM whose widths eight divides, with an average; wide enough for Adafactor to factor something."""
    wide = dict(d_model=128, d_ff=256) if optimizer == "adafactor" else dict(d_model=32, d_ff=64)
    config = tiny_config("CausalLM", num_heads=8, vocab_size=64, num_layers=3, norm_position="pre", **wide)
    program = Program(
        lambda rngs: models.CausalLM(config, rngs=rngs),
        lambda model, batch, key: (jnp.float32(0.0), jnp.float32(1.0), {}),
        TrainingConfig(steps=1, evaluate_every=1, average_decay=0.5),
        optimizer_config(name=optimizer, learning_rate=0.1, schedule="constant"),
    )
    return Trainer(program, ParallelConfig(mode=mode, **{"data": 1} | sizes))


def owner(name, paths):
    """The parameter that an array of the state belongs to by its path; what is kept for it may be within it."""
    return max((path for path in paths if f".{path}." in f"{name}."), key=len, default=None)


@pytest.mark.parametrize("optimizer", ["adam", "muon", "adafactor", "lion", "sgd"])
def test_what_belongs_to_a_parameter_lies_where_it_does(optimizer):
    """Moments or the average would lie whole on every device: more than the parameters themselves."""
    made = trainer(optimizer, fsdp=2, tensor=4)
    shapes, placed, paths = made.layout.shapes, made.shardings, made.layout.parameters
    belonging = 0
    for name, shape in shapes.items():
        path = owner(name, paths)
        if path is not None and shape.shape == shapes[f"model.{path}"].shape:
            assert placed[name] == placed[f"model.{path}"], name
            belonging += 1
        else:
            assert placed[name].is_fully_replicated, name
    moments = {"adam": 2, "muon": 1, "lion": 1, "sgd": 1}.get(optimizer, 0)
    assert belonging >= (2 + moments) * len(paths)
    assert sum(not sharding.is_fully_replicated for sharding in placed.values()) >= (2 + moments) * 9


def test_the_factors_of_adafactor_are_whole():
    """They have other axes than their parameter: its row would split the wrong one, or not fit."""
    made = trainer("adafactor", fsdp=2, tensor=4)
    factors = [name for name in made.layout.shapes if name.endswith((".v_row", ".v_col"))]
    factored = [made.layout.shapes[name].shape for name in factors if ".feed_forward.w1." in name]
    assert sorted(factored) == [(3, 128), (3, 256)]
    assert all(made.shardings[name].is_fully_replicated for name in factors)


def test_a_path_within_another_is_not_taken_for_it():
    """The moments of an inner layer would lie where the parameter of the same last name does."""
    held = {"w": info_of(8, 8, axes="model a"), "inner.w": info_of(8, 8, axes="a ff")}
    names = ("model.w", "model.inner.w", "optimizer.mu.w", "optimizer.mu.inner.w")
    shapes = dict.fromkeys(names, jax.ShapeDtypeStruct((8, 8), jnp.float32))
    specs = state_specs(held, shapes, mesh_of(fsdp=2, tensor=4))
    wanted = [("fsdp", None), (None, "tensor"), ("fsdp", None), (None, "tensor")]
    assert [tuple(specs[name]) for name in names] == wanted


def test_under_pmap_every_device_has_the_whole_state():
    """The program of a device would be given a part of the parameters and take it for all."""
    assert all(sharding.spec == P() for sharding in trainer(mode="pmap", data=8).shardings.values())


# Axes that do not divide -----------------------------------------------------------------------

# Six heads and thirteen words: neither four nor eight divides them; eight divides the other axes. Words have their own rule.
ODD = dict(d_model=48, num_heads=6, d_ff=64, vocab_size=13)


def test_an_axis_that_does_not_divide_stays_whole_and_the_others_do_not():
    """Placing the parameter would fail, or one odd axis would cost the split of all of them."""
    mesh = mesh_of(fsdp=2, tensor=4)
    specs = {path: tuple(parameter_spec(path, info, mesh)) for path, info in infos("CausalLM", **ODD).items()}
    found = {end: next(s for path, s in specs.items() if path.endswith(end)) for end in ("w_q", "b_q", "w1")}
    assert found == {"w_q": (None, "fsdp", None, None), "b_q": (), "w1": (None, "fsdp", "tensor")}


@pytest.mark.parametrize(
    ("info", "sizes", "wanted"),
    [
        (info_of(13, 48, axes="vocab model", role="embedding"), dict(fsdp=2, tensor=4), (None, ("fsdp", "tensor"))),
        (info_of(48, 13, axes="model vocab", contracted="model"), dict(fsdp=2, tensor=4), (("fsdp", "tensor"), None)),
        (info_of(13, 48, axes="vocab embedding", role="embedding"), dict(tensor=8), (None, ("fsdp", "tensor"))),
        (info_of(3, 48, axes="vocab model", role="embedding"), dict(tensor=8), (None, ("fsdp", "tensor"))),
        (info_of(16, 48, axes="vocab model", role="embedding"), dict(fsdp=2, tensor=4), ("tensor", "fsdp")),
        (info_of(13, 12, axes="vocab model", role="embedding"), dict(fsdp=2, tensor=4), (None, "fsdp")),
        (info_of(13, 12, axes="vocab model", role="embedding"), dict(fsdp=8), ("tensor", None)),
        (info_of(13, 9, axes="vocab model", role="embedding"), dict(fsdp=2, tensor=3), (None, "tensor")),
        (info_of(13, axes="vocab", role="bias"), dict(tensor=8), ()),
    ],
    ids=["table", "output", "own width", "fewer than devices", "words that divide", "widths that both do not divide",
         "no split of words", "the widths' axis does not divide", "bias"],
)  # fmt: skip
def test_words_that_do_not_divide_give_their_mesh_axis_to_their_vectors(info, sizes, wanted):
    """Of most vocabularies, which are odd, every device would hold the whole table."""
    assert tuple(parameter_spec("w", info, mesh_of(**sizes))) == wanted


def test_the_users_axis_of_words_goes_to_their_vectors_too():
    """A row of the table would be refused by JAX, or do nothing, because of one word."""
    info = info_of(13, 48, axes="vocab model", role="embedding")
    specs = {axes: tuple(parameter_spec("w", info, mesh_of(fsdp=2, tensor=4), (("w", axes),)))
             for axes in (("fsdp", None), ("fsdp", "tensor"), (None, "tensor"), (None, None))}  # fmt: skip
    assert specs == {
        ("fsdp", None): (None, "fsdp"),
        ("fsdp", "tensor"): (None, ("fsdp", "tensor")),
        (None, "tensor"): (None, "tensor"),
        (None, None): (),
    }


def test_what_stays_whole_is_named():
    """Nobody would know that a mesh splits less than it could: exactly the parameters with heads."""
    names = ("w_q", "w_k", "w_v", "w_o", "b_q", "b_k", "b_v")
    ends = {f"attention.{name}" for name in names} | {"position_bias.table"}
    wanted = {path for path in infos("CausalLM", **ODD) if any(path.endswith(end) for end in ends)}
    assert set(undivided(infos("CausalLM", **ODD), mesh_of(fsdp=2, tensor=4))) == wanted
    assert len(wanted) == 8
    # Half of the twelve is not a multiple of four: the vectors of words cannot be split by both axes.
    narrow = infos("CausalLM", **ODD | {"d_model": 12, "num_heads": 4})
    assert undivided(narrow, mesh_of(fsdp=2, tensor=4)) == ["embedding.table"]


@pytest.mark.parametrize("sizes", [{}, {"data": 8}, {"fsdp": 8}, {"tensor": 2}], ids=str)
def test_where_all_divides_nothing_is_named(sizes):
    """People would be told of a loss that there is none of; 1 divides everything, and 2 the heads."""
    assert undivided(infos("CausalLM", **ODD | {"vocab_size": 16}), mesh_of(**sizes)) == []


# On the devices --------------------------------------------------------------------------------

MESHES = {
    "one device": {},
    "data 8": {"data": 8},
    "fsdp 8": {"fsdp": 8},
    "tensor 8": {"tensor": 8},
    "fsdp 2 tensor 4": {"fsdp": 2, "tensor": 4},
}
ON = pytest.mark.parametrize("name", by_day(list(MESHES)[1:], 0, 3))


@functools.cache
def made(name):
    """A trainer, the state that it begins with on a mesh, and the program that made it."""
    on_mesh, compiled = trainer(**MESHES[name]), []
    with pytest.MonkeyPatch.context() as patch:

        def recording(function, **how):
            patch.undo()  # the first one is that of the state; those inside of it are left alone
            compiled.append(jax.jit(function, **how).lower({}).compile())
            return compiled[0]

        patch.setattr(jax, "jit", recording)
        arrays = on_mesh.initial()
    return on_mesh, arrays, compiled[0]


def bytes_by_hand(fsdp=1, tensor=1, **_):
    """Of the state on one device: the parameters, two moments and the average, and three counts."""
    layers, d, n, h, f, v = 3, 32, 8, 4, 64, 64
    heads = 4 * (d // fsdp) * (n // tensor) * h + 3 * (n // tensor) * h  # w_q, w_k, w_v, w_o; b_q, b_k, b_v
    wide = 2 * (d // fsdp) * (f // tensor) + f // tensor  # w1, w2; b1
    vectors = 2 * d + 4 * d  # b_o, b2; gamma and beta of two norms
    elements = layers * (heads + wide + vectors) + 2 * d + (v // tensor) * (d // fsdp)  # the last norm, the embedding
    return 4 * (4 * elements + 3)


@pytest.mark.parametrize("name", by_day(MESHES, 4))
def test_every_device_holds_its_part_and_no_more(name):
    """A model that needs several devices would not fit: measured on each, against the table by hand."""
    on_mesh, arrays, _ = made(name)
    for device in on_mesh.mesh.devices.flat:
        shards = [s for x in arrays.values() for s in x.addressable_shards if s.device == device]
        assert sum(shard.data.nbytes for shard in shards) == bytes_by_hand(**MESHES[name])


def test_the_sizes_that_are_reported_are_those_on_the_device():
    """`inspect` would promise that a model fits."""
    on_mesh, arrays, _ = made("fsdp 2 tensor 4")
    for prefix in ("", "model.", "optimizer."):
        held = sum(x.addressable_shards[0].data.nbytes for n, x in arrays.items() if n.startswith(prefix))
        assert bytes_per_device(on_mesh.layout.shapes, on_mesh.shardings, prefix) == held > 0


@ON
def test_the_state_begins_the_same_on_every_mesh(name):
    """The devices would decide what a seed draws: bit for bit."""
    (_, arrays, _), (_, wanted, _) = made(name), made("one device")
    assert arrays.keys() == wanted.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(wanted[path]), err_msg=path)


@ON
def test_the_state_is_made_where_it_lies(name):
    """It would be made whole on one device, which has no room for it, and moved from there."""
    on_mesh, _, compiled = made(name)
    for path, sharding in compiled.output_shardings.items():
        rank = len(on_mesh.layout.shapes[path].shape)
        assert sharding.is_equivalent_to(on_mesh.shardings[path], rank), path


@pytest.mark.parametrize("name", by_day(["fsdp 8", "tensor 8", "fsdp 2 tensor 4"], 2))
def test_no_device_holds_a_whole_matrix_at_any_time(name):
    """A device would run out of memory before training begins: no value of its program has the shape of a matrix."""
    on_mesh, _, compiled = made(name)
    shapes = {x.shape for x in on_mesh.layout.shapes.values() if math.prod(x.shape) >= 3 * 32 * 32}
    assert len(shapes) == 4  # w_q, w_k, w_v; w_o; w1; w2
    whole = [f"[{','.join(map(str, shape))}]" for shape in (*shapes, (64, 32))]
    assert [shape for shape in whole if shape in compiled.as_text()] == []
    assert all(shape in made("one device")[2].as_text() for shape in whole)  # else there is nothing to find


@ON
def test_shardings_are_of_the_mesh(name):
    """Arrays would be placed on other devices than the program runs on."""
    on_mesh, arrays, _ = made(name)
    placed = shardings({path: s.spec for path, s in on_mesh.shardings.items()}, on_mesh.mesh)
    assert all(array.sharding == placed[path] for path, array in arrays.items())
    assert {d for x in arrays.values() for d in x.sharding.device_set} == set(jax.devices())
