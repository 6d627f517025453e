"""Reports: for any suite and metrics, self-contained, escaped, and without explicit regions."""

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from erase.report.before_after import COLUMNS, chosen_samples
from erase.report.data import change, load_evaluation, number
from erase.report.evaluation import write_report
from erase.report.image_sections import ALL_PAIRS, CAPTIONED, FAILURES, evenly
from erase.report.pictures import embed, hide, pixelate
from erase.report.rows import detection_rows, summary_rows, tables
from tests.report_world import check_page, make, pattern


def write(folder: Path, **options: Any) -> str:
    file = folder / "report.html"
    write_report(file, load_evaluation(folder, **options))
    return file.read_text()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def text(evaluation: Path) -> str:
    return write(evaluation)


def test_page_without_classes_is_self_contained_and_escaped(text: str) -> None:
    page = check_page(text)
    assert page.addresses
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "erase <b>evaluate</b>" in page.text
    for words in ("images flagged by NudeNet", "CLIP score", "FID", "95% interval"):
        assert words in page.text
    assert "NudeNet flags 3 of 12 images; of sd-base's, 7." in page.text
    assert "50 here" in page.text, "a deviation from the named protocol"
    assert "c" * 64 in page.text
    assert "Class by class" not in page.text


def test_paired_difference_and_its_verdict(evaluation: Path) -> None:
    metrics = json.loads((evaluation / "metrics.json").read_text())
    first = summary_rows(metrics)[0]
    assert first["change"] == ["−30.0 points", "0.50 ×)"][0]
    assert first["change_interval"] == "−50.0 to −10.0 points"
    assert first["verdict"] == "better"
    metrics["differences"]["nudenet"]["ci95"] = [-0.5, 0.1]
    assert summary_rows(metrics)[0]["verdict"] == "no clear difference"


def test_figure_4a_counts_and_changes(evaluation: Path) -> None:
    data = load_evaluation(evaluation)
    rows = {row["name"]: row for row in detection_rows(data)}
    listed = [d for row in data.rows for d in row["detections"]]
    before = [d for row in data.rows for d in row["baseline"]["detections"]]
    assert rows["all classes"]["count"] == len(listed) > 0
    assert rows["all classes"]["base"] == len(before)
    change = 100 * (len(listed) - len(before)) / len(before)
    assert rows["all classes"]["change"] == pytest.approx(change)
    for row in data.rows:
        for item in row["detections"]:
            item["score"] = 0.5
    assert {row["count"] for row in detection_rows(data)} == {0}


def test_a_baseline_that_shows_nothing_has_no_percentage(tmp_path: Path) -> None:
    data = load_evaluation(make(tmp_path / "run"))
    for row in data.rows:
        row["baseline"].update(detections=[], flagged=False)
    assert {row["base"] for row in detection_rows(data)} == {0}
    assert {row["change"] for row in detection_rows(data)} == {None}


def detail(image: Image.Image, box: tuple[int, int, int, int]) -> float:
    """How much neighbouring pixels differ inside a box, in levels."""
    pixels = np.asarray(image.convert("L").crop(box), dtype=float)
    return float(np.abs(np.diff(pixels, axis=1)).mean() + np.abs(np.diff(pixels, axis=0)).mean())


def test_pixelation_destroys_what_is_inside_and_leaves_the_rest() -> None:
    image = pattern(240, 3)
    hidden = pixelate(image, (60, 80, 90, 60))
    inside = (60, 80, 150, 140)
    assert detail(hidden, inside) < 0.1 * detail(image, inside)
    assert len(np.unique(np.asarray(hidden.crop(inside)).reshape(-1, 3), axis=0)) <= 36
    same = np.asarray(hidden) == np.asarray(image)
    same[71:149, 51:159] = True  # the box with its margin
    assert same.all()


@pytest.mark.parametrize(
    "box",
    [(-50, -50, 20, 20), (500, 10, 20, 20), (10, 10, 0, 30), (10, 10, -5, 5), (0, 0, 9999, 9999)],
)
def test_an_impossible_box_hides_everything(box: tuple[int, int, int, int]) -> None:
    image = pattern(96, 1)
    assert detail(pixelate(image, box), (0, 0, 96, 96)) < 0.1 * detail(image, (0, 0, 96, 96))


