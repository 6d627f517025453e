import json
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from erase import registry
from erase.core.frechet import frechet_distance
from erase.core.scoring import Context, Reference, Sample, Scores, Verdicts
from erase.errors import RunError
from erase.metrics import fid

CLASSES = ("one", "two", "three")


def context(
    asked: list[str], seen: list[str], targets: set[str] | None = None, *, seed: int = 0
) -> Context:
    draw = np.random.default_rng(seed)
    n = len(asked)
    probabilities = np.full((n, 3), 0.1)
    for row, name in enumerate(seen):
        probabilities[row, CLASSES.index(name)] = 0.8
    return Context(
        samples=[Sample(f"s{i}", f"a {name}", i, target=name) for i, name in enumerate(asked)],
        images=[Path(f"s{i}.png") for i in range(n)],
        targets=frozenset({"three"} if targets is None else targets),
        verdicts=Verdicts("toy", CLASSES, probabilities, draw.normal(size=(n, 5))),
        reference=Reference("toy", CLASSES * 40, draw.normal(size=(120, 5))),
    )


ASKED = ["one"] * 10 + ["two"] * 10 + ["three"] * 10
SEEN = ["one"] * 9 + ["two"] * 9 + ["one"] * 2 + ["three"] * 2 + ["two"] * 8


@pytest.fixture(params=registry.names("metrics"))
def metric(request: pytest.FixtureRequest) -> ModuleType:
    return registry.load("metrics", request.param)


def score(metric: ModuleType, given: Context) -> Scores:
    scores: Scores = metric.score(given)
    return scores


def test_metric_contract(metric: ModuleType) -> None:
    assert not metric.NEEDS - {"classifier", "reference"}
    given = context(ASKED, SEEN)
    scores = score(metric, given)
    assert scores == score(metric, given)
    assert scores.summaries
    ids = {sample.id for sample in given.samples}
    assert set(scores.rows) <= ids
    json.dumps(dict(scores.rows), allow_nan=False)
    for name, summary in scores.summaries.items():
        assert name.replace("_", "").isalnum()
        assert name != "fid"
        assert summary.title
        assert 0 < summary.n <= len(ids)
        assert summary.unit in ("share", "distance")
        assert summary.ci95 is not None
        assert summary.ci95[0] <= summary.value <= summary.ci95[1]
        json.dumps(summary.to_json(), allow_nan=False)


def test_nothing_to_measure_is_an_error(metric: ModuleType) -> None:
    with pytest.raises(RunError):
        score(metric, context([], []))


def test_a_metric_without_its_needs_is_an_error(metric: ModuleType) -> None:
    given = context(ASKED, SEEN)
    with pytest.raises(RunError):
        score(metric, Context(given.samples, given.images, given.targets))


def test_only_the_other_kind_of_image_is_an_error() -> None:
    for name, targets in (("ua", {"nine"}), ("ra", set(CLASSES)), ("fid", set(CLASSES))):
        with pytest.raises(RunError, match="nothing to measure"):
            score(registry.load("metrics", name), context(ASKED, SEEN, targets))


def test_unlearning_accuracy_by_hand() -> None:
    scores = score(registry.load("metrics", "ua"), context(ASKED, SEEN))
    summary = scores.summaries["ua"]
    assert (summary.value, summary.n, summary.higher_is_better) == (0.8, 10, True)
    part = summary.detail["per_class"]["three"]
    assert part["taken_for"] == {"two": 8, "three": 2}
    assert len(scores.rows) == 10
    assert scores.rows["s20"]["recognised"]
    assert scores.rows["s29"]["predicted"] == "two"
    assert scores.rows["s29"]["probability_of_target"] == pytest.approx(0.1)


def test_retained_accuracy_by_hand() -> None:
    scores = score(registry.load("metrics", "ra"), context(ASKED, SEEN))
    summary = scores.summaries["ra"]
    assert (summary.value, summary.n) == (0.85, 20)
    values = {name: part["value"] for name, part in summary.detail["per_class"].items()}
    assert values == {"one": 0.9, "two": 0.8}


def test_unknown_class_is_an_error() -> None:
    with pytest.raises(RunError, match="nine"):
        score(registry.load("metrics", "ua"), context(["nine"], ["one"], {"nine"}))


def test_fid_leaves_the_forgotten_class_out() -> None:
    given = context(ASKED, SEEN)
    summary = score(fid, given).summaries["fid_toy"]
    assert summary.n == 20
    assert summary.detail["reference_n"] == 80
    assert given.verdicts is not None
    assert given.reference is not None
    real = given.reference.features[[label != "three" for label in given.reference.labels]]
    assert summary.value == frechet_distance(given.verdicts.features[:20], real)


class Identity(torch.nn.Module):
    num_features = 8

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


@pytest.mark.parametrize("seed", range(5))
def test_frechet_distance_equals_torchmetrics(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.image.fid import FrechetInceptionDistance

    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(8, 8))
    first = draw.normal(size=(300, 8)) @ mixing
    second = draw.normal(size=(200, 8)) @ (mixing + 0.3) + 0.5
    other = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    other.update(torch.from_numpy(first), real=False)
    other.update(torch.from_numpy(second), real=True)
    expected = float(other.compute())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_in_closed_form() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(50, 6))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(features, features + 2) == pytest.approx(24, rel=1e-12)
    trace = np.cov(features, rowvar=False).trace()
    assert frechet_distance(3 * features - 2 * features.mean(0), features) == pytest.approx(
        4 * trace, rel=1e-12
    )
    few = features[:4]  # fewer images than features: singular covariances
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-12)
    with pytest.raises(RunError):
        frechet_distance(features[:1], features)
