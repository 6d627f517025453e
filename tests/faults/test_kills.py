"""SIGKILL at random moments of every command that makes a model; then it goes on to the same bytes.

A few moments that matter are hit for certain in test_concept_run.py and test_kill.py, in the
default suite; here chance chooses them, `KILLS` for each command.
"""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_signals import RUN, start

KILLS = 20
CLASSIFIER = ("--device", "cpu", "--epochs", "2", "--checkpointing-steps", "1")
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "concept": (RUN, "unet/diffusion_pytorch_model.safetensors"),
    "ddpm": (
        (
            *("train", "ddpm", "--dataset", "digits", "--channels", "8", "--multipliers", "1,2"),
            *("--train-batch-size", "4", "--max-train-steps", "6", "--checkpointing-steps", "1"),
            *("--device", "cpu"),
        ),
        "unet/diffusion_pytorch_model.safetensors",
    ),
    "train classifier": (
        ("train", "classifier", "--dataset", "digits", "--limit", "300", *CLASSIFIER),
        "model.safetensors",
    ),
    "classifier": (
        ("classifier", "--forget", "random:10%", "--method", "lur", *CLASSIFIER),
        "model.safetensors",
    ),
}
"""The options of a command but its `--output`, and the weights that it leaves."""


def run(arguments: tuple[str, ...], folder: Path, *more: str) -> float:
    """Run a command to its end; return the seconds that it took."""
    said = folder.with_name(f"{folder.name}.said")
    begun = time.monotonic()
    process = start([*arguments, "--output", str(folder), *more], said)
    process.join()
    assert process.exitcode == 0, said.read_text()
    return time.monotonic() - begun


def kill(arguments: tuple[str, ...], folder: Path, seconds: float) -> bool:
    """Start a command, or go on with it, and kill it after a time; False if it ended before."""
    said = folder.with_name(f"{folder.name}.said")
    go_on = ("--resume-from-checkpoint", "latest")
    process: Any = start([*arguments, "--output", str(folder), *go_on], said)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), said.read_text()
    return bool(process.exitcode)


@pytest.mark.slow
@pytest.mark.fault("kill", times=KILLS)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_it_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    arguments, weights = COMMANDS[name]
    if name == "classifier":
        train, _ = COMMANDS["train classifier"]
        run(train, tmp_path / "original")
        arguments = (*arguments, "--model", str(tmp_path / "original"))
    run(arguments, tmp_path / "first")  # its time has the libraries' first use in it
    whole = run(arguments, tmp_path / "undisturbed")
    draw, kills, trial = random.Random(name), 0, 0
    while kills < KILLS:
        trial += 1
        folder = tmp_path / f"run-{trial}"
        for _ in range(min(draw.choice((1, 2, 3)), KILLS - kills)):
            if not kill(arguments, folder, draw.uniform(0, whole)):
                break
            kills += 1
        run(arguments, folder, "--resume-from-checkpoint", "latest")
        assert (folder / weights).read_bytes() == (tmp_path / "undisturbed" / weights).read_bytes()
        assert not [f for f in folder.rglob("*") if "partial" in f.name or ".old-" in f.name]
