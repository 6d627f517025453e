"""The lines of a comparison: a method, its variant, settings fixed from outside."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from erase.config.compare import classifier_settings, diffusion_settings
from erase.config.families import CLASSIFIER, TEXT_TO_IMAGE, methods_for
from erase.config.methods import find_method
from erase.config.values import parse_line, parse_owned
from erase.errors import InputError

VARIANTS: dict[str, dict[str, Any]] = {
    "dual": {"dual_optim": True},
    "trim": {"trim": 0.97},
    "fixed": {"alpha": 0.01},
}
"""What `METHOD+dual`, `lur+trim` and `lur+fixed` (the paper's α) add to a method."""
OWNERS = {"trim": ("lur", "lur-b"), "fixed": ("lur",)}
"""The methods that have a variant, where not all have it."""
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
    """The line of classifiers that `METHOD[+VARIANT…][@NAME=VALUE…]` asks for: lur+trim@alpha=0.1.

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
        owners = OWNERS.get(variant, (spec.name,))
        if spec.name not in owners:
            has = f"Only {' and '.join(owners)} {'have' if len(owners) > 1 else 'has'} it."
            raise InputError(f"{spec.name} has no {variant!r}.", has)
        start |= STARTS.get(variant, {})
        for key, value in VARIANTS[variant].items():
            (settings if key in spec.names else changes)[key] = value
    for key, value in classifier_settings(spec.name, line.settings).items():
        (settings if key in spec.names else changes)[key] = value
    return Entry(text, spec.name, changes, settings, start)


def slug(text: str) -> str:
    """A text as a file name."""
    return re.sub(r"[^A-Za-z0-9.+=@-]+", "_", text.replace("%", "pct")).strip("_")


def entries(methods: str, alphas: str | None = None) -> list[Entry]:
    """The lines of classifiers: of `--methods` (`all`, or with commas between) and of each α."""
    lines = [entry(name) for name in _labels(methods, CLASSIFIER) if name != "retrain"]
    lines += [_sweep(alpha.strip()) for alpha in (alphas or "").split(",") if alpha]
    return _distinct(lines)


def _sweep(alpha: str) -> Entry:
    """LUR at an α, which is spelt in one way in the label."""
    return entry(f"lur@alpha={entry(f'lur@alpha={alpha}').settings['alpha']}")


def diffusion_entries(methods: str, settings: Sequence[str] = ()) -> list[Entry]:
    """The lines of text-to-image methods: of `--methods`, as for classifiers, and `--set`.

    Raises:
        InputError: an unknown method or setting, a bad value, a method that is not for
            text-to-image models, or a line that is there twice.
    """
    common = parse_owned(settings, example="esd.guidance=2")
    lines = []
    for label in _labels(methods, TEXT_TO_IMAGE):
        line = parse_line(label)
        if line.variants:
            raise InputError(
                f"There is no variant {line.variants[0]!r} of a method for text-to-image models.",
                "Write METHOD@NAME=VALUE for a line with settings of its own.",
            )
        fixed = diffusion_settings(line.method, {**common.get(line.method, {}), **line.settings})
        names = find_method(line.method, TEXT_TO_IMAGE).names
        own = {name: fixed.pop(name) for name in names if name in fixed}
        lines.append(Entry(label, line.method, fixed, own))
    _distinct(lines)
    if unused := sorted(set(common) - {line.method for line in lines}):
        raise InputError(f"--set names {unused[0]}, which is not compared.", "Add it to --methods.")
    return lines


def _labels(methods: str, family: str) -> list[str]:
    names = methods_for(family) if methods == "all" else methods.split(",")
    return [name.strip() for name in names]


def _distinct(lines: list[Entry]) -> list[Entry]:
    if len({line.label for line in lines}) < len(lines):
        raise InputError("A method is named twice.", "Name each once.")
    return lines
