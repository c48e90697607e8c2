"""Who imports whom, read from the source: no arrow runs back up, and no two files import each other."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "tformer_jax"

# A room imports rooms of a lower floor; those of the ground what `GROUND` says.
FLOORS = {
    "presets": 0, "config": 0, "registry": 0, "functional": 0, "progress": 0, "data": 0,
    "nn": 1,
    "models": 2,
    "decoding": 3, "interop": 3, "tasks": 3, "analysis": 3,
    "training": 4,
    "sweeps": 5,
    "experiments": 6,
}  # fmt: skip
GROUND = {
    "presets": {"registry"},
    "config": set(),
    "functional": {"registry"},
    "progress": set(),
    "registry": {"config"},
    "data": {"config", "registry", "progress"},
}

FILES = sorted(path for top in (PACKAGE, "experiments") for path in (ROOT / top).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> list[str]:
    """Every module that a file imports, anywhere in it, by absolute name; a name taken from a package
    is the submodule of that name where there is one."""
    here = module_name(path)
    package = here if path.name == "__init__.py" else here.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(up + ([base] if base else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append(inner if inner in MODULES else base)
    return found


def room(module: str) -> str:
    """The room of a module; "" for the package's own `__init__`, which holds names only."""
    parts = module.split(".")
    if parts[0] == "experiments":
        return "experiments"
    return parts[1] if len(parts) > 1 else ""


def internal(path: Path) -> list[str]:
    return [name for name in imports(path) if name.split(".")[0] in (PACKAGE, "experiments")]


def external(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - {PACKAGE, "experiments"} - set(sys.stdlib_module_names)


def of_room(name: str) -> list[Path]:
    return [path for module, path in MODULES.items() if room(module) == name]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_room_has_a_floor():
    """A room was added without saying here who may import it."""
    assert {room(module) for module in MODULES} - {""} <= set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_arrow_runs_back_up(path):
    """functional <- nn <- models <- tasks <- training <- sweeps <- experiments is broken by an import."""
    own = room(module_name(path))
    for name in internal(path):
        other = room(name)
        if own == "":
            assert other == "config", f"{label(path)} imports {name} as soon as the package is imported"
        elif other in ("", own):
            continue
        elif own in GROUND:
            assert other in GROUND[own], f"{label(path)} imports {name}"
        else:
            # Rooms of one floor stand side by side; the next test sees to it that they do not import each other.
            assert FLOORS[other] <= FLOORS[own], f"{label(path)} imports {name}"


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """One line for each arrow that closes a circle."""
    done, path, found = set(), [], []

    def visit(node):
        if node in path:
            found.append(" -> ".join([*path[path.index(node) :], node]))
        elif node not in done:
            path.append(node)
            for other in sorted(graph.get(node, ())):
                visit(other)
            path.pop()
            done.add(node)

    for node in sorted(graph):
        visit(node)
    return found


def test_no_two_files_import_each_other():
    """Files import each other in a circle: neither can be read, or lifted out, alone."""
    assert not cycles({module: set(internal(path)) - {module} for module, path in MODULES.items()})


def test_no_two_rooms_import_each_other():
    """Two rooms lean on each other."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if room(module):
            graph.setdefault(room(module), set()).update({room(name) for name in internal(path)} - {room(module), ""})
    assert not cycles(graph)


def test_the_search_for_cycles_finds_one():
    """The two tests above could not fail."""
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a -> b -> c -> a"]
    assert not cycles({"a": {"b", "c"}, "b": {"c"}})


def test_presets_are_data_alone():
    """What a published model is would be computed, and could change with something else."""
    (path,) = of_room("presets")
    assert set(imports(path)) <= {"collections.abc", "typing", "tformer_jax.registry"}
    tree = ast.parse(path.read_text())
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert {name for name in called - own if not name.startswith(("Registry", "PRESETS.register"))} <= {
        "dict",
        "_PUBLISHED.items",
    }


@pytest.mark.parametrize("path", of_room("functional"), ids=label)
def test_functional_imports_jax_alone(path):
    """A pure function needs more than jax (jaxtyping and numpy come with its annotations and with jax)."""
    assert external(path) <= {"jax", "jaxtyping", "numpy"}


@pytest.mark.parametrize(
    "path", of_room("data") + of_room("config") + of_room("presets") + of_room("progress"), ids=label
)
def test_the_ground_imports_no_jax(path):
    """Reading data, or a configuration, starts an accelerator."""
    assert not external(path) & {"jax", "jaxlib", "flax", "optax", "orbax", "jaxtyping"}
