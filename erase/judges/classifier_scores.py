"""UA, RA, TA, MIA-efficacy, Avg. Gap and ToW.

Percentages throughout. An empty set is an error: 0 would be the best score there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.svm import SVC
from torch import Tensor, nn

from erase.core.rng import generator
from erase.data.classification import Augmentation, LabelledSet, center
from erase.errors import InputError

Floats = NDArray[np.float64]
GAP_METRICS = ("ua", "ra", "ta", "mia")


@dataclass(frozen=True)
class ClassifierScores:
    """Percentages of one model.

    `ua` is 100 − accuracy on D_f; `ra` and `ta` are the accuracies on D_r and on test images;
    `mia` is the share of D_f that the attack takes for non-members, by confidence; `mia_by` holds
    that share for each feature of the attack, where it was asked for.
    """

    ua: float
    ra: float
    ta: float
    mia: float
    n_forget: int
    n_retain: int
    n_test: int
    mia_by: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@torch.no_grad()
def predict(
    model: nn.Module,
    images: LabelledSet,
    how: Augmentation,
    *,
    batch_size: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """Logits `[N, K]` of images that are not augmented, in evaluation mode, on the CPU."""
    # On a CPU, activations of more images than this at a time do not stay in its caches.
    batch_size = batch_size or (500 if images.labels.is_cuda or how.size < 32 else 50)
    if not len(images):
        raise InputError("There are no images to judge.", "Every set needs at least one.")
    before = model.training
    model.eval()
    parts = []
    for pixels in images.images.split(batch_size):
        with autocast():
            parts.append(model(center(pixels.float() / 255, how)).float().cpu())
    model.train(before)
    return torch.cat(parts)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percentage of rows `[N, K]` whose largest logit is at the label `[N]`; raises on N = 0."""
    if not len(labels):
        raise InputError("An accuracy over nothing is no number.", "Give at least one sample.")
    return 100 * float((logits.argmax(1) == labels.cpu()).double().mean())


def confidence(logits: Tensor, labels: Tensor) -> Floats:
    """Probability of the true class, `[N]` in [0, 1]."""
    chosen = logits.double().softmax(1).gather(1, labels.cpu()[:, None])[:, 0]
    result: Floats = chosen.numpy()
    return result


def attack_features(logits: Tensor, labels: Tensor) -> dict[str, Floats]:
    """What SVC_MIA looks at, each `[N, F]`: true-class confidence and four more.

    Correctness is 1 or 0; entropy −Σ p log p; modified entropy (Song & Mittal, 2021)
    −(1 − p_y) log p_y − Σ_{i≠y} p_i log(1 − p_i); probabilities are all K of them.
    """
    p = logits.double().softmax(1)
    labels = labels.cpu()
    true = p.gather(1, labels[:, None])[:, 0]
    tiny = 1e-30
    others = p * (1 - p).clamp(min=tiny).log()
    others = others.scatter(1, labels[:, None], 0.0)
    columns = {
        "confidence": true,
        "correctness": (p.argmax(1) == labels).double(),
        "entropy": -(p * p.clamp(min=tiny).log()).sum(1),
        "modified entropy": -(1 - true) * true.clamp(min=tiny).log() - others.sum(1),
    }
    features = {name: column[:, None].numpy() for name, column in columns.items()}
    return {**features, "probabilities": p.numpy()}


def mia_efficacy(forget: Floats, members: Floats, non_members: Floats) -> float:
    """Percentage of the forget set that an SVC calls non-member.

    Args:
        forget: a feature on D_f, by default true-class confidence, `[M]` or `[M, F]`.
        members: it on samples that the model was trained on, `[N]` or `[N, F]`.
        non_members: it on test samples, the same.

    Raises:
        InputError: one of them is empty.
    """
    if not (len(forget) and len(members) and len(non_members)):
        raise InputError("A membership attack needs all three sets.", "One of them is empty.")
    forget, members, non_members = (
        values.reshape(len(values), -1) for values in (forget, members, non_members)
    )
    features = np.concatenate([members, non_members])
    known = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    attack = SVC(C=3.0, kernel="rbf", gamma="auto").fit(features, known)
    return 100 * float(np.mean(attack.predict(forget) == 0))


def evaluate(
    model: nn.Module,
    forget: LabelledSet,
    retain: LabelledSet,
    test: LabelledSet,
    how: Augmentation,
    *,
    seed: int,
    without: Tensor | None = None,
    attacks: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> ClassifierScores:
    """All scores of one model.

    Args:
        model: to judge.
        forget: D_f.
        retain: D_r.
        test: images it was never trained on.
        how: the data's augmentation, for the size of the crop.
        seed: of the draw of members.
        without: classes `[C]` that TA and the attack's non-members leave out (class-wise).
        attacks: also attack by every feature of `attack_features`.
        autocast: entered around each forward pass.

    Raises:
        InputError: a set is empty.
    """
    if without is not None:
        remaining = ~torch.isin(test.labels.cpu(), without.cpu())
        test = test.subset(remaining.nonzero().flatten())
    logits = {
        name: predict(model, images, how, autocast=autocast)
        for name, images in (("forget", forget), ("retain", retain), ("test", test))
    }
    # As many members as non-members, drawn at random: the first ones would be of one kind.
    count = min(len(test), len(retain))
    members = torch.randperm(len(retain), generator=generator(seed, "members"))[:count]
    others = torch.randperm(len(test), generator=generator(seed, "non-members"))[:count]
    known = {
        "forget": (logits["forget"], forget.labels),
        "members": (logits["retain"][members], retain.labels.cpu()[members]),
        "others": (logits["test"][others], test.labels.cpu()[others]),
    }
    mia = mia_efficacy(*(confidence(*pair) for pair in known.values()))
    mia_by = None
    if attacks:
        seen = [attack_features(*pair) for pair in known.values()]
        mia_by = {name: mia_efficacy(*(each[name] for each in seen)) for name in seen[0]}
    return ClassifierScores(
        ua=100 - accuracy(logits["forget"], forget.labels),
        ra=accuracy(logits["retain"], retain.labels),
        ta=accuracy(logits["test"], test.labels),
        mia=mia,
        n_forget=len(forget),
        n_retain=len(retain),
        n_test=len(test),
        mia_by=mia_by,
    )


def average_gap(scores: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """Mean absolute difference to Retrain over UA, RA, TA and MIA, in percentage points."""
    return float(np.mean([abs(scores[name] - retrain[name]) for name in GAP_METRICS]))


def tow(scores: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """Tug-of-war (Zhao et al., NeurIPS 2024): Π (1 − |Δ accuracy|) over D_f, D_r, test; 0 to 1."""
    result = 1.0
    for name in ("ua", "ra", "ta"):
        result *= 1 - abs(scores[name] - retrain[name]) / 100
    return result
