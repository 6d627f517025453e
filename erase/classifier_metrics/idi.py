"""IDI: how much of what the original knew of D_f its features still hold; Retrain 0, original 1."""

import math
import warnings
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from erase.core.rng import derive_seed
from erase.errors import InputError
from erase.scoring.classifier_metric import (
    ClassifierContext,
    ClassifierMetric,
    Column,
    Labels,
    Numbers,
)
from erase.scoring.statistics import Floats

MOST = 2000
"""Unseen images that a probe is fitted to, at the most."""
PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Values of C, the inverse of the probe's ℓ2 penalty, to choose from."""
FOLDS = 5
CLEAR = 2.0
"""Standard errors by which the original's information has to exceed Retrain's."""


class Idi(ClassifierMetric):
    """The Information Difference Index of Jeon et al. (2024), by a linear probe of one layer.

    IDI = (I(Z; Y) - I(Z_r; Y)) / (I(Z_o; Y) - I(Z_r; Y)), where Z are the features of D_f in the
    model that is measured, Z_r those in Retrain, Z_o those in the original, and Y the labels of
    D_f. 0 means as much as in Retrain, 1 as much as in the original, below 0 less than in Retrain.
    Only features count: a model of which the head alone was changed has 1, whatever it answers.

    The paper estimates the mutual information by InfoNCE with a trained critic, and sums it over
    layers. Two simplifications are made here: there is one layer, the input of the last linear
    layer, and I is what a linear probe finds. The probe is a logistic regression from the
    frozen features of unseen images of all classes to their labels (features standardised, classes
    weighted equally, the penalty chosen by cross-validation on those images). I is the mean over
    D_f of log2 (p(y|z) / p(y)) in bits, with p(y) = 1/K. D_f never trains the probe, so the
    original stands out by how much better its features of D_f are than those of unseen images. The
    formula is the same for samples and for whole classes.

    Another probe, which tells D_f from unseen images of the same classes, was tried on a small
    CIFAR network (97% of its training images right, 43% of the test images). It sees one forgotten
    class (AUC 0.86 in the original, 0.52 in Retrain) but not 10% random samples (0.46 to 0.54 in
    both): memory moves features towards their class, which is no single direction for all classes.
    """

    name = "idi"
    columns: ClassVar[Mapping[str, Column]] = {"idi": Column("IDI", 2, "not defined")}

    def check(self, labels: Labels) -> None:
        """Refuse a D_f with a class of which there are no unseen images."""
        if unknown := sorted(set(labels["forget"].tolist()) - set(labels["unseen"].tolist())):
            raise InputError(
                f"The metric idi needs unseen images of each class in D_f; class number"
                f" {unknown[0]} has none.",
                "Use test data of all classes, or leave idi out of --metrics.",
            )

    def measure(self, context: ClassifierContext) -> Numbers:
        """`idi_information` in bits, at most log2 K, and `idi_error`, its standard error."""
        labels = context.labels
        self.check(labels)
        bits = information(
            context.model.features("unseen"),
            labels["unseen"],
            context.model.features("forget"),
            labels["forget"],
            seed=context.seed,
        )
        error = float(bits.std(ddof=1) / math.sqrt(len(bits))) if len(bits) > 1 else math.inf
        return {"idi_information": float(bits.mean()), "idi_error": error}

    def relate(self, mine: Numbers, original: Numbers, retrain: Numbers) -> Numbers:
        """`idi`; None where the original's information is not clearly above Retrain's.

        Then nothing about D_f can be measured in this layer: the difference would be divided by
        noise. It is clear from two standard errors on.
        """
        try:
            own, most, least = (float(v["idi_information"] or 0) for v in (mine, original, retrain))
            error = math.hypot(*(float(v["idi_error"] or 0) for v in (original, retrain)))
        except KeyError:  # Retrain or the original failed
            return {}
        room = most - least
        return {"idi": (own - least) / room if room > 0 and room > CLEAR * error else None}


def information(
    features: Floats,
    labels: NDArray[np.int64],
    others: Floats,
    their_labels: NDArray[np.int64],
    *,
    seed: int,
) -> Floats:
    """What a linear probe knows of the labels of each of some other samples, in bits.

    Args:
        features: of the samples that the probe is fitted to, `[N, F]`.
        labels: their classes, `[N]`.
        others: features of the other samples, `[M, F]`.
        their_labels: classes of those, `[M]`; each is one of `labels`.
        seed: of the draw of `MOST` samples, if there are more.

    Returns:
        log2 (p(y|z) / p(y)) of each, `[M]`, where p(y) is 1 over the number of classes.
    """
    random = np.random.default_rng(derive_seed(seed, "idi"))
    chosen = random.permutation(len(labels))[:MOST]
    if not set(their_labels.tolist()) <= set(labels[chosen].tolist()):
        chosen = np.arange(len(labels))
    features, labels = features[chosen], labels[chosen]
    spread = features.std(0)
    kept = spread > 1e-9 * np.abs(features).max(initial=0)
    if not kept.any() or len(set(labels.tolist())) < 2:
        return np.zeros(len(others))
    x, z = ((v[:, kept] - features[:, kept].mean(0)) / spread[kept] for v in (features, others))
    return _Probe(x, labels, _penalty(x, labels)).bits(z, their_labels)


class _Probe:
    """A logistic regression on features `[N, F]` of labels `[N]`, all classes weighted equally."""

    def __init__(self, x: Floats, labels: NDArray[np.int64], penalty: float) -> None:
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it stops at the same place each time, near the end
            self.fitted = LogisticRegression(C=penalty, class_weight="balanced", max_iter=300)
            self.fitted.fit(x, labels)
        self.classes = self.fitted.classes_

    def bits(self, x: Floats, labels: NDArray[np.int64]) -> Floats:
        """log2 (p(y|z) / p(y)) of samples whose classes it was fitted to, `[M]`."""
        scores = self.fitted.decision_function(x)
        if scores.ndim == 1:  # two classes
            scores = np.stack([np.zeros_like(scores), scores], 1)
        own = log_softmax(scores, 1)[np.arange(len(x)), np.searchsorted(self.classes, labels)]
        result: Floats = own / math.log(2) + math.log2(len(self.classes))
        return result


def _penalty(x: Floats, labels: NDArray[np.int64]) -> float:
    """The C of `PENALTIES` with which most is known of what was left out, in `FOLDS` folds.

    Each fold has the classes in the proportions of the whole.
    """
    fold = np.empty(len(labels), dtype=np.int64)
    fold[labels.argsort(kind="stable")] = np.arange(len(labels)) % FOLDS
    known = dict.fromkeys(PENALTIES, 0.0)
    for number in range(FOLDS):
        rest = fold != number
        seen = ~rest & np.isin(labels, labels[rest])
        if len(set(labels[rest].tolist())) < 2 or not seen.any():
            continue
        for penalty in PENALTIES:
            probe = _Probe(x[rest], labels[rest], penalty)
            known[penalty] += float(probe.bits(x[seen], labels[seen]).sum())
    return max(known, key=lambda penalty: known[penalty])
