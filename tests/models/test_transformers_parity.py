"""The published architectures in Hugging Face's transformers, with the same random weights, say the same.

A table maps each parameter of ours to one of theirs; it names those of transformers 5.23.
"""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import assert_close, by_day, quick_jit, tables

import tformer_jax.functional as F
from tformer_jax import models
from tformer_jax.config import build, merged
from tformer_jax.presets import PRESETS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.23")
pytestmark = pytest.mark.parity

V, D, L, T = 29, 16, 2, 10
TOKENS = np.random.default_rng(0).integers(0, V, (2, T))
LENGTHS = np.array([T, 6])
SHRUNK = dict(vocab_size=V, d_model=D, num_heads=4, d_ff=24, num_layers=L, max_length=T)
# Their names of the same sizes, where they follow Llama's or BERT's; no token is special.
THEIRS = dict(vocab_size=V, hidden_size=D, num_attention_heads=4, intermediate_size=24, num_hidden_layers=L)
THEIRS |= dict(max_position_embeddings=T, bos_token_id=None, eos_token_id=None, pad_token_id=None)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Weights ---------------------------------------------------------------------------------------


def randomised(model):
    """Their model, every parameter drawn anew: initial biases are 0 and norms 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            one = "norm" in name.lower() or ".ln_" in name
            around = 1.0 if one and name.endswith("weight") and parameter.ndim == 1 else 0.0
            parameter.copy_(around + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def copied(make, theirs, table, unused=()):
    """The module that `make()` builds, with their weights.

    Args:
      make: as for `support.fill`.
      theirs: their model.
      table: {our name: (their name, change)}; "{}" in theirs is a layer, which ours stack, those of each place in
        the pattern together: "layers" stands for them all. What ours lacks is not looked up.
      unused: names of theirs that have no place in ours; any other one has to be used.
    """
    held = {name: parameter.detach().numpy() for name, parameter in theirs.named_parameters()}
    used, shapes = set(unused), jax.eval_shape(make)
    ours = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    queries = filter(None, (re.fullmatch(r"(.*)\.layers\.\d+\.attention\.w_q", name) for name in ours))
    periods = Counter(found[1] for found in queries)

    def pick(path, leaf):
        ours = name_of(path)
        found = re.fullmatch(r"(.*)\.(layers|tail)\.(\d+)\.(.*)", ours)
        if found is None:
            (name, change), names = table[ours], [table[ours][0]]
        else:
            stack, part, place, rest = found.groups()
            name, change = table[f"{stack}.layers.{rest}"]
            period, count = periods[stack], sum(re.fullmatch(name.format(r"\d+"), there) is not None for there in held)
            first, last = (0, count // period * period) if part == "layers" else (count // period * period, count)
            names = [name.format(i) for i in range(first + int(place), last, period)]
        used.update(names)
        values = np.stack([change(held[n]) for n in names])
        assert values.size == leaf.size, f"{ours} {leaf.shape} from {name} {values.shape}"
        return jnp.asarray(values.reshape(leaf.shape), leaf.dtype)

    module = jax.tree_util.tree_map_with_path(pick, shapes)
    assert used == set(held), f"not copied: {set(held) - used}"
    return module


def name_of(path):
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def same(x):
    return x


def linear(w, b, theirs, change=np.transpose):
    """torch.nn.Linear holds [outputs, inputs]."""
    return {w: (f"{theirs}.weight", change), b: (f"{theirs}.bias", same)}


def heads(ours, q, k, v, o, change=np.transpose):
    return {
        name: value
        for letter, theirs in zip("qkvo", (q, k, v, o), strict=True)
        for name, value in linear(f"{ours}.w_{letter}", f"{ours}.b_{letter}", theirs, change).items()
    }


def norm(ours, theirs, change=same):
    return {f"{ours}.gamma": (f"{theirs}.weight", change), f"{ours}.beta": (f"{theirs}.bias", same)}


def within(ours, theirs, table):
    """The table of a part, for the whole."""
    return {f"{ours}.{name}": (f"{theirs}.{there}", change) for name, (there, change) in table.items()}


def assert_same(ours, theirs, tolerance=1e-5, what=""):
    assert_close(ours, theirs.detach(), tolerance, what)


def tensor(x):
    return torch.from_numpy(np.array(x))


def run(function, *args):
    return quick_jit(function)(*args)


# Causal language models ------------------------------------------------------------------------


def shrunk(model, preset=None, **changes):
    """A small config: of a preset with changes, or of nothing but them."""
    cls, base = getattr(models, model).Config, PRESETS[preset]() if preset else {}
    return build(cls, merged(cls, base, tables(**SHRUNK | changes)), model)


def causal_lm(theirs, table, preset=None, **changes):
    """Our model with their weights, and both models' logits."""
    config = shrunk("CausalLM", preset, **({} if preset else dict(dropout_rate=0.0, scale_embeddings=False)) | changes)
    ours = copied(lambda: models.CausalLM(config, rngs=nnx.Rngs(0)), theirs, table)
    return run(lambda model: model(jnp.asarray(TOKENS)), ours), theirs(tensor(TOKENS), use_cache=False).logits


