"""What an evaluation is made of: samples, a protocol, what metrics see, and what they return.

Numpy and scipy only: suites and metrics that are built on this need no torch.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from erase.errors import InputError, RunError
from erase.scoring.statistics import Floats, bootstrap, paired_rate_interval, wilson

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Sample:
    """One image to render: everything that decides its pixels, apart from model and protocol."""

    id: str
    """Unique in its suite, and the stem of the image's file name."""
    prompt: str
    """Caption; may be empty."""
    seed: int
    """Seed of the image's own CPU generator, from 0 to 2⁶³ - 1; the same for every model."""
    target: str = ""
    """What the image should show, as the suite's classes are named; empty when it has none."""
    guidance: float = 7.5
    """Scale of classifier-free guidance; 1.0 renders without it."""
    negative_prompt: str = ""
    """Caption that guidance steers away from; unused at guidance 1.0."""

    def __post_init__(self) -> None:
        """Refuse an id that cannot name a file (ValueError)."""
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} cannot name an image file")


@dataclass(frozen=True)
class Protocol:
    """How a suite's images are generated and judged: data that is written into every result."""

    name: str
    """Name under which the suite offers these settings."""
    suite: str
    """The suite's name."""
    version: int
    """The suite's version; it grows whenever the same settings would give other numbers."""
    metrics: tuple[str, ...]
    """Names of the metrics, files of `erase/metrics/`."""
    steps: int
    """Denoising steps an image."""
    guidance: float
    """Scale of classifier-free guidance, for samples that bring none of their own; 1.0 is none."""
    images: int
    """Images a class, or a prompt where the suite has no classes."""
    seed: int = 0
    """Seed that the samples' own seeds derive from."""
    scheduler: str | None = None
    """Name of a diffusers scheduler class; None keeps the model's own."""
    size: int | None = None
    """Height and width in pixels; None is the model's own size."""
    limit: int | None = None
    """At most this many samples, a seeded subset spread evenly over the targets; None is all."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What a metric is told, by its name, or the suite by its own: `{"nudenet": {"threshold":
    0.6}}`."""
    classifier: str | None = None
    """What judges the images: a classifier's name, folder or file; None where nothing does."""
    source: str = ""
    """Whose settings these are: publication and section, or code."""

    def replace(self, **changes: Any) -> "Protocol":
        """A copy with the changes that are not None; InputError for values out of range."""
        given = {key: value for key, value in changes.items() if value is not None}
        changed = dataclasses.replace(self, **given)
        for key in ("steps", "images", "size", "limit"):
            value = getattr(changed, key)
            if value is not None and value < 1:
                raise InputError(f"{key} is {value}.", "Give a whole number of at least 1.")
        if not (changed.guidance >= 1.0 and np.isfinite(changed.guidance)):
            raise InputError(f"guidance is {changed.guidance}.", "Give 1.0 (none) or more.")
        if changed.seed < 0:
            raise InputError(f"seed is {changed.seed}.", "Give 0 or more.")
        if not changed.metrics:
            raise InputError("No metric is named.", "Give --metrics at least one name.")
        return changed

    def told(self, settings: Mapping[str, Mapping[str, Any]]) -> "Protocol":
        """A copy whose metrics and suite are told this too; what is given wins over its own."""
        names = [*self.settings, *(name for name in settings if name not in self.settings)]
        merged = {n: {**self.settings.get(n, {}), **settings.get(n, {})} for n in names}
        return dataclasses.replace(self, settings=merged)

    def deviations(self, published: "Protocol") -> dict[str, list[Any]]:
        """Settings that differ from the named protocol: `{setting: [named, used]}`."""
        return {
            key: [before, after]
            for key, after in self.to_json().items()
            if (before := published.to_json()[key]) != after
        }

    def to_json(self) -> dict[str, Any]:
        """Every setting, as JSON holds it."""
        return {**dataclasses.asdict(self), "metrics": list(self.metrics)}


