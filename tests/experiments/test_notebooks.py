"""The notebooks run from top to bottom, with nothing but what is installed, and keep no outputs."""

import json
import os
import sys

import pytest
from forked import ROOT

FOLDER = ROOT / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


@each
def test_no_outputs_are_kept(file):
    """A change of one line would change pages of pictures, and the file would tell of somebody's machine."""
    cells = json.loads(file.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_every_notebook_is_named_where_one_looks():
    """A notebook would not be found."""
    page = (ROOT / "experiments" / "README.md").read_text("utf-8")
    assert {file.stem for file in NOTEBOOKS} == {"functions", "run", "sweep"}
    assert all(f"](notebooks/{file.name})" in page for file in NOTEBOOKS)


@pytest.fixture
def executed(environment, tmp_path, monkeypatch):
    """`executed(file)`: the notebook with what its cells have printed and drawn, run in an empty folder without a network."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    kernel = environment | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    kernel["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environment["PATH"]])  # whose `python` they call
    for name in os.environ.keys() - kernel.keys():
        monkeypatch.delenv(name)
    for name, value in kernel.items():
        monkeypatch.setenv(name, value)

    def executed(file):
        notebook = nbformat.read(file, as_version=4)
        client = nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}})
        return client.execute()

    return executed


def printed(notebook):
    return "".join(o.text for cell in notebook.cells for o in cell.get("outputs", ()) if o.output_type == "stream")


def pictures(notebook):
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


# Of each: pictures, and what it must have printed.
SHOWN = {
    "functions": (3, ()),
    "run": (2, ("600/600", "CausalLM:", "12 + 9 =")),
    "sweep": (2, ("final_loss", "<run runs/best: causal_lm, step 150>")),
}


@pytest.mark.slow
@each
def test_a_notebook_runs(file, executed):
    """A newcomer's first notebook would end in an error, or show nothing."""
    notebook = executed(file)
    count, said = SHOWN[file.stem]
    assert pictures(notebook) >= count
    assert all(text in printed(notebook) for text in said), printed(notebook)
