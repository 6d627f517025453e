"""Metrics that outputs alone do not decide: by their formulas, and on classifiers in which all is
known."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from erase import registry
from erase.classifier_metrics.idi import Idi, information
from erase.classifier_metrics.relearn import CAP, checks
from erase.classifier_metrics.rmia import LEAST, Rmia, tpr_at
from erase.comparison.classifier_report import markdown, summarise, table_columns
from erase.config.classifier import ClassifierConfig, fill
from erase.errors import InputError
from erase.models.classifiers import Classifier
from erase.scoring.classifier_metric import (
    ClassifierContext,
    load_classifier_metric,
    load_classifier_metrics,
)
from erase.training.classifier import Original, run_method
from erase.training.classifier_measures import Measures, ObservedClassifier, related
from erase.training.classifier_runs import choose_forget
from erase.training.worst import hardest
from tests.classifier_world import BATCH, forget_class, labelled, original

NAMES = registry.names("classifier_metrics")


@cache
def world() -> Original:
    """The tiny world with enough unseen images for every value."""
    data = replace(original().data, test=labelled(60, 100))
    return replace(original(), data=data)


@cache
def made(method: str) -> Classifier:
    config = fill(ClassifierConfig(method=method, train_batch_size=BATCH), "digits", 0.25)
    return run_method(world(), forget_class(), config.replace(epochs=6)).model


def blank(keep: int = 0) -> Classifier:
    """The original with constant features, but for some channels of its last convolution."""
    model = deepcopy(world().model)
    layer = model.get_submodule("net.layer3")
    assert isinstance(layer, torch.nn.Sequential)
    convolution = layer[0]
    assert isinstance(convolution, torch.nn.Conv2d)
    with torch.no_grad():
        convolution.weight[keep:] = 0
    return model


def measures(*names: str, **more: Any) -> Measures:
    return Measures(names, world(), forget_class(), seed=0, **more)


# Every metric that is there


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_gives_its_columns_and_the_same_again(name: str) -> None:
    metric = load_classifier_metric(name)
    references = [made("ft"), made("retrain")] if "references" in metric.requires else []
    models = {"original": world().model, "retrain": made("ft"), "head": made("head")}
    before = {key: t.clone() for key, t in models["head"].state_dict().items()}
    found = {k: measures(name, references=references).of(m) for k, m in models.items()}
    mine = found["head"]
    assert measures(name, references=references).of(models["head"]) == mine
    assert all(torch.equal(before[key], t) for key, t in models["head"].state_dict().items())
    assert all(v is None or math.isfinite(v) for each in found.values() for v in each.values())
    shown = related([metric], mine, found["original"], found["retrain"])
    assert set(metric.columns) <= set(shown)
    assert all(column.title for column in metric.columns.values())
    text = markdown(
        summarise({k: [_trial(v)] for k, v in found.items()}, [name]),
        table_columns([name]),
    )
    for column in metric.columns.values():
        assert column.title in text


def _trial(values: Mapping[str, float | None]) -> dict[str, Any]:
    scores = dict.fromkeys(("ua", "ra", "ta", "mia"), 50.0)
    return {"scores": scores, "measured": dict(values), "rte_s": 1.0}


def test_no_two_metrics_name_the_same_value() -> None:
    shown = [column for name in NAMES for column in load_classifier_metric(name).columns]
    assert len(shown) == len(set(shown))


def test_a_metric_with_references_is_refused_without_them() -> None:
    with pytest.raises(InputError, match="rmia needs reference models"):
        load_classifier_metrics(["rmia"])
    with pytest.raises(InputError, match="no metric of classifiers named 'idy'"):
        load_classifier_metrics(["idy"])


# IDI


def test_information_is_that_of_the_probe_in_bits() -> None:
    """Two classes of one Gaussian feature: the probe's log-odds are known up to its penalty."""
    random = np.random.default_rng(0)
    labels = np.arange(1500) % 2
    x = random.normal(size=1500) + np.where(labels, 1.0, -1.0)
    z = np.array([[-2.0], [0.0], [0.5], [3.0]])
    theirs = np.array([0, 0, 1, 1])
    bits = information(x[:, None], labels, z, theirs, seed=0)
    true = np.where(theirs, 1, -1) * 2 * z[:, 0]  # log p(x|1)/p(x|0) = 2x at unit variance
    assert bits == pytest.approx(1 + np.log2(1 / (1 + np.exp(-true))), abs=0.12)
    # And to the digit for the logistic regression that it is.
    scaled = (x[:, None] - x.mean()) / x.std()
    for penalty in (0.001, 0.01, 0.1, 1.0):
        probe = LogisticRegression(C=penalty, class_weight="balanced", max_iter=300)
        p = probe.fit(scaled, labels).predict_proba((z - x.mean()) / x.std())
        if np.allclose(bits, 1 + np.log2(p[np.arange(4), theirs]), atol=1e-6):
            return
    raise AssertionError("the bits are those of no penalty")


