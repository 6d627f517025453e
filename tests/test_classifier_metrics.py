"""Classifier metrics against scikit-learn, and against themselves where it has none."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.svm import SVC

from erase.classifier_metrics.rmia import attack_auc, rmia_scores
from erase.data.classification import LabelledSet
from erase.errors import InputError
from erase.judges.classifier_scores import (
    accuracy,
    average_gap,
    confidence,
    evaluate,
    mia_efficacy,
    predict,
    tow,
)
from tests.classifier_world import forget_class, original


def test_accuracy_is_scikit_learns() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn((50, 4), generator=random), torch.arange(50) % 4
    assert accuracy(logits, labels) == pytest.approx(
        100 * accuracy_score(labels.numpy(), logits.argmax(1).numpy())
    )


def test_nothing_to_judge_is_an_error_and_not_the_best_score() -> None:
    with pytest.raises(InputError):
        accuracy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError):
        mia_efficacy(np.zeros(0), np.ones(3), np.ones(3))
    with pytest.raises(InputError):
        attack_auc(np.zeros(0), np.ones(3))
    world = original()
    empty = LabelledSet(world.data.test.images[:0], world.data.test.labels[:0])
    with pytest.raises(InputError):
        predict(world.model, empty, world.data.augmentation)


def test_mia_is_the_share_that_an_svc_calls_non_member() -> None:
    random = np.random.default_rng(0)
    members, others = random.beta(8, 2, 60), random.beta(4, 4, 60)
    forget = random.beta(6, 3, 40)
    attack = SVC(C=3, kernel="rbf", gamma="auto")
    attack.fit(np.r_[members, others].reshape(-1, 1), np.r_[np.ones(60), np.zeros(60)].astype(int))
    expected = 100 * (1 - attack.predict(forget.reshape(-1, 1)).mean())
    assert mia_efficacy(forget, members, others) == pytest.approx(expected)


def test_scores_of_a_whole_model() -> None:
    world = original()
    forget = forget_class()
    retain = world.trained_on[~torch.isin(world.trained_on, forget)]
    train, how = world.data.train, world.data.augmentation
    forget_set, retain_set, test = train.subset(forget), train.subset(retain), world.data.test
    scores = evaluate(
        world.model, forget_set, retain_set, test, how, seed=0, without=torch.tensor([0])
    )
    kept = world.data.test.labels != 0
    with torch.no_grad():
        said = world.model.eval()(world.data.test.images / 255).argmax(1)
        forgotten = world.model(forget_set.images / 255).argmax(1)
    expected = 100 * accuracy_score(world.data.test.labels[kept], said[kept])
    assert scores.ta == pytest.approx(expected)
    assert scores.ua == pytest.approx(100 - 100 * accuracy_score(forget_set.labels, forgotten))
    tested = int((world.data.test.labels != 0).sum())  # class 0 is left out
    assert (scores.n_forget, scores.n_retain, scores.n_test) == (len(forget), len(retain), tested)
    assert min(len(forget), len(retain)) > 0
    assert scores == evaluate(
        world.model, forget_set, retain_set, test, how, seed=0, without=torch.tensor([0])
    )


def test_confidence_is_the_softmax_of_the_true_class() -> None:
    logits = torch.tensor([[0.0, np.log(3.0)]])
    assert confidence(logits, torch.tensor([1])) == pytest.approx([0.75])


def test_gaps() -> None:
    gold = {"ua": 5.0, "ra": 100.0, "ta": 94.0, "mia": 12.0}
    mine = {"ua": 3.0, "ra": 99.0, "ta": 95.0, "mia": 8.0}
    assert average_gap(mine, gold) == pytest.approx(2.0)
    assert average_gap(gold, gold) == 0
    assert tow(mine, gold) == pytest.approx(0.98 * 0.99 * 0.99)


def test_auc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 5, 30) / 5, random.integers(0, 6, 40) / 5
    expected = roc_auc_score(np.r_[np.ones(30), np.zeros(40)], np.r_[a, b])
    assert attack_auc(a, b) == pytest.approx(expected)


def test_rmia_by_its_definition() -> None:
    random = np.random.default_rng(0)
    seen, population = random.uniform(0.1, 1, 4), random.uniform(0.1, 1, 6)
    out_x, out_z = random.uniform(0.1, 1, (3, 4)), random.uniform(0.1, 1, (3, 6))
    scores = rmia_scores(seen, population, out_x, out_z, gamma=1.2, offline=0.5)
    for i in range(4):
        p_x = 0.5 * (1.5 * out_x[:, i].mean() + 0.5)
        count = 0
        for j in range(6):
            p_z = 0.5 * (1.5 * out_z[:, j].mean() + 0.5)
            count += (seen[i] / p_x) / (population[j] / p_z) >= 1.2
        assert scores[i] == pytest.approx(count / 6)
    with pytest.raises(InputError):
        rmia_scores(seen, population, out_x[:0], out_z[:0])
