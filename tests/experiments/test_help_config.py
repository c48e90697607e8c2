"""`--help_config` against the dataclasses: every field of a config with its value, its sentence and its choices."""

import dataclasses
import functools
import importlib
import re
import shlex
import typing

import pytest

from experiments import cli
from experiments.help_config import fields_page
from tformer_jax.config import ConfigError, component_of, kind_of
from tformer_jax.config.documentation import first_sentence, sentence_of, summary
from tformer_jax.tasks import TASKS
from tformer_jax.training.experiment import section_classes

OURS = sorted(name for name, task in TASKS.items() if task.__module__.startswith("tformer_jax."))


def preset(task):
    return importlib.import_module(f"experiments.configs.{task}").get_config("tiny").to_dict()


def members(cls):
    """The classes that a config may choose in a place, by name; of what is no family, that one."""
    registry = getattr(cls, "registry", None)
    found = {None: cls} if registry is None else dict(registry)
    return {name: one for name, one in found.items() if one.__module__.startswith("tformer_jax.")}


def walked(cls, table, where):
    """(name, class, field, value) of each field that a config has, of the components that it chooses."""
    one = members(cls)[table["name"] if getattr(cls, "registry", None) is not None else None]
    for of in dataclasses.fields(one):
        inner = component_of(typing.get_type_hints(one)[of.name])
        if inner is not None:
            yield from walked(inner, table[of.name], f"{where}.{of.name}")
        else:
            yield f"{where}.{of.name}", one, of, table.get(of.name, ...)


def fields_of_config(task):
    config = preset(task)
    return [row for name, cls in section_classes(TASKS[task]).items() for row in walked(cls, config[name], name)]


def every_field(cls, where):
    """(name, class, field) of each field of each component that could be chosen."""
    for one in members(cls).values():
        for of in dataclasses.fields(one):
            inner = component_of(typing.get_type_hints(one)[of.name])
            yield from [(f"{where}.{of.name}", one, of)] if inner is None else every_field(inner, f"{where}.{of.name}")


def blocks(page):
    """What a page says of each field, by its name, on one line; in "[...]" its notes."""
    found = re.findall(r"^  ((?:--config\.|[a-z]).*)\n((?:      .*\n?)*)", page, re.M)
    names = [re.sub("=.*", "", head.rpartition("--config.")[2]) for head, _ in found]
    return {name: (head, " ".join(body.split())) for name, (head, body) in zip(names, found, strict=True)}


def is_said_of(text, name, cls):
    """Whether some docstring of a class says this of a field, after its name and a colon."""
    docstrings = [" ".join((base.__doc__ or "").split()) for base in cls.__mro__]
    return any(re.search(rf"\b{name}(, \w+)*: {re.escape(text)}", docstring) for docstring in docstrings)


@pytest.mark.parametrize("task", OURS)
def test_every_field_is_there_with_its_sentence(task, monkeypatch):
    """A field would be found in the source alone, or have the words of another one."""
    monkeypatch.setenv("COLUMNS", "80")
    page = fields_page(preset(task))
    said = blocks(re.sub(r"^ {8}.*\n", "", page, flags=re.M))  # without what is said of choices
    fields = fields_of_config(task)
    assert len(fields) > 60 and all(len(line) <= 80 or len(line.split()) == 1 for line in page.splitlines())
    for name, cls, of, _ in fields:
        _, body = said[name]
        sentence = re.sub(r" \[[^\[]*(\[[^\[]*)*\]$", "", f" {body}").strip()
        assert sentence and is_said_of(sentence, of.name, cls), (name, body)
    chosen = {name for name, (head, _) in said.items() if name.endswith(".name") and head.startswith("--config.")}
    others = said.keys() - {name for name, *_ in fields} - chosen
    assert others == {"precision", "model.init"} | ({"model.output"} if "output" in preset(task)["model"] else set())


@pytest.mark.parametrize("task", OURS)
def test_every_field_of_every_choice_is_found_by_its_name(task):
    """What another component has would be found by nobody who does not know which it is."""
    found = functools.cache(lambda word, config=preset(task): blocks(fields_page(config, word)))
    for section, cls in section_classes(TASKS[task]).items():
        for name, one, of in every_field(cls, section):
            assert name in found(of.name), f"{name} of {one}"


@pytest.mark.parametrize("task", OURS)
def test_every_field_has_a_sentence_that_stands_by_itself(task):
    """A person would be sent to the source: "see there"."""
    for section, cls in section_classes(TASKS[task]).items():
        for name, one, of in every_field(cls, section):
            assert re.match(r"(?!see |likewise|\()..........", sentence_of(one, of.name)), f"{name} of {one}"
            assert summary(one), one


@pytest.mark.parametrize("task", OURS)
def test_what_is_shown_is_the_config(task, here, monkeypatch):
    """A line that is pasted would set another value than the config has, or none."""
    module, reached = importlib.import_module("experiments.train"), []
    monkeypatch.setattr(module, "main", lambda: reached.append(cli.config()))
    config = f"--config=experiments/configs/{task}.py:tiny"
    lines = re.findall(r"^  (--config\..*)", fields_page(preset(task)), re.M)
    assert here("train", config, "--workdir=a").returncode == 0
    result = here("train", config, "--workdir=a", *(word for line in lines for word in shlex.split(line)))
    assert result.returncode == 0, result.stderr
    assert reached[0] == reached[1] and len(lines) > 60


