"""Intervals: Wilson's for rates, the seeded bootstrap for the rest, paired ones for differences.

Numpy and scipy only.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from erase.errors import RunError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
RESAMPLES = 200


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% Wilson score interval of a rate (Wilson 1927); RunError when n is 0."""
    if n < 1:
        raise RunError("A rate over no images has no meaning.", "Evaluate at least one image.")
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def draws(
    n: int, *, seed: int, resamples: int = RESAMPLES, strata: Sequence[str] | None = None
) -> Iterator[Indices]:
    """Bootstrap draws: `resamples` times indices `[n]` with replacement.

    With `strata` (a label for each of the n items) every class keeps its count, as it does when
    a suite fixes the number of images a class. RunError when n is 0.
    """
    if n < 1:
        raise RunError("Nothing can be resampled from no images.", "Evaluate at least one image.")
    draw = np.random.default_rng(seed)
    labels = np.asarray(strata if strata is not None else [""] * n)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(resamples):
        yield np.concatenate([draw.choice(group, len(group)) for group in groups])


def percentiles(
    values: Sequence[float] | Floats, centre: float | None = None
) -> tuple[float, float]:
    """95% percentile interval (Efron 1979) of resampled values.

    `centre`, the value itself, moves the interval by the mean difference between the resampled
    values and it: distances between distributions are biased upwards by resampling, so that the
    plain percentiles may not even enclose the value.
    """
    resampled = np.asarray(values, dtype=np.float64)
    if centre is not None:
        resampled = resampled + (centre - resampled.mean())
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def bootstrap(
    statistic: Callable[[Indices], float],
    n: int,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    strata: Sequence[str] | None = None,
    centred: bool = False,
) -> tuple[float, float]:
    """95% percentile bootstrap interval of `statistic(indices [n]) → float`.

    `strata` is explained at `draws`, `centred` at `percentiles`. RunError when n is 0.
    """
    values = [statistic(i) for i in draws(n, seed=seed, resamples=resamples, strata=strata)]
    return percentiles(values, statistic(np.arange(n)) if centred else None)


def paired_rate_interval(ours: Sequence[bool], baseline: Sequence[bool]) -> tuple[float, float]:
    """95% interval of the difference of two rates over the same samples, ours minus the baseline's.

    Bonett and Price 2012, equation 4: Wald's interval for matched pairs with one pair added to
    each kind of discordance. Only pairs that disagree tell the rates apart, as in McNemar's test.
    RunError when there is no pair.
    """
    n = len(ours)
    if n < 1 or len(baseline) != n:
        raise RunError("There are no pairs to compare.", "Evaluate at least one image of each.")
    gained = (sum(a and not b for a, b in zip(ours, baseline, strict=True)) + 1) / (n + 2)
    lost = (sum(b and not a for a, b in zip(ours, baseline, strict=True)) + 1) / (n + 2)
    half = float(norm.ppf(0.975)) * np.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    difference = gained - lost
    return max(-1.0, float(difference - half)), min(1.0, float(difference + half))
