"""Families of models, and the methods that are defined for each."""

import ast

from erase import registry

TEXT_TO_IMAGE, CLASS_CONDITIONAL, CLASSIFIER = "text-to-image", "class-conditional", "classifier"
DENOISERS = frozenset({TEXT_TO_IMAGE, CLASS_CONDITIONAL})
METHOD_CLASSES = ("Method", "DenoiserMethod")


def methods_for(*families: str) -> list[str]:
    """Names of the methods that are defined for any of the families, without importing them."""
    return [name for name in registry.names("methods") if declared_families(name) & set(families)]


def declared_families(name: str) -> frozenset[str]:
    """The families of a method as its file declares them: `families = …` in its classes.

    Read from the source, so that `--help` needs no torch. The value is made of texts, and of the
    names that this module defines.
    """
    return frozenset(
        family
        for node in registry.source("methods", name).body
        if isinstance(node, ast.ClassDef) and node.name in METHOD_CLASSES
        for item in node.body
        if isinstance(item, ast.Assign | ast.AnnAssign) and _target(item) == "families"
        for family in _named(item.value)
    )


def _target(item: ast.Assign | ast.AnnAssign) -> str:
    return ast.unparse(item.targets[0] if isinstance(item, ast.Assign) else item.target)


def _named(value: ast.expr | None) -> set[str]:
    named: set[str] = set()
    for part in ast.walk(value) if value is not None else ():
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            named.add(part.value)
        elif isinstance(part, ast.Name) and part.id in globals():
            known = globals()[part.id]
            named |= {known} if isinstance(known, str) else set(known)
    return named
