"""Experiments with tokenizers and tokens from elsewhere, as a user runs them: trained, reported on, predicted with."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

WORDS = "the red cat saw a small dog on that old green hill today".split()
TEXTS = [" ".join(WORDS[(i * 5 + j * (1 + i % 3)) % 13] for j in range(3 + i % 8)) + f" {i}" for i in range(60)]
SMALL = {
    "model.d_model": 16,
    "model.attention.num_heads": 2,
    "model.feed_forward.width": 24,
    "model.num_layers": 1,
    "model.max_length": 48,
    "optimizer.warmup_steps": 2,
    "training.steps": 6,
    "training.evaluate_every": 3,
    "checkpoint.every": 3,
    "parallel.data": 1,
    "data.vocab_size": None,
}
DOCUMENTS = SMALL | {"data.row_length": 16, "data.batch_tokens": 64}


def flags(task, workdir, changes):
    config = f"--config=experiments/configs/{task}.py:tiny"
    return [config, f"--workdir={workdir}", *(f"--config.{name}={x}" for name, x in changes.items())]


@pytest.fixture(scope="module")
def lying(tmp_path_factory):
    """Where the files lie: tokenizers of both kinds, and texts of all."""
    lying = tmp_path_factory.mktemp("own tokenizers")
    (lying / "texts").mkdir()
    for i, text in enumerate(TEXTS):
        (lying / "texts" / f"{i:02}.txt").write_text(text + "\n")
    (lying / "pairs.tsv").write_text("".join(f"{text}\t{text.upper()}\n" for text in TEXTS))
    (lying / "labelled.tsv").write_text("".join(f"{'ab'[i % 2]}\t{text}\n" for i, text in enumerate(TEXTS)))
    return lying


@pytest.fixture(scope="module")
def gpt2(lying):
    """A folder with a tokenizer like GPT-2's, and in `lying` the tokens of all texts, as nanoGPT prepares them."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how = dict(special_tokens=["<|endoftext|>"], vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(**how))
    (lying / "gpt2").mkdir()
    made.save(str(lying / "gpt2" / "tokenizer.json"))
    (lying / "tokens").mkdir()
    for name, texts in (("train", TEXTS[:50]), ("val", TEXTS[50:])):
        ids = sum(([*made.encode(text + "\n").ids, 0] for text in texts), [])
        np.array(ids, "<u2").tofile(lying / "tokens" / f"{name}.bin")
    return lying / "gpt2"


@pytest.fixture(scope="module")
def bert(lying):
    """A folder of `transformers` with a WordPiece tokenizer that lowers case and frames texts, as BERT's is."""
    vocabulary = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"0123456789"])}
    vocabulary |= {f"##{digit}": len(vocabulary) + digit for digit in range(10)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    transformers = pytest.importorskip("transformers", minversion="5.23")
    said = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]", unk_token="[UNK]")
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **said).save_pretrained(lying / "bert")
    return lying / "bert"


@pytest.mark.parametrize("boundaries", ["stream", pytest.param("segments", marks=pytest.mark.slow)])
def test_a_language_model_of_a_file_of_tokens(here, lying, gpt2, tmp_path, boundaries):
    """nanoGPT's files could not be trained on; or the run not be used without the files that it was made of."""
    tokens, tokenizer = (shutil.copytree(x, tmp_path / x.name) for x in (lying / "tokens", gpt2))
    given = DOCUMENTS | {"data.source": "tokens", "data.path": tokens, "data.source_options": "end=0"}
    given |= {"data.tokenizer_path": tokenizer, "data.boundaries": boundaries, "data.test_share": 0.2}
    given |= {"data.validation_share": None}
    found = here("train", *flags("causal_lm", tmp_path / "run", given))
    assert found.returncode == 0, found.stderr
    assert (
        f"training tokens, vocabulary of {Tokenizer.from_file(str(tokenizer / 'tokenizer.json')).get_vocab_size()};"
        in found.stdout
    )
    (line,) = [line for line in found.stdout.splitlines() if line.startswith("test:")]
    assert "bits per byte" in line
    shutil.rmtree(tokenizer)
    shutil.rmtree(tokens)
    predicted = here("predict", f"--workdir={tmp_path / 'run'}", "--text=the red", "--greedy", "--max_new_tokens=4")
    assert predicted.returncode == 0 and predicted.stdout.startswith("the red"), predicted.stderr


