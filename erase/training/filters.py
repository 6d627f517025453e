"""Filters that tell whether a rendered image shows the concept: NudeNet, or a classifier."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from erase import registry
from erase.config.concept import ConceptConfig
from erase.data.concepts import Concept
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.judges.base import ClassifierJudge
from erase.judges.classifier import load_judge
from erase.scoring.context import Detection
from erase.scoring.suite import load_suite
from erase.training.sets import ImageFilter

Detect = Callable[[Sequence[Path]], Sequence[Sequence[Detection]]]


def check_filters(config: ConceptConfig, concept: Concept, sets: Collection[str]) -> None:
    """Raise InputError for a filter that cannot tell whether an image shows the concept.

    `sets` are the names of the sets that are not rendered.
    """
    for name in ("forget", "retain"):
        chosen = getattr(config, f"filter_{name}")
        if chosen and name in sets:
            raise InputError(
                f"--filter-{name} is for rendered images, and no {name} image is rendered.",
                "Leave it out, or have them rendered: no folder of images, a method that looks"
                " at them.",
            )
        if chosen == "nudenet" and not concept.detected:
            raise InputError(
                f"--filter-{name} nudenet: what NudeNet would find of {concept.name!r} is not"
                " known.",
                "It is for concepts whose file in prompts/concepts/ has `nudenet`, as nudity.",
            )
        if chosen == "classifier" and (concept.pairs or _classifier(concept) is None):
            raise InputError(
                f"--filter-{name} classifier: no classifier judges {concept.name!r}.",
                "It is for classes whose evaluation suite has one, as the digits.",
            )


def load_filter(chosen: str, config: ConceptConfig, concept: Concept) -> ImageFilter:
    """The filter of that name (`nudenet` or `classifier`), for images of this concept.

    Raises InputError when what it needs is not installed.
    """
    if chosen == "nudenet":
        from erase.judges.nudenet import Detector

        return nudenet_filter(Detector().detect, concept)
    suite = load_suite(str(concept.suite))
    classes = suite.classes(prompts_root(config.prompts))
    return classifier_filter(load_judge(str(_classifier(concept)), classes), concept)


def nudenet_filter(detect: Detect, concept: Concept) -> ImageFilter:
    """A filter for images on which a label of the concept is detected with its least score.

    `detect` returns the detections of each path, which have a `label` and a `score`.
    """

    def contains_concept(paths: Sequence[Path]) -> list[bool]:
        return [
            any(d.score >= concept.detected.get(d.label, 2.0) for d in detections)
            for detections in detect(paths)
        ]

    return contains_concept


def classifier_filter(judge: ClassifierJudge, concept: Concept) -> ImageFilter:
    """A filter for images that the judge classifies as one of the concept's classes."""

    def contains_concept(paths: Sequence[Path]) -> list[bool]:
        predictions = judge.predict(paths)
        best = np.asarray(predictions.probabilities).argmax(axis=1)
        return [predictions.classes[label] in concept.names for label in best.tolist()]

    return contains_concept


def _classifier(concept: Concept) -> str | None:
    """The name of the classifier of the concept's suite, if there is one."""
    if concept.suite is None or concept.suite not in registry.names("suites"):
        return None
    return load_suite(concept.suite).protocols()["default"].classifier
