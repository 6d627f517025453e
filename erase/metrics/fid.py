"""Fréchet distance between rendered and real images of the retained classes, on named features.

FID as in Heusel et al. 2017, equation 6 (`erase.core.frechet`), but on the last hidden layer of the
suite's own classifier, which its name says: such values compare with each other, never with FIDs on
Inception features. Forgotten classes are left out on both sides.
"""

import numpy as np

from erase.core.frechet import frechet_distance, scaled_factor
from erase.core.scoring import Context, Scores, Summary, bootstrap
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
