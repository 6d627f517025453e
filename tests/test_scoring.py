import dataclasses
import json

import numpy as np
import pytest

from erase.errors import InputError, RunError
from erase.scoring.results import Difference, Summary, mean_difference, rate, rate_difference
from erase.scoring.samples import Protocol, Sample, subset
from erase.scoring.statistics import bootstrap, paired_rate_interval, wilson

PROTOCOL = Protocol("default", "digits", 1, ("ua",), steps=25, guidance=3.0, images=50)


def test_wilson_matches_the_closed_form() -> None:
    z = 1.959963984540054
    for successes, n in ((0, 10), (3, 10), (50, 50), (471, 500)):
        p = successes / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        assert wilson(successes, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_nothing_to_measure_is_an_error() -> None:
    for call in (
        lambda: wilson(0, 0),
        lambda: rate("x", 0, 0, higher_is_better=True),
        lambda: bootstrap(lambda _: 0.0, 0, seed=0),
        lambda: paired_rate_interval([], []),
        lambda: rate_difference([], []),
        lambda: mean_difference(np.zeros(0), np.zeros(0), seed=0),
    ):
        with pytest.raises(RunError):
            call()


def test_bootstrap_covers_the_mean_and_repeats() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)

    def mean(indices: np.ndarray) -> float:
        return float(values[indices].mean())

    low, high = bootstrap(mean, 400, seed=1, resamples=1000)
    assert (low, high) == bootstrap(mean, 400, seed=1, resamples=1000)
    assert (low, high) != bootstrap(mean, 400, seed=2, resamples=1000)
    half = 1.96 * values.std() / np.sqrt(400)
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert low < values.mean() < high


def test_bootstrap_keeps_strata_and_centres() -> None:
    strata = ["a"] * 10 + ["b"] * 30

    def share(indices: np.ndarray) -> float:
        return float((indices < 10).mean())

    assert bootstrap(share, 40, seed=0, strata=strata) == (0.25, 0.25)
    low, high = bootstrap(lambda i: len(set(i.tolist())), 50, seed=0, centred=True)
    assert low <= 50 <= high  # a resample always has fewer distinct items than the sample


def test_paired_rate_interval_by_hand() -> None:
    """Bonett and Price 2012: 20 pairs, 6 gained, 1 lost."""
    ours = [True] * 10 + [False] * 10
    baseline = [True] * 4 + [False] * 6 + [True] + [False] * 9
    low, high = paired_rate_interval(ours, baseline)
    gained, lost = 7 / 22, 2 / 22
    half = 1.959963984540054 * np.sqrt((gained + lost - (gained - lost) ** 2) / 22)
    assert (low, high) == pytest.approx((gained - lost - half, gained - lost + half), abs=1e-12)
    assert rate_difference(ours, baseline).value == 0.25


def test_paired_rate_interval_covers_the_truth() -> None:
    """Of 400 draws of 60 pairs with a true difference of 0.2, at least 93% hold it."""
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        kinds = draw.choice(4, size=60, p=[0.3, 0.3, 0.1, 0.3])  # both, ours only, baseline's, none
        low, high = paired_rate_interval(
            [bool(kind in (0, 1)) for kind in kinds], [bool(kind in (0, 2)) for kind in kinds]
        )
        held += low <= 0.2 <= high
    assert held >= 372


def test_pairing_narrows_the_interval_of_a_mean() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(size=300)
    ours = base + 0.1 + 0.01 * draw.normal(size=300)
    difference = mean_difference(ours, base, seed=0)
    assert difference.value == pytest.approx(0.1, abs=0.002)
    assert difference.ci95[1] - difference.ci95[0] < 0.004
    assert difference.to_json()["n"] == 300
    with pytest.raises(RunError, match="finite"):
        Difference(float("nan"), 1, (0.0, 0.0), "").to_json()


def test_given_settings_win() -> None:
    changed = PROTOCOL.with_settings({"a": {"x": 1, "y": 2}}).with_settings(
        {"a": {"y": 3}, "b": {"z": 4}}
    )
    assert changed.settings == {"a": {"x": 1, "y": 3}, "b": {"z": 4}}
    assert set(changed.deviations(PROTOCOL)) == {"settings"}


def test_summary_json_is_finite() -> None:
    summary = Summary("x", 0.5, 10, (0.2, 0.8), higher_is_better=True, detail={"a": 1})
    assert json.loads(json.dumps(summary.to_json()))["ci95"] == [0.2, 0.8]
    with pytest.raises(RunError, match="finite"):
        dataclasses.replace(summary, value=float("nan")).to_json()


def test_protocol_changes_are_named() -> None:
    changed = PROTOCOL.replace(steps=10, guidance=None)
    assert changed.deviations(PROTOCOL) == {"steps": [25, 10]}
    assert PROTOCOL.deviations(PROTOCOL) == {}


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"images": 0}, {"guidance": 0.5}, {"guidance": float("nan")}, {"seed": -1}],
)
def test_protocol_refuses_what_makes_no_sense(change: dict[str, float]) -> None:
    with pytest.raises(InputError):
        PROTOCOL.replace(**change)


def test_sample_ids_name_files() -> None:
    for bad in ("", "a/b", "../a", ".hidden", "a b"):
        with pytest.raises(ValueError, match="file"):
            Sample(bad, "", 0)


def test_subset_is_even_seeded_and_in_order() -> None:
    samples = [Sample(f"{t}-{i}", "", i, target=t) for t in "abc" for i in range(10)]
    chosen = subset(samples, 7, seed=0)
    assert [s for s in samples if s in chosen] == chosen
    counts = [sum(s.target == t for s in chosen) for t in "abc"]
    assert sorted(counts) == [2, 2, 3]
    assert chosen == subset(samples, 7, seed=0) != subset(samples, 7, seed=1)
    assert subset(samples, None, 0) == subset(samples, 99, 0) == samples
