"""Adapters against PEFT itself, both ways; and what its files may say that ours does not have."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy
from checkpoints import CASES, golden, outputs, weights, write_checkpoint
from support import quick_jit, tiny_model

from tformer_jax import interop
from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError
from tformer_jax.nn import init_adapter, with_adapter

ON = (".*attention.w_[qv]",)
QKV, TABLE = "transformer.h.{}.attn.c_attn", "transformer.wte"
# A case of `checkpoints`: modules of theirs, paths of ours, and whether linear maps lie as [inputs, outputs] there.
PAIRS = {
    "gpt2": (0, ["c_attn", "mlp.c_proj"], (*ON, ".*w1"), True),
    "llama": (0, ["q_proj", "down_proj", "lm_head", "embed_tokens"], (*ON, "output.w", "embedding.table"), False),
    "bert masked": (0, ["query", "dense"], (*ON, "transform.w"), False),
    # Head by head; fused beside a gate; layers of two kinds, of which one has an adapter; two stacks.
    "bloom": (0, ["query_key_value"], ON, False),
    "phi3": (0, ["qkv_proj", "gate_up_proj"], (".*w_v", ".*w_gate"), False),
    "gemma2": (0, ["q_proj"], (".*layers.1.attention.w_q",), False),
    "bart": (0, ["q_proj", "fc1"], (".*cross_attention.w_[qv]",), False),
    "t5": (1, ["q", "wo"], (".*cross_attention.w_[ko]",), False),
}  # fmt: skip


def drawn(model, on=ON, rank=3, seed=1):
    """An adapter of numbers that are all there: A B is as large as a matrix."""
    draw = np.random.default_rng(seed)
    adapter = init_adapter(model, on, rank, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.4 * draw.standard_normal(x.shape), jnp.float32), adapter)


def assert_near(found, wanted, tolerance):
    """Within a share of the largest."""
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


# Against PEFT ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, tmp_path_factory):
    """A model of theirs, a folder that it is in, ours, and what `PAIRS` says of adapters."""
    pytest.importorskip("peft")
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("transformers", minversion="5.23")
    number, *about = PAIRS[request.param]
    architecture, configs = CASES[request.param]
    cls, folder = getattr(theirs, architecture), tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    cls(cls.config_class(**configs[number])).save_pretrained(folder)
    return cls, folder, interop.load_pretrained(folder)[0], *about


def peft_with(cls, folder, **config):
    """Their model with a new adapter, of random numbers."""
    import peft
    import torch

    torch.manual_seed(1)
    given = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "init_lora_weights": False, "lora_dropout": 0.1} | config)
    return peft.get_peft_model(cls.from_pretrained(folder), given).eval()


def theirs_of(model):
    """The logits of their model, where a text is no padding."""
    import torch
    from make_golden import outputs as outputs_of

    with torch.no_grad():
        return outputs_of(model)["logits"].numpy()


def ours_of(model):
    return np.asarray(quick_jit(outputs)(model)["logits"])


@pytest.mark.parity
def test_theirs_is_loaded(pair, tmp_path):
    """A part of a fused map has another's B, or a layer another's scale."""
    cls, folder, model, modules, *_ = pair
    theirs = peft_with(cls, folder, target_modules=modules)
    theirs.save_pretrained(tmp_path)
    adapter, scale = interop.load_adapter(tmp_path, model)
    assert scale == 1.5
    wanted, found = theirs_of(theirs.base_model.model), ours_of(with_adapter(model, adapter, scale))
    assert np.abs(ours_of(model) - wanted).max() > 1e-2 * np.abs(wanted).max()
    assert_near(found, wanted, 2e-5)
    assert_near(found, theirs_of(theirs.merge_and_unload()), 2e-5)
    interop.save_adapter(model, adapter, tmp_path / "back", scale=scale)
    first, again = (safetensors.numpy.load_file(x / "adapter_model.safetensors") for x in (tmp_path, tmp_path / "back"))
    for name, x in first.items():
        assert name.endswith("base_layer.weight") or np.array_equal(again[name], x)


@pytest.mark.parity
def test_ours_is_loaded(pair, tmp_path):
    """PEFT finds no module, another rank or scale than the tensors', or a block in another's place; merged or not."""
    import peft

    cls, folder, model, _, on, transposed = pair
    adapter = drawn(model, on)
    interop.save_adapter(model, adapter, tmp_path / "ours", scale=0.7, base=str(folder))
    theirs = peft.PeftModel.from_pretrained(cls.from_pretrained(folder), tmp_path / "ours").eval()
    merged = with_adapter(model, adapter, 0.7)
    wanted, found = theirs_of(theirs.base_model.model), ours_of(merged)
    assert np.abs(ours_of(model) - wanted).max() > 1e-2 * np.abs(wanted).max()
    assert_near(found, wanted, 2e-5)
    said = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert said["fan_in_fan_out"] is transposed and said["base_model_name_or_path"] == str(folder)
    interop.save_pretrained(merged, tmp_path / "merged")
    assert_near(theirs_of(cls.from_pretrained(tmp_path / "merged").eval()), wanted, 1e-5)
    reread = interop.load_adapter(tmp_path / "ours", model)
    assert_near(ours_of(with_adapter(model, *reread)), found, 1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("pair", ["gpt2", "llama"], indirect=True)
def test_ranks_scales_and_layers_of_their_own_are_read(pair, tmp_path):
    """A module has the rank or the scale of another, or a layer without an adapter that of its neighbour."""
    cls, folder, model, (first, second, *_), *_ = pair
    patterns = dict(rank_pattern={first: 2, f"1.*{second}": 3}, alpha_pattern={second: 3})
    theirs = peft_with(cls, folder, target_modules=[first, second], layers_to_transform=[0, 1], **patterns)
    theirs.save_pretrained(tmp_path)
    found = ours_of(with_adapter(model, *interop.load_adapter(tmp_path, model)))
    assert_near(found, theirs_of(theirs.base_model.model), 2e-5)


@pytest.mark.parity
@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_gradients_are_theirs(pair, tmp_path):
    """Training would go another way than PEFT's from the same adapter."""
    cls, folder, model, (module, *_), *_ = pair
    theirs = peft_with(cls, folder, target_modules=[module])
    theirs.save_pretrained(tmp_path)
    adapter, scale = interop.load_adapter(tmp_path, model)
    draw = np.random.default_rng(0).standard_normal(theirs_of(theirs.base_model.model).shape).astype(np.float32)
    mixed = lambda adapter: (outputs(with_adapter(model, adapter, scale))["logits"] * draw).sum()
    import torch
    from make_golden import outputs as outputs_of

    (outputs_of(theirs.base_model.model)["logits"] * torch.tensor(draw)).sum().backward()
    wanted = {name: x.grad.numpy().T for name, x in theirs.named_parameters() if "lora_" in name}
    for path, part in quick_jit(jax.grad(mixed))(adapter).items():
        for name in "ab":
            found = np.asarray(part[name][...])
            for layer, x in enumerate(found):
                near = f"layers.{layer}.self_attn.{module}.lora_{name.upper()}.default.weight"
                assert_near(x, next(wanted[full] for full in wanted if full.endswith(near)), 1e-4)
    assert path == "decoder.layers.0.attention.w_q"


