"""Folders as they are found: old spellings, ties, shards; and what is wrong with them, in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoints import TOKENS, golden, read_tensors, weights, write_checkpoint
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P
from support import quick_jit, registered, tiny_model
from tokenizers import Tokenizer, models as tokenizer_models

from tformer_jax import interop, models
from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError
from tformer_jax.interop import files
from tformer_jax.interop.files import Tensors


@pytest.fixture
def llama():
    """The config and the tensors of a small Llama."""
    case = golden("llama")[0]
    return case["config"], weights(case["shapes"])


def logits_of(model):
    return np.asarray(quick_jit(lambda model: model(jnp.asarray(TOKENS)))(model))


def loaded(folder, config, tensors, **how):
    write_checkpoint(folder, config, tensors)
    return interop.load_pretrained(folder, **how)[0]


# What is found ---------------------------------------------------------------------------------


def test_old_spellings_of_rope_are_read(tmp_path, llama):
    """`rope_theta` and `rope_scaling`, which every older file has, are ignored."""
    config, tensors = golden("llama")[3]["config"], weights(golden("llama")[3]["shapes"])
    wanted = logits_of(loaded(tmp_path / "new", config, tensors))
    old = dict(config)
    said = old.pop("rope_parameters")
    old |= {"rope_theta": said.pop("rope_theta"), "rope_scaling": {"type": said.pop("rope_type"), **said}}
    old["torch_dtype"] = old.pop("dtype", "float32")
    np.testing.assert_array_equal(logits_of(loaded(tmp_path / "old", old, tensors)), wanted)


def test_a_base_model_has_no_prefix(tmp_path):
    """The oldest file of GPT-2 names no "transformer.", and holds masks."""
    case = golden("gpt2")[0]
    tensors = {name.removeprefix("transformer."): x for name, x in weights(case["shapes"]).items()}
    wanted = logits_of(loaded(tmp_path / "new", case["config"], weights(case["shapes"])))
    masks = {f"h.{i}.attn.bias": np.ones((1, 1, 12, 12), np.float32) for i in range(3)}
    model = loaded(tmp_path / "old", case["config"] | {"n_ctx": 12, "architectures": None}, tensors | masks)
    np.testing.assert_array_equal(logits_of(model), wanted)
    assert model.origin.left_over == tuple(sorted(masks))


def test_gamma_and_beta_are_weight_and_bias(tmp_path):
    """A norm of a file that was converted from TensorFlow is missing."""
    case = golden("gpt2")[0]
    tensors = weights(case["shapes"])
    renamed = {
        name.replace("ln_1.weight", "ln_1.gamma").replace("ln_1.bias", "ln_1.beta"): x for name, x in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    ours = (loaded(tmp_path / str(i), case["config"], x) for i, x in enumerate((tensors, renamed)))
    np.testing.assert_array_equal(*map(logits_of, ours))


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("said", [True, False])
def test_a_file_without_a_head_is_tied(tmp_path, llama, said):
    """The config is believed: a head is random, as transformers' is."""
    config, tensors = llama
    del tensors[HEAD]
    assert loaded(tmp_path, config | {"tie_word_embeddings": said}, tensors).config.output.tie


@pytest.mark.parametrize("said", [True, False])
def test_a_head_of_its_own_is_kept(tmp_path, llama, said):
    """The config is believed: a head that was trained is thrown away."""
    config, tensors = llama
    model = loaded(tmp_path, config | {"tie_word_embeddings": said}, tensors)
    assert not model.config.output.tie
    np.testing.assert_array_equal(model.output.w[...].T, tensors[HEAD])
    interop.save_pretrained(model, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_head_alone_is_the_embedding_too(tmp_path, llama):
    """A tied file that kept the other name of the one table cannot be read."""
    config, tensors = llama
    wanted = tensors[HEAD]
    del tensors[EMBEDDING]
    model = loaded(tmp_path, config | {"tie_word_embeddings": True}, tensors)
    assert model.config.output.tie
    np.testing.assert_array_equal(model.embedding.table[...], wanted)


def test_a_head_that_is_the_embedding_is_tied(tmp_path, llama):
    """A tied table that was saved twice drifts apart in training."""
    config, tensors = llama
    tensors[HEAD] = tensors[EMBEDDING]
    assert loaded(tmp_path / "tied", config | {"tie_word_embeddings": True}, tensors).config.output.tie
    assert not loaded(tmp_path / "apart", config | {"tie_word_embeddings": False}, tensors).config.output.tie


def test_shards_are_written_and_read(tmp_path, llama):
    """A tensor is in two shards, in none, or in another than the index says."""
    model = loaded(tmp_path / "one", *llama)
    interop.save_pretrained(model, tmp_path / "many", shard_bytes=4000)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    held = {name: file for file in files for name in safetensors.numpy.load_file(tmp_path / "many" / file)}
    assert held == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in llama[1].values())
    assert all((tmp_path / "many" / file).stat().st_size < 4000 + 2000 for file in files)
    again, _ = interop.load_pretrained(tmp_path / "many")
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(again), jax.tree.leaves(model))


