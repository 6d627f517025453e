"""What a metric is: one class a file, from rendered images to numbers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from erase import registry
from erase.scoring.context import Context
from erase.scoring.results import Scores

IN_THIS_PACKAGE = frozenset(
    {"targets", "classifier", "kinds", "features", "clip", "lpips", "nudenet", "baseline"}
)
"""What a metric may require without another package's judge."""


class Metric(ABC):
    """A metric; a file of `erase/metrics/`, or a module of another package, defines one.

    The docstring of that file begins with one sentence that describes the metric.
    """

    name: ClassVar[str]
    """The plug-in's name."""
    requires: ClassVar[frozenset[str]]
    """What it uses of the context beyond samples and images: `targets` (the concepts that were to
    be forgotten), `classifier`, `kinds` (a classifier of each kind of thing that the suite asks
    for), `features` (with the reference on the same features; the setting
    `features` names the network), `clip`, `lpips`, `nudenet`, a judge of another package; and
    `baseline` when there is nothing to measure without one, so that the baseline has no value."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Its settings with their defaults. Their types count; a tuple holds the possible values, the
    default first."""
    heads: ClassVar[Mapping[str, str]] = {}
    """By summary: the head of its column in a wide table, where the metric's name will not do."""

    def check(self, context: Context) -> None:  # noqa: B027 - most have nothing to refuse
        """Refuse, before anything is rendered, what this metric could not measure.

        `context` has samples, targets, settings and seed, but no images and nothing that a judge
        said. InputError or RunError for a setting out of range, or for samples among which there
        is nothing to measure.
        """

    @abstractmethod
    def __call__(self, context: Context) -> Scores:
        """Summaries by name, fields of `samples.jsonl`, and differences to `context.baseline`.

        A name says what was measured with: `fid2048` on Inception's 2048 features, never plain
        `fid`. Equal contexts give equal scores: resampling is seeded. RunError when there is no
        image to measure, because 0 would often be the best score.
        """


def load_metric(name: str) -> Metric:
    """The metric of that name; InputError when there is none, or when it cannot be loaded."""
    return registry.load_class("metrics", name, Metric)()  # type: ignore[type-abstract]
