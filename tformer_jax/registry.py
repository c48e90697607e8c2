"""Registries of what a config chooses by name, and plugins: files outside the package that add to them."""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Generic, TypeVar

from .config import Component, ConfigError, check_choice, hints_of

_T = TypeVar("_T")


class Registry(Mapping[str, _T], Generic[_T]):
    """The things of one kind, by the name that a config gives them.

        POSITIONS: Registry[type[PositionScheme]] = Registry("position scheme", family=PositionScheme, needs=("make",))

        @POSITIONS.register("rotary")
        class Rotary(PositionScheme): ...

    Attributes:
      kind: what one of them is called.
    """

    def __init__(
        self, kind: str, *, takes: Sequence[str] | None = None, family: type | None = None,
        needs: Sequence[str | tuple[str, ...]] = (), lacks: Callable[[_T], str | None] = lambda thing: None,
        then: Callable[[str, _T], None] = lambda name, thing: None,
    ):  # fmt: skip
        """Args:
        kind: what one of them is called, for messages.
        takes: of functions, what each is called with, in order; None: that differs.
        family: the class that all are subclasses of; None: they are functions. A field of a config that is annotated
          with a family of components is chosen by name. Methods that it has must take what its own take.
        needs: methods or attributes of the family that each must define itself; of some together, one at least.
        lacks: says what else one of the family lacks, as "must ..."; None: nothing.
        then: called with the name of each, and itself.
        """
        self.kind, self._takes, self._family, self._lacks, self._then = kind, takes, family, lacks, then
        self._needs = [(names,) if isinstance(names, str) else names for names in needs]
        self._things: dict[str, _T] = {}
        self._places: dict[str, str] = {}
        if family is not None and issubclass(family, Component):
            family.registry = self

    def register(self, name: str) -> Callable[[_T], _T]:
        """Registers what is decorated under a name.

        Raises:
          ConfigError: the name is no text or is taken (says where by), or the thing lacks something (says what).
        """
        frame = inspect.currentframe().f_back
        here = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if not isinstance(name, str) or not name or "\0" in name:
            raise ConfigError(f"the name of a {self.kind} must be a text, got {name!r}")

        def decorate(thing: _T) -> _T:
            if lacking := self._lacking(thing):
                raise ConfigError(f"the {self.kind} {name!r} ({here}) {lacking}")
            if self._places.setdefault(name, here) != here:  # the same place again: its module is imported anew
                raise ConfigError(
                    f"the {self.kind} {name!r} is registered twice: in {self._places[name]} and in {here}; "
                    "give one of them another name"
                )
            if isinstance(thing, type):
                if (other := vars(thing).get("name")) != name and self._things.get(other) is thing:
                    raise ConfigError(f"the {self.kind} {name!r} ({here}) is {other!r} already; make a subclass of it")
                thing.name = name
            self._things[name] = thing
            self._then(name, thing)
            return thing

        return decorate

    def _lacking(self, thing: Any) -> str | None:
        if self._family is None:
            if not callable(thing):
                return f"must be a function, got {thing!r}"
            why = None if self._takes is None else _refuses(thing, self._takes, ())
            return f"must take ({', '.join(self._takes)}): {why}" if why else None
        if not (isinstance(thing, type) and issubclass(thing, self._family)):
            return f"must be a subclass of {self._family.__name__}, got {thing!r}"
        own = {n for n in dir(thing) if getattr(thing, n, None) is not getattr(self._family, n, None)}
        missing = [" or ".join(names) for names in self._needs if not own.intersection(names)]
        if missing:
            return f"must define {', '.join(missing)}, as {self._family.__name__} says"
        try:
            hints_of(thing)
        except NameError as error:
            return f"has an annotation that says nothing: {error}"
        if issubclass(thing, Component) and "name" in {of.name for of in dataclasses.fields(thing)}:
            return "must not have a field `name`, by which a config chooses it"
        wrong = (_called_otherwise(self._family, thing, name) for name in sorted(own))
        return next(filter(None, wrong), None) or self._lacks(thing)

    def named(self, name: Any, where: str) -> _T:
        """Returns the thing of a name.

        Args:
          name: as a config has it.
          where: the field that has it, for the message.

        Raises:
          ConfigError: there is none (lists the names, and suggests the nearest).
        """
        check_choice(where, name, self)
        return self._things[name]

    def place(self, name: str) -> str:
        """Returns where the thing of a name is registered, as FILE:LINE, for messages."""
        return self._places[name]

    def __getitem__(self, name: str) -> _T:
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


def _refuses(function: Callable, given: Sequence[str], named: Sequence[str]) -> str | None:
    """Returns why a function cannot be called like that, with arguments of these names; None if it can, or nobody knows."""
    try:
        inspect.signature(function).bind(*given, **dict.fromkeys(named))
    except TypeError as error:
        return str(error)
    except ValueError:  # of what is not written in Python
        return None
    return None


