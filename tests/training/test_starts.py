"""Runs that start from a folder of Hugging Face's: its model, its tokenizer, and what of it may be another."""

import copy
import json

import jax
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, decoders, models as tokenizer_models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from tformer_jax import interop, models
from tformer_jax.config import ConfigError, build
from tformer_jax.data import tokenizers
from tformer_jax.data.files import DataError
from tformer_jax.nn.parameters import named
from tformer_jax.training.pretrained import completed, load_folder, save_folder
from tformer_jax.training.run import Run
from tformer_jax.training.running import run_training

SMALL = dict(d_model=16, num_layers=2, scale_embeddings=False)
PARTS = dict(
    attention=dict(num_heads=2), feed_forward=dict(width=24, activation="gelu"), positions=dict(name="learned")
)
BERT = SMALL | PARTS | dict(max_length=48, embedding_norm=True, num_token_types=2)
VIT = dict(d_model=16, num_layers=2, layer=dict(norm_position="pre"), image_size=8, patch_size=4, num_channels=1)
# The model of a folder for each task, and the family that says it.
MODELS = {
    "causal_lm": ("CausalLM", "gpt2", SMALL | PARTS | dict(max_length=48, layer=dict(norm_position="pre"))),
    "masked_lm": ("MaskedLM", "bert", BERT),
    "text_classification": ("MaskedLM", "bert", BERT),
    "image_classification": ("VisionTransformer", "vit", VIT | PARTS | dict(num_classes=5)),
}
# As BERT names its special tokens, in another order than a run has them.
THEIRS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer as one of theirs is, which frames a text itself."""
    made = Tokenizer(tokenizer_models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["the red cat saw a small dog"], BpeTrainer(special_tokens=THEIRS, initial_alphabet=alphabet)
    )
    used = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=used)
    return made


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """`folder(task)`: a folder as theirs is, with room for more tokens than the tokenizer has."""

    def folder(task, name=None, **changes):
        usual, family, fields = MODELS[task]
        name = name or usual
        text = {} if task == "image_classification" else {"vocab_size": tokenizer.get_vocab_size() + 3}
        cls = getattr(models, name)
        place = tmp_path_factory.mktemp("theirs")
        model = cls(build(cls.Config, fields | text | changes, "model"), rngs=nnx.Rngs(1))
        draw = np.random.default_rng(0).standard_normal
        model = jax.tree.map(lambda x: x + 0.1 * draw(x.shape).astype(np.float32), model)  # biases too
        kept = None if task == "image_classification" else tokenizer
        interop.save_pretrained(model, place, family=family, tokenizer=kept)
        return place, model

    return folder


@pytest.fixture
def started(configs):
    """`started(task, folder, changes)`: the config of a run of one step, which changes nothing, from a folder."""

    def started(task, place, changes=None, **fields):
        config = copy.deepcopy(configs[task])
        config["task"]["init_from"] = str(place)
        config["optimizer"]["learning_rate"] = 1e-30
        config["training"] = {"steps": 1, "evaluate_every": 1}
        config["model"] |= fields
        return completed(config, changes or {})

    return started


@pytest.mark.parametrize("task", MODELS)
def test_a_run_starts_from_the_parameters_of_a_folder(started, folder, train, tmp_path, task):
    """Fine-tuning would start from scratch, in part, or as another function of the same parameters."""
    place, model = folder(task)
    found = train(started(task, place), tmp_path / "run")
    held, there = named(found.model), named(model)
    prefixes = ("classifier.", "transform", "output.") if task != "masked_lm" else ()
    body = {path for path in there if not path.startswith(prefixes)}
    assert body <= held.keys() and len(body) > 10
    for path in body:
        np.testing.assert_allclose(held[path], there[path], 0, 1e-20, err_msg=path)
    new = {path for path in held.keys() - body}
    assert all(path.startswith(("classifier.", "encoder.pooler.")) for path in new)
    assert f"{len(body)} arrays are initialised from {place}" in found.said
    if task == "image_classification":
        assert held["classifier.b"].shape == (2,)  # of other classes


def test_a_run_starts_from_a_model_without_a_head(started, folder, train, tmp_path):
    """A bare encoder, whose paths are others, is refused, or none of it is found."""
    place, model = folder("text_classification", "TextEncoder", pooler=True)
    found = train(started("text_classification", place), tmp_path / "run")
    held, there = named(found.model.encoder), named(model)
    assert held.keys() == there.keys() and any("pooler" in path for path in there)
    for path, x in there.items():
        np.testing.assert_allclose(held[path], x, 0, 1e-20, err_msg=path)


@pytest.mark.parity
@pytest.mark.parametrize(("name", "own"), [("Bert", {}), ("Electra", {"embedding_size": 16})])
def test_a_run_starts_from_what_was_pretrained_with_another_head(started, train, tokenizer, tmp_path, name, own):
    """ELECTRA's discriminators, as they are given away, are refused; or BERT's pooler, which the file has, begins anew."""
    transformers = pytest.importorskip("transformers", minversion="5.23")
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    fields = sizes | own | dict(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=48)
    theirs = getattr(transformers, f"{name}ForPreTraining")(getattr(transformers, f"{name}Config")(**fields))
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "theirs")
    found = train(started("text_classification", tmp_path / "theirs"), tmp_path / "run")
    held = named(found.model)
    tensors = {n: x.detach().numpy() for n, x in theirs.named_parameters()}
    table = f"{name.lower()}.embeddings.word_embeddings.weight"
    np.testing.assert_allclose(held["encoder.embedding.table"], tensors[table], 0, 1e-20)
    if name == "Bert":
        np.testing.assert_allclose(held["encoder.pooler.w"], tensors["bert.pooler.dense.weight"].T, 0, 1e-20)


def test_a_run_has_the_tokenizer_of_the_folder(started, folder, train, tokenizer, tmp_path):
    """Texts would be cut, or framed, in another way than the model was trained on."""
    place, model = folder("text_classification")
    found = train(started("text_classification", place), tmp_path / "run")
    assert found.model.config.vocab_size == model.config.vocab_size > found.task.tokenizer.get_vocab_size()
    row = found.data.train_batches().batch(0)["tokens"][0].tolist()
    kept = row[: row.index(2) + 1]
    assert kept[0] == 1 and set(row[len(kept) :]) <= {3}  # [CLS] ... [SEP] [PAD] ...
    assert kept == tokenizer.encode(tokenizer.decode(kept)).ids


def test_a_run_goes_on_without_the_folder(started, folder, train, tmp_path):
    """A run could not be opened once the folder has gone."""
    place, _ = folder("causal_lm")
    config = started("causal_lm", place)
    run = train(config, tmp_path / "run").run
    place.rename(tmp_path / "gone")
    again = train(run.config, run.directory)
    assert not any("initialised from" in line for line in again.said)


def test_what_holds_of_training_alone_is_the_configs(started, folder):
    """Dropout or a kernel that a person asked for would be the folder's."""
    place, _ = folder("masked_lm")
    config = started("masked_lm", place, dropout_rate=0.25, remat="full")
    assert config["model"]["dropout_rate"] == 0.25 and config["model"]["remat"] == "full"
    assert config["model"]["embedding_norm"] and config["model"]["num_layers"] == 2


