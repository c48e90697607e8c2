"""Meshes from a config, and batches on them: the same values, each row where it belongs, and only those asked for."""

import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image
from support import examples, unchecked_annotations

from tformer_jax.config import ConfigError, build
from tformer_jax.data.batches import Batches
from tformer_jax.data.batches.buckets import Buckets, LabelledBuckets, choose_buckets
from tformer_jax.data.batches.packed import Packed
from tformer_jax.data.batches.pictures import ImageBatches
from tformer_jax.data.batches.windows import Pieces, Windows
from tformer_jax.data.ragged import Ragged, longest_sides
from tformer_jax.data.sources.images import LabelledImages, read_folders
from tformer_jax.training.parallel import AXES, ParallelConfig, PlacedBatches, SplitBatches, make_mesh

# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "pjit"}, r"parallel\.mode must be one of .*got 'pjit'; did you mean 'jit'"),
        ({"data": 0}, r"parallel\.data must be a positive integer, or -1 for what is left, got 0"),
        ({"fsdp": -2}, r"parallel\.fsdp must be a positive integer, or -1 for what is left, got -2"),
        ({"tensor": 2.0}, r"parallel\.tensor must be an integer, got 2\.0"),
        ({"sequence": "8"}, r"parallel\.sequence must be a positive integer, or -1 for what is left, got '8'"),
        ({"sequence": True}, r"parallel\.sequence must be an integer, got True"),
        ({"data": None}, r"parallel\.data must be a positive integer, or -1 for what is left, got None"),
        ({"fsdp": -1}, r"parallel\.data and parallel\.fsdp are -1, and only one size may be"),
        ({"data": 2, "tensor": -1, "sequence": -1}, r"parallel\.tensor and parallel\.sequence are -1, and only one"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """The error would be the library's, of an array of devices, when the data has been read already."""
    with unchecked_annotations(), pytest.raises(ConfigError, match=message):
        build(ParallelConfig, fields, "parallel")


@pytest.mark.parametrize("axis", ["fsdp", "tensor", "sequence"])
@pytest.mark.parametrize("size", [2, -1])
def test_pmap_spreads_rows_alone(axis, size):
    """A size would be ignored: under pmap every device holds the whole state."""
    with pytest.raises(ConfigError, match=rf"parallel\.{axis} must be 1 with mode='pmap', .* got {size}"):
        build(ParallelConfig, {"mode": "pmap", "data": 1, axis: size}, "parallel")


@pytest.mark.parametrize(
    ("fields", "devices", "wanted"),
    [
        ({}, 8, (8, 1, 1, 1)),
        ({}, 1, (1, 1, 1, 1)),
        ({"fsdp": 2, "tensor": 2}, 8, (2, 2, 2, 1)),
        ({"data": 1, "fsdp": -1}, 6, (1, 6, 1, 1)),
        ({"data": 2, "sequence": -1}, 8, (2, 1, 1, 4)),
        ({"data": 2, "tensor": 4}, 8, (2, 1, 4, 1)),
        ({"data": 2}, 8, (2, 1, 1, 1)),
        ({"mode": "pmap"}, 3, (3, 1, 1, 1)),
    ],
    ids=str,
)
def test_the_sizes_are_those_asked_for(fields, devices, wanted):
    """A mesh would have another shape than its config says; -1 is what is left."""
    assert ParallelConfig(**fields).sizes(devices) == dict(zip(AXES, wanted, strict=True))


@pytest.mark.parametrize(
    ("fields", "devices", "message"),
    [
        ({"tensor": 3}, 8, r"data=-1 x fsdp=1 x tensor=3 x sequence=1 does not divide 8 device\(s\)"),
        ({"tensor": 16}, 8, r"data=-1 x fsdp=1 x tensor=16 x sequence=1 does not divide 8 device\(s\)"),
        ({"data": 2, "fsdp": 8}, 8, r"data=2 x fsdp=8 x tensor=1 x sequence=1 needs 16 devices, and there are 8"),
    ],
    ids=str,
)
def test_sizes_that_the_devices_do_not_allow_are_refused(fields, devices, message):
    """Devices would be left out unasked, or the error would be the library's; all sizes are said."""
    with pytest.raises(ConfigError, match=f"^parallel: {message}$"):
        ParallelConfig(**fields).sizes(devices)


def test_a_mesh_has_the_axes_of_its_config():
    """The sharding table would name axes that are not there, or rows would be spread over heads' devices."""
    assert dict(make_mesh(ParallelConfig(fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1}


def test_a_smaller_mesh_is_of_the_first_devices():
    """Devices would lie idle that the user did not mean, or a mesh would need all that there are."""
    mesh = make_mesh(ParallelConfig(data=1, tensor=4))
    assert set(mesh.devices.flat) == set(jax.devices()[:4])
    mesh = make_mesh(ParallelConfig(), jax.devices()[5:7])
    assert set(mesh.devices.flat) == set(jax.devices()[5:7])


# Batches on a mesh -----------------------------------------------------------------------------


class Rows(Batches):
    """Batches of so many rows, whose values tell row and column."""

    filler = {"labels": -1}

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return 3

    def row_count(self, i):
        return self.rows

    def batch(self, i, rows=slice(None)):
        row = 100 * i + np.arange(self.rows, dtype=np.int32)[rows]
        return {"tokens": 10 * row[:, None] + np.arange(3, dtype=np.int32), "labels": row}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, name
        np.testing.assert_array_equal(np.asarray(found[name]), wanted[name], err_msg=name)


MESHES = [dict(data=8), dict(data=2, fsdp=4), dict(data=2, fsdp=2, tensor=2), dict(data=1, tensor=8)]


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("rows", [16, 12, 6, 5, 1])
def test_placed_batches_are_the_batches(sizes, rows):
    """The model would see other rows than were read, or in another order; also where rows do not divide."""
    placed = PlacedBatches(Rows(rows), make_mesh(ParallelConfig(**sizes)))
    assert len(placed) == 3
    for i in (0, 2):
        assert_same(placed.batch(i), Rows(rows).batch(i))


@pytest.mark.parametrize(
    ("sizes", "rows", "parts"),
    [
        (dict(data=8), 16, 8),
        (dict(data=2, fsdp=4), 16, 8),
        (dict(data=2, fsdp=2, tensor=2), 16, 4),
        (dict(data=1, tensor=8), 16, 1),
        (dict(data=2, fsdp=4), 12, 4),  # fsdp alone
        (dict(data=2, fsdp=4), 6, 2),  # data alone
        (dict(data=8), 12, 1),
        (dict(data=2, fsdp=4), 5, 1),
    ],
    ids=str,
)
def test_rows_are_spread_over_data_and_fsdp(sizes, rows, parts):
    """Every device would be sent the whole batch, or devices of one group of heads different rows."""
    mesh = make_mesh(ParallelConfig(**sizes))
    for array in PlacedBatches(Rows(rows), mesh).batch(1).values():
        whole, starts = np.asarray(array), {}
        for shard in array.addressable_shards:
            start = shard.index[0].start or 0
            np.testing.assert_array_equal(shard.data, whole[start : start + rows // parts])
            starts.setdefault(start, set()).add(shard.device)
        assert sorted(starts) == list(range(0, rows, rows // parts))
        assert len(array.addressable_shards) == 8
        # Devices that differ in tensor or sequence alone have the same rows.
        for group in mesh.devices.reshape(-1, mesh.shape["tensor"] * mesh.shape["sequence"]):
            assert sum(set(group) <= devices for devices in starts.values()) == 1


def test_a_row_lies_in_the_order_of_the_devices():
    """Accumulation takes every second row of each device: another order would mix what belongs together."""
    mesh = make_mesh(ParallelConfig(data=2, fsdp=4))
    tokens = PlacedBatches(Rows(16), mesh).batch(0)["tokens"]
    first = {shard.device: int(shard.data[0, 0]) // 10 for shard in tokens.addressable_shards}
    assert [first[device] for device in mesh.devices.flat] == list(range(0, 16, 2))


# Batches for pmap ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "devices", "multiple", "each"),
    [(16, 8, 1, 2), (16, 8, 2, 2), (16, 4, 3, 6), (10, 4, 1, 3), (10, 4, 2, 4), (1, 8, 1, 1), (3, 2, 5, 5)],
)
def test_split_batches_are_the_rows_and_then_padding(rows, devices, multiple, each):
    """Rows would be lost or doubled, or what fills up would count as targets: zeros, and labels of -1."""
    found, wanted = SplitBatches(Rows(rows), devices, multiple).batch(2), Rows(rows).batch(2)
    assert found["tokens"].shape == (devices, each, 3)
    assert found["labels"].shape == (devices, each)
    filled = {name: np.concatenate(list(x)) for name, x in found.items()}
    assert_same({name: x[:rows] for name, x in filled.items()}, wanted)
    assert (filled["tokens"][rows:] == 0).all()
    assert (filled["labels"][rows:] == -1).all()


# A part of the rows ----------------------------------------------------------------------------


def sequences(seed, count):
    """Of one to nine tokens that are all different."""
    lengths = np.random.default_rng(seed).integers(1, 10, count)
    return Ragged.from_lists([range(10 * i + 1, 10 * i + 1 + int(length)) for i, length in enumerate(lengths)])


def documents(seed, count):
    """So many documents of tokens that are all different, from 10 on."""
    sizes = np.random.default_rng(seed).integers(1, 30, count)
    return Ragged(np.arange(10, 10 + sizes.sum(), dtype=np.int32), np.cumsum([0, *sizes]))


def pieces(seed, count, rows, shuffle):
    found = documents(seed, 9 + count)
    return Pieces(found, found.values // 2, 6, rows, shuffle, 1, 2)


def buckets(seed, count, rows, shuffle, names=("a", "b")):
    sides = tuple(sequences(seed + k, count) for k in range(len(names)))
    lengths = choose_buckets(longest_sides(sides), 2)
    return Buckets(sides, names, lengths, 10 * rows, shuffle)


def labelled(seed, count, rows, shuffle):
    found = buckets(seed, count, rows, shuffle, ("tokens",))
    how = (found.sequences, found.names, found.lengths, found.batch_tokens, found.seed)
    return LabelledBuckets(*how, labels=np.arange(count, dtype=np.int32))


def images(seed, count, rows, shuffle):
    rng = np.random.default_rng(seed)
    data = LabelledImages(rng.integers(1, 256, (count, 2, 2, 1), np.uint8), np.arange(count, dtype=np.int32))
    return ImageBatches(data, min(rows, count) if shuffle is not None else rows, shuffle, 2, 1)


KINDS = {
    "buckets": buckets,
    "labelled": labelled,
    "packed": lambda seed, count, rows, shuffle: Packed(
        (sequences(seed, 4 * count), sequences(seed + 1, 4 * count)), ("a", "b"), (12, 12), min(rows, count), 0
    ),
    "windows": lambda seed, count, rows, shuffle: Windows(
        documents(seed, 9 + count), 5, rows, shuffle, "segments", 1, 2
    ),
    "stream": lambda seed, count, rows, shuffle: Windows(documents(seed, 9 + count), 5, rows, shuffle, "stream", 1, 2),
    "pieces": pieces,
    "images": images,
}
KIND = pytest.mark.parametrize("kind", KINDS)
SIZES = (st.integers(0, 5), st.integers(1, 12), st.integers(1, 5), st.sampled_from([None, 0]), st.integers(0, 40))


@KIND
@examples(25)
@given(*SIZES, st.data())
def test_a_part_of_a_batch_is_those_rows_of_it(kind, seed, count, rows, shuffle, i, data):
    """Processes that train together would read rows twice, or other ones than their devices have; also of padding."""
    batches = KINDS[kind](seed, count, rows, shuffle)
    whole = batches.batch(i)
    number = len(next(iter(whole.values())))
    start = data.draw(st.integers(0, number))
    part = slice(start, data.draw(st.integers(start, number + 3)), data.draw(st.sampled_from([None, 1, 2])))
    assert_same(batches.batch(i, part), {name: x[part] for name, x in whole.items()})


@KIND
@examples(25)
@given(*SIZES)
def test_the_number_of_rows_is_known_beforehand(kind, seed, count, rows, shuffle, i):
    """Processes would disagree about the shape of the batch that they put together."""
    batches = KINDS[kind](seed, count, rows, shuffle)
    assert {len(x) for x in batches.batch(i).values()} == {batches.row_count(i)}


def three_in_four(kind):
    """One batch of three examples and a row of padding."""
    how = ((sequences(0, 3),), ("tokens",), [9], 36, None)
    both = {"buckets": Buckets(*how), "labelled": LabelledBuckets(*how, labels=np.arange(3, dtype=np.int32))}
    return (both | {"images": images(0, 3, 4, None)})[kind]


@pytest.mark.parametrize("kind", ["buckets", "labelled", "images"])
def test_a_part_counted_from_the_end_includes_the_padding(kind):
    """The last two of four rows would be the last two of three examples."""
    batches, part = three_in_four(kind), slice(-2, None)
    assert batches.row_count(0) == 4
    assert_same(batches.batch(0, part), {name: x[part] for name, x in batches.batch(0).items()})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seven files of two classes."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(7):
        place = folder / ("ab"[i % 2])
        place.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), 30 * i + 5, np.uint8)).save(place / f"{i}.png")
    return read_folders(folder).splits["train"]


@pytest.mark.parametrize("part", [slice(None), slice(1, 3), slice(2, 4), slice(3, 4), slice(4, 8)], ids=str)
def test_a_part_of_a_batch_of_files_is_those_rows_of_it(files, part):
    """A process whose rows are all padding would fail: seven files in two batches of four."""
    batches = ImageBatches(files, 4, None, 4, 1)
    for i in (0, 1):
        assert_same(batches.batch(i, part), {name: x[part] for name, x in batches.batch(i).items()})
