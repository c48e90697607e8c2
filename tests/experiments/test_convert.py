"""A run as a folder of Hugging Face's: written, predicted with, loaded by `transformers`."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

TEXT = "the red cat"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`runs(task)`: a finished run whose model a family can say."""
    base, made = tmp_path_factory.getbasetemp(), {}

    def runs(task):
        if task not in made:
            config = copy.deepcopy(tiny_runs.configs(base)[task])
            config["model"] |= {"layer": {"norm_position": "pre"}, "pooling": "cls"}
            if task == "causal_lm":
                del config["model"]["pooling"]
                config["model"] |= {"scale_embeddings": False}
            made[task] = tiny_runs.run_and_train(config, tmp_path_factory.mktemp(task) / "run")
        return made[task]

    return runs


@pytest.fixture
def converted(runs, here, tmp_path):
    """`converted(task)`: the run, its folder, and what the command said."""

    def converted(task):
        found = runs(task)
        said = here("convert", f"--from={found.run.directory}", f"--to={tmp_path / 'folder'}")
        assert said.returncode == 0, said.stderr
        return found, tmp_path / "folder", said.stdout

    return converted


def test_a_language_model_writes_the_same_from_its_folder(converted, here):
    """The folder has another model, another tokenizer, or other special tokens than the run."""
    found, folder, said = converted("causal_lm")
    assert "as GPTNeoXForCausalLM" in said and "not carried: the optimiser's state" in said
    asked = [f"--text={TEXT}", "--greedy", "--max_new_tokens=6"]
    of_run, of_folder = (here("predict", f"--workdir={d}", *asked) for d in (found.run.directory, folder))
    assert of_folder.returncode == 0 and of_folder.stdout == of_run.stdout and of_run.stdout.startswith(TEXT)


def test_a_classifier_of_images_says_the_same_from_its_folder(converted, here, tmp_path_factory):
    """Classes lose their names or order, or images are scaled otherwise."""
    found, folder, _ = converted("image_classification")
    image = tiny_runs.files(tmp_path_factory.getbasetemp()) / "images" / "train" / "dark" / "0.png"
    asked = [f"--image={image}"]
    of_run, of_folder = (here("predict", f"--workdir={d}", *asked) for d in (found.run.directory, folder))
    assert of_folder.stdout == of_run.stdout and "dark" in of_run.stdout
    said = json.loads((folder / "preprocessor_config.json").read_text())
    assert said["image_mean"] == [0.5] and said["size"] == {"height": 8, "width": 8}


