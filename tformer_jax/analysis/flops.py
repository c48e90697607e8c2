"""Floating-point operations of a Transformer: a multiplication and an addition are two.

Matrix products alone: norms, softmax and activations are some operations an element, a per cent or two of the whole.
"""

import math
from typing import Any, NamedTuple

import jax
from flax import nnx

from ..nn import ModelConfig
from ..nn.parameters import parameters


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


def transformer_flops(config: Any, rows: int, source_length: int, target_length: int) -> int:
    """The forward pass of a `Transformer`, logits of all target tokens included."""
    encoder = stack_flops(config, config.num_layers, rows, source_length)
    decoder = stack_flops(config, config.decoder_layers, rows, target_length, source_length)
    return encoder + decoder + projection_flops(rows * target_length, config.d_model, config.vocab_size)


def causal_lm_flops(config: Any, rows: int, length: int) -> int:
    """The forward pass of a `CausalLM`, logits of all tokens included; 2 per parameter and token, and the attention."""
    stack = stack_flops(config, config.num_layers, rows, length)
    return stack + projection_flops(rows * length, config.d_model, config.vocab_size)


def masked_lm_flops(config: Any, rows: int, length: int, predicted: int) -> int:
    """The forward pass of a `MaskedLM` with the logits of `predicted` tokens of all rows."""
    head = projection_flops(predicted, config.d_model, config.d_model + config.vocab_size)
    return stack_flops(config, config.num_layers, rows, length) + head


def text_classifier_flops(config: Any, rows: int, length: int) -> int:
    """The forward pass of a `TextClassifier`."""
    head = projection_flops(rows, config.d_model, config.num_classes + config.d_model * config.pooler)
    return stack_flops(config, config.num_layers, rows, length) + head


def vision_flops(config: Any, rows: int) -> int:
    """The forward pass of a `VisionTransformer`."""
    patches = config.grid[0] * config.grid[1]
    embedding = projection_flops(rows * patches, config.patch_size**2 * config.num_channels, config.d_model)
    stack = stack_flops(config, config.num_layers, rows, patches + (config.pooling == "cls"))
    return embedding + stack + projection_flops(rows, config.d_model, config.num_classes)


def projection_flops(vectors: int, inputs: int, outputs: int) -> int:
    """Returns the FLOPs of x W for `vectors` vectors x."""
    return 2 * vectors * inputs * outputs


def stack_flops(config: ModelConfig, layers: int, rows: int, length: int, memory_length: int | None = None) -> int:
    """The forward pass of a stack over [rows length]; `memory_length`: of the memory that its layers attend to.

    Each matrix of a layer is applied to every token, but those of keys and values of a memory to the memory's. All keys
    count, also those that a mask or a window hides.
    """
    flops = 0
    for i in range(layers):
        layer = config.of_layer(i % len(config.pattern))
        cross = memory_length is not None
        module = jax.eval_shape(lambda layer=layer: layer.layer.make(layer, cross=cross, rngs=nnx.Rngs(0)))
        for path, info in parameters(module).items():
            of_memory = cross and path.startswith("cross_attention.") and path.endswith((".w_k", ".w_v"))
            tokens = rows * (memory_length if of_memory else length)
            flops += 2 * tokens * math.prod(info.shape) if info.is_matrix else 0
        heads = layer.attention.num_heads * layer.attention.head_width(layer.d_model)
        for keys in (length, memory_length) if cross else (length,):
            flops += attention_flops(length, keys, heads, batch=rows)
    return flops
