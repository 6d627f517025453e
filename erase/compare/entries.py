"""The lines of a comparison of classifiers: a method, its variant, settings fixed from outside."""

import re
from dataclasses import dataclass, field
from typing import Any

from erase import registry
from erase.config.classifier import method_module
from erase.errors import InputError

VARIANTS: dict[str, dict[str, Any]] = {"dual": {"dual_optim": True}, "trim": {"trim": 0.97}}
"""What `METHOD+dual` and `lur+trim` add to a method."""


STARTS: dict[str, dict[str, float]] = {"trim": {"learning_rate": 5e-3, "forget_weight": 0.05}}
"""Defaults that a variant changes: a trimmed model is to be repaired first, as by Scissorhands."""


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: a method, its variant, and settings fixed from outside."""

    label: str
    method: str
    changes: dict[str, Any]
    settings: dict[str, Any]
    start: dict[str, float] = field(default_factory=dict)
    """Other defaults than the method's, which a search may change."""


def entry(text: str) -> Entry:
    """`METHOD`, `METHOD+dual`, `lur+trim`, or `METHOD@setting=value`; InputError otherwise."""
    body, _, fixed = text.partition("@")
    name, *variants = body.split("+")
    changes: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    start: dict[str, float] = {}
    known = set(method_module(name).Settings.__dataclass_fields__)
    for variant in variants:
        if variant not in VARIANTS:
            raise InputError(f"There is no variant {variant!r}.", f"Known: {', '.join(VARIANTS)}.")
        start |= STARTS.get(variant, {})
        for key, value in VARIANTS[variant].items():
            if key in known:
                settings[key] = value
            elif key == "dual_optim":
                changes[key] = value
            else:
                raise InputError(f"{name} has no {variant!r}.", "Only lur and lur-b have it.")
    if fixed:
        key, _, value = fixed.partition("=")
        if key not in known:
            raise InputError(f"{name} has no setting {key!r}.", f"Known: {', '.join(known)}.")
        settings[key] = float(value)
    return Entry(text, name, changes, settings, start)


def slug(text: str) -> str:
    """A text as a file name."""
    return re.sub(r"[^A-Za-z0-9.+=@-]+", "_", text.replace("%", "pct")).strip("_")


def entries(methods: str, alphas: str | None = None) -> list[Entry]:
    """The entries of a comma-separated list of methods (`all`: every one there is) and of α."""
    names = methods.split(",")
    if methods == "all":
        every = registry.names("methods")
        names = [n for n in every if "classifier" in registry.load("methods", n).Method.families]
    found = [entry(name.strip()) for name in names if name.strip() != "retrain"]
    found += [entry(f"lur@alpha={float(alpha)}") for alpha in (alphas or "").split(",") if alpha]
    if len({item.label for item in found}) < len(found):
        raise InputError("A method is named twice.", "Name each once.")
    return found
