"""How a command starts, and what it starts beside: ports, threads, libraries that write home."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from erase.cli.main import rest_soon
from erase.errors import InputError
from erase.runs import processes

LAUNCH = ("accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no")
WRITES_HOME = ("onnxruntime", "cv2", "nudenet")


@pytest.mark.fault("written into the home folder")
def test_nothing_is_written_into_the_home_folder(tmp_path: Path) -> None:
    """What NudeNet needs is not imported by a run that does not ask for it, and writes no ids."""
    code = (
        "import sys; import erase.training.concept, erase.evaluation.run\n"
        f"print([name for name in {WRITES_HOME} if name in sys.modules])\n"
        "from erase.judges.nudenet import Detector; Detector(threads=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_threads_rest_soon_unless_the_user_said_otherwise() -> None:
    environment: dict[str, str] = {}
    rest_soon(environment)
    assert environment == {"GOMP_SPINCOUNT": "10000"}
    for given in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        environment = dict(given)
        rest_soon(environment)
        assert environment == given


@pytest.mark.fault("port in use")
def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        words = ["--num_processes", "2", "--main_process_port", port, "-m"]
        monkeypatch.setattr(processes, "_launcher", lambda: words)
        with pytest.raises(InputError, match=f"The port {port} is in use"):
            processes.start_processes([])


@pytest.mark.parametrize("given", [["--main_process_port", "0"], []])
def test_a_free_port_is_taken_where_none_is_given(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_launcher", lambda: ["--num_processes", "2", *given, "-m"])
    assert processes._asked_port() == 0
    assert processes._asked_processes() == 2


def start(tmp_path: Path, number: int, *options: str) -> subprocess.Popen[str]:
    """An error of the user's in two processes, which they find when they have met."""
    (tmp_path / f"{number}").mkdir()
    (tmp_path / f"{number}" / "thesis.txt").write_text("precious")
    command = [
        *(sys.executable, "-m", *options, "erase", "evaluate", "--model", "mini-sd"),
        *("--no-baseline", "--target", "three", "--limit", "10", "--steps", "1", "--device", "cpu"),
        *("--output", str(tmp_path / f"{number}")),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.fault("port in use")
@pytest.mark.parametrize("port", [(), ("--main_process_port", "0")])
def test_two_launches_at_once_do_not_meet(tmp_path: Path, port: tuple[str, ...]) -> None:
    launch = (*LAUNCH, "--num_processes", "2", "--dynamo_backend", "no", *port, "-m")
    both = [start(tmp_path, number, *launch) for number in range(2)]
    for process in both:
        _, complaints = process.communicate(timeout=300)
        assert process.returncode == 1  # accelerate's own
        ours = complaints.partition("Traceback")[0]
        assert ours.count("Error: ") == 1, complaints
        assert "no evaluation either" in ours
        assert "accelerate adds a traceback of its own" in ours
        assert "EADDRINUSE" not in complaints


@pytest.mark.slow
def test_our_own_start_of_processes_ends_in_the_two_lines(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    command = [
        *(sys.executable, "-m", "erase", "--processes", "2", "evaluate", "--model", "mini-sd"),
        *("--no-baseline", "--target", "three", "--limit", "10", "--steps", "1", "--device", "cpu"),
        *("--output", str(tmp_path / "out")),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 2, done.stderr