def test_images_are_scaled_as_the_folder_says(converted, here, tmp_path_factory):
    """A folder whose images have another mean gives other classes: pixels of it are shifted as the mean is."""
    _, folder, _ = converted("image_classification")
    image = tiny_runs.files(tmp_path_factory.getbasetemp()) / "images" / "train" / "dark" / "0.png"
    asked = [f"--workdir={folder}", f"--image={image}"]
    before = here("predict", *asked).stdout
    said = json.loads((folder / "preprocessor_config.json").read_text()) | {"image_mean": [0.1], "image_std": [0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    after = here("predict", *asked)
    assert after.returncode == 0 and after.stdout != before


@pytest.mark.parametrize("task", ["causal_lm", "image_classification"])
def test_a_run_of_a_folder_says_the_same(converted, here, tmp_path, tmp_path_factory, task):
    """The way back has another model, tokenizer, classes or scaling; or it is no run."""
    _, folder, _ = converted(task)
    said = here("convert", f"--from={folder}", f"--to={tmp_path / 'again'}")
    assert said.returncode == 0, said.stderr
    assert f"of the task {task}, before its first step" in said.stdout and "not carried" in said.stdout
    image = tiny_runs.files(tmp_path_factory.getbasetemp()) / "images" / "train" / "light" / "3.png"
    asked = [f"--image={image}"] if task == "image_classification" else [f"--text={TEXT}", "--greedy"]
    of_folder, of_run = (here("predict", f"--workdir={d}", *asked) for d in (folder, tmp_path / "again"))
    assert of_run.returncode == 0 and of_run.stdout == of_folder.stdout != ""


FAMILY = """
from tformer_jax.interop import FAMILIES


@FAMILIES.register("gpt_outside")
class Outside(FAMILIES["gpt_neox"]):
    architectures = {"GPTOutsideForCausalLM": "CausalLM"}
"""


def test_a_folder_of_a_family_from_outside_is_predicted_with_and_made_a_run(converted, here, tmp_path):
    """A plugin's family is one of Python alone: no command can be told of it, or the run forgets who can read it."""
    _, folder, _ = converted("causal_lm")
    wanted = here("predict", f"--workdir={folder}", f"--text={TEXT}", "--greedy").stdout
    said = json.loads((folder / "config.json").read_text())
    said |= {"model_type": "gpt_outside", "architectures": ["GPTOutsideForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(said))
    (tmp_path / "outside.py").write_text(FAMILY)
    unknown = here("predict", f"--workdir={folder}", f"--text={TEXT}", "--greedy")
    assert unknown.returncode == 1 and "in a file that --plugin names" in unknown.stderr
    plugin = f"--plugin={tmp_path / 'outside.py'}"
    of_folder = here("predict", f"--workdir={folder}", f"--text={TEXT}", "--greedy", plugin)
    assert of_folder.stdout == wanted != "", of_folder.stderr
    made = here("convert", f"--from={folder}", f"--to={tmp_path / 'again'}", plugin)
    assert made.returncode == 0, made.stderr
    assert json.loads((tmp_path / "again" / "config.json").read_text())["plugins"] == [str(tmp_path / "outside.py")]
    assert here("predict", f"--workdir={tmp_path / 'again'}", f"--text={TEXT}", "--greedy").stdout == wanted


def test_a_folder_is_no_run(converted, here):
    """It has a config.json too: a command says what differs, or lacks, and not what to do; or it leaves files there."""
    _, folder, _ = converted("causal_lm")
    before = sorted(folder.iterdir())
    config = "--config=experiments/configs/causal_lm.py:tiny"
    for name, flags in (("evaluate", ()), ("train", [config])):
        said = here(name, *flags, f"--workdir={folder}")
        assert said.returncode == 1 and f"experiments.convert --from={folder} --to=" in said.stderr
    assert sorted(folder.iterdir()) == before


def test_inspect_shows_the_model_of_a_folder(converted, here):
    """The cost is that of the preset's model."""
    found, folder, _ = converted("causal_lm")
    config = ["--config=experiments/configs/causal_lm.py:tiny", f"--config.task.init_from={folder}"]
    said = here("inspect", *config, "--config.data.row_length=16", "--totals_only")
    count = sum(x.size for x in jax.tree.leaves(found.model))
    assert said.returncode == 0 and f"parameters             {count:,}" in said.stdout, said.stderr


@pytest.mark.parity
def test_theirs_goes_on_with_a_text_as_the_run_does(converted):
    """`transformers` reads another text, or writes another one."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.23")
    found, folder, _ = converted("causal_lm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    row = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = theirs(row).logits
    ours = np.asarray(found.model(jnp.asarray(row.numpy())))
    assert np.abs(ours - logits.numpy()).max() <= 2e-5 * np.abs(ours).max()
    assert row[0].tolist() == [1, *tokenizer(TEXT, add_special_tokens=False).input_ids]


def test_a_folder_that_is_not_empty_is_left_alone(runs, here, tmp_path):
    """A folder of something else is overwritten in part."""
    (tmp_path / "notes.txt").write_text("mine")
    said = here("convert", f"--from={runs('causal_lm').run.directory}", f"--to={tmp_path}")
    assert said.returncode == 1 and "is not empty; choose a new folder" in said.stderr


def test_what_no_family_can_say_is_named(here, tmp_path, tmp_path_factory):
    """A model is written as what computes something else."""
    found = tiny_runs.finished(tmp_path_factory.getbasetemp(), "text_classification")
    said = here("convert", f"--from={found.run.directory}", f"--to={tmp_path / 'folder'}")
    assert said.returncode == 1 and "the family 'bert' cannot say" in said.stderr and "pooling='mean'" in said.stderr
    # BERT's own positions have none of the fields of rotary ones: their name is what is to be changed.
    assert "positions.name='rotary'" in said.stderr and "positions.base" not in said.stderr


def test_a_step_of_a_folder_is_refused(converted, here):
    """A folder of theirs has no steps: the flag would be ignored."""
    _, folder, _ = converted("causal_lm")
    said = here("predict", f"--workdir={folder}", "--step=3", f"--text={TEXT}")
    assert said.returncode == 1 and "--step has no meaning" in said.stderr
