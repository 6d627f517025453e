"""Unlearning accuracy: share of images asked to show a forgotten concept that do not show it.

UA as in SalUn (Fan et al. 2024, section 5): 1 minus the classifier's accuracy on the images of the
forgotten class. A model that renders noise scores 1 as well: read it beside `ra` and `fid`.
"""

from erase.scoring.context import Context, recognised
from erase.scoring.metric import Metric
from erase.scoring.results import Scores, rate, rate_difference


class UnlearningAccuracy(Metric):
    """Unlearning accuracy, by the evaluation's classifier."""

    name = "ua"
    requires = frozenset({"targets", "classifier"})

    def __call__(self, context: Context) -> Scores:
        """`ua`, and in its detail the value by concept and what the images were taken for."""
        rows, concepts = recognised(context, forget=True)
        for part in concepts.values():
            own = rate("", part["n"] - part["recognised"], part["n"], higher_is_better=True)
            part |= {"value": own.value, "ci95": own.ci95}
        gone = [not row["recognised"] for row in rows.values()]
        summary = rate(
            "unlearning accuracy",
            sum(gone),
            len(rows),
            higher_is_better=True,
            detail={"classifier": context.classified().classifier, "per_class": concepts},
        )
        differences = {}
        if context.control is not None:
            before = recognised(context.control, forget=True)[0]
            differences["ua"] = rate_difference(gone, [not before[i]["recognised"] for i in rows])
        return Scores({"ua": summary}, rows, differences)
