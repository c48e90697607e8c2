"""Registries check what is put into them; plugins are imported once, and say what is wrong in one line."""

import re
import sys
import textwrap

import pytest

from tformer_jax import nn
from tformer_jax.config import Component, ConfigError, field
from tformer_jax.functional.activations import ACTIVATIONS
from tformer_jax.functional.kernels import KERNELS
from tformer_jax.presets import PRESETS
from tformer_jax.registry import Registry, load_plugin, plugin_sum
from tformer_jax.tasks import TASKS, CausalLMTask
from tformer_jax.training.schedules import SCHEDULES

HERE = re.escape(__file__)


def part(base, **own):
    """A subclass."""
    return type("Part", (base,), own)


class Shape:
    """A family for these tests."""

    def area(self):
        raise NotImplementedError

    def edges(self):
        raise NotImplementedError

    def corners(self):
        raise NotImplementedError


@pytest.fixture
def shapes():
    return Registry("shape", family=Shape, needs=("area", ("edges", "corners")))


def test_a_name_is_found_and_a_misspelt_one_is_told_the_nearest(shapes):
    """What was registered is not there, or the error does not help."""

    @shapes.register("square")
    class Square(Shape):
        area = edges = lambda self: 1

    assert shapes.named("square", "shape.name") is shapes["square"] is Square and Square.name == "square"
    assert list(shapes) == ["square"] and len(shapes) == 1
    for wrong in ("sqare", None, ["square"], 3):
        with pytest.raises(ConfigError, match=r"^shape.name must be one of \['square'\], got "):
            shapes.named(wrong, "shape.name")
    with pytest.raises(ConfigError, match="got 'sqare'; did you mean 'square'"):
        shapes.named("sqare", "shape.name")


def test_a_name_registered_twice_names_both_places(shapes):
    """The second takes the place of the first in silence, or the error does not say where the other is."""

    def make():  # one line, as of a module that is imported anew
        return shapes.register("round")(type("Round", (Shape,), {"area": lambda self: 1, "edges": lambda self: 1}))

    make()
    again = make()
    assert shapes["round"] is again
    with pytest.raises(
        ConfigError, match=f"^the shape 'round' is registered twice: in {HERE}:(\\d+) and in {HERE}:"
    ) as e:
        shapes.register("round")(again)
    first, second = re.findall(f"{HERE}:(\\d+)", str(e.value))
    assert int(first) < int(second) and shapes.place("round") == f"{__file__}:{first}"


def test_what_a_thing_lacks_is_named(shapes):
    """The error would be an attribute's, or a NotImplementedError, in the middle of a run."""
    with pytest.raises(
        ConfigError, match=f"^the shape 'a' .{HERE}:\\d+. must define area, edges or corners, as Shape s"
    ):
        shapes.register("a")(type("A", (Shape,), {}))
    with pytest.raises(ConfigError, match="must be a subclass of Shape, got <class 'int'>"):
        shapes.register("a")(int)
    with pytest.raises(ConfigError, match="^the activation 'five' .* must be a function, got 5"):
        ACTIVATIONS.register("five")(5)
    with pytest.raises(ConfigError, match="must define at_embedding or at_patches or in_scores or turn"):
        nn.POSITIONS.register("lost")(type("Lost", (nn.PositionScheme,), {"turns": lambda self: 1}))
    with pytest.raises(ConfigError, match="must define make, as FeedForwardConfig says"):
        nn.FEED_FORWARDS.register("lost")(type("Lost", (nn.FeedForwardConfig,), {}))
    with pytest.raises(ConfigError, match="has an annotation that says nothing: name 'Nothing' is not defined"):
        given = {"__annotations__": {"size": "Nothing"}, "size": field(1), "turn": lambda self: 1}
        nn.POSITIONS.register("lost")(type("Lost", (nn.PositionScheme,), given))
    assert "lost" not in nn.POSITIONS and not shapes


