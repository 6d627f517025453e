"""The lines of a comparison of classifiers: a method, its variant, settings fixed from outside."""

import re
from dataclasses import dataclass, field
from typing import Any

from erase.config.compare import classifier_settings
from erase.config.families import CLASSIFIER, methods_for
from erase.config.methods import find_method
from erase.config.values import parse_line
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
    """What is fixed of the run."""
    settings: dict[str, Any]
    """What is fixed of the method."""
    start: dict[str, float] = field(default_factory=dict)
    """Other defaults than the method's, which a search may change."""


def entry(text: str) -> Entry:
    """The line that `METHOD[+VARIANT…][@NAME=VALUE…]` asks for, such as lur+trim@alpha=0.1.

    Raises:
        InputError: another form, an unknown method, variant or setting, or a bad value.
    """
    line = parse_line(text)
    spec = find_method(line.method, CLASSIFIER)
    changes: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    start: dict[str, float] = {}
    for variant in line.variants:
        if variant not in VARIANTS:
            raise InputError(f"There is no variant {variant!r}.", f"Known: {', '.join(VARIANTS)}.")
        start |= STARTS.get(variant, {})
        for key, value in VARIANTS[variant].items():
            if key in spec.names:
                settings[key] = value
            elif key == "dual_optim":
                changes[key] = value
            else:
                raise InputError(f"{spec.name} has no {variant!r}.", "Only lur and lur-b have it.")
    for key, value in classifier_settings(spec.name, line.settings).items():
        (settings if key in spec.names else changes)[key] = value
    return Entry(text, spec.name, changes, settings, start)


def slug(text: str) -> str:
    """A text as a file name."""
    return re.sub(r"[^A-Za-z0-9.+=@-]+", "_", text.replace("%", "pct")).strip("_")


def entries(methods: str, alphas: str | None = None) -> list[Entry]:
    """The entries of a comma-separated list of methods (`all`: every one there is) and of α."""
    names = methods_for(CLASSIFIER) if methods == "all" else methods.split(",")
    lines = [entry(name.strip()) for name in names if name.strip() != "retrain"]
    lines += [_sweep(alpha.strip()) for alpha in (alphas or "").split(",") if alpha]
    if len({line.label for line in lines}) < len(lines):
        raise InputError("A method is named twice.", "Name each once.")
    return lines


def _sweep(alpha: str) -> Entry:
    """LUR at an α, which is spelt in one way in the label."""
    return entry(f"lur@alpha={entry(f'lur@alpha={alpha}').settings['alpha']}")
