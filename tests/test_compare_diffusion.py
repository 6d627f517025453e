"""`erase compare diffusion`: the lines asked for, the table, and a comparison that is resumed."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.comparison import diffusion, diffusion_run
from erase.comparison.diffusion_report import comma_separated, markdown, ranks, summarise
from erase.comparison.entries import diffusion_entries
from erase.errors import InputError
from erase.runs.signals import run_child


def row(method: str, concept: str = "three", **changes: Any) -> dict[str, Any]:
    numbers = {"ua": 1.0, "ra": 0.9, "fid": 3.0, "seconds": 10.0, "memory_bytes": 2**30}
    original = {"ua": 0.0, "ra": 1.0, "fid": 3.2}
    return {"method": method, "concept": concept, "trial": 0, "original": original} | {
        **numbers,
        **changes,
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
    assert (lur["ua"], lur["fid"], lur["runs"]) == (0.75, 4.0, 2)
    assert esd == {"method": "esd", "runs": 2, "failed": 1}


def test_the_best_is_bold_the_second_best_italic_and_ties_share_a_place() -> None:
    rows = [
        row("a", fid=3.0, ua=0.99999),
        row("b", fid=2.0, ua=1.0, seconds=5.0),
        row("c", fid=4.0, ua=0.9),
    ]
    lines = summarise(rows)
    placed = ranks(lines)
    assert placed["b", "fid"] == 1
    assert placed["a", "fid"] == 2
    assert ("c", "fid") not in placed
    assert placed["a", "ua"] == placed["b", "ua"] == 1  # both read 100.0
    assert placed["c", "ua"] == 2
    assert placed["b", "seconds"] == 1
    assert ("original", "fid") not in placed
    text = markdown(lines, rows)
    assert "| b | **100.0** | **90.0** | **2.000** | **5.00** | **1024** |" in text
    assert "| a | **100.0** | **90.0** | *3.000* | *10.00* | **1024** |" in text
    assert "| original | 0.0 | 100.0 | 3.200 | – | – |" in text
    assert comma_separated(rows).splitlines()[2] == "three,0,b,1.0,0.9,2.0,5.0,1073741824,"


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
    ],
)
def test_nothing_is_rendered_before_every_line_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], said: str
) -> None:
    """A value that only the last line's run would refuse is refused before the first image."""
    started: list[str] = []
    for name in ("load_pipeline", "render_set", "measure"):
        watched = partial(started.append, name)
        monkeypatch.setattr(diffusion, name, lambda *_, watched=watched, **__: watched())
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
        assert found["ua_n"] == 2
        assert found["ra_n"] == 18
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
    assert ran == []
    assert (tmp_path / "table.md").read_bytes() == table
    (tmp_path / "three" / "ca.json").unlink()
    assert CliRunner().invoke(main, command).exit_code == 0
    assert ran == [str(tmp_path / "three" / "ca")]
