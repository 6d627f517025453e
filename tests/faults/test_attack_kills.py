"""`erase attack` killed on its way, and given again: nothing is lost, and nothing is other."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from tests.attack_world import arguments, make_world

LEFT = ("metrics.json", "samples.jsonl", "tables/attacks.csv", "tables/curves.csv")
FORKS = multiprocessing.get_context("forkserver")
STAGES = ("relearn/model/concept-2", "unlearndiffatk/model/found", "unlearndiffatk/baseline")
"""What is to be there when the process is killed."""


def work(words: list[str]) -> None:
    """`erase …` in this process, without a word."""
    with Path(os.devnull).open("w") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())
        main(args=words)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.fault("killed attack")
def test_a_killed_run_goes_on_and_ends_alike(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    attacks = ("relearn", "unlearndiffatk")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    FORKS.set_forkserver_preload(["erase.attack.run", "erase.report.plots"])
    for stage in STAGES:
        process = FORKS.Process(target=work, args=(arguments(world, killed, *attacks),))
        process.start()
        while process.is_alive() and not (killed / "attacks" / stage).exists():
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -9
    for output in (killed, undisturbed):
        outcome = CliRunner().invoke(main, arguments(world, output, *attacks))
        assert outcome.exit_code == 0, outcome.output
    for name in LEFT:
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
    images = [file.relative_to(undisturbed) for file in undisturbed.rglob("images/*.png")]
    assert images
    for file in images:
        assert (killed / file).read_bytes() == (undisturbed / file).read_bytes(), file
    assert CliRunner().invoke(main, ["verify", str(killed)]).exit_code == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_find_and_render_what_one_does(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    attacks = ("relearn", "unlearndiffatk", "textual-inversion")
    more = ["--set", "unlearndiffatk.batch_size=1", "--batch-size", "1"]
    for output, launcher in (("one", []), ("two", ["--processes", "2"])):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "erase",
                *launcher,
                *arguments(world, tmp_path / output, *attacks),
                *more,
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("metrics.json", "samples.jsonl"):
        one, two = ((tmp_path / output / name).read_bytes() for output in ("one", "two"))
        assert one == two, name
    assert not list((tmp_path / "two").rglob("relearn/**/*.safetensors"))
