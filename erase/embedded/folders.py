"""The folders that trainings of embedded models write, and the costs that their cards state."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from erase.data.rendered import RENDERS, SUITES_RENDERED
from erase.errors import InputError
from erase.files import read_json, write_json
from erase.judges.small_classifier import DESCRIPTION, REFERENCE, WEIGHTS
from erase.runs.checks import check_writable
from erase.runs.folder import ResultFolder

INDEX, CARD = "model_index.json", "README.md"
T = TypeVar("T")


class PipelineFolder(ResultFolder):
    """A folder that appears whole, without a record: a pipeline, its card and nothing else."""

    def check(self) -> bool:
        """Check the folder, and that its parent is writable, where the folder is replaced."""
        continued = super().check()
        check_writable(self.path.parent, self.option)
        return continued

    def is_empty(self) -> bool:
        """Whether the folder is absent or has nothing in it."""
        return not self.path.exists() or not self._names()

    def is_ours(self) -> bool:
        """Whether the folder holds a pipeline with its card, and nothing else."""
        index = self.path / INDEX
        parts = read_json(index) if index.is_file() else None
        return isinstance(parts, dict) and self._names() <= {INDEX, CARD, *parts}

    def _names(self) -> set[str]:
        return {item.name for item in self.path.iterdir()}


class ClassifierFolder(PipelineFolder):
    """A folder that appears whole: a classifier and nothing else."""

    def is_ours(self) -> bool:
        """Whether the folder holds a small classifier, and nothing else."""
        return {WEIGHTS, DESCRIPTION} <= self._names() <= {WEIGHTS, DESCRIPTION, REFERENCE}


def name_suite(folder: Path, model: str) -> None:
    """Write into a pipeline's index that it renders what the embedded model does.

    diffusers takes no notice of the entry.
    """
    write_json(folder / INDEX, {**read_json(folder / INDEX), RENDERS: SUITES_RENDERED[model]})


def check_apart(*folders: ResultFolder) -> None:
    """Check each folder; InputError when one may not be written into, or lies in another."""
    for number, folder in enumerate(folders):
        folder.check()
        for other in folders[:number]:
            if folder.path.is_relative_to(other.path) or other.path.is_relative_to(folder.path):
                raise InputError(
                    f"{other.path} and {folder.path} lie in one another.",
                    "Give two folders side by side.",
                )


def machine(device: str) -> str:
    """What a training ran on, for the card."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return f"{device}, {name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def cost_table(seconds: Mapping[str, tuple[float, float]]) -> str:
    """The rows of a card's table of costs: wall and CPU seconds of each stage."""
    return "\n".join(
        f"| {name} | {wall:.0f} s | {cpu:.0f} s |" for name, (wall, cpu) in seconds.items()
    )


def timed(seconds: dict[str, tuple[float, float]], name: str, work: Callable[[], T]) -> T:
    """Run one stage, record its wall and CPU time, and return its result."""
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    seconds[name] = (time.monotonic() - wall, time.process_time() - cpu)
    return result
