"""What several test files share: quick compilation, small blocks, models without an initialiser, jaxprs."""

import contextlib
import functools
import pickletools
import re
import resource
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, settings
from jax.extend.core import Literal

from tformer_jax import models
from tformer_jax.config import build, merged, nested
from tformer_jax.functional.kernels import blockwise
from tformer_jax.training.optimizers import OptimizerConfig

IMPLEMENTATIONS = ("reference", "blockwise")

# The arrays of a test are tiny and its time is compilation, which this option halves; what depends on the
# compiler itself uses `jax.jit`.
_QUICK = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=_QUICK)


def by_day(cases, *places):
    """Cases of a parametrisation: those at these places as they are; the others are slow, for they trace for long what
    differs little."""
    parts = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*part, marks=[] if i in places else pytest.mark.slow) for i, part in enumerate(parts)]


def pictures_of(task: str) -> set[str]:
    """The names of the pictures that a report of a task leaves, as the page says."""
    page = (Path(__file__).parents[1] / "experiments" / "README.md").read_text("utf-8").split("\n## Pictures\n")[1]
    rows = [row.split("|") for row in page.split("\n## ")[0].splitlines() if ".png" in row]
    return {
        name for _, names, tasks, *_ in rows if "all" in tasks or task in tasks for name in re.findall("`(.*?)`", names)
    }


def optimizer_config(**fields):
    """The `optimizer` section of an experiment, Adam unless another name is given."""
    return build(OptimizerConfig, {"name": "adam"} | fields, "optimizer")


def examples(count: int):
    """Hypothesis settings: few examples, always the same ones."""
    unneeded = (HealthCheck.too_slow, HealthCheck.data_too_large)
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=unneeded)


@contextlib.contextmanager
def full_disk(room: int = 0):
    """No file grows beyond so many bytes, as on a disk that is full then; nothing must be printed meanwhile."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def unchecked_annotations():
    """As users run it: without the shapes of every signature checked, which the tests do everywhere else."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@contextlib.contextmanager
def block_sizes(q: int, k: int):
    """The blockwise kernel with blocks of q queries and k keys, so that a tiny shape has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "_BLOCK_Q", q)
        patch.setattr(blockwise, "_LEAST_Q", q)
        patch.setattr(blockwise, "_SEARCHED_SCORES", 0)
        patch.setattr(blockwise, "_BLOCK_K", k)
        yield


def untimed(rows):
    """Rows of metrics without what is of the machine, its time and its memory: all else is of the run alone."""
    of_machine = lambda name: name in ("seconds", "mfu", "peak_memory_bytes") or name.endswith("_per_second")
    return [{name: x for name, x in row.items() if not of_machine(name)} for row in rows]


def normal(seed: int, *shape: int, scale: float = 1.0, dtype=jnp.float32) -> jax.Array:
    """Numbers from NumPy: nothing to compile."""
    return jnp.asarray((scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype))


_TEXT = dict(vocab_size=13, max_length=16)
_TINY = {
    "Transformer": _TEXT,
    "CausalLM": _TEXT,
    "MaskedLM": _TEXT,
    "TextClassifier": _TEXT | dict(num_classes=3),
    "VisionTransformer": dict(image_size=8, patch_size=4, num_classes=3),
}
# What tests call fields of components for short.
_SHORT = {
    **{n: f"attention.{n}" for n in ("num_heads", "num_kv_heads", "head_dim", "qk_norm", "window")},
    "attention_implementation": "attention.implementation",
    "attention_softcap": "attention.softcap", "attention_dropout_rate": "attention.dropout_rate",
    "d_ff": "feed_forward.width", "activation": "feed_forward.activation",
    "activation_dropout_rate": "feed_forward.dropout_rate",
    "norm": "norm.name", "norm_eps": "norm.eps", "norm_position": "layer.norm_position", "parallel_block": "layer.parallel",
    "positions": "positions.name", "rotary_base": "positions.base", "rotary_scaling": "positions.scaling",
    "rotary_factor": "positions.factor", "relative_buckets": "positions.num_buckets",
    "relative_max_distance": "positions.max_distance", "init_std": "init.std",
    "scale_residual_init": "init.scale_residual", "mup_base_width": "init.mup_base_width", "tie_output": "output.tie",
    "output_softcap": "output.softcap",
}  # fmt: skip


def tables(**fields):
    """The tables of a model's config from short names: `tables(num_heads=2)` is {"attention": {"num_heads": 2}}."""
    if "use_bias" in fields:
        given = fields.pop("use_bias")
        names = ("attention.qkv_bias", "attention.output_bias", "feed_forward.bias")
        fields |= dict.fromkeys(names, given)
    if "gated" in fields:
        fields["feed_forward.name"] = "gated" if fields.pop("gated") else "mlp"
    named = {_SHORT[n] if n in _SHORT and not isinstance(x, dict) else n: x for n, x in fields.items()}
    return nested(named)


