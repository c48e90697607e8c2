"""The same weights in PyTorch's own Transformer give the same numbers, and train along the same path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import nnx
from support import assert_close, fill, normal, quick_jit, tiny_config, tiny_transformer

import tformer_jax.functional as F
from tformer_jax import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

D, N, HIDDEN, V, PAD = 16, 2, 32, 29, 0
SIZES = dict(d_model=D, num_heads=N, d_ff=HIDDEN)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor(x):
    return torch.from_numpy(np.array(x))


def copy_(parameter, value):
    with torch.no_grad():
        parameter.copy_(tensor(value))


def copy_attention(theirs, ours):
    """Our [D N H] kernels into their stacked [3 D, D] one, and [N H D] into [D, D]."""
    w = [np.asarray(p[...]).reshape(D, D).T for p in (ours.w_q, ours.w_k, ours.w_v)]
    b = [np.asarray(p[...]).reshape(D) for p in (ours.b_q, ours.b_k, ours.b_v)]
    copy_(theirs.in_proj_weight, np.concatenate(w))
    copy_(theirs.in_proj_bias, np.concatenate(b))
    copy_(theirs.out_proj.weight, np.asarray(ours.w_o[...]).reshape(D, D).T)
    copy_(theirs.out_proj.bias, ours.b_o[...])


def copy_layer(theirs, ours):
    copy_attention(theirs.self_attn, ours.attention)
    residuals = [ours.attention_residual]
    if hasattr(ours, "cross_attention"):
        copy_attention(theirs.multihead_attn, ours.cross_attention)
        residuals.append(ours.cross_attention_residual)
    residuals.append(ours.feed_forward_residual)
    for i, residual in enumerate(residuals, 1):
        norm = getattr(theirs, f"norm{i}")
        copy_(norm.weight, residual.norm.gamma[...])
        copy_(norm.bias, residual.norm.beta[...])
    for linear, w, b in (("linear1", "w1", "b1"), ("linear2", "w2", "b2")):
        copy_(getattr(theirs, linear).weight, getattr(ours.feed_forward, w)[...].T)
        copy_(getattr(theirs, linear).bias, getattr(ours.feed_forward, b)[...])


def torch_layer(cls, norm_position):
    options = dict(dim_feedforward=HIDDEN, dropout=0.0, batch_first=True, norm_first=norm_position == "pre")
    return cls(D, N, **options).train()  # in eval mode a fused kernel of its own would run


PADDED = np.array([5, 3])


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_encoder_layer_is_torchs(norm_position):
    """The output of an encoder layer, or its gradient by the input, is not that of torch.nn.TransformerEncoderLayer."""
    config = tiny_config(**SIZES, norm_position=norm_position)
    ours = fill(lambda: nn.EncoderLayer(config, rngs=nnx.Rngs(0)))
    theirs = torch_layer(torch.nn.TransformerEncoderLayer, norm_position)
    copy_layer(theirs, ours)
    x, d_out = normal(0, 2, 5, D), normal(1, 2, 5, D)

    def run(ours, x):
        out, backward = jax.vjp(lambda x: ours(x, mask=F.AttentionMask(lengths=jnp.asarray(PADDED)))[0], x)
        return out, backward(d_out)[0]

    out, dx = quick_jit(run)(ours, x)
    there = tensor(x).requires_grad_()
    wanted = theirs(there, src_key_padding_mask=tensor(np.arange(5) >= PADDED[:, None]))
    wanted.backward(tensor(d_out))
    assert_close(out, wanted.detach(), 1e-5, "output")
    assert_close(dx, there.grad, 1e-5, "dx")


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_decoder_layer_is_torchs(norm_position):
    """The output of a decoder layer, or a gradient by its inputs, is not that of torch.nn.TransformerDecoderLayer."""
    config = tiny_config(**SIZES, norm_position=norm_position)
    ours = fill(lambda: nn.DecoderLayer(config, rngs=nnx.Rngs(0)))
    theirs = torch_layer(torch.nn.TransformerDecoderLayer, norm_position)
    copy_layer(theirs, ours)
    x, memory, d_out = normal(0, 2, 5, D), normal(1, 2, 5, D), normal(2, 2, 5, D)

    def run(ours, x, memory):
        def layer(x, memory):
            masks = dict(mask=F.AttentionMask(causal=True), memory_mask=F.AttentionMask(lengths=jnp.asarray(PADDED)))
            return ours(x, ours.cross_attention.keys_values(memory), **masks)[0]

        out, backward = jax.vjp(layer, x, memory)
        return out, *backward(d_out)

    out, dx, d_memory = quick_jit(run)(ours, x, memory)
    there = [tensor(a).requires_grad_() for a in (x, memory)]
    wanted = theirs(
        *there,
        tgt_mask=torch.ones(5, 5, dtype=torch.bool).triu(1),
        memory_key_padding_mask=tensor(np.arange(5) >= PADDED[:, None]),
    )
    wanted.backward(tensor(d_out))
    assert_close(out, wanted.detach(), 1e-5, "output")
    for name, got, held in zip(("dx", "d_memory"), (dx, d_memory), there, strict=True):
        assert_close(got, held.grad, 1e-5, name)


def test_attention_is_torchs():
    """Grouped, masked, biased attention is not torch's scaled_dot_product_attention."""
    q, k, v, bias = normal(0, 2, 5, 4, 3), normal(1, 2, 7, 2, 3), normal(2, 2, 7, 2, 3), normal(3, 4, 5, 7)
    allowed = np.arange(7) < np.array([7, 4])[:, None, None, None]
    ours = quick_jit(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask=jnp.asarray(allowed), bias=bias))(
        q, k, v
    )
    there = (tensor(x).transpose(1, 2) for x in (q, k, v))
    added = tensor(bias) + torch.zeros(2, 1, 1, 7).masked_fill(~tensor(allowed), -torch.inf)
    theirs = torch.nn.functional.scaled_dot_product_attention(*there, attn_mask=added, enable_gqa=True)
    assert_close(ours, theirs.transpose(1, 2), 1e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(label_smoothing):
    """Padding, or label smoothing, is counted otherwise than in torch's cross_entropy."""
    logits, targets = normal(0, 12, V, scale=3.0), np.random.default_rng(0).integers(0, V, 12)
    targets[[2, 5]] = PAD
    weights = jnp.asarray(targets != PAD, jnp.float32)
    ours = F.cross_entropy(logits, jnp.asarray(targets), weights=weights, label_smoothing=label_smoothing)
    theirs = torch.nn.functional.cross_entropy(
        tensor(logits), tensor(targets), ignore_index=PAD, label_smoothing=label_smoothing
    )
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-6)