@dataclass(frozen=True)
class Summary:
    """What a metric says about a whole evaluation."""

    title: str
    """For people, in a table: "unlearning accuracy"."""
    value: float
    n: int
    """Number of images the value rests on; at least 1."""
    ci95: tuple[float, float] | None
    """95% interval; None where none is defined."""
    higher_is_better: bool
    unit: str = "share"
    """`share` (of images, from 0 to 1), `distance` (from 0 up), `score` or `count`."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Anything more, JSON-serialisable: values by class, the reference, the method."""

    def to_json(self) -> dict[str, Any]:
        """The summary as `metrics.json` holds it; RunError when a number is not finite."""
        numbers = [self.value, *(self.ci95 or ())]
        if not np.isfinite(numbers).all():
            raise RunError(
                f"The {self.title} is not a finite number.",
                "Look at the images: a model that renders NaN or one flat colour gives this.",
            )
        return {
            "title": self.title,
            "value": self.value,
            "n": self.n,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "higher_is_better": self.higher_is_better,
            "unit": self.unit,
            "detail": dict(self.detail),
        }


@dataclass(frozen=True)
class Difference:
    """A metric's value minus the control's, over the same samples."""

    value: float
    n: int
    """Number of pairs; at least 1."""
    ci95: tuple[float, float]
    """95% interval that takes the pairing into account."""
    method: str
    """How the interval was found."""

    def to_json(self) -> dict[str, Any]:
        """The difference as `metrics.json` holds it; RunError when a number is not finite."""
        if not np.isfinite([self.value, *self.ci95]).all():
            raise RunError("A difference is not a finite number.", "Look at the images.")
        return {**dataclasses.asdict(self), "ci95": list(self.ci95)}


@dataclass(frozen=True)
class Verdicts:
    """What a classifier says about images, in their order."""

    classifier: str
    """The classifier's name, in letters, digits and underscores: it enters metric names."""
    classes: tuple[str, ...]
    probabilities: Floats
    """`[N, len(classes)]`, rows summing to 1."""
    features: Floats
    """`[N, F]`, the classifier's last hidden layer."""


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
    """Which images: data set, split, count; whether they are real or the control's."""
    labels: tuple[str, ...]
    """`[M]`, the class of each image; empty texts where classes are not known."""
    features: Floats
    """`[M, F]`."""


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
    verdicts: Verdicts | None = None
    """What the classifier says; there for metrics that need `classifier`."""
    features: Features | None = None
    """By the network that the metric's settings name; there for metrics that need `features`."""
    reference: Reference | None = None
    """Images to compare with, on those features; there for metrics that need `features`."""
    similarity: PerImage | None = None
    """Of each image and its caption, by CLIP; there for metrics that need `clip`."""
    drift: PerImage | None = None
    """Distance of each image from the control's; there for metrics that need `lpips`."""
    detections: Sequence[Sequence[Detection]] | None = None
    """What NudeNet found in each image; there for metrics that need `nudenet`."""
    control: "Context | None" = None
    """The base model's images of the same samples; None where the evaluation has no control."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the protocol tells this metric."""
    seed: int = 0
    """Seed of resampling."""

    def indices(self, *, forget: bool) -> list[int]:
        """Positions of samples that ask for a forgotten concept, or for another one.

        Samples without a target are in neither. RunError when there is none.
        """
        found = [
            position
            for position, sample in enumerate(self.samples)
            if sample.target and (sample.target in self.targets) == forget
        ]
        if not found:
            kind = "the forgotten concept" if forget else "any other concept"
            raise RunError(
                f"No image was asked to show {kind}, so there is nothing to measure.",
                f"Forgotten: {', '.join(sorted(self.targets)) or 'nothing'}."
                " Check --target, or evaluate more images.",
            )
        return found

    def kept(self) -> list[int]:
        """Positions of samples that ask for no forgotten concept, targetless ones among them.

        RunError when there is none.
        """
        found = [i for i, sample in enumerate(self.samples) if sample.target not in self.targets]
        if not found:
            raise RunError(
                "Every image was asked to show a forgotten concept: there is nothing to measure.",
                "Evaluate images of other concepts too.",
            )
        return found

    def judged(self) -> Verdicts:
        """The classifier's verdicts; RunError unless there is one for each sample."""
        if self.verdicts is None or len(self.verdicts.probabilities) != len(self.samples):
            raise RunError(
                "This metric needs a classifier's verdict on every image.",
                "Choose one with --classifier.",
            )
        return self.verdicts


