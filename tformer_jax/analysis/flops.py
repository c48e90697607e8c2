"""Floating-point operations of a Transformer: a multiplication and an addition are two.

Matrix products alone: norms, softmax and activations are some operations an element, a per cent or two of the whole.
"""

from typing import NamedTuple

from ..config import TransformerConfig


class Cost(NamedTuple):
    """The cost of the matrix products of one forward pass over a batch.

    Attributes:
      flops: of all.
      count: what the batch consists of, in the unit.
      unit: "token" (of the target side, where there are two) or "image".
    """

    flops: int
    count: int
    unit: str = "token"


# A forward pass, and a backward pass of two products for each of its own (Kaplan et al., 2020, section 2.1).
TRAINING = 3


def attention_flops(T: int, S: int, d: int, *, batch: int = 1) -> int:
    """Returns the FLOPs of softmax(Q Kᵀ / √d_k) V over all heads (equation 13): 4 B T S d, that is O(n² d).

    2 B T S d for the scores and as much for the weighted sum of values; the softmax itself, some
    operations a score, is left out, as are the projections (linear in n). A causal kernel that
    skips what is hidden does about half.

    Source: Vaswani et al., 2017, table 1.

    Args:
      T: queries.
      S: keys.
      d: the width of all heads together, N H.
      batch: B.
    """
    return 4 * batch * T * S * d


def encoder_flops(config: TransformerConfig, rows: int, length: int) -> int:
    """The forward pass of a stack of self-attention layers, causal or not, over [rows length]."""
    return config.num_layers * _layer_flops(config, rows, length)


def decoder_flops(config: TransformerConfig, rows: int, length: int, memory_length: int) -> int:
    """The forward pass of a stack of decoder layers that attend to a memory too."""
    D, heads = config.d_model, config.num_heads * config.head_width
    keys_values = 2 * config.kv_heads * config.head_width
    across = 2 * rows * length * 2 * D * heads + 2 * rows * memory_length * D * keys_values
    across += attention_flops(length, memory_length, heads, batch=rows)
    layers = config.num_decoder_layers or config.num_layers
    return layers * (_layer_flops(config, rows, length) + across)


def transformer_flops(config: TransformerConfig, rows: int, source_length: int, target_length: int) -> int:
    """The forward pass of a `Transformer`, logits of all target tokens included."""
    stacks = encoder_flops(config, rows, source_length) + decoder_flops(config, rows, target_length, source_length)
    return stacks + projection_flops(rows * target_length, config.d_model, config.vocab_size)


def causal_lm_flops(config: TransformerConfig, rows: int, length: int) -> int:
    """The forward pass of a `CausalLM`, logits of all tokens included; 2 per parameter and token, and the attention."""
    return encoder_flops(config, rows, length) + projection_flops(rows * length, config.d_model, config.vocab_size)


def masked_lm_flops(config: TransformerConfig, rows: int, length: int, predicted: int) -> int:
    """The forward pass of a `MaskedLM` with the logits of `predicted` tokens of all rows."""
    head = projection_flops(predicted, config.d_model, config.d_model + config.vocab_size)
    return encoder_flops(config, rows, length) + head


def text_classifier_flops(config: TransformerConfig, rows: int, length: int) -> int:
    """The forward pass of a `TextClassifier`."""
    head = projection_flops(rows, config.d_model, config.num_classes + config.d_model * config.pooler)
    return encoder_flops(config, rows, length) + head


def vision_flops(config: TransformerConfig, rows: int) -> int:
    """The forward pass of a `VisionTransformer`."""
    patches = (config.image_size // config.patch_size) ** 2
    inputs = config.patch_size**2 * config.num_channels
    embedding = projection_flops(rows * patches, inputs, config.d_model)
    length = patches + (config.pooling == "cls")
    return embedding + encoder_flops(config, rows, length) + projection_flops(rows, config.d_model, config.num_classes)


def projection_flops(vectors: int, inputs: int, outputs: int) -> int:
    """Returns the FLOPs of x W for `vectors` vectors x."""
    return 2 * vectors * inputs * outputs


def _layer_flops(config: TransformerConfig, rows: int, length: int) -> int:
    """Self-attention and feed-forward network of one layer."""
    D, heads = config.d_model, config.num_heads * config.head_width
    projections = D * (2 * heads + 2 * config.kv_heads * config.head_width)
    feed_forward = D * config.d_ff * (3 if config.gated else 2)
    return 2 * rows * length * (projections + feed_forward) + attention_flops(length, length, heads, batch=rows)
