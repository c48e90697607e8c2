"""What every pure function may be given: numbers of any kind; and what it refuses, in one line."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support import assert_close, by_day, normal, quick_jit, unchecked_annotations

import tformer_jax.functional as F

KEY = jax.random.key(0)
X, LOGITS, TARGETS = normal(0, 4, 3), normal(1, 4, 5), jnp.array([0, 4, 2, 2])
IMAGES, ONE_HOT = normal(2, 4, 2, 2, 1), jnp.eye(4)
W, B = normal(3, 3, 5), normal(4, 5)

# By name: a number that can be, the function of it, and one that cannot be.
NUMBERS = {
    "label_smoothing": (0.125, lambda n: F.cross_entropy(LOGITS, TARGETS, label_smoothing=n), 1.0),
    "z_loss": (0.125, lambda n: F.cross_entropy(LOGITS, TARGETS, z_loss=n), float("inf")),
    "label_smoothing, fused": (0.125, lambda n: F.fused_cross_entropy(X, W, TARGETS, label_smoothing=n), -0.1),
    "z_loss, fused": (0.125, lambda n: F.fused_cross_entropy(X, W, TARGETS, z_loss=n), float("nan")),
    "logit_softcap, fused": (1.5, lambda n: F.fused_cross_entropy(X, W, TARGETS, logit_softcap=n), 0.0),
    "label_smoothing, causal": (
        0.125,
        lambda n: F.causal_lm_loss(LOGITS[None], TARGETS[None], label_smoothing=n),
        2.0,
    ),
    "z_loss, masked": (
        0.125,
        lambda n: F.masked_lm_loss(LOGITS[None], TARGETS[None], TARGETS[None] > 1, z_loss=n),
        float("nan"),
    ),
    "eps, layer": (0.25, lambda n: F.layer_norm(X, X[0], X[1], eps=n), -1.0),
    "eps, rms": (0.25, lambda n: F.rms_norm(X, X[0], eps=n), float("inf")),
    "dropout rate": (0.25, lambda n: F.dropout(X, n, KEY), 1.0),
    "dropout rate, hidden": (0.25, lambda n: F.feed_forward(X, W, B, W.T, X[0], dropout_rate=n, key=KEY), -0.5),
    "alpha": (0.75, lambda n: F.mixup(IMAGES, ONE_HOT, KEY, n)[1], 0.0),
}


@pytest.mark.parametrize("name", by_day(NUMBERS, 0, 4, 7, 9))
def test_a_number_of_any_kind(name):
    """Only a Python number works, or only inside of `jax.jit`, or another kind gives another value."""
    number, f, _ = NUMBERS[name]
    wanted, held = f(number), jnp.float32(number)
    kinds = [np.float32(number), np.float64(number), np.array(number), held, jnp.bfloat16(number)]
    for found in (*(f(kind) for kind in kinds), quick_jit(lambda: f(held))(), quick_jit(f)(number)):
        assert_close(found, wanted, 2e-6, name)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_its_range(name):
    """What is known trains something else without a word; what is traced is clipped or never ends, instead of NaN."""
    _, f, wrong = NUMBERS[name]
    argument = name.split(",")[0]
    for kind in (wrong, np.float32(wrong), jnp.float32(wrong)):
        with pytest.raises(ValueError, match=f"^{argument} must be"):
            f(kind)
    with pytest.raises(ValueError, match=f"^{argument} must be"):
        jax.jit(lambda held=jnp.float32(wrong): f(held))()
    assert np.isnan(quick_jit(f)(wrong)).any()
    with unchecked_annotations():
        for no_number in (None, "0.1", [0.1], np.array([0.1]), True, 1j):
            if not (no_number is None and argument == "logit_softcap"):
                with pytest.raises(TypeError, match=f"^{argument} must be a number, got [^\n]*$"):
                    f(no_number)


@pytest.mark.parametrize("name", [name for name in NUMBERS if "rate" not in name and name != "alpha"])
def test_the_derivative_by_a_number(name):
    """A traced number has the gradient 0, or a wrong one."""
    number, f, _ = NUMBERS[name]
    step = 2.0**-6

    def square(n):
        return (f(n) ** 2).sum()

    run = quick_jit(jax.value_and_grad(square))
    far, near = (run(number + n * step)[0] - run(number - n * step)[0] for n in (2, 1))
    wanted = (8 * near - far) / (12 * step)
    np.testing.assert_allclose(run(number)[1], wanted, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.cross_entropy([[1.0, 2.0]], TARGETS[:1]), TypeError, "logits must be an array, got a list"),
        (lambda: F.cross_entropy(LOGITS, [0, 1, 2, 3]), TypeError, "targets must be an array, got a list"),
        (lambda: F.cross_entropy(LOGITS, TARGETS * 1.0), TypeError, "targets must be integers, got float32"),
        (lambda: F.cross_entropy(LOGITS[:, :0], TARGETS), ValueError, "logits must have a last axis of at least 1"),
        (lambda: F.cross_entropy(LOGITS, TARGETS, reduction="avg"), ValueError, "reduction must be"),
        (lambda: F.cross_entropy(LOGITS, TARGETS, class_weights=X[0]), ValueError, "class_weights must have the shape"),
        (lambda: F.cross_entropy(LOGITS * 1j, TARGETS), TypeError, "logits must be real, got complex64"),
        (lambda: F.cross_entropy(np.array(["a"]), TARGETS), TypeError, "logits must be an array of numbers, got <U1"),
        (lambda: F.fused_cross_entropy(X, W[:, :0], TARGETS), ValueError, "w_out must have a last axis of at least 1"),
        (lambda: F.fused_cross_entropy(X, W.T, TARGETS), ValueError, r"w_out must have the shape \(3, 3\)"),
        (lambda: F.fused_cross_entropy(X, W, TARGETS, b_out=B[:1]), ValueError, r"b_out must have the shape \(5,\)"),
        (lambda: F.causal_lm_loss(LOGITS, TARGETS), ValueError, r"logits must be \[B T V\], got the shape \(4, 5\)"),
        (lambda: F.masked_lm_loss(LOGITS[None], TARGETS[None], [1]), TypeError, "masked must be an array, got a list"),
        (lambda: F.output_log_probs(X, W[:2]), ValueError, r"w_out must have the shape \(3, 5\), got \(2, 5\)"),
        (lambda: F.weighted_mean([1.0], B), TypeError, "values must be an array, got a list"),
        (lambda: F.layer_norm([1.0], B, B), TypeError, "x must be an array, got a list"),
        (lambda: F.layer_norm(X, B[:1], X[0]), ValueError, r"gamma must have the shape \(3,\), got \(1,\)"),
        (lambda: F.layer_norm(X, X, X[0]), ValueError, r"gamma must have the shape \(3,\), got \(4, 3\)"),
        (lambda: F.layer_norm(X, None), TypeError, "gamma must be an array, got None"),
        (lambda: F.layer_norm(TARGETS, B, B), TypeError, "x must be floats, got int32"),
        (lambda: F.rms_norm(X, B), ValueError, r"gamma must have the shape \(3,\), got \(5,\)"),
        (lambda: F.rms_norm(jnp.float32(1), B), ValueError, "x must have a last axis of at least 1"),
        (lambda: F.feed_forward(X, W, B, W, B), ValueError, r"w2 must have the shape \(5, 5\), got \(3, 5\)"),
        (lambda: F.feed_forward(X, W, B[:1], W.T, B), ValueError, r"b1 must have the shape \(5,\), got \(1,\)"),
        (lambda: F.feed_forward(X, None, B, W.T, B), TypeError, "w1 must be an array, got None"),
        (lambda: F.gated_feed_forward(X, W, W[:, :1], W.T), ValueError, r"w_up must have the shape \(3, 5\)"),
        (lambda: F.feed_forward(X, W, B, W.T, X[0], activation="relu"), TypeError, "activation must be a function"),
        (lambda: F.dropout([1.0], 0.1, KEY), TypeError, "x must be an array, got a list"),
        (lambda: F.dropout(X, 0.1, 0), TypeError, r"key must be a key, as jax\.random\.key\(seed\) makes them, got 0"),
        (lambda: F.dropout(X, 0.1, jax.random.split(KEY)), ValueError, r"key must be one key, got the shape \(2,\)"),
        (lambda: F.random_flip(IMAGES, None), TypeError, "key must be a key, as"),
        (lambda: F.random_shift(IMAGES, 0, 1), TypeError, "key must be a key, as"),
        (lambda: F.mixup(IMAGES, ONE_HOT, None, 1.0), TypeError, "key must be a key, as"),
        (lambda: F.mask_tokens(TARGETS[None], None, mask_id=0, vocab_size=5), TypeError, "key must be a key, as"),
        (
            lambda: F.mask_tokens(TARGETS[None], KEY, mask_id=0, vocab_size=5, special_ids=3),
            TypeError,
            "special_ids must be a tuple of integers, got 3",
        ),
        (lambda: F.patchify(X, 2), ValueError, r"images must be \[B Y X C\], got the shape \(4, 3\)"),
        (lambda: F.patchify(IMAGES, 2.0), TypeError, "patch_size must be an integer, got 2.0"),
        (lambda: F.random_flip(X, KEY), ValueError, r"images must be \[B Y X C\]"),
        (lambda: F.random_shift(IMAGES, KEY, 0.5), TypeError, "max_shift must be an integer, got 0.5"),
        (lambda: F.mixup(IMAGES, TARGETS[:, None], KEY, 1.0), TypeError, "targets must be floats, got int32"),
        (lambda: F.mixup(IMAGES, ONE_HOT[:2], KEY, 1.0), ValueError, "targets must be one for each of the 4"),
        (lambda: F.mask_tokens([[1]], KEY, mask_id=0, vocab_size=2), TypeError, "tokens must be an array, got a list"),
        (
            lambda: F.mask_tokens(TARGETS[None].astype(jnp.int8), KEY, mask_id=0, vocab_size=300),
            ValueError,
            "tokens of int8 cannot hold a vocab_size of 300",
        ),
        (lambda: F.mask_tokens(TARGETS[None], KEY, mask_id=0, vocab_size=0), ValueError, "vocab_size must be at least"),
        (lambda: F.alibi_slopes(10**30), ValueError, "num_heads must be at most 65536, got 1000000000000000"),
        (lambda: F.alibi_bias(TARGETS, TARGETS, 10**9), ValueError, "num_heads must be at most 65536"),
        (lambda: F.relative_position_buckets(TARGETS, max_distance=10**30), ValueError, "max_distance must be at most"),
        (lambda: F.relative_position_buckets(TARGETS, num_buckets=10**9), ValueError, "num_buckets must be at most"),
        (lambda: F.causal_mask(10**30), ValueError, "T must be at most 2147483647, got"),
        (lambda: F.causal_mask(2, 10**5000), ValueError, "S must be at most 2147483647, got an integer of 16610 bits"),
        (lambda: F.sinusoidal_positions(10**30, 4), ValueError, "length must be at most"),
        (lambda: F.sinusoidal_positions_2d(-1, 2, 4), ValueError, "height and width must be at least 0, got -1 and 2"),
        (lambda: F.interpolate_positions(X, (2, 2), (2, 10**30)), ValueError, "new_grid must be at most"),
        (lambda: F.interpolate_positions(X, {2, 1}, (2, 2)), TypeError, "grid must be two integers, rows and columns"),
        (lambda: F.random_shift(IMAGES, KEY, 10**30), ValueError, "max_shift must be at most"),
        (lambda: F.feed_forward(X, W[:, :0], None, W.T[:0], None), ValueError, "w1 must have a last axis"),
        (lambda: F.output_log_probs(X, W[:, :0]), ValueError, "w_out must have a last axis of at least 1"),
        (lambda: F.layer_norm(X, X[0], eps=10**400), ValueError, "eps must be at least 0, got inf"),
        (lambda: F.alibi_slopes(X), TypeError, r"num_heads must be an integer, got the shape \(4, 3\) of float32"),
        (lambda: F.dropout(X, KEY, KEY), TypeError, r"dropout rate must be a number, got the shape \(\) of key<fry>"),
        (lambda: F.dropout(X, 0.1, X), TypeError, r"key must be a key, as .* got the shape \(4, 3\) of float32"),
        (lambda: F.weighted_mean(KEY, B), TypeError, "values must be an array of numbers, got key<fry>"),
        (lambda: F.rms_norm(np.ma.ones((4, 3)), B), TypeError, "x must be an array without a mask of its own: pass"),
        (
            lambda: F.cross_entropy(LOGITS, TARGETS, reduction=np.array(["mean", "sum"])),
            ValueError,
            r"reduction must be 'mean', 'sum' or 'none', got the shape \(2,\) of <U4",
        ),
        (lambda: F.sinusoidal_positions(2, 4, layout=np.ones(2)), ValueError, "layout must be 'interleaved' or"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, error, message):
    """It is broadcast, rounded to whole numbers, or fails far from the cause."""
    with unchecked_annotations(), pytest.raises(error, match=f"^{message}[^\n]*$"):
        call()


def test_a_parameter_of_a_module_is_a_number():
    """A learned temperature or scale must be taken out of its module by hand."""
    with unchecked_annotations():
        found = F.cross_entropy(LOGITS, TARGETS, label_smoothing=nnx.Param(jnp.float32(0.125)))
    assert found == F.cross_entropy(LOGITS, TARGETS, label_smoothing=0.125)


def test_layer_norm_without_a_shift():
    """`beta=None` fails, or is something else than zeros."""
    np.testing.assert_array_equal(F.layer_norm(X, X[0], None), F.layer_norm(X, X[0], jnp.zeros(3)))


@pytest.mark.parametrize("shape", by_day([((0,),), ((2, 0),), ((0, 3),)], 1))
def test_no_token_costs_nothing(shape):
    """The mean of nothing is NaN, and so is every parameter after a step."""
    targets = jnp.zeros(shape, int)
    for loss in (
        lambda x: F.cross_entropy(x @ W, targets),
        lambda x: F.fused_cross_entropy(x, W, targets),
        lambda x: F.cross_entropy(x @ W, targets, reduction="sum"),
    ):
        value, gradient = quick_jit(jax.value_and_grad(loss))(jnp.zeros((*shape, 3)))
        assert value == 0 and gradient.shape == (*shape, 3)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("classes", "smoothing", "reduction"),
    by_day(
        itertools.product([None, [1.0, 0.5, 2.0, 0.0, 0.3]], [0.0, 0.2], ["mean", "sum", "none"]), 1, 5, 6, 9, 10, 11
    ),
)
def test_reductions_class_weights_and_ignored_targets_are_pytorchs(classes, smoothing, reduction):
    """A loss ported from PyTorch is divided by something else, or weighs its classes otherwise."""
    torch = pytest.importorskip("torch")
    logits, targets = np.asarray(normal(8, 2, 3, 5)), np.array([[0, -100, 1], [2, 3, 4]])
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits.reshape(-1, 5)),
        torch.tensor(targets.reshape(-1)),
        None if classes is None else torch.tensor(classes),
        label_smoothing=smoothing,
        reduction=reduction,
    ).numpy()
    how = dict(label_smoothing=smoothing, reduction=reduction, weights=jnp.asarray(targets != -100))
    how["class_weights"] = None if classes is None else jnp.asarray(classes)

    def both(logits, targets):
        fused = F.fused_cross_entropy(logits, jnp.eye(5), targets, chunk_size=4, **how)
        return F.cross_entropy(logits, targets, **how), fused

    for ours in quick_jit(both)(logits, targets):
        assert_close(ours, theirs.reshape(ours.shape), 2e-6)


def test_the_losses_of_each_target_are_their_terms():
    """`reduction="none"` comes back in another order or shape: chunks take tokens in turn."""
    hidden, targets = normal(9, 3, 5, 3), jnp.asarray(np.arange(15).reshape(3, 5) % 5)
    run = quick_jit(lambda hidden: F.fused_cross_entropy(hidden, W, targets, reduction="none", chunk_size=4))
    found = np.asarray(run(hidden))
    for index in np.ndindex(3, 5):
        one = oracles.cross_entropy((oracles.f64(hidden) @ oracles.f64(W))[index][None], [int(targets[index])], None)
        assert_close(found[index], one, 2e-6)
