"""Generation with a cache against the slow way: the model's formulas in float64 NumPy over the whole text each time."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support import by_day, fill, tiny_model, unchecked_annotations, with_leaf

from tformer_jax import models
from tformer_jax.decoding import Recomputed, generate, generation, greedy, sampling, stream
from tformer_jax.functional import AttentionMask

V, MAX_LENGTH, NEW = 40, 40, 8
# Of three lengths, so that two rows are padded; 0 is also what padding is filled with.
PROMPTS = [[3, 11, 0, 7, 7, 1, 12, 5, 2, 2, 9, 4, 8, 0, 6, 10, 1, 3, 5], [6, 0, 12], [9]]


def causal_lm(seed=8, **changes) -> models.CausalLM:
    """A model whose attention counts: what a prompt holds, and where, decides what follows it."""
    fields = dict(vocab_size=V, max_length=MAX_LENGTH, positions="rotary", norm_position="pre", norm="rms")
    fields |= dict(use_bias=False, tie_output=False, scale_embeddings=False)

    def strengthen(path, x):
        name = jax.tree_util.keystr(path)
        return x if "gamma" in name or "embedding" in name else 4 * x if "attention" in name else 2 * x

    return jax.tree_util.tree_map_with_path(strengthen, tiny_model("CausalLM", seed, **(fields | changes)))


@pytest.fixture(scope="module")
def model():
    return causal_lm()


def weights(model):
    """Every parameter in float64, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    names = [jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value") for path, _ in leaves]
    return {name: oracles.f64(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def slow(model, prompt, count=NEW, *, eos=None, penalty=None):
    """The `count` tokens that follow one prompt: nothing cached, nothing padded, nothing compiled."""
    held, tokens = weights(model), list(prompt)
    while len(tokens) < len(prompt) + count:
        if eos is not None and eos in tokens[len(prompt) :]:
            tokens.append(eos)
            continue
        logits = oracles.causal_lm(held, model.config, [tokens])[0, -1]
        if penalty is not None:
            for token in set(tokens):
                logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def assert_tokens(found, wanted):
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


# One program for many tests: temperature and key are data.
EOS = V - 1


def how(temperature=2.0, seed=5):
    key = jax.random.key(seed)
    return dict(max_new_tokens=NEW, sampler=sampling(temperature=temperature), key=key, eos_id=EOS)


# Greedy ----------------------------------------------------------------------------------------


# Seeds under which no continuation is one token over and over.
@pytest.mark.parametrize(
    ("seed", "how"),
    by_day([
        (9, dict(positions="sinusoidal")),
        (0, dict(positions="learned")),
        (8, dict(positions="rotary")),
        (11, dict(positions="alibi")),
        (15, dict(positions="relative")),
        (11, dict(positions="none")),
        (20, dict(window=3)),
        (23, dict(window=5, positions="relative")),
        (4, dict(mup_base_width=2)),
        (8, dict(num_layers=3, pattern=({"attention": {"window": 3}, "positions": {"base": 50.0}}, {}))),
    ], 4, 6, 9),
    ids=str,
)  # fmt: skip
def test_the_cache_changes_nothing(seed, how):
    """Cached tokens would sit at other positions, a padded row would see its padding, or rows each other; with a
    window the cache is a ring: tokens would be overwritten too early, or seen too long."""
    model = causal_lm(seed, **how)
    wanted = [slow(model, prompt) for prompt in PROMPTS]
    assert len(set(map(tuple, wanted))) == len(PROMPTS) and min(len(set(row)) for row in wanted) > 2
    assert_tokens(generate(model, PROMPTS, max_new_tokens=NEW), wanted)


def test_a_mask_that_no_cache_can_follow_holds_for_continuations(model):
    """A model that was trained under a mask of its own would continue as a causal one."""
    distances = np.arange(MAX_LENGTH)[:, None] - np.arange(MAX_LENGTH)
    seen = ((distances >= 3) | (distances == 0))[None, None]  # [1 1 T S], a number that a reader can check
    logits = jax.jit(lambda tokens: model(tokens, mask=seen))

    def far(batch):
        return AttentionMask(causal=True) & ~AttentionMask(window=3) | AttentionMask(causal=True, window=1)

    def by_hand(prompt):
        tokens = list(prompt)
        for _ in range(NEW):
            row = jnp.asarray([tokens + [0] * (MAX_LENGTH - len(tokens))])
            tokens.append(int(logits(row)[0, len(tokens) - 1].argmax()))
        return tokens[len(prompt) :]

    wanted = [by_hand(prompt) for prompt in PROMPTS]
    found = generate(Recomputed(model, far), PROMPTS, max_new_tokens=NEW)
    assert_tokens(found, wanted)
    assert not np.array_equal(found, generate(model, PROMPTS, max_new_tokens=NEW))
    with pytest.raises(ValueError, match="prefix must be False with Recomputed"):
        generate(Recomputed(model, far), PROMPTS, max_new_tokens=NEW, prefix=True)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_prompts_may_be_an_array(model, kind):
    """Prompts of one length would have to be taken apart by the caller."""
    prompts = np.random.default_rng(0).integers(0, V, (3, 20))
    assert_tokens(generate(model, kind(prompts), max_new_tokens=NEW), [slow(model, row) for row in prompts.tolist()])


def test_one_token_is_the_first_of_many(model):
    """A single token would not come from the prompt's last logits, or the loop would run once too often."""
    found = generate(model, PROMPTS, max_new_tokens=1)
    assert found.shape == (len(PROMPTS), 1)
    assert_tokens(found, [slow(model, prompt, 1) for prompt in PROMPTS])


def test_bfloat16_computation_runs():
    """The cache or the loop's state would change its dtype from step to step."""
    model = causal_lm(precision="params=float32,compute=bfloat16,output=float32")
    found = generate(model, PROMPTS, max_new_tokens=NEW)
    assert (found.dtype, found.shape) == (jnp.int32, (len(PROMPTS), NEW))
    # The first token leads by more than the rounding of bfloat16.
    assert_tokens(found[:, :1], [slow(model, prompt, 1) for prompt in PROMPTS])


def test_a_repeated_token_is_penalised_in_prompt_and_continuation(model):
    """The penalty would not see the prompt, forget what it wrote itself, or punish the filler of padded rows."""
    # Token 0, the filler, becomes what follows the shortest prompt, which has no 0 in it.
    (best,) = slow(model, PROMPTS[2], 1, penalty=3.0)
    order = np.arange(V)
    order[[0, best]] = order[[best, 0]]
    model = with_leaf(model, "output.w", model.output.w[...][:, order])
    plain, wanted = ([slow(model, prompt, penalty=p) for prompt in PROMPTS] for p in (None, 3.0))
    assert wanted != plain and wanted[2][0] == 0
    assert_tokens(generate(model, PROMPTS, max_new_tokens=NEW, sampler=greedy(repetition_penalty=3.0)), wanted)


# Too long --------------------------------------------------------------------------------------

# The last new token is never read, and needs no place.
ROOM = MAX_LENGTH - NEW + 1
LONG = (PROMPTS[0] * 3)[: ROOM + 5]


def test_sliding_keeps_the_end_of_the_prompt(model):
    """Of a prompt that is too long, other tokens would be read than its last ones; a shorter one must stay whole."""
    found = generate(model, [LONG, LONG[:ROOM], PROMPTS[1]], max_new_tokens=NEW, slide=True)
    assert_tokens(found, [slow(model, LONG[-ROOM:]), slow(model, LONG[:ROOM]), slow(model, PROMPTS[1])])


def test_prompt_and_continuation_may_fill_the_context(model):
    """One token less would be allowed than there are positions."""
    prompts = [LONG[:ROOM], LONG[-ROOM:], PROMPTS[1]]
    assert_tokens(generate(model, prompts, max_new_tokens=NEW), [slow(model, prompt) for prompt in prompts])


@pytest.mark.parametrize(
    "how", [{"eos_id": 2.0}, {"eos_id": True}, {"max_new_tokens": 2.5}, {"pad_to": None}, {"pad_to": 2.5}], ids=str
)
def test_what_is_no_integer_is_refused_by_name(model, how):
    """An error from deep inside of the compiler would not say which argument it is."""
    with unchecked_annotations(), pytest.raises(TypeError, match=f"{next(iter(how))} must be an integer, got"):
        generate(model, [[1]], **{"max_new_tokens": NEW} | how)


def test_other_samplers_and_flags_are_refused(model):
    """Any text slides, and a sampler's name is a riddle of the compiler."""
    with unchecked_annotations():
        with pytest.raises(TypeError, match="slide must be True or False, got 'no'"):
            generate(model, [[1]], max_new_tokens=NEW, slide="no")
        for no_sampler in ("greedy", sampling):
            with pytest.raises(TypeError, match=r"sampler must be greedy\(\) or sampling\(\.\.\.\), got"):
                generate(model, [[1]], max_new_tokens=NEW, sampler=no_sampler)


def test_an_end_may_be_an_array(model):
    """A tokenizer's id that went through NumPy or JAX would be refused as unhashable."""
    wanted = generate(model, PROMPTS, **how())
    for end in (np.int64(EOS), jnp.int32(EOS)):
        with unchecked_annotations():
            found = generate(model, PROMPTS, **how() | {"eos_id": end})
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("function", [generate, lambda *args, **how: next(stream(*args, **how))], ids=["all", "stream"])
@pytest.mark.parametrize(
    ("prompts", "how", "message"),
    [
        ([[1], LONG], {}, rf"prompt 1 has {ROOM + 5} tokens; .*room for {ROOM}\. slide=True would cut its first 5"),
        ([[1, 2], [3, V, 4]], {}, rf"prompt 1 has token {V} at 1, outside the vocabulary \[0, {V}\)"),
        ([[1, -1]], {}, "prompt 0 has token -1 at 1"),
        ([[V, *LONG]], {"slide": True}, f"prompt 0 has token {V} at 0"),
        ([[1], []], {}, "a prompt needs at least one token"),
        ([], {}, "a prompt needs at least one token"),
        (np.array([1, 2, 3]), {}, r"token ids \[B T\], or B lists of them; prompt 0 is array\(1\)"),
        (np.array([[1.0, 2.0]]), {}, r"token ids \[B T\], or B lists of them; prompt 0 is array\(\[1\., 2\.\]\)"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ([[1]], {"max_new_tokens": MAX_LENGTH + 1}, f"={MAX_LENGTH + 1} leaves no room .* max_length={MAX_LENGTH}"),
        ([[1]], {"sampler": sampling()}, "sampling needs a random key"),
        ([[1]], {"eos_id": V}, rf"eos_id={V} is outside the vocabulary \[0, {V}\)"),
        ([[1]], {"eos_id": -1}, "eos_id=-1 is outside the vocabulary"),
        (None, {}, r"prompt must be token ids \[B T\], .*got array\(None"),
    ],
)
def test_what_cannot_be_generated_is_refused(model, function, prompts, how, message):
    """A prompt would be cut in silence, a wrong token embedded as another, or the error would not say what to do."""
    with unchecked_annotations(), pytest.raises(ValueError, match=message):
        function(model, prompts, **(dict(max_new_tokens=NEW) | how))


# Ending ----------------------------------------------------------------------------------------


class Counting(models.CausalLM):
    """Counts how often it runs."""

    runs = 0

    def extend_hidden(self, *args, **how):
        jax.debug.callback(self.count)
        return super().extend_hidden(*args, **how)

    @classmethod
    def count(cls):
        cls.runs += 1


@pytest.fixture(scope="module")
def counting(model):
    """The same model, but it counts."""
    structure = jax.tree.structure(fill(lambda: Counting(model.config, rngs=nnx.Rngs(0))))
    return jax.tree.unflatten(structure, jax.tree.leaves(model))


@pytest.fixture(scope="module")
def ending(model):
    """A token that ends some rows of PROMPTS before the last step and not all; and what then follows each prompt."""
    plain = [slow(model, prompt) for prompt in PROMPTS]
    eos = next(t for t in range(V) if 0 < sum(t in row[: NEW - 2] for row in plain) < len(PROMPTS))
    return eos, [slow(model, prompt, eos=eos) for prompt in PROMPTS]


def ended(ending):
    """Three prompts that all end, and how many tokens the longest answer has."""
    eos, wanted = ending
    at = {i: row.index(eos) for i, row in enumerate(wanted) if eos in row}
    chosen = (list(at) * 3)[:3]
    return [PROMPTS[i] for i in chosen], [wanted[i] for i in chosen], 1 + max(at.values())


def runs(model, prompts, eos):
    """What is generated, and how often the model ran for it."""
    jax.effects_barrier()
    before = Counting.runs
    found = np.asarray(generate(model, prompts, max_new_tokens=NEW, eos_id=eos))
    jax.effects_barrier()
    return found, Counting.runs - before


def test_after_the_end_there_is_nothing_but_the_end(counting, ending):
    """Text would go on after its end, or one row's end would end the others."""
    eos, wanted = ending
    found, count = runs(counting, PROMPTS, eos)
    assert_tokens(found, wanted)
    assert count == NEW


def test_generation_stops_when_every_row_has_ended(counting, ending):
    """A short answer would cost as much as the longest one allowed."""
    prompts, wanted, last = ended(ending)
    found, count = runs(counting, prompts, ending[0])
    assert_tokens(found, wanted)
    assert count == last < NEW


# Streaming and sampling --------------------------------------------------------------------------


def test_a_stream_has_the_tokens_of_generate(model):
    """What is shown while it comes would differ from what is returned; a later step must not change it either."""
    pieces = list(stream(model, PROMPTS, **how()))
    assert all(isinstance(piece, np.ndarray) and piece.shape == (len(PROMPTS),) for piece in pieces)
    assert_tokens(np.stack(pieces, 1), generate(model, PROMPTS, **how()))


def test_a_stream_ends_with_its_last_row(model):
    """A stream would go on with nothing to say, or end with its first row."""
    lengths = []
    for seed in range(40):
        whole = np.asarray(generate(model, PROMPTS[1:2] * 3, **how(8.0, seed)))
        ends = [row.index(EOS) + 1 if EOS in row else NEW for row in whole.tolist()]
        if len(set(ends)) > 1 and max(ends) < NEW:  # rare, and what is looked for
            pieces = np.stack(list(stream(model, PROMPTS[1:2] * 3, **how(8.0, seed))), 1)
            assert_tokens(pieces, whole[:, : max(ends)])
            lengths.append(len(pieces))
    assert lengths


def test_a_draw_follows_its_key(model):
    """A sample could not be repeated, or would be the same under every key."""
    first, again, other = (np.asarray(generate(model, PROMPTS, **how(seed=seed))) for seed in (1, 1, 2))
    assert_tokens(again, first)
    assert (other != first).any()


def test_rows_and_steps_draw_by_themselves(model):
    """Several samples of one prompt would be the same, or each step would draw with the same key.

    Of a uniform model, in which nothing else tells rows and steps apart.
    """
    uniform = jax.tree.map(jnp.zeros_like, model)
    drawn = np.asarray(generate(uniform, [[4, 2]] * 3, **how())).tolist()
    assert len(set(map(tuple, drawn))) == 3
    assert min(len(set(row)) for row in drawn) > 3


def test_next_to_no_temperature_is_greedy(model):
    """Samples would be drawn from other logits than the model's."""
    wanted = [slow(model, prompt, eos=EOS) for prompt in PROMPTS]
    assert_tokens(generate(model, PROMPTS, **how(1e-4)), wanted)


def test_draws_follow_the_models_distribution(model):
    """Tokens would be drawn from other logits than the model's: two tokens, of 3,000 draws."""
    rows, temperature = 3000, 1.5
    shared = dict(sampler=sampling(temperature=temperature), key=jax.random.key(3))
    drawn = np.asarray(generate(model, [PROMPTS[1]] * rows, max_new_tokens=2, **shared))
    held = weights(model)

    def distribution(prompt):
        logits = oracles.causal_lm(held, model.config, [prompt])[0, -1] / temperature
        return np.exp(oracles.log_softmax(logits))

    first = distribution(PROMPTS[1])
    wanted = rows * np.stack([p * distribution([*PROMPTS[1], token]) for token, p in enumerate(first)])
    counts = np.zeros((V, V))
    np.add.at(counts, tuple(drawn.T), 1)
    likely = wanted > 5
    assert likely.sum() > 10
    # Five standard deviations of each count; the others, all together.
    assert (np.abs(counts - wanted)[likely] <= 5 * np.sqrt(wanted[likely])).all()
    assert abs(counts[~likely].sum() - wanted[~likely].sum()) <= 5 * np.sqrt(wanted[~likely].sum())


# Compilation -----------------------------------------------------------------------------------


def test_lengths_that_share_a_bucket_share_a_program(model):
    """Each length of a prompt would compile a program of its own: seconds for a real model."""
    generate(model, [[1] * 16] * 3, max_new_tokens=NEW)
    before = generation._generate._cache_size()
    for length in (1, 2, 9):
        generate(model, [[1] * length] * 3, max_new_tokens=NEW)
    assert generation._generate._cache_size() == before


def test_another_temperature_or_key_is_no_other_program(model):
    """Looking for a good temperature would compile for each."""
    generate(model, PROMPTS, **how())
    before = generation._generate._cache_size()
    for temperature, seed in ((0.7, 1), (1.0, 2)):
        generate(model, PROMPTS, **how(temperature, seed))
    assert generation._generate._cache_size() == before


def test_a_stream_compiles_nothing_from_token_to_token(model):
    """A stream would compile for each token, or for each prompt."""
    list(stream(model, PROMPTS, **how()))
    before = generation._start._cache_size(), generation._advance._cache_size()
    list(stream(model, [[1] * 18, [2], [3, 4]], **how()))
    assert (generation._start._cache_size(), generation._advance._cache_size()) == before


# Parity ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2():
    """A tiny GPT-2 of transformers with random weights, and ours with the same."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=V, n_embd=8, n_head=2, n_layer=2, n_positions=MAX_LENGTH, n_inner=12)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    ours = causal_lm(9, positions="learned", activation="gelu_tanh", tie_output=True, norm="layer", use_bias=True)
    held = {name: np.asarray(x, np.float32) for name, x in weights(ours).items()}
    norms = {"attention_residual.norm": "ln_1", "feed_forward_residual.norm": "ln_2"}
    tokens, positions = held["embedding.table"], held["positions.scheme.table"]
    state = {"transformer.wte.weight": tokens, "lm_head.weight": tokens, "transformer.wpe.weight": positions}
    for name, one in (("weight", "gamma"), ("bias", "beta")):
        state[f"transformer.ln_f.{name}"] = held[f"decoder.final_norm.{one}"]
    for i in range(2):
        place = "decoder.layers.0."
        layer = {k.removeprefix(place): x[i] for k, x in held.items() if k.startswith(place)}
        block = {
            "attn.c_attn.weight": np.concatenate([layer[f"attention.w_{x}"].reshape(8, 8) for x in "qkv"], axis=1),
            "attn.c_attn.bias": np.concatenate([layer[f"attention.b_{x}"].reshape(8) for x in "qkv"]),
            "attn.c_proj.weight": layer["attention.w_o"].reshape(8, 8),
            "attn.c_proj.bias": layer["attention.b_o"],
            "mlp.c_fc.weight": layer["feed_forward.w1"],
            "mlp.c_fc.bias": layer["feed_forward.b1"],
            "mlp.c_proj.weight": layer["feed_forward.w2"],
            "mlp.c_proj.bias": layer["feed_forward.b2"],
        }
        for mine, name in norms.items():
            block |= {f"{name}.weight": layer[f"{mine}.gamma"], f"{name}.bias": layer[f"{mine}.beta"]}
        state |= {f"transformer.h.{i}.{name}": x for name, x in block.items()}
    theirs.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in state.items()}, strict=True)
    return theirs, ours


@pytest.mark.slow
@pytest.mark.parity
def test_greedy_generation_is_theirs(gpt2):
    """Hugging Face's generate would continue the same prompts, padded on the left, in another way."""
    import torch

    theirs, ours = gpt2
    length = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (length - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in PROMPTS])
    fixed = dict(max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=V)  # V: never
    wanted = theirs.generate(padded, attention_mask=mask, **fixed)[:, length:]
    assert len(set(map(tuple, wanted.tolist()))) == len(PROMPTS)
    assert_tokens(generate(ours, PROMPTS, max_new_tokens=NEW), wanted)
