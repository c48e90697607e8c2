"""Small checkpoints of every family: what `transformers` is told to build, and weights that follow from names alone."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

GOLDEN = Path(__file__).parent / "golden"
V, D, L, T = 29, 16, 3, 12
TOKENS = np.random.default_rng(0).integers(2, V, (2, T))

IDS = dict(bos_token_id=0, eos_token_id=1, pad_token_id=1)
SIZES = dict(vocab_size=V, hidden_size=D, num_attention_heads=4, intermediate_size=24, num_hidden_layers=L, **IDS)
SIZES |= dict(max_position_embeddings=T)
GROUPED = SIZES | dict(num_key_value_heads=2)
GPT = dict(vocab_size=V, n_embd=D, n_head=4, n_layer=L, n_positions=T, n_inner=24, bos_token_id=0, eos_token_id=1)
SMALL_WINDOW = dict(sliding_window=4)


def rope(**said: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0} | said}


HALF = rope(partial_rotary_factor=0.5)
LENGTH = {"original_max_position_embeddings": 8}
GEMMA = GROUPED | rope() | dict(head_dim=6, attn_implementation="eager")
GEMMA3 = GEMMA | dict(num_hidden_layers=7, query_pre_attn_scalar=24, **SMALL_WINDOW)
GEMMA3["rope_parameters"] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
}
LONGROPE = dict(rope_type="longrope", short_factor=[1.0, 1.5], long_factor=[1.2, 3.0], partial_rotary_factor=1.0)
OPT = dict(vocab_size=V, hidden_size=D, num_attention_heads=4, num_hidden_layers=L, ffn_dim=24)
OPT |= dict(max_position_embeddings=T, **IDS)
NEO = dict(vocab_size=V, hidden_size=D, num_heads=4, num_layers=3, intermediate_size=24, window_size=3)
NEO |= dict(attention_types=[[["global", "local"], 1], [["local"], 1]], max_position_embeddings=T)
NEO |= dict(bos_token_id=0, eos_token_id=1)

# By family: the class of theirs, and the config of each case, of which the first is the usual one.
CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "gpt2": ("GPT2LMHeadModel", [
        GPT, GPT | dict(scale_attn_weights=False, activation_function="relu", tie_word_embeddings=False),
    ]),
    "gptj": ("GPTJForCausalLM", [GPT | dict(rotary_dim=2), GPT | dict(rotary_dim=4, activation_function="gelu")]),
    "gpt_neo": ("GPTNeoForCausalLM", [NEO]),
    "gpt_neox": ("GPTNeoXForCausalLM", [
        SIZES | HALF, SIZES | HALF | dict(use_parallel_residual=False, hidden_act="gelu_new"),
        SIZES | rope(partial_rotary_factor=1.0) | dict(attention_bias=False, tie_word_embeddings=True),
    ]),
    "opt": ("OPTForCausalLM", [
        OPT, OPT | dict(do_layer_norm_before=False), OPT | dict(enable_bias=False, tie_word_embeddings=False),
        OPT | dict(layer_norm_elementwise_affine=False),
    ]),
    "bloom": ("BloomForCausalLM", [dict(vocab_size=V, hidden_size=24, n_head=6, n_layer=L, **IDS)]),
    "llama": ("LlamaForCausalLM", [
        GROUPED | rope(),
        GROUPED | dict(attention_bias=True, mlp_bias=True, head_dim=6, tie_word_embeddings=True) | rope(
            rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **LENGTH
        ),
        SIZES | rope(rope_type="linear", factor=2.0),
        SIZES | rope(rope_type="llama3", factor=8.0, low_freq_factor=0.5, high_freq_factor=2.0, **LENGTH),
        GROUPED | dict(head_dim=16) | rope(rope_type="yarn", factor=4.0, **LENGTH),
        GROUPED | dict(head_dim=16) | rope(
            rope_type="yarn", factor=4.0, beta_fast=4.0, beta_slow=0.5, truncate=False, attention_factor=1.3, **LENGTH
        ),
        GROUPED | rope(rope_type="yarn", factor=4.0, mscale=0.7, mscale_all_dim=1.1, **LENGTH),
    ]),
    "mistral": ("MistralForCausalLM", [
        GROUPED | rope() | SMALL_WINDOW, GROUPED | rope() | dict(sliding_window=None, head_dim=6),
    ]),
    "qwen2": ("Qwen2ForCausalLM", [
        GROUPED | rope(), GROUPED | rope() | dict(use_sliding_window=True, max_window_layers=1, **SMALL_WINDOW),
    ]),
    "qwen3": ("Qwen3ForCausalLM", [
        GROUPED | rope() | dict(head_dim=6),
        GROUPED | rope() | dict(
            head_dim=6, use_sliding_window=True, max_window_layers=2, attention_bias=True, **SMALL_WINDOW
        ),
    ]),
    "gemma": ("GemmaForCausalLM", [GEMMA]),
    "gemma2": ("Gemma2ForCausalLM", [GEMMA | dict(query_pre_attn_scalar=24, **SMALL_WINDOW)]),
    "gemma3_text": ("Gemma3ForCausalLM", [GEMMA3]),
    "phi": ("PhiForCausalLM", [SIZES | HALF, GROUPED | HALF | dict(qk_layernorm=True)]),
    "phi3": ("Phi3ForCausalLM", [
        GROUPED | rope() | SMALL_WINDOW,
        GROUPED | rope(**LONGROPE, **LENGTH) | LENGTH,
        GROUPED | rope(**LONGROPE, original_max_position_embeddings=100) | dict(original_max_position_embeddings=100),
    ]),
    "olmo": ("OlmoForCausalLM", [GROUPED | rope(), GROUPED | rope() | dict(clip_qkv=0.3, attention_bias=True)]),
    "olmo2": ("Olmo2ForCausalLM", [GROUPED | rope()]),
    "smollm3": ("SmolLM3ForCausalLM", [
        GROUPED | rope() | dict(num_hidden_layers=5),
        GROUPED | rope() | dict(num_hidden_layers=5, use_sliding_window=True, **SMALL_WINDOW),
    ]),
    "stablelm": ("StableLmForCausalLM", [
        SIZES | HALF | dict(num_key_value_heads=4), GROUPED | HALF | dict(use_parallel_residual=True, use_qkv_bias=True),
        GROUPED | HALF | dict(qk_layernorm=True),
    ]),
    "starcoder2": ("Starcoder2ForCausalLM", [
        GROUPED | rope(), GROUPED | rope() | dict(use_bias=False, tie_word_embeddings=False, **SMALL_WINDOW),
    ]),
    "cohere": ("CohereForCausalLM", [GROUPED | rope(), GROUPED | rope() | dict(use_qk_norm=True, attention_bias=True)]),
}  # fmt: skip
EACH = [(family, number) for family, (_, configs) in CASES.items() for number in range(len(configs))]


def weights(shapes: dict[str, Any], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """The values of tensors of these names and shapes: about 1 of a norm's gain, about 0 of all others."""
    held = {}
    for name, shape in shapes.items():
        drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape), np.float32)
        gain = len(shape) == 1 and name.endswith("weight")
        held[name] = (float(gain) + 0.3 * drawn).astype(dtype)
    return held


def golden(family: str) -> list[dict[str, Any]]:
    """The cases of a family as `make_golden.py` wrote them: "config", "shapes" and "logits"."""
    cases = json.loads((GOLDEN / f"{family}.json").read_text())
    for case in cases:
        case["logits"] = np.frombuffer(base64.b64decode(case["logits"]), np.float32).reshape(*TOKENS.shape, -1)
    return cases


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Writes a folder as theirs is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")
