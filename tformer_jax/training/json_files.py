"""Files of JSON in the directories of runs and sweeps."""

import json
from pathlib import Path
from typing import Any, TypeVar

from .directories import RunError

# As the JSON standard calls what Python reads as these.
_JSON_NAMES = {dict: "an object", list: "an array", str: "a string"}
_Kind = TypeVar("_Kind")


def read_json(file: Path, kind: type[_Kind] = dict) -> _Kind:
    """The value in a JSON file, an object unless `kind` says otherwise.

    Raises:
      RunError: the file cannot be read, holds no JSON, or a value of another kind.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of UTF-8 too; of brackets within brackets
        raise RunError(f"{file} is damaged: {error}") from None
    if not isinstance(value, kind):
        raise RunError(f"{file} is damaged: it must hold {_JSON_NAMES[kind]}, and holds {shortened(value)}")
    return value


def shortened(value: Any, most: int = 40) -> str:
    """Returns a value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}..."