# Files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2():
    return tiny_model(
        "CausalLM", positions="learned", norm_position="pre", activation="gelu_tanh", scale_embeddings=False
    )


@pytest.fixture
def saved(gpt2, tmp_path):
    """`saved(said, tensors)`: a folder of ours of GPT-2, in which these are changed; None: taken away."""

    def saved(said, tensors=()):
        interop.save_adapter(gpt2, drawn(gpt2), tmp_path)
        for name, change, read, write in (
            ("adapter_config.json", said, json.loads, lambda x: json.dumps(x).encode()),
            ("adapter_model.safetensors", dict(tensors), safetensors.numpy.load, safetensors.numpy.save),
        ):
            held = read((tmp_path / name).read_bytes()) | change
            (tmp_path / name).write_bytes(write({key: x for key, x in held.items() if x is not None}))
        return tmp_path

    return saved


def test_parts_of_a_fused_map_are_blocks(gpt2, saved):
    """Queries would learn what values did; or a rank or a scale that nobody asked for is written."""
    folder, adapter = saved({}), drawn(gpt2)
    said = json.loads((folder / "adapter_config.json").read_text())
    wanted = dict(peft_type="LORA", task_type="CAUSAL_LM", r=6, lora_alpha=6, target_modules=["c_attn"], bias="none")
    assert {key: said[key] for key in wanted} == wanted and said["rank_pattern"] == said["alpha_pattern"] == {}
    tensors = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{QKV.format(1)}.lora_{x}.weight"] for x in "AB")
    q, v = (adapter[f"decoder.layers.0.attention.w_{x}"] for x in "qv")
    np.testing.assert_array_equal(a, np.concatenate([q["a"][1], v["a"][1]], -1).T)
    np.testing.assert_array_equal(b[:8, :3], q["b"][1].T)
    np.testing.assert_array_equal(b[16:, 3:], v["b"][1].T)
    assert not b[8:16].any() and not b[:8, 3:].any() and not b[16:, :3].any()


