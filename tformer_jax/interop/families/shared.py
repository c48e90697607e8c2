"""Tables that families have in common: those that follow Llama's names."""

from ..fields import Field, Ours, Theirs, activation, same
from ..tensors import Row, linear, norm, row, within

HARMLESS = ("pretraining_tp",)
HEADS = [(f"attention.w_{x}", f"attention.b_{x}") for x in "qkv"]


def attention(
    q: str = "q_proj", k: str = "k_proj", v: str = "v_proj", o: str = "o_proj", *, to: str = "attention"
) -> list[Row]:
    """The rows of four maps."""
    names = zip("qkvo", (q, k, v, o), strict=True)
    return [r for letter, name in names for r in linear(name, (f"{to}.w_{letter}", f"{to}.b_{letter}"))]


def mlp(first: str, second: str) -> list[Row]:
    """The rows of a feed-forward network."""
    ours = "feed_forward"
    return [*linear(first, (f"{ours}.w1", f"{ours}.b1")), *linear(second, (f"{ours}.w2", f"{ours}.b2"))]


# The maps of a gated network: to the hidden layer, and from it.
GATE = "feed_forward.w_gate"
HIDDEN = [(GATE, "feed_forward.b_gate"), ("feed_forward.w1", "feed_forward.b1")]
LAST = ("feed_forward.w2", "feed_forward.b2")
GATED = [
    *linear("mlp.gate_proj", HIDDEN[0]),
    *mlp("mlp.up_proj", "mlp.down_proj"),
]
QK_NORMS = [*norm("self_attn.q_norm", "attention.q_norm"), *norm("self_attn.k_norm", "attention.k_norm")]
PRE_NORMS = [
    *norm("input_layernorm", "attention_residual.norm"),
    *norm("post_attention_layernorm", "feed_forward_residual.norm"),
]
SANDWICH_NORMS = [
    *norm("input_layernorm", "attention_residual.norm"),
    *norm("post_attention_layernorm", "attention_residual.output_norm"),
    *norm("pre_feedforward_layernorm", "feed_forward_residual.norm"),
    *norm("post_feedforward_layernorm", "feed_forward_residual.output_norm"),
]


def decoder(layer: list[Row], *, final: str = "model.norm") -> list[Row]:
    """The rows of a causal language model with such layers."""
    return [
        row("model.embed_tokens.weight", "embedding.table"),
        *within("model.layers.{}.", "decoder.{}.", layer),
        *norm(final, "decoder.final_norm"),
        *linear("lm_head", ("output.w", "output.b")),
    ]


LLAMA_LAYER = [*within("self_attn.", "", attention()), *GATED, *PRE_NORMS]


def decoder_layers(theirs: str, encoder: str, default: int | None = None) -> Field:
    """Makes the field of the number of a decoder's layers, which null is that of the encoder's, the key `encoder`."""

    def read(config: Theirs) -> Ours:
        return {"num_decoder_layers": None if config[theirs] == config[encoder] else config[theirs]}

    return Field((theirs,), read, lambda config: {theirs: config.decoder_layers}, default)


def token_width(theirs: str, projection: str, default: int | None = None) -> Field:
    """Makes the field of the width of the vectors of tokens, which null or the model's is without maps."""

    def read(config: Theirs) -> Ours:
        width = config[theirs]
        own = width not in (None, config["hidden_size"])
        return {"embedding_width": width, "embedding_projection": projection} if own else {"embedding_width": None}

    return Field((theirs,), read, lambda config: {theirs: config.token_axis[1]}, default)


def sizes(
    vocab: int, d: int, ff: int, layers: int, heads: int, length: int, *, act: str | None = "silu",
    eps: tuple[str, float] | None = ("rms_norm_eps", 1e-6), tie: bool | None = False,
    dropout: tuple[str, float] = ("attention_dropout", 0.0),
) -> list[Field]:  # fmt: skip
    """The fields of sizes, with a family's defaults; of the activation, the norm's eps and the tie unless they are None."""
    return [
        same("vocab_size", "vocab_size", vocab),
        same("hidden_size", "d_model", d),
        same("intermediate_size", "feed_forward.width", ff),
        same("num_hidden_layers", "num_layers", layers),
        same("num_attention_heads", "attention.num_heads", heads),
        same("max_position_embeddings", "max_length", length),
        same(dropout[0], "attention.dropout_rate", dropout[1]),
        *([] if tie is None else [same("tie_word_embeddings", "output.tie", tie)]),
        *([] if act is None else [activation("hidden_act", act)]),
        *([] if eps is None else [same(eps[0], "norm.eps", eps[1])]),
    ]
