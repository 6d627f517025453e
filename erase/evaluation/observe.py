"""The observers that a protocol's metrics need; they are made before anything is rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase.errors import InputError
from erase.judges.base import ClassifierJudge
from erase.judges.classifier import load_judge
from erase.judges.clip import Clip
from erase.judges.inception import Inception
from erase.judges.lpips import Lpips
from erase.judges.reference import RealImages, real_images
from erase.scoring.context import Context, Features, Reference
from erase.scoring.judge import Judge, PluginJudge, View, judge_class
from erase.scoring.metric import IN_THIS_PACKAGE, Metric, load_metric
from erase.scoring.samples import Protocol
from erase.scoring.statistics import Floats
from erase.scoring.suite import Suite

if TYPE_CHECKING:
    from erase.judges.nudenet import Detector

CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Observers:
    """The judges of one evaluation's images; None for a judge that no metric needs."""

    protocol: Protocol
    classifier: ClassifierJudge | None = None
    kinds: Mapping[str, ClassifierJudge] = field(default_factory=dict)
    """By kind of thing, where a suite asks for several."""
    neighbours: Mapping[str, Sequence[str]] = field(default_factory=dict)
    inception: Mapping[str, Inception] = field(default_factory=dict)
    """By the name that metrics' settings use: `inception-2048`."""
    clip: Clip | None = None
    lpips: Lpips | None = None
    detector: Detector | None = None
    real: RealImages | None = None
    """The reference that the user gave."""
    others: Mapping[str, PluginJudge] = field(default_factory=dict)
    """Judges of other packages, by their names."""
    _references: dict[str, Reference] = field(default_factory=dict)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each observer, by its name, and of the reference's images."""
        observers: dict[str, Judge[Any] | RealImages | None] = {
            CLASSIFIER: self.classifier,
            **{judge.name: judge for judge in self.kinds.values()},
            **self.inception,
            "clip": self.clip,
            "lpips": self.lpips,
            "nudenet": self.detector,
            "reference": self.real,
            **self.others,
        }
        return {name: item.fingerprint() for name, item in observers.items() if item is not None}

    def look(self, view: View, targets: frozenset[str]) -> Observed:
        """Everything that the judges measure on one model's images alone."""
        judges = dict.fromkeys((self.classifier, *self.kinds.values()))  # one may be both
        looked = {judge: judge.look(view) for judge in judges if judge is not None}
        predictions = looked[self.classifier] if self.classifier is not None else None
        features = {name: net.look(view) for name, net in self.inception.items()}
        if self.classifier is not None and predictions is not None:
            features[CLASSIFIER] = Features(
                self.classifier.name, self.classifier.description, predictions.features
            )
        context = Context(
            samples=view.samples,
            images=view.files,
            targets=targets,
            predictions=predictions,
            kinds={kind: looked[judge] for kind, judge in self.kinds.items()},
            neighbours=self.neighbours,
            similarity=self.clip.look(view) if self.clip else None,
            detections=self.detector.look(view) if self.detector else None,
            judged={name: judge.look(view) for name, judge in self.others.items()},
            seed=self.protocol.seed,
        )
        return Observed(context, features)

    def reference(self, network: str, baseline: Observed | None) -> Reference | None:
        """The reference of distances on a network's features.

        It is the user's folder of real images, else the classifier's own reference, else the images
        of the baseline.
        """
        if network not in self._references and self.real is not None:
            values = self._features(network, self.real.files)
            reference = Reference(self.real.describe(), self.real.labels, values)
            self._references[network] = reference
        if network in self._references:
            return self._references[network]
        if network == CLASSIFIER and self.classifier:
            classifier_reference = self.classifier.reference()
            if classifier_reference is not None:
                return classifier_reference
        if baseline is None:
            return None
        samples = baseline.context.samples
        labels = tuple(sample.target for sample in samples)
        text = f"the baseline's own {len(labels)} images of the same samples, of the retained ones"
        return Reference(
            text, labels, baseline.features[network].values, tuple(s.names() for s in samples)
        )

    def _features(self, network: str, files: Sequence[Path]) -> Floats:
        if network == CLASSIFIER and self.classifier is not None:
            return self.classifier.predict(files).features
        return self.inception[network].values(files)


@dataclass(frozen=True)
class Observed:
    """The judges' measurements on one model's images."""

    context: Context
    features: Mapping[str, Features]

    def for_metric(self, name: str, observers: Observers, baseline: Observed | None) -> Context:
        """The context of one metric, with its settings and the features that they name."""
        settings = observers.protocol.settings.get(name, {})
        network = settings.get("features", "")
        context = replace(
            self.context,
            settings=settings,
            features=self.features.get(network),
            reference=observers.reference(network, baseline) if network else None,
        )
        if baseline is None:
            return context
        return replace(context, baseline=baseline.for_metric(name, observers, None))