def test_narrow_tensors_are_read(gpt2, saved):
    """An adapter in bfloat16, as of many on the hub, could not be read."""
    wide, _ = interop.load_adapter(saved({}), gpt2)
    file = saved({}) / "adapter_model.safetensors"
    narrow = {name: x.astype(jnp.bfloat16) for name, x in safetensors.flax.load_file(file).items()}
    safetensors.flax.save_file(narrow, file)
    found, _ = interop.load_adapter(file.parent, gpt2)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), wide)
    jax.tree.map(np.testing.assert_array_equal, found, rounded)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"use_rslora": True}, "use_rslora=True"),
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication="),
        ({"something_new": 3, "lora_bias": True}, "lora_bias=True|something_new=3"),
    ],
    ids=str,
)
def test_an_option_of_theirs_that_ours_does_not_have_is_named(gpt2, saved, said, named):
    """It would be passed over, and the model be another one."""
    with pytest.raises(ConfigError, match=f"adapter_config.json says .*({named}).*, which is not supported"):
        interop.load_adapter(saved(said), gpt2)


def test_an_adapter_without_a_scale_changes_nothing(gpt2, saved):
    """A scale of 0 is divided by."""
    for said, wanted in (({"lora_alpha": 0}, 0.0), ({"alpha_pattern": {"0.attn.c_attn": 0}}, 1.0)):
        adapter, scale = interop.load_adapter(saved(said), gpt2)
        assert scale == wanted
        merged = with_adapter(gpt2, adapter, scale).decoder.layers[0].attention.w_q[...]
        change = np.abs(merged - gpt2.decoder.layers[0].attention.w_q[...]).max(axis=(1, 2, 3))
        assert change[0] == 0 and (change[1] > 0) == (wanted > 0)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"lora_alpha": float("nan")}, "cannot read .*adapter_config.json: lora_alpha must be finite, got nan"),
        ({"alpha_pattern": [1]}, "cannot read .*adapter_config.json"),
        ({"r": 5}, "of another rank: transformer.h.0.attn.c_attn has 6, and adapter_config.json says 5"),
        ({"rank_pattern": {"c_attn": 0}}, "of another rank: transformer.h.0.attn.c_attn has 6, .* says 0"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_named(gpt2, saved, said, message):
    """A model of no numbers, a traceback, or the scale of another rank than PEFT has it."""
    with pytest.raises(DataError, match=message):
        interop.load_adapter(saved(said), gpt2)


@pytest.mark.parametrize(
    ("on", "rank", "message"),
    [
        ((".*w_q",), 0, "rank must be a positive integer, got 0"),
        ((".*w_q",), -1, "rank must be a positive integer, got -1"),
        (("(",), 1, r"'\(' is no regular expression: missing \)"),
        ((), 1, "needs a regular expression .* got none"),
        ((".*w_z",), 1, "no matrix has a path that matches '.*w_z'"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(gpt2, on, rank, message):
    """It would be of nothing, have parameters that nothing needs, or end in a traceback."""
    with pytest.raises(ConfigError, match=message):
        init_adapter(gpt2, on, rank, jax.random.key(0))


@pytest.mark.parametrize(("on", "scale"), [(ON, float("nan")), (ON, float("inf")), ((), 1.0)])
def test_an_adapter_of_nothing_is_not_saved(gpt2, tmp_path, on, scale):
    """A file is written that no JSON reader takes, or that holds nothing."""
    with pytest.raises(ValueError, match="needs a matrix that it is on and a finite scale"):
        interop.save_adapter(gpt2, drawn(gpt2) if on else {}, tmp_path / "a", scale=scale)
    assert not (tmp_path / "a").exists()


A, B = (f"base_model.model.{QKV.format(0)}.lora_{x}.weight" for x in "AB")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({B: None}, r"misshapen: transformer.h.0.attn.c_attn must have A \[r, 8\] and B \[24, r\], got \[\[6, 8\], 'none'\]"),
        ({A: np.zeros((6, 9), np.float32)}, r"misshapen: .* got \[\[6, 9\], \[24, 6\]\]"),
        ({A: np.zeros((0, 8), np.float32), B: np.zeros((24, 0), np.float32)}, r"misshapen: .* got \[\[0, 8\], \[24, 0\]\]"),
        ({"base_model.model.x.lora_A.weight": np.zeros((6, 9), np.float32)}, "unexpected: x"),
        ({"base_model.model.lm_head.bias": np.zeros(3, np.float32)}, "unexpected: base_model.model.lm_head.bias"),
        ({A.replace("lora_A", "base_layer"): np.zeros((8, 24), np.float32)}, "of another model: .*attn.c_attn.base_layer is"),
        ({f"base_model.model.{QKV.format(i)}.lora_{x}.weight": None for i in (0, 1) for x in "AB"}, "it holds none"),
    ],
    ids=["no B", "another width", "no rank", "no such module", "no adapter", "another base", "nothing"],
)  # fmt: skip
def test_tensors_that_are_not_of_the_model_are_named(gpt2, saved, tensors, message):
    """The error would be of NumPy, or an adapter be of a part of what its file holds."""
    with pytest.raises(DataError, match=f"is no adapter of this model:\n.*{message}"):
        interop.load_adapter(saved({}, tensors), gpt2)


def test_files_that_cannot_be_read_are_named(gpt2, saved):
    """A pickled file would be run, or a damaged one end in a traceback."""
    folder = saved({"alpha_pattern": {"(": 3}})
    with pytest.raises(DataError, match="cannot read .*adapter_config.json: missing \\)"):
        interop.load_adapter(folder, gpt2)
    with pytest.raises(DataError, match=f"cannot read .*: {A} is of I32: all must be one of"):
        interop.load_adapter(saved({"alpha_pattern": {}}, {A: np.zeros((6, 8), np.int32)}), gpt2)
    with pytest.raises(DataError, match=f"float32 cannot hold the values of {A}, such as 1e.39"):
        interop.load_adapter(saved({}, {A: np.full((6, 8), 1e39)}), gpt2)
    file = saved({"alpha_pattern": {}}) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataError, match="cannot read .*adapter_model.safetensors: "):
        interop.load_adapter(folder, gpt2)
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(DataError, match="adapter_model.bin: such a file may run code"):
        interop.load_adapter(folder, gpt2)


def test_a_tied_table_is_refused_both_ways(gpt2, saved):
    """Merged, an adapter of the head would change the embeddings too, and PEFT's unmerged model would be another one."""
    for module, shapes in (("lm_head", ((2, 8), (13, 2))), (TABLE, ((2, 13), (8, 2)))):
        names = [f"lora_embedding_{x}" if module == TABLE else f"lora_{x}.weight" for x in "AB"]
        tensors = {f"base_model.model.{module}.{n}": np.ones(s, np.float32) for n, s in zip(names, shapes, strict=True)}
        with pytest.raises(ConfigError, match="tied.*: .*untie them first"):
            interop.load_adapter(saved({}, tensors), gpt2)
    untied = tiny_model("CausalLM", **{"output.tie": False})
    adapter = drawn(untied, ("embedding.table",))
    with pytest.raises(ConfigError, match="embedding.table .* tied: .* changes the other too.*untie them first"):
        interop.save_adapter(gpt2, adapter, "nowhere")


@pytest.mark.parametrize(
    ("family", "number", "on", "message"),
    [
        ("vit", 0, "patch_embedding.w", "patch_embedding.w is .*projection.weight there, no linear map or table"),
        ("vit", 0, "positions.table", "positions.table is .*position_embeddings there, no linear map or table"),
        ("t5", 1, "target_embedding.table", "target_embedding.table is one table for sources and targets"),
    ],
)
def test_what_peft_has_no_adapter_for_is_named(family, number, on, message, tmp_path):
    """A file would be written that PEFT reads as something else, or not at all."""
    case = golden(family)[number]
    heads = {"lm_head.weight": case["shapes"]["shared.weight"]} if family == "t5" else {}  # of its own
    write_checkpoint(tmp_path, case["config"], weights(case["shapes"] | heads))
    model, _ = interop.load_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=message):
        interop.save_adapter(model, drawn(model, (on,)), tmp_path)


def test_another_models_adapter_is_not_saved(gpt2, tmp_path):
    """Parts of it would be left out in silence."""
    with pytest.raises(ValueError, match="the model has no parameter encoder.layers.0.attention.w_q"):
        interop.save_adapter(gpt2, drawn(tiny_model("Transformer"), (r"encoder.*attention.w_q",)), tmp_path)
