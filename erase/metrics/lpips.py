"""LPIPS drift: how far the images of other concepts moved from the baseline's on the same seeds.

Zhang et al. 2018, equation 1, between the model's and the baseline's image of each sample. 0 means
that unlearning changed nothing but what it was meant to; rendering is deterministic, so it is exact
for the unchanged model. Images of forgotten concepts are in the rows, not in the value.
"""

from typing import ClassVar

from erase.errors import RunError
from erase.scoring.context import Context
from erase.scoring.metric import Metric
from erase.scoring.results import Scores, mean


class LpipsDrift(Metric):
    """The LPIPS distance of the retained images to the baseline's."""

    name = "lpips"
    requires = frozenset({"lpips", "baseline"})
    settings: ClassVar = {"net": ("alex", "vgg")}

    def check(self, context: Context) -> None:
        """Refuse samples of forgotten concepts alone."""
        context.retained()

    def __call__(self, context: Context) -> Scores:
        """`lpips_<net>`; in the rows `lpips`, for every image."""
        drift = context.drift
        if drift is None or len(drift.values) != len(context.samples):
            raise RunError(
                "LPIPS drift needs the baseline's images of the same samples.",
                "Give --baseline MODEL.",
            )
        retained = drift.values[context.retained()]
        summary = mean(
            f"LPIPS drift ({drift.network})",
            retained,
            seed=context.seed,
            higher_is_better=False,
            unit="distance",
            detail={"network": drift.description, **drift.detail},
        )
        rows = {
            sample.id: {"lpips": float(value)}
            for sample, value in zip(context.samples, drift.values, strict=True)
        }
        return Scores({f"lpips_{drift.network}": summary}, rows)
