"""The config files that there are, how one is loaded, and what it says of its presets."""

import difflib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from tformer_jax.config import ConfigError
from tformer_jax.config.documentation import first_sentence, summary

_FOLDER = Path(__file__).parent / "configs"


def files() -> list[Path]:
    """The config files that there are."""
    has_one = re.compile("^(get_config = |def get_config)", re.M).search
    return [file for file in sorted(_FOLDER.glob("*.py")) if has_one(file.read_text("utf-8"))]


def shown(file: Path) -> str:
    """A path as it can be pasted from here."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_absolute() and file.is_relative_to(here) else file)


def example() -> str:
    """A config file and its preset, as --config has them."""
    return f"{shown(_FOLDER / 'causal_lm.py')}:tiny"


def check_there(file: str) -> None:
    """Raises a ConfigError if a config file is not there; `file`: as --config has it."""
    name = file.partition(":")[0]
    if Path(name).is_file():
        return
    if not name:
        raise ConfigError(f"the config is an empty text; give --config=FILE.py:PRESET, such as {example()}")
    stems = {known.stem: shown(known) for known in files()}
    near = difflib.get_close_matches(Path(name).stem, stems, n=1, cutoff=0.6)
    meant = f"; did you mean {stems[near[0]]}?" if near else "; --help lists those that are"
    raise ConfigError(f"the config file {name} is not there{meant}")


def config_module(file: str) -> ModuleType:
    """Returns a config file, loaded; `file`: as --config has it, with a preset or without.

    Raises:
      ConfigError: it is not there, or no Python file.
      Whatever it raises itself.
    """
    check_there(file)
    path = Path(file.partition(":")[0])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise ConfigError(f"{path} is not a Python file; --config must be FILE.py or FILE.py:PRESET")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def presets_of(module: ModuleType) -> dict[str, str]:
    """Returns the presets of a config file, each with the first sentence about it.

    This stands under "Presets:" in the file's docstring, or else in that of the preset's function.
    """
    said: dict[str, str] = {}
    names: list[str] = []
    for line in (module.__doc__ or "").partition("\nPresets:\n")[2].splitlines():
        if entry := re.match(r"  (\w+(?:, \w+)*)  +(\S.*)", line):
            names = entry[1].split(", ")
            said |= dict.fromkeys(names, entry[2])
        elif line.startswith("   "):
            said |= {name: f"{said[name]} {line.strip()}" for name in names}
        else:
            break
    made: dict[str, Any] = getattr(getattr(module, "get_config", None), "presets", dict.fromkeys(said))
    return {name: first_sentence(said[name]) if name in said else summary(make) for name, make in made.items()}
