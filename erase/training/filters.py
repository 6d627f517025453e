"""Filters that tell whether a rendered image shows the concept: NudeNet, or a classifier."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from erase import registry
from erase.config.concept import ConceptConfig
from erase.data.concepts import Concept
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.judges.base import ClassifierJudge
from erase.judges.classifier import load_judge
from erase.scoring.context import Detection
from erase.scoring.samples import CLASS
from erase.scoring.suite import Kind, load_suite
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
        if chosen == "classifier" and not _wanted(concept, config)[0]:
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
    wanted, kinds = _wanted(concept, config)
    judges = {kind: load_judge(of.judge, of.names) for kind, of in kinds.items()}
    return classifier_filter(judges, wanted)


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


def classifier_filter(
    judges: Mapping[str, ClassifierJudge], wanted: Sequence[Mapping[str, str]]
) -> ImageFilter:
    """A filter for images that show one of the things that are wanted, of a pair both.

    Args:
        judges: by kind of thing, what recognises it.
        wanted: what is looked for, each by its kind: `{"style": "flat"}`.
    """

    def contains_concept(paths: Sequence[Path]) -> list[bool]:
        said = {kind: judge.predict(paths) for kind, judge in judges.items()}
        return [
            any(all(said[kind].seen(i) == name for kind, name in one.items()) for one in wanted)
            for i in range(len(paths))
        ]

    return contains_concept


def _wanted(
    concept: Concept, config: ConceptConfig
) -> tuple[list[Mapping[str, str]], dict[str, Kind]]:
    """What each name of the concept is by its kinds, and these kinds with their classifiers.

    Both are empty where the concept's suite has no classifier for one of them.
    """
    if concept.suite is None or concept.suite not in registry.names("suites"):
        return [], {}
    suite, root = load_suite(concept.suite), prompts_root(config.prompts)
    kinds, classifier = suite.kinds(root), suite.protocols()["default"].classifier
    if not kinds and classifier is not None:
        kinds = {CLASS: Kind(suite.classes(root), classifier)}
    wanted = [suite.asks(name, root) or {CLASS: name} for name in concept.names]
    asked = [thing for things in wanted for thing in things.items()]
    if not all(kind in kinds and name in kinds[kind].names for kind, name in asked):
        return [], {}
    return wanted, {kind: kinds[kind] for kind, _ in asked}
