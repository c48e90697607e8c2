"""Packages that some formats need, and the installed package does without."""

import importlib
from pathlib import Path
from types import ModuleType

from ..files import DataError


def needed(module: str, source: Path | str) -> ModuleType:
    """Imports a module when a source is read.

    Args:
      module: its name, of one of the packages of the extra `datasets`.
      source: what cannot be read without, for the message.

    Raises:
      DataError: it is not installed (says how it is).
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise DataError(f"{source} needs {package}: pip install tformer_jax[datasets]") from None