@pytest.mark.parametrize(
    ("registry", "thing", "message"),
    [
        (KERNELS, lambda q, k, v: v, r"must take \(q, k, v, mask, bias, options, key\): too many positional"),
        (ACTIVATIONS, lambda x, y: x, r"must take \(x\): missing a required argument: 'y'"),
        (SCHEDULES, lambda t, total: t, r"must take \(t, warmup, total\): too many"),
        (PRESETS, lambda size: {}, r"must take \(\): missing a required argument: 'size'"),
        (nn.NORMS, part(nn.NormConfig, make=lambda self: 1), r"must define make\(self, model, axes=None\), as NormConfig"),
        (
            nn.POSITIONS,
            part(nn.PositionScheme, in_scores=lambda self, model, rngs: None),
            r"must define in_scores\(self, model, \*, bidirectional, rngs\), as PositionScheme says: got an unexpected",
        ),
        (nn.FEED_FORWARDS, part(nn.FeedForwardConfig, make=lambda self, model: 1), r"must define make\(self, model, \*, rng"),
        (
            nn.POSITIONS,
            part(nn.PositionScheme, turn=lambda self, heads, positions: heads, name="x", __annotations__={"name": "str"}),
            "must not have a field `name`, by which a config chooses it",
        ),
        (TASKS, part(CausalLMTask, prepared_loss=lambda self, model, batch: 1), r"must define prepared_loss\(self, model, "),
        (
            TASKS,
            part(CausalLMTask, mask=lambda self, batch: None),
            r"must define the static method mask\(batch\), as CausalLMTask says: missing a required argument: 'batch'",
        ),
        (
            TASKS,
            part(CausalLMTask, planned_fields=lambda cls, data: {}),
            r"must define the class method planned_fields\(data\), as .* says: missing a required argument: 'data'",
        ),
        (
            TASKS,
            part(CausalLMTask, model_fields=lambda self: {}),
            "must define the property model_fields, as .* says; it is a method",
        ),
        (TASKS, part(CausalLMTask, Config=object), "must have a Config that is a subclass of TaskConfig, got <class 'object"),
        (TASKS, part(CausalLMTask, DataConfig=dict), "must have a DataConfig that is a subclass of Component, got <class .dict"),
        (TASKS, part(CausalLMTask, Model=object), "must have a Model whose Config is a subclass of ModelConfig, got None"),
        (
            TASKS,
            part(CausalLMTask, Prediction=part(Component, how=field(dict), __annotations__={"how": "dict"})),
            "must have a Prediction whose field how is an integer, a number, .* to be a flag; it is <class 'dict'>",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_called_as_it_will_be_is_refused(registry, thing, message):
    """A run would end in a traceback: at its first step, or when it is asked to predict."""
    with pytest.raises(ConfigError, match=f"^the {registry.kind} 'odd' \\({HERE}:\\d+\\) {message}"):
        registry.register("odd")(thing)
    assert "odd" not in registry


def test_what_is_called_otherwise_and_fits_is_taken(shapes):
    """Whoever has more parameters, other names, or a function that tells no parameters, would be sent away."""
    taken = Registry("function", takes=("a", "b"))
    for number, function in enumerate((lambda *all: 1, lambda x, y, z=3: 1, max, dict.fromkeys)):
        taken.register(str(number))(function)
    assert len(taken) == 4


def test_a_method_may_be_of_another_kind_if_it_is_called_the_same_way():
    """Whoever needs no instance would have to name an argument that he does not use."""
    norm = part(nn.NormConfig, make=staticmethod(lambda model, axes=None: 1))
    task = part(CausalLMTask, mask=classmethod(lambda cls, batch: None), planned_fields=staticmethod(lambda data: {}))
    nn.NORMS.register("free")(norm)
    TASKS.register("free")(task)
    assert nn.NORMS["free"] is norm and TASKS["free"] is task


@pytest.mark.parametrize("name", [3, "", None, Shape])
def test_a_name_is_a_text(shapes, name):
    """The decorator without a name is taken for a decorator with one."""
    with pytest.raises(ConfigError, match="^the name of a shape must be a text, got "):
        shapes.register(name)


def test_a_class_has_one_name(shapes):
    """A config that was made with one name is read back with the other."""
    with pytest.raises(ConfigError, match=r"^the shape 'b' \(.*\) is 'a' already; make a subclass of it"):

        @shapes.register("b")
        @shapes.register("a")
        class Both(Shape):
            area = edges = lambda self: 1


def test_a_component_of_no_name_is_refused():
    """A subclass that nobody registered is trained, and restored as the class that it was made from."""

    class Mine(nn.POSITIONS["rotary"]):
        pass

    with pytest.raises(ConfigError, match="^Mine is not registered: a config could not name it"):
        Mine()


# Plugins ---------------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path):
    """`plugin(text)`: a file of it."""

    def plugin(text, name="idea"):
        file = tmp_path / f"{name}.py"
        file.write_text(textwrap.dedent(text))
        return file

    return plugin


def test_a_plugin_is_imported_once(plugin, monkeypatch):
    """Its names would be registered twice, by each way to write its path."""
    file = plugin("import sys\nsys.imported = getattr(sys, 'imported', 0) + 1\n")
    monkeypatch.setattr(sys, "imported", 0, raising=False)
    monkeypatch.chdir(file.parent)
    assert load_plugin(str(file)) is load_plugin("idea.py") is load_plugin("./idea.py")
    assert sys.imported == 1
    assert load_plugin("json") is sys.modules["json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name' ({file}, line 1)"),
        ("x = 1\ny = (\n", "SyntaxError: '(' was never closed ({file}, line 2)"),
        ("def f():\n    raise ValueError('one\\ntwo')\n\nf()\n", "ValueError: one two ({file}, line 2)"),
        ("import json\njson.loads('x')\n", "Expecting value: line 1 column 1 (char 0) ({file}, line 2)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 ({file}, line 2)"),
        (
            "from tformer_jax.functional.activations import ACTIVATIONS\nACTIVATIONS.register('relu')(abs)\n",
            "and in {file}:2; give one of them another name ({file}, line 2)",
        ),
    ],
)
def test_a_plugin_that_fails_says_so_in_one_line(plugin, text, message):
    """A traceback through the machinery of imports, or a module that is half imported and taken for whole."""
    file, before = plugin(text), set(sys.modules)
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            load_plugin(str(file))
        said = str(error.value)
        assert said.startswith(f"cannot import the plugin {file}: ") and "\n" not in said
        assert said.endswith(message.format(file=file))
    assert not any("plugin" in name for name in set(sys.modules) - before)


def test_a_plugin_that_is_not_there_is_named(plugin):
    """The error would be of Python's machinery of imports."""
    file = plugin("")
    assert len(plugin_sum(str(file))) == 64
    load_plugin(str(file))
    file.unlink()
    with pytest.raises(ConfigError, match=f"^the plugin {re.escape(str(file))} is not there: put it back"):
        load_plugin(str(file))
    with pytest.raises(
        ConfigError, match="^cannot import the plugin no.such: ModuleNotFoundError: No module named 'no'$"
    ):
        load_plugin("no.such")
    file = plugin("", "other")
    with pytest.raises(ConfigError, match="is no module; did you mean the file .*other.py?"):
        load_plugin(str(file.with_suffix("")))
    with pytest.raises(ConfigError, match=f"^the plugin {re.escape(str(file.parent))} is a folder; .* each: other.py$"):
        load_plugin(str(file.parent))
    with pytest.raises(
        ConfigError, match="^the plugin ../idea is neither a file, which ends in .py, nor the name of a m"
    ):
        load_plugin("../idea")
