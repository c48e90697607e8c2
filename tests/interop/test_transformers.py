"""Checkpoints against `transformers` itself: what it computes, differentiates, generates, and loads of ours."""

import collections
import copy
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from checkpoints import ATTENDED, CASES, EACH, IMAGES, TARGET, TEXT, T, V, golden, outputs, read_tensors
from support import by_day, quick_jit, tiny_model
from tokenizers import Tokenizer, models as tokenizer_models, pre_tokenizers, processors

from tformer_jax import decoding, functional, interop, models
from tformer_jax.config import ConfigError, leaves, nested
from tformer_jax.data import tokenizers
from tformer_jax.interop import fields
from tformer_jax.interop.pretrained import tensors_of
from tformer_jax.interop.tensors import entries

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.23")
make_golden = pytest.importorskip("make_golden")
pytestmark = pytest.mark.parity

each_case = pytest.mark.parametrize(("family", "number"), by_day(EACH, 0))
DECODERS = [name for name, (architecture, _) in CASES.items() if architecture.endswith(("CausalLM", "LMHeadModel"))]
BARE = ["bert", "roberta", "distilbert", "electra", "modernbert"]
IMAGED = ["vit", "deit", "dinov2", "dinov2 swiglu", "dinov2_with_registers", "clip_vision_model", "siglip_vision_model"]
TWO_SIDED = ["bart", "mbart", "pegasus", "marian", "m2m_100", "t5", "mt5", "umt5"]
each_with_states = pytest.mark.parametrize(
    ("family", "number"), by_day([(family, n) for family, n in EACH if family in (*DECODERS, *BARE)], 0)
)
each_family = pytest.mark.parametrize(("family", "number"), by_day([(family, 0) for family in CASES], 0))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(family, number)`: their model, ours, and the folder of both, made once for all tests."""

    @functools.cache
    def made(family, number):
        architecture, configs = CASES[family]
        theirs, *_ = make_golden.model_of(architecture, configs[number])
        folder = tmp_path_factory.mktemp("theirs")
        theirs.save_pretrained(folder)
        return theirs, interop.load_pretrained(folder)[0], folder

    return made


@pytest.fixture
def pair(made, family, number):
    """Their model, ours, and the folder of both, which stays as it is; the models are the test's own."""
    *both, folder = made(family, number)
    return *copy.deepcopy(both), folder


def tensor(x):
    return torch.from_numpy(np.array(x))


def assert_within(ours, theirs, tolerance, what=""):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs.detach().double())
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), what


@each_with_states
def test_states_of_padded_texts_are_theirs(pair):
    """A layer computes something else, and later ones hide it; or padding on the right is seen."""
    theirs, ours, _ = pair
    call = lambda model: model(jnp.asarray(TEXT), mask=jnp.asarray(ATTENDED), capture=("residual",))
    captured = quick_jit(call)(ours)[1]
    captured = captured if isinstance(captured, dict) else captured.captured
    found = theirs(tensor(TEXT), attention_mask=tensor(ATTENDED).long(), output_hidden_states=True)
    for i, states in enumerate(found.hidden_states[1:-1]):
        assert_within(captured["residual"][i][ATTENDED], states[tensor(ATTENDED)], 2e-5, f"layer {i}")


def capturing(model):
    """What each layer of a model of images or of two stacks hands on, by stack."""
    if isinstance(model, models.VisionTransformer):
        images = jnp.asarray(IMAGES)[..., : model.config.num_channels]
        return {"": model.states(images, capture=("residual",))[1].captured["residual"]}
    how = {"source_mask": jnp.asarray(ATTENDED), "capture": ("residual",)}
    captured = model(jnp.asarray(TEXT), jnp.asarray(TARGET), **how)[1]
    return {f"{side}_": captured[f"{side}.residual"] for side in ("encoder", "decoder")}


@pytest.mark.parametrize(("family", "number"), by_day([(f, n) for f, n in EACH if f in (*IMAGED, *TWO_SIDED)], 0, 1))
def test_states_of_images_and_of_two_sides_are_theirs(pair):
    """A layer computes something else, and later ones hide it."""
    theirs, ours, _ = pair
    found = make_golden.call(theirs, output_hidden_states=True)
    for side, captured in quick_jit(capturing)(ours).items():
        seen = ATTENDED if side == "encoder_" else np.ones(captured.shape[1:3], bool)
        for i, states in enumerate(found[f"{side}hidden_states"][1:-1]):
            assert_within(captured[i][seen], states[tensor(seen)], 2e-5, f"{side}layer {i}")


def said_in_full(family, architecture, said):
    """A `config.json` with all that theirs makes of it: defaults, and old keys by their new names."""
    config = getattr(transformers, architecture).config_class.from_dict(copy.deepcopy(said))
    return json.loads(config.to_json_string(use_diff=False)) | {"architectures": [architecture]}


def read(family, architecture, said):
    return interop.FAMILIES[family].read_config(said, architecture)


@pytest.mark.parametrize("family", interop.FAMILIES)
def test_what_a_config_does_not_say_is_as_theirs_has_it(family):
    """A key that a file leaves out, since it has the default of the family, has another value here."""
    for architecture in interop.FAMILIES[family].architectures:
        full = said_in_full(family, architecture, {})
        wanted = read(family, architecture, full)
        sparse = [{"model_type": family}, *({k: x for k, x in full.items() if k != key} for key in full)]
        for said in sparse:
            assert read(family, architecture, said) == wanted, full.keys() - said.keys()


SU = dict(type="longrope", short_factor=[1.0, 1.5], long_factor=[1.2, 3.0])
LONG = dict(rope_type="longrope", factor=2.0, short_factor=[1.0, 1.5], long_factor=[1.2, 3.0])
TURNS = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
LINEAR = {"rope_type": "linear", "factor": 2.0}
NESTED = {"full_attention": LINEAR, "sliding_attention": {"rope_theta": 5.0}}
SMALL = dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=12)
SMALLER = dict(hidden_size=16, num_attention_heads=4, head_dim=4)
# A family's architecture, and what a file of it may say in an old form, in several, or in part.
FORMS = {
    "llama": ("LlamaForCausalLM", [
        SMALL | {"rope_scaling": LONG}, SMALL | {"rope_parameters": TURNS}, SMALL | {"rope_scaling": TURNS, "rope_theta": 7.0},
    ]),
    "phi3": ("Phi3ForCausalLM", [
        SMALL | {"rope_scaling": SU}, SMALL | {"rope_scaling": SU, "original_max_position_embeddings": 8},
        SMALL | {"rope_parameters": LONG | {"original_max_position_embeddings": 8}, "original_max_position_embeddings": 10},
    ]),
    "modernbert": ("ModernBertModel", [
        {"rope_scaling": LINEAR, "global_rope_theta": 7.0}, {"rope_scaling": LINEAR, "rope_parameters": NESTED},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
    ]),
    "gemma3_text": ("Gemma3ForCausalLM", [
        SMALLER | {"rope_scaling": LINEAR, "rope_theta": 7.0}, SMALLER | {"rope_scaling": LINEAR, "rope_parameters": NESTED},
        SMALLER | {"rope_scaling": {"type": "linear", "factor": 2.0}}, SMALLER | {"rope_local_base_freq": 7.0},
    ]),
    "bert": ("BertForSequenceClassification", [{"num_labels": 2, "id2label": {"0": "a", "1": "b", "2": "c"}}]),
}  # fmt: skip


@pytest.mark.parametrize(("family", "number"), [(family, i) for family in FORMS for i in range(len(FORMS[family][1]))])
def test_old_forms_of_a_config_mean_what_theirs_makes_of_them(family, number):
    """A scaling is of other layers, of another length or passed over; or one of two keys that differ is the other."""
    architecture, forms = FORMS[family]
    said = forms[number] | {"model_type": family}
    assert read(family, architecture, said) == read(family, architecture, said_in_full(family, architecture, said))


def test_activations_are_theirs():
    """A name means another function there."""
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    for name, ours in fields.ACTIVATIONS.items():
        wanted = transformers.activations.ACT2FN[name](tensor(x)).numpy()
        np.testing.assert_allclose(
            functional.ACTIVATIONS[ours](jnp.asarray(x)), wanted, rtol=1e-5, atol=1e-6, err_msg=name
        )


def mixed(found):
    """One number of all outputs, each with a coefficient of its own."""
    return sum((x * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)).sum() for x in found.values())


def gradients_of(theirs, folder):
    """The gradient of `mixed` as tensors of a file, by their names there."""
    found = make_golden.outputs(theirs)
    draw = lambda x: tensor(np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)).to(x.dtype)
    sum((x * draw(x)).sum() for x in found.values()).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(folder)
    return read_tensors(folder)


@each_case
def test_gradients_are_theirs(pair, tmp_path, family):
    """A parameter has another's gradient, or one that a rule of ours gives and the formula does not."""
    theirs, ours, _ = pair
    gradients = quick_jit(jax.grad(lambda model: mixed(outputs(model))))(ours)
    wanted = gradients_of(copy.deepcopy(theirs).double(), tmp_path / "wanted")
    narrow = gradients_of(theirs, tmp_path / "narrow")
    table = entries(interop.FAMILIES[ours.origin.family].rows_of(ours.origin.architecture), gradients)
    largest = max(np.abs(x).max() for x in wanted.values())
    for name, got in tensors_of(gradients, table):
        if family == "pegasus" and "embed_positions" in name or name == "final_logits_bias":
            continue  # which theirs does not train
        # One that is 0 by the formula, as that of a bias of keys, or near it, is rounding of others', as it is in theirs, and
        # may be off by the last bit of the largest.
        rounding = max(4 * np.abs(narrow[name] - wanted[name]).max(), largest * np.finfo(np.float32).eps)
        assert np.abs(got - wanted[name]).max() <= max(1e-4 * np.abs(wanted[name]).max(), rounding), name


@each_case
def test_theirs_loads_ours(pair, tmp_path, family):
    """A folder of ours lacks something, or theirs reads another model from it."""
    theirs, ours, _ = pair
    del ours.origin
    interop.save_pretrained(ours, tmp_path / "ours", family=family.split()[0])
    loaded, said = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    # Of what ours has no use for, a model of our own has none, nor has theirs a use.
    known = interop.FAMILIES[family.split()[0]]
    said["missing_keys"] = [n for n in said["missing_keys"] if not known.is_carried(n, type(theirs).__name__)]
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    loaded.set_attn_implementation(theirs.config._attn_implementation)
    wanted = make_golden.outputs(theirs)
    for name, got in make_golden.outputs(loaded.eval()).items():
        assert torch.equal(got, wanted[name]), name


@each_family
def test_bfloat16_is_as_near_as_theirs(pair, tmp_path):
    """A file in bfloat16 is computed with less than theirs.

    Of one model one of the two may have the luck, and which is the machine's: errors of four together are compared.
    """
    theirs, *_ = pair
    ours_of, random = quick_jit(outputs), torch.Generator().manual_seed(0)
    errors = collections.defaultdict(lambda: np.zeros(2))
    for _ in range(4):
        for x in theirs.parameters():
            x.data *= 1 + 0.1 * torch.randn(x.shape, generator=random)
        copy.deepcopy(theirs).to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
        narrow, wide = (
            type(theirs).from_pretrained(tmp_path / "narrow", dtype=x) for x in (torch.bfloat16, torch.float32)
        )
        wanted, found = (make_golden.outputs(model.eval()) for model in (wide, narrow))
        ours, _ = interop.load_pretrained(tmp_path / "narrow")
        for name, x in ours_of(ours).items():
            for i, got in enumerate((np.asarray(x, np.float64), found[name].detach().double().numpy())):
                errors[name][i] += np.square(got - wanted[name].detach().numpy()).mean()
    for name, (of_ours, of_theirs) in errors.items():
        # Four times few numbers are few still.
        assert of_ours <= (1.5 if wanted[name].numel() > 200 else 2.5) ** 2 * of_theirs, name


@each_family
def test_bfloat16_comes_back_with_the_same_bits(pair, tmp_path):
    """A file in bfloat16 is read in another dtype, or rounded again."""
    theirs, *_ = pair
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
    ours, _ = interop.load_pretrained(tmp_path / "narrow")
    assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
    interop.save_pretrained(ours, tmp_path / "back")
    before, after = ((path / "model.safetensors").read_bytes() for path in (tmp_path / "narrow", tmp_path / "back"))
    assert dict(safetensors.deserialize(before)) == dict(safetensors.deserialize(after))


def test_theirs_loads_what_was_tuned(tmp_path):
    """A model that was trained is saved as it was loaded, or in part."""
    architecture, configs = CASES["llama"]
    theirs, *_ = make_golden.model_of(architecture, configs[0])
    theirs.save_pretrained(tmp_path / "theirs")
    model, _ = interop.load_pretrained(tmp_path / "theirs")
    gradients = quick_jit(jax.grad(lambda model: mixed(outputs(model))))(model)
    tuned = jax.tree.map(lambda x, g: x - 1e-3 * g, model, gradients)
    interop.save_pretrained(tuned, tmp_path / "tuned")
    loaded = type(theirs).from_pretrained(tmp_path / "tuned").eval()
    for name, wanted in quick_jit(outputs)(tuned).items():
        assert_within(wanted, make_golden.outputs(loaded)[name], 2e-5)
        assert np.abs(wanted - make_golden.outputs(theirs)[name].detach().numpy()).max() > 1e-2


PROMPTS = [[5, 9, 14, 3, 20, 7, 11], [8, 2], [17, 6, 25, 4]]


GREEDY = [(family, 0) for family in DECODERS if family != "phi3"] + [("opt", 4), ("opt", 5)]


@pytest.mark.parametrize(("family", "number"), by_day(GREEDY, 0))
def test_greedy_continuations_are_theirs(tmp_path, family, number):
    """Left-padded prompts are read at other positions, or the cache, a ring under a window, loses a token that is seen."""
    architecture, configs = CASES[family]
    key = "n_positions" if family in ("gpt2", "gptj") else "max_position_embeddings"
    config = configs[number] if family == "bloom" else configs[number] | {key: 96}
    theirs, *_ = make_golden.model_of(architecture, config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = interop.load_pretrained(tmp_path / "theirs")
    longest = max(map(len, PROMPTS))
    padded = tensor([[1] * (longest - len(prompt)) + prompt for prompt in PROMPTS])
    attended = tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    how = dict(max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=1)
    wanted = theirs.generate(padded, attention_mask=attended, **how)[:, longest:]
    np.testing.assert_array_equal(decoding.generate(ours, PROMPTS, max_new_tokens=64), wanted)


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    """`translators(family, number)`: three pairs of their model and ours, drawn so wide that half of the beams end."""

    @functools.cache
    def make(family, number):
        architecture, configs = CASES[family]
        cls = getattr(transformers, architecture)
        made = []
        for seed in range(3):
            torch.manual_seed(seed)
            theirs = cls(cls.config_class(**configs[number] | dict(max_position_embeddings=16, init_std=0.3))).eval()
            theirs.final_logits_bias[:, theirs.config.eos_token_id] = 2.0
            folder = tmp_path_factory.mktemp(family)
            theirs.save_pretrained(folder)
            made.append((theirs, interop.load_pretrained(folder)[0]))
        return made

    return make


STOPS = {False: "heuristic", True: "full", "never": "exact"}
TRANSLATORS = [(family, number) for family, number in EACH if family in ("marian", "bart")]
BEAMS = [(*case, early, *sizes) for sizes in ((10, 4), (16, 4), (16, 1)) for early in STOPS for case in TRANSLATORS]
FIRST = [i for i, (_, number, *how) in enumerate(BEAMS) if (number, how) == (0, [False, 10, 4])]


@pytest.mark.parametrize(("family", "number", "early", "new", "results"), by_day(BEAMS, *FIRST))
def test_beams_are_theirs(translators, family, number, early, new, results):
    """Four beams have other hypotheses, another order or other scores, of padded sources, under each length penalty."""
    how = dict(max_length=new, bos_id=2, eos_id=2, num_results=results, penalty_kind="power", stop=STOPS[early])
    search = quick_jit(
        lambda model, source, mask, power: decoding.beam_search(
            model, source, source_mask=mask, length_penalty=power, **how
        )
    )
    beams = dict(num_beams=4, num_return_sequences=results, max_new_tokens=new, early_stopping=early, do_sample=False)
    beams |= dict(return_dict_in_generate=True, output_scores=True)
    ended = []
    for seed, (theirs, ours) in enumerate(translators(family, number)):
        source, attended = sources(seed)
        for power in (0.0, 1.0, 2.0):
            seen = tensor(attended).long()
            wanted = theirs.generate(tensor(source), attention_mask=seen, length_penalty=power, **beams)
            found = search(ours, source, attended, power)
            # No two scores of a source are nearer than 8e-6 of themselves, which rounding does not turn around.
            assert up_to_end(found.tokens.reshape(-1, new)) == up_to_end(wanted.sequences[:, 1:])
            np.testing.assert_allclose(found.scores.reshape(-1), wanted.sequences_scores, rtol=1e-5)
            ended += [2 in row[1:] for row in wanted.sequences.tolist()]
    assert 0.05 < np.mean(ended) < 0.95, "some hypotheses have to end, and some to be cut"


def sources(seed):
    """Eight sources of 1 to 12 tokens, and which places are theirs."""
    draw = np.random.default_rng(seed)
    attended = np.arange(T) < draw.integers(1, T + 1, (8, 1))
    return np.where(attended, draw.integers(3, V, (8, T)), 1), attended


def up_to_end(rows):
    """The tokens of each row before its end."""
    return [row[: row.index(2)] if 2 in row else row for row in np.asarray(rows).tolist()]


@pytest.mark.parametrize(
    ("name", "family", "fields"),
    [
        ("CausalLM", "gpt2", dict(positions="learned", norm_position="pre", activation="gelu_tanh")),
        ("MaskedLM", "bert", dict(positions="learned", embedding_norm=True, num_token_types=2, activation="gelu")),
        ("Transformer", "marian", {"positions.concatenated": True, "output.bias": True}),
    ],
)
def test_theirs_reads_a_runs_tokenizer(tmp_path, name, family, fields):
    """A text has other tokens there, another frame than the model was trained with, or no end to stop at."""
    texts = ["The cat sat on the mat, and the dog on it.", "Où est <eos> ?"]
    tokenizer = tokenizers.train_bpe(texts * 3, 270, mask=name == "MaskedLM")
    fields = dict(vocab_size=tokenizer.get_vocab_size(), max_length=64, scale_embeddings=False) | fields
    model = tiny_model(name, **fields)
    interop.save_pretrained(model, tmp_path / "run", tokenizer=tokenizer, family=family)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    framed = tokenizers.encode_framed(tokenizer, texts[:1])[0]
    rows = {"CausalLM": framed[:-1], "Transformer": framed[1:-1]}  # as the data make them of a text or a source
    assert theirs(texts[0]).input_ids == rows.get(name, framed)
    assert theirs.decode(framed, skip_special_tokens=True).strip() == texts[0]
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)
    assert theirs.mask_token_id == (3 if name == "MaskedLM" else None) and theirs.model_max_length == 64
    if name != "MaskedLM":
        said = transformers.GenerationConfig.from_pretrained(tmp_path / "run")
        assert (said.bos_token_id, said.eos_token_id, said.pad_token_id) == (1, 2, 0)
        assert said.decoder_start_token_id == (1 if name == "Transformer" else None)


TOKENS = {  # what a folder of theirs calls its special tokens, and how the frames that it has are written
    "gpt2": (dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>"), None),
    "llama": (dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>"), "<s> $A"),
    "bert": (
        dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"),
        "[CLS] $A [SEP]",
    ),
    "t5": (dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>"), "$A </s>"),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_a_run_with_a_tokenizer_of_theirs_is_written_with_its_special_tokens(tmp_path, kind):
    """What was tuned cannot be filled up, has no token to hide, does not know where a text ends or a target begins."""
    names, frame = TOKENS[kind]
    words = {name: i for i, name in enumerate([*dict.fromkeys(names.values()), "cat", "mat", "on"])}
    made = Tokenizer(tokenizer_models.WordLevel(words, unk_token=names.get("unk_token", "cat")))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.ByteLevel()
    if frame is not None:
        used = [(name, words[name]) for name in frame.split() if name in words]
        made.post_processor = processors.TemplateProcessing(single=frame, special_tokens=used)
    before = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
    fields = dict(vocab_size=len(words), max_length=64, scale_embeddings=False)
    name, more = {
        "gpt2": ("CausalLM", dict(positions="learned", norm_position="pre", activation="gelu_tanh")),
        "llama": ("CausalLM", dict(positions="learned", norm_position="pre", activation="gelu_tanh")),
        "bert": ("MaskedLM", dict(positions="learned", embedding_norm=True, num_token_types=2, activation="gelu")),
        "t5": ("Transformer", {"positions.concatenated": True, "output.bias": True}),
    }[kind]
    start = 0 if kind == "t5" else None
    interop.save_pretrained(tiny_model(name, **fields | more), tmp_path, tokenizer=made, start=start)
    after = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert after.special_tokens_map == before.special_tokens_map
    # Where theirs frames no text, a run does it all the same.
    framed = before("cat on mat").input_ids if frame else [words["<|endoftext|>"], *before("cat on mat").input_ids]
    assert after("cat on mat").input_ids == framed
    assert after.decode(framed, skip_special_tokens=True) == "cat on mat"
    said = transformers.AutoConfig.from_pretrained(tmp_path)
    assert said.pad_token_id == before.pad_token_id
    if name != "MaskedLM":
        assert (said.bos_token_id, said.eos_token_id) == (before.bos_token_id, before.eos_token_id)
        generation = transformers.GenerationConfig.from_pretrained(tmp_path)
        assert (generation.eos_token_id, generation.decoder_start_token_id) == (before.eos_token_id, start)


@pytest.mark.parametrize("family", CASES)
def test_theirs_reads_what_is_said_of_none(family):
    """A choice that ours does without is written as a null that their config refuses: nobody can load the folder."""
    said, architecture = golden(family)[0]["config"], CASES[family][0]
    chosen = interop.FAMILIES[said["model_type"]]
    config = chosen.read_config(said, architecture)
    for path, *_ in leaves(config):
        try:
            again = chosen.write_config(config.changed(**nested({path: None})), architecture)
        except ConfigError:
            continue
        assert type(transformers.AutoConfig.for_model(**again)).model_type == chosen.name, path


def test_a_tokenizer_of_theirs_comes_back(tmp_path):
    """Its frame, its special tokens or its settings are lost on the way."""
    theirs, *_ = make_golden.model_of("BertModel", CASES["bert"][1][0])
    theirs.save_pretrained(tmp_path / "theirs")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "mat"])}
    transformers.BertTokenizer(vocab=words, model_max_length=9).save_pretrained(tmp_path / "theirs")
    model, tokenizer = interop.load_pretrained(tmp_path / "theirs")
    interop.save_pretrained(model, tmp_path / "back", tokenizer=tokenizer)
    before, after = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("theirs", "back"))
    assert after("cat on a mat").input_ids == before("cat on a mat").input_ids == [2, 5, 1, 1, 6, 3]
    assert type(after) is type(before) and after.model_max_length == 9
    assert after.special_tokens_map == before.special_tokens_map


BARE = ["llama", "gpt2", "opt", "bloom", "bart", "mbart", "marian", "pegasus", "m2m_100", "t5", "umt5"]


@pytest.mark.parametrize("family", by_day(BARE, 0, 4))
def test_a_model_of_theirs_without_a_head_comes_back(tmp_path, family):
    """A folder such as BartModel's is refused, or its tensors come back under other names, or more than there were."""
    architecture, configs = CASES[family]
    whole = getattr(transformers, architecture)
    (name,) = {of for of in interop.FAMILIES[family].architectures if of != architecture}
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(whole.config_class(**configs[0])).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    model, _ = interop.load_pretrained(tmp_path / "theirs")
    interop.save_pretrained(model, tmp_path / "back")
    before, after = (
        dict(safetensors.deserialize((tmp_path / n / "model.safetensors").read_bytes())) for n in ("theirs", "back")
    )
    assert before == after
    _, said = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    # Its states, through the table of tokens, are the logits of the model with a head.
    headed = whole.from_pretrained(tmp_path / "theirs").eval()
    headed.set_attn_implementation(theirs.config._attn_implementation)
    if headed.config.tie_word_embeddings:
        for name, got in quick_jit(outputs)(model).items():
            assert_within(got, make_golden.outputs(headed)[name], 2e-5)
