"""The processes of one command: which is the main one, and how several of them start and end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erase.runs.processes import Distributed, lacks_processes

START = """
import sys
from erase.runs import processes
sys.executable = sys.argv[1]
processes._asked_processes = lambda: 2
sys.exit(processes.start_processes([]))
"""


def start(worker: Path, script: str) -> subprocess.Popen[str]:
    """`start_processes` in a process of its own, with a shell script for the two that it starts."""
    worker.write_text(f"#!/bin/sh\n{script}\n")
    worker.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return subprocess.Popen(
        [sys.executable, "-c", START, str(worker)],
        env={**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_first_failure_ends_all_with_its_exit_code(tmp_path: Path) -> None:
    process = start(
        tmp_path / "worker",
        '[ "$RANK $LOCAL_RANK $WORLD_SIZE" = "1 1 2" ] && { echo Error: none >&2; exit 2; }\n'
        f"echo $$ > {tmp_path}/pid; exec sleep 100",
    )
    said, complaints = process.communicate(timeout=240)
    assert process.returncode == 2, complaints
    assert (said, complaints) == ("", "Error: none\n")
    assert not (tmp_path / "pid").exists() or not is_alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_the_launcher_ends_all(tmp_path: Path, how: signal.Signals) -> None:
    process = start(tmp_path / "worker", f"echo $$ > {tmp_path}/$RANK.pid; exec sleep 100")
    while len(written := [f for f in tmp_path.glob("*.pid") if f.read_text()]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    _, complaints = process.communicate(timeout=240)
    assert process.returncode == 128 + how
    assert complaints == ""
    assert not any(is_alive(int(file.read_text())) for file in written)


def test_only_accelerates_lone_cpu_process_starts_others() -> None:
    asked = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}
    assert lacks_processes(asked)
    assert not lacks_processes({**asked, "LOCAL_RANK": "0"})
    assert not lacks_processes({**asked, "OMPI_COMM_WORLD_SIZE": "2"})
    assert not lacks_processes({"ACCELERATE_USE_CPU": "true"})
    assert not lacks_processes({"MASTER_ADDR": "127.0.0.1"})


def test_the_launcher_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Distributed.launched() == Distributed(0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Distributed.launched() == Distributed(1, 2)
    assert not Distributed.launched().is_main
    assert Distributed().on_main(lambda: 3) == Distributed().on_all(lambda: 3) == 3
