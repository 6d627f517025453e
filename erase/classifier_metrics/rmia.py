"""RMIA: a per-example attack with reference models; AUC, and TPR at 1% FPR, on D_f."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from erase.core.rng import generator
from erase.errors import InputError
from erase.scoring.classifier_metric import (
    ClassifierContext,
    ClassifierMetric,
    Column,
    Labels,
    Numbers,
)
from erase.scoring.statistics import Floats

FALSE_POSITIVES = 0.01
LEAST = 100
"""Non-members below which no threshold has a false positive rate between 0 and 1%."""


class Rmia(ClassifierMetric):
    """How well an attacker with models that never saw D_f tells it from unseen images.

    One half of the unseen images are the non-members, the other half is the population that RMIA
    compares with. The AUC is an average over all thresholds; TPR at 1% FPR says how many samples of
    D_f an attacker can name and be almost sure. It is taken on the likelihood ratios, of which the
    scores are ranks in the population, because at the top end many scores are 1.
    """

    name = "rmia"
    requires = frozenset({"references"})
    columns: ClassVar[Mapping[str, Column]] = {
        "rmia_auc": Column("RMIA AUC", 3),
        "rmia_tpr": Column("RMIA TPR at 1% FPR (%)"),
    }

    def check(self, labels: Labels) -> None:
        """Refuse sets without a sample, a non-member or a population."""
        if not len(labels["forget"]) or len(labels["unseen"]) < 2:
            raise InputError(
                "The metric rmia needs at least two unseen images.", "Use more test data."
            )

    def measure(self, context: ClassifierContext) -> Numbers:
        """`rmia_auc` from 0 to 1; `rmia_tpr` in percent, unless there are too few non-members."""
        order = _order(len(context.labels["unseen"]), context.seed)
        others, population = order[: len(order) // 2], order[len(order) // 2 :]
        own = {name: context.model.confidence(name) for name in context.labels}
        reference = {
            name: np.stack([model.confidence(name) for model in context.references])
            for name in context.labels
        }
        unseen, their = own["unseen"], reference["unseen"]
        crowd = unseen[population], their[:, population]
        forget = rmia_scores(own["forget"], crowd[0], reference["forget"], crowd[1])
        non_members = rmia_scores(unseen[others], crowd[0], their[:, others], crowd[1])
        values: dict[str, float | None] = {"rmia_auc": attack_auc(forget, non_members)}
        if len(non_members) >= LEAST:
            ratios = (
                likelihood_ratio(own["forget"], reference["forget"]),
                likelihood_ratio(unseen[others], their[:, others]),
            )
            values["rmia_tpr"] = 100 * tpr_at(*ratios, FALSE_POSITIVES)
        return values


def _order(count: int, seed: int) -> NDArray[np.int64]:
    order: NDArray[np.int64] = torch.randperm(count, generator=generator(seed, "rmia")).numpy()
    return order


def rmia_scores(
    target: Floats,
    population: Floats,
    target_reference: Floats,
    population_reference: Floats,
    *,
    gamma: float = 1.0,
    offline: float = 0.3,
) -> Floats:
    """RMIA (Zarifzadeh et al., ICML 2024), offline: how much more likely than others a sample is.

    Args:
        target: true-class confidences of the attacked model on the samples, `[M]`.
        population: its confidences on population samples z, `[P]`.
        target_reference: of R reference models that did not see the samples, `[R, M]`.
        population_reference: of the same models on the population, `[R, P]`.
        gamma: least likelihood ratio that counts.
        offline: a of the offline correction p(x) ≈ ½ ((1 + a) p_out + 1 − a).

    Returns:
        Share of z with (p(x|θ)/p(x)) / (p(z|θ)/p(z)) ≥ γ, `[M]` in [0, 1]; higher means member.
    """
    left = likelihood_ratio(target, target_reference, offline)
    right = likelihood_ratio(population, population_reference, offline)
    result: Floats = (left[:, None] >= gamma * right[None, :]).mean(1)
    return result


def likelihood_ratio(seen: Floats, reference: Floats, offline: float = 0.3) -> Floats:
    """p(x|θ) / p(x) of each sample, `[M]`, of which the RMIA score is a rising function.

    Confidences are those of `rmia_scores`: `[M]` of the model, `[R, M]` of the references.
    """
    if not seen.size or reference.ndim != 2 or not len(reference):
        raise InputError("RMIA needs samples and reference models.", "Give at least one each.")
    prior = 0.5 * ((1 + offline) * reference.mean(0) + 1 - offline)
    result: Floats = seen / np.maximum(prior, 1e-12)
    return result


def attack_auc(forget: Floats, non_members: Floats) -> float:
    """Chance that a forget sample's attack score is above a non-member's; 0.5 = nothing leaks."""
    if not (len(forget) and len(non_members)):
        raise InputError("An attack needs both sets.", "One of them is empty.")
    from scipy.stats import mannwhitneyu

    above = mannwhitneyu(forget, non_members, method="asymptotic").statistic
    return float(above / (len(forget) * len(non_members)))


def tpr_at(forget: Floats, non_members: Floats, rate: float) -> float:
    """Largest share of the forget set above a threshold that at most `rate` of non-members exceed.

    Samples whose score is the threshold itself do not count, in either set.
    """
    allowed = int(rate * len(non_members) + 1e-9)
    threshold = np.sort(non_members)[::-1][allowed]
    return float((forget > threshold).mean())
