"""Drift: how far the images of other concepts moved from the baseline's, in the classifier's eyes.

1 minus the cosine of the classifier's features of the model's and of the baseline's image of each
sample, from 0 to 2. 0 means that unlearning changed nothing but what it was meant to; rendering is
deterministic, so it is exact for the unchanged model. Images of forgotten concepts are in the rows,
not in the value. `lpips` asks the same of a network that knows all kinds of images.
"""

from typing import ClassVar

import numpy as np

from erase.scoring.context import Context
from erase.scoring.metric import Metric
from erase.scoring.results import Scores, mean


class FeatureDrift(Metric):
    """The mean distance of the retained images' features to those of the baseline's images."""

    name = "drift"
    requires = frozenset({"classifier"})
    heads: ClassVar = {"drift": "drift"}

    def check(self, context: Context) -> None:
        """Refuse samples of forgotten concepts alone."""
        context.retained()

    def __call__(self, context: Context) -> Scores:
        """`drift`, or nothing without a baseline; in the rows `drift`, for every image."""
        ours, kept = context.classified(), context.retained()
        if context.baseline is None:
            return Scores({})
        base = context.baseline.classified()
        lengths = np.linalg.norm(ours.features, axis=1) * np.linalg.norm(base.features, axis=1)
        products = (ours.features * base.features).sum(axis=1)
        values = np.clip(1 - products / np.maximum(lengths, np.finfo(np.float64).tiny), 0.0, 2.0)
        values[(ours.features == base.features).all(axis=1)] = 0.0
        summary = mean(
            f"drift from the baseline ({ours.classifier.replace('_', ' ')} features)",
            values[kept],
            seed=context.seed,
            higher_is_better=False,
            unit="distance",
            detail={"classifier": ours.classifier},
        )
        rows = {
            sample.id: {"drift": float(value)}
            for sample, value in zip(context.samples, values, strict=True)
        }
        return Scores({"drift": summary}, rows)
