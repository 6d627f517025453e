"""What metrics on sets of features share: which images, which reference, which names."""

from dataclasses import dataclass
from typing import Any

from erase.errors import RunError
from erase.scoring.context import Context
from erase.scoring.statistics import Floats


@dataclass(frozen=True)
class FeatureSets:
    """The features that a distance compares."""

    rendered: Floats
    """`[N, F]`, of the images that ask for no forgotten concept."""
    baseline: Floats | None
    """`[N, F]`, of the baseline's images of the same samples; None where they are the reference."""
    reference: Floats
    """`[M, F]`, of reference images of the same classes that show nothing forgotten."""
    labels: tuple[str, ...]
    """`[N]`, the class of each rendered image."""
    network: str
    detail: dict[str, Any]
    """What was compared, for the summary."""


def feature_sets(context: Context) -> FeatureSets:
    """The images of retained classes, and the reference's of those classes.

    Images that show anything forgotten are left out on both sides: of a forgotten style, those of
    all classes in it. A reference without classes is used whole. RunError when the context lacks
    features or a reference, or when the reference has no image of a class that is compared.
    """
    features, reference = context.features, context.reference
    if features is None or reference is None or len(features.values) != len(context.samples):
        raise RunError(
            "This metric needs features of every image, and a reference.",
            "Give --reference FOLDER, or --baseline MODEL to compare with the baseline's images.",
        )
    chosen = context.retained()
    labels = tuple(context.samples[index].target for index in chosen)
    compared, known = set(labels), set(reference.labels) - {""}
    names = reference.names or (frozenset[str](),) * len(reference.labels)
    comparable = [
        (not known or label in compared) and not shows & context.targets
        for label, shows in zip(reference.labels, names, strict=True)
    ]
    if lacking := sorted(compared - known if known else ()):
        raise RunError(
            f"The reference has no image of {lacking[0]!r}.", "Give a --reference with every class."
        )
    baseline, other = None, context.baseline
    if other is not None and other.features is not None and other.reference is not None:
        baseline = other.features.values[chosen]
    real = reference.features[comparable]
    detail = {
        "features": features.description,
        "classes": [name for name in dict.fromkeys(labels) if name],
        "reference": reference.description,
        "reference_n": len(real),
    }
    rendered = features.values[chosen]
    return FeatureSets(rendered, baseline, real, labels, features.network, detail)


def need_two(metric: str, count: int) -> None:
    """RunError for fewer than two images, between which no distance is defined."""
    if count < 2:
        raise RunError(f"{metric} needs two images on each side.", "Evaluate more images.")


def distance_name(metric: str, network: str) -> str:
    """Name of a distance on a network's features: `fid2048`, `fid_digits_classifier`."""
    return metric + network if network.isdigit() else f"{metric}_{network}"


def distance_title(metric: str, network: str) -> str:
    """The name for people."""
    if network.isdigit():
        return f"{metric.upper()} ({network} Inception features)"
    return f"{metric.upper()} ({network.replace('_', ' ')} features)"
