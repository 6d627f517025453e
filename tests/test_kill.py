"""`erase evaluate` in processes of its own: killed and resumed, shared by two, kept to one.

The processes that get killed are forked from one that has the libraries loaded already, which is
most of what a start costs; they are killed for real.
"""

import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.config.evaluate import EvaluateConfig
from erase.embedded.mini_sd_model import build_pipeline
from erase.evaluation.plan import find_baseline
from erase.files import hash_files
from erase.models import loading
from erase.runs.folder import locked

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
SETTINGS = ("--steps", "2", "--images-per-class", "4", "--batch-size", "7", "--dtype", "fp32")
LEFT = ("metrics.json", "samples.jsonl", "tables/summary.csv", "tables/classes.csv")
"""Files that hold nothing of when or where they were written."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "run")):
        build_pipeline(seed).save_pretrained(root / name)
    record = {
        "target": {"suite": "digits", "concepts": ["three"]},
        "base_model": str(root / "base"),
    }
    (root / "run" / "record.json").write_text(json.dumps(record))
    return root


def command(models: Path, output: Path, cache: Path, *launcher: str) -> list[str]:
    start = [sys.executable, "-m", *launcher, "erase", "evaluate", "--model", str(models / "run")]
    return [*start, *SETTINGS, "--output", str(output), "--cache-dir", str(cache)]


FORKS = multiprocessing.get_context("forkserver")


def work(arguments: list[str]) -> None:
    """`erase …` in this process, without a word."""
    with Path(os.devnull).open("w") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())
        main(args=arguments)


def start(models: Path, output: Path, cache: Path) -> BaseProcess:
    """A process of its own that evaluates."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    FORKS.set_forkserver_preload(["erase.evaluation.run", "erase.report.plots"])
    process = FORKS.Process(target=work, args=(command(models, output, cache)[3:],))
    process.start()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before
    return process


def finish(models: Path, output: Path, cache: Path) -> None:
    process = start(models, output, cache)
    process.join()
    assert process.exitcode == 0


def evaluate(models: Path, output: Path, cache: Path, *launcher: str) -> str:
    done = subprocess.run(
        command(models, output, cache, *launcher),
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def images(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "images").glob("*"))}


@pytest.fixture(scope="module")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(models, folder / "out", folder / "cache")
    return folder


def same(one: Path, other: Path) -> None:
    """Two evaluations, `out` and `cache` each, ended alike to the byte."""
    for name in LEFT:
        assert (one / "out" / name).read_bytes() == (other / "out" / name).read_bytes(), name
    assert images(one / "out") == images(other / "out")
    (left,), (right,) = ([f for f in (w / "cache").iterdir() if f.is_dir()] for w in (one, other))
    assert left.name == right.name
    assert images(left) == images(right)


def kill_often(models: Path, folder: Path, kills: int, seed: int) -> list[str]:
    """Start the evaluation and SIGKILL it, `kills` times; say what each kill interrupted.

    Moments are random in the progress of the work, not in time, so that a slow machine is hit at
    the same places: from before the first image to while results are written. Now and then the
    start itself is hit.
    """
    output, cache = folder / "out", folder / "cache"
    draw = random.Random(seed)
    ends = sorted(draw.uniform(0, 1.1) for _ in range(kills))
    hit = []
    for end in ends:
        process = start(models, output, cache)
        if end < 0.1:
            time.sleep(draw.uniform(0, 1))
        else:
            wanted = 80 * min(end, 1.0)  # both models
            while process.is_alive():
                there = len(list(output.glob("images/*.png")))
                there += len(list(cache.glob("*/images/*.png")))
                if there >= wanted and (end <= 1 or (output / "samples.jsonl").exists()):
                    break
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        there = len(list(output.glob("images/*.png")))
        baseline = len(list(cache.glob("*/images/*.png")))
        left = sorted(f.name for f in output.glob("*") if f.is_file())
        hit.append(f"{there} and {baseline} images, {left}, exit {process.exitcode}")
    return hit


