"""Models whose weights are kept in fewer bits, for generation: what reads them is as fast as they are read."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import functional as F
from ..config import check_choice
from .attention import Attention
from .embeddings import Embedding, Output
from .feed_forward import FeedForward
from .layers import Classifier, Linear
from .parameters import is_variable, parameter_info
from .stack import apart

WEIGHTS = ("as_trained", "bfloat16", "int8")
# Modules whose functions take matrices in eight bits; a subclass may do with its matrices what those cannot.
_OF_PRODUCTS = (Attention, Classifier, Embedding, FeedForward, Linear, Output)


def with_weights(model: Any, weights: str) -> Any:
    """Returns a model whose matrices and token tables are kept in another dtype; what it computes in stays.

    Its layers are apart from each other (`apart`), and it is not to be trained. With "int8" each output of a matrix has
    its scale, and so has each token's vector (`functional.quantize_int8`); norms, biases, tables of positions and the
    matrices of your own modules, subclasses too, are left as they are. With "bfloat16" all matrices and tables are
    rounded; on a CPU it is no faster, since XLA makes floats of it before a loop over tokens.

    Args:
      model: of `models`.
      weights: one of `WEIGHTS`; "as_trained" is the model itself.

    Raises:
      ConfigError: weights are none of the three.
    """
    check_choice("weights", weights, WEIGHTS)
    return model if weights == "as_trained" else jax.jit(_CONVERTED[weights])(apart(model))


def _in_bfloat16(model: Any) -> Any:
    def rounded(held: Any) -> Any:
        return held.replace(held[...].astype(jnp.bfloat16)) if _is_matrix(held) else held

    return jax.tree.map(rounded, model, is_leaf=is_variable)


def _in_int8(model: Any) -> Any:
    is_known = lambda x: type(x) in _OF_PRODUCTS
    return jax.tree.map(lambda x: _quantized(x) if is_known(x) else x, model, is_leaf=is_known)


def _quantized(module: nnx.Module) -> nnx.Module:
    def quantized(held: Any) -> Any:
        if not _is_matrix(held) or parameter_info(held).batch:
            return held
        if isinstance(module, Embedding):
            return held.replace(F.quantize_int8(held[...].T))
        return held.replace(F.quantize_int8(held[...], len(parameter_info(held).inputs)))

    return jax.tree.map(quantized, module, is_leaf=is_variable)


def _is_matrix(held: Any) -> bool:
    return is_variable(held) and bool(jax.tree.leaves(held)) and parameter_info(held).is_matrix


_CONVERTED = {"bfloat16": _in_bfloat16, "int8": _in_int8}
