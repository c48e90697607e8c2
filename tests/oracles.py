"""Float64 NumPy written from the formulas, forward and backward by hand: what the library is checked against.

Nothing here comes from the library. Each gradient is itself checked against central differences
(`test_oracles_agree_with_central_differences` in tests/functional/test_attention.py and its siblings).
"""

import dataclasses
import functools
import math

import numpy as np


def f64(x):
    """Any array (or None) as float64."""
    return None if x is None else np.asarray(x, np.float64)


# Masks -----------------------------------------------------------------------------------------


def mask_by_loops(
    B, N, T, S, *, causal=False, window=None, prefix=None, lengths=None, segments=None, explicit=None,
    query_pos=None, key_pos=None,
):  # fmt: skip
    """Who may attend whom, [B N T S], one pair at a time."""
    q_pos = np.broadcast_to(np.arange(T) if query_pos is None else query_pos, (B, T))
    k_pos = np.broadcast_to(np.arange(S) if key_pos is None else key_pos, (B, S))
    q_seg, k_seg = segments if isinstance(segments, tuple) else (segments, segments)
    explicit = None if explicit is None else np.broadcast_to(explicit, (B, N, T, S))
    allowed = np.zeros((B, N, T, S), bool)
    for b, n, t, s in np.ndindex(B, N, T, S):
        see = True
        if causal and k_pos[b, s] > q_pos[b, t]:
            see = False
        if window is not None and abs(int(q_pos[b, t]) - int(k_pos[b, s])) >= window:
            see = False
        if prefix is not None and k_pos[b, s] >= np.broadcast_to(prefix, B)[b]:
            see = False
        if lengths is not None and s >= lengths[b]:
            see = False
        if segments is not None and q_seg[b, t] != k_seg[b, s]:
            see = False
        if explicit is not None and not explicit[b, n, t, s]:
            see = False
        allowed[b, n, t, s] = see
    return allowed


# Attention -------------------------------------------------------------------------------------