_METHODS = {FunctionType: "", staticmethod: "the static method ", classmethod: "the class method "}


def _called_otherwise(family: type, thing: type, name: str) -> str | None:
    """Returns what is wrong with an attribute that cannot be used as that of the class that it is made from; None: nothing.

    Each class on the way to the family may be the one whose code uses it.
    """
    mine, made_from = inspect.getattr_static(thing, name), thing.__mro__[1 : thing.__mro__.index(family) + 1]
    others = [of for of in made_from if not name.startswith("_") and vars(of).get(name, mine) is not mine]
    return next(filter(None, (_differs(of, thing, name) for of in others)), None)


def _differs(base: type, thing: type, name: str) -> str | None:
    """Returns why an attribute of `thing` cannot stand for that of `base`; None: it can, or nobody knows."""
    theirs, mine = vars(base)[name], getattr(thing, name)
    is_method = inspect.isroutine(mine)
    if isinstance(theirs, property) and is_method:
        return f"must define the property {name}, as {base.__name__} says; it is a method"
    if type(theirs) not in _METHODS or not (is_method or isinstance(mine, property)):
        return None
    asked = _unannotated(getattr(base, name))
    said = f"must define {_METHODS[type(theirs)]}{name}{asked}, as {base.__name__} says"
    if not is_method:
        return f"{said}; it is a property"
    if isinstance(theirs, FunctionType):  # it is called of an instance
        asked = asked.replace(parameters=[*asked.parameters.values()][1:])
        mine = mine.__get__(object()) if inspect.isfunction(inspect.getattr_static(thing, name)) else mine
    fixed = [p for p in asked.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    least = [p for p in fixed if p.default is p.empty]
    reasons = []
    for given in (least, fixed):  # what has a default may be asked for, or left out
        named = [p.name for p in given if p.kind == p.KEYWORD_ONLY]
        reasons.append(_refuses(mine, [p.name for p in given if p.name not in named], named))
    return f"{said}: {reasons[0]}" if all(reasons) else None


def _unannotated(function: Callable) -> inspect.Signature:
    return inspect.Signature([p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()])


_loaded: dict[str, ModuleType] = {}


def load_plugin(plugin: str) -> ModuleType:
    """Imports a plugin, once: what it registers is there from then on.

    Args:
      plugin: a file, which ends in .py, or the name of a module that Python finds.

    Raises:
      ConfigError: it is not there, or fails to import (says the last line of its traceback, and where it is raised).
    """
    file = plugin_file(plugin)
    known = plugin if file is None else str(file)
    if known not in _loaded:
        try:
            _loaded[known] = importlib.import_module(plugin) if file is None else _executed(file)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"cannot import the plugin {plugin}: {_said(error, file)}") from None
    return _loaded[known]


def _executed(file: Path) -> ModuleType:
    """A file, imported as a module of a name that no other has."""
    name = f"tformer_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def plugin_file(plugin: str) -> Path | None:
    """Returns the file of a plugin that is one, by its whole path; None of a module.

    Raises:
      ConfigError: it is not there.
    """
    if not plugin.endswith(".py"):
        if Path(f"{plugin}.py").is_file():
            raise ConfigError(f"the plugin {plugin} is no module; did you mean the file {plugin}.py?")
        if Path(plugin).is_dir() and not (Path(plugin) / "__init__.py").is_file():
            files = ", ".join(sorted(file.name for file in Path(plugin).glob("*.py"))) or "there is no .py file in it"
            raise ConfigError(f"the plugin {plugin} is a folder; name a file in it, one --plugin each: {files}")
        if not all(part.isidentifier() for part in plugin.split(".")):
            raise ConfigError(f"the plugin {plugin} is neither a file, which ends in .py, nor the name of a module")
        return None
    file = Path(plugin).resolve()
    if not file.is_file():
        raise ConfigError(
            f"the plugin {plugin} is not there: put it back, or say where it is now, with --plugin when it trains, or "
            "in the config.json of a run"
        )
    return file


def plugin_sum(plugin: str) -> str:
    """Returns the SHA-256 of a plugin's file; of a module, that of the file that it was imported from.

    Raises:
      ConfigError: see `load_plugin`.
    """
    file = plugin_file(plugin) or getattr(load_plugin(plugin), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else "none"


def _said(error: BaseException, file: Path | None) -> str:
    """The last line of a traceback, and the last place in it that is the plugin's own, or else anybody's."""
    said = error if isinstance(error, ConfigError) else traceback.format_exception_only(error)[-1]
    said = " ".join(str(said).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{said} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file is not None and Path(frame.filename) == file]
    importing = (__file__, importlib.__file__, "<frozen importlib")
    found = own or [frame for frame in frames if not frame.filename.startswith(importing)]
    return f"{said} ({found[-1].filename}, line {found[-1].lineno})" if found else said
