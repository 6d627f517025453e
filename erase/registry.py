"""Plug-ins found by file name: one file in a plug-in package is one method, suite or metric.

Listing and describing plug-ins reads file names and docstrings only, so `erase --help` needs no
torch; `load` imports the one plug-in that is asked for.

A plug-in module holds, at its top level, what its package's docstring asks for. Files whose name
starts with an underscore are not plug-ins. The plug-in's name is the file's with `-` for `_`.
"""

import ast
import difflib
import importlib
from pathlib import Path
from types import ModuleType

from erase.errors import InputError

KINDS = {"methods": "method", "suites": "suite", "metrics": "metric"}


def _folder(kind: str) -> Path:
    if kind not in KINDS:
        raise KeyError(kind)
    return Path(__file__).parent / kind


def _file(kind: str, name: str) -> Path:
    return _folder(kind) / f"{name.replace('-', '_')}.py"


def names(kind: str) -> list[str]:
    """Names of all plug-ins of a kind (`methods`, `suites` or `metrics`), sorted."""
    files = _folder(kind).glob("[!_]*.py")
    return sorted(file.stem.replace("_", "-") for file in files)


def summary(kind: str, name: str) -> str:
    """First line of a plug-in's docstring, read without importing it."""
    return (ast.get_docstring(source(kind, name)) or "").partition("\n")[0]


def source(kind: str, name: str) -> ast.Module:
    """The syntax tree of a plug-in's file, for what is to be known without importing it."""
    check(kind, name)
    return ast.parse(_file(kind, name).read_text(encoding="utf-8"))


def check(kind: str, name: str) -> None:
    """Raise InputError, naming the nearest plug-in, unless `name` is a plug-in of `kind`."""
    known = names(kind)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise InputError(
        f"There is no {KINDS[kind]} named {name!r}.",
        f"{hint}Known: {', '.join(known)}.",
    )


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in; raises InputError for an unknown name."""
    check(kind, name)
    return importlib.import_module(f"erase.{kind}.{name.replace('-', '_')}")
