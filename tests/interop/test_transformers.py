"""Checkpoints against `transformers` itself: what it computes, differentiates, generates, and loads of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import CASES, EACH, TOKENS, read_tensors
from support import by_day, quick_jit

import tformer_jax.functional as F
from tformer_jax import decoding, interop
from tformer_jax.interop.pretrained import tensors_of
from tformer_jax.interop.tensors import entries

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.23")
make_golden = pytest.importorskip("make_golden")
pytestmark = pytest.mark.parity

ATTENDED = np.arange(TOKENS.shape[1]) < np.array([[TOKENS.shape[1]], [7]])
each_case = pytest.mark.parametrize(("family", "number"), by_day(EACH, 0))
USUAL = [(family, 0) for family in CASES]
each_family = pytest.mark.parametrize(("family", "number"), by_day(USUAL, 0))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pair(tmp_path, family, number):
    """Their model, ours, and the folder of both."""
    architecture, configs = CASES[family]
    theirs, *_ = make_golden.model_of(architecture, configs[number])
    theirs.save_pretrained(tmp_path / "theirs")
    return theirs, interop.load_pretrained(tmp_path / "theirs")[0], tmp_path / "theirs"


def tensor(x):
    return torch.from_numpy(np.array(x))


def assert_within(ours, theirs, tolerance, what=""):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs.detach().double())
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), what


@each_case
def test_states_of_padded_texts_are_theirs(pair):
    """A layer computes something else, and later ones hide it; or padding on the right is seen."""
    theirs, ours, _ = pair
    call = lambda model: model(jnp.asarray(TOKENS), mask=jnp.asarray(ATTENDED), capture=("residual",))
    logits, captured = quick_jit(call)(ours)
    found = theirs(tensor(TOKENS), attention_mask=tensor(ATTENDED).long(), output_hidden_states=True, use_cache=False)
    for i, states in enumerate(found.hidden_states[1:-1]):
        assert_within(captured["residual"][i][ATTENDED], states[tensor(ATTENDED)], 2e-5, f"layer {i}")
    assert_within(logits[ATTENDED], found.logits[tensor(ATTENDED)], 2e-5, "logits")


@each_case
def test_gradients_are_theirs(pair, tmp_path):
    """A parameter has another's gradient, or one that a rule of ours gives and the formula does not."""
    theirs, ours, _ = pair
    loss = lambda model: F.causal_lm_loss(model(jnp.asarray(TOKENS)), jnp.asarray(TOKENS))
    gradients = quick_jit(jax.grad(loss))(ours)
    theirs(tensor(TOKENS), labels=tensor(TOKENS)).loss.backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    wanted = read_tensors(tmp_path / "gradients")
    largest = max(np.abs(x).max() for x in wanted.values())
    table = entries(interop.FAMILIES[ours.origin.family].rows, gradients)
    for name, got in tensors_of(gradients, table):
        # A gradient that is 0 by the formula, as that of a bias of keys, is rounding of the others'.
        scale = max(np.abs(wanted[name]).max(), 1e-3 * largest)
        assert np.abs(got - wanted[name]).max() <= 1e-4 * scale, name


@each_case
def test_theirs_loads_ours(pair, tmp_path, family):
    """A folder of ours lacks something, or theirs reads another model from it."""
    theirs, ours, _ = pair
    del ours.origin
    interop.save_pretrained(ours, tmp_path / "ours", family=family)
    loaded, said = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    loaded.set_attn_implementation(theirs.config._attn_implementation)
    assert torch.equal(loaded.eval()(tensor(TOKENS)).logits, theirs(tensor(TOKENS)).logits)


@each_family
def test_bfloat16_is_as_near_as_theirs(pair, tmp_path):
    """A file in bfloat16 is rounded again, comes back with other bits, or is computed with less than theirs."""
    theirs, exact, _ = pair
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
    ours, _ = interop.load_pretrained(tmp_path / "narrow")
    assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
    wide = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "narrow", dtype=torch.float32).eval()
    wanted = wide(tensor(TOKENS)).logits.detach().numpy()
    apart = lambda x: np.square(np.asarray(x, np.float64) - wanted).mean() ** 0.5
    ours_off = apart(quick_jit(lambda model: model(jnp.asarray(TOKENS)))(ours))
    assert ours_off <= 1.5 * apart(theirs(tensor(TOKENS)).logits.detach().float().numpy())
    interop.save_pretrained(ours, tmp_path / "back")
    before, after = ((path / "model.safetensors").read_bytes() for path in (tmp_path / "narrow", tmp_path / "back"))
    read = lambda data: {name: x for name, x in interop.files.safetensors.deserialize(data)}
    assert read(before) == read(after)


PROMPTS = [[5, 9, 14, 3, 20, 7, 11], [8, 2], [17, 6, 25, 4]]
LONG = dict(max_position_embeddings=96)


@pytest.mark.parametrize("family", by_day([f for f in CASES if f != "phi3"], 0))
def test_greedy_continuations_are_theirs(tmp_path, family):
    """Left-padded prompts are read at other positions, or the cache, a ring under a window, loses a token that is seen."""
    architecture, configs = CASES[family]
    key = "n_positions" if family in ("gpt2", "gptj") else "max_position_embeddings"
    config = configs[0] if family == "bloom" else configs[0] | {key: 96}
    theirs, *_ = make_golden.model_of(architecture, config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = interop.load_pretrained(tmp_path / "theirs")
    longest = max(map(len, PROMPTS))
    padded = tensor([[1] * (longest - len(prompt)) + prompt for prompt in PROMPTS])
    attended = tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    how = dict(max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=1)
    wanted = theirs.generate(padded, attention_mask=attended, **how)[:, longest:]
    np.testing.assert_array_equal(decoding.generate(ours, PROMPTS, max_new_tokens=64), wanted)
