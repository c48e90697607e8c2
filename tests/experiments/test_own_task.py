"""A task of one's own: trained, evaluated and asked by the commands that know no task by name."""

import re

import pytest
import tiny_runs

TASK = """
from experiments.extensions.sentence_regression import SentenceRegression
from tformer_jax.config import COUNT, field
from tformer_jax.tasks import TASKS, TextPrediction


@TASKS.register("rounded")
class Rounded(SentenceRegression):
    class Prediction(TextPrediction):
        digits: int = field(3, COUNT, help="Digits of the number.")

    def predict(self, model, asked, progress):
        for line in super().predict(model, asked, progress):
            number, text = line.split("\\t")
            yield f"{float(number):.{asked.digits}f}\\t{text}"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, here):
    """A finished run of the task, and what the command said."""
    place = tmp_path_factory.mktemp("own task")
    (place / "task.py").write_text(TASK)
    labelled = (tiny_runs.files(tmp_path_factory.getbasetemp()) / "labelled.tsv").read_text().splitlines()
    ratings = (f"{len(line.split()) / 4}\t{line.split(chr(9))[1]}" for line in labelled)
    (place / "ratings.tsv").write_text("".join(f"{line}\n" for line in ratings))
    settings = {
        "task.name": "rounded", "data.source": "files", "data.path": place / "ratings.tsv", "data.vocab_size": 300,
        "data.validation_size": 8, "data.test_size": 8, "data.batch_tokens": 128, "data.num_buckets": 1,
        "model.d_model": 16, "model.num_layers": 1, "model.attention.num_heads": 2, "model.feed_forward.width": 24,
        "model.max_length": 48, "parallel.data": 1, "training.steps": 8, "training.evaluate_every": 4,
        "optimizer.warmup_steps": 0,
    }  # fmt: skip
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    config = "--config=experiments/configs/text_classification.py:tiny"
    return place / "run", here("train", config, f"--plugin={place / 'task.py'}", f"--workdir={place / 'run'}", *flags)


def test_it_is_trained_and_scored(run):
    """The loop, the validation or the report would ask a task for what it need not have."""
    _, trained = run
    assert trained.returncode == 0, trained.stderr
    first, last = (float(x) for x in re.findall(r"validation loss ([\d.]+)", trained.stdout))
    assert last < first and re.search(r"(?m)^test: loss [\d.]+$", trained.stdout)


def test_its_prediction_has_flags_of_its_own(run, here):
    """A field of its `Prediction` would be no flag, or a flag of another task be taken and turn nothing."""
    found = here("predict", f"--workdir={run[0]}", "--text=the red cat", "--digits=1")
    assert found.returncode == 0 and re.fullmatch(r"-?\d+\.\d\tthe red cat\n", found.stdout), found.stderr
    refused = here("predict", f"--workdir={run[0]}", "--text=the red cat", "--top=2")
    assert refused.stderr.endswith("error: --top has no meaning for rounded; leave it out\n")
    wrong = here("predict", f"--workdir={run[0]}", "--text=the red cat", "--digits=0")
    assert wrong.returncode == 1 and "--digits" in wrong.stderr
