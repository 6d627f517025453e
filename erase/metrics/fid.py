"""Fréchet distance between rendered and reference images of the retained classes.

FID as in Heusel et al. 2017, equation 6 (`erase.scoring.frechet`), on the features of its name:
`fid2048` is the standard FID, `fid64` what SalUn's and LUR's tables for Stable Diffusion hold
(torchmetrics with `feature=64`), `fid_<classifier>` the last hidden layer of a classifier. Values
on different features, against different references, or of different n never compare. Forgotten
classes are left out on both sides.
"""

from typing import ClassVar

import numpy as np

from erase.scoring.context import Context
from erase.scoring.features import distance_name, distance_title, feature_sets, need_two
from erase.scoring.frechet import frechet_distance, frechet_influence, scaled_factor
from erase.scoring.metric import Metric
from erase.scoring.results import Difference, Scores, Summary
from erase.scoring.statistics import Floats, Indices, draws, percentiles

EXACT = 256  # features up to which every resample is worked out


class Fid(Metric):
    """The Fréchet distance on the features that are set."""

    name = "fid"
    requires = frozenset({"features"})
    settings: ClassVar = {"features": ("inception-2048", "inception-64", "classifier")}

    def check(self, context: Context) -> None:
        """Refuse fewer than two samples of retained concepts."""
        need_two("FID", len(context.retained()))

    def __call__(self, context: Context) -> Scores:
        """`fid2048`, `fid64` or `fid_<classifier>` over the images of retained classes.

        The interval resamples the rendered images within their classes, the reference staying as it
        is, and is centred on the value: it tells the spread, not the bias that a finite number of
        images gives every FID, so compare values of equal n only. The difference to the baseline
        resamples both on the same samples. On more than 256 features, where one distance takes
        seconds, the resamples are worked out to first order (`frechet_influence`).
        """
        sets = feature_sets(context)
        name, n = distance_name("fid", sets.network), len(sets.rendered)
        factor = scaled_factor(sets.reference)
        chosen = np.stack(list(draws(n, seed=context.seed, strata=sets.labels)))
        value, spread = _resampled(sets.rendered, sets.reference, factor, chosen)
        low, high = percentiles(spread, value)
        exact = sets.rendered.shape[1] <= EXACT
        summary = Summary(
            title=distance_title("fid", sets.network),
            value=value,
            n=n,
            ci95=(max(low, 0.0), high),
            higher_is_better=False,
            unit="distance",
            detail={**sets.detail, "interval": f"bootstrap, {'exact' if exact else 'first order'}"},
        )
        if sets.baseline is None:
            return Scores({name: summary})
        base, base_spread = _resampled(sets.baseline, sets.reference, factor, chosen)
        change = percentiles(spread - base_spread, value - base)
        difference = Difference(value - base, n, change, "paired bootstrap, centred")
        return Scores({name: summary}, differences={name: difference})


def _resampled(
    features: Floats, reference: Floats, factor: Floats, chosen: Indices
) -> tuple[float, Floats]:
    """The distance, and what it is on each of the resamples `chosen [R, N]`: `[R]`."""
    if features.shape[1] <= EXACT:
        value = frechet_distance(features, reference, factor)
        distances = [frechet_distance(features[row], reference, factor) for row in chosen]
        return value, np.array(distances)
    value, influence = frechet_influence(features, reference, factor)
    return value, value + influence[chosen].sum(axis=1) - influence.sum()