def parts(i):
    """Of a fused projection [D, 3 D]."""
    return lambda w: np.split(w, 3, axis=-1)[i]


GPT2 = {
    "embedding.table": ("transformer.wte.weight", same),
    "positions.scheme.table": ("transformer.wpe.weight", same),
    **norm("decoder.final_norm", "transformer.ln_f"),
    **within(
        "decoder.layers",
        "transformer.h.{}",
        {
            **{f"attention.w_{x}": ("attn.c_attn.weight", parts(i)) for i, x in enumerate("qkv")},
            **{f"attention.b_{x}": ("attn.c_attn.bias", parts(i)) for i, x in enumerate("qkv")},
            **linear("attention.w_o", "attention.b_o", "attn.c_proj", same),  # Conv1D holds [inputs, outputs]
            **linear("feed_forward.w1", "feed_forward.b1", "mlp.c_fc", same),
            **linear("feed_forward.w2", "feed_forward.b2", "mlp.c_proj", same),
            **norm("attention_residual.norm", "ln_1"),
            **norm("feed_forward_residual.norm", "ln_2"),
        },
    ),
}


def test_gpt2_is_theirs():
    """The gpt2 preset is not GPT-2: its activation, norms, positions or tied output are others."""
    sizes = dict(vocab_size=V, n_embd=D, n_head=4, n_layer=L, n_positions=T, n_inner=24)
    theirs = randomised(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)))
    assert_same(*causal_lm(theirs, GPT2, preset="gpt2"))


LLAMA_LAYER = {
    **heads("attention", *(f"self_attn.{x}_proj" for x in "qkvo")),
    **norm("attention.q_norm", "self_attn.q_norm"),
    **norm("attention.k_norm", "self_attn.k_norm"),
    **linear("feed_forward.w_gate", "feed_forward.b_gate", "mlp.gate_proj"),
    **linear("feed_forward.w1", "feed_forward.b1", "mlp.up_proj"),
    **linear("feed_forward.w2", "feed_forward.b2", "mlp.down_proj"),
    **norm("attention_residual.norm", "input_layernorm"),
    **norm("feed_forward_residual.norm", "post_attention_layernorm"),
}
LLAMA = {
    "embedding.table": ("model.embed_tokens.weight", same),
    "output.w": ("lm_head.weight", np.transpose),
    **norm("decoder.final_norm", "model.norm"),
    **within("decoder.layers", "model.layers.{}", LLAMA_LAYER),
}


def llama(name="Llama", rope=None, **sizes):
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    rope = dict(rope_type="default", rope_theta=10_000.0) | (rope or {})
    sizes = THEIRS | dict(num_key_value_heads=4, rms_norm_eps=1e-5, rope_parameters=rope) | sizes
    return randomised(getattr(transformers, f"{name}ForCausalLM")(config(**sizes)))


