"""`erase concept` for real, on mini-sd: what it leaves, replay, resume after SIGKILL, processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from erase.artifacts.packaged import EMBEDDED
from erase.cli.main import main
from erase.errors import InputError
from erase.files import read_jsonl
from erase.runs.folder import locked

SMALL = [
    *("--num-forget-images", "6", "--num-retain-images", "9", "--render-steps", "2"),
    *("--render-batch-size", "5", "--train-batch-size", "4", "--checkpointing-steps", "2"),
]
BASE = ["concept", "--model", "mini-sd", "--concept", "three", "--device", "cpu", *SMALL]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def command(output: Path, *more: str, launcher: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, "-m", *launcher, "erase", *BASE, "--output", str(output), *more]


def erase(output: Path, *more: str, launcher: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        command(output, *more, launcher=launcher),
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def refused(output: Path, *more: str) -> str:
    """What a command that ends with exit code 2 says; in this process, for speed."""
    result = CliRunner().invoke(main, [*BASE, "--output", str(output), *more])
    assert result.exit_code == 2, result.output
    return result.output


def unet(folder: Path) -> bytes:
    return (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concept") / "run"
    erase(folder, "--max-train-steps", "6")
    return folder


def test_the_folder_is_a_complete_pipeline(finished: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(str(finished), use_safetensors=True)
    image = pipeline("a handwritten three", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (32, 32, 3)
    kinds = {path.suffix for path in finished.rglob("*") if path.is_file()} - {""}  # .lock
    assert kinds <= {".safetensors", ".json", ".jsonl", ".yaml", ".md", ".txt", ".png"}
    assert "three" in (finished / "README.md").read_text()


def test_only_the_unet_changed(finished: Path) -> None:
    base = EMBEDDED["mini-sd"]
    for part, changed in (("vae", False), ("text_encoder", False), ("unet", True)):
        name = "model.safetensors" if part == "text_encoder" else None
        file = name or "diffusion_pytorch_model.safetensors"
        before, after = load_file(base / part / file), load_file(finished / part / file)
        assert set(before) == set(after)
        same = all(torch.equal(before[k].float(), after[k].float()) for k in before)
        assert same is not changed, part


def test_record_and_log(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["target"] == {"suite": "digits", "concepts": ["three"]}
    assert record["base_model"] == "mini-sd"
    assert record["seed"] == 0
    assert len(record["prompts_hash"]) == 64
    rows = read_jsonl(finished / "log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"retain_loss", "forget_loss", "cosine", "lr", "images_per_s"} <= set(rows[0])


def test_replay_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    replayed = tmp_path / "again"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "erase", "concept", "--output", str(replayed)),
            *("--config", str(finished / "config.yaml"), "--device", "cpu"),
        ],
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0
    assert unet(replayed) == unet(finished)


def test_a_finished_run_is_not_run_again(finished: Path) -> None:
    before = unet(finished)
    said = erase(finished, "--max-train-steps", "6", "--resume-from-checkpoint", "latest")
    assert "nothing to resume" in said
    assert unet(finished) == before


def test_resume_refuses_other_settings(finished: Path) -> None:
    said = refused(finished, "--max-train-steps", "7", "--resume-from-checkpoint", "latest")
    assert "max_train_steps = 6, not 7" in said


def test_overwrite_spares_what_is_not_the_runs(finished: Path, tmp_path: Path) -> None:
    """Neither an input inside the folder, nor the user's own file, is deleted."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "notes.txt").write_text("mine")
    said = refused(folder, "--overwrite", "--forget-images", str(folder / "data" / "forget"))
    assert "which --overwrite would delete" in said
    assert unet(folder) == unet(finished)
    erase(folder, "--overwrite", "--max-train-steps", "1")
    assert (folder / "notes.txt").read_text() == "mine"
    assert unet(folder) != unet(finished)


