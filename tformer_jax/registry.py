"""Registries of what a config chooses by name, and plugins: files outside the package that add to them."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from .config import Component, ConfigError, nearest

_T = TypeVar("_T")


class Registry(Mapping[str, _T], Generic[_T]):
    """The things of one kind, by the name that a config gives them.

        POSITIONS: Registry[type[PositionScheme]] = Registry("position scheme", family=PositionScheme, needs=("make",))

        @POSITIONS.register("rotary")
        class Rotary(PositionScheme): ...

    Attributes:
      kind: what one of them is called.
    """

    def __init__(self, kind: str, *, family: type | None = None, needs: Sequence[str] = ()):
        """Args:
          kind: what one of them is called, for messages.
          family: the class that all are subclasses of; None: they are functions. A field of a config that is annotated
            with a family of components is chosen by name.
          needs: methods or attributes of the family that each must define itself.
        """
        self.kind, self._family, self._needs = kind, family, tuple(needs)
        self._things: dict[str, _T] = {}
        if family is not None and issubclass(family, Component):
            family.registry = self

    def register(self, name: str) -> Callable[[_T], _T]:
        """Registers what is decorated under a name.

        Raises:
          ConfigError: the name is no text or is taken (says where by), or the thing lacks something (says what).
        """
        if not isinstance(name, str) or not name:
            raise ConfigError(f"the name of a {self.kind} must be a text, got {name!r}")

        def decorate(thing: _T) -> _T:
            if lacking := self._lacking(thing):
                raise ConfigError(f"the {self.kind} {name!r} ({place(thing)}) {lacking}")
            if (other := self._things.get(name)) is not None and place(other) != place(thing):
                raise ConfigError(
                    f"the {self.kind} {name!r} is registered twice: in {place(other)} and in {place(thing)}; "
                    "give one of them another name"
                )
            self._things[name] = thing
            if isinstance(thing, type):
                thing.name = name
            return thing

        return decorate

    def _lacking(self, thing: Any) -> str | None:
        if self._family is None:
            return None if callable(thing) else f"must be a function, got {thing!r}"
        if not (isinstance(thing, type) and issubclass(thing, self._family)):
            return f"must be a subclass of {self._family.__name__}, got {thing!r}"
        missing = [n for n in self._needs if getattr(thing, n, None) is getattr(self._family, n, None)]
        return f"must define {', '.join(missing)}, as {self._family.__name__} says" if missing else None

    def named(self, name: Any, where: str) -> _T:
        """Returns the thing of a name.

        Args:
          name: as a config has it.
          where: the field that has it, for the message.

        Raises:
          ConfigError: there is none (lists the names, and suggests the nearest).
        """
        if not isinstance(name, str) or name not in self._things:
            raise ConfigError(f"{where} must be one of {list(self)}, got {name!r}{nearest(str(name), self)}")
        return self._things[name]

    def __getitem__(self, name: str) -> _T:
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


def place(thing: Any) -> str:
    """Returns where a class or a function is written, as FILE:LINE, for messages."""
    thing = inspect.unwrap(thing)
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (TypeError, OSError):  # of C, or typed in
        return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', thing)}"


_loaded: dict[str, ModuleType] = {}


def load_plugin(plugin: str) -> ModuleType:
    """Imports a plugin, once: what it registers is there from then on.

    Args:
      plugin: a file, which ends in .py, or the name of a module that Python finds.

    Raises:
      ConfigError: it is not there, or fails to import (says the last line of its traceback, and where it is raised).
    """
    if plugin in _loaded:
        return _loaded[plugin]
    file = plugin_file(plugin)
    try:
        if file is None:
            _loaded[plugin] = importlib.import_module(plugin)
        else:
            name = f"tformer_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
            spec = importlib.util.spec_from_file_location(name, file)
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            _loaded[plugin] = module
    except Exception as error:
        raise ConfigError(f"cannot import the plugin {plugin}: {_said(error, file)}") from None
    return _loaded[plugin]


def plugin_file(plugin: str) -> Path | None:
    """Returns the file of a plugin that is one, None of a module.

    Raises:
      ConfigError: it is not there.
    """
    if not plugin.endswith(".py"):
        return None
    file = Path(plugin)
    if not file.is_file():
        raise ConfigError(f"the plugin {plugin} is not there: put it back, or give --plugin another file")
    return file


def plugin_sum(plugin: str) -> str:
    """Returns the SHA-256 of a plugin's file; of a module, that of the file that it was imported from.

    Raises:
      ConfigError: see `load_plugin`.
    """
    file = plugin_file(plugin) or getattr(load_plugin(plugin), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else "none"


def _said(error: Exception, file: Path | None) -> str:
    """The last line of a traceback, and the last place in it that is the plugin's own, or else anybody's."""
    last = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, ConfigError):
        last = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file is not None and Path(frame.filename) == file] or frames[-1:]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{last} ({error.filename}, line {error.lineno})"
    return f"{last} ({own[-1].filename}, line {own[-1].lineno})" if own else last
