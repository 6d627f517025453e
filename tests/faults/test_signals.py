"""Real SIGINT and SIGTERM: exit code, record, resume command, children, and what is left behind."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
from click.testing import CliRunner

from erase import files
from erase.cli.main import main
from erase.errors import ENDING, Interrupted
from erase.files import atomic_directory, read_json, uninterrupted, write_text
from erase.render import render
from erase.runs import signals
from erase.runs.signals import interruptible, run_child

RUN = (
    *("concept", "--model", "mini-sd", "--concept", "three", "--max-train-steps", "5"),
    *("--checkpointing-steps", "1", "--num-forget-images", "3", "--num-retain-images", "3"),
    *("--render-steps", "1", "--train-batch-size", "1", "--device", "cpu"),
)
LAUNCH = (
    *("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "erase"),
)
OWN = ("erase", "--processes", "2")
FORKS = multiprocessing.get_context("forkserver")


def until(condition: Callable[[], object], process: Any = None, seconds: float = 120) -> None:
    """Wait for a condition while the process, if one is given, is alive."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        assert process is None or process.is_alive()
        time.sleep(0.005)


def work(arguments: list[str], said: Path) -> None:
    """`erase …` in this process; its lines go into a file."""
    with said.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    main(args=arguments, prog_name="erase")


def start(arguments: list[str], said: Path) -> BaseProcess:
    """A process of its own, forked from one that has imported what it needs."""
    FORKS.set_forkserver_preload(["erase.training.concept"])
    process = FORKS.Process(target=work, args=(arguments, said))
    process.start()
    return process


