"""Every phase of a run is named and counted, and nothing is compiled twice."""

import copy

import pytest
import tiny_runs
from recorded import Recorder, compilations
from support import by_day

from tformer_jax.config import ConfigError, build
from tformer_jax.data import running_text
from tformer_jax.data.batches import Batches, Part
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.loading import load_run
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.program import TrainingConfig
from tformer_jax.training.run import Run
from tformer_jax.training.running import run_training


@pytest.fixture(scope="module")
def recorded(configs, tmp_path_factory):
    """A run of two steps with two validations, of part of the split; its report; and what was told and compiled."""
    config = copy.deepcopy(configs["causal_lm"])
    config["training"] |= {"steps": 2, "evaluate_every": 1, "validation_batches": 1}
    config["data"] |= {"validation_share": 0.3, "row_length": 12}
    recorder, at = Recorder(), {}
    with compilations() as seconds, pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_text, "EVALUATION_TOKENS", 48)
        patch.setenv("TFORMER_DATA", str(tmp_path_factory.mktemp("data")))  # where nothing has been made

        def validated(step, numbers):
            at[step] = len(seconds)
            return False

        run = Run.start(tmp_path_factory.mktemp("phases") / "run", config)
        found = run_training(run, lambda line: None, validated, recorder)
        at["trained"] = len(seconds)
        splits = ["test", "validation"]
        found[0].evaluate(found[2], found[1], splits, recorder)
        at["reported"] = len(seconds)
        batches = found[1].evaluation_batches("validation")
    return run, found, recorder, at, batches


def test_phases_of_a_run_are_named_in_order_and_counted_to_their_ends(recorded):
    """A run would be silent for minutes: data, compilation, validation, samples, the test."""
    _, (_, data, _), recorder, _, _ = recorded
    names = [phase.what for phase in recorder.phases]
    tokens = {split: sum(map(len, data.tokens(split).ids)) for split in ("test", "validation")}
    assert names == [
        "reading data", "training a tokenizer", "preparing batches", "tokenizing train", "tokenizing validation",
        "building the model",
        "reading the newest checkpoint", "making the initial parameters", "compiling the step",
        "writing a sample", "validating", "writing a sample", "validating", "writing a checkpoint",
        "writing the last checkpoint",
        "tokenizing test", f"scoring {tokens['test']:,} tokens of test", "writing samples of test",
        f"scoring {tokens['validation']:,} tokens of validation", "writing samples of validation",
    ]  # fmt: skip
    counted = [phase for phase in recorder.phases if phase.total is not None]
    assert [phase.done for phase in counted] == [phase.total for phase in counted]


def test_the_second_validation_and_the_report_compile_nothing(recorded):
    """Of a short run, most of the time would be compiling again what is there."""
    _, _, _, at, _ = recorded
    assert at[2] == at[1] and at["reported"] == at["trained"] == at[2]


@pytest.mark.parametrize("name", by_day(["translation", *tiny_runs.TASKS], 0, 3))
def test_evaluations_share_what_is_compiled(name, finished, trained):
    """The report, and every member and trial with such a model, would compile the loss again."""
    found = trained if name == "translation" else finished(name)
    again = Experiment.from_config(found.run.config).restore_task(found.run.directory)
    recorder, batches = Recorder(), found.data.evaluation_batches("validation")
    wanted = found.task.validate(found.model, batches)
    with compilations() as seconds:
        assert again.validate(found.model, batches, recorder) == wanted
    assert seconds == []
    (phase,) = recorder.phases
    assert (phase.what, phase.done, phase.total) == ("validating", len(batches), len(batches))


def test_a_report_of_translations_counts_sentences(trained):
    """The search, which takes longest, would be silent."""
    recorder = Recorder()
    trained.task.evaluate(trained.model, trained.data, ["test"], recorder)
    search, scoring = recorder.phases
    assert (search.what, search.unit, search.done, search.total) == ("translating, beam of 2", "sentences", 7, 7)
    assert (scoring.what, scoring.done) == ("scoring 7 sentences of test", scoring.total)


@pytest.mark.parametrize("name", by_day(tiny_runs.TASKS[1:], 2))
def test_a_report_counts_what_it_scores(name, finished):
    """Pseudo-perplexity, or a split of many images, would be silent."""
    found, recorder = finished(name), Recorder()
    found.task.evaluate(found.model, found.data, ["test"], recorder)
    names = [phase.what for phase in recorder.phases]
    assert names[0].startswith("scoring ") and names[0].endswith(" of test")
    assert names[1:] == (["pseudo-perplexity", "filling gaps of test"] if "masked" in name else [])
    assert all(phase.done == phase.total for phase in recorder.phases)


def test_a_loaded_run_says_what_it_reads(finished):
    """`evaluate` and `predict` would begin with silence."""
    recorder = Recorder()
    load_run(finished("causal_lm").run, progress=recorder)
    assert [phase.what for phase in recorder.phases] == ["reading the checkpoint"]


# A part of the split -----------------------------------------------------------------------------


class Numbered(Batches):
    """Batches that are their numbers."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def batch(self, i, rows=slice(None)):
        return i

    def row_count(self, i):
        return 100 + i


@pytest.mark.parametrize(("count", "wanted"), [(1, [5]), (2, [2, 7]), (5, [1, 3, 5, 7, 9]), (10, [*range(10)])])
def test_a_part_is_spread_over_the_split(count, wanted):
    """It would be the shortest sentences alone, or one class."""
    part = Part(Numbered(10), count)
    assert [part.batch(i) for i in range(len(part))] == wanted
    assert [part.row_count(i) for i in range(len(part))] == [100 + i for i in wanted]


def test_a_validation_is_of_the_part_and_the_report_of_all(recorded):
    """A validation would take as long as ever, be of other rows each time, or the last numbers be of a part."""
    run, (task, data, model), recorder, _, batches = recorded
    assert len(batches) > 1 and [p.total for p in recorder.named("validating")] == [1, 1]
    assert f"each validation uses 1 of {len(batches)} batches, evenly spread over the split" in data.report
    rows = [row for row in read_metrics(run.metrics_file) if "validation_loss" in row]
    wanted = task.validate(model, Part(batches, 1))["loss"]
    assert rows[-1]["validation_loss"] == pytest.approx(wanted, rel=1e-6)
    assert recorder.named("scoring")[1].total == len(batches)


def test_a_part_without_batches_is_refused():
    """A validation would be of nothing."""
    for count in (0, -1):
        with pytest.raises(ConfigError, match=r"training\.validation_batches must be a positive integer, got"):
            build(TrainingConfig, {"steps": 1, "evaluate_every": 1, "validation_batches": count}, "training")
