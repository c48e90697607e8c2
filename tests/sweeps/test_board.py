"""The table of a sweep on a terminal: what was tried, whole."""

import io

import pytest
from rich.console import Console

from tformer_jax.sweeps.board import result_table
from tformer_jax.sweeps.results import Ranking


@pytest.fixture
def printed():
    """`printed(width, overrides, ...)`: the words of the table of members with these overrides, column by column."""

    def printed(width, *members):
        rows = [
            {
                "member": i,
                "overrides": o,
                "status": "finished",
                "steps": 9,
                "training_loss": 1.0,
                "final": {"loss": 2.0},
            }
            for i, o in enumerate(members)
        ]
        console = Console(width=width, file=io.StringIO())
        console.print(result_table(rows, Ranking()))
        return console.file.getvalue().split()

    return printed


def test_columns_are_fields_without_their_sections(printed):
    """The names of two fields would be cut to the section that they share."""
    words = printed(200, {"optimizer.learning_rate": 0.1, "model.num_layers": 2})
    assert words[:3] == ["member", "learning_rate", "num_layers"]


def test_fields_that_are_alike_keep_their_sections(printed):
    """Two columns would have one name."""
    words = printed(200, {"data.source": "files", "task.source": "wheel", "seed": 1})
    assert words[:4] == ["member", "data.source", "task.source", "seed"]


def test_no_value_is_cut_off(printed):
    """Members whose values differ in their ends would look the same on a narrow terminal."""
    precisions = [f"params=float32,compute=bfloat16,output={output}" for output in ("float32", "bfloat16")]
    words = printed(60, *({"model.precision": precision} for precision in precisions))
    assert "…" not in "".join(words)
    assert len("".join(words)) > sum(map(len, precisions))