def test_features_without_information_hold_none_and_perfect_ones_hold_the_entropy() -> None:
    labels = np.arange(400) % 4
    constant, exact = np.ones((400, 3)), np.eye(4)[labels] * 100
    assert information(constant, labels, constant, labels, seed=0) == pytest.approx(0)
    noise = np.random.default_rng(0).normal(size=(800, 3))
    assert abs(information(noise[:400], labels, noise[400:], labels, seed=0).mean()) < 0.05
    assert information(exact, labels, exact, labels, seed=0).mean() == pytest.approx(2, abs=0.05)


def test_idi_is_0_for_retrain_1_for_the_original_and_linear_between() -> None:
    values = {
        name: {"idi_information": bits, "idi_error": 0.01}
        for name, bits in (("original", 2.0), ("retrain", 0.5), ("half", 1.25), ("less", 0.2))
    }
    found = {
        name: Idi().relate(mine, values["original"], values["retrain"])["idi"]
        for name, mine in values.items()
    }
    assert found == pytest.approx({"original": 1, "retrain": 0, "half": 0.5, "less": -0.2})


@pytest.mark.parametrize(("bits", "error"), [(0.5, 0.0), (0.4, 0.01), (0.7, 0.08)])
def test_idi_is_not_defined_where_the_original_is_not_clearly_above(
    bits: float, error: float
) -> None:
    mine = {"idi_information": bits, "idi_error": error}
    retrain = {"idi_information": 0.5, "idi_error": error}
    assert Idi().relate(mine, mine, retrain) == {"idi": None}
    assert Idi().relate(mine, {}, retrain) == {}  # the original has no value


def test_idi_sees_features_and_no_head() -> None:
    """The head-only baseline has 1, and any head has; features that hold nothing hold 0 bits.

    One channel of the original's features stands in for Retrain, which in this easy world knows
    as much as the original.
    """
    values = measures("idi")
    before, gold = values.of(world().model), values.of(blank(keep=1))
    assert (before["idi_information"] or 0) > (gold["idi_information"] or 0) > 0
    noise = deepcopy(world().model)
    torch.nn.init.normal_(noise.get_submodule(noise.head_name()).weight)  # type: ignore[arg-type]
    for model in (world().model, made("head"), noise):
        assert related(values.metrics, values.of(model), before, gold)["idi"] == pytest.approx(1)
    assert related(values.metrics, gold, before, gold)["idi"] == pytest.approx(0)
    nothing = values.of(blank())
    assert nothing["idi_information"] == 0
    assert related(values.metrics, before, before, nothing)["idi"] == pytest.approx(1)
    assert related(values.metrics, nothing, before, nothing)["idi"] == pytest.approx(0)
    below = related(values.metrics, nothing, before, gold)["idi"]
    room = (before["idi_information"] or 0) - (gold["idi_information"] or 0)
    assert below == pytest.approx(-(gold["idi_information"] or 0) / room)


def test_idi_needs_unseen_images_of_each_class() -> None:
    labels = {"forget": np.array([0, 1]), "unseen": np.array([0, 2])}
    with pytest.raises(InputError, match="class number 1 has none"):
        Idi().check(labels)  # type: ignore[arg-type]


# Relearn time