@pytest.mark.slow
@pytest.mark.parametrize("whole_words", [True, False])
def test_a_masked_language_model_with_berts_tokenizer(here, lying, bert, tmp_path, whole_words):
    """The tokens of a WordPiece vocabulary would be others than `transformers` makes, or a gap not be filled."""
    given = DOCUMENTS | {"data.source": "files", "data.path": lying / "texts", "data.tokenizer_path": bert}
    given |= {"data.whole_words": whole_words, "task.pseudo_perplexity_rows": 2}
    found = here("train", *flags("masked_lm", tmp_path / "run", given))
    assert found.returncode == 0, found.stderr
    predicted = here("predict", f"--workdir={tmp_path / 'run'}", "--text=The red [MASK] saw a dog", "--top=2")
    assert predicted.returncode == 0 and predicted.stdout.startswith("[MASK] 1: "), predicted.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["tokenizer_path"] == str(bert) and config["data"]["vocab_size"] is None


@pytest.mark.slow
def test_translation_and_classification_with_given_tokenizers(here, lying, gpt2, bert, tmp_path):
    """A field of the config would hold for language models alone."""
    sizes = SMALL | {"data.source": "files", "data.validation_size": 6, "data.test_size": 6, "data.batch_tokens": 240}
    pairs = sizes | {"data.tsv_file": lying / "pairs.tsv", "data.split": "sentence", "data.row_length": 48}
    pairs |= {"data.tokenizer_path": gpt2, "task.beam_size": 1, "task.length_penalty": 0}
    labelled = sizes | {"data.path": lying / "labelled.tsv", "data.tokenizer_path": bert, "data.num_buckets": 1}
    for task, given in (("translation", pairs), ("text_classification", labelled)):
        found = here("train", *flags(task, tmp_path / task, given), "--report=short")
        assert found.returncode == 0, found.stderr
        predicted = here("predict", f"--workdir={tmp_path / task}", "--text=the red cat")
        assert predicted.returncode == 0, predicted.stderr


@pytest.mark.slow
def test_what_a_run_would_cost_is_known_before_it_begins(command, lying, gpt2):
    """A plan would be of another vocabulary, or of a guess where the file is not there."""
    given = DOCUMENTS | {"data.source": "tokens", "data.path": lying / "tokens", "data.tokenizer_path": gpt2}
    given |= {"data.source_options": "end=0", "data.validation_share": None}
    config, _, *rest = flags("causal_lm", "", given)
    found = command("inspect", config, *rest)
    size = Tokenizer.from_file(str(gpt2 / "tokenizer.json")).get_vocab_size()
    assert found.returncode == 0 and f" {size} 16 " in found.stdout, found.stdout + found.stderr
    found = command("train", config, *rest, "--dry_run")
    assert found.returncode == 0 and f"vocabulary of {size};" in found.stdout, found.stderr
    found = command("inspect", config, *rest, "--config.data.tokenizer_path=gone.json")
    assert found.returncode == 1 and "cannot load a tokenizer from gone.json" in found.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.init_from": "runs/x"}, "data.tokenizer_path must be None with task.init_from='runs/x', whose model brings"),
        ({"data.vocab_size": 300}, "data.vocab_size must be None with data.tokenizer_path="),
        ({"data.tokenizer_path": "gone"}, "cannot load a tokenizer from gone: No such file"),
        ({"data.tokenizer_path": None}, "data.tokenizer_path is needed with data.source='tokens', or task.init_from"),
        ({"data.path": "gone.bin"}, "cannot read gone.bin: No such file"),
        ({"data.source_options": "end=999"}, "train.bin has no token 999, which should end each document"),
        ({"data.source_options": "dtype=int8"}, "dtype must be 'uint16' or 'uint32', got 'int8'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(here, lying, gpt2, tmp_path, changes, message):
    """A user's slip would end in a traceback, or leave a directory that the corrected command cannot use."""
    given = DOCUMENTS | {"data.source": "tokens", "data.path": lying / "tokens", "data.tokenizer_path": gpt2}
    given |= {"data.source_options": "end=0", "data.validation_share": None} | changes
    found = here("train", *flags("causal_lm", tmp_path / "run", given))
    assert found.returncode == 1 and message in found.stderr, found.stderr
    assert found.stderr.strip().count("\n") == 0 and not (tmp_path / "run" / "tokenizer.json").exists()
