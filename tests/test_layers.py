"""Imports only go downward through the rooms of the house: read from the source, not guessed.

docs/architecture.md draws the rooms; a room may import those of lower ranks, and itself.
"""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "erase"
RANKS = {
    "errors": 0,
    "files": 0,
    "reading": 0,
    "registry": 0,
    "config": 1,
    "core": 1,
    "scoring": 1,
    "artifacts": 2,
    "runs": 2,
    "data": 3,
    "models": 3,
    "tasks": 4,
    "methods": 5,
    "suites": 5,
    "metrics": 5,
    "classifier_metrics": 5,
    "attacks": 5,
    "judges": 5,
    "render": 6,
    "report": 6,
    "training": 7,
    "evaluation": 7,
    "embedded": 8,
    "export": 8,
    "attack": 8,
    "comparison": 9,
    "api": 10,
    "__init__": 11,
    "cli": 11,
    "__main__": 11,
}
SINGLE = {"errors", "files", "reading", "registry"}  # files, which may import one another
PLUGINS = {
    "methods": {
        "erase.tasks.protocol",
        "erase.tasks.method",
        "erase.tasks.denoising",
        "erase.tasks.fisher",
    },
    "suites": {
        "erase.data.prompts",
        "erase.data.prompt_table",
        "erase.data.emoji",
        "erase.data.emoji_pairs",
    },
    "metrics": set(),
    "classifier_metrics": set(),
    "attacks": {
        "erase.tasks.attack",
        "erase.tasks.partway",
        "erase.tasks.prompts",
        "erase.tasks.protocol",
    },
}
"""What each kind of plug-in may import of the rooms above `scoring`."""
WITHOUT_TORCH = ("errors", "files", "reading", "registry", "config", "scoring")
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = ["erase", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(part for part in parts if part != "__init__") or "erase"


MODULES = {name_of(path): path for path in FILES}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path: Path) -> set[str]:
    """Every erase module that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "erase"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "erase":
            assert node.level == 0
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in whole}
    return found - {"erase"}  # its version


def packages(path: Path) -> set[str]:
    """Every top-level package that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_downward(path: Path) -> None:
    room = room_of(name_of(path))
    for module in imported(path):
        other = room_of(module)
        if other == room or {room, other} <= SINGLE:
            continue
        lower = RANKS[other] < RANKS[room] or room == "__main__"
        assert lower, f"{name_of(path)} imports {module}, which is not below it"


def test_no_module_imports_itself_through_others() -> None:
    graphlib.TopologicalSorter({name: imported(path) for name, path in MODULES.items()}).prepare()


@pytest.mark.parametrize(
    "path", [path for path in FILES if room_of(name_of(path)) in WITHOUT_TORCH], ids=name_of
)
def test_the_lower_rooms_need_no_torch(path: Path) -> None:
    room = room_of(name_of(path))
    numbers = {"numpy", "scipy"} if room == "scoring" else set()
    assert packages(path) <= {*sys.stdlib_module_names, "msgspec", "yaml", "erase", *numbers}


@pytest.mark.parametrize(
    "path", [path for path in FILES if room_of(name_of(path)) in PLUGINS], ids=name_of
)
def test_plugins_keep_to_themselves(path: Path) -> None:
    room = room_of(name_of(path))
    for module in imported(path):
        allowed = RANKS[room_of(module)] <= 1 or module in PLUGINS[room]
        assert allowed, f"the plug-in {name_of(path)} imports {module}"


def test_every_room_has_a_rank() -> None:
    assert {room_of(name_of(path)) for path in FILES} <= set(RANKS)