@pytest.mark.parametrize(
    ("name", "sizes", "rope"),
    by_day(
        [
            ("llama_7b", dict(), dict()),
            ("llama_8b", dict(num_key_value_heads=2), dict(rope_theta=500_000.0)),
            ("llama_1b", dict(num_key_value_heads=1, tie_word_embeddings=True), dict(rope_theta=500_000.0)),
        ],
        1,
    ),
)
def test_llama_is_theirs(name, sizes, rope):
    """A llama preset is not Llama: its norms, rotations, groups of heads, gate or biases are others."""
    theirs = llama(rope=rope, **sizes)
    assert_same(*causal_lm(theirs, LLAMA, preset=name, num_kv_heads=sizes.get("num_key_value_heads")))


@pytest.mark.parametrize(
    ("theirs", "sizes", "ours"),
    by_day([
        (dict(rope_type="linear", factor=4.0), dict(), dict(rotary_scaling="linear", rotary_factor=4.0)),
        (
            dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
            | dict(original_max_position_embeddings=16),
            dict(),
            dict(rotary_scaling="llama3", rotary_factor=8.0) | {"positions.trained_length": 16},
        ),
        # Theirs grows with the text: 2 (T / length of training) - (2 - 1).
        (
            dict(rope_type="dynamic", factor=2.0),
            dict(max_position_embeddings=T // 2),
            dict(rotary_scaling="ntk", rotary_factor=3.0),
        ),
    ], 1),
    ids=["linear", "llama3", "ntk"],
)  # fmt: skip
def test_rotary_scaling_is_theirs(theirs, sizes, ours):
    """Positions beyond the length of training are turned by other angles than theirs."""
    model = llama(rope=theirs, **sizes)
    logits, wanted = causal_lm(model, LLAMA, preset="llama_7b", **ours)
    assert_same(logits, wanted)
    unscaled, _ = causal_lm(model, LLAMA, preset="llama_7b")
    assert np.abs(logits - unscaled).max() > 1e-2


@pytest.mark.parametrize("window", by_day([1, 3], 1))
def test_mistrals_window_is_theirs(window):
    """A window of w is not the token itself and the w - 1 before it."""
    theirs = llama("Mistral", num_key_value_heads=2, sliding_window=window)
    assert_same(*causal_lm(theirs, LLAMA, preset="llama_7b", num_kv_heads=2, window=window))


def test_qwen3s_norms_of_queries_and_keys_are_theirs():
    """`qk_norm` norms after the rotation, over all heads at once, or without a scale of its own."""
    theirs = llama("Qwen3", num_key_value_heads=2, head_dim=6)
    assert_same(*causal_lm(theirs, LLAMA, preset="llama_7b", num_kv_heads=2, head_dim=6, qk_norm=True))


def test_qwen2s_biases_are_theirs():
    """`qkv_bias` without `output_bias` adds one to the output, or leaves one of the three out."""
    theirs = llama("Qwen2", num_key_value_heads=2)
    changes = {"attention.qkv_bias": True, "attention.num_kv_heads": 2}
    assert_same(*causal_lm(theirs, LLAMA, preset="llama_7b", **changes))


OLMO2 = {
    **LLAMA,
    **within(
        "decoder.layers",
        "model.layers.{}",
        {
            **norm("attention_residual.output_norm", "post_attention_layernorm"),
            **norm("feed_forward_residual.output_norm", "post_feedforward_layernorm"),
        },
    ),
}


def test_olmo2s_norms_of_outputs_are_theirs():
    """norm_position="output" norms the stream, or what a sublayer reads; or queries are normed head by head."""
    theirs = llama("Olmo2", num_key_value_heads=2)
    changes = dict(num_kv_heads=2, qk_norm=True, norm_position="output") | {"attention.joint_qk_norm": True}
    assert_same(*causal_lm(theirs, OLMO2, preset="llama_7b", **changes))


GEMMA = {
    **LLAMA,
    **within(
        "decoder.layers",
        "model.layers.{}",
        {
            **norm("attention_residual.norm", "input_layernorm"),
            **norm("attention_residual.output_norm", "post_attention_layernorm"),
            **norm("feed_forward_residual.norm", "pre_feedforward_layernorm"),
            **norm("feed_forward_residual.output_norm", "post_feedforward_layernorm"),
        },
    ),
}
GEMMAS = dict(num_kv_heads=2, head_dim=6, norm="rms", norm_position="sandwich", positions="rotary", use_bias=False)
GEMMAS |= dict(gated=True, activation="gelu_tanh", scale_embeddings=True) | {"norm.unit_offset": True}
GEMMAS |= {"attention.scale": 5**-0.5}
FULL, SLIDING, WINDOW = "full_attention", "sliding_attention", {"attention": {"window": 3}}


def gemma(name, kinds, **sizes):
    sizes |= dict(num_key_value_heads=2, head_dim=6, query_pre_attn_scalar=5, tie_word_embeddings=True)
    more = dict(sliding_window=3, num_hidden_layers=len(kinds), layer_types=kinds, attn_implementation="eager")
    return llama(name, **sizes, **more)


@pytest.mark.parametrize(
    ("kinds", "pattern"),
    by_day([([FULL] * 2, ({},)), ([SLIDING] * 2, (WINDOW,)), ([SLIDING, FULL, SLIDING], (WINDOW, {}))], 2),
)
def test_gemma2_is_theirs(kinds, pattern):
    """Soft caps, sandwich norms, scaled embeddings or scores, gains of 1 + w or layers by turns are not Gemma 2's."""
    theirs = gemma("Gemma2", kinds, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)
    config = GEMMAS | dict(attention_softcap=2.0, output_softcap=3.0, num_layers=len(kinds), pattern=pattern)
    assert_same(*causal_lm(theirs, GEMMA, **config))


def test_gemma3_is_theirs():
    """Local layers are turned by the base of the global ones, or norms of queries and keys have gains of w alone."""
    bases = {SLIDING: dict(rope_type="default", rope_theta=100.0), FULL: dict(rope_type="default", rope_theta=1e6)}
    kinds = [SLIDING, SLIDING, FULL] * 2 + [SLIDING]
    theirs = gemma("Gemma3", kinds, rope_parameters=bases)
    local = WINDOW | {"positions": {"base": 100.0}}
    config = GEMMAS | dict(rotary_base=1e6, qk_norm=True, num_layers=7, pattern=(local, local, {}))
    assert_same(*causal_lm(theirs, GEMMA, **config))


BLOOM_HEADS, BLOOM_WIDTH = 6, 4  # no power of two: the slopes of ALiBi have two parts


def fused(i):
    """Of Bloom's projection, [N 3 H D] or [N 3 H]: to [D N H] or [N H]."""
    return lambda w: np.moveaxis(
        w.reshape(BLOOM_HEADS, 3, BLOOM_WIDTH, *w.shape[1:])[:, i], -1, 0 if w.ndim == 2 else -1
    )


BLOOM = {
    "embedding.table": ("transformer.word_embeddings.weight", same),
    **norm("positions.norm", "transformer.word_embeddings_layernorm"),
    **norm("decoder.final_norm", "transformer.ln_f"),
    **within(
        "decoder.layers",
        "transformer.h.{}",
        {
            **{f"attention.w_{x}": ("self_attention.query_key_value.weight", fused(i)) for i, x in enumerate("qkv")},
            **{f"attention.b_{x}": ("self_attention.query_key_value.bias", fused(i)) for i, x in enumerate("qkv")},
            **linear("attention.w_o", "attention.b_o", "self_attention.dense"),
            **linear("feed_forward.w1", "feed_forward.b1", "mlp.dense_h_to_4h"),
            **linear("feed_forward.w2", "feed_forward.b2", "mlp.dense_4h_to_h"),
            **norm("attention_residual.norm", "input_layernorm"),
            **norm("feed_forward_residual.norm", "post_attention_layernorm"),
        },
    ),
}


def test_bloom_is_theirs():
    """ALiBi's slopes, or the norm of the embeddings, are not Bloom's."""
    sizes = dict(hidden_size=BLOOM_HEADS * BLOOM_WIDTH, n_head=BLOOM_HEADS, n_layer=L)
    theirs = randomised(transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=V, **sizes)))
    config = dict(d_model=24, num_heads=BLOOM_HEADS, d_ff=96, norm_position="pre", activation="gelu_tanh")
    assert_same(*causal_lm(theirs, BLOOM, **config, positions="alibi", embedding_norm=True))


