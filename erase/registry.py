"""Plug-ins: files of this package, found by their names, and other packages' entry points.

One file of `erase/methods/`, `erase/suites/`, `erase/metrics/` or `erase/classifier_metrics/` is
one plug-in. Its name is the file's with `-` for `_`; files whose name starts with an underscore
are not plug-ins. Another package brings its own by an entry point in the group `erase.methods`,
`erase.suites`, `erase.metrics`, `erase.classifier_metrics` or `erase.judges`, whose value names a
module that holds what such a file holds:

    [project.entry-points."erase.metrics"]
    brightness = "my_package.brightness"

Listing and describing plug-ins reads file names, entry points and docstrings only, so
`erase --help` needs no torch; `load` imports the one plug-in that is asked for.
"""

import ast
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from erase.errors import InputError, likely

KINDS = {
    "methods": "method",
    "suites": "suite",
    "metrics": "metric",
    "classifier_metrics": "metric of classifiers",
    "judges": "judge",
}
JUDGES = ("classifier", "clip", "inception", "lpips", "nudenet")
"""Names that other packages' judges may not take: those of the files that are judges here."""
OWN = "erase"
PluginClass = TypeVar("PluginClass")


@dataclass(frozen=True)
class Plugin:
    """Where a plug-in comes from."""

    name: str
    module: str
    package: str
    """Name of the distribution that brings it."""


def _plugins(kind: str) -> dict[str, list[Plugin]]:
    """The plug-ins of a kind by name, sorted; more than one under a name are refused on use."""
    if kind not in KINDS:
        raise KeyError(kind)
    if kind == "judges":
        stems = list(JUDGES)
    else:
        stems = [file.stem for file in (Path(__file__).parent / kind).glob("[!_]*.py")]
    own = [Plugin(stem.replace("_", "-"), f"{OWN}.{kind}.{stem}", OWN) for stem in stems]
    plugins: dict[str, list[Plugin]] = {}
    for plugin in sorted((*own, *_entry_points(kind, tuple(sys.path))), key=lambda p: p.name):
        plugins.setdefault(plugin.name, []).append(plugin)
    return plugins


@cache
def _entry_points(kind: str, _path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Other packages' plug-ins; read once, unless `sys.path` changes."""
    return tuple(
        Plugin(
            point.name.replace("_", "-"),
            point.value,
            point.dist.name if point.dist else "(unknown)",
        )
        for point in metadata.entry_points(group=f"{OWN}.{kind}")
    )


def names(kind: str) -> list[str]:
    """Names of all plug-ins of a kind of `KINDS`, sorted."""
    return list(_plugins(kind))


def summary(kind: str, name: str) -> str:
    """First line of a plug-in's docstring, read without importing it.

    For a plug-in that cannot be used, the reason instead. InputError for an unknown name.
    """
    return (ast.get_docstring(source(kind, name)) or "").partition("\n")[0]


def source(kind: str, name: str) -> ast.Module:
    """The syntax tree of a plug-in's file, for what is to be known without importing it.

    For a plug-in that cannot be used, an empty module whose docstring is the reason. InputError for
    an unknown name.
    """
    plugins = _known(kind, name)
    if len(plugins) > 1:
        return ast.parse(repr(f"Not usable: {_owners(plugins)} define it."))
    file = _file(plugins[0].module)
    try:
        if file is not None:
            return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        pass
    return ast.parse(
        repr(f"Not usable: the package {plugins[0].package} has no readable module for it.")
    )


def _file(module: str) -> Path | None:
    """The file of a module, found without importing it or the packages around it."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
        name = first
        for part in rest:
            name = f"{name}.{part}"
            inside = spec.submodule_search_locations if spec else None
            spec = PathFinder.find_spec(name, inside) if inside else None
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _known(kind: str, name: str) -> list[Plugin]:
    """The plug-ins of that name; InputError, naming the nearest one, when there is none."""
    plugins = _plugins(kind)
    if name in plugins:
        return plugins[name]
    raise InputError(
        f"There is no {KINDS[kind]} named {name!r}.",
        f"{likely(name, plugins)}Known: {', '.join(plugins)}.",
    )


def _owners(plugins: list[Plugin]) -> str:
    return "the packages " + " and ".join(plugin.package for plugin in plugins)


def _find(kind: str, name: str) -> Plugin:
    plugins = _known(kind, name)
    if len(plugins) > 1:
        others = " or ".join(plugin.package for plugin in plugins if plugin.package != OWN)
        raise InputError(
            f"The {KINDS[kind]} {name!r} is defined more than once: by {_owners(plugins)}.",
            f"Uninstall {others}.",
        )
    return plugins[0]


def check(kind: str, name: str) -> None:
    """Raise InputError unless `name` is the name of exactly one plug-in of `kind`.

    The error names the nearest plug-in when there is none, and the packages when there are several.
    """
    _find(kind, name)


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in.

    InputError for an unknown name, or when the module of another package cannot be imported.
    """
    plugin = _find(kind, name)
    try:
        return importlib.import_module(plugin.module)
    except Exception as error:  # another package's code may raise whatever it likes
        if plugin.package == OWN:
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"The {KINDS[kind]} {name!r} of the package {plugin.package} cannot be loaded"
            f" ({type(error).__name__}: {reason}).",
            f"Update or uninstall {plugin.package}.",
        ) from error


def load_class(kind: str, name: str, base: type[PluginClass]) -> type[PluginClass]:
    """Import one plug-in and return the class of that kind which it defines.

    InputError as from `load`, and when the module does not define exactly one complete subclass of
    `base` whose `name` is the plug-in's.
    """
    module = load(kind, name)
    classes = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, base) and item.__module__ == module.__name__
    ]
    plugin = _find(kind, name)
    problem = ""
    if len(classes) != 1:
        problem = f"defines {len(classes)} classes of the kind {base.__name__}, not one"
    else:
        wanted = [*base.__annotations__, *getattr(base, "__abstractmethods__", ())]
        open_names: frozenset[str] = getattr(classes[0], "__abstractmethods__", frozenset())
        lacking = [key for key in wanted if not hasattr(classes[0], key) or key in open_names]
        if lacking:
            problem = f"lacks {', '.join(sorted(lacking))} in {classes[0].__name__}"
        elif vars(classes[0]).get("name") != name:
            problem = f"calls it {vars(classes[0]).get('name')!r}"
    if problem:
        raise InputError(
            f"The {KINDS[kind]} {name!r} of the package {plugin.package} cannot be used:"
            f" {plugin.module} {problem}.",
            f"Update or uninstall {plugin.package}.",
        )
    return classes[0]
