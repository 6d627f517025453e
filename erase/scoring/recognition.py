"""What metrics on a classifier's predictions share: which images show what was asked for."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from erase.errors import RunError
from erase.scoring.context import Context, Predictions
from erase.scoring.metric import Metric
from erase.scoring.names import PAIR
from erase.scoring.results import Scores, rate, rate_difference
from erase.scoring.samples import things


class RecognitionRate(Metric):
    """Share of images that the classifier recognises, or of those that it does not."""

    title: ClassVar[str]
    """The metric's name for people."""
    forgotten: ClassVar[bool]
    """Whether the images of forgotten concepts that are not recognised count, or the images of all
    other concepts that are."""

    def check(self, context: Context) -> None:
        """Refuse samples among which there is none of the kind that is counted."""
        named(context, forget=self.forgotten)

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
            detail={
                "classifier": ", ".join(_classifiers(context, forget=self.forgotten)),
                "per_class": concepts,
            },
        )
        differences = {}
        if context.baseline is not None:
            base = recognised(context.baseline, forget=self.forgotten)[0]
            before = [base[sample_id]["recognised"] != self.forgotten for sample_id in rows]
            differences[self.name] = rate_difference(counted, before)
        return Scores({self.name: summary}, rows, differences)


def named(context: Context, *, forget: bool) -> list[int]:
    """As `Context.indices`, of samples whose prompt calls the concept by its name."""
    positions = context.indices(forget=forget)
    chosen = [i for i in positions if context.samples[i].ordinary]
    if not chosen:
        raise RunError("No prompt calls a concept by its name.", "Evaluate more images.")
    return chosen


def recognised(
    context: Context, *, forget: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """What the classifier took the forgotten concepts' images for, or those of all others.

    Where samples ask for several kinds of things, an image of forgotten ones is judged by the
    classifier of their kind, and shows the concept if it shows one of them. A pair is shown where
    both of its things are; its probability is the product of theirs.

    Returns rows by sample id (`predicted`, its `probability`, `probability_of_target`,
    `recognised`), and counts by concept (`n`, `recognised`, `taken_for`: how often each class was
    seen, most frequent first). RunError when there is no such image, or no class of that name.
    """
    rows: dict[str, dict[str, Any]] = {}
    concepts: dict[str, dict[str, Any]] = {}
    for index, name, judged in _judged(context, forget=forget):
        sample_id = context.samples[index].id
        row = _joined([_row(predictions, index, thing) for thing, predictions in judged])
        if sample_id not in rows or row["recognised"]:
            rows[sample_id] = row
        part = concepts.setdefault(name, {"n": 0, "recognised": 0, "taken_for": {}})
        part["n"] += 1
        part["recognised"] += row["recognised"]
        seen = row["predicted"]
        part["taken_for"][seen] = part["taken_for"].get(seen, 0) + 1
    for part in concepts.values():
        ordered = sorted(part["taken_for"].items(), key=lambda item: (-item[1], item[0]))
        part["taken_for"] = dict(ordered)
    return rows, concepts


def _judged(
    context: Context, *, forget: bool
) -> Iterator[tuple[int, str, list[tuple[str, Predictions]]]]:
    """What each image was asked for and is judged by: its things, and what is said of them."""
    for index in named(context, forget=forget):
        sample = context.samples[index]
        if not context.kinds:
            yield index, sample.target, [(sample.target, context.classified())]
            continue
        wanted = context.targets if forget else {sample.target}
        for name, kinds in things(sample.target, sample.asks).items():
            if name in wanted and kinds:
                yield index, name, [(sample.asks[kind], context.kinds[kind]) for kind in kinds]


def _classifiers(context: Context, *, forget: bool) -> list[str]:
    """The names of those that judge these images."""
    every = _judged(context, forget=forget)
    return list(dict.fromkeys(by.classifier for _, _, judged in every for _, by in judged))


def _joined(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of those of a pair's things."""
    if len(rows) == 1:
        return rows[0]
    return {
        "predicted": PAIR.join(row["predicted"] for row in rows),
        "probability": math.prod(row["probability"] for row in rows),
        "probability_of_target": math.prod(row["probability_of_target"] for row in rows),
        "recognised": all(row["recognised"] for row in rows),
    }


def _row(predictions: Predictions, index: int, name: str) -> dict[str, Any]:
    if name not in predictions.classes:
        raise RunError(
            f"The classifier {predictions.classifier} knows no class {name!r}.",
            f"It knows {', '.join(predictions.classes)}.",
        )
    row = predictions.probabilities[index]
    predicted = predictions.seen(index)
    return {
        "predicted": predicted,
        "probability": float(row.max()),
        "probability_of_target": float(row[predictions.classes.index(name)]),
        "recognised": predicted == name,
    }