def check_killed(models: Path, undisturbed: Path, folder: Path, kills: int, seed: int) -> None:
    for line in kill_often(models, folder, kills, seed):
        sys.stdout.write(f"{line}\n")
    finish(models, folder / "out", folder / "cache")
    same(undisturbed, folder)
    assert json.loads((folder / "out" / "record.json").read_text())["status"] == "finished"
    assert (folder / "out" / "report.html").is_file()
    assert not list(folder.rglob("*partial*")), "what a killed write left is still there"


@pytest.mark.fault("kill", times=3)
@pytest.mark.timeout(600)
def test_killed_three_times_ends_with_the_same_metrics(
    models: Path, undisturbed: Path, tmp_path: Path
) -> None:
    check_killed(models, undisturbed, tmp_path, kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.fault("kill", times=10)
@pytest.mark.timeout(1800)
def test_killed_ten_times_ends_with_the_same_metrics(
    models: Path, undisturbed: Path, tmp_path: Path
) -> None:
    check_killed(models, undisturbed, tmp_path, kills=10, seed=2)


def launcher(processes: int) -> tuple[str, ...]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return (
        *("accelerate.commands.launch", "--cpu", "--num_processes", str(processes)),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", port, "-m"),
    )


@pytest.mark.timeout(900)
def test_two_processes_leave_what_one_leaves(
    models: Path, undisturbed: Path, tmp_path: Path
) -> None:
    said = evaluate(models, tmp_path / "out", tmp_path / "cache", *launcher(2))
    same(undisturbed, tmp_path)
    assert said.count("Report:") == 1
    assert json.loads((tmp_path / "out" / "record.json").read_text())["processes"] == 2


@pytest.mark.timeout(900)
def test_an_error_in_several_processes_is_said_once(models: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    done = subprocess.run(
        command(models, tmp_path / "out", tmp_path / "cache", *launcher(2)),
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    # accelerate's launcher turns our 2 into its own 1, with a traceback of its own after our line.
    ours, _, launchers = done.stderr.partition("Traceback")
    assert done.returncode != 0
    assert "returned non-zero exit status 2" in launchers or done.returncode == 2, done.stderr
    assert ours.count("Error: ") == 1, done.stderr
    assert "Traceback" not in launchers
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def run(models: Path, output: Path, cache: Path, *more: str) -> Any:
    arguments = command(models, output, cache)[3:]
    return CliRunner().invoke(main, [*arguments, *more])


def test_a_folder_belongs_to_one_process(models: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(undisturbed / "out", folder)
    before = (folder / "record.json").read_bytes()
    with locked(folder):
        result = run(models, folder, undisturbed / "cache")
        assert result.exit_code == 2
        assert "Another process" in result.output
        assert (folder / "record.json").read_bytes() == before
    assert run(models, folder, undisturbed / "cache").exit_code == 0


def test_a_model_is_hashed_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base of a run is asked for its fingerprint as such, and for its images'."""
    hashed = []

    def count(files: Any, root: Path) -> str:
        hashed.append(root)
        return hash_files(files, root)

    monkeypatch.setattr(loading, "hash_files", count)
    record = json.loads((models / "run" / "record.json").read_text())
    source = loading.resolve(str(models / "run"))
    found, _ = find_baseline(EvaluateConfig(model=source.name), source)
    assert found is not None
    assert str(found.path) == record["base_model"]
    first, second = found.fingerprint(), found.fingerprint()
    assert hashed == [found.path]
    assert first == second == loading.resolve(str(found.path)).fingerprint()
    assert first != source.fingerprint()


@pytest.mark.timeout(900)
def test_baselines_take_turns(models: Path, undisturbed: Path, tmp_path: Path) -> None:
    """A baseline that another evaluation is rendering is waited for; a whole one is just read."""
    shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    (baseline,) = (f for f in (tmp_path / "cache").iterdir() if f.is_dir())
    with locked(baseline):
        assert run(models, tmp_path / "whole", tmp_path / "cache").exit_code == 0
    next((baseline / "images").iterdir()).unlink()
    with locked(baseline):
        process = subprocess.Popen(
            command(models, tmp_path / "out", tmp_path / "cache"),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "Waiting for another process" in line:
                break
        else:
            pytest.fail("it did not wait")
        assert process.poll() is None
    process.communicate()
    assert process.returncode == 0
    same(undisturbed, tmp_path)
