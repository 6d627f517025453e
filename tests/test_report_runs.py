"""`erase report`: runs side by side, what does not compare, and one folder once more."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from erase.cli.main import main
from erase.errors import InputError
from erase.report.data import load_evaluation
from erase.report.side_by_side import comparison, labels, table_csv, table_markdown
from tests.report_world import check_page, make


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [
        make(root / "a", model="lur", left=1, value=0.1),
        make(root / "b", model="salun", left=3, value=0.3),
        make(root / "c", model="lur", left=2, value=0.2),
    ]


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_runs_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    result = invoke(*runs, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "| lur (1) | **10.0%**" in result.output
    assert "sd\\-base (baseline)" in result.output or "sd-base (baseline)" in result.output
    page = check_page((tmp_path / "out" / "report.html").read_text())
    assert page.tags.count("img") == 8 * 4, "eight samples, the baseline and three runs"
    assert all("seed" in alt for alt in page.alts)
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["sd-base", "lur (1)", "salun", "lur (2)"]
    assert [float(row["nudenet"]) for row in rows.values()] == [0.2, 0.1, 0.3, 0.2]
    assert rows["sd-base"]["baseline"] == "True"
    for name in ("strip.png", "metrics.png"):
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
    assert (tmp_path / "out" / "table.md").read_text() in result.output
    assert invoke(*runs, "--output", tmp_path / "out").exit_code == 0, "written again"


def test_best_is_marked_and_ties_are_not(runs: list[Path]) -> None:
    loaded = [load_evaluation(folder) for folder in runs]
    table = comparison(loaded, ["a", "b", "c"])
    assert table["best"]["nudenet"] == ["a"]
    assert table["best"]["fid2048"] == [], "all have the same"
    for run, value in zip(loaded, (1.0, 3.0, 3.0), strict=True):
        run.metrics["metrics"]["clip_vit_b_32"]["value"] = value
    assert comparison(loaded, ["a", "b", "c"])["best"]["clip_vit_b_32"] == ["b", "c"]
    del loaded[1].metrics["metrics"]["fid2048"]
    table = comparison(loaded, ["a", "b", "c"])
    assert "–" in table_markdown(table)
    (_, _, second, _) = csv.DictReader(io.StringIO(table_csv(table)))
    assert second["fid2048"] == ""


def test_the_head_of_h_names_its_parts_and_no_run_s_values(runs: list[Path]) -> None:
    loaded = [load_evaluation(folder) for folder in runs[:2]]
    for run, value in zip(loaded, (0.9, 0.4), strict=True):
        summary = dict(run.metrics["metrics"]["nudenet"], title=f"H of UA {value:.0%}")
        summary["detail"] = {"parts": {"UA": {"value": value, "n": 4}, "IRA": {"value": 1, "n": 4}}}
        run.metrics["metrics"]["h"] = summary
    assert comparison(loaded, ["a", "b"])["columns"]["h"]["title"] == "H of UA, IRA"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, r, s: m["protocol"].update(steps=25), "steps is 25, not 50"),
        (lambda m, r, s: r.update(dtype="bf16"), "precision is bf16"),
        (lambda m, r, s: s[3].update(seed=9), "samples"),
        (lambda m, r, s: s[3].update(prompt="other"), "samples"),
        (lambda m, r, s: s.pop(), "samples"),
        (lambda m, r, s: r["target"].update(concepts=["x"]), "forgot x, not nothing"),
        (lambda m, r, s: r["baseline"].update(images_fingerprint="d"), "baseline"),
        (lambda m, r, s: r["observers_sha256"].update(nudenet="d"), "nudenet"),
    ],
)
def test_what_does_not_compare_is_refused_or_marked(
    runs: list[Path], tmp_path: Path, change: Any, said: str
) -> None:
    folder = make(tmp_path / "other", model="esd")
    metrics = json.loads((folder / "metrics.json").read_text())
    record = json.loads((runs[0] / "record.json").read_text()) | {"model": "esd"}
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    change(metrics, record, rows)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out"
    result = invoke(runs[0], folder, "--output", output)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert not output.exists()
    result = invoke(runs[0], folder, "--output", output, "--allow-different")
    assert result.exit_code == 0, result.output
    page = check_page((output / "report.html").read_text())
    assert "not made alike" in page.text
    assert said in page.text
    assert said in (output / "table.md").read_text()


def test_other_suites_never_share_a_table(runs: list[Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "coco", suite="coco")
    result = invoke(runs[0], folder, "--output", tmp_path / "out", "--allow-different")
    assert result.exit_code == 2
    assert "different suites: coco, i2p" in result.output


def test_bad_use_of_the_command(runs: list[Path], tmp_path: Path) -> None:
    assert "--output is missing" in invoke(runs[0], runs[1]).output
    assert "no evaluation folder" in invoke(tmp_path).output
    (tmp_path / "thesis.txt").write_text("precious")
    said = invoke(runs[0], runs[1], "--output", tmp_path)
    assert said.exit_code == 2
    assert "thesis.txt" in said.output
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.txt"]
    running = make(tmp_path / "more" / "running")
    record = json.loads((running / "record.json").read_text()) | {"status": "running"}
    (running / "record.json").write_text(json.dumps(record))
    assert "not finished" in invoke(running).output
    with pytest.raises(InputError):
        labels([load_evaluation(runs[0])], ["a", "b"])
    with pytest.raises(InputError):
        labels([load_evaluation(runs[0])] * 2, ["a", "a"])


def test_one_folder_is_reported_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    result = invoke(folder, "--show-explicit")
    assert result.exit_code == 0, result.output
    assert "--show-explicit" in (folder / "report.html").read_text()
    assert invoke(folder).exit_code == 0
    assert "pixelated" in (folder / "report.html").read_text()