def tiny_config(model: str = "Transformer", **changes):
    """Two layers, two heads, widths that differ from each other; with the fields that the model needs."""
    small = dict(d_model=8, num_heads=2, d_ff=12, num_layers=2, dropout_rate=0.0)
    cls = getattr(models, model).Config
    return build(cls, merged(cls, tables(**small | _TINY[model]), tables(**changes)), "model")


def fill(make, seed: int = 0):
    """The module that `make()` builds, each parameter drawn by NumPy instead of by its initialiser."""
    return _drawn(jax.eval_shape(make), seed)


def _drawn(shapes, seed: int):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        around = 1.0 if "gamma" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray((around + 0.3 * rng.standard_normal(leaf.shape)).astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _shapes(model: str, config):
    """A model without numbers; tracing what makes them takes as long as a test."""
    return jax.eval_shape(lambda: getattr(models, model)(config, rngs=nnx.Rngs(0)))


def tiny_model(model: str, seed: int = 0, **changes):
    """A model of `tiny_config` by name, with random weights, biases and norms."""
    return _drawn(_shapes(model, tiny_config(model, **changes)), seed)


def tiny_transformer(seed: int = 0, **changes) -> models.Transformer:
    """`tiny_model("Transformer")`."""
    return tiny_model("Transformer", seed, **changes)


def with_leaf(module, path: str, value):
    """The module with the one parameter whose path ends in `path` replaced: nothing is mutated."""
    found = []

    def pick(where, leaf):
        name = jax.tree_util.keystr(where, simple=True, separator=".").removesuffix(".value")
        if not name.endswith(path):
            return leaf
        found.append(name)
        return value

    changed = jax.tree_util.tree_map_with_path(pick, module)
    assert len(found) == 1, f"{path} is {found}"
    return changed


def equations(jaxpr):
    """Every equation of a jaxpr, those inside of others included."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from equations(inner)


def constants(jaxpr):
    """Every array that a program holds as a constant: its text shows their shapes alone."""
    yield from getattr(jaxpr, "consts", ())
    for equation in equations(jaxpr):
        held = [v.val for v in equation.invars if isinstance(v, Literal)]
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
        for array in held + [c for jaxpr in inner if _is_jaxpr(jaxpr) for c in getattr(jaxpr, "consts", ())]:
            if np.ndim(array):
                yield array


def as_text(jaxpr) -> str:
    """A program, with the values of its constants."""
    values = [np.asarray(array).tobytes() for array in constants(jaxpr)]
    return re.sub(r"0x[0-9a-f]+|id=\d+", "", f"{jaxpr} {values}")


def _is_jaxpr(x) -> bool:
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")


def looks_pickled(content):
    """Whether a file's content begins with a pickle's header, or is a whole pickle of an older protocol without one."""
    if content[:1] == b"\x80" and content[1:2] in {bytes([p]) for p in range(6)}:
        return True
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(content))
    except Exception:
        return False


def assert_close(got, wanted, tolerance: float, what: str = ""):
    """|got - wanted| <= tolerance * max(1, |wanted|.max()), and nothing that is not finite."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape, f"{what}: shape {got.shape} instead of {wanted.shape}"
    assert np.isfinite(got).all(), f"{what}: not finite"
    allowed = tolerance * max(1.0, np.abs(wanted).max(initial=0.0))
    worst = np.abs(got - wanted).max(initial=0.0)
    assert worst <= allowed, f"{what}: off by {worst:.3g}, allowed {allowed:.3g}"


@contextlib.contextmanager
def registered(things):
    """Registers (registry, name, thing)s for a while: what other tests see of a registry is the package's own."""
    for registry, name, thing in things:
        registry.register(name)(thing)
    try:
        yield
    finally:
        for registry, name, _ in things:
            del registry._things[name]
