"""The stack of layers: a pattern, repeated by a scan."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from .blocks import LayerOutput, Losses
from .cache import Cache
from .config import ModelConfig
from .module import Module
from .parameters import described
from .partitioning import is_gathered, spread_stream

_FEW_LAYERS = 8  # that are unrolled on a CPU
_REMAT_POLICIES = {"dots": jax.checkpoint_policies.dots_saveable, "full": None}


class Beside(NamedTuple):
    """The results of a stack or a model beside its states.

    Attributes:
      captured: what was asked for, by name, its first axis that of layers.
      losses: auxiliary losses, by name, summed over layers.
      cache: with the keys and values of the tokens; None if none was given.
    """

    captured: dict[str, Array]
    losses: Losses
    cache: Any = None


class Stack(Module):
    """`num_layers` layers: as often as the pattern fits, by `lax.scan`, and those that are left.

    Attributes:
      layers: each layer of the pattern, with the parameters of all its repetitions along a leading axis.
      tail: layers of a last, partial period.
    """

    def __init__(
        self, model: ModelConfig, num_layers: int, *, cross: bool = False, bidirectional: bool, rngs: nnx.Rngs
    ):
        self.model, self.num_layers = model, num_layers
        configs = [model.of_layer(i) for i in range(len(model.pattern))]
        self.repeats, left = divmod(num_layers, len(configs))

        def make(config, key):
            return described(config.layer.make(config, cross=cross, rngs=nnx.Rngs(key)))

        self.layers = nnx.List(
            jax.vmap(functools.partial(make, config))(jax.random.split(rngs.params(), self.repeats))
            for config in configs
        )
        self.tail = nnx.List(make(config, rngs.params()) for config in configs[:left])
        how, own = {"bidirectional": bidirectional, "rngs": rngs}, model.positions.by_layer
        self.position_bias = None if own else model.positions.in_scores(model, **how)
        self.position_biases = LayerBiases(configs, self.repeats, left, **how) if own else None
        last = configs[(num_layers - 1) % len(configs)]
        self.final_norm = None if last.layer.ends_normed else model.norm.make(model)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: F.Mask,
        memory: Any = None,
        memory_mask: F.Mask | None = None,
        cache: Cache | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], Beside]:
        """The last stream (normed), and what comes beside it.

        Args:
          x: the first stream.
          mask: over the keys; its query positions are where the tokens of x stand.
          memory: of layers with cross-attention: [B S D], or `memory_keys_values` of it.
          memory_mask: over the memory.
          cache: with slots reserved for the tokens of x.
          key: for dropout.
          capture: names, see the layers.
        """
        biases = self._biases(mask, x.shape[1], cache)
        layers, tail = self._by_layer(cache, memory, key)
        shared = {"mask": mask, "capture": capture}
        if memory is not None:
            shared["memory_mask"] = memory_mask
            shared |= {} if isinstance(memory, ByLayer) else {"memory": memory}

        def step(kinds, x, period):
            outputs = []
            for i, (layer, own) in enumerate(period):
                if kinds is not None:
                    own |= {"cache": kinds[i].of_layer(own["cache"])}
                bias = functools.partial(biases[i % len(biases)], own.pop("position_bias", None))
                x, output = self._prepared(layer, bias, **own, **shared)(spread_stream(x))
                outputs.append(output if kinds is None else output._replace(cache=output.cache.scanned))
            return x, outputs

        of_layers, of_tail = (None, None) if cache is None else (cache.layers, cache.tail)
        period = list(zip(self.layers, layers, strict=True))
        outputs: list[LayerOutput] = []
        if self.repeats:
            x, outputs = jax.lax.scan(functools.partial(step, of_layers), x, period, unroll=self._unroll)
        x, last = step(of_tail, x, zip(self.tail, tail, strict=True))
        x = spread_stream(x if self.final_norm is None else self.final_norm(x))
        return x, _beside(outputs, last, cache)

    def apart(self) -> "Stack":
        """The same stack with all layers one after the other, each with arrays of its own, and none in a scan.

        A loop over tokens reads such arrays where they lie; of stacked ones it copies each layer's at every token.
        """
        leaves, structure = jax.tree.flatten(self)
        stack = jax.tree.unflatten(structure, leaves)
        one = lambda layers, i: jax.tree.map(lambda x: x[i], layers)
        for of in (stack, *([] if stack.position_biases is None else [stack.position_biases])):
            of.tail = nnx.List([*(one(layers, i) for i in range(self.repeats) for layers in of.layers), *of.tail])
            of.layers = nnx.List()
        stack.repeats = 0
        return stack

    def start_cache(self, batch_size: int, slots: int, at_once: int | None = None) -> Cache:
        """An empty cache; layers with a window get as many slots as they need for `at_once` tokens a call, if given."""

        def kind(i: int, layers: tuple[int, ...]) -> Any:
            model = self.model.of_layer(i % len(self.model.pattern))
            return model.attention.start_cache(model, layers, batch_size, slots, at_once)

        layers = tuple(kind(i, (self.repeats,)) for i in range(len(self.layers)))
        tail = tuple(kind(i, ()) for i in range(len(self.tail)))
        return Cache(layers, tail, jnp.zeros(batch_size, jnp.int32))

    def memory_keys_values(self, memory: Float[Array, "B S D"]) -> "ByLayer":
        """The keys and values of a memory for the cross-attention of each layer."""
        of = lambda layer: layer.cross_attention.keys_values(memory)
        return ByLayer(tuple(jax.vmap(of)(layers) for layers in self.layers), tuple(map(of, self.tail)))

    @property
    def _unroll(self) -> int:
        """The number of periods that an iteration of the scan goes through.

        Of a loop, XLA:CPU stacks whatever backward needs of each iteration, and slices it again: a sixth of the time of
        a step. It compiles as long as there are layers, though, and does not keep recomputed layers apart.
        """
        on_cpu, few = jax.default_backend() == "cpu", self.repeats * len(self.layers) <= _FEW_LAYERS
        if on_cpu and self.model.remat != "none":
            return 1
        return self.model.scan_unroll or (self.repeats if on_cpu and few else 1)

    def _prepared(self, layer: Any, bias: Callable[[], Array | None], **seen: Any) -> Any:
        """A layer as a function of the stream alone, which the backward pass recomputes as the config says."""
        remat = self.model.remat
        if remat == "none":
            return functools.partial(layer, bias=bias(), **seen)
        # The bias is recomputed too: kept, it would be that of every layer.
        return jax.checkpoint(lambda x: layer(x, bias=bias(), **seen), policy=_REMAT_POLICIES[remat])

    def _biases(self, mask: F.Mask, T: int, cache: Cache | None) -> list[Callable[[Any], Array | None]]:
        """For each layer of the pattern, a function from its own module of positions, or None, to the bias of its scores.

        Layers that have other positions than the model get none.
        """
        schemes = [type(self.model.of_layer(i).positions) for i in range(len(self.model.pattern))]
        acts = self.position_bias is not None or self.position_biases is not None
        biased = [acts and scheme is type(self.model.positions) for scheme in schemes]
        if not any(biased):
            return [lambda own: None] * len(biased)
        queries = mask.query_block(0, T)  # [b T]
        # Of a cache: layers after the first period are like those in it.
        kinds = [mask] if cache is None else [*cache.layers, *cache.tail][: len(biased)]
        keys = [kind.key_block(0, T) if cache is None else kind.positions for kind in kinds]
        if self.position_bias is not None:
            shared = [self.position_bias(queries, there) for there in keys]  # [b N T S]
            made = [lambda own, bias=bias: bias for bias in shared]
        else:
            made = [lambda own, there=there: own(queries, there) for there in keys]
        return [made[i % len(made)] if has else lambda own: None for i, has in enumerate(biased)]

    def _by_layer(self, cache: Cache | None, memory: Any, key: Array | None) -> "ByLayer":
        """The arguments that each layer has of its own: stacked for the layers of the scan."""
        layers, tail = [{} for _ in self.layers], [{} for _ in self.tail]
        if key is not None:
            keys, period = jax.random.split(key, self.num_layers), len(layers)
            for i, own in enumerate(layers):
                own["key"] = keys[i : self.repeats * period : period]
            for own, last in zip(tail, keys[self.repeats * period :], strict=True):
                own["key"] = last
        if cache is not None:
            for own, kind in zip((*layers, *tail), (*cache.layers, *cache.tail), strict=True):
                own["cache"] = kind.scanned
        if self.position_biases is not None:
            own_biases = (*self.position_biases.layers, *self.position_biases.tail)
            for own, module in zip((*layers, *tail), own_biases, strict=True):
                own["position_bias"] = module
        if isinstance(memory, ByLayer):
            for own, there in zip((*layers, *tail), (*memory.layers, *memory.tail), strict=True):
                own["memory"] = there
        return ByLayer(layers, tail)


class LayerBiases(Module):
    """The modules that bias the scores of each layer; of layers with other positions None.

    Attributes:
      layers, tail: as those of `Stack`.
    """

    def __init__(self, configs: Sequence[ModelConfig], repeats: int, left: int, *, bidirectional: bool, rngs: nnx.Rngs):
        def make(config, key):
            module = config.positions.in_scores(config, bidirectional=bidirectional, rngs=nnx.Rngs(key))
            return None if module is None else described(module)

        keys = [jax.random.split(rngs.params(), repeats) for _ in configs]
        made = (jax.vmap(functools.partial(make, config))(of) for config, of in zip(configs, keys, strict=True))
        self.layers = nnx.List(made)
        self.tail = nnx.List(make(config, rngs.params()) for config in configs[:left])


class ByLayer(NamedTuple):
    """Something of each layer: stacked for those of the scan, by their place in the pattern, and of those after it."""

    layers: Sequence[Any]
    tail: Sequence[Any]


def _beside(outputs: list[LayerOutput], last: list[LayerOutput], cache: Cache | None) -> Beside:
    """The results of all layers, in order; outputs of the scan have a leading axis of repetitions [R ...]."""

    def in_order(name: str) -> Array:
        of_scan = [output.captured[name] for output in outputs]  # [R ...] each
        parts = [output.captured[name][None] for output in last]
        if of_scan:
            parts.insert(0, jnp.stack(of_scan, axis=1).reshape(-1, *of_scan[0].shape[1:]))  # [R P ...] to [R * P ...]
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

    losses: Losses = {}
    for output in (*outputs, *last):
        for name, loss in output.losses.items():
            losses[name] = losses.get(name, 0.0) + loss.sum()
    if cache is not None:
        kinds = zip((*cache.layers, *cache.tail), (*outputs, *last), strict=True)
        held = tuple(dataclasses.replace(kind.of_layer(output.cache), reserved=0) for kind, output in kinds)
        cache = Cache(held[: len(outputs)], held[len(outputs) :], cache.lengths)
    return Beside({name: in_order(name) for name in (*outputs, *last)[0].captured}, losses, cache)


def apart(model: Any) -> Any:
    """Returns a model whose stacks, wherever they are in it, hold each layer by itself: see `Stack.apart`.

    Of one that is so already, the same arrays. One that is gathered from devices to be used stays as it is: of a stack each
    layer is gathered when its turn comes, of layers by themselves XLA gathers all ahead, the whole model on each device.
    """
    return model if is_gathered(model) else _apart(model)


@jax.jit
def _apart(model: Any) -> Any:
    is_stack = lambda x: isinstance(x, Stack)
    return jax.tree.map(lambda x: x.apart() if is_stack(x) else x, model, is_leaf=is_stack)
