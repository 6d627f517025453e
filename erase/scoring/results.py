"""What a metric returns: summaries, fields of `samples.jsonl`, differences to the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from erase.errors import RunError
from erase.scoring.statistics import Floats, bootstrap, paired_rate_interval, wilson


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
        interval = None if self.ci95 is None else list(self.ci95)
        return {**vars(self), "ci95": interval, "detail": dict(self.detail)}


@dataclass(frozen=True)
class Difference:
    """A metric's value minus the baseline's, over the same samples."""

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
        return {**vars(self), "ci95": list(self.ci95)}


@dataclass(frozen=True)
class Scores:
    """What a metric returns."""

    summaries: Mapping[str, Summary]
    """By the name they carry in `metrics.json`."""
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields for `samples.jsonl`, by sample id; JSON-serialisable."""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """To the baseline, by the summaries' names; empty without one."""


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


def rate_difference(ours: Sequence[bool], baseline: Sequence[bool]) -> Difference:
    """Difference of two rates over the same samples; RunError when there is none."""
    interval = paired_rate_interval(ours, baseline)
    value = (sum(ours) - sum(baseline)) / len(ours)
    return Difference(value, len(ours), interval, "Bonett-Price interval of matched pairs")


def mean(title: str, values: Floats, *, seed: int, **more: Any) -> Summary:
    """The mean of values `[N]` with its bootstrap interval; `more` are fields of the summary."""
    interval = bootstrap(lambda indices: float(values[indices].mean()), len(values), seed=seed)
    return Summary(title, float(values.mean()), len(values), interval, **more)


def mean_difference(ours: Floats, baseline: Floats, *, seed: int) -> Difference:
    """Difference of two means over the same samples; RunError when there is none."""
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    interval = bootstrap(lambda indices: float(gaps[indices].mean()), len(gaps), seed=seed)
    return Difference(float(gaps.mean()), len(gaps), interval, "paired bootstrap")