def weights(folder: Path) -> bytes:
    return (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start([*RUN, "--output", str(folder)], folder.with_name("said"))
    process.join()
    assert process.exitcode == 0, folder.with_name("said").read_text()
    return folder


@pytest.mark.fault("signal")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_told_to_end_goes_on_with_the_command_it_names(
    how: signal.Signals, undisturbed: Path, tmp_path: Path
) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    process = start([*RUN, "--output", str(folder)], said)
    until((folder / "checkpoint-2").is_dir, process)
    os.kill(process.pid or 0, how)
    process.join()
    text = said.read_text()
    assert process.exitcode == 128 + how, text
    record = read_json(folder / "record.json")
    assert (record["status"], record["error"]) == ("interrupted", f"Interrupted by {how.name}")
    assert "Traceback" not in text
    assert "Aborted" not in text
    assert not [f for f in folder.rglob("*") if "partial" in f.name or ".old-" in f.name]
    *_, line = text.strip().splitlines()
    words = shlex.split(line.removeprefix("Go on with: "))
    assert words == ["erase", *RUN, "--output", str(folder), "--resume-from-checkpoint", "latest"]
    again = start(words[1:], said)
    again.join()
    assert again.exitcode == 0, said.read_text()
    assert weights(folder) == weights(undisturbed)


@pytest.mark.fault("signal")
def test_an_evaluation_is_recorded_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        *("evaluate", "--model", "mini-sd", "--no-baseline", "--target", "three", "--limit", "10"),
        *("--steps", "1", "--batch-size", "4", "--dtype", "fp32", "--device", "cpu"),
        *("--output", str(tmp_path / "out")),
    ]
    real, calls = render.Renderer.__call__, []

    def second_ends(self: Any, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(render.Renderer, "__call__", second_ends)
        result = CliRunner().invoke(main, command)
    assert result.exit_code == 130, result.output
    assert f"Go on with: erase {shlex.join(command)}\n" in result.output
    assert read_json(tmp_path / "out" / "record.json")["status"] == "interrupted"
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4  # the first batch is kept
    assert CliRunner().invoke(main, command).exit_code == 0
    assert read_json(tmp_path / "out" / "record.json")["status"] == "finished"


@pytest.mark.fault("signal")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_write_is_dropped_or_finished(
    how: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint-4"

    def write(content: str, *, told_to_end: bool) -> None:
        with interruptible(), atomic_directory(path) as aside:
            write_text(aside / "state.json", content)
            if told_to_end:
                signal.raise_signal(how)

    with pytest.raises(Interrupted):
        write("dropped", told_to_end=True)
    assert list(tmp_path.iterdir()) == []
    write("old", told_to_end=False)
    put = files._put

    def told_to_end(aside: Path, path: Path) -> None:
        signal.raise_signal(how)
        put(aside, path)

    monkeypatch.setattr(files, "_put", told_to_end)
    with pytest.raises(Interrupted):
        write("new", told_to_end=False)
    assert (path / "state.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with interruptible(), uninterrupted():
        pass
    assert [signal.getsignal(number) for number in ENDING] == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interruptible(), uninterrupted():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.fault("signal")
def test_a_second_signal_is_the_launchers_or_else_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "TWICE", 0.2)
    process = os.fork()
    if not process:
        with interruptible():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Interrupted:
                signal.raise_signal(signal.SIGTERM)  # of the launcher
                time.sleep(0.3)
                signal.raise_signal(signal.SIGTERM)  # of somebody who has waited
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM


@pytest.mark.fault("signal")
@pytest.mark.parametrize("script", ["exec sleep 100", "trap '' TERM; while :; do sleep 0.1; done"])
def test_a_child_ends_too(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE", 0.3)
    file = tmp_path / "pid"
    made: list[float] = []

    def end() -> None:
        until(lambda: file.is_file() and file.read_text().endswith("\n"))
        made.append(psutil.Process(int(file.read_text())).create_time())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    with interruptible(), pytest.raises(Interrupted):
        run_child(["sh", "-c", f"echo $$ > {file}; {script}"])
    thread.join()
    child = int(file.read_text())
    # The system gives numbers to new processes again.
    assert not psutil.pid_exists(child) or psutil.Process(child).create_time() > made[0]


@pytest.mark.fault("signal")
def test_a_child_ends_where_the_signal_comes_while_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[str]] = []

    class Slow(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    with interruptible(), pytest.raises(Interrupted):
        run_child(["sleep", "100"])
    (child,) = started
    found = child.returncode  # None where nobody waited for it
    child.kill()
    assert found == -signal.SIGTERM


@pytest.mark.fault("signal")
def test_a_child_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    child = (
        "import os, pathlib, time; from erase.runs.signals import end_with_parent\n"
        f"end_with_parent(); pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(100)"
    )
    parent = (
        "import sys; from erase.runs.signals import run_child\n"
        f"run_child([sys.executable, '-c', {child!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    left = int((tmp_path / "pid").read_text())

    def is_gone() -> bool:
        return not psutil.pid_exists(left) or psutil.Process(left).status() == "zombie"

    until(is_gone, seconds=10)


@pytest.mark.parametrize(
    ("given", "again"),
    [
        ("concept --output r --overwrite", "concept --output r --resume-from-checkpoint latest"),
        ("concept --resume-from-checkpoint=latest", "concept --resume-from-checkpoint=latest"),
        ("demo --overwrite", "demo"),
        ("compare diffusion --output 'a b'", "compare diffusion --output 'a b'"),
        ("train ddpm --output r", "train ddpm --output r --resume-from-checkpoint latest"),
    ],
)
def test_the_command_that_goes_on(given: str, again: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in signals.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    main.given = shlex.split(given)
    assert main._again(click.Context(main)) == f"erase {again}"


def launched(folder: Path, *options: str) -> subprocess.Popen[str]:
    run = [word if word != "5" else "200" for word in RUN]
    return subprocess.Popen(
        [sys.executable, "-m", *options, *run, "--output", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """The processes below one, by their rank."""
    below = psutil.Process(process.pid).children(recursive=True)
    return {one.environ()["RANK"]: one for one in below if "RANK" in one.environ()}


@pytest.mark.slow
@pytest.mark.fault("signal")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_who_ends_accelerates_launcher_ends_all(how: signal.Signals, tmp_path: Path) -> None:
    process = launched(tmp_path / "run", *LAUNCH)
    until((tmp_path / "run" / "checkpoint-1").is_dir, seconds=300)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks(process)) == 2
    process.send_signal(how)
    _, complaints = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
    assert read_json(tmp_path / "run" / "record.json")["status"] == "interrupted"
    assert complaints.count("Go on with: accelerate launch … -m erase concept") == 1
    assert "Traceback" not in complaints


@pytest.mark.slow
@pytest.mark.fault("lost process")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("options", [LAUNCH, OWN], ids=["accelerate", "own"])
def test_a_process_that_dies_is_named(rank: str, options: tuple[str, ...], tmp_path: Path) -> None:
    process = launched(tmp_path / "run", *options)
    until((tmp_path / "run" / "checkpoint-1").is_dir, seconds=300)
    ranks(process)[rank].kill()
    _, complaints = process.communicate(timeout=120)
    ours, _, theirs = complaints.partition("Traceback")
    assert ours.count("Error: ") == 1, complaints
    assert f"Process {rank} of 0 to 1 was killed (SIGKILL)" in ours
    assert "gloo" not in complaints.lower()
    if options == OWN:
        assert process.returncode == 137
        assert not theirs


@pytest.mark.slow
@pytest.mark.fault("signal")
@pytest.mark.timeout(600)
def test_a_comparison_ends_its_run(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "erase", "compare", "diffusion", "--model", "mini-sd"),
            *("--concept", "three", "--methods", "lur", "--max-train-steps", "500"),
            *("--num-forget-images", "3", "--num-retain-images", "9", "--render-steps", "1"),
            *("--num-anchor-images", "3", "--train-batch-size", "1"),
            *("--output", str(tmp_path / "out"), "--device", "cpu"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "out" / "three" / "lur" / "log.jsonl"
    until(lambda: log.is_file() and log.read_text(), seconds=300)
    below = psutil.Process(process.pid).children(recursive=True)
    assert below
    process.terminate()
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Go on with: erase compare diffusion" in complaints
    assert not psutil.wait_procs(below, timeout=10)[1]
    for folder in (tmp_path / "out", log.parent):
        assert read_json(folder / "record.json")["status"] == "interrupted"
