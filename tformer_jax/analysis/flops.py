"""Floating-point operations of a Transformer: a multiplication and an addition are two.

Matrix products alone: norms, softmax and activations are some operations an element, a per cent or two of the whole.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from ..nn import AttentionPooling, ModelConfig
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
    beginning = embedding_flops(config, rows * (source_length + target_length))
    return beginning + encoder + decoder + logits_flops(config, rows * target_length)


def causal_lm_flops(config: Any, rows: int, length: int) -> int:
    """The forward pass of a `CausalLM`, logits of all tokens included; 2 per parameter and token, and the attention."""
    stack = stack_flops(config, config.num_layers, rows, length)
    return embedding_flops(config, rows * length) + stack + logits_flops(config, rows * length)


def masked_lm_flops(config: Any, rows: int, length: int, predicted: int) -> int:
    """The forward pass of a `MaskedLM` with the logits of `predicted` tokens of all rows."""
    head = projection_flops(predicted, config.token_axis[1], config.d_model + config.vocab_size)
    return embedding_flops(config, rows * length) + stack_flops(config, config.num_layers, rows, length) + head


def text_classifier_flops(config: Any, rows: int, length: int) -> int:
    """The forward pass of a `TextClassifier`."""
    head = projection_flops(rows, config.d_model, config.num_classes + config.d_model * config.pooler)
    return embedding_flops(config, rows * length) + stack_flops(config, config.num_layers, rows, length) + head


def vision_flops(config: Any, rows: int) -> int:
    """The forward pass of a `VisionTransformer`."""
    patches, D = config.grid[0] * config.grid[1], config.d_model
    tokens = patches + config.prefix_length
    embedding = projection_flops(rows * patches, config.patch_size**2 * config.num_channels, D)
    stack = stack_flops(config, config.num_layers, rows, tokens)
    pooling = pooling_flops(config, rows, tokens) if config.pooling == "attention" else 0
    read = {"cls_mean": 2, "prefix": config.prefix_length}.get(config.pooling, 1)  # vectors of D
    return embedding + stack + pooling + projection_flops(rows, D, D * config.pooler + read * (config.num_classes or 0))


def pooling_flops(config: ModelConfig, rows: int, length: int) -> int:
    """A learned query's attention to [rows length], see `nn.AttentionPooling`."""
    keys = lambda path: path in ("attention.w_k", "attention.w_v")
    tokens = lambda path: 0 if path == "probe" else rows * (length if keys(path) else 1)
    heads = config.attention.num_heads * config.attention.head_width(config.d_model)
    products = matrix_flops(lambda: AttentionPooling(config, rngs=nnx.Rngs(0)), tokens)
    return products + attention_flops(1, length, heads, batch=rows)


def embedding_flops(config: Any, tokens: int) -> int:
    """The map from the width of the tokens' vectors to the model's, where these have one of their own."""
    return projection_flops(tokens, config.embedding_width or 0, config.d_model)


def logits_flops(config: Any, tokens: int) -> int:
    """The logits of states, which are mapped to the width of the tokens' vectors first, where these have one of their own."""
    narrowed = embedding_flops(config, tokens)  # the same map the other way
    return narrowed + projection_flops(tokens, config.token_axis[1], config.vocab_size)


def projection_flops(vectors: int, inputs: int, outputs: int) -> int:
    """Returns the FLOPs of x W for `vectors` vectors x."""
    return 2 * vectors * inputs * outputs


def matrix_flops(make: Callable[[], nnx.Module], vectors: Callable[[str], int]) -> int:
    """Returns the FLOPs of all matrices of a module; `vectors`: from a path to the number of those it is applied to."""
    found = parameters(jax.eval_shape(make)).items()
    return sum(2 * vectors(path) * math.prod(info.shape) for path, info in found if info.is_matrix)


def stack_flops(config: ModelConfig, layers: int, rows: int, length: int, memory_length: int | None = None) -> int:
    """The forward pass of a stack over [rows length]; `memory_length`: of the memory that its layers attend to.

    Each matrix of a layer is applied to every token, but those of keys and values of a memory to the memory's. All keys
    count, also those that a mask or a window hides.
    """
    flops = 0
    for i in range(layers):
        layer = config.of_layer(i % len(config.pattern))
        of_memory = lambda path: path.startswith("cross_attention.") and path.endswith((".w_k", ".w_v"))
        tokens = lambda path: rows * (memory_length if memory_length is not None and of_memory(path) else length)
        make = lambda layer=layer: layer.layer.make(layer, cross=memory_length is not None, rngs=nnx.Rngs(0))
        flops += matrix_flops(make, tokens)
        heads = layer.attention.num_heads * layer.attention.head_width(layer.d_model)
        for keys in (length,) if memory_length is None else (length, memory_length):
            flops += attention_flops(length, keys, heads, batch=rows)
    return flops