def by_thirds(i):
    """Of GPT-NeoX's projection, [N 3 H, D] or [N 3 H]: to [D N H] or [N H]."""
    return lambda w: np.moveaxis(w.reshape(4, 3, D // 4, *w.shape[1:])[:, i], -1, 0 if w.ndim == 2 else -1)


PYTHIA = {
    "embedding.table": ("gpt_neox.embed_in.weight", same),
    "output.w": ("lm_head.weight", np.transpose),
    **norm("decoder.final_norm", "gpt_neox.final_layer_norm"),
    **within(
        "decoder.layers",
        "gpt_neox.layers.{}",
        {
            **{f"attention.w_{x}": ("attention.query_key_value.weight", by_thirds(i)) for i, x in enumerate("qkv")},
            **{f"attention.b_{x}": ("attention.query_key_value.bias", by_thirds(i)) for i, x in enumerate("qkv")},
            **linear("attention.w_o", "attention.b_o", "attention.dense"),
            **linear("feed_forward.w1", "feed_forward.b1", "mlp.dense_h_to_4h"),
            **linear("feed_forward.w2", "feed_forward.b2", "mlp.dense_4h_to_h"),
            **norm("attention_residual.norm", "input_layernorm"),
            **norm("feed_forward_residual.norm", "post_attention_layernorm"),
        },
    ),
}


def test_pythia_is_theirs():
    """The first half of a head is not what is turned, or parallel sublayers read one norm instead of two."""
    rope = dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5)
    sizes = THEIRS | dict(rope_parameters=rope, use_parallel_residual=True, tie_word_embeddings=False)
    theirs = randomised(transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes)))
    config = dict(norm_position="pre", parallel_block=True, positions="rotary", activation="gelu", tie_output=False)
    assert_same(*causal_lm(theirs, PYTHIA, **config, **{"positions.width": 2, "layer.shared_norm": False}))


