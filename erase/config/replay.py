"""A run's `config.yaml` read again: of an older version, or with another method than its own."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from erase import registry
from erase.config.base import MethodConfig
from erase.config.methods import canonical
from erase.errors import InputError

Run = TypeVar("Run", bound=MethodConfig)
MOVED = ("alpha", "forget_weight", "meta_mode")
"""Settings of a method that stood beside `settings` in earlier versions."""


def upgraded(values: Mapping[str, Any], method: str = "lur") -> dict[str, Any]:
    """The values of a `config.yaml` with those of `MOVED` among the settings of its method.

    A value that the method has no use for is left out, as it had no effect.

    Args:
        values: as the file holds them.
        method: the method where the file names none.
    """
    current = {name: value for name, value in values.items() if name not in MOVED}
    moved = {name: values[name] for name in MOVED if name in values}
    if not moved:
        return current
    own = _defaults_of(str(values.get("method") or method))
    moved = {
        name: value
        for name, value in moved.items()
        if name in own and (value is not None or own[name] is None)
    }
    own_settings = current.get("settings") or {}
    if moved and isinstance(own_settings, Mapping):  # else the configuration refuses it
        current["settings"] = {**moved, **own_settings}
    return current


def _defaults_of(method: str) -> dict[str, Any]:
    """Defaults of the settings that a method has in any family; none for an unknown one."""
    with contextlib.suppress(InputError):
        module = registry.load("methods", canonical(method))
        kinds = (module.Settings, getattr(module, "DenoiserSettings", module.Settings))
        return {item.name: item.default for kind in kinds for item in dataclasses.fields(kind)}
    return {}


@dataclass(frozen=True)
class Replay(Generic[Run]):
    """What a `--config` file holds, where the user asks for another method.

    `given` names what the user gave beside the file: options, and settings of the method.
    """

    file: Path
    config: Run
    given: frozenset[str]

    def without_defaults(self, config: Run, fill: Callable[[Run], Run]) -> Run:
        """A copy of `config` that leaves open what the file's method decided.

        That is every value that would have been filled in for this method had it not been set:
        what the user once chose stays.

        Args:
            config: the file's, with what the user gave over it, without the file's settings.
            fill: fills in all defaults, as for a run.
        """
        decided: set[str] = set()
        before = self.config
        with contextlib.suppress(InputError):  # a method that is not for this model tells nothing
            for name in _open(before):
                if getattr(fill(before.replace(**{name: None})), name) == getattr(before, name):
                    decided.add(name)
        return config.replace(**dict.fromkeys(decided - self.given))

    def left_out(self, config: Run) -> str | None:
        """A line that says what of the file does not hold in a filled configuration, if anything.

        What the user gave in its place is not named.
        """
        before, now = _values(self.config), _values(config)
        names = [
            name
            for name, value in before.items()
            if value is not None and name not in self.given and now.get(name) != value
        ]
        if not names:
            return None
        return (
            f"{self.file} is of {self.config.method}; left out of it for {config.method}:"
            f" {', '.join(names)}"
        )


def _open(config: MethodConfig) -> list[str]:
    """Names of what a recipe may fill in, and is set."""
    return [
        item.name
        for item in dataclasses.fields(config)  # type: ignore[arg-type]
        if item.default is None and getattr(config, item.name) is not None
    ]


def _values(config: MethodConfig) -> dict[str, Any]:
    """All values, the method's own settings among them."""
    return {**vars(config), "settings": None, **config.settings}