# A training run --------------------------------------------------------------------------------

STEPS, S, T = 100, 9, 8
ADAM = dict(learning_rate=1e-3, b1=0.9, b2=0.98, eps=1e-9)


class TorchModel(torch.nn.Module):
    """torch.nn.Transformer with the embedding, positions and tied output that it leaves to its user."""

    def __init__(self, ours):
        super().__init__()
        self.embedding = torch.nn.Embedding(V, D)
        self.positions = torch.tensor(oracles.sinusoids(16, D), dtype=torch.float32)
        self.core = torch.nn.Transformer(D, N, 2, 2, HIDDEN, dropout=0.0, batch_first=True)
        self.core.encoder.norm = self.core.decoder.norm = None  # post-norm ends in a norm already
        copy_(self.embedding.weight, ours.target_embedding.table[...])
        for stack, layers in ((self.core.encoder, ours.encoder.layers), (self.core.decoder, ours.decoder.layers)):
            for i, layer in enumerate(stack.layers):
                copy_layer(layer, jax.tree.map(lambda leaf, i=i: leaf[i], layers[0]))

    def embed(self, tokens):
        return self.embedding(tokens) * D**0.5 + self.positions[: tokens.shape[1]]

    def forward(self, source, target):
        hidden = self.core(
            self.embed(source),
            self.embed(target),
            tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1),
            src_key_padding_mask=source == PAD,
            tgt_key_padding_mask=target == PAD,
            memory_key_padding_mask=source == PAD,
        )
        return hidden @ self.embedding.weight.T


def padded_batch(step):
    """Source, decoder input and targets: the reversed source, padded to different lengths."""
    rng = np.random.default_rng(step)
    source, target = np.full((4, S), PAD), np.full((4, T + 1), PAD)
    for row in range(4):
        length = rng.integers(3, T + 1)
        source[row, :length] = rng.integers(2, V, length)
        target[row, : length + 1] = [1, *source[row, :length][::-1]]
    return source, target[:, :-1], target[:, 1:]


@pytest.mark.slow
def test_training_follows_torch():
    """100 steps of the same training (weights, padded batches, label-smoothed loss, Adam) drift apart from torch's."""
    ours = tiny_transformer(**SIZES, vocab_size=V)
    theirs = TorchModel(ours).train()
    optimizer, torch_optimizer = (
        optax.adam(**ADAM),
        torch.optim.Adam(theirs.parameters(), ADAM["learning_rate"], (ADAM["b1"], ADAM["b2"]), ADAM["eps"]),
    )

    @quick_jit
    def step(model, state, source, target, wanted):
        def loss(model):
            logits = model(source, target, source_mask=source != PAD, target_mask=target != PAD)
            weights = (wanted != PAD).astype(jnp.float32)
            return F.cross_entropy(logits, wanted, weights=weights, label_smoothing=0.1)

        value, gradient = jax.value_and_grad(loss)(model)
        updates, state = optimizer.update(gradient, state, model)
        return optax.apply_updates(model, updates), state, value

    state, losses, torch_losses = optimizer.init(ours), [], []
    for i in range(STEPS):
        batch = padded_batch(i)
        ours, state, value = step(ours, state, *(jnp.asarray(x) for x in batch))
        losses.append(float(value))

        source, target, wanted = (torch.from_numpy(x) for x in batch)
        torch_optimizer.zero_grad()
        logits = theirs(source, target)
        each = torch.nn.functional.cross_entropy(
            logits.reshape(-1, V), wanted.reshape(-1), reduction="none", label_smoothing=0.1
        )
        weights = (wanted.reshape(-1) != PAD).float()
        torch_loss = (each * weights).sum() / weights.sum()
        torch_loss.backward()
        torch_optimizer.step()
        torch_losses.append(torch_loss.item())

    differences = np.abs(np.array(losses) - np.array(torch_losses))
    print(
        f"loss {losses[0]:.4f} -> {losses[-1]:.4f}; differences from torch: first {differences[0]:.2e}, "
        f"worst {differences.max():.2e} at step {differences.argmax()}"
    )
    assert losses[-1] < 0.8 * losses[0]
    assert differences[0] <= 1e-5
    assert differences.max() <= 1e-3