PHI = {
    "embedding.table": ("model.embed_tokens.weight", same),
    **linear("output.w", "output.b", "lm_head"),
    **norm("decoder.final_norm", "model.final_layernorm"),
    **within(
        "decoder.layers",
        "model.layers.{}",
        {
            **heads("attention", *(f"self_attn.{x}_proj" for x in "qkv"), "self_attn.dense"),
            **linear("feed_forward.w1", "feed_forward.b1", "mlp.fc1"),
            **linear("feed_forward.w2", "feed_forward.b2", "mlp.fc2"),
            **norm("attention_residual.norm", "input_layernorm"),
        },
    ),
}


def test_phi_is_theirs():
    """Parallel sublayers do not share a norm, or a bias is missing: Phi has them everywhere, also at its output."""
    rope = dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=0.5)
    theirs = randomised(transformers.PhiForCausalLM(transformers.PhiConfig(**THEIRS, rope_parameters=rope)))
    config = dict(
        norm_position="pre", parallel_block=True, positions="rotary", activation="gelu_tanh", tie_output=False
    )
    assert_same(*causal_lm(theirs, PHI, **config, **{"positions.width": 2, "output.bias": True}))


def halves(w):
    """Pairs (2i, 2i + 1) of each head to (i, i + H / 2), [D, N H]."""
    return w.T.reshape(D, 4, -1, 2).swapaxes(-1, -2)


GPTJ = {
    "embedding.table": ("transformer.wte.weight", same),
    **linear("output.w", "output.b", "lm_head"),
    **norm("decoder.final_norm", "transformer.ln_f"),
    **within(
        "decoder.layers",
        "transformer.h.{}",
        {
            "attention.w_q": ("attn.q_proj.weight", halves),
            "attention.w_k": ("attn.k_proj.weight", halves),
            "attention.w_v": ("attn.v_proj.weight", np.transpose),
            "attention.w_o": ("attn.out_proj.weight", np.transpose),
            **linear("feed_forward.w1", "feed_forward.b1", "mlp.fc_in"),
            **linear("feed_forward.w2", "feed_forward.b2", "mlp.fc_out"),
            **norm("attention_residual.norm", "ln_1"),
        },
    ),
}


