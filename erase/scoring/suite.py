"""What a suite is: one class a file; what is asked of a model, never what it answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from erase import registry
from erase.scoring.samples import Protocol, Sample, Unusable


@dataclass(frozen=True)
class Kind:
    """A kind of thing that a suite's samples ask for, and the classifier that recognises it."""

    names: tuple[str, ...]
    judge: str
    """The classifier's name."""


class Suite(ABC):
    """A suite; a file of `erase/suites/`, or a module of another package, defines one.

    The docstring of that file begins with one sentence that describes the suite. `prompts` is the
    root of the prompt files, or a CSV table that the user gave (`erase.data.prompt_table`).
    """

    name: ClassVar[str]
    """The plug-in's name."""
    version: ClassVar[int]
    """Raised whenever the same settings would give other numbers."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """The suite's own settings with their defaults, as a metric's; a protocol holds their values
    under the suite's name."""
    hub: ClassVar[tuple[str, str] | None] = None
    """Hub data set and file that the prompts come from when no file is given."""
    datasets: ClassVar[tuple[str, ...]] = ()
    """Public data sets that `erase fetch --suite` brings, by their names."""

    @abstractmethod
    def protocols(self) -> dict[str, Protocol]:
        """The named settings, `default` among them, each with its source (see `protocol`)."""

    def protocol(self, metrics: Sequence[str], **settings: Any) -> Protocol:
        """A protocol of this suite, called `default` unless `name` is given."""
        return Protocol(
            **{
                "name": "default",
                "suite": self.name,
                "version": self.version,
                "metrics": tuple(metrics),
                **settings,
            }
        )

    @classmethod
    def settings_of(cls, protocol: Protocol) -> dict[str, Any]:
        """The suite's own settings: the protocol's values, or the defaults."""
        return {**cls.settings, **protocol.settings.get(cls.name, {})}

    def classes(self, prompts: Path) -> tuple[str, ...]:  # noqa: ARG002
        """The names that samples' targets may take; empty for a suite without classes."""
        return ()

    def aliases(self, prompts: Path) -> Mapping[str, str]:  # noqa: ARG002
        """Other names of the classes, as folders of real images carry them."""
        return {}

    def kinds(self, prompts: Path) -> Mapping[str, Kind]:  # noqa: ARG002
        """The kinds of things that samples ask for at once, by name; empty where there is one."""
        return {}

    def asks(self, concept: str, prompts: Path) -> Mapping[str, str]:  # noqa: ARG002
        """By kind, the things that images of a concept show: of a pair two of them.

        Empty for anything else, and where there is one kind. InputError for what no image shows.
        """
        return {}

    def neighbours(self, prompts: Path) -> Mapping[str, Sequence[str]]:  # noqa: ARG002
        """By class, the classes that look most like it; empty where they are not known."""
        return {}

    def select(
        self,
        samples: Sequence[Sample],
        protocol: Protocol,  # noqa: ARG002
        targets: frozenset[str],  # noqa: ARG002
    ) -> list[Sample]:
        """Of all samples, those that an evaluation of these forgotten concepts renders."""
        return list(samples)

    def more(
        self,
        protocol: Protocol,  # noqa: ARG002
        prompts: Path,  # noqa: ARG002
        targets: frozenset[str],  # noqa: ARG002
    ) -> list[Sample]:
        """Samples that only an evaluation of these forgotten concepts renders; see `samples`."""
        return []

    @abstractmethod
    def samples(self, protocol: Protocol, prompts: Path) -> list[Sample]:
        """What to render, in order.

        The seeds depend on protocol and prompts alone, so that every model starts from the same
        noise. InputError when the prompts are missing or cannot be used.
        """

    def unusable(self, protocol: Protocol, prompts: Path) -> list[Unusable]:  # noqa: ARG002
        """Rows of a prompt table that have to be left out."""
        return []


def by_name(*protocols: Protocol) -> dict[str, Protocol]:
    """Protocols by their names."""
    return {protocol.name: protocol for protocol in protocols}


def load_suite(name: str) -> Suite:
    """The suite of that name; InputError when there is none, or when it cannot be loaded."""
    return registry.load_class("suites", name, Suite)()  # type: ignore[type-abstract]
