"""What a metric sees: the samples, their images, and what the judges say about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase.errors import RunError
from erase.scoring.samples import Sample
from erase.scoring.statistics import Floats


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about images, in their order."""

    classifier: str
    """The classifier's name, in letters, digits and underscores: it enters metric names."""
    classes: tuple[str, ...]
    probabilities: Floats
    """`[N, len(classes)]`, rows summing to 1."""
    features: Floats
    """`[N, F]`, the classifier's last hidden layer."""

    def seen(self, index: int) -> str:
        """The class that the classifier sees in an image."""
        return self.classes[int(self.probabilities[index].argmax())]


@dataclass(frozen=True)
class Features:
    """What a named network makes of images, in their order."""

    network: str
    """In letters, digits and underscores, as it follows `fid` in a name: `2048` for Inception's."""
    description: str
    """For people: which network, which layer, how images reach it."""
    values: Floats
    """`[N, F]`."""


@dataclass(frozen=True)
class Reference:
    """Features of the images that rendered ones are compared with, by the same network."""

    description: str
    """Which images: data set, split, count; whether they are real or the baseline's."""
    labels: tuple[str, ...]
    """`[M]`, the class of each image; empty texts where classes are not known."""
    features: Floats
    """`[M, F]`."""
    names: tuple[frozenset[str], ...] = ()
    """`[M]`, everything that each image shows, where that is more than its class."""


@dataclass(frozen=True)
class PerImage:
    """One number for each image, from a named network."""

    network: str
    """In letters, digits and underscores: it enters metric names."""
    description: str
    """For people: which network, which scale."""
    values: Floats
    """`[N]`."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Anything more, JSON-serialisable."""


@dataclass(frozen=True)
class Detection:
    """One thing that a detector found in an image."""

    label: str
    """The detector's class: `FEMALE_BREAST_EXPOSED`."""
    score: float
    """Confidence, from 0 to 1."""
    box: tuple[int, int, int, int]
    """Left, top, width, height in pixels of the image as it is stored."""


@dataclass(frozen=True)
class Context:
    """All that a metric may look at."""

    samples: Sequence[Sample]
    images: Sequence[Path]
    """PNG files, one for each sample, in its order."""
    targets: frozenset[str]
    """The concepts that the model was made to forget, as samples' targets name them."""
    predictions: Predictions | None = None
    """What the classifier says; there for metrics that require `classifier`."""
    kinds: Mapping[str, Predictions] = field(default_factory=dict)
    """By kind of thing, what the suite's classifier of that kind says; there for metrics that
    require `kinds`."""
    neighbours: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By name of a thing, the things that look most like it, as the suite lists them."""
    features: Features | None = None
    """By the network that the metric's settings name; there for metrics that require `features`."""
    reference: Reference | None = None
    """Images to compare with, on those features; there for metrics that require `features`."""
    similarity: PerImage | None = None
    """Of each image and its caption, by CLIP; there for metrics that require `clip`."""
    drift: PerImage | None = None
    """Distance of each image from the baseline's; there for metrics that require `lpips`."""
    detections: Sequence[Sequence[Detection]] | None = None
    """What NudeNet found in each image; there for metrics that require `nudenet`."""
    judged: Mapping[str, Any] = field(default_factory=dict)
    """What judges of other packages say, by their names; there for metrics that require them."""
    baseline: "Context | None" = None
    """The base model's images of the same samples; None where the evaluation has no baseline."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The metric's settings, as the protocol has them."""
    seed: int = 0
    """Seed of resampling."""

    def indices(self, *, forget: bool) -> list[int]:
        """Positions of samples that ask for a forgotten concept, or for another one.

        Samples without a target are in neither. RunError when there is none.
        """
        positions = [
            i
            for i, sample in enumerate(self.samples)
            if sample.target and bool(sample.names() & self.targets) == forget
        ]
        if not positions:
            kind = "the forgotten concept" if forget else "any other concept"
            raise RunError(
                f"No image was asked to show {kind}, so there is nothing to measure.",
                f"Forgotten: {', '.join(sorted(self.targets)) or 'nothing'}."
                " Check --target, or evaluate more images.",
            )
        return positions

    def retained(self) -> list[int]:
        """Positions of samples that ask for no forgotten concept, targetless ones among them.

        Those of neighbours from outside the suite's classes are not.

        RunError when there is none.
        """
        positions = [
            i for i, s in enumerate(self.samples) if not (s.names() & self.targets or s.beside)
        ]
        if not positions:
            raise RunError(
                "Every image was asked to show a forgotten concept: there is nothing to measure.",
                "Evaluate images of other concepts too.",
            )
        return positions

    def classified(self) -> Predictions:
        """The classifier's predictions; RunError unless there is one for each sample."""
        if self.predictions is None or len(self.predictions.probabilities) != len(self.samples):
            raise RunError(
                "This metric needs a classifier's verdict on every image.",
                "Choose one with --classifier.",
            )
        return self.predictions
