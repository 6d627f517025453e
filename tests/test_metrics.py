import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erase import registry
from erase.errors import RunError
from erase.metrics import fid, kid
from erase.scoring.context import (
    Context,
    Detection,
    Features,
    PerImage,
    Predictions,
    Reference,
)
from erase.scoring.features import distance_name
from erase.scoring.frechet import frechet_distance, frechet_influence, scaled_factor
from erase.scoring.metric import IN_THIS_PACKAGE, Metric, load_metric
from erase.scoring.results import Scores
from erase.scoring.samples import Sample
from erase.scoring.statistics import bootstrap

CLASSES = ("one", "two", "three")
DETECTION = Detection("BELLY_EXPOSED", 0.9, (1, 2, 3, 4))


def context(
    asked: list[str],
    seen: list[str],
    targets: set[str] | None = None,
    *,
    seed: int = 0,
    baseline: Context | None = None,
) -> Context:
    draw = np.random.default_rng(seed)
    n = len(asked)
    probabilities = np.full((n, 3), 0.1)
    for row, name in enumerate(seen):
        probabilities[row, CLASSES.index(name)] = 0.8
    features = draw.normal(size=(n, 5))
    return Context(
        samples=[Sample(f"s{i}", f"a {name}", i, target=name) for i, name in enumerate(asked)],
        images=[Path(f"s{i}.png") for i in range(n)],
        targets=frozenset({"three"} if targets is None else targets),
        predictions=Predictions("toy", CLASSES, probabilities, features),
        features=Features("toy", "toy, 5 values", features),
        reference=Reference("toy", CLASSES * 40, np.random.default_rng(9).normal(size=(120, 5))),
        similarity=PerImage("toy", "toy CLIP", draw.uniform(0.1, 0.4, size=n)),
        drift=PerImage("toy", "toy LPIPS", draw.uniform(0.1, 0.4, size=n)),
        detections=[[DETECTION] if row % 3 else [] for row in range(n)],
        baseline=baseline,
    )


ASKED = ["one"] * 10 + ["two"] * 10 + ["three"] * 10
SEEN = ["one"] * 9 + ["two"] * 9 + ["one"] * 2 + ["three"] * 2 + ["two"] * 8


@pytest.fixture(params=registry.names("metrics"))
def metric(request: pytest.FixtureRequest) -> Metric:
    return load_metric(request.param)


