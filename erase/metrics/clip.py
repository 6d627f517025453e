"""CLIP score: how well the images fit their captions, as a named CLIP model sees it.

Hessel et al. 2021, equation 1, with the scale 100 that torchmetrics and most tables use:
100 · max(cosine, 0). 31.3 on this scale is 0.313 on a scale of 1 and 0.78 on the original's 2.5.
Over the images that ask for no forgotten concept: the others should not fit.
"""

from erase.errors import RunError
from erase.scoring.samples import Context, Scores, Summary, mean_difference
from erase.scoring.statistics import bootstrap

NEEDS = frozenset({"clip"})
SETTINGS = {"model": "vit-l-14"}


def score(context: Context) -> Scores:
    """`clip_<model>`; in the rows `clip`, for every image."""
    found = context.similarity
    if found is None or len(found.values) != len(context.samples):
        raise RunError("This metric needs CLIP's look at every image.", "Check --set clip.model.")
    chosen = context.kept()
    values = 100.0 * found.values.clip(min=0.0)
    kept = values[chosen]
    name = f"clip_{found.network}"
    summary = Summary(
        title=f"CLIP score ({found.network.replace('_', '-')}, of 100)",
        value=float(kept.mean()),
        n=len(kept),
        ci95=bootstrap(lambda i: float(kept[i].mean()), len(kept), seed=context.seed),
        higher_is_better=True,
        unit="score",
        detail={"model": found.description, "scale": "100 · max(cosine, 0)", **found.detail},
    )
    rows = {
        sample.id: {"clip": float(value)}
        for sample, value in zip(context.samples, values, strict=True)
    }
    if context.control is None or context.control.similarity is None:
        return Scores({name: summary}, rows)
    before = 100.0 * context.control.similarity.values.clip(min=0.0)[chosen]
    return Scores({name: summary}, rows, {name: mean_difference(kept, before, seed=context.seed)})