def attention_scores(q, k, mask=None, bias=None, scale=None, softcap=None):
    """Q K^T * scale (capped by a tanh) + bias, -inf where masked, [B N T S]; a key head serves N / K query heads."""
    q, k = f64(q), f64(k)
    N, K, H = q.shape[2], k.shape[2], q.shape[3]
    k = np.repeat(k, N // K, axis=2)
    scores = np.einsum("btnh,bsnh->bnts", q, k) * (1 / math.sqrt(H) if scale is None else scale)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if bias is not None:
        scores = scores + f64(bias)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    return scores


def attention_weights(q, k, mask=None, bias=None, scale=None, softcap=None):
    """softmax over the keys, [B N T S]; a row without any key is zero."""
    scores = attention_scores(q, k, mask, bias, scale, softcap)
    highest = scores.max(-1, keepdims=True)
    unnormalised = np.exp(scores - np.where(np.isinf(highest), 0, highest))
    total = unnormalised.sum(-1, keepdims=True)
    return np.divide(unnormalised, total, out=np.zeros_like(unnormalised), where=total > 0)


def attention(q, k, v, mask=None, bias=None, scale=None, kept=None, softcap=None):
    """softmax(Q K^T / sqrt(d)) V, [B T N H]; `kept` [B N T S] multiplies the weights (dropout)."""
    weights = attention_weights(q, k, mask, bias, scale, softcap) * (1 if kept is None else f64(kept))
    v = np.repeat(f64(v), q.shape[2] // k.shape[2], axis=2)
    return np.einsum("bnts,bsnh->btnh", weights, v)


def attention_gradients(q, k, v, d_out, mask=None, bias=None, scale=None, kept=None, softcap=None):
    """(dq, dk, dv, d_bias) of sum(d_out * attention(...)), by the chain rule.

    With P the softmax and W = P * kept the weights: dV = W^T dO; dW = dO V^T; dP = dW * kept;
    dscores = P * (dP - sum_s P dP); dQ = scale * dscores K; dK = scale * dscores^T Q, with
    dscores * (1 - (capped / softcap)^2) for dscores where the scores are capped.
    d_bias has the shape of bias: summed over the axes that it broadcasts along.
    """
    q, k, v, d_out = f64(q), f64(k), f64(v), f64(d_out)
    N, K, H = q.shape[2], k.shape[2], q.shape[3]
    scale = 1 / math.sqrt(H) if scale is None else scale
    kept = 1.0 if kept is None else f64(kept)
    P = attention_weights(q, k, mask, bias, scale, softcap)
    k_wide, v_wide = np.repeat(k, N // K, axis=2), np.repeat(v, N // K, axis=2)
    dv = np.einsum("bnts,btnh->bsnh", P * kept, d_out)
    dP = np.einsum("btnh,bsnh->bnts", d_out, v_wide) * kept
    d_scores = P * (dP - (P * dP).sum(-1, keepdims=True))
    slope = 1.0 if softcap is None else 1 - (attention_scores(q, k, None, None, scale, softcap) / softcap) ** 2
    dq = np.einsum("bnts,bsnh->btnh", d_scores * slope, k_wide) * scale
    dk = np.einsum("bnts,btnh->bsnh", d_scores * slope, q) * scale
    B, S = k.shape[:2]
    dk, dv = (x.reshape(B, S, K, N // K, -1).sum(3) for x in (dk, dv))
    return dq, dk, dv, None if bias is None else unbroadcast(d_scores, np.shape(bias))


def unbroadcast(gradient, shape):
    """A gradient of the broadcast shape, summed back to `shape`."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return gradient.sum(axis=axes, keepdims=True).reshape(shape)


def multi_head_attention(x, context, w_q, w_k, w_v, w_o, b_q=0, b_k=0, b_v=0, b_o=0, *, mask=None, softcap=None):
    """Concat(head_1 ... head_h) W_O with the heads side by side, as the paper writes it."""
    x, context = f64(x), f64(context)
    q = np.einsum("btd,dnh->btnh", x, f64(w_q)) + f64(b_q)
    k = np.einsum("bsc,ckh->bskh", context, f64(w_k)) + f64(b_k)
    v = np.einsum("bsc,ckh->bskh", context, f64(w_v)) + f64(b_v)
    heads = attention(q, k, v, mask, softcap=softcap)
    concatenated = np.concatenate([heads[:, :, n] for n in range(heads.shape[2])], axis=-1)
    return concatenated @ f64(w_o).reshape(-1, np.shape(w_o)[-1]) + f64(b_o)


# Layers ----------------------------------------------------------------------------------------


def layer_norm(x, gamma, beta, eps):
    """(x - mean) / sqrt(variance + eps) * gamma + beta, the variance divided by D."""
    x = f64(x)
    mean = x.sum(-1, keepdims=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdims=True) / x.shape[-1]
    return (x - mean) / np.sqrt(variance + eps) * f64(gamma) + f64(beta)


def layer_norm_gradients(x, gamma, d_out, eps):
    """(dx, d_gamma, d_beta); with g = d_out gamma and n the normed x, dx = (g - mean(g) - n mean(g n)) / root."""
    x, gamma, d_out = f64(x), f64(gamma), f64(d_out)
    root = np.sqrt(x.var(-1, keepdims=True) + eps)
    normed = (x - x.mean(-1, keepdims=True)) / root
    g = d_out * gamma
    dx = (g - g.mean(-1, keepdims=True) - normed * (g * normed).mean(-1, keepdims=True)) / root
    leading = tuple(range(x.ndim - 1))
    return dx, (d_out * normed).sum(leading), d_out.sum(leading)


def rms_norm(x, gamma, eps):
    """x / sqrt(mean(x^2) + eps) * gamma."""
    x = f64(x)
    return x / np.sqrt((x * x).sum(-1, keepdims=True) / x.shape[-1] + eps) * f64(gamma)


def relu(x):
    return np.maximum(x, 0.0)


def gelu(x):
    """x Phi(x), by the error function."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def feed_forward(x, w1, b1, w2, b2, activation=relu):
    """activation(x W_1 + b_1) W_2 + b_2."""
    hidden = activation(f64(x) @ f64(w1) + (0 if b1 is None else f64(b1)))
    return hidden @ f64(w2) + (0 if b2 is None else f64(b2))


def feed_forward_gradients(x, w1, b1, w2, b2, d_out):
    """(dx, dw1, db1, dw2, db2) of sum(d_out * ReLU(x W_1 + b_1) W_2 + b_2)."""
    x, w1, b1, w2, d_out = f64(x), f64(w1), f64(b1), f64(w2), f64(d_out)
    before = x @ w1 + b1
    d_before = (d_out @ w2.T) * (before > 0)
    rows = x.reshape(-1, x.shape[-1])
    flat = d_before.reshape(-1, d_before.shape[-1])
    d_rows = d_out.reshape(-1, d_out.shape[-1])
    hidden = relu(before).reshape(-1, before.shape[-1])
    return d_before @ w1.T, rows.T @ flat, flat.sum(0), hidden.T @ d_rows, d_rows.sum(0)


def gated_feed_forward(x, w_gate, w_up, w_down, b_gate=None, b_up=None, b_down=None, activation=silu):
    """(activation(x W_gate + b_gate) * (x W_up + b_up)) W_down + b_down."""
    b_gate, b_up, b_down = (0 if b is None else f64(b) for b in (b_gate, b_up, b_down))
    hidden = activation(f64(x) @ f64(w_gate) + b_gate) * (f64(x) @ f64(w_up) + b_up)
    return hidden @ f64(w_down) + b_down


# Positions -------------------------------------------------------------------------------------


def sinusoids(length, d_model, base=10_000.0):
    """PE(pos, 2i) = sin(pos / base^(2i/d)), PE(pos, 2i+1) = cos(the same angle), one number at a time."""
    table = np.zeros((length, d_model))
    for position in range(length):
        for column in range(d_model):
            angle = position / base ** ((column - column % 2) / d_model)
            table[position, column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)
    return table


def resize_grid(cells, height, width):
    """Cubic convolution (Keys, 1981, a = -1/2) of [rows columns D], cut off at the border and normalised there."""

    def kernel(x):
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def weights(new, old):
        table = np.array([[kernel((i + 0.5) * old / new - 0.5 - j) for j in range(old)] for i in range(new)])
        return table / table.sum(1, keepdims=True)

    rows, columns = weights(height, cells.shape[0]), weights(width, cells.shape[1])
    return np.einsum("ij,kl,jld->ikd", rows, columns, f64(cells))


def rotary(x, positions, base=10_000.0, layout="half", change=lambda frequency: frequency, frequencies=None):
    """Pair i of a head as a complex number, times exp(1j * position * change(base^(-2i / H))); x [B T N H].

    Or, with `frequencies`, times exp(1j * position * frequencies[i]).
    """
    x, H = f64(x), x.shape[-1]
    positions = np.broadcast_to(f64(positions), x.shape[:2])[:, :, None]
    out = np.empty_like(x)
    for i in range(H // 2):
        a, b = (i, i + H // 2) if layout == "half" else (2 * i, 2 * i + 1)
        frequency = change(base ** (-2 * i / H)) if frequencies is None else frequencies[i]
        turned = (x[..., a] + 1j * x[..., b]) * np.exp(1j * positions * frequency)
        out[..., a], out[..., b] = turned.real, turned.imag
    return out


def llama3(frequency, factor, trained_length, low=1.0, high=4.0):
    """As in the code that Meta published for Llama 3.1."""
    wavelength = 2 * math.pi / frequency
    if wavelength < trained_length / high:
        return frequency
    if wavelength > trained_length / low:
        return frequency / factor
    smooth = (trained_length / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def yarn(H, base, factor, trained_length, slow=1.0, fast=32.0, whole_pairs=True):
    """The frequencies of the pairs of a head, as in the code that Peng et al. published."""
    ends = [H * math.log(trained_length / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (fast, slow)]
    if whole_pairs:
        ends = math.floor(ends[0]), math.ceil(ends[1])
    first, last = max(ends[0], 0), min(ends[1], H - 1)
    frequencies = []
    for i in range(H // 2):
        divided = min(max((i - first) / ((last - first) or 0.001), 0.0), 1.0)
        kept = base ** (-2 * i / H)
        frequencies.append(kept * (1 - divided) + kept / factor * divided)
    return frequencies


def longrope(H, base, divisors):
    """Ding et al., 2024: each pair has its own divisor."""
    return [base ** (-2 * i / H) / divisors[i] for i in range(H // 2)]


def alibi_slopes(N):
    """As in the code that Press et al. published."""
    if math.log2(N).is_integer():
        start = 2 ** (-(2 ** -(math.log2(N) - 3)))
        return [start * start**i for i in range(N)]
    below = 2 ** math.floor(math.log2(N))
    return alibi_slopes(below) + alibi_slopes(2 * below)[0::2][: N - below]


def t5_bucket(relative, bidirectional, num_buckets, max_distance):
    """The bucket of one relative position; a logarithm within 10^-9 of a whole number counts as that number."""
    if bidirectional:
        num_buckets //= 2
    later = num_buckets if bidirectional and relative > 0 else 0
    distance = abs(relative) if bidirectional else max(-relative, 0)
    exact = num_buckets // 2
    if distance < exact:
        return later + distance
    steps = math.log(distance / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    return later + min(exact + math.floor(steps + 1e-9), num_buckets - 1)


# Models ----------------------------------------------------------------------------------------

ACTIVATIONS = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}


def places_in_segments(segments):
    """Each token's distance from the start of its segment, one row at a time."""
    places = np.zeros(np.shape(segments), int)
    for row, ids in zip(places, np.asarray(segments), strict=True):
        for t in range(1, len(ids)):
            row[t] = row[t - 1] + 1 if ids[t] == ids[t - 1] else 0
    return places


def fields_of(config, i=0):
    """What a config says of layer i of a stack, by dotted names: its pattern, cycled, over what it says of all."""
    found = {}
    for of in dataclasses.fields(config):
        value = getattr(config, of.name)
        if dataclasses.is_dataclass(value):
            inner = {n.name: getattr(value, n.name) for n in dataclasses.fields(value)}
            found |= {f"{of.name}.{n}": x for n, x in (inner | {"name": getattr(value, "name", None)}).items()}
        else:
            found[of.name] = value
    for section, changes in config.pattern[i % len(config.pattern)].items():
        if isinstance(changes, dict):
            found |= {f"{section}.{name}": x for name, x in changes.items()}
        else:
            found[section] = changes
    return found


def held_by_layer(weights, stack, fields, i):
    """The parameters of layer i: of a place in the pattern, stacked over its repetitions, or of the tail."""
    period = len(fields["pattern"])
    repeat, place = divmod(i, period)
    repeats = fields["num_layers"] // period
    prefix = f"{stack}.layers.{place}." if repeat < repeats else f"{stack}.tail.{place}."
    found = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}
    return {name: x[repeat] for name, x in found.items()} if repeat < repeats else found


def position_bias(fields, query_pos, key_pos, table=None, bidirectional=False):
    """What is added to the scores for positions [B T] and [B S]: [B N T S], or None."""
    distances = np.asarray(key_pos)[:, None, :] - np.asarray(query_pos)[:, :, None]
    if fields["positions.name"] == "alibi":
        return -np.array(alibi_slopes(fields["attention.num_heads"]))[:, None, None] * np.abs(distances)[:, None]
    if fields["positions.name"] == "relative":
        limits = fields["positions.num_buckets"], fields["positions.max_distance"]
        bucket = np.vectorize(lambda d: t5_bucket(d, bidirectional, *limits))(distances)
        return np.moveaxis(f64(table)[bucket], -1, 1)
    return None


def turned(fields, x, positions):
    """Heads under rotary positions; scaling shrinks the positions, or stretches the base."""
    if fields["positions.name"] != "rotary":
        return x
    base, factor, positions = fields["positions.base"], fields["positions.factor"], f64(positions)
    width = fields["positions.width"] or x.shape[-1]
    if fields["positions.scaling"] == "linear":
        positions = positions / factor
    if fields["positions.scaling"] == "ntk":
        base = base * factor ** (width / (width - 2))
    how, length = {"layout": fields["positions.layout"]}, fields["positions.trained_length"]
    magnitude = fields["positions.magnitude"] or 1.0
    if fields["positions.scaling"] == "llama3":
        low, high = fields["positions.turns"] or (1.0, 4.0)
        how["change"] = functools.partial(llama3, factor=factor, trained_length=length, low=low, high=high)
    if fields["positions.scaling"] == "yarn":
        ends = fields["positions.turns"] or (1.0, 32.0)
        how["frequencies"] = yarn(width, base, factor, length, *ends, fields["positions.whole_pairs"])
        magnitude = fields["positions.magnitude"] or 1 + 0.1 * math.log(factor)
    if fields["positions.scaling"] == "longrope":
        reach = "long" if positions.max() + 1 > length else "short"
        how["frequencies"] = longrope(width, base, fields[f"positions.{reach}_divisors"])
    return np.concatenate([rotary(x[..., :width], positions, base, **how) * magnitude, x[..., width:]], axis=-1)


def normed(held, fields, x, name, kind=None):
    """x under the norm `name`, of the config's kind unless told otherwise; a missing shift is none."""
    gamma = held.get(name + ".gamma", 1.0) + (1 if fields["norm.unit_offset"] else 0)
    if (kind or fields["norm.name"]) == "rms":
        return rms_norm(x, gamma, fields["norm.eps"])
    return layer_norm(x, gamma, held.get(name + ".beta", 0.0), fields["norm.eps"])


def normed_heads(held, fields, heads, name):
    """Queries or keys [B T N H]: each head by itself, with the same numbers or its own, or all together."""
    kind = fields["attention.qk_norm_kind"]
    if fields["attention.joint_qk_norm"]:
        vectors = {n: x.reshape(-1) for n, x in held.items() if n.startswith(name)}
        return normed(vectors, fields, heads.reshape(*heads.shape[:2], -1), name, kind).reshape(heads.shape)
    if not fields["attention.own_qk_norms"]:
        return normed(held, fields, heads, name, kind)
    each = []
    for i in range(heads.shape[2]):
        own = {f"{name}.{part}": held[f"{name}.norms.{part}"][i] for part in ("gamma", "beta")
               if f"{name}.norms.{part}" in held}  # fmt: skip
        each.append(normed(own, fields, heads[:, :, i], name, kind))
    return np.stack(each, axis=2)


def base_width(fields):
    """The width whose learning rate holds for all, under maximal update parametrization; else the model's own."""
    return fields["init.mup_base_width"] or fields["d_model"]


def embedding_scale(fields):
    """√D, of embeddings with a width of their own √E; 1 without scale_embeddings."""
    return math.sqrt(fields["embedding_width"] or base_width(fields)) if fields["scale_embeddings"] else 1.0


def self_attention(held, fields, x, places, allowed, bias):
    """Queries and keys are normed per head or jointly, then turned; wider heads have scores by √H_base / H."""
    H = held["attention.w_q"].shape[-1]
    m = fields["d_model"] / base_width(fields)
    scale = fields["attention.scale"] or math.sqrt(1 / H if fields["attention.head_dim"] else m / H)
    scale = scale if fields["attention.head_dim"] else scale / m
    heads = {}
    for name in ("q", "k", "v"):
        projected = np.einsum("btd,dnh->btnh", x, held[f"attention.w_{name}"]) + held.get(f"attention.b_{name}", 0)
        limit = fields["attention.qkv_clip"] or math.inf
        projected = projected.clip(-limit, limit)
        if name != "v":
            if fields["attention.qk_norm"]:
                projected = normed_heads(held, fields, projected, f"attention.{name}_norm")
            projected = turned(fields, projected, places)
        heads[name] = projected
    mixed = attention(heads["q"], heads["k"], heads["v"], allowed, bias, scale, softcap=fields["attention.softcap"])
    return np.einsum("btnh,nhd->btd", mixed, held["attention.w_o"]) + held.get("attention.b_o", 0)


def position_wise(held, fields, x):
    """The feed-forward network, plain or gated."""
    names = ("w_gate", "w1", "w2", "b_gate", "b1", "b2")
    w_gate, w1, w2, b_gate, b1, b2 = (held.get(f"feed_forward.{name}") for name in names)
    activation = ACTIVATIONS[fields["feed_forward.activation"]]
    if fields["feed_forward.name"] == "gated":
        return gated_feed_forward(x, w_gate, w1, w2, b_gate, b1, b2, activation)
    return feed_forward(x, w1, b1, w2, b2, activation)


def layer(held, fields, x, **seen):
    """One layer: attention and the feed-forward network, each with its residual and norms."""
    attended = functools.partial(self_attention, held, fields, **seen)
    fed = functools.partial(position_wise, held, fields)
    if fields["layer.parallel"]:
        inner = normed(held, fields, x, "attention_residual.norm")
        other = inner if fields["layer.shared_norm"] else normed(held, fields, x, "feed_forward_residual.norm")
        return x + attended(inner) + fed(other)
    place = fields["layer.norm_position"]
    for name, sublayer in (("attention_residual", attended), ("feed_forward_residual", fed)):
        before = place in ("pre", "sandwich") and (fields["layer.attention_norm"] or sublayer is fed)
        update = sublayer(normed(held, fields, x, name + ".norm") if before else x)
        if place in ("output", "sandwich"):
            update = normed(held, fields, update, name + ".output_norm")
        update = update * held.get(name + ".gain", 1.0)
        x = normed(held, fields, x + update, name + ".norm") if place == "post" else x + update
    return x


def causal_lm(weights, config, tokens, segments=None, prefix=None):
    """Logits [B T V] of a causal language model, a loop over its layers.

    `weights` are float64 arrays by their path in the model, those of layers with an axis of layers in
    front; `config` is read for its fields alone. `prefix` [B]: tokens of each row that all see.
    """
    tokens, fields = np.asarray(tokens), fields_of(config)
    (B, T), narrow = tokens.shape, fields["embedding_width"] is not None
    last = fields["embedding_projection"] == "last"
    D = fields["embedding_width"] if last else fields["d_model"]
    segments = np.zeros((B, T), int) if segments is None else np.asarray(segments)
    places = places_in_segments(segments)
    x = weights["embedding.table"][tokens] * embedding_scale(fields)
    if narrow and not last:
        x = x @ weights["positions.projection.w"]
    if fields["positions.name"] == "sinusoidal":
        table = sinusoids(T + fields["positions.first"], D, fields["positions.base"])
        if fields["positions.concatenated"]:
            table = np.concatenate([table[:, ::2], table[:, 1::2]], axis=1)
        x = x + table[places + fields["positions.first"]]
    if fields["positions.name"] == "learned":
        vectors = weights["positions.scheme.table"][places + fields["positions.first"]]
        scale = embedding_scale(fields if last else {**fields, "embedding_width": None})
        x = x + vectors * (scale if fields["positions.scaled"] else 1.0)
    if fields["embedding_norm"]:
        x = normed(weights, fields, x, "positions.norm")
    if last:
        x = x @ weights["positions.projection.w"] + weights["positions.projection.b"]

    for i in range(fields["num_layers"]):
        own = fields_of(config, i)
        N, window = own["attention.num_heads"], own["attention.window"]
        seen = mask_by_loops(B, N, T, T, window=window, segments=segments)
        prefix_seen = False if prefix is None else mask_by_loops(B, N, T, T, prefix=prefix)
        seen = seen & (mask_by_loops(B, N, T, T, causal=True) | prefix_seen)
        shared = weights.get("decoder.position_bias.table")
        table = held_by_layer(weights, "decoder.position_biases", fields, i).get("table", shared)
        bias = position_bias(own, places, places, table)
        x = layer(held_by_layer(weights, "decoder", fields, i), own, x, places=places, allowed=seen, bias=bias)

    if own["layer.norm_position"] != "post" and own["layer.final_norm"]:
        x = normed(weights, fields, x, "decoder.final_norm")
    x = x * base_width(fields) / fields["d_model"]
    x = x @ weights["output.projection.w"] if narrow else x
    w = weights["embedding.table"].T if fields["output.tie"] else weights["output.w"]
    scale = fields["output.scale"] or 1.0
    logits = x @ w * scale + weights.get("output.b", 0.0)
    cap = fields["output.softcap"]
    return logits if cap is None else cap * np.tanh(logits / cap)


# Losses ----------------------------------------------------------------------------------------


def log_softmax(logits):
    logits = f64(logits)
    highest = logits.max(-1, keepdims=True)
    return logits - highest - np.log(np.exp(logits - highest).sum(-1, keepdims=True))


def log_normaliser(logits):
    logits = f64(logits)
    highest = logits.max(-1, keepdims=True)
    return highest[..., 0] + np.log(np.exp(logits - highest).sum(-1))


def target_distribution(targets, V, label_smoothing):
    """(1 - e) onehot(y) + e / V."""
    return (1 - label_smoothing) * np.eye(V)[np.asarray(targets)] + label_smoothing / V


def cross_entropy(logits, targets, weights=None, label_smoothing=0.0, z_loss=0.0):
    """The weighted mean of -sum_v target_v log yhat_v + z_loss * logsumexp^2."""
    log_probs = log_softmax(logits)
    wanted = target_distribution(targets, log_probs.shape[-1], label_smoothing)
    loss = -(wanted * log_probs).sum(-1) + z_loss * log_normaliser(logits) ** 2
    weights = np.ones(loss.shape) if weights is None else f64(weights)
    return (loss * weights).sum() / weights.sum()


def cross_entropy_gradient(logits, targets, weights=None, label_smoothing=0.0, z_loss=0.0):
    """d loss / d logits = weight / sum(weights) * (yhat - target + 2 z_loss logsumexp yhat)."""
    probs = np.exp(log_softmax(logits))
    wanted = target_distribution(targets, probs.shape[-1], label_smoothing)
    weights = np.ones(probs.shape[:-1]) if weights is None else f64(weights)
    each = probs - wanted + 2 * z_loss * log_normaliser(logits)[..., None] * probs
    return each * (weights / weights.sum())[..., None]


# Differences -----------------------------------------------------------------------------------


def central_differences(function, x, step=1e-5):
    """The gradient of a scalar function of a float64 array, one element at a time."""
    x = f64(x).copy()
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        held = x[index]
        x[index] = held + step
        above = function(x)
        x[index] = held - step
        below = function(x)
        x[index] = held
        gradient[index] = (above - below) / (2 * step)
    return gradient