def requirements(protocol: Protocol) -> set[str]:
    """Everything that the protocol's metrics require."""
    return {need for name in protocol.metrics for need in load_metric(name).requires}


def find_observers(
    suite: Suite,
    protocol: Protocol,
    prompts: Path,
    *,
    targets: frozenset[str] = frozenset(),
    baseline: bool = False,
    reference: str | None = None,
    follow_links: bool | None = False,
    device: str = "cpu",
) -> Observers:
    """The observers that a protocol needs.

    Args:
        suite: the protocol's suite.
        protocol: completed settings.
        prompts: where the suite's prompts come from.
        targets: the forgotten concepts.
        baseline: whether there will be a baseline's images.
        reference: folder of real images.
        follow_links: whether links may lead out of it.
        device: where networks run.

    Raises InputError, before anything is rendered, for weights that are not on this machine, and
    when a metric lacks its classifier, its reference, its baseline or its forgotten concepts.
    """
    required = requirements(protocol)
    if "baseline" in required and not baseline:
        raise InputError("LPIPS drift needs a baseline.", "Give --baseline MODEL.")
    if "targets" in required and not targets:
        raise InputError("No concept is named.", "Give --target with what was forgotten.")
    classes = suite.classes(prompts)
    others = sorted(required - IN_THIS_PACKAGE)
    sections = (*protocol.metrics, CLASSIFIER, *others)
    settings = {name: protocol.settings.get(name, {}) for name in sections}
    networks = {
        str(settings[name]["features"]) for name in protocol.metrics if "features" in settings[name]
    }
    kinds, neighbours = suite.kinds(prompts), suite.neighbours(prompts)
    first = next(iter(kinds), None)  # the kind of thing that the protocol's classifier recognises
    classifier = None
    if CLASSIFIER in required or CLASSIFIER in networks or ("kinds" in required and not kinds):
        if protocol.classifier is None:
            metric = next(
                name
                for name in protocol.metrics
                if _uses_classifier(load_metric(name), settings[name])
            )
            raise InputError(
                f"The metric {metric} needs a classifier.",
                "Name one with --classifier, or choose other --metrics.",
            )
        near = neighbours if "neighbours" in protocol.metrics else {}
        beside = (name for target in sorted(targets) for name in near.get(target, ()))
        known = kinds[first].names if first else tuple(dict.fromkeys((*classes, *beside)))
        classifier = load_judge(
            protocol.classifier, known, settings[CLASSIFIER], device, suite.aliases(prompts)
        )
    real = None
    if reference is not None:
        if not networks:
            raise InputError("No metric looks at --reference.", "Leave it out, or add fid or kid.")
        aliases = suite.aliases(prompts)
        real = real_images(Path(reference), classes, aliases, follow_links=follow_links)
    elif (
        networks
        and not baseline
        and not (networks == {CLASSIFIER} and classifier and classifier.reference())
    ):
        raise InputError(
            "FID and KID need images to compare with.",
            "Give --reference FOLDER of real images, or --baseline MODEL to compare with its"
            " images, or choose other --metrics.",
        )
    return Observers(
        protocol,
        classifier,
        {
            kind: classifier
            if classifier is not None and kind == first
            else load_judge(wanted.judge, wanted.names, device=device)
            for kind, wanted in kinds.items()
        }
        if required & {CLASSIFIER, "kinds"}
        else {},
        neighbours,
        {
            name: Inception(int(name.removeprefix("inception-")), device)
            for name in sorted(networks - {CLASSIFIER})
        },
        Clip(settings["clip"]["model"], device) if "clip" in required else None,
        Lpips(settings["lpips"]["net"], device) if "lpips" in required else None,
        _detector(settings["nudenet"], device) if "nudenet" in required else None,
        real,
        {name: judge_class(name)(settings[name], device) for name in others},
    )


def _uses_classifier(metric: Metric, settings: Mapping[str, Any]) -> bool:
    return bool({CLASSIFIER, "kinds"} & metric.requires) or settings.get("features") == CLASSIFIER


def _detector(settings: Mapping[str, Any], device: str) -> Detector:
    from erase.evaluation.ahead import AheadDetector

    providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else None
    return AheadDetector(providers=providers, colour=settings.get("colour", "rgb"))