def test_gptjs_parallel_block_is_theirs():
    """`parallel_block` is not x + attention(norm(x)) + feed_forward(norm(x)), or the output lacks its bias."""
    sizes = dict(vocab_size=V, n_embd=D, n_head=4, n_layer=L, n_positions=T, n_inner=24, rotary_dim=4)
    tokens = dict(bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
    theirs = randomised(transformers.GPTJForCausalLM(transformers.GPTJConfig(**sizes, **tokens)))
    config = dict(
        norm_position="pre", parallel_block=True, positions="rotary", activation="gelu_tanh", tie_output=False
    )
    biases = {"attention.qkv_bias": False, "attention.output_bias": False, "output.bias": True}
    assert_same(*causal_lm(theirs, GPTJ, **config, **biases))


# Encoders --------------------------------------------------------------------------------------

BERT_LAYER = {
    **heads("attention", *(f"attention.self.{x}" for x in ("query", "key", "value")), "attention.output.dense"),
    **linear("feed_forward.w1", "feed_forward.b1", "intermediate.dense"),
    **linear("feed_forward.w2", "feed_forward.b2", "output.dense"),
    **norm("attention_residual.norm", "attention.output.LayerNorm"),
    **norm("feed_forward_residual.norm", "output.LayerNorm"),
}
BERT = {
    "encoder.embedding.table": ("bert.embeddings.word_embeddings.weight", same),
    "encoder.token_types.table": ("bert.embeddings.token_type_embeddings.weight", same),
    "encoder.positions.scheme.table": ("bert.embeddings.position_embeddings.weight", same),
    **norm("encoder.positions.norm", "bert.embeddings.LayerNorm"),
    **within("encoder.layers.layers", "bert.encoder.layer.{}", BERT_LAYER),
    **linear("pooler.w", "pooler.b", "bert.pooler.dense"),
    **linear("transform.w", "transform.b", "cls.predictions.transform.dense"),
    **norm("transform_norm", "cls.predictions.transform.LayerNorm"),
    "output.b": ("cls.predictions.bias", same),
    **linear("classifier.w", "classifier.b", "classifier"),
}
TYPES = np.arange(T) // 4 % 2 * np.ones((2, 1), int)
BERT_INPUTS = dict(attention_mask=tensor(np.arange(T) < LENGTHS[:, None]).long(), token_type_ids=tensor(TYPES))


def bert(kind, **sizes):
    return randomised(getattr(transformers, f"BertFor{kind}")(transformers.BertConfig(**THEIRS, **sizes)))


@pytest.fixture(scope="module")
def masked_lm():
    """Our logits and pooled output of padded text with token types, and theirs."""
    theirs = bert("PreTraining")  # BertForMaskedLM, and the pooler
    config = shrunk("MaskedLM", "bert_base")
    next_sentence = ["cls.seq_relationship.weight", "cls.seq_relationship.bias"]
    ours = copied(lambda: models.MaskedLM(config, rngs=nnx.Rngs(0)), theirs, BERT, next_sentence)

    def call(model):
        mask = F.AttentionMask(lengths=jnp.asarray(LENGTHS))
        types = jnp.asarray(TYPES)
        return model(jnp.asarray(TOKENS), token_types=types, mask=mask, capture=("pooled",))

    logits, captured = run(call, ours)
    wanted = theirs(tensor(TOKENS), **BERT_INPUTS).prediction_logits
    return logits, captured["pooled"], wanted, theirs.bert(tensor(TOKENS), **BERT_INPUTS).pooler_output


def test_bert_is_theirs(masked_lm):
    """The bert presets are not BERT: its sums of embeddings, norms, activation or head are others."""
    logits, _, wanted, _ = masked_lm
    assert_same(logits, wanted)


def test_berts_pooled_output_is_theirs(masked_lm):
    """The pooled output is not tanh of the first token's state, projected."""
    _, pooled, _, wanted = masked_lm
    assert_same(pooled, wanted)


def test_berts_classifier_is_theirs():
    """A fine-tuned classifier does not read the pooled output."""
    theirs = bert("SequenceClassification", num_labels=3)
    config = shrunk("TextClassifier", "bert_base", num_classes=3)
    ours = copied(lambda: models.TextClassifier(config, rngs=nnx.Rngs(0)), theirs, BERT)
    how = dict(lengths=jnp.asarray(LENGTHS), token_types=jnp.asarray(TYPES))
    logits = run(lambda model: model(jnp.asarray(TOKENS), **how), ours)
    assert_same(logits, theirs(tensor(TOKENS), **BERT_INPUTS).logits)


VIT = {
    "class_token": ("vit.embeddings.cls_token", same),
    "positions.table": ("vit.embeddings.position_embeddings", same),
    "patch_embedding.w": ("vit.embeddings.patch_embeddings.projection.weight", lambda w: w.transpose(2, 3, 1, 0)),
    "patch_embedding.b": ("vit.embeddings.patch_embeddings.projection.bias", same),
    **norm("encoder.final_norm", "vit.layernorm"),
    **linear("classifier.w", "classifier.b", "classifier"),
    **within(
        "encoder.layers",
        "vit.layers.{}",
        {
            **heads("attention", *(f"attention.{x}_proj" for x in "qkvo")),
            **linear("feed_forward.w1", "feed_forward.b1", "mlp.fc1"),
            **linear("feed_forward.w2", "feed_forward.b2", "mlp.fc2"),
            **norm("attention_residual.norm", "layernorm_before"),
            **norm("feed_forward_residual.norm", "layernorm_after"),
        },
    ),
}


def test_vit_is_theirs():
    """The vit presets are not ViT: its patches, class token, positions, norms or head are others."""
    images = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)
    sizes = dict(hidden_size=D, num_attention_heads=4, intermediate_size=24, num_hidden_layers=L, layer_norm_eps=1e-6)
    config = transformers.ViTConfig(image_size=12, patch_size=4, num_labels=5, **sizes)
    theirs = randomised(transformers.ViTForImageClassification(config))
    sizes = {name: SHRUNK[name] for name in ("d_model", "num_heads", "d_ff", "num_layers")}
    changes = tables(**sizes, image_size=12, patch_size=4, num_classes=5)
    config = models.VisionTransformer.Config.preset("vit_b16", **changes)
    ours = copied(lambda: models.VisionTransformer(config, rngs=nnx.Rngs(0)), theirs, VIT)
    assert_same(run(lambda model: model(jnp.asarray(images)), ours), theirs(tensor(images).permute(0, 3, 1, 2)).logits)


