"""Small checkpoints of every family: what `transformers` is told to build, and weights that follow from names alone."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

GOLDEN = Path(__file__).parent / "golden"
V, D, L, T = 29, 16, 3, 12
TOKENS = np.random.default_rng(0).integers(2, V, (2, T))
# Of models that read a text from both sides: padding on the right, whose token is 1, and parts of a text.
LENGTHS = np.array([T, 7])
ATTENDED = np.arange(T) < LENGTHS[:, None]
TEXT = np.where(ATTENDED, TOKENS, 1)
TYPES = np.arange(T) // 4 % 2 * np.ones((2, 1), int)
IMAGES = np.random.default_rng(2).standard_normal((2, 12, 12, 3), np.float32)
TARGET = np.random.default_rng(1).integers(2, V, (2, 8))

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

ENCODER = dict(vocab_size=V, hidden_size=D, num_attention_heads=4, intermediate_size=24, num_hidden_layers=L)
BERT = ENCODER | dict(max_position_embeddings=T)
ROBERTA = ENCODER | dict(max_position_embeddings=T + 2, type_vocab_size=1, pad_token_id=1)
DISTILBERT = dict(vocab_size=V, dim=D, hidden_dim=24, n_layers=L, n_heads=4, max_position_embeddings=T)
MODERN = ENCODER | dict(num_hidden_layers=4, max_position_embeddings=T, local_attention=6, pad_token_id=1)
MODERN["rope_parameters"] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
}
ELECTRA = BERT | dict(embedding_size=D)
NARROW, WIDE = dict(embedding_size=6), dict(embedding_size=20)
BART = dict(vocab_size=V, d_model=D, encoder_layers=L, decoder_layers=2, encoder_ffn_dim=24, decoder_ffn_dim=24)
BART |= dict(encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=T)
BART |= dict(bos_token_id=0, eos_token_id=2, pad_token_id=1, decoder_start_token_id=2, forced_eos_token_id=None)
VIT = dict(hidden_size=D, num_attention_heads=4, intermediate_size=24, num_hidden_layers=L, image_size=12, patch_size=4)
DINO = {key: x for key, x in VIT.items() if key != "intermediate_size"}
T5 = dict(vocab_size=V, d_model=D, d_kv=6, d_ff=24, num_layers=L, num_decoder_layers=2, num_heads=4)
T5 |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=20)
T5 |= dict(pad_token_id=1, eos_token_id=2, decoder_start_token_id=0)


def pictures_of(name: str, config: dict[str, Any]) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """The cases of a model of images: bare, and with its classifier."""
    other = dict(num_channels=1, hidden_act="relu", qkv_bias=False)
    return {
        name.lower(): (f"{name}Model", [config, config | other]),
        f"{name.lower()} classifier": (f"{name}ForImageClassification", [config | dict(num_labels=3)]),
    }


def heads_of(name: str, config: dict[str, Any], *others: dict[str, Any]) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """The cases of an encoder: bare, with its masked head and with its classifier; all of them with other fields too."""
    family = name.lower() if name != "XLMRoberta" else "xlm-roberta"
    relu = {"activation" if name == "DistilBert" else "hidden_act": "relu"}
    each = lambda *cases: [*cases, *(cases[0] | other for other in others)]
    return {
        family: (f"{name}Model", each(config, config | relu)),
        f"{family} masked": (f"{name}ForMaskedLM", each(config, config | dict(tie_word_embeddings=False))),
        f"{family} classifier": (f"{name}ForSequenceClassification", each(config | dict(num_labels=3))),
    }


# By name, which begins with the family's: the class of theirs, and the config of each case, the usual one first.
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
        OPT | dict(word_embed_proj_dim=6, do_layer_norm_before=False),
        OPT | dict(word_embed_proj_dim=6, tie_word_embeddings=False, _remove_final_layer_norm=True),
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
    "gemma": ("GemmaForCausalLM", [GEMMA, GEMMA | dict(hidden_act="relu2")]),
    "gemma2": ("Gemma2ForCausalLM", [
        GEMMA | dict(query_pre_attn_scalar=24, **SMALL_WINDOW),
        GEMMA | dict(query_pre_attn_scalar=24, hidden_activation="gelu", **SMALL_WINDOW),
    ]),
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
    **heads_of("Bert", BERT), **heads_of("Roberta", ROBERTA), **heads_of("XLMRoberta", ROBERTA),
    **heads_of("DistilBert", DISTILBERT), **heads_of("Electra", ELECTRA, NARROW, WIDE),
    "bart": ("BartForConditionalGeneration", [BART, BART | dict(scale_embedding=True, decoder_layers=L)]),
    "mbart": ("MBartForConditionalGeneration", [BART, BART | dict(scale_embedding=True, activation_function="relu")]),
    "pegasus": ("PegasusForConditionalGeneration", [BART | dict(scale_embedding=True)]),
    "marian": ("MarianMTModel", [BART | dict(scale_embedding=True), BART | dict(activation_function="swish")]),
    "m2m_100": ("M2M100ForConditionalGeneration", [BART | dict(scale_embedding=True), BART]),
    "t5": ("T5ForConditionalGeneration", [
        T5, T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False), T5 | dict(feed_forward_proj="gated-silu"),
    ]),
    "mt5": ("MT5ForConditionalGeneration", [T5]),
    "umt5": ("UMT5ForConditionalGeneration", [T5, T5 | dict(feed_forward_proj="relu")]),
    "modernbert": ("ModernBertModel", [
        MODERN, MODERN | dict(attention_bias=True, mlp_bias=True, norm_bias=True, hidden_activation="relu", local_attention=4),
    ]),
    "modernbert masked": ("ModernBertForMaskedLM", [MODERN, MODERN | dict(classifier_bias=True, decoder_bias=False)]),
    "modernbert classifier": ("ModernBertForSequenceClassification", [
        MODERN | dict(num_labels=3), MODERN | dict(num_labels=3, classifier_pooling="mean", classifier_bias=True),
    ]),
    **pictures_of("ViT", VIT), **pictures_of("DeiT", VIT), **pictures_of("Dinov2", DINO),
    "deit teacher": ("DeiTForImageClassificationWithTeacher", [VIT | dict(num_labels=3)]),
    "dinov2 swiglu": ("Dinov2Model", [DINO | dict(use_swiglu_ffn=True)]),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", [DINO | dict(num_register_tokens=2)]),
    "dinov2_with_registers classifier": (
        "Dinov2WithRegistersForImageClassification", [DINO | dict(num_register_tokens=2, num_labels=3)],
    ),
    "clip_vision_model": ("CLIPVisionModel", [VIT, VIT | dict(hidden_act="gelu")]),
    "siglip_vision_model": ("SiglipVisionModel", [VIT, VIT | dict(vision_use_head=False)]),
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
    """The cases of a family as `make_golden.py` wrote them: "config", "shapes" and "outputs"."""
    cases = json.loads((GOLDEN / f"{family}.json").read_text())
    for case in cases:
        case["outputs"] = {
            name: np.frombuffer(base64.b64decode(said["values"]), np.float32).reshape(said["shape"])
            for name, said in case["outputs"].items()
        }
    return cases


def outputs(model: Any) -> dict[str, Any]:
    """What a model of ours gives, in the places of a text that are no padding."""
    kind = type(model).__name__
    if kind == "CausalLM":
        return {"logits": model(jnp.asarray(TOKENS))}
    if kind == "Transformer":
        return {"logits": model(jnp.asarray(TEXT), jnp.asarray(TARGET), source_mask=jnp.asarray(ATTENDED))}
    if kind == "VisionTransformer":
        images = jnp.asarray(IMAGES)[..., : model.config.num_channels]
        if model.config.num_classes:
            return {"logits": model(images)}
        # Theirs has no pooled state without a head, and in CLIP no norm of other states than that one.
        pooled = {} if model.config.pooling == "mean" else {"pooled": model(images)}
        return pooled if model.embedding_norm is not None else {"states": model.states(images)[0]} | pooled
    typed = model.config.num_token_types == 2
    types = {"token_types": jnp.asarray(TYPES)} if typed else {}
    if kind == "TextClassifier":
        return {"logits": model(jnp.asarray(TEXT), lengths=jnp.asarray(LENGTHS), **types)}
    given = model(jnp.asarray(TEXT), mask=jnp.asarray(ATTENDED), **types)
    if kind == "MaskedLM":
        return {"logits": given[ATTENDED]}
    pooled = {} if model.pooler is None else {"pooled": model.pooled(given[0][:, 0])}
    return {"states": given[0][ATTENDED]} | pooled


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Writes a folder as theirs is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")