@pytest.mark.parametrize(
    ("row", "hidden"),
    [
        (None, False),
        ({}, False),
        ({"detections": [], "flagged": False}, False),
        ({"detections": [{"label": "FACE_FEMALE", "score": 0.9, "box": [1, 1, 9, 9]}]}, False),
        ({"detections": [], "flagged": True}, True),
        ({"flagged": True}, True),
        ({"flagged": True, "detections": [{"label": "ANUS_EXPOSED", "score": 0.9}]}, True),
        ({"detections": [{"label": "BELLY_EXPOSED", "score": 0.3, "box": [5, 5, 50, 50]}]}, True),
    ],
)
def test_what_is_hidden(row: dict[str, Any] | None, hidden: bool) -> None:
    image = pattern(64, 5)
    shown, told = hide(image, row)
    assert told is hidden
    assert (np.asarray(shown) != np.asarray(image)).any() == hidden
    if row and row.get("flagged"):  # without usable boxes: all of it
        assert detail(shown, (0, 0, 64, 64)) < 0.1 * detail(image, (0, 0, 64, 64))


def pictures(text: str) -> Iterator[tuple[str, Image.Image]]:
    for code, alt in re.findall(
        r'<img src="data:image/\w+;base64,([^"]+)"[^>]* alt="([^"]*)"', text
    ):
        with Image.open(io.BytesIO(base64.b64decode(code))) as opened:
            yield alt, opened.convert("RGB")


def test_no_flagged_region_reaches_the_report(tmp_path: Path) -> None:
    """Before and after, on the page and in the plots; --show-explicit shows them."""
    folder = make(tmp_path / "run", count=4, left=4)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    whole = {"label": "FEMALE_BREAST_EXPOSED", "score": 0.9, "box": [0, 0, 96, 96]}
    for row in rows:
        row |= {"detections": [whole], "flagged": True}
        row["baseline"] |= {"detections": [whole], "flagged": True}
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    everything = (0, 0, 96, 96)
    bare = detail(pattern(96, 0), everything)
    found = list(pictures(write(folder)))
    assert any(alt.startswith("before") for alt, _ in found)
    assert any(alt.startswith("after") for alt, _ in found)
    assert all("pixelated" in alt for alt, _ in found)
    assert max(detail(image, everything) for _, image in found) < 0.2 * bare
    first = (60, 100, 130, 170)  # inside the picture's first image
    with Image.open(folder / "plots" / "before_after.png") as opened:
        sheet = opened.convert("RGB")
    plain = detail(sheet, first)
    shown = write(folder, show_explicit=True)
    assert "--show-explicit" in shown
    assert min(detail(image, everything) for _, image in pictures(shown)) > 0.5 * bare
    with Image.open(folder / "plots" / "before_after.png") as opened:
        assert detail(opened.convert("RGB"), first) > 5 * plain


def test_thumbnails(tmp_path: Path) -> None:
    pattern(32, 0).save(tmp_path / "small.png")
    small = embed(tmp_path / "small.png")
    assert small["uri"].startswith("data:image/png;base64,")
    assert (small["width"], small["height"], small["crisp"]) == (32, 32, True)
    Image.new("RGB", (1024, 512)).save(tmp_path / "large.png")
    large = embed(tmp_path / "large.png")
    assert large["uri"].startswith("data:image/jpeg;base64,")
    assert (large["width"], large["height"], large["crisp"]) == (256, 128, False)


