"""What the shell offers for the value of an option: methods, suites, metrics, concepts, models."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from erase import registry
from erase.config.base import Config
from erase.config.classifier import RunSettings
from erase.config.compare import CompareConfig
from erase.config.families import CLASSIFIER, DENOISERS, methods_for

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
LISTS = frozenset({"methods", "metrics", "attacks"})
"""Options that take several names, separated by commas."""


def complete(name: str, config: type[Config] | None = None) -> Complete | None:
    """The completion of an option's values; None for an option that has no names to offer.

    Args:
        name: the option's field.
        config: of the command, which decides what methods there are.
    """
    families = (CLASSIFIER,) if _for_classifiers(config) else tuple(DENOISERS)
    offers: dict[str, Callable[[], Iterable[str]]] = {
        "method": lambda: methods_for(*families),
        "methods": lambda: ["all", *methods_for(*families)],
        "suite": lambda: registry.names("suites"),
        "metric": lambda: registry.names("metrics"),
        "metrics": lambda: registry.names(
            "classifier_metrics" if families == (CLASSIFIER,) else "metrics"
        ),
        "attack": lambda: registry.names("attacks"),
        "attacks": lambda: ["all", *registry.names("attacks")],
        "concept": _concepts,
        "target": _concepts,
        "model": _models,
        "baseline": _models,
    }
    if name not in offers or (name == "model" and families == (CLASSIFIER,)):
        return None
    offered = offers[name]

    def completed(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
        before, comma, last = typed.rpartition(",") if name in LISTS else ("", "", typed)
        found = [item for item in offered() if item.startswith(last)]
        items = [CompletionItem(f"{before}{comma}{item}") for item in found]
        if not items and offered is _models:
            return [CompletionItem(typed, type="file")]
        return items

    return completed


def _for_classifiers(config: type[Config] | None) -> bool:
    return config is not None and issubclass(config, RunSettings | CompareConfig)


def _concepts() -> list[str]:
    from erase.data.concept_files import read_concept_files, spellings
    from erase.data.prompts import class_lists, prompts_root

    root = prompts_root()
    lists = [classes.names for classes in class_lists(root)]
    return sorted(set().union(*lists, *map(spellings, read_concept_files(root))))


def _models() -> list[str]:
    from erase.artifacts.models import HUB, OWN
    from erase.artifacts.packaged import EMBEDDED

    return [*EMBEDDED, *HUB, *OWN]