def test_images_of_another_size_have_interpolated_positions(started, folder, train, tmp_path):
    """Positions of a model of larger images would be cut off, or refused."""
    place, model = folder("image_classification", image_size=16)
    found = train(started("image_classification", place), tmp_path / "run")
    wanted = model.resized(8).positions.table[...]
    np.testing.assert_allclose(found.model.positions.table[...], wanted, 0, 1e-20)


def test_another_function_than_the_folders_is_refused(started, folder, tmp_path):
    """A flag would make another model of the parameters, in silence."""
    place, _ = folder("causal_lm")
    config = started("causal_lm", place, {"model.feed_forward.activation": "relu"})
    with pytest.raises(
        ConfigError, match=r"holds another model: model.feed_forward.activation \('gelu' there, 'relu' here"
    ):
        run_training(Run.start(tmp_path / "run", config), lambda _: None)


def test_an_output_is_untied_where_a_person_says_so(started, folder, train, tmp_path):
    """An adapter of the output cannot be had of a tied model, though its refusal says how; or the output begins anew."""
    place, model = folder("causal_lm")
    config = started("causal_lm", place, {"model.output.tie": False})
    config["training"] |= {"adapter": "lora", "adapter_rank": 2, "adapter_on": ["output.w"]}
    found = train(config, tmp_path / "run")
    tokens = jax.numpy.asarray([[5, 9, 14]])
    np.testing.assert_allclose(found.model(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.model.output.w[...], model.embedding.table[...].T, 0, 1e-20)


@pytest.mark.parametrize(
    ("there", "changes", "message"),
    [
        ({"tie": False}, {"model.output.tie": True}, r"model.output.tie \(False there, True here\)"),
        ({}, {"model.output.softcap": 3.0}, r"model.output.softcap \(None there, 3.0 here\)"),
    ],
)
def test_another_output_than_the_folders_is_refused(started, folder, tmp_path, there, changes, message):
    """A head that was trained would be thrown away, or its logits be others, in silence."""
    place, _ = folder("causal_lm", output=there)
    with pytest.raises(ConfigError, match=f"holds another model: {message}"):
        run_training(Run.start(tmp_path / "run", started("causal_lm", place, changes)), lambda _: None)


def test_a_folder_of_another_kind_of_model_is_refused(started, folder):
    """A classifier of texts would start from what generates them."""
    place, _ = folder("causal_lm")
    with pytest.raises(ConfigError, match="the model of a folder of .* must be one of"):
        started("masked_lm", place)


def test_special_tokens_are_known_by_their_names(tokenizer):
    """Padding would be read as the start of a text, whose number it has in a run."""
    assert tokenizers.special(tokenizer, "pad", "bos", "eos", "mask") == (3, 1, 2, 4)
    assert tokenizers.encode_framed(tokenizer, ["the cat"])[0][0] == 1


def test_documents_are_framed_as_the_folder_says(started, folder, train, tmp_path):
    """A model would be trained on texts between two tokens that it has never seen there."""
    place, _ = folder("causal_lm")
    said = {"bos_token": "[UNK]", "eos_token": {"__type": "AddedToken", "content": "[MASK]"}, "pad_token": "[CLS]"}
    (place / "tokenizer_config.json").write_text(json.dumps(said))
    found = train(started("causal_lm", place), tmp_path / "run")
    batches = found.data.train_batches()
    tokens = np.concatenate([batches.batch(i)["tokens"].reshape(-1) for i in range(len(batches))])
    assert {0, 4} <= set(tokens.tolist()) and 2 not in tokens  # [SEP], the end by its name
    restored = found.task.restore(found.task.config, found.run.directory)
    assert tokenizers.special(restored.tokenizer, "bos", "eos", "pad") == (0, 4, 1)


def test_a_token_that_a_folder_does_not_tell_is_asked_for_before_anything_is_trained(started, folder, tmp_path):
    """Texts would end with a word in silence; or a refused run's files would stand in the way of the mended folder."""
    place, _ = folder("causal_lm")
    words = {f"word {i}": i for i in range(40)}
    Tokenizer(tokenizer_models.WordLevel(words, unk_token="word 0")).save(str(place / "tokenizer.json"))
    (place / "tokenizer_config.json").unlink()
    for name in ("config.json", "generation_config.json"):
        said = json.loads((place / name).read_text())
        (place / name).write_text(json.dumps({key: x for key, x in said.items() if not key.endswith("_token_id")}))
    run = lambda: run_training(Run.start(tmp_path / "run", started("causal_lm", place)), lambda _: None)
    with pytest.raises(ConfigError, match="say which is, as bos_token in tokenizer_config.json"):
        run()
    (place / "tokenizer_config.json").write_text(json.dumps({"bos_token": "word 1", "eos_token": "word 2"}))
    run()


def test_a_translation_starts_from_a_folder(config, tokenizer, train, tmp_path):
    """Its targets begin with another token than the model was trained with, its sources lack what the tokenizer adds."""
    fields = SMALL | PARTS | dict(max_length=64, embedding_norm=True, output=dict(bias=True))
    fields["positions"] = dict(name="learned", first=2, scaled=False)
    fields["vocab_size"] = tokenizer.get_vocab_size()
    model = models.Transformer(build(models.Transformer.Config, fields, "model"), rngs=nnx.Rngs(1))
    interop.save_pretrained(model, tmp_path / "theirs", family="bart", tokenizer=tokenizer)
    said = json.loads((tmp_path / "theirs" / "config.json").read_text()) | {"decoder_start_token_id": 2}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(said))
    (tmp_path / "theirs" / "generation_config.json").unlink()
    asked = copy.deepcopy(config)
    asked["task"]["init_from"] = str(tmp_path / "theirs")
    asked["training"], asked["optimizer"]["learning_rate"] = {"steps": 1, "evaluate_every": 1}, 1e-30
    asked["data"]["batch_tokens"] = 64
    found = train(completed(asked, {}), tmp_path / "run")
    np.testing.assert_allclose(found.model.target_embedding.table[...], model.target_embedding.table[...], 0, 1e-20)
    batch = found.data.train_batches().batch(0)
    assert set(batch["target"][:, 0]) == {2} and set(batch["target"][:, 1]) == {1} == set(batch["source"][:, 0])
    assert found.task.restore(found.task.config, found.run.directory).tokenizers.start == 2
    task, loaded = load_folder(tmp_path / "theirs")
    assert task.tokenizers.start == 2 and len(task.translate(loaded, ["the cat"])) == 1
    save_folder(found.task, found.model, tmp_path / "back")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "back" / name).read_text())["decoder_start_token_id"] == 2


