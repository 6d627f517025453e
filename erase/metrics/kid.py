"""Kernel distance between rendered and reference images of the retained classes.

KID as in Bińkowski et al. 2018, section 4: the unbiased estimate of the squared maximum mean
discrepancy under the kernel (x·y / F + 1)³, over all images at once instead of the mean over random
subsets, whose expectation is the same. Unbiased, it can be below 0, and values of different n
compare. Features and reference as for `fid`.
"""

from typing import ClassVar

import numpy as np

from erase.scoring.context import Context
from erase.scoring.features import distance_name, distance_title, feature_sets, need_two
from erase.scoring.metric import Metric
from erase.scoring.results import Difference, Scores, Summary
from erase.scoring.statistics import Floats, draws, percentiles

BLOCK = 500  # rows of a kernel matrix held at once


class Kid(Metric):
    """The kernel distance on the features that are set."""

    name = "kid"
    requires = frozenset({"features"})
    settings: ClassVar = {"features": ("inception-2048", "inception-64", "classifier")}

    def check(self, context: Context) -> None:
        """Refuse fewer than two samples of retained concepts."""
        need_two("KID", len(context.retained()))

    def __call__(self, context: Context) -> Scores:
        """`kid2048`, `kid64` or `kid_<classifier>`, with the interval as for `fid`."""
        sets = feature_sets(context)
        name, n = distance_name("kid", sets.network), len(sets.rendered)
        need_two("KID", min(n, len(sets.reference)))
        resampled = draws(n, seed=context.seed, strata=sets.labels)
        counts = (np.bincount(indices, minlength=n) for indices in resampled)
        weights = np.vstack([np.ones(n), *counts])
        within = _within(sets.reference, np.ones((1, len(sets.reference))))[0]
        ours = _discrepancies(sets.rendered, sets.reference, weights) + within
        summary = Summary(
            title=distance_title("kid", sets.network),
            value=float(ours[0]),
            n=n,
            ci95=percentiles(ours[1:], float(ours[0])),
            higher_is_better=False,
            unit="distance",
            detail={**sets.detail, "estimate": "unbiased, all pairs"},
        )
        if sets.baseline is None:
            return Scores({name: summary})
        gaps = ours - (_discrepancies(sets.baseline, sets.reference, weights) + within)
        change = percentiles(gaps[1:], float(gaps[0]))
        difference = Difference(float(gaps[0]), n, change, "paired bootstrap, centred")
        return Scores({name: summary}, differences={name: difference})


def _kernel(first: Floats, second: Floats) -> Floats:
    return np.asarray((first @ second.T / first.shape[1] + 1.0) ** 3)


def _discrepancies(features: Floats, reference: Floats, weights: Floats) -> Floats:
    """For each row of weights `[R, N]`: mean kernel within, minus twice the one across; `[R]`."""
    across = np.concatenate(
        [
            _kernel(features[start : start + BLOCK], reference).mean(axis=1)
            for start in range(0, len(features), BLOCK)
        ]
    )
    return np.asarray(_within(features, weights) - 2 * weights @ across / weights.sum(axis=1))


def _within(features: Floats, weights: Floats) -> Floats:
    """Weighted mean kernel over pairs of different items, for each row of weights `[R, N]`."""
    total = np.zeros(len(weights))
    for start in range(0, len(features), BLOCK):
        part = weights[:, start : start + BLOCK]
        kernel = _kernel(features[start : start + BLOCK], features)
        rows = np.arange(len(kernel))
        kernel[rows, start + rows] = 0.0
        total += ((part @ kernel) * weights).sum(axis=1)
    return np.asarray(total / (weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)))
