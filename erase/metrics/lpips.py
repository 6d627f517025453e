"""LPIPS drift: how far the images of all other concepts moved from the control's on the same seeds.

Zhang et al. 2018, equation 1, between the model's and the control's image of each sample. 0 means
that unlearning changed nothing but what it was meant to; rendering is deterministic, so it is exact
for the unchanged model. Images of forgotten concepts are in the rows, not in the value.
"""

from erase.errors import RunError
from erase.scoring.samples import Context, Scores, Summary
from erase.scoring.statistics import bootstrap

NEEDS = frozenset({"lpips", "control"})
SETTINGS = {"net": ("alex", "vgg")}


def score(context: Context) -> Scores:
    """`lpips_<net>`; in the rows `lpips`, for every image."""
    found = context.drift
    if found is None or len(found.values) != len(context.samples):
        raise RunError(
            "LPIPS drift needs the control's images of the same samples.", "Give --baseline MODEL."
        )
    kept = found.values[context.kept()]
    summary = Summary(
        title=f"LPIPS drift ({found.network})",
        value=float(kept.mean()),
        n=len(kept),
        ci95=bootstrap(lambda i: float(kept[i].mean()), len(kept), seed=context.seed),
        higher_is_better=False,
        unit="distance",
        detail={"network": found.description, **found.detail},
    )
    rows = {
        sample.id: {"lpips": float(value)}
        for sample, value in zip(context.samples, found.values, strict=True)
    }
    return Scores({f"lpips_{found.network}": summary}, rows)
