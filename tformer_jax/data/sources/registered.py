"""The registry of sources of one kind, and how a source is given what it asks for."""

import ast
import dataclasses
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType
from typing import Any

from ...config import Component, ConfigError, build, hints_of, options, plain_kinds
from ...registry import Registry
from ..files import MOST_TEXT_BYTES, DataError
from ..unchanged import code_of, contents
from .streams import Stream

SPLITS = ("train", "validation", "test")
_NOT_GIVEN = inspect.Parameter.empty
Say = Callable[[str], None]


class Sources(Registry[Callable[..., Any]]):
    """Functions that give examples, by the name that `data.source` has for them; or, of texts, examples by split.

    One that gives splits says which in an attribute `splits`, as ("train", "test"): then a config that holds out what the
    source has itself is refused before anything is read.

    A parameter that is called like a field of the `data` section, such as `path`, has its value; `say` is a function
    that is told what a person should know, a line each; all others are set by `data.source_options`, a text such as
    "count=500,easy=True", and are checked against their annotations.
    """

    def __init__(self, kind: str, gives: type, whole: type | None = None):
        """`gives`: what a source returns an iterable of, or one of; `whole`: what it may return in place of all of them."""
        super().__init__(kind)
        self.gives, self.whole = gives, whole

    def check(self, section: Component, inputs: Iterable[str]) -> None:
        """Refuses a section that does not give its source what that needs, or gives what it does not read.

        Args:
          section: with `source`, `source_options`, and the fields in `inputs`.
          inputs: fields that are for sources alone, and None where the source has no such parameter.

        Raises:
          ConfigError: by the field's name.
        """
        asked = _parameters(self.named(section.source, "source"))
        for name in inputs:
            value, needed = getattr(section, name), name in asked and asked[name].default is _NOT_GIVEN
            if needed if value is None else name not in asked:
                takers = {n: p[name] for n, source in self.items() if name in (p := _parameters(source))}
                if value is None:
                    takers = {section.source: asked[name]}
                always = all(p.default is _NOT_GIVEN for p in takers.values())
                raise ConfigError(
                    f"{name} goes with data.source={' or '.join(map(repr, takers))}{', and is needed there' * always}; "
                    f"got {name}={value!r} with source={section.source!r}"
                )
        self._options(section)

    def read(self, section: Component, say: Say = lambda line: None) -> Any:
        """Returns what the source of a section gives: a list, unless it is one thing.

        Raises:
          DataError: the data cannot be read or fetched, have more text than memory should hold, or are not of this kind
            (says where the source is).
        """
        found = self._found(section, say)
        return found if isinstance(found, self.gives) else list(self._held(section, found))

    def streams(self, section: Component, say: Say = lambda line: None) -> Any:
        """Returns what the source of a section gives, a `Stream` for each split: each example is checked when its turn comes.

        What has no splits is "train". What a source gives as a generator, which goes once, is asked of it anew for every
        pass. What it gives in place of all of them, see `whole`, is returned as it is.

        Raises:
          DataError: the data cannot be read or fetched, or have other splits than "train", "validation" and "test"; while
            they are iterated, also as `read`.
        """

        def stream(name: str, part: Any) -> Stream[Any]:
            passes = itertools.chain([part], (_by_split(self._found(section))[name] for _ in itertools.count()))
            again = (lambda: next(passes)) if isinstance(part, Iterator) else (lambda: part)
            return Stream(lambda: self._checked(section, again()), getattr(part, "files", ()))

        found = self._found(section, say)
        if self.whole is not None and isinstance(found, self.whole):
            return found
        found = _by_split(found)
        if "train" not in found or not {*found} <= {*SPLITS}:
            raise DataError(
                f"the {self.kind} {section.source!r} ({self.place(section.source)}) must give 'train', and may give "
                f"'validation' and 'test', got {', '.join(map(repr, found)) or 'nothing'}"
            )
        return {name: stream(name, found[name]) for name in SPLITS if name in found}

    def key(self, section: Component, streams: Mapping[str, Stream[Any]]) -> dict[str, str]:
        """Returns what the examples of streams follow from: the "files" that they read, and the "source" that reads them.

        Where nobody knows the files, "source" is of the examples themselves, for which all are read.
        """
        if not all(stream.files for stream in streams.values()):
            whole = hashlib.sha256()
            for example in itertools.chain.from_iterable(streams.values()):
                whole.update(repr(tuple(example)).encode("utf-8", "surrogatepass"))
            whole.update(repr([*streams]).encode())
            return {"source": whole.hexdigest()}
        source = self[section.source]
        given = {name: getattr(section, name, None) for name in _parameters(source) if name != "say"}
        code = [code_of(source), code_of(type(section).streams)]
        about = [self.kind, section.source, section.source_options, given, code]
        files = [file for stream in streams.values() for file in stream.files]
        return {"files": contents(list(dict.fromkeys(files))), "source": repr(about)}

    def _found(self, section: Component, say: Say = lambda line: None) -> Any:
        """Returns what the source of a section gives, as it is."""
        source = self.named(section.source, "source")
        given = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)} | {"say": say}
        return source(**{name: given[name] for name in _parameters(source) if name in given}, **self._options(section))

    def _checked(self, section: Component, found: Any) -> Iterator[Any]:
        """Yields each example, once it is known to be of this kind."""
        place, gives = self.place(section.source), self.gives
        wanted = f"the {self.kind} {section.source!r} ({place}) must give {gives.__name__}s"
        hints = {name: options(hint) for name, hint in hints_of(gives).items()}
        plain = [(name, kinds) for name, kinds in hints.items() if all(isinstance(kind, type) for kind in kinds)]
        for one in [found] if isinstance(found, gives) or not isinstance(found, Iterable) else found:
            if not isinstance(one, gives):
                raise DataError(f"{wanted}, got {repr(one)[:60]}")
            for name, kinds in plain:
                if not isinstance(value := getattr(one, name), kinds):
                    kinds = " or ".join(kind.__name__ for kind in kinds)
                    raise DataError(f"{wanted} whose {name} is {kinds}, got {repr(value)[:60]}")
            yield one

    def _held(self, section: Component, found: Any) -> Iterator[Any]:
        """Yields each example of those that are all held in memory, as long as these are not too many."""
        size = 0
        for one in self._checked(section, found):
            size += sum(len(text) for text in one if isinstance(text, str))
            if size > MOST_TEXT_BYTES:
                raise DataError(
                    f"data.source={section.source!r} has more than {MOST_TEXT_BYTES:,} characters, the most that are held "
                    "in memory: give fewer files"
                )
            yield one

    def _options(self, section: Component) -> dict[str, Any]:
        """Returns the values of the parameters that are called like no field of the section."""
        known = {field.name for field in dataclasses.fields(section)} | {"say"}
        own = {n: p for n, p in _parameters(self[section.source]).items() if n not in known}
        fields = [(name, parameter.annotation, _field(parameter)) for name, parameter in own.items()]
        asked = dataclasses.make_dataclass("Options", fields, kw_only=True)
        return vars(build(asked, _parsed(section.source_options, own), "source_options"))


def _by_split(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {"train": found}


def _parameters(source: Callable) -> Mapping[str, inspect.Parameter]:
    found = inspect.signature(source, eval_str=True).parameters
    return {n: p for n, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _field(of: inspect.Parameter) -> Any:
    return dataclasses.field() if of.default is _NOT_GIVEN else dataclasses.field(default_factory=lambda: of.default)


def _parsed(text: str | None, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Returns the values in "a=1,b=x", by name, each once."""
    values: dict[str, Any] = {}
    for part in text.split(",") if text is not None else ():
        name, equals, value = (x.strip() for x in part.partition("="))
        if not (name and equals) or name in values:
            raise ConfigError(f"source_options must read 'name=value,...', each name once, got {text!r}")
        values[name] = _value(value, parameters[name].annotation if name in parameters else str)
    return values


def _value(text: str, hint: Any) -> Any:
    """Returns a number, True, False or None where an annotation allows it, or there is none; else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    kinds = (int, float, bool, NoneType) if hint is _NOT_GIVEN else plain_kinds(hint) or ()
    return value if type(value) in kinds or type(value) is int and float in kinds else text