def test_checks_are_every_step_and_then_every_tenth_more() -> None:
    at = checks(CAP)
    assert at[:11] == list(range(11))
    assert at[-1] == CAP
    assert all(b - a <= max(1, a // 10) for a, b in pairwise(at))
    assert len(at) < 60


def test_relearn_is_the_first_check_at_which_plain_sgd_has_the_loss() -> None:
    """Against a loop of its own, on all of D_f in one batch, so that no draw is involved."""
    forget, base = forget_class(), made("retrain")
    view = ObservedClassifier(base, world(), forget, seed=0)
    model = deepcopy(base).eval()
    images, labels = (
        world().data.train.images[forget].float() / 255,
        world().data.train.labels[forget],
    )
    rate, momentum, losses = 0.05, 0.5, []
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(13):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                v.mul_(momentum).add_(g)
                p.sub_(v, alpha=rate)
    assert losses[0] > losses[6] > losses[12]
    assert view.forget_loss() == pytest.approx(losses[0], rel=1e-4)

    def steps(until: float, at: Sequence[int]) -> int | None:
        return view.relearn(
            until, learning_rate=rate, momentum=momentum, batch_size=1000, checks=at
        )

    everywhere = list(range(13))
    for step in (0, 1, 6, 12):
        assert steps(losses[step] * 1.0005, everywhere) == step
    assert steps(losses[5] * 1.0005, [0, 4, 8, 12]) == 8
    assert steps(losses[12] * 0.5, everywhere) is None
    assert steps(losses[12] * 0.5, [0]) is None


def test_the_original_takes_no_step_and_retrain_more_than_a_suppressed_head() -> None:
    values = measures("relearn")
    assert values.of(world().model) == {"relearn_steps": 0}
    suppressed = deepcopy(world().model)
    with torch.no_grad():
        suppressed.get_submodule(suppressed.head_name()).bias[0] -= 5  # type: ignore[index,operator]
    view = ObservedClassifier(suppressed, world(), forget_class(), seed=0)
    assert view.confidence("forget").mean() < 0.5
    few, many = (values.of(m)["relearn_steps"] for m in (suppressed, made("retrain")))
    assert few is not None
    assert 0 < few < (many or CAP + 1)


# RMIA


def test_tpr_is_scikit_learns_at_the_largest_allowed_rate() -> None:
    random = np.random.default_rng(0)
    for scores in (random.normal, lambda size: random.integers(0, 30, size).astype(float)):
        others, forget = scores(size=300), scores(size=90) + 1
        rates, found, _ = roc_curve(
            np.r_[np.ones(90), np.zeros(300)], np.r_[forget, others], drop_intermediate=False
        )
        for rate in (0.0, 0.01, 0.1):
            expected = found[rates <= rate + 1e-9].max()
            assert tpr_at(forget, others, rate) == pytest.approx(expected)


class Known:
    """A model whose confidences are given."""

    def __init__(self, forget: np.ndarray[Any, Any], unseen: np.ndarray[Any, Any]) -> None:
        self.values = {"forget": forget, "unseen": unseen}

    def confidence(self, subset: str) -> Any:
        return self.values[subset]


def rmia(forget: Any, unseen: Any) -> Mapping[str, float | None]:
    model: Any = Known(forget, unseen)
    reference: Any = Known(np.full(len(forget), 0.5), np.full(len(unseen), 0.5))
    labels = {"forget": np.zeros(len(forget), int), "unseen": np.zeros(len(unseen), int)}
    return Rmia().measure(ClassifierContext(model, model, labels, [reference]))  # type: ignore[arg-type]


def test_rmia_of_models_in_which_all_or_nothing_leaks() -> None:
    unseen = np.linspace(0.1, 0.9, 2 * LEAST)
    everything = rmia(np.full(20, 0.99), unseen)
    assert everything["rmia_tpr"] == 100
    assert everything["rmia_auc"] == pytest.approx(1, abs=0.02)  # few scores of unseen are 1, too
    hidden = rmia(np.full(20, 0.01), unseen)
    assert hidden["rmia_tpr"] == 0
    assert hidden["rmia_auc"] == pytest.approx(0, abs=0.02)
    few = rmia(np.full(20, 0.99), unseen[: 2 * LEAST - 2])
    assert set(few) == {"rmia_auc"}  # no threshold has a rate between 0 and 1%


# Tables


def test_a_table_says_what_is_missing_and_how_often() -> None:
    results = {
        "original": [_trial({"relearn_steps": 0}), _trial({"relearn_steps": 0})],
        "retrain": [_trial({"relearn_steps": None}), _trial({"relearn_steps": None})],
        "ft": [_trial({"relearn_steps": 10}), _trial({"relearn_steps": None})],
        "lur": [_trial({"relearn_steps": 10}), _trial({"relearn_steps": 20})],
        "ga": [{"failed": "diverged"}, {"failed": "diverged"}],
    }
    table = summarise(results, ["relearn"])
    assert table["lur"]["relearn_steps"] == (15, pytest.approx(math.sqrt(50)))
    assert table["ft"]["relearn_steps"] == (None, None)
    text = markdown(table, table_columns(["relearn"]))
    rows = {line.split("|")[1].strip(" *"): line.split("|")[-2] for line in text.splitlines()}
    assert rows["retrain"].strip() == f"not within {CAP}"
    assert rows["ft"].strip() == f"not within {CAP} (1 of 2)"
    assert rows["lur"].strip() == "15 ± 7"
    assert rows["ga"].strip() == "–"


# The samples that are hardest to forget


def test_the_hardest_samples_stay_recognised_by_retrain() -> None:
    chosen = choose_forget(world(), ClassifierConfig(forget="worst:20", seed=3))
    again = choose_forget(world(), ClassifierConfig(forget="worst:20", seed=3))
    assert torch.equal(chosen, again)
    assert len(chosen) == len(set(chosen.tolist())) == 20
    assert set(chosen.tolist()) <= set(world().trained_on.tolist())
    assert set(chosen.tolist()) == set(hardest(world(), 20, seed=3).tolist())
    before = world().model.state_dict()
    assert all(torch.equal(before[k], v) for k, v in original().model.state_dict().items())
    config = fill(ClassifierConfig(method="retrain", train_batch_size=BATCH), "digits", 0.2)
    losses = {}
    for spec in ("worst:20", "random:20"):
        forget = choose_forget(world(), ClassifierConfig(forget=spec, seed=3))
        model = run_method(world(), forget, config.replace(epochs=4)).model
        losses[spec] = ObservedClassifier(model, world(), forget, seed=0).forget_loss()
    assert losses["worst:20"] < 0.5 * losses["random:20"]