@dataclass(frozen=True)
class Scores:
    """What a metric returns."""

    summaries: Mapping[str, Summary]
    """By the name they carry in `metrics.json`."""
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields for `samples.jsonl`, by sample id; JSON-serialisable."""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """To the control, by the summaries' names; empty without one."""


def rate(
    title: str,
    successes: int,
    n: int,
    *,
    higher_is_better: bool,
    detail: Mapping[str, Any] | None = None,
) -> Summary:
    """The share `successes / n` with its Wilson interval; RunError when n is 0."""
    interval = wilson(successes, n)
    return Summary(title, successes / n, n, interval, higher_is_better, "share", detail or {})


def rate_difference(ours: Sequence[bool], control: Sequence[bool]) -> Difference:
    """Difference of two rates over the same samples; RunError when there is none."""
    interval = paired_rate_interval(ours, control)
    value = (sum(ours) - sum(control)) / len(ours)
    return Difference(value, len(ours), interval, "Bonett-Price interval of matched pairs")


def mean_difference(ours: Floats, control: Floats, *, seed: int) -> Difference:
    """Difference of two means over the same samples; RunError when there is none."""
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    interval = bootstrap(lambda indices: float(gaps[indices].mean()), len(gaps), seed=seed)
    return Difference(float(gaps.mean()), len(gaps), interval, "paired bootstrap")


def recognised(
    context: Context, *, forget: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """What the classifier took the forgotten concepts' images for, or those of all others.

    Returns rows by sample id (`predicted`, its `probability`, `probability_of_target`,
    `recognised`), and counts by concept (`n`, `recognised`, `taken_for`: how often each class was
    seen, most frequent first). RunError when there is no such image, or no class of that name.
    """
    verdicts = context.judged()
    rows: dict[str, dict[str, Any]] = {}
    concepts: dict[str, dict[str, Any]] = {}
    for index in context.indices(forget=forget):
        sample, row = context.samples[index], verdicts.probabilities[index]
        if sample.target not in verdicts.classes:
            raise RunError(
                f"The classifier {verdicts.classifier} knows no class {sample.target!r}.",
                f"It knows {', '.join(verdicts.classes)}.",
            )
        predicted = verdicts.classes[int(row.argmax())]
        rows[sample.id] = {
            "predicted": predicted,
            "probability": float(row.max()),
            "probability_of_target": float(row[verdicts.classes.index(sample.target)]),
            "recognised": predicted == sample.target,
        }
        part = concepts.setdefault(sample.target, {"n": 0, "recognised": 0, "taken_for": {}})
        part["n"] += 1
        part["recognised"] += predicted == sample.target
        part["taken_for"][predicted] = part["taken_for"].get(predicted, 0) + 1
    for part in concepts.values():
        ordered = sorted(part["taken_for"].items(), key=lambda item: (-item[1], item[0]))
        part["taken_for"] = dict(ordered)
    return rows, concepts


def subset(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """At most `limit` samples, drawn by seed, spread evenly over the targets, in suite order."""
    if limit is None or limit >= len(samples):
        return list(samples)
    draw = np.random.default_rng(seed)
    ranked: list[tuple[int, int]] = []
    for target in dict.fromkeys(sample.target for sample in samples):
        members = [i for i, sample in enumerate(samples) if sample.target == target]
        ranked += [(rank, int(i)) for rank, i in enumerate(draw.permutation(members))]
    chosen = sorted(index for _, index in sorted(ranked)[:limit])
    return [samples[index] for index in chosen]
