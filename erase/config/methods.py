"""Finding a method for a family of models, its settings' defaults, and building it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import yaml

from erase import registry
from erase.config.base import LoopConfig
from erase.errors import InputError

SMALL = 64
"""Largest side, in pixels, of the models that the settings `small` are for."""
CIFAR = 32
"""Pixels a side of the models that the settings of a family are for."""
LENGTH = ("max_train_steps", "train_batch_size", "learning_rate")
NAMED = ("alpha", "forget_weight", "meta_mode")
"""Settings with an option of their own on `erase concept`."""
Run = TypeVar("Run", bound=LoopConfig)


@dataclass(frozen=True)
class Found:
    """A method as it is defined for one family."""

    name: str
    module: ModuleType
    method: Any
    settings: Any
    """The dataclass of its settings."""

    @property
    def names(self) -> list[str]:
        """Names of its settings."""
        return [item.name for item in dataclasses.fields(self.settings)]

    def check(self, given: Iterable[str]) -> None:
        """Raise InputError for a setting that the method does not have."""
        unknown = sorted(set(given) - set(self.names))
        if unknown:
            raise InputError(
                f"{self.name} has no setting {unknown[0]!r}.",
                f"Its settings: {', '.join(self.names) or 'none'}.",
            )

    def build(self, settings: Mapping[str, Any]) -> Any:
        """The method; InputError for a setting that it does not have, or out of range."""
        self.check(settings)
        try:
            return self.method(self.settings(**settings))
        except TypeError as error:  # a word where a number is compared
            raise InputError(f"{self.name}: {error}.", "Correct the --set value.") from error


def canonical(name: str) -> str:
    """The name of a method that may be called by another one."""
    return {"joint": "lur-b"}.get(name, name)


def defined_for(family: str) -> list[str]:
    """Names of the methods that are defined for a family."""
    return [name for name in registry.names("methods") if _classes(name, family) is not None]


def find_method(name: str, family: str) -> Found:
    """A method for a family; InputError, naming those there are, when it is not defined for it."""
    found = _classes(name, family)
    if found is None:
        raise InputError(
            f"The method {name!r} is not defined for {family} models.",
            f"Defined there: {', '.join(defined_for(family))}.",
        )
    return Found(name, registry.load("methods", name), *found)


def _classes(name: str, family: str) -> tuple[Any, Any] | None:
    module = registry.load("methods", name)
    if family in module.Method.families:
        return module.Method, module.Settings
    other = getattr(module, "DenoiserMethod", None)
    if other is not None and family in other.families:
        return other, getattr(module, "DenoiserSettings", module.Settings)
    return None


def parse_settings(found: Found, given: Mapping[str, str]) -> dict[str, Any]:
    """Values of NAME=VALUE pairs: numbers, words, yes or no, none.

    Raises:
        InputError: a setting that the method does not have, or a value of another kind than its
            default's.
    """
    found.check(given)
    return {name: _value(found, name, text) for name, text in given.items()}


def by_method(texts: Iterable[str], *, example: str) -> dict[str, dict[str, str]]:
    """What `METHOD.NAME=VALUE` says: texts by method and, spelt with underscores, setting.

    Raises InputError for another form, showing the example.
    """
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        method, dot, name = left.partition(".")
        if not (equals and dot and name):
            raise InputError(
                f"--set {text} is not METHOD.NAME=VALUE.", f"Write e.g. --set {example}."
            )
        found.setdefault(method, {})[name.replace("-", "_")] = value
    return found


def read_value(text: str) -> Any:
    """A number, a word, true, false or null."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML takes 1e-3 for a word
    return value


def _value(found: Found, name: str, text: str) -> Any:
    item = next(item for item in dataclasses.fields(found.settings) if item.name == name)
    value = read_value(text)
    default = item.default
    if isinstance(default, bool) or default is None or value is None:
        fits = default is None or isinstance(value, bool)
    elif isinstance(default, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        value, fits = text, True
    if not fits:
        kind = {bool: "yes or no", int: "whole number", float: "number"}.get(type(default), "value")
        raise InputError(f"{found.name}'s {name} is {text!r}, which is no {kind}.", "Correct it.")
    return float(value) if isinstance(default, float) else value


def run_defaults(found: Found, family: str, resolution: int) -> dict[str, Any]:
    """What the method's source uses in a run on a denoiser of this family and size.

    The sources' models of a family of its own have CIFAR-10's 32 pixels a side. One of fewer is a
    toy, which the recipe's shorter training does for, unless the method has `FAMILY-small`.
    """
    table: Mapping[str, Mapping[str, Any]] = getattr(found.module, "DENOISER", {})
    size = "small" if resolution <= SMALL else "large"
    if family in table and resolution < CIFAR:
        forms = {name: value for name, value in table[family].items() if name not in LENGTH}
        return {**forms, **table.get(f"{family}-small", {})}
    return dict(table.get(family, table.get(size, {})))


def fill(config: Run, found: Found, family: str, resolution: int) -> Run:
    """A copy of a run's configuration with the method's own defaults where nothing was given.

    `settings` are then all of the method's settings but those that have an option of their own,
    which is filled in too. Texts among them are read as the `--set` values that they are.

    Raises:
        InputError: a setting that the method does not have, or one given twice.
    """
    found.check(config.settings)
    texts = {name: text for name, text in config.settings.items() if isinstance(text, str)}
    config = config.replace(settings={**config.settings, **parse_settings(found, texts)})
    given = {name: getattr(config, name) for name in NAMED if getattr(config, name) is not None}
    for name in given:
        if name in config.settings and config.settings[name] != given[name]:
            option = name.replace("_", "-")
            raise InputError(
                f"--{option} and --set {name} differ.", "Give one of them, they mean the same."
            )
    defaults = run_defaults(found, family, resolution)
    own = {name: defaults.pop(name) for name in found.names if name in defaults}
    chosen = {name: value for name, value in given.items() if name in found.names}
    settings = dataclasses.asdict(found.settings(**{**own, **config.settings, **chosen}))
    variants = getattr(found.module, "VARIANTS", {})
    defaults = {**variants.get(settings.get("variant"), {}), **defaults}
    named = {name: settings.pop(name) for name in NAMED if name in settings}
    return config.with_defaults(defaults).replace(settings=settings, **named)


def build_method(config: LoopConfig, family: str) -> Any:
    """The method of a run's configuration; InputError when it is not defined for the family."""
    found = find_method(config.method, family)
    named = {
        name: getattr(config, name)
        for name in NAMED
        if name in found.names and getattr(config, name) is not None
    }
    return found.build({**config.settings, **named})
