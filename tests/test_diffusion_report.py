"""The report of `erase compare diffusion`: its means, columns, tables, figures and page."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from erase.comparison.diffusion_attacks import attack_lines
from erase.comparison.diffusion_columns import columns, retention
from erase.comparison.diffusion_figures import Point, frontier, spread
from erase.comparison.diffusion_report import (
    comma_separated,
    markdown,
    ranks,
    sections,
    summarise,
    write_report,
)
from erase.comparison.diffusion_run import with_metrics
from erase.errors import InputError
from tests.report_world import Page, row


def test_means_are_over_concepts_and_a_failure_is_not_averaged_away() -> None:
    rows = [
        row("lur"),
        row("lur", "seven", ua=0.5, fid=5.0),
        row("esd", ua=0.2),
        {"method": "esd", "concept": "seven", "trial": 0, "failed": "a loss is nan"},
    ]
    original, lur, esd = summarise(rows)
    assert original == {"method": "original", "ua": 0.0, "ra": 1.0, "fid": pytest.approx(3.2)}
    assert (lur["ua"], lur["fid"], lur["runs"], lur["ua_sd"]) == (0.75, 4.0, 2, None)
    assert esd == {"method": "esd", "runs": 2, "failed": 1}


def test_the_best_is_bold_the_second_best_italic_ties_share_a_place_and_equals_have_none() -> None:
    rows = [
        row("a", fid=3.0, ua=0.99999),
        row("b", fid=2.0, ua=1.0, seconds=5.0),
        row("c", fid=4.0, ua=0.9),
    ]
    placed = ranks(summarise(rows), columns(rows))
    assert placed["b", "fid"] == 1
    assert placed["a", "fid"] == 2
    assert ("c", "fid") not in placed
    assert placed["a", "ua"] == placed["b", "ua"] == 1  # both read 100.0
    assert placed["c", "ua"] == 2
    assert placed["b", "seconds"] == 1
    assert ("original", "fid") not in placed
    text = markdown(rows)
    assert "| b | **100.0** | 90.0 | **2.00** | **5.00** | 1024 |" in text
    assert "| a | **100.0** | 90.0 | *3.00* | *10.00* | 1024 |" in text
    assert "| original | 0.0 | 100.0 | 3.20 | – | – |" in text
    assert "| FID | Fréchet distance between" in text
    assert "(less is better) |" in text
    assert comma_separated(rows).splitlines()[2] == "three,0,b,1.0,0.9,2.0,5.0,1073741824,"


EMOJI: dict[str, Any] = {
    "ua": 0.9,
    "ra": 0.8,
    "ira": 0.8,
    "cra": 0.6,
    "neighbours": 0.5,
    "neighbours_rest": 0.9,
}


def test_columns_are_what_the_suite_measured() -> None:
    emoji = EMOJI | {"paraphrases": 0.7, "h": 0.74, "fid": 1.5}
    rows = [
        row("lur", "cat", **emoji),
        row("lur", "flat", **{k: v for k, v in emoji.items() if "neighbours" not in k}),
    ]
    titles = [column.title for column in columns(rows)]
    heads = ["UA %", "IRA %", "CRA %", "near %", "far %", "words %", "H %"]
    assert sorted(titles) == sorted([*heads, "FID", "seconds", "memory MiB"])
    (_, lur) = summarise(rows)
    assert lur["neighbours"] == 0.5  # of the request that has neighbours
    assert retention(rows[0]) == pytest.approx(0.7)
    assert "ra" in comma_separated(rows).splitlines()[0].split(",")  # the raw numbers keep it


def test_a_requests_table_has_its_own_columns_alone() -> None:
    near = EMOJI | {"paraphrases": 0.7, "h": 0.74}
    far = {name: value for name, value in near.items() if "neighbours" not in name}
    rows = [
        row("lur", concept, trial=trial, **values)
        for concept, values in (("cat", near), ("flat", far))
        for trial in (0, 1)
    ]
    heads = {part.title: part.heads for part in sections(rows)}
    assert {"near %", "far %"} <= set(heads["Means"]) & set(heads["cat"])
    assert not {"near %", "far %"} & set(heads["flat"])


def test_distances_below_one_have_digits_enough_to_differ() -> None:
    small = [row("lur", fid=0.0064), row("esd", fid=0.0412)]
    assert "| 0.0064 |" in markdown(small)
    assert "| 0.04 |" in markdown([*small, row("ca", fid=1.5)])


def test_a_deviation_is_over_seeds_of_the_means_over_concepts() -> None:
    rows = [
        row("lur", concept, trial=trial, ua=ua)
        for trial, pair in enumerate(((0.8, 1.0), (0.5, 0.9)))
        for concept, ua in zip(("three", "seven"), pair, strict=True)
    ]
    (original, lur) = summarise(rows)
    assert (lur["ua"], lur["ua_sd"]) == (pytest.approx(0.8), pytest.approx(0.2 / 2**0.5))
    assert "ua_sd" not in original
    text = markdown(rows)
    assert "| lur | 80.0 ± 14.1 |" in text
    assert [part.title for part in sections(rows)][:3] == ["Means", "three", "seven"]


def test_a_result_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    old = {
        "method": "uce",
        "concept": "three",
        "trial": 0,
        "seconds": 0.04,
        "memory_bytes": 9.0,
        "ua": 1.0,
        "ra": 0.99,
        "fid": 3.18,
        "fid_name": "fid_digits_classifier",
        "ua_n": 50,
        "ua_ci95": [0.93, 1.0],
        "ra_n": 450,
        "ra_ci95": [0.98, 1.0],
        "original": {"ua": 0.0, "ra": 1.0, "fid": 3.32},
    }
    now = with_metrics(old, tmp_path / "uce.json")
    assert now["metrics"]["ua"]["ci95"] == [0.93, 1.0]
    assert now["metrics"]["fid_digits_classifier"]["value"] == 3.18
    assert now["original"]["fid_digits_classifier"]["value"] == 3.32
    assert "ua_n" not in now
    with pytest.raises(InputError, match=r"uce\.json"):
        with_metrics({**old, "ra": "all"}, tmp_path / "uce.json")


def curve(*rates: float) -> list[dict[str, float]]:
    return [{"step": 10 * number, "value": rate} for number, rate in enumerate(rates)]


def attacked(before: float, after: float, half: int | None) -> dict[str, Any]:
    def rate(value: float) -> dict[str, Any]:
        return {"value": value, "n": 10, "ci95": [0.0, 1.0], "unit": "share"}

    relearn = {"curve": {"model": curve(before, after), "baseline": curve(1.0, 1.0)}, "half": half}
    return {
        "plain": {"model": rate(before), "original": rate(1.0)},
        "attacks": {
            "relearn (concept)": {"model": rate(after), "original": rate(1.0), **relearn},
            "p4d": {"model": rate(before), "original": rate(0.9)},
        },
    }


def test_attacks_have_rates_with_intervals_and_steps_to_half(tmp_path: Path) -> None:
    rows = [
        row("a") | {"attacked": attacked(0.0, 0.2, None)},
        row("a", "seven") | {"attacked": attacked(0.1, 0.4, None)},
        row("b", ua=0.8) | {"attacked": attacked(0.0, 0.9, 10)},
        row("b", "seven", ua=0.8) | {"attacked": attacked(0.0, 0.9, 10)},
        row("c") | {"attacked": {"failed": "a loss is nan"}},
    ]
    original, a, b, c = attack_lines(rows)
    assert original["shown"]["p4d"]["value"] == pytest.approx(0.9)
    shown = a["shown"]["relearn (concept)"]
    assert (shown["value"], shown["n"], shown["half"]) == (pytest.approx(0.3), 20, None)
    assert shown["ci95"][0] < 0.3 < shown["ci95"][1]
    assert shown["steps"] == [[0, pytest.approx(0.05)], [10, pytest.approx(0.3)]]
    assert b["shown"]["relearn (concept)"]["half"] == 10
    assert c == {"method": "c", "failed": 1}
    write_report(tmp_path, rows, {"config": {"concept": ["three", "seven"]}})
    text = (tmp_path / "table.md").read_text()
    assert "**30.0** (14.5 to 51.9) | \\> 10 |" in text
    figures = {path.name for path in tmp_path.glob("*.png")}
    assert figures == {
        *("pareto.png", "pareto-after-relearn-concept.png", "relearn-concept.png"),
        "pareto-after-p4d.png",
    }
    page = Page((tmp_path / "report.html").read_text())
    assert page.open == []
    assert page.tags.count("img") == 4
    assert "(14.5 to 51.9)" in page.text
    assert "Unlearning accuracy" in page.text
    header, first = comma_separated(rows).splitlines()[:2]
    line = dict(zip(header.split(","), first.split(","), strict=False))
    assert line["shown after relearn (concept)"] == "0.2"
    assert comma_separated(rows).splitlines()[5].endswith("a loss is nan")


def test_the_frontier_is_what_nothing_else_beats() -> None:
    kept = {"a": (90.0, 50.0), "b": (80.0, 100.0), "c": (80.0, 90.0), "d": (95.0, 40.0)}
    found = [Point(name, *values) for name, values in kept.items()]
    assert [point.name for point in frontier(found)] == ["b", "a", "d"]
    assert [point.name for point in frontier([*found, Point("e", 99.0, 100.0)])] == ["e"]


def test_names_beside_points_keep_their_distance_and_order() -> None:
    placed = spread([1.0, 1.0, 0.99, 0.5, 0.02, 0.01], 0.1)
    gaps = [above - below for above, below in itertools.pairwise(placed)]
    assert min(gaps) >= 0.1 - 1e-9
    assert placed[0] <= 1.0
    assert placed[-1] >= -1e-9
    assert placed[3] == pytest.approx(0.5, abs=0.11)