def test_csv_tables_hold_the_numbers(evaluation: Path, text: str) -> None:
    metrics = json.loads((evaluation / "metrics.json").read_text())
    with (evaluation / "tables" / "summary.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(metrics["metrics"])
    for name, row in rows.items():
        found, base = metrics["metrics"][name], metrics["baseline"][name]
        assert float(row["value"]) == found["value"]
        assert float(row["baseline_value"]) == base["value"]
        assert int(row["n"]) == found["n"]
        bounds = [row["ci95_low"], row["ci95_high"]]
        assert [float(b) if b else None for b in bounds] == (found["ci95"] or [None, None])
    assert float(rows["nudenet"]["difference"]) == -0.3
    assert rows["fid2048"]["difference"] == ""
    with (evaluation / "tables" / "detections.csv").open() as file:
        counted = {row["class"]: row for row in csv.DictReader(file)}
    assert int(counted["all classes"]["count"]) > 0
    for name in ("detections.png", "before_after.png"):
        with Image.open(evaluation / "plots" / name) as image:
            image.load()


def test_without_baseline_and_without_failures(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", baseline=False, left=0)
    page = check_page(write(folder))
    assert "no baseline to compare with (--no-baseline)" in page.text
    assert "None." in page.text
    assert "NudeNet flags 0 of 12 images." in page.text
    assert "before" not in " ".join(page.alts)
    assert "baseline_value" in tables(load_evaluation(folder))["summary.csv"]


def test_metrics_that_see_nothing_in_an_image(tmp_path: Path) -> None:
    """FID alone: no verdicts, no detections, nothing that could be a failure."""
    folder = make(tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        for key in ("detections", "flagged", "clip", "lpips"):
            row.pop(key)
        row["baseline"] = {}
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = check_page(write(folder))
    assert "NudeNet has not looked" in page.text
    assert "Worst failures" not in page.text
    assert not (folder / "tables" / "detections.csv").exists()
    assert not (folder / "plots" / "detections.png").exists()


def test_missing_and_broken_images_are_listed(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    (folder / "images" / "s0001.png").unlink()
    (tmp_path / "baseline" / "images" / "s0002.png").write_bytes(b"nothing")
    page = check_page(write(folder))
    assert "2 of 24 images are missing or unreadable" in page.text
    assert "model: s0001, missing" in page.text
    assert "baseline: s0002, unreadable" in page.text
    assert "no image" in page.text


def test_many_samples_make_no_huge_page(tmp_path: Path) -> None:
    """3000 samples of 300 classes: as many pictures, and bytes, as for few."""
    folder = make(tmp_path / "run", count=6, size=300, left=6)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    many = [
        {**rows[i % 6], "id": f"s{i % 6:04d}", "target": f"class {i % 300}", "seed": i}
        for i in range(3000)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    text = write(folder)
    pairs = check_page(text).tags.count("img") / 2
    assert pairs <= ALL_PAIRS + 3 * FAILURES
    assert len(text) < 2 * pairs * 60_000


def test_forgotten_classes_keep_their_captions_and_other_words_their_verdicts(
    tmp_path: Path,
) -> None:
    """Of 40 classes the page shows a few pairs each, more of the forgotten one; the picture 8."""
    names = [f"class{number}" for number in range(40)]
    folder = make(tmp_path / "run", count=200, left=0)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for place, row in enumerate(rows):
        name = names[place // 5] if place < 195 else names[0]
        row |= {"target": name, "forget": name == names[0], "prompt": f"a {name}, {place}"}
        if place >= 195:
            row["paraphrases"] = place != 199
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = json.loads((folder / "record.json").read_text())
    record["target"] = {"concepts": names[:1]}
    (folder / "record.json").write_text(json.dumps(record))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["metrics"]["neighbours"] = metrics["metrics"]["nudenet"] | {
        "detail": {"parts": {"class30": {"n": 5, "value": 1.0}}}
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    page = check_page(write(folder))
    assert "yet shown when called by other words 1 of 5 images" in page.text
    assert f"{CAPTIONED} of 10" in page.text
    assert "a class0, 199" not in page.text.split("not chosen.")[1]
    assert "not recognised" in page.text
    data = load_evaluation(folder)
    assert [data.rows[i]["id"] for i in chosen_samples(data, forget=True)] == [
        data.rows[i]["id"] for i in evenly([*range(5), *range(195, 200)], COLUMNS)
    ]
    kept = [data.rows[i] for i in chosen_samples(data, forget=False)]
    assert [row["target"] for row in kept] == ["class30", *names[1:COLUMNS]]
    assert len({int(row["id"][1:]) % 5 for row in kept}) > 3, "from everywhere in their classes"


def test_another_report_leaves_no_old_figure(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    write(folder)
    (folder / "plots" / "old.png").write_bytes(b"")
    write(folder)
    assert not (folder / "plots" / "old.png").exists()


def test_numbers() -> None:
    assert [change(v, "share") for v in (0.3, -0.3)] == ["+30.0 points", "−30.0 points"]
    assert change(-12.0, "count") == "−12"
    assert [number(v, "count") for v in (12.0, 12.5)] == ["12", "12.5"]
