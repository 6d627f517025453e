"""What a judge is: whatever looks at images so that metrics need no model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from erase import registry
from erase.scoring.samples import Sample

Seen = TypeVar("Seen", covariant=True)


@dataclass(frozen=True)
class View:
    """What a judge looks at: one model's images."""

    samples: Sequence[Sample]
    files: Sequence[Path]
    """An image file for each sample, in its order."""
    baseline: Sequence[Path] | None = None
    """The baseline's images of the same samples; only LPIPS is given them."""


class Judge(ABC, Generic[Seen]):
    """Looks at images for metrics.

    A judge finds its weights when it is made, before anything is rendered (InputError when they
    are not on this machine), and loads them when it first looks. It works in batches, so that
    memory does not grow with the number of images.
    """

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of its weights, and of what else decides what it says."""

    @abstractmethod
    def look(self, view: View) -> Seen:
        """What it says about each image, in their order."""


class PluginJudge(Judge[Any]):
    """A judge that another package brings by the entry point group `erase.judges`.

    A metric that requires its name finds what it says in `context.judged`.

    Args:
        settings: values of the settings, complete.
        device: where it runs.
    """

    name: ClassVar[str]
    """The plug-in's name, by which metrics require it."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Its settings with their defaults, as a metric's."""

    def __init__(self, settings: Mapping[str, Any], device: str) -> None:
        self.values, self.device = settings, device


def judge_class(name: str) -> type[PluginJudge]:
    """Another package's judge by name; InputError when there is none, or it cannot be loaded."""
    return registry.load_class("judges", name, PluginJudge)  # type: ignore[type-abstract]
