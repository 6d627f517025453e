"""Imports only go downward through the layers of the design: read from the source, not guessed."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "erase"
LAYERS = {
    "__init__": 0,
    "errors": 0,
    "config": 0,
    "registry": 0,
    "record": 0,
    "core": 1,
    "models": 2,
    "data": 2,
    "tasks": 2,
    "methods": 3,
    "suites": 3,
    "metrics": 3,
    "training": 4,
    "evaluation": 4,
    "cli": 5,
    "__main__": 5,
}
PLUGINS = ("methods", "suites", "metrics")
ALLOWED_TO_PLUGINS = {
    "erase.tasks.protocol",
    "erase.tasks.method",
    "erase.tasks.denoising",
    "erase.data.prompts",
    "erase.data.prompt_table",
}
FILES = sorted(ROOT.rglob("*.py"))


def part_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path: Path) -> list[str]:
    """Every erase module that a file imports, at the top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "erase"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "erase":
            assert node.level == 0
            if node.module == "erase":
                found += [f"erase.{alias.name}" for alias in node.names]
            else:
                found.append(str(node.module))
    return found


def packages(path: Path) -> set[str]:
    """Every top-level package that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def name_of(path: Path) -> str:
    parts = ["erase", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(part for part in parts if part != "__init__") or "erase"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_downward(path: Path) -> None:
    part = part_of(name_of(path))
    for module in imported(path):
        target = part_of(module)
        if target in ("__init__", "__version__"):
            continue
        assert LAYERS[target] <= LAYERS[part], f"{name_of(path)} imports {module} from above"


@pytest.mark.parametrize(
    "path", [path for path in FILES if LAYERS.get(part_of(name_of(path))) == 0], ids=name_of
)
def test_the_bottom_layer_needs_no_library_but_yaml(path: Path) -> None:
    assert packages(path) <= {*sys.stdlib_module_names, "yaml", "erase"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_plugins_keep_to_themselves(path: Path) -> None:
    part = part_of(name_of(path))
    if part not in PLUGINS:
        return
    for module in imported(path):
        target = part_of(module)
        allowed = LAYERS.get(target, 0) <= 1 or module in ALLOWED_TO_PLUGINS
        assert allowed, f"the plug-in {name_of(path)} imports {module}"


def test_every_part_has_a_layer() -> None:
    assert {part_of(name_of(path)) for path in FILES} <= set(LAYERS)