def test_a_translation_that_starts_from_a_run_has_its_tokenizers(config, trained, train, tmp_path):
    """The tokens of other sentences would be read with the vectors of those of the old ones."""
    asked = copy.deepcopy(config)
    asked["task"]["init_from"], asked["data"]["seed"] = str(trained.run.directory), 7
    asked["training"] = {"steps": 1, "evaluate_every": 1}
    found = train(asked, tmp_path / "run")
    here, there = ((run.directory / "tokenizer.json").read_bytes() for run in (found.run, trained.run))
    assert here == there


def test_a_translation_needs_a_tokenizer(config, tmp_path):
    """A model of other tokens would be trained with new ones, in silence."""
    fields = SMALL | PARTS | dict(max_length=64, embedding_norm=True, output=dict(bias=True), vocab_size=40)
    fields["positions"] = dict(name="learned", first=2, scaled=False)
    model = models.Transformer(build(models.Transformer.Config, fields, "model"), rngs=nnx.Rngs(1))
    interop.save_pretrained(model, tmp_path / "theirs", family="bart")
    asked = config | {"task": config["task"] | {"init_from": str(tmp_path / "theirs")}}
    with pytest.raises(DataError, match="has no tokenizer.json"):
        run_training(Run.start(tmp_path / "run", completed(asked, {})), lambda _: None)
