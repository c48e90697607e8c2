"""Against `transformers`: buckets of distances, and sizes of presets. What models compute, see `tests/interop`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import by_day

import tformer_jax.functional as F
from tformer_jax import models

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.23")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (16, 64), (64, 256)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets_are_t5s(bidirectional, num_buckets, max_distance):
    """A checkpoint's learned biases would be for other distances."""
    how = dict(bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)
    distances = np.arange(-600, 601)
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket(
        torch.from_numpy(distances), **how
    )
    np.testing.assert_array_equal(F.relative_position_buckets(jnp.asarray(distances), **how), theirs)


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
