"""Docstrings name only modules, classes and functions of erase that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "erase").rglob("*.py"))
NAMED = re.compile(r"`(erase(?:\s*\.\s*\w+)+)")


def module_file(parts: list[str]) -> Path | None:
    for file in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")):
        if file.is_file():
            return file
    return None


def defined(file: Path) -> set[str]:
    """What a module defines or imports at its top."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names


def exists(name: str) -> bool:
    parts = name.split(".")
    if module_file(parts):
        return True
    for length in range(len(parts) - 1, 1, -1):
        file = module_file(parts[:length])
        if file:
            return parts[length] in defined(file)
    return False


def test_the_look_up_tells_what_exists() -> None:
    assert exists("erase.core.meta")
    assert exists("erase.core.meta.meta_gradient")
    assert not exists("erase.core.meta.no_such_function")
    assert not exists("erase.no_such_room.meta")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_name_what_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                for name in re.findall(NAMED, text):
                    name = re.sub(r"\s", "", name)
                    assert exists(name), f"line {node.lineno} names {name}"
