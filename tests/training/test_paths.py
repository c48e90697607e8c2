"""The names of parameters, and tables of what matches them."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support import tiny_model

from tformer_jax.config import ConfigError
from tformer_jax.nn.parameters import by_path, path_name
from tformer_jax.training.paths import check_rows, check_table, first_match, some


class Named(nnx.Module):
    def __init__(self, **held):
        for name, value in held.items():
            setattr(self, name, value)


def names_of(tree):
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def weight():
    return nnx.Param(jnp.zeros(2))


# Names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        (Named(attention=Named(w_q=weight())), "attention.w_q"),
        ({"model": Named(w=weight())}, "model.w"),
        ({"model": {"w": 0.0}}, "model.w"),
        ({"model": [0.0]}, "model.0"),
        (Named(value=weight()), "value"),
        (Named(value=Named(w=weight())), "value.w"),
        (Named(my_value=weight()), "my_value"),
        (Named(a=Named(value_scale=weight())), "a.value_scale"),
        (0.0, ""),
    ],
)
def test_a_name_is_the_attributes_and_keys_on_the_way(tree, wanted):
    """Tables and checkpoints would need the names of NNX's wrappers, or lose a part of a path."""
    assert names_of(tree) == [wanted]


def test_every_parameter_of_a_model_has_a_name_of_its_own():
    """Two parameters would share one row of a checkpoint or of a table."""
    names = names_of(tiny_model("Transformer"))
    assert len(set(names)) == len(names) and "decoder.layers.0.attention.w_q" in names


def test_a_function_of_paths_keeps_the_tree():
    """The values would be given to other parameters than those they were made for."""
    found = by_path(lambda path, leaf: (path, leaf), {"b": [1, 2], "a": None})
    assert found == {"b": [("b.0", 1), ("b.1", 2)], "a": None}


# Tables ----------------------------------------------------------------------------------------

PATHS = ("encoder.w", "encoder.b", "output.w")


def test_the_first_row_that_matches_decides():
    """A later, wider row would override an exception."""
    table = ((r"encoder\.w", 1), (r"encoder\..*", 2))
    assert [first_match(table, path) for path in PATHS] == [0, 1, None]


@pytest.mark.parametrize("pattern", ["encoder", r"\.w", "w", "encoder|output", ""])
def test_a_row_matches_whole_paths(pattern):
    """A row would take whatever begins with it, ends in it or has it somewhere."""
    with pytest.raises(ConfigError, match="no parameter is left for"):
        check_rows("t", ((pattern, 1), (".*", 2)), PATHS)


@pytest.mark.parametrize(
    "table",
    [
        (("encoder.*", 1), (r"encoder\.b", 2), (".*", 3)),
        ((".*", 1), (r"encoder\.b", 2)),
        ((".*", 1), (r"encoder\.b", 2), (".*", 3)),
    ],
)
def test_a_row_below_wider_ones_is_named(table):
    """An exception written below its rule would silently do nothing."""
    with pytest.raises(ConfigError, match=r"^optimizer\.t: no parameter is left for 'encoder\\\\\.b'"):
        check_rows("optimizer.t", table, PATHS)


def test_only_a_last_row_for_all_may_be_of_no_use():
    """A row for everything, in the midst of a table, would hide that nothing is left for it."""
    every = ((r"(encoder|output)\..*", 1), (".*", 2))
    check_rows("t", every, PATHS)
    with pytest.raises(ConfigError, match=r"left for '\.\*'"):
        check_rows("t", (*every, (".*", 3)), PATHS)


def test_the_values_of_a_table_are_checked_by_name():
    """A wrong value would not say in which row it is."""
    checked = []
    check_table("optimizer.t", [["a.*", 1], ("b", None)], lambda *given: checked.append(given))
    assert checked == [("optimizer.t: the value of 'a.*'", 1), ("optimizer.t: the value of 'b'", None)]


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(0, ""), (1, "n0"), (3, "n0, n1, n2"), (4, "n0, n1, n2 and 1 more"), (9, "n0, n1, n2 and 6 more")],
)
def test_of_many_names_some_are_shown(count, wanted):
    """A message would be pages long, or miscount what it leaves out."""
    assert some([f"n{i}" for i in range(count)], 3) == wanted
