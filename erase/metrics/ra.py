"""Retained accuracy: share of images of all other concepts that show what was asked for.

RA as in SalUn (Fan et al. 2024, section 5), on generated images: the classifier's accuracy over the
classes that were to be kept.
"""

from erase.scoring.context import Context, recognised
from erase.scoring.metric import Metric
from erase.scoring.results import Scores, rate, rate_difference


class RetainedAccuracy(Metric):
    """Retained accuracy, by the evaluation's classifier."""

    name = "ra"
    requires = frozenset({"classifier"})

    def __call__(self, context: Context) -> Scores:
        """`ra`, and in its detail the value by concept and what the images were taken for."""
        rows, concepts = recognised(context, forget=False)
        for part in concepts.values():
            own = rate("", part["recognised"], part["n"], higher_is_better=True)
            part |= {"value": own.value, "ci95": own.ci95}
        shown = [bool(row["recognised"]) for row in rows.values()]
        summary = rate(
            "retained accuracy",
            sum(shown),
            len(rows),
            higher_is_better=True,
            detail={"classifier": context.classified().classifier, "per_class": concepts},
        )
        differences = {}
        if context.control is not None:
            before = recognised(context.control, forget=False)[0]
            differences["ra"] = rate_difference(shown, [before[i]["recognised"] for i in rows])
        return Scores({"ra": summary}, rows, differences)