@pytest.mark.parametrize("before", [4000, 6000, 1 << 20])
@pytest.mark.parametrize("after", [4000, 1 << 20])
def test_what_was_saved_there_before_is_gone(tmp_path, llama, before, after):
    """The index of an earlier save is read before the file of a later one, or shards are left that nobody reads."""
    old = loaded(tmp_path / "old", llama[0], {name: x + 1 for name, x in llama[1].items()})
    new = loaded(tmp_path / "new", *llama)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.safetensors").write_bytes(b"")
    interop.save_pretrained(old, tmp_path / "there", shard_bytes=before)
    interop.save_pretrained(new, tmp_path / "there", shard_bytes=after)
    np.testing.assert_array_equal(logits_of(interop.load_pretrained(tmp_path / "there")[0]), logits_of(new))
    interop.save_pretrained(new, tmp_path / "fresh", shard_bytes=after)
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        "mine.safetensors", *(path.name for path in (tmp_path / "fresh").iterdir())
    }  # fmt: skip


def test_a_single_file_comes_before_an_index(tmp_path, llama):
    """Where both are there, transformers reads the one and we the other."""
    model = loaded(tmp_path, *llama)
    safetensors.numpy.save_file({name: x + 1 for name, x in llama[1].items()}, tmp_path / "1.safetensors")
    where = dict.fromkeys(llama[1], "1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    again, _ = interop.load_pretrained(tmp_path)
    np.testing.assert_array_equal(again.output.w[...], model.output.w[...])


def test_a_folder_with_tensors_is_a_model_that_lacks_something(tmp_path, llama):
    """It is taken for a run, and the error says that it has no checkpoint."""
    loaded(tmp_path, *llama)
    (tmp_path / "config.json").write_text("{}")
    assert interop.is_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert interop.is_pretrained(tmp_path) and not interop.is_pretrained(tmp_path / "no folder")


def test_a_save_that_ends_halfway_is_no_model(tmp_path, llama, monkeypatch):
    """Tensors of one model would be read with the config of another that lay there before, without a word."""
    model = loaded(tmp_path / "there", *llama)
    (tmp_path / "there" / "generation_config.json").write_text('{"eos_token_id": 7}')

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        interop.save_pretrained(model, tmp_path / "there")
    with pytest.raises(DataError, match="has no config.json"):
        interop.load_pretrained(tmp_path / "there")
    monkeypatch.undo()
    interop.save_pretrained(model, tmp_path / "there")
    assert interop.is_pretrained(tmp_path / "there") and not (tmp_path / "there" / "generation_config.json").exists()


def test_names_of_tensors_come_back_as_they_were(tmp_path):
    """A file of GPT-2's, which names no "transformer.", or one of TensorFlow's comes back with other names."""
    case = golden("gpt2")[0]
    old = lambda name: (
        name.removeprefix("transformer.").replace("ln_1.weight", "ln_1.gamma").replace("ln_1.bias", "ln_1.beta")
    )
    tensors = {old(name): x for name, x in weights(case["shapes"]).items()}
    interop.save_pretrained(loaded(tmp_path / "theirs", case["config"], tensors), tmp_path / "back")
    back = read_tensors(tmp_path / "back")
    assert back.keys() == tensors.keys() and "h.0.ln_1.gamma" in back
    for name, x in tensors.items():
        np.testing.assert_array_equal(back[name], x)
    np.testing.assert_array_equal(*(logits_of(interop.load_pretrained(tmp_path / n)[0]) for n in ("theirs", "back")))


def test_zeros_that_a_file_leaves_out_are_left_out_until_they_are_none(tmp_path):
    """A tensor comes back that was never there; or what was trained of it is lost."""
    case = golden("marian")[0]
    tensors = weights(case["shapes"])
    del tensors["final_logits_bias"]
    model = loaded(tmp_path / "theirs", case["config"], tensors)
    interop.save_pretrained(model, tmp_path / "back")
    assert read_tensors(tmp_path / "back").keys() == tensors.keys()
    model.output.b[...] = model.output.b[...] + 1
    interop.save_pretrained(model, tmp_path / "back")
    assert (read_tensors(tmp_path / "back")["final_logits_bias"] == 1).all()


def test_values_are_cast_on_the_way(tmp_path, llama):
    """`dtype` is that of the computation alone, or values are rounded twice."""
    model = loaded(tmp_path, *llama, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(model)} == {jnp.dtype(jnp.bfloat16)}
    wanted = jnp.asarray(llama[1][EMBEDDING]).astype(jnp.bfloat16)
    np.testing.assert_array_equal(model.embedding.table[...], wanted)
    assert model(jnp.asarray(TOKENS)).dtype == jnp.float32


def test_each_array_lies_where_it_is_to(tmp_path, llama):
    """All of a model that needs its mesh is on one device first, and stays there."""
    mesh = jax.make_mesh((8,), ("rows",))
    split = lambda path, info: NamedSharding(mesh, P("rows") if info.shape[0] % 8 == 0 and "norm" in path else P())
    model = loaded(tmp_path, *llama, place=split)
    assert model.decoder.final_norm.gamma[...].sharding.spec == P("rows")
    np.testing.assert_array_equal(model.decoder.final_norm.gamma[...], llama[1]["model.norm.weight"])


def test_a_bias_of_the_logits_may_be_missing(tmp_path):
    """A file of Marian's that leaves out a bias of zeros, as theirs may, is refused, or has a bias that is not zero."""
    case = golden("marian")[0]
    tensors = weights(case["shapes"])
    del tensors["final_logits_bias"]
    assert not loaded(tmp_path, case["config"], tensors).output.b[...].any()


def test_what_ours_has_no_use_for_is_kept(tmp_path):
    """A tensor that theirs trains is lost on the way through ours; or a copy of the model is another structure."""
    case = golden("dinov2")[0]
    tensors = weights(case["shapes"])
    model = loaded(tmp_path / "theirs", case["config"], tensors)
    model = jax.tree.map(lambda x, y: x + 0 * y, model, interop.load_pretrained(tmp_path / "theirs")[0])
    interop.save_pretrained(model, tmp_path / "back")
    np.testing.assert_array_equal(
        read_tensors(tmp_path / "back")["embeddings.mask_token"], tensors["embeddings.mask_token"]
    )


@pytest.mark.parametrize(("name", "ours"), [("TextEncoder", "TextEncoder"), ("BertModel", "TextEncoder")])
def test_a_folder_is_loaded_as_the_model_that_is_asked_for(tmp_path, name, ours):
    """A classifier's encoder cannot be had without its head, by either name."""
    case = golden("bert classifier")[0]
    whole = loaded(tmp_path, case["config"], weights(case["shapes"]))
    found, _ = interop.load_pretrained(tmp_path, model=name)
    assert type(found).__name__ == ours and set(found.origin.left_over) == {"classifier.bias", "classifier.weight"}
    np.testing.assert_array_equal(found.embedding.table[...], whole.encoder.embedding.table[...])


def test_a_model_of_our_own_is_saved_as_what_can_say_it(tmp_path):
    """A model that was trained here cannot be given away."""
    config = models.CausalLM.Config.preset(
        "gpt2",
        vocab_size=29,
        d_model=16,
        num_layers=2,
        max_length=12,
        attention={"num_heads": 4},
        feed_forward={"width": 24},
    )
    model = models.CausalLM(config, rngs=nnx.Rngs(0))
    interop.save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gpt2"
    np.testing.assert_array_equal(logits_of(interop.load_pretrained(tmp_path)[0]), logits_of(model))


def test_what_was_changed_after_loading_is_said(tmp_path, llama):
    """The `config.json` of before is written for a model that is another by now."""
    model = loaded(tmp_path / "theirs", *llama)
    model.config = model.config.changed(max_length=99)
    interop.save_pretrained(model, tmp_path / "ours")
    said = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert said["max_position_embeddings"] == 99
    assert said["rope_parameters"] == llama[0]["rope_parameters"]


def test_a_tokenizer_goes_with_the_model(tmp_path, llama):
    """The tokens of a text are another model's."""
    tokenizer = Tokenizer(tokenizer_models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    model = loaded(tmp_path / "theirs", *llama)
    interop.save_pretrained(model, tmp_path / "ours", tokenizer=tokenizer)
    assert interop.load_pretrained(tmp_path / "ours")[1].to_str() == tokenizer.to_str()


def test_a_family_comes_from_outside(tmp_path, llama):
    """Only the families of the package can be read."""

    class Lhama(interop.FAMILIES["llama"]):
        architectures = {"LhamaForCausalLM": "CausalLM"}

    with registered([(interop.FAMILIES, "lhama", Lhama)]):
        config, tensors = llama
        wanted = logits_of(loaded(tmp_path / "llama", config, tensors))
        config = config | {"model_type": "lhama", "architectures": ["LhamaForCausalLM"]}
        model = loaded(tmp_path / "lhama", config, tensors)
        np.testing.assert_array_equal(logits_of(model), wanted)
        interop.save_pretrained(model, tmp_path / "back")
        assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == ["LhamaForCausalLM"]


# What is wrong ---------------------------------------------------------------------------------

CONFIGS = {
    "no such family": (
        {"model_type": "lama"},
        "model_type must be one of .*did you mean 'llama'.*plugin can add a family",
    ),
    "no family": ({"model_type": None}, "model_type must be one of"),
    "a scaling": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        "rope_type='dynamic', which is not supp",
    ),
    "an unknown key": ({"quantization_config": {"bits": 4}}, r"quantization_config=.*'llama' does not know"),
    "an activation": ({"hidden_act": "gelu_10"}, "hidden_act='gelu_10'; known are"),
    "a number for architectures": ({"architectures": 3}, "architectures must be a list of names of classes, got 3"),
    "a part of each head": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5, which is not supp"),
    "an architecture": (
        {"architectures": ["LlamaForTokens"]},
        r"architectures=\['LlamaForTokens'\].*say model='CausalLM'",
    ),
    "no factor": ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, r"of rope_parameters.*'factor'"),
    "no heads": ({"num_attention_heads": 0}, "does not say what can be read of .*ZeroDivisionError"),
    "a text for a size": ({"hidden_size": "16"}, "hidden_size|d_model|head_dim"),
    "heads": ({"num_attention_heads": 5, "head_dim": None}, "num_heads=5 must be a multiple of num_kv_heads=2"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_may_not_say_is_named(tmp_path, llama, name):
    """An option that changes the model is ignored."""
    changes, message = CONFIGS[name]
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, llama[0] | changes, llama[1])


REFUSED = {
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "bloom": {"apply_residual_connection_post_layernorm": True}, "gemma": {"use_bidirectional_attention": True},
    "gemma3_text": {"attn_logit_softcapping": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("family", REFUSED)
def test_what_a_family_has_and_ours_does_not_is_refused(tmp_path, family):
    """The model of an option that only theirs has is computed without it."""
    case = golden(family)[0]
    (key,) = REFUSED[family]
    with pytest.raises(ConfigError, match=f"config.json says {key}=.*which is not supported"):
        loaded(tmp_path, case["config"] | REFUSED[family], weights(case["shapes"]))


def test_all_that_is_wrong_with_tensors_is_said_at_once(tmp_path, llama):
    """One finds out about the second after the first was mended."""
    config, tensors = llama
    tensors["extra.weight"] = tensors.pop("model.norm.weight")
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((3, 3), np.float32)
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((24, 16), np.int8)
    with pytest.raises(DataError) as error:
        loaded(tmp_path, config, tensors)
    for line in (
        "missing: model.norm.weight", "unexpected: extra.weight (16,)",
        "misshapen: model.layers.1.mlp.up_proj.weight must be (24, 16), got (3, 3)",
        "of another dtype: model.layers.0.mlp.up_proj.weight must be one of ['F64', 'F32', 'F16', 'BF16'], got I8",
    ):  # fmt: skip
        assert line in str(error.value)


@pytest.mark.parametrize(
    ("kept", "dtype", "value", "message"),
    [
        (
            "float32",
            "float16",
            1e6,
            "float16 cannot hold the values of model.norm.weight, such as 1e.06: load it as float32",
        ),
        ("float64", "float32", 1e39, "float32 cannot hold .* such as 1e.39: no dtype that a model of ours has does"),
        ("float64", None, 1.0, "the tensors are of float64, .*: load them with dtype='float32'"),
    ],
)
def test_a_dtype_that_cannot_hold_the_values_is_refused(tmp_path, llama, kept, dtype, value, message):
    """Weights become infinite, or the error says what cannot help."""
    config, tensors = llama[0], {name: x.astype(kept) for name, x in llama[1].items()}
    tensors["model.norm.weight"][3] = value
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, config, tensors, dtype=dtype)


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def mislabelled(folder):
    (folder / "model.safetensors").write_text("a text")


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def shard_missing(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))


def index_beyond_folder(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def index_of_others(folder):
    (folder / "model.safetensors").rename(folder / "1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))


def in_two_shards(folder):
    """All in one shard, and a tensor in another too, with other values; which is meant?"""
    tensors = read_tensors(folder)
    (folder / "model.safetensors").rename(folder / "1.safetensors")
    safetensors.numpy.save_file({HEAD: tensors[HEAD] + 1}, folder / "2.safetensors")
    where = dict.fromkeys(tensors, "1.safetensors") | {HEAD: "2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def tokenizer_of_another(folder):
    many = {str(i): i for i in range(99)}
    Tokenizer(tokenizer_models.WordLevel(many, unk_token="0")).save(str(folder / "tokenizer.json"))


def tokenizer_with_gaps(folder):
    few = {"a": 0, "b": 98}
    Tokenizer(tokenizer_models.WordLevel(few, unk_token="a")).save(str(folder / "tokenizer.json"))


DAMAGES = {
    truncated: "cannot read .*model.safetensors", mislabelled: "cannot read .*model.safetensors",
    pickled: "pytorch_model.bin: such a file may run code when it is read. Convert it",
    shard_missing: "names model-1.safetensors, which is not there", index_beyond_folder: "needs weight_map, a table from",
    index_of_others: "says that 1.safetensors holds a; it does not",
    in_two_shards: "safetensors and ..safetensors both hold lm_head.weight: take away one of each",
    lambda folder: (folder / "model.safetensors").unlink(): "has neither model.safetensors nor",
    lambda folder: (folder / "config.json").unlink(): "has no config.json: it is no folder of a model",
    lambda folder: (folder / "config.json").write_text("{"): "cannot read .*config.json",
    lambda folder: (folder / "config.json").write_text("[]"): "config.json must hold a table, got list",
    tokenizer_of_another: "has 99 tokens, the model 29: it is another model's",
    tokenizer_with_gaps: "has 99 tokens, the model 29: it is another model's",
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items())
def test_a_damaged_folder_is_refused_in_a_line(tmp_path, llama, damage, message):
    """A traceback, or a model of something else."""
    write_checkpoint(tmp_path, *llama)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        interop.load_pretrained(tmp_path)


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(tmp_path, llama):
    """What was not read is whatever was in memory, or the process is killed by a signal."""
    write_checkpoint(tmp_path, *llama)
    with Tensors(tmp_path) as tensors:
        truncated(tmp_path)
        last = max(tensors.stored, key=lambda name: tensors.stored[name].end)
        with pytest.raises(DataError, match="cannot read .*model.safetensors: it has become shorter"):
            tensors.read(last)


def test_what_lies_otherwise_is_read_in_strips(tmp_path, llama, monkeypatch):
    """The last strip is another, or one lies where the next is to."""
    whole = loaded(tmp_path, *llama)
    monkeypatch.setattr(files, "_STRIP", 100)
    model, cast = (interop.load_pretrained(tmp_path, dtype=dtype)[0] for dtype in (None, "bfloat16"))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(model), jax.tree.leaves(whole))
    rounded = [x.astype(jnp.bfloat16) for x in jax.tree.leaves(whole)]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(cast), rounded)


def test_what_no_family_can_say_is_named(tmp_path):
    """A model is saved as another one."""
    with pytest.raises(ConfigError, match="the family 'llama' cannot say .*positions.name='sinusoidal'"):
        interop.save_pretrained(tiny_model("CausalLM"), tmp_path, family="llama")
    with pytest.raises(ConfigError, match="^no family can say this model; the nearest: "):
        interop.save_pretrained(tiny_model("CausalLM", positions="none"), tmp_path)
    with pytest.raises(ConfigError, match="the family 'llama' has no MaskedLM"):
        interop.save_pretrained(tiny_model("MaskedLM"), tmp_path, family="llama")


def test_tensors_of_theirs_are_whole(tmp_path, llama):
    """A transposed view is written as it lies in memory: another matrix."""
    model = loaded(tmp_path / "theirs", *llama)
    interop.save_pretrained(model, tmp_path / "ours")
    for name, tensor in read_tensors(tmp_path / "ours").items():
        np.testing.assert_array_equal(tensor, llama[1][name], name)