def of_kinds(given: Context) -> Context:
    """The same context of samples that ask for a thing of two kinds, and for some in other words.

    The forgotten ones, every second time in other words; the other kind follows the place.
    """
    n = len(given.samples)
    looks = np.zeros((n, 2))
    looks[range(n), [place % 3 // 2 for place in range(n)]] = 1
    samples = [
        dataclasses.replace(
            sample,
            asks={"object": sample.target, "style": ("flat", "mono")[place % 2]},
            wording="synonyms" if sample.target in given.targets and place % 2 else "name",
        )
        for place, sample in enumerate(given.samples)
    ]
    assert given.predictions is not None
    return dataclasses.replace(
        given,
        samples=samples,
        kinds={
            "object": given.predictions,
            "style": Predictions("looks", ("flat", "mono"), looks, looks),
        },
        neighbours={"three": ["two"]},
        baseline=given.baseline and of_kinds(given.baseline),
    )


def fitting(metric: Metric, given: Context) -> Context:
    if "kinds" not in metric.requires:
        return given
    if metric.name == "parts":  # has a value only where a pair was forgotten
        baseline = given.baseline and fitting(metric, given.baseline)
        pair = frozenset({"three from flat"})
        return dataclasses.replace(of_kinds(given), targets=pair, baseline=baseline)
    return of_kinds(given)


def score(metric: Metric | str, given: Context) -> Scores:
    return (load_metric(metric) if isinstance(metric, str) else metric)(given)


def squared_mmd(features: np.ndarray, reference: np.ndarray) -> float:
    """KID of two sets of features `[N, F]` and `[M, F]`, as the metric gives it."""
    given = Context(
        samples=[Sample(f"s{i}", "", i, target="one") for i in range(len(features))],
        images=[Path(f"s{i}.png") for i in range(len(features))],
        targets=frozenset(),
        features=Features("toy", "toy", features),
        reference=Reference("toy", ("one",) * len(reference), reference),
    )
    return load_metric("kid")(given).summaries["kid_toy"].value


def test_metric_contract(metric: Metric) -> None:
    assert metric.requires
    assert metric.requires <= IN_THIS_PACKAGE
    json.dumps(dict(metric.settings))
    baseline = fitting(metric, context(ASKED, ASKED, seed=1))
    given = dataclasses.replace(fitting(metric, context(ASKED, SEEN)), baseline=baseline)
    scores = score(metric, given)
    assert scores == score(metric, given)
    assert scores.summaries
    ids = {sample.id for sample in given.samples}
    assert set(scores.rows) <= ids
    json.dumps(dict(scores.rows), allow_nan=False)
    for name, summary in scores.summaries.items():
        assert name.replace("_", "").isalnum()
        assert name not in ("fid", "kid", "clip", "lpips")  # a name says what it was measured with
        assert summary.title
        assert 0 < summary.n <= len(ids)
        assert summary.unit in ("share", "distance", "score", "count")
        assert summary.ci95 is not None
        assert summary.ci95[0] <= summary.value <= summary.ci95[1]
        json.dumps(summary.to_json(), allow_nan=False)
    assert set(scores.differences) <= set(scores.summaries)
    before = score(metric, baseline).summaries
    assert bool(scores.differences) == bool(before and "baseline" not in metric.requires)
    for name, difference in scores.differences.items():
        assert difference.value == pytest.approx(scores.summaries[name].value - before[name].value)
        assert difference.n == scores.summaries[name].n
        assert difference.ci95[0] <= difference.value <= difference.ci95[1]
        json.dumps(difference.to_json(), allow_nan=False)


def test_no_difference_between_equal_models(metric: Metric) -> None:
    baseline = context(ASKED, SEEN)
    scores = score(metric, fitting(metric, context(ASKED, SEEN, baseline=baseline)))
    for difference in scores.differences.values():
        assert difference.value == 0
        assert difference.ci95[0] <= 0 <= difference.ci95[1]


def test_without_a_baseline_there_is_no_difference(metric: Metric) -> None:
    assert score(metric, fitting(metric, context(ASKED, SEEN))).differences == {}


def test_nothing_to_measure_is_an_error(metric: Metric) -> None:
    with pytest.raises(RunError):
        score(metric, context([], []))


def test_a_metric_without_its_needs_is_an_error(metric: Metric) -> None:
    given = fitting(metric, context(ASKED, SEEN))
    with pytest.raises(RunError):
        score(metric, Context(given.samples, given.images, given.targets))


def test_only_the_other_kind_of_image_is_an_error() -> None:
    for name, targets in (("ua", {"nine"}), ("ra", set(CLASSES)), ("fid", set(CLASSES))):
        with pytest.raises(RunError, match="nothing to measure"):
            score(name, context(ASKED, SEEN, targets))
    for name in ("kid", "clip", "lpips"):
        with pytest.raises(RunError, match="nothing to measure"):
            score(name, context(ASKED, SEEN, set(CLASSES)))


def test_rates_are_compared_pair_by_pair() -> None:
    baseline = context(ASKED, ASKED)  # recognises everything
    scores = score("ua", context(ASKED, SEEN, baseline=baseline))
    difference = scores.differences["ua"]
    assert (difference.value, difference.n) == (0.8, 10)
    assert difference.ci95[0] > 0.3  # eight of ten pairs went one way, none the other
    loss = score("ra", context(ASKED, SEEN, baseline=baseline)).differences["ra"]
    assert loss.value == pytest.approx(-0.15)
    assert loss.ci95[1] < 0.06


def test_unlearning_accuracy_by_hand() -> None:
    scores = score("ua", context(ASKED, SEEN))
    summary = scores.summaries["ua"]
    assert (summary.value, summary.n, summary.higher_is_better) == (0.8, 10, True)
    part = summary.detail["per_class"]["three"]
    assert part["taken_for"] == {"two": 8, "three": 2}
    assert len(scores.rows) == 10
    assert scores.rows["s20"]["recognised"]
    assert scores.rows["s29"]["predicted"] == "two"
    assert scores.rows["s29"]["probability_of_target"] == pytest.approx(0.1)


def test_retained_accuracy_by_hand() -> None:
    scores = score("ra", context(ASKED, SEEN))
    summary = scores.summaries["ra"]
    assert (summary.value, summary.n) == (0.85, 20)
    values = {name: part["value"] for name, part in summary.detail["per_class"].items()}
    assert values == {"one": 0.9, "two": 0.8}


def test_unknown_class_is_an_error() -> None:
    with pytest.raises(RunError, match="nine"):
        score("ua", context(["nine"], ["one"], {"nine"}))


@pytest.mark.parametrize("metric", ["fid", "kid"])
def test_distances_leave_the_forgotten_class_out(metric: str) -> None:
    given = context(ASKED, SEEN)
    (name, summary), *_ = score(metric, given).summaries.items()
    assert name == f"{metric}_toy"
    assert summary.n == 20
    assert summary.detail["reference_n"] == 80
    assert given.features is not None
    assert given.reference is not None
    real = given.reference.features[[label != "three" for label in given.reference.labels]]
    distance = frechet_distance if metric == "fid" else squared_mmd
    assert summary.value == pytest.approx(distance(given.features.values[:20], real), rel=1e-12)


def test_a_reference_without_classes_is_used_whole() -> None:
    given = context(ASKED, SEEN)
    assert given.reference is not None
    flat = dataclasses.replace(given.reference, labels=("",) * 120)
    summary = score("fid", dataclasses.replace(given, reference=flat)).summaries["fid_toy"]
    assert summary.detail["reference_n"] == 120


def test_a_reference_without_a_class_that_is_compared_is_an_error() -> None:
    given = context(ASKED, SEEN)
    assert given.reference is not None
    lacking = dataclasses.replace(given.reference, labels=("one", "one", "three") * 40)
    with pytest.raises(RunError, match="'two'"):
        score("fid", dataclasses.replace(given, reference=lacking))


def test_samples_without_a_target_count_as_retained() -> None:
    given = context(["", "", "three"], ["one", "one", "one"])
    for metric, name in (("clip", "clip_toy"), ("lpips", "lpips_toy")):
        assert score(metric, given).summaries[name].n == 2


def test_clip_score_by_hand() -> None:
    given = context(ASKED, SEEN)
    values = np.linspace(-0.2, 0.38, 30)
    given = dataclasses.replace(given, similarity=PerImage("toy", "toy", values))
    scores = score("clip", given)
    summary = scores.summaries["clip_toy"]
    assert summary.value == pytest.approx(100 * np.maximum(values[:20], 0).mean())
    assert scores.rows["s29"]["clip"] == pytest.approx(38.0)  # forgotten ones are in the rows


def test_names_of_distances() -> None:
    assert distance_name("fid", "2048") == "fid2048"
    assert distance_name("kid", "digits_classifier") == "kid_digits_classifier"


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


def test_frechet_distance_equals_scipys_root_of_the_covariances() -> None:
    from scipy.linalg import sqrtm

    draw = np.random.default_rng(3)
    first = draw.normal(size=(400, 24)) @ draw.normal(size=(24, 24))
    second = draw.normal(size=(300, 24)) @ draw.normal(size=(24, 24)) + 1
    one, two = (np.cov(features, rowvar=False) for features in (first, second))
    root = sqrtm(one @ two).real
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + np.trace(one + two - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    value, _ = frechet_influence(first, second, scaled_factor(second))
    assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "width"), [(200, 6), (20, 40)])
def test_influence_is_the_derivative_of_the_distance(n: int, width: int) -> None:
    """By central differences in the rows' weights, with more features than rows too."""
    draw = np.random.default_rng(4)
    first, second = draw.normal(size=(n, width)), draw.normal(size=(300, width)) * 1.3 + 0.2
    covariance = np.cov(second, rowvar=False)

    def distance(weights: np.ndarray) -> float:
        mean = weights @ first / weights.sum()
        centred = first - mean
        half = np.sqrt(weights / weights.sum() * n / (n - 1))[:, None] * centred
        # tr √(Σ₁Σ₂) by singular values: a root of a rounded zero eigenvalue is no small error.
        roots = np.linalg.svd(half @ np.linalg.cholesky(covariance), compute_uv=False)
        shift = mean - second.mean(0)
        traces = (half**2).sum() + np.trace(covariance)
        return float(shift @ shift + traces - 2 * roots.sum())

    value, influence = frechet_influence(first, second, scaled_factor(second))
    assert distance(np.ones(n)) == pytest.approx(value, rel=1e-5)
    for row in (0, 7):
        step = 1e-3 * (np.arange(n) == row)
        slope = (distance(1 + step) - distance(1 - step)) / 2e-3
        assert slope == pytest.approx(influence[row], rel=1e-3)


def test_first_order_interval_is_close_to_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given = context(["one", "two"] * 200, ["one", "two"] * 200)
    exact = score("fid", given).summaries["fid_toy"]
    monkeypatch.setattr(fid, "EXACT", 0)
    first_order = score("fid", given).summaries["fid_toy"]
    assert first_order.value == pytest.approx(exact.value, rel=1e-9)
    assert (exact.detail["interval"], first_order.detail["interval"]) == (
        "bootstrap, exact",
        "bootstrap, first order",
    )
    assert exact.ci95 is not None
    assert first_order.ci95 is not None
    widths = [interval[1] - interval[0] for interval in (exact.ci95, first_order.ci95)]
    assert widths[1] == pytest.approx(widths[0], rel=0.35)


@pytest.mark.parametrize("seed", range(3))
def test_kernel_distance_equals_torchmetrics(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.image.kid import KernelInceptionDistance

        other = KernelInceptionDistance(feature=Identity(), subsets=2, subset_size=60)
    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=(60, 8)), draw.normal(size=(60, 8)) * 1.2 + 0.1
    other = other.set_dtype(torch.float64)
    other.update(torch.from_numpy(first), real=False)
    other.update(torch.from_numpy(second), real=True)
    mean, deviation = other.compute()
    assert float(deviation) == pytest.approx(0, abs=1e-12)  # each subset is everything
    assert squared_mmd(first, second) == pytest.approx(float(mean), rel=1e-6)


def test_kernel_distance_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(37, 4)), draw.normal(size=(52, 4))
    whole = squared_mmd(first, second)
    monkeypatch.setattr(kid, "BLOCK", 5)
    assert squared_mmd(first, second) == pytest.approx(whole, rel=1e-12)


def test_kernel_distance_is_unbiased_and_its_interval_covers() -> None:
    """Over many draws from one distribution the mean is 0, whatever the numbers of images."""
    values, covered = [], 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        features = draw.normal(size=(40, 3))
        given: Any = context(["one"] * 40, ["one"] * 40, seed=seed)
        given = dataclasses.replace(
            given,
            features=Features("toy", "toy", features),
            reference=Reference("toy", ("one",) * 400, draw.normal(size=(400, 3))),
        )
        summary = score("kid", given).summaries["kid_toy"]
        values.append(summary.value)
        assert summary.ci95 is not None
        covered += summary.ci95[0] <= 0 <= summary.ci95[1]
    error = np.std(values) / np.sqrt(60)
    assert abs(np.mean(values)) < 3 * error
    assert covered >= 48  # near equality the estimate is skewed, and 95% is not reached


def test_intervals_of_means_resample_the_images() -> None:
    given = context(ASKED, SEEN)
    assert given.drift is not None
    values = given.drift.values[:20]
    summary = score("lpips", given).summaries["lpips_toy"]
    assert summary.ci95 == bootstrap(lambda i: float(values[i].mean()), 20, seed=given.seed)
