"""What metrics on a classifier's predictions share: which images show what was asked for."""

from typing import Any, ClassVar

from erase.errors import RunError
from erase.scoring.context import Context
from erase.scoring.metric import Metric
from erase.scoring.results import Scores, rate, rate_difference


class RecognitionRate(Metric):
    """Share of images that the classifier recognises, or of those that it does not."""

    title: ClassVar[str]
    """The metric's name for people."""
    forgotten: ClassVar[bool]
    """Whether the images of forgotten concepts that are not recognised count, or the images of all
    other concepts that are."""

    def check(self, context: Context) -> None:
        """Refuse samples among which there is none of the kind that is counted."""
        context.indices(forget=self.forgotten)

    def __call__(self, context: Context) -> Scores:
        """The rate, and in its detail the rate by concept and what the images were taken for."""
        rows, concepts = recognised(context, forget=self.forgotten)
        for part in concepts.values():
            count = part["n"] - part["recognised"] if self.forgotten else part["recognised"]
            own = rate("", count, part["n"], higher_is_better=True)
            part |= {"value": own.value, "ci95": own.ci95}
        counted = [row["recognised"] != self.forgotten for row in rows.values()]
        summary = rate(
            self.title,
            sum(counted),
            len(rows),
            higher_is_better=True,
            detail={"classifier": context.classified().classifier, "per_class": concepts},
        )
        differences = {}
        if context.baseline is not None:
            base = recognised(context.baseline, forget=self.forgotten)[0]
            before = [base[sample_id]["recognised"] != self.forgotten for sample_id in rows]
            differences[self.name] = rate_difference(counted, before)
        return Scores({self.name: summary}, rows, differences)


def recognised(
    context: Context, *, forget: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """What the classifier took the forgotten concepts' images for, or those of all others.

    Returns rows by sample id (`predicted`, its `probability`, `probability_of_target`,
    `recognised`), and counts by concept (`n`, `recognised`, `taken_for`: how often each class was
    seen, most frequent first). RunError when there is no such image, or no class of that name.
    """
    predictions = context.classified()
    rows: dict[str, dict[str, Any]] = {}
    concepts: dict[str, dict[str, Any]] = {}
    for index in context.indices(forget=forget):
        sample, row = context.samples[index], predictions.probabilities[index]
        if sample.target not in predictions.classes:
            raise RunError(
                f"The classifier {predictions.classifier} knows no class {sample.target!r}.",
                f"It knows {', '.join(predictions.classes)}.",
            )
        predicted = predictions.classes[int(row.argmax())]
        rows[sample.id] = {
            "predicted": predicted,
            "probability": float(row.max()),
            "probability_of_target": float(row[predictions.classes.index(sample.target)]),
            "recognised": predicted == sample.target,
        }
        part = concepts.setdefault(sample.target, {"n": 0, "recognised": 0, "taken_for": {}})
        part["n"] += 1
        part["recognised"] += predicted == sample.target
        part["taken_for"][predicted] = part["taken_for"].get(predicted, 0) + 1
    for part in concepts.values():
        ordered = sorted(part["taken_for"].items(), key=lambda item: (-item[1], item[0]))
        part["taken_for"] = dict(ordered)
    return rows, concepts
