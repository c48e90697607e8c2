"""A source of documents from a plugin's file: trained on, resumed and evaluated as any other; batches of one's own."""

import copy

import jax
import pytest

from tformer_jax.config import ConfigError
from tformer_jax.data.batches import Batches, checked
from tformer_jax.data.files import DataError
from tformer_jax.registry import load_plugin
from tformer_jax.training.loading import load_run
from tformer_jax.training.running import load_data

PLUGIN = '''
"""Sums, to be continued."""

from tformer_jax.data.sources import DOCUMENTS, Document


@DOCUMENTS.register("sums")
def sums(count: int = 20):
    return [Document(f"{n}", "".join(f"{n} + {m} = {n + m}\\n" for m in range(9))) for n in range(count)]
'''


def test_a_source_of_one_s_own_is_trained_on_and_evaluated(configs, train, tmp_path):
    """An idea of what to train on would need edits inside the package; or a run would not see that its data changed."""
    (tmp_path / "sums.py").write_text(PLUGIN)
    load_plugin(str(tmp_path / "sums.py"))
    config = copy.deepcopy(configs["causal_lm"])
    config["data"] |= {"source": "sums", "source_options": "count=30", "path": None}
    config["training"] |= {"steps": 2, "evaluate_every": 2}
    first = train(config, tmp_path / "run")
    again = train(config, tmp_path / "run")
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first.model, again.model)
    assert jax.tree.all(same)
    experiment, task, model = load_run(first.run)
    data = load_data(experiment, first.run.directory, fresh=False)
    assert data.report[0].endswith("documents (sums, split by document)")
    assert set(task.evaluate(model, data, ["test"])["test"].metrics) >= {"loss", "bits_per_byte"}
    config["data"]["source_options"] = "count=31"
    with pytest.raises(DataError, match="the data are not those of"):
        load_data(type(experiment).from_config(config), first.run.directory, fresh=False)


class Half:
    one_shape = True

    def __len__(self):
        return 1

    def batch(self, i, rows=slice(None)):
        return {}


class Inherited(Batches):
    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ("batches", "lacking"),
    [
        (Half(), r"row_count\(\), filler"),
        (Inherited(), r"row_count\(\), batch\(\)"),
        ([{}], r"row_count\(\), batch\(\), one_shape, filler"),
    ],
)
def test_batches_that_lack_something_are_refused_by_its_name(batches, lacking):
    """The error would be an attribute's, on a mesh alone, or after a long training."""
    with pytest.raises(ConfigError, match=rf"the batches of a task lack {lacking}.*: {type(batches).__name__} must"):
        checked(batches, "the batches of a task")


def test_batches_of_one_s_own_need_three_methods():
    class Whole(Inherited):
        def row_count(self, i):
            return 1

        def batch(self, i, rows=slice(None)):
            return {}

    batches = Whole()
    assert checked(batches, "the batches of a task") is batches
    assert (batches.one_shape, dict(batches.filler)) == (False, {})
