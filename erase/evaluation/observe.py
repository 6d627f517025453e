"""The observers that a protocol's metrics need, made before anything is rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from erase import registry
from erase.errors import InputError
from erase.judges.classifier import Judge, load_judge
from erase.judges.clip import Clip
from erase.judges.inception import Inception
from erase.judges.lpips import Lpips
from erase.judges.reference import RealImages, real_images
from erase.scoring.samples import Context, Features, Protocol, Reference, Sample

if TYPE_CHECKING:
    from erase.judges.nudenet import Detector

CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Observers:
    """All that looks at the images of one evaluation; None is what no metric needs."""

    protocol: Protocol
    judge: Judge | None = None
    inception: Mapping[str, Inception] = field(default_factory=dict)
    """By the name that metrics' settings use: `inception-2048`."""
    clip: Clip | None = None
    lpips: Lpips | None = None
    detector: Detector | None = None
    real: RealImages | None = None
    """The reference that the user gave."""
    _references: dict[str, Reference] = field(default_factory=dict)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each observer, by its name, and of the reference's images."""
        found = {
            CLASSIFIER: self.judge,
            **self.inception,
            "clip": self.clip,
            "lpips": self.lpips,
            "nudenet": self.detector,
            "reference": self.real,
        }
        return {name: item.fingerprint() for name, item in found.items() if item is not None}

    def look(
        self, samples: Sequence[Sample], files: Sequence[Path], targets: frozenset[str]
    ) -> Observed:
        """Everything that can be said of one model's images without another's."""
        verdicts = self.judge.verdicts(files) if self.judge else None
        features = {name: net.observe(files) for name, net in self.inception.items()}
        if self.judge is not None and verdicts is not None:
            features[CLASSIFIER] = Features(
                self.judge.name, self.judge.description, verdicts.features
            )
        context = Context(
            samples=samples,
            images=files,
            targets=targets,
            verdicts=verdicts,
            similarity=self.clip.observe(samples, files) if self.clip else None,
            detections=self.detector.detect(files) if self.detector else None,
            seed=self.protocol.seed,
        )
        return Observed(context, features)

    def reference(self, network: str, control: Observed | None) -> Reference | None:
        """What distances on a network's features refer to.

        The user's folder of real images, else the classifier's own, else the control's images.
        """
        if network not in self._references and self.real is not None:
            values = self._look(network, self.real.files)
            found = Reference(self.real.describe(), self.real.labels, values)
            self._references[network] = found
        if network in self._references:
            return self._references[network]
        if network == CLASSIFIER and self.judge and (own := self.judge.reference()):
            return own
        if control is None:
            return None
        labels = tuple(sample.target for sample in control.context.samples)
        text = f"the control's own {len(labels)} images of the same samples, of the retained ones"
        return Reference(text, labels, control.features[network].values)

    def _look(self, network: str, files: Sequence[Path]) -> Any:
        if network == CLASSIFIER:
            return self.judge.verdicts(files).features if self.judge else None
        return self.inception[network].look(files)


@dataclass(frozen=True)
class Observed:
    """What was seen in one model's images."""

    context: Context
    features: Mapping[str, Features]

    def for_metric(self, name: str, observers: Observers, control: Observed | None) -> Context:
        """What one metric may look at, with its settings and the features that they name."""
        settings = observers.protocol.settings.get(name, {})
        network = settings.get("features", "")
        context = replace(
            self.context,
            settings=settings,
            features=self.features.get(network),
            reference=observers.reference(network, control) if network else None,
        )
        if control is None:
            return context
        return replace(context, control=control.for_metric(name, observers, None))


def needs(protocol: Protocol) -> set[str]:
    """What the protocol's metrics need, together."""
    return {need for name in protocol.metrics for need in registry.load("metrics", name).NEEDS}


def find_observers(
    suite: ModuleType,
    protocol: Protocol,
    prompts: Path,
    *,
    targets: frozenset[str] = frozenset(),
    control: bool = False,
    reference: str | None = None,
    device: str = "cpu",
) -> Observers:
    """The observers that a protocol needs.

    Args:
        suite: the protocol's suite.
        protocol: completed settings.
        prompts: where the suite's prompts come from.
        targets: the forgotten concepts.
        control: whether there will be a control's images.
        reference: folder of real images.
        device: where networks run.

    Raises InputError, before anything is rendered, for weights that are not on this machine, and
    when a metric lacks its classifier, its reference, its control or its forgotten concepts.
    """
    wanted = needs(protocol)
    if "control" in wanted and not control:
        raise InputError("LPIPS drift needs a control.", "Give --baseline MODEL.")
    if "targets" in wanted and not targets:
        raise InputError("No concept is named.", "Give --target with what was forgotten.")
    classes: tuple[str, ...] = suite.classes(prompts)
    told = {name: protocol.settings.get(name, {}) for name in (*protocol.metrics, CLASSIFIER)}
    networks = {
        str(told[name]["features"]) for name in protocol.metrics if "features" in told[name]
    }
    judge = None
    if CLASSIFIER in wanted or CLASSIFIER in networks:
        if protocol.classifier is None:
            who = next(name for name in protocol.metrics if _judges(name, told[name]))
            raise InputError(
                f"The metric {who} needs a classifier.",
                "Name one with --classifier, or choose other --metrics.",
            )
        judge = load_judge(protocol.classifier, classes, told[CLASSIFIER], device)
    real = None
    if reference is not None:
        if not networks:
            raise InputError("No metric looks at --reference.", "Leave it out, or add fid or kid.")
        aliases: Mapping[str, str] = getattr(suite, "aliases", lambda _: {})(prompts)
        real = real_images(Path(reference), classes, aliases)
    elif networks and not control and not (networks == {CLASSIFIER} and judge and _own(judge)):
        raise InputError(
            "FID and KID need images to compare with.",
            "Give --reference FOLDER of real images, or --baseline MODEL to compare with its"
            " images, or choose other --metrics.",
        )
    return Observers(
        protocol,
        judge,
        {
            name: Inception(int(name.removeprefix("inception-")), device)
            for name in sorted(networks - {CLASSIFIER})
        },
        Clip(told["clip"]["model"], device) if "clip" in wanted else None,
        Lpips(told["lpips"]["net"], device) if "lpips" in wanted else None,
        _detector(told["nudenet"], device) if "nudenet" in wanted else None,
        real,
    )


def _judges(metric: str, settings: Mapping[str, Any]) -> bool:
    return CLASSIFIER in registry.load("metrics", metric).NEEDS or (
        settings.get("features") == CLASSIFIER
    )


def _own(judge: Judge) -> bool:
    return judge.reference() is not None


def _detector(settings: Mapping[str, Any], device: str) -> Detector:
    from erase.evaluation.ahead import AheadDetector

    providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else None
    return AheadDetector(providers=providers, colour=settings.get("colour", "rgb"))