# T5 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (16, 64), (64, 256)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets_are_t5s(bidirectional, num_buckets, max_distance):
    """A checkpoint's learned biases would be for other distances."""
    how = dict(bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)
    distances = np.arange(-600, 601)
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket(tensor(distances), **how)
    np.testing.assert_array_equal(F.relative_position_buckets(jnp.asarray(distances), **how), theirs)


def t5_side(ours, theirs, feed_forward):
    """One stack."""
    layers = {
        **heads("attention", *(f"layer.0.SelfAttention.{x}" for x in "qkvo")),
        **heads("cross_attention", *(f"layer.1.EncDecAttention.{x}" for x in "qkvo")),
        **linear("feed_forward.w1", "feed_forward.b1", f"layer.{feed_forward}.DenseReluDense.wi"),
        **linear("feed_forward.w2", "feed_forward.b2", f"layer.{feed_forward}.DenseReluDense.wo"),
        **norm("attention_residual.norm", "layer.0.layer_norm"),
        **norm("cross_attention_residual.norm", "layer.1.layer_norm"),
        **norm("feed_forward_residual.norm", f"layer.{feed_forward}.layer_norm"),
    }
    biases = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return {
        **norm(f"{ours}.final_norm", f"{theirs}.final_layer_norm"),
        f"{ours}.position_bias.table": (biases, same),
        **within(f"{ours}.layers", f"{theirs}.block.{{}}", layers),
    }


