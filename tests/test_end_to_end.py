"""Demo, export and comparison from the command line to the files they leave: tiny, but whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file

from erase.artifacts.packaged import EMBEDDED
from erase.cli.main import main


def environment(home: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(home), "ERASE_CACHE": str(home / "cache"), "HF_HUB_OFFLINE": "1"}


def erase(home: Path, *arguments: str | Path) -> str:
    """What a command prints; it must succeed."""
    done = CliRunner().invoke(main, [str(a) for a in arguments], env=environment(home))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def demonstrated(home: Path) -> tuple[Path, str]:
    """The run of a quick demo in a process of its own, and what it printed."""
    output = home / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "erase", "demo", "--quick", "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment(home),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout


def test_the_demo_trains_evaluates_and_names_its_report(demonstrated: tuple[Path, str]) -> None:
    run, printed = demonstrated
    for line in (
        "Took two steps to erase 'cat'",
        "unlearning accuracy",
        "report.html",
        "before_after.png",
    ):
        assert line in printed
    assert json.loads((run / "record.json").read_text())["status"] == "finished"
    assert len((run / "log.jsonl").read_text().splitlines()) == 2
    metrics = json.loads((run / "evaluation-emoji" / "metrics.json").read_text())
    assert {name: found["n"] for name, found in metrics["metrics"].items()} == {
        "ua": 2,
        **dict.fromkeys(("ra", "ira", "cra", "fid_emoji_objects"), 78),
    }
    assert set(metrics["baseline"]) == set(metrics["metrics"])
    assert (run / "evaluation-emoji" / "report.html").stat().st_size > 10_000


def test_a_demo_that_is_done_is_not_done_again(demonstrated: tuple[Path, str], home: Path) -> None:
    run, _ = demonstrated
    metrics = (run / "evaluation-emoji" / "metrics.json").read_bytes()
    assert "nothing to resume" in erase(home, "demo", "--quick", "--output", run)
    assert (run / "evaluation-emoji" / "metrics.json").read_bytes() == metrics


def test_an_exported_run_is_read_by_diffusers(demonstrated: tuple[Path, str], home: Path) -> None:
    run, _ = demonstrated
    files = {kind: home / f"{kind}.safetensors" for kind in ("single-file", "lora", "diff")}
    for kind, file in files.items():
        more = ("--dtype", "fp32") if kind == "single-file" else ()
        assert str(file) in erase(home, "export", run, "--format", kind, "--output", file, *more)
    trained = DiffusionPipeline.from_pretrained(run, use_safetensors=True)
    single = StableDiffusionPipeline.from_single_file(
        str(files["single-file"]), config=str(run), local_files_only=True, safety_checker=None
    )
    for name, value in trained.unet.state_dict().items():
        assert torch.equal(value, single.unet.state_dict()[name]), name
    base = DiffusionPipeline.from_pretrained(EMBEDDED["mini-emoji"], use_safetensors=True)
    base.load_lora_weights(str(files["lora"]))
    assert base.get_active_adapters()
    changes = load_file(files["diff"])
    assert sum(float(change.abs().sum()) for change in changes.values()) > 0


def test_a_comparison_of_two_methods_ends_in_a_table(home: Path) -> None:
    output = home / "compared"
    printed = erase(
        home,
        *("compare", "diffusion", "--model", "mini-sd", "--concept", "three", "--output", output),
        *("--methods", "lur-b,uce", "--max-train-steps", "2", "--train-batch-size", "2"),
        *("--num-forget-images", "2", "--num-retain-images", "9", "--render-steps", "2"),
        *("--images-per-class", "1", "--steps", "2"),
    )
    results = json.loads((output / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["lur-b", "uce"]
    for row in results["rows"]:
        assert "failed" not in row, row
        assert [row["metrics"][name]["n"] for name in ("ua", "ra")] == [1, 9]
    table = (output / "table.md").read_text()
    for method in ("original", "lur-b", "uce"):
        assert f"| {method} |" in table
        assert method in printed
