"""The device is chosen in one place, for every command."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from erase.cli.main import main
from erase.embedded import mini_sd
from erase.errors import InputError
from erase.runs import device
from tests.test_cli import every_command


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU, as far as torch says."""
    found = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Test")
    monkeypatch.setattr(device, "check_device", lambda _: None)


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize(
    ("asked", "environment", "chosen"),
    [
        (None, {}, "cuda"),
        ("cpu", {}, "cpu"),
        ("cuda:1", {}, "cuda:1"),
        (None, {"ACCELERATE_USE_CPU": "true"}, "cpu"),
        ("cuda", {"ACCELERATE_USE_CPU": "true"}, "cuda"),
        (None, {"ACCELERATE_TORCH_DEVICE": "cuda:3"}, "cuda:3"),
    ],
)
def test_a_gpu_is_taken_unless_something_else_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, environment: dict[str, str], chosen: str
) -> None:
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert device.choose_device(asked) == chosen


WITH_DEVICE = [
    (path, command)
    for path, command in every_command(main)
    if any("--device" in parameter.opts for parameter in command.params)
]


def test_many_commands_take_a_device() -> None:
    assert len(WITH_DEVICE) >= 9
    assert ("train", "mini-sd") in dict(WITH_DEVICE)


@pytest.mark.parametrize(("path", "command"), WITH_DEVICE, ids=lambda v: str(v))
def test_no_command_prefers_a_device_of_its_own(
    path: tuple[str, ...], command: click.Command
) -> None:
    option = next(p for p in command.params if "--device" in p.opts)
    assert not isinstance(option.get_default(click.Context(command)), str), path


@pytest.mark.parametrize("asked", [None, "cpu", "cuda:1"])
def test_mini_sd_is_trained_where_every_command_would_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str | None
) -> None:
    def choose(name: str | None) -> str:
        raise InputError(f"asked for {name}", "")

    monkeypatch.setattr(mini_sd, "choose_device", choose)
    options = ["--device", asked] if asked else []
    result = CliRunner().invoke(
        main, ["train", "mini-sd", "--output", str(tmp_path / "out"), *options]
    )
    assert f"asked for {asked}" in result.output


def test_without_a_gpu_it_is_the_cpu_and_another_device_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert device.choose_device() == "cpu"
    with pytest.raises(InputError, match="cuda:77"):
        device.choose_device("cuda:77")


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize(
    ("chosen", "asked", "environment", "line"),
    [
        ("cuda", None, {}, "Device: cuda (NVIDIA Test)\n"),
        ("cpu", "cpu", {}, "Device: cpu\n"),
        ("cpu", None, {}, "Device: cpu (as launched)\n"),
        ("cuda", None, {"WORLD_SIZE": "2", "RANK": "0"}, "Device: cuda (NVIDIA Test), 2 processes"),
        ("cuda", None, {"WORLD_SIZE": "2", "RANK": "1"}, ""),
    ],
)
def test_the_device_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chosen: str,
    asked: str | None,
    environment: dict[str, Any],
    line: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    device.say_device(chosen, asked)
    assert capsys.readouterr().out.startswith(line)
    assert line or not capsys.readouterr().out