def test_a_method_of_captions_alone_renders_nothing(finished: Path, tmp_path: Path) -> None:
    rendered, alone, given = finished / "data", tmp_path / "alone", tmp_path / "given"
    out = CliRunner().invoke(main, [*BASE, "--method", "uce", "--output", str(alone)])
    assert out.exit_code == 0, out.output
    assert not (alone / "data").exists()
    assert "num_forget_images: null\n" in (alone / "config.yaml").read_text()
    assert "prompts alone, no images" in (alone / "README.md").read_text()
    # Folders of images are read for their captions, which are fewer than all prompts here.
    folders = [
        "--forget-images",
        str(rendered / "forget"),
        "--retain-images",
        str(rendered / "retain"),
    ]
    out = CliRunner().invoke(main, [*BASE, "--method", "uce", "--output", str(given), *folders])
    assert out.exit_code == 0, out.output
    assert unet(given) != unet(alone)
    said = refused(tmp_path / "filtered", "--method", "uce", "--filter-forget", "classifier")
    assert "no forget image is rendered" in said


def test_resume_refuses_another_number_of_processes(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    record = json.loads((folder / "record.json").read_text())
    record["facts"]["processes"] = 2
    (folder / "record.json").write_text(json.dumps(record))
    said = refused(folder, "--max-train-steps", "6", "--resume-from-checkpoint", "latest")
    assert "processes = 2, not 1" in said


def test_dry_run_of_a_resumption_says_its_plan(finished: Path) -> None:
    arguments = ("--max-train-steps", "6", "--resume-from-checkpoint", "latest", "--dry-run")
    result = CliRunner().invoke(main, [*BASE, "--output", str(finished), *arguments])
    assert result.exit_code == 0, result.output
    assert "max_train_steps: 6" in result.output


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="Another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        assert (tmp_path / ".lock").is_file()


def killed_when(output: Path, ready: Any) -> None:
    """Start a run and kill it with SIGKILL as soon as `ready()` holds."""
    process = subprocess.Popen(
        command(output, "--max-train-steps", "6", "--resume-from-checkpoint", "latest"),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not ready():
        assert process.poll() is None, "the run ended before the moment came"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.fault("kill", times=3)
@pytest.mark.timeout(900)
def test_killed_and_resumed_ends_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    """SIGKILL while rendering, after the third step, and while the pipeline is written."""
    folder = tmp_path / "killed"
    moments = [
        lambda: len(list(folder.glob("data/retain/images/*.png"))) >= 5,
        lambda: (folder / "log.jsonl").exists() and len(read_jsonl(folder / "log.jsonl")) >= 3,
        lambda: any(folder.glob(".*pipeline*")) or (folder / "unet").exists(),
    ]
    for moment in moments:
        killed_when(folder, moment)
        assert json.loads((folder / "record.json").read_text())["status"] == "running"
    erase(folder, "--max-train-steps", "6", "--resume-from-checkpoint", "latest")
    assert unet(folder) == unet(finished)
    assert [row["step"] for row in read_jsonl(folder / "log.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert json.loads((folder / "record.json").read_text())["resumed"] == 3
    DiffusionPipeline.from_pretrained(str(folder), use_safetensors=True)


def test_two_processes_see_the_gradients_of_one_joint_batch(finished: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher: tuple[str, ...] = (
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
    )
    launcher += ("1", "--mixed_precision", "no", "--dynamo_backend", "no")
    launcher += ("--main_process_port", port, "-m")
    folder = tmp_path / "two"
    erase(folder, "--max-train-steps", "6", "--train-batch-size", "2", launcher=launcher)
    logs = [read_jsonl(path / "log.jsonl") for path in (finished, folder)]
    for one, two in zip(*logs, strict=True):
        for name in ("retain_loss", "forget_loss", "retain_grad_norm", "forget_grad_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), (one["step"], name)
        assert two["cosine"] == pytest.approx(one["cosine"], abs=2e-3)
    assert json.loads((folder / "record.json").read_text())["processes"] == 2


def test_nan_is_one_message_and_exit_1(tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    done = subprocess.run(
        command(folder, "--max-train-steps", "6", "--learning-rate", "1e6"),
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Error: Step " in done.stderr
    assert json.loads((folder / "record.json").read_text())["status"] == "failed"
    assert not (folder / "unet").exists()
