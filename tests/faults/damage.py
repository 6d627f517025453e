"""A small run of `erase concept` in this process, and the ways in which its files are damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from erase.cli.main import main

SMALL: dict[str, Any] = {
    "model": "mini-sd",
    "concept": ("three",),
    "max_train_steps": 3,
    "checkpointing_steps": 1,
    "num_forget_images": 2,
    "num_retain_images": 2,
    "render_steps": 1,
    "train_batch_size": 1,
}


def flip(file: Path, _: Path) -> None:
    """One bit of its middle byte."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path, _: Path) -> None:
    """Its last byte."""
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path, _: Path) -> None:
    file.write_bytes(b"")


def delete(file: Path, _: Path) -> None:
    file.unlink()


def exchange(file: Path, other: Path) -> None:
    """For a sound file of another step, image or run."""
    shutil.copyfile(other, file)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "flipped bit": flip,
    "cut": cut,
    "empty": empty,
    "deleted": delete,
    "exchanged": exchange,
}


def concept(output: Path, *more: str, **changes: Any) -> Result:
    options = []
    for name, value in {**SMALL, **changes}.items():
        for item in value if isinstance(value, tuple) else (value,):
            options += [f"--{name.replace('_', '-')}", str(item)]
    arguments = ["concept", *options, "--output", str(output), "--device", "cpu", *more]
    return CliRunner().invoke(main, arguments)


def refused(result: Result, *said: str) -> None:
    assert result.exit_code == 2, result.output
    for text in said:
        assert text in result.output
    assert "Traceback" not in result.output
    assert "not expected" not in result.output
