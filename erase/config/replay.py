"""A run's `config.yaml` replayed with another method than its own."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from erase.config.base import MethodConfig
from erase.config.methods import NAMED
from erase.errors import InputError

Run = TypeVar("Run", bound=MethodConfig)


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

        That is what the file says of the method's own settings, and every value that would have
        been filled in for this method had it not been set: what the user once chose stays.

        Args:
            config: the file's, with what the user gave over it.
            fill: fills in all defaults, as for a run.
        """
        left: set[str] = set(NAMED)
        before = self.config
        with contextlib.suppress(InputError):  # a method that is not for this model tells nothing
            for name in _open(before):
                if getattr(fill(before.replace(**{name: None})), name) == getattr(before, name):
                    left.add(name)
        return config.replace(**dict.fromkeys((left & set(vars(config))) - self.given))

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
        if item.default is None
        and item.name not in NAMED
        and getattr(config, item.name) is not None
    ]


def _values(config: MethodConfig) -> dict[str, Any]:
    """All values, the method's own settings among them."""
    return {**vars(config), "settings": None, **config.settings}