def test_t5_is_theirs():
    """An encoder-decoder with relative positions is not T5: its biases, masks, norms or cross-attention are others."""
    sizes = dict(vocab_size=V, d_model=D, d_kv=6, d_ff=24, num_layers=L, num_heads=4)
    buckets = dict(relative_attention_num_buckets=8, relative_attention_max_distance=12)
    config = transformers.T5Config(**sizes, **buckets, pad_token_id=0, eos_token_id=1, tie_word_embeddings=True)
    theirs = randomised(transformers.T5ForConditionalGeneration(config))
    config = shrunk(
        "Transformer",
        **dict(head_dim=6, norm="rms", norm_position="pre", norm_eps=1e-6, use_bias=False, dropout_rate=0.0),
        **dict(positions="relative", relative_buckets=8, relative_max_distance=12, scale_embeddings=False),
        **{"attention.scale": 1.0, "output.scale": D**-0.5},  # of a tied output
    )
    table = {
        "target_embedding.table": ("shared.weight", same),
        **t5_side("encoder", "encoder", feed_forward=1),
        **t5_side("decoder", "decoder", feed_forward=2),
    }
    ours = copied(lambda: models.Transformer(config, rngs=nnx.Rngs(0)), theirs, table)
    target = np.random.default_rng(1).integers(0, V, (2, 7))
    mask = F.AttentionMask(lengths=jnp.asarray(LENGTHS))
    logits = run(lambda model: model(jnp.asarray(TOKENS), jnp.asarray(target), source_mask=mask), ours)
    attended = tensor(np.arange(T) < LENGTHS[:, None]).long()
    wanted = theirs(tensor(TOKENS), attention_mask=attended, decoder_input_ids=tensor(target), use_cache=False).logits
    assert_same(logits, wanted)


# Sizes -----------------------------------------------------------------------------------------


def meta(name, **sizes):
    """Their model without memory for its parameters."""
    config = getattr(transformers, name.split("For")[0].removesuffix("LMHeadModel") + "Config")(**sizes)
    with torch.device("meta"):
        return getattr(transformers, name)(config)


LLAMA3 = dict(vocab_size=128_256, num_key_value_heads=8)


@pytest.mark.parametrize(
    ("name", "model", "theirs"),
    by_day([
        ("gpt2", "CausalLM", lambda: meta("GPT2LMHeadModel")),
        ("gpt2_xl", "CausalLM", lambda: meta("GPT2LMHeadModel", n_embd=1600, n_layer=48, n_head=25)),
        ("llama_7b", "CausalLM", lambda: meta("LlamaForCausalLM")),
        (
            "llama_1b",
            "CausalLM",
            lambda: meta(
                "LlamaForCausalLM",
                **(LLAMA3 | dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16)),
                tie_word_embeddings=True,
            ),
        ),
        ("llama_8b", "CausalLM", lambda: meta("LlamaForCausalLM", **LLAMA3, intermediate_size=14_336)),
        ("bert_base", "MaskedLM", lambda: meta("BertForPreTraining")),
        ("vit_b16", "VisionTransformer", lambda: meta("ViTForImageClassification", num_labels=1000)),
        ("vit_b32", "VisionTransformer", lambda: meta("ViTForImageClassification", num_labels=1000, patch_size=32)),
    ], 0, 4, 5, 6),
)  # fmt: skip
def test_presets_have_as_many_parameters_as_theirs(name, model, theirs):
    """A published model is built with another width, depth, vocabulary, bias or norm."""
    held = theirs().named_parameters()
    count = sum(p.numel() for n, p in held if not n.startswith("cls.seq_relationship"))  # not in ours
    config = getattr(models, model).Config.preset(name)
    ours = jax.eval_shape(lambda: getattr(models, model)(config, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(ours)) == count