def test_flags_and_choices_are_applied(here):
    """A person would read of the preset, and not of the config that the command has."""
    flags = (
        "--config.model.positions.name=relative",
        "--config.optimizer.learning_rate=0.5",
        "--config.task.init_from=x",
    )
    page = here("train", "--config=experiments/configs/translation.py:tiny", *flags, "--help_config").stdout
    said = blocks(page)
    assert said["optimizer.learning_rate"][0] == "--config.optimizer.learning_rate=0.5"
    assert said["model.positions.name"][0] == "--config.model.positions.name=relative"
    assert "model.positions.num_buckets" in said and "model.positions.base" not in said


@pytest.mark.parametrize("task", OURS)
def test_choices_and_defaults_are_said(task):
    """A person would have to try what a field may be, or could not tell a preset's choice from the usual one."""
    said = blocks(fields_page(preset(task)))
    for name, cls, of, value in fields_of_config(task):
        if value is ...:  # no flag sets it
            continue
        _, body = said[name]
        literal = typing.get_args(typing.get_type_hints(cls)[of.name])
        kind = kind_of(of)
        choices = [*(kind.among or ()), *(kind.wanted.choices if kind.wanted else ())]
        choices += [x for x in literal if isinstance(x, str)]
        assert all(re.search(rf"\[one of .*\b{re.escape(str(choice))}\b", body) for choice in choices), name
        usual = of.default if of.default_factory is dataclasses.MISSING else of.default_factory()
        if isinstance(usual, int | float | str) and not name.startswith(("model.init", "model.output")):
            assert ("default: " in body) == (usual != value), (name, body)
            assert usual == value or re.search(rf"default: {re.escape(str(usual))}\]$", body), (name, body)


def test_a_search_finds_names_and_sentences_in_any_case():
    """A field would be missed for a capital letter, or because the word is in its sentence alone."""
    config = preset("causal_lm")
    whole = blocks(re.sub(r"Has\s[\w,\s]+\.\n", "\n", fields_page(config)))  # without what is a field elsewhere
    for word in ("RATE", "layer", "Gemma", "never change", "T5's"):
        of_config = {name for name, (head, body) in whole.items() if word.lower() in f"{name} {body}".lower()}
        found = blocks(fields_page(config, word))
        assert {name for name, (head, _) in found.items() if not head.count("--config.") == 2} == of_config
        assert of_config
    (only,) = blocks(fields_page(config, "mask_rate")).items()
    assert only[1][0] == "--config.task.name=masked_lm --config.task.mask_rate=0.15"


@pytest.mark.parametrize(("word", "meant"), [("learning_rte", "learning_rate"), ("windw", "window"), ("qqqq", None)])
def test_a_search_that_finds_nothing_names_what_is_nearest(word, meant):
    """An empty page would look like a config without fields."""
    with pytest.raises(ConfigError, match="^no field has '.*' in its name or in what is said of it") as error:
        fields_page(preset("causal_lm"), word)
    assert "\n" not in str(error.value) and (f"did you mean {meant!r}?" in str(error.value)) == (meant is not None)


@pytest.mark.parametrize("broken", [{"task": None}, {"task": {"name": "no task"}}, {}])
def test_a_config_without_a_task_is_refused(broken):
    """A config file of one's own that is not whole would end in a traceback."""
    with pytest.raises(ConfigError, match=r"^task.name must be one of"):
        fields_page({name: table for name, table in preset("causal_lm").items() if name != "task"} | broken)


def test_sections_that_are_missing_have_their_defaults():
    """A config file of one's own that is not whole would end in a traceback."""
    page = fields_page({"task": {"name": "causal_lm"}, "model": 3})
    assert "--config.optimizer.name=adam" in page and "model.num_layers" in page


# Docstrings ------------------------------------------------------------------------------------


class Base:
    """Something.

    Attributes:
      first, second: of two, which
        go on.
      third: Of the base.

      Not of an entry: of nobody.

    Afterwards: more.
    """


class Derived(Base):
    """Has its own. With a second sentence.

    Attributes:
      third: its own (Smith et al., 2020): a: b.
    """


def test_entries_of_docstrings_are_read():
    """A sentence would be cut at its end of line, go on into other text, or be that of a base that says otherwise."""
    assert sentence_of(Derived, "first") == sentence_of(Derived, "second") == "of two, which go on."
    assert (sentence_of(Base, "third"), sentence_of(Derived, "third")) == (
        "Of the base.",
        "its own (Smith et al., 2020): a: b.",
    )
    assert sentence_of(Derived, "Afterwards") == sentence_of(Derived, "fourth") == ""


def test_first_sentences_are_found():
    """A number with a point, or an abbreviation, would end a sentence."""
    assert first_sentence("1.49 bits in 3 min.\nMore.") == "1.49 bits in 3 min."
    assert first_sentence("Of Smith et al. 2020, as they\nsay") == "Of Smith et al. 2020, as they say"
    assert first_sentence("One\n\nAnother.") == "One" and first_sentence("") == ""
    assert summary(Derived) == "Has its own."
    assert summary(dataclasses.make_dataclass("Plain", ["x"])) == ""
