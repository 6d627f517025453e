"""Fréchet distance between rendered and real images of the retained classes, on named features.

FID as in Heusel et al. 2017, equation 6, d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), but on the
last hidden layer of the suite's own classifier, which its name says: such values compare with each
other, never with FIDs on Inception features. Forgotten classes are left out on both sides.
"""

import numpy as np

from erase.core.scoring import Context, Floats, Scores, Summary, bootstrap
from erase.errors import RunError

NEEDS = frozenset({"classifier", "reference"})


def score(context: Context) -> Scores:
    """`fid_<classifier>` over the images of retained classes.

    The interval resamples the rendered images within their classes, the real ones staying as they
    are, and is centred on the value: it tells the spread, not the bias that a finite number of
    images gives every FID, so compare values of equal n only.
    """
    verdicts = context.judged()
    if context.reference is None:
        raise RunError("FID needs real images.", "Choose a suite that brings a reference.")
    chosen = context.indices(forget=False)
    labels = [context.samples[index].target for index in chosen]
    kept = [label in set(labels) for label in context.reference.labels]
    factor = scaled_factor(real := context.reference.features[kept])
    features = verdicts.features[chosen]

    def distance(indices: np.ndarray[tuple[int], np.dtype[np.intp]]) -> float:
        return frechet_distance(features[indices], real, factor)

    value = distance(np.arange(len(chosen)))
    interval = bootstrap(distance, len(chosen), seed=context.seed, strata=labels, centred=True)
    summary = Summary(
        title=f"FID ({verdicts.classifier.replace('_', ' ')} features)",
        value=value,
        n=len(chosen),
        ci95=(max(interval[0], 0.0), interval[1]),
        higher_is_better=False,
        unit="distance",
        detail={
            "features": f"{verdicts.classifier}, last hidden layer, {features.shape[1]} values",
            "classes": list(dict.fromkeys(labels)),
            "reference": context.reference.description,
            "reference_n": len(real),
        },
    )
    return Scores({f"fid_{verdicts.classifier}": summary})


def scaled_factor(features: Floats) -> Floats:
    """A matrix R with RᵀR = the sample covariance of features `[N, F]`; RunError for N < 2."""
    if len(features) < 2:
        raise RunError("FID needs two images on each side.", "Evaluate more images.")
    centred = features - features.mean(axis=0)
    return np.asarray(np.linalg.qr(centred, mode="r") / np.sqrt(len(features) - 1))


def frechet_distance(first: Floats, second: Floats, second_factor: Floats | None = None) -> float:
    """Squared Fréchet distance of the Gaussians through features `[N, F]` and `[M, F]`, float64.

    With Σ = RᵀR, tr (Σ₁ Σ₂)^½ is the sum of the singular values of R₁R₂ᵀ: no square root is taken
    of eigenvalues that rounding has made negative, and no covariance needs full rank.
    `second_factor` is `scaled_factor(second)`, if known. RunError for fewer than two rows.
    """
    one = scaled_factor(first)
    two = scaled_factor(second) if second_factor is None else second_factor
    shift = first.mean(axis=0) - second.mean(axis=0)
    cross = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    return float(shift @ shift + (one**2).sum() + (two**2).sum() - 2 * cross)
