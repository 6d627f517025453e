"""`erase compare diffusion`: the lines asked for, the table, and a comparison that is resumed."""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.comparison import diffusion_run
from erase.comparison.diffusion import DiffusionComparison, Job
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
from erase.comparison.entries import diffusion_entries
from erase.comparison.request import Request, parse_requests
from erase.config.compare import CompareDiffusionConfig, sorted_settings
from erase.errors import InputError
from erase.runs.signals import run_child
from tests.report_world import Page

SHARES = {"ua": 1.0, "ra": 0.9, "fid": 3.0}


def summaries(values: dict[str, float]) -> dict[str, Any]:
    return {
        name: {
            "title": f"title of {name}",
            "unit": "distance" if name == "fid" else "share",
            "value": value,
            "n": 50,
            "ci95": None,
            "higher_is_better": name != "fid",
        }
        for name, value in values.items()
    }


def row(
    method: str,
    concept: str = "three",
    *,
    seconds: float = 10.0,
    trial: int = 0,
    original: dict[str, float] | None = None,
    **changes: float,
) -> dict[str, Any]:
    return {
        "method": method,
        "concept": concept,
        "trial": trial,
        "metrics": summaries(SHARES | changes),
        "original": summaries(original or {"ua": 0.0, "ra": 1.0, "fid": 3.2}),
        "seconds": seconds,
        "memory_bytes": 2**30,
    }


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


def test_a_request_is_one_concept_or_several_at_once() -> None:
    both = Request.parse("cat,  flat style")
    assert both.concepts == ("cat", "flat style")
    assert (both.label, both.folder) == ("cat, flat style", "cat+flat-style")
    assert both.settings() == {"concept": ("cat", "flat style"), "erase_from": None}
    pair = Request.parse("cat from  flat style")
    assert (pair.label, pair.folder) == ("cat from flat style", "cat-from-flat-style")
    assert pair.settings() == {"concept": ("cat",), "erase_from": "flat style"}
    for wrong in ("cat,", ", cat", " ", "cat from "):
        with pytest.raises(InputError, match="lacks a name"):
            Request.parse(wrong)
    with pytest.raises(InputError, match="given twice"):
        parse_requests(["cat, dagger", "cat,dagger"])


def test_settings_go_to_the_method_the_attack_or_the_judge() -> None:
    texts = ("esd.guidance=2", "relearn.steps=0,5", "emoji.forgotten=24", "fid.features=x")
    found = sorted_settings(texts, ("relearn",))
    assert found.methods == ("esd.guidance=2",)
    assert found.attacks == ("relearn.steps=0,5",)
    assert found.judging == ("emoji.forgotten=24", "fid.features=x")
    assert sorted_settings(texts, ("all",)).attacks == found.attacks
    with pytest.raises(InputError, match=r"relearn\.… is for an attack that is not made"):
        sorted_settings(texts, ("p4d",))


def test_every_run_needs_the_images_of_its_request(tmp_path: Path) -> None:
    config = CompareDiffusionConfig(model="mini-sd", concept=("three", "one, two"), trials=2)
    lines = diffusion_entries("lur,uce")
    comparison = DiffusionComparison(config, lines, tmp_path, "cpu", lambda _: None)
    needs = comparison.jobs()
    assert len(needs) == 2 + 2 * 2 * 2
    for job, before in needs.items():
        assert before == ({Job(job.request)} if job.label else set())
    assert str(Job(Request.parse("one, two"), "lur", 1)) == "one, two: lur, trial 1"


def test_lines_and_their_settings() -> None:
    found = diffusion_entries(
        "lur, esd@variant=x@train-batch-size=8,esd", ("esd.guidance=2", "lur.learning-rate=1e-3")
    )
    assert [line.label for line in found] == ["lur", "esd@variant=x@train-batch-size=8", "esd"]
    assert (found[0].changes, found[0].settings) == ({"learning_rate": 1e-3}, {})
    assert found[1].changes == {"train_batch_size": 8}
    assert found[1].settings == {"guidance": 2.0, "variant": "x"}
    every = [line.method for line in diffusion_entries("all", ())]
    assert {"lur", "lur-b", "salun", "shs", "esd", "sa", "fmn", "uce", "ca"} <= set(every)
    assert "retrain" not in every
    assert "ga" not in every


