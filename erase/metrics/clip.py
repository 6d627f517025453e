"""CLIP score: how well the images fit their captions, as a named CLIP model sees it.

Hessel et al. 2021, equation 1, with the scale 100 that torchmetrics and most tables use:
100 · max(cosine, 0). 31.3 on this scale is 0.313 on a scale of 1 and 0.78 on the original's 2.5.
Over the images that ask for no forgotten concept: the others should not fit.
"""

from typing import ClassVar

from erase.errors import RunError
from erase.scoring.context import Context
from erase.scoring.metric import Metric
from erase.scoring.results import Scores, mean, mean_difference


class ClipScore(Metric):
    """The CLIP score of the retained images."""

    name = "clip"
    requires = frozenset({"clip"})
    settings: ClassVar = {"model": "vit-l-14"}

    def check(self, context: Context) -> None:
        """Refuse samples of forgotten concepts alone."""
        context.retained()

    def __call__(self, context: Context) -> Scores:
        """`clip_<model>`; in the rows `clip`, for every image."""
        similarity = context.similarity
        if similarity is None or len(similarity.values) != len(context.samples):
            raise RunError(
                "This metric needs CLIP's look at every image.", "Check --set clip.model."
            )
        chosen = context.retained()
        values = 100.0 * similarity.values.clip(min=0.0)
        retained = values[chosen]
        name = f"clip_{similarity.network}"
        summary = mean(
            f"CLIP score ({similarity.network.replace('_', '-')}, of 100)",
            retained,
            seed=context.seed,
            higher_is_better=True,
            unit="score",
            detail={
                "model": similarity.description,
                "scale": "100 · max(cosine, 0)",
                **similarity.detail,
            },
        )
        rows = {
            sample.id: {"clip": float(value)}
            for sample, value in zip(context.samples, values, strict=True)
        }
        if context.baseline is None or context.baseline.similarity is None:
            return Scores({name: summary}, rows)
        before = 100.0 * context.baseline.similarity.values.clip(min=0.0)[chosen]
        return Scores(
            {name: summary}, rows, {name: mean_difference(retained, before, seed=context.seed)}
        )