@pytest.mark.parametrize(
    ("methods", "settings", "said"),
    [
        ("lur,lur", (), "twice"),
        ("retrain", (), "not defined for text-to-image"),
        ("esd@x", (), "METHOD@NAME=VALUE"),
        ("esd@strength=1", (), "no setting 'strength'"),
        ("lur", ("alpha=1",), "METHOD.NAME=VALUE"),
        ("lur", ("esd.guidance=1",), "not compared"),
        ("lur+dual", (), "no variant 'dual'"),
        ("lur@seed=3", (), "no setting 'seed'"),
        ("lur@model=x", (), "no setting 'model'"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    methods: str, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        diffusion_entries(methods, settings)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--concept", "dog"), "dog"),
        (("--concept", "three", "--set", "lur.alpha=-1"), "alpha"),
        (("--concept", "three", "--set", "esd.mixed_precision=fp8"), "mixed_precision is 'fp8'"),
        (("--concept", "three", "--set", "esd.save_dtype=bf16"), "save_dtype is 'bf16'"),
        (("--concept", "three", "--set", "esd.guidance=strong"), "no number"),
        (("--concept", "three", "--set", "esd.max_train_steps=0"), "max_train_steps is 0"),
        (("--concept", "three", "--set", "esd.lr_scheduler=steep"), "lr_scheduler is"),
        (("--concept", "three", "--set", "esd.seed=1"), "no setting 'seed'"),
        (("--concept", "three", "--set", "lur.filter_forget=classifier"), "--filter-forget"),
        (("--concept", "three", "--num-anchor-images", "0"), "--num-anchor-images is 0"),
        (("--concept", "three", "--images-per-class", "0"), "--images-per-class is 0"),
        (("--concept", "three", "--concept", "dog"), "dog"),
        (("--concept", "three, dog"), "dog"),
        (("--concept", "three,"), "lacks a name"),
        (("--concept", "three", "--attacks", "relearn,magic"), "magic"),
        (("--concept", "three", "--attack-limit", "4"), "--attack-limit is given without"),
        (("--concept", "three", "--set", "relearn.steps=0,5"), "--attacks relearn"),
        (("--concept", "three", "--set", "digits.n=5"), "digits has no setting"),
        (
            ("--concept", "three", "--attacks", "relearn", "--set", "relearn.steps=0"),
            "relearn.steps is '0'",
        ),
    ],
)
def test_nothing_is_rendered_before_every_line_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], said: str
) -> None:
    """A value that only the last line's run would refuse is refused before the first image."""
    started: list[str] = []
    for name in ("load_pipeline", "render_set", "Judging.measure"):
        watched = partial(started.append, name)
        monkeypatch.setattr(
            f"erase.comparison.diffusion.{name}", lambda *_, watched=watched, **__: watched()
        )
    command = ["compare", "diffusion", "--output", str(tmp_path / "out"), "--model", "mini-sd"]
    refused = CliRunner().invoke(main, [*command, "--methods", "lur,esd", *more])
    assert refused.exit_code == 2, refused.output
    assert said in refused.output
    assert started == []
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_comparison_and_its_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        *("compare", "diffusion", "--model", "mini-sd", "--concept", "three"),
        *("--methods", "lur-b,ca,uce", "--output", str(tmp_path), "--max-train-steps", "2"),
        *("--train-batch-size", "4", "--num-forget-images", "4", "--num-retain-images", "9"),
        *("--num-anchor-images", "4", "--render-steps", "2", "--images-per-class", "2"),
        *("--steps", "2"),
    ]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert [line["method"] for line in results["means"]] == ["original", "lur-b", "ca", "uce"]
    for found in results["rows"]:
        assert "failed" not in found, found
        assert found["memory_bytes"] > 2**20
        assert found["seconds"] > 0
        assert found["metrics"]["ua"]["n"] == 2
        assert found["metrics"]["ra"]["n"] == 18
    data = tmp_path / "three" / "data"
    assert {p.name for p in data.iterdir()} == {"forget", "retain", "anchor", "shared.json"}
    assert not any((tmp_path / "three" / name / "data").exists() for name in ("lur-b", "ca"))

    table = (tmp_path / "table.md").read_bytes()
    ran: list[str] = []

    def watched(command: list[str]) -> Any:
        ran.append(command[command.index("--output") + 1])
        return run_child(command)

    monkeypatch.setattr(diffusion_run, "run_child", watched)
    assert CliRunner().invoke(main, command).exit_code == 0
    (tmp_path / "three" / "ca.json").unlink()  # as if its evaluation had been interrupted
    assert CliRunner().invoke(main, command).exit_code == 0
    assert ran == []
    assert (tmp_path / "table.md").read_bytes() == table
    (tmp_path / "three" / "ca.json").unlink()
    (tmp_path / "three" / "ca" / "record.json").unlink()
    assert CliRunner().invoke(main, [*command, "--methods", "ca"]).exit_code == 0
    assert ran == [str(tmp_path / "three" / "ca")]


SMALL = (
    *("--max-train-steps", "1", "--train-batch-size", "2", "--num-forget-images", "4"),
    *("--num-retain-images", "8", "--num-anchor-images", "2", "--render-steps", "2"),
    *("--images-per-class", "1", "--evaluation-steps", "2"),
)


@pytest.mark.slow
def test_two_concepts_at_once_are_attacked_in_two_processes(tmp_path: Path) -> None:
    """The original is attacked once for both methods, and a second call does nothing."""
    command = [
        *("compare", "diffusion", "--model", "mini-sd", "--concept", "three, seven"),
        *("--methods", "uce,lur-b", "--output", str(tmp_path), "--jobs", "2", *SMALL),
        *("--attacks", "relearn,noise-probe", "--attack-limit", "2"),
        *("--set", "relearn.steps=0,1", "--set", "relearn.batch_size=2"),
        *("--set", "relearn.images=harmless", "--set", "noise-probe.starts=noise"),
    ]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    for found in results["rows"]:
        assert "failed" not in found, found
        assert found["concept"] == "three, seven"
        titles = list(found["attacked"]["attacks"])
        assert titles[0] == "relearn (harmless)"
        assert titles[1].startswith("noise-probe")
    assert [line["method"] for line in results["attacks"]] == ["original", "uce", "lur-b"]
    assert {path.name for path in tmp_path.glob("*.png")} >= {"pareto.png", "relearn-harmless.png"}
    control = list((tmp_path / "originals").glob("attack-*"))
    assert len(control) == 2
    images = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("images/*.png")}
    assert CliRunner().invoke(main, command, catch_exceptions=False).exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("images/*.png")} == images


@pytest.mark.slow
def test_on_emoji_a_row_has_its_suites_metrics(tmp_path: Path) -> None:
    command = [
        *("compare", "diffusion", "--model", "mini-emoji", "--concept", "cat, dagger"),
        *("--methods", "uce", "--output", str(tmp_path), *SMALL),
        *("--set", "emoji.forgotten=6", "--set", "emoji.paraphrases=1"),
    ]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    wanted = {"ua", "ira", "cra", "neighbours", "neighbours_rest", "paraphrases", "h"}
    assert wanted <= found["metrics"].keys() == found["original"].keys()
    assert all(summary["n"] > 0 and summary["ci95"] for summary in found["metrics"].values())
    assert "near %" in (tmp_path / "table.md").read_text()
