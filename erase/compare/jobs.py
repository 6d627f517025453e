"""A comparison's runs in several processes, each of which leaves its results in files.

Every piece of work is a file of its own already (`Comparison.kept`), so the processes need not
tell each other anything: the parent finds all results where it would look for those of a
comparison that was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from erase.compare.classifier import Comparison, prepare_original
from erase.compare.classifier_report import report_folder
from erase.compare.entries import Entry, entry
from erase.compare.search import REPEATED, references_of
from erase.config.compare import CompareConfig
from erase.errors import EraseError


@dataclass(frozen=True)
class ComparePlan:
    """All that a process needs to make the comparisons again."""

    config: CompareConfig
    output: Path
    device: str
    specs: tuple[str, ...]
    entries: tuple[Entry, ...]
    threads: int

    def comparisons(self) -> dict[str, Comparison]:
        """The comparison of each forget specification."""
        original, base = prepare_original(self.config, self.output, torch.device(self.device))
        return {
            spec: Comparison(
                self.config,
                original,
                base,
                spec,
                list(self.entries),
                report_folder(self.output, spec),
                _say,
            )
            for spec in self.specs
        }


@dataclass(frozen=True)
class Unit:
    """One piece of work: a search's references, a search, or one entry's run in a trial."""

    kind: Literal["references", "search", "run"]
    spec: str
    label: str = "retrain"
    trial: int = 0


def run_ahead(plan: ComparePlan) -> None:
    """Do all the work of a comparison in `config.jobs` processes.

    Raises:
        EraseError: what a process failed with.
    """
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    with ProcessPoolExecutor(plan.config.jobs, context, _start, (plan,)) as pool:
        try:
            for stage in stages(plan):
                for error in pool.map(_do, stage):
                    if error is not None:
                        kind, message, remedy = error
                        raise kind(message, remedy)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def stages(plan: ComparePlan) -> Iterator[list[Unit]]:
    """The work in an order in which nothing waits for what comes later; the longest first."""
    entries = sorted(plan.entries, key=lambda item: item.method != "lur")
    trials = range(plan.config.trials)
    repeats = (0, 1) if plan.config.search >= REPEATED else (0,)
    first = [Unit("run", spec, trial=t) for spec in plan.specs for t in trials]
    if plan.config.search:
        yield [Unit("references", spec, trial=n) for spec in plan.specs for n in repeats] + first
        first = []
        searched = [item.label for item in entries if "@" not in item.label]
        yield [Unit("search", spec, label) for label in searched for spec in plan.specs]
    yield first + [
        Unit("run", spec, item.label, t) for item in entries for spec in plan.specs for t in trials
    ]


_comparisons: dict[str, Comparison] = {}  # of this process


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _start(plan: ComparePlan) -> None:
    torch.set_num_threads(plan.threads)
    _comparisons.update(plan.comparisons())


def _do(unit: Unit) -> tuple[type[EraseError], str, str] | None:
    comparison = _comparisons[unit.spec]
    item = next((e for e in comparison.entries if e.label == unit.label), entry("retrain"))
    try:
        if unit.kind == "references":
            references_of(comparison, comparison.folder / "search", unit.trial)
        elif unit.kind == "search":
            comparison.found(item)
        else:
            comparison.one(unit.trial, item, comparison.found(item))
    except EraseError as error:
        return type(error), error.message, error.remedy
    return None


def threads_each(jobs: int) -> int:
    """Threads that each of several processes may use, so that together they fill the cores."""
    return max(1, (os.cpu_count() or 1) // jobs)


def plan_of(
    config: CompareConfig, output: Path, device: str, specs: Sequence[str], entries: Sequence[Entry]
) -> ComparePlan:
    """The plan of `config.jobs` processes."""
    threads = threads_each(config.jobs)
    return ComparePlan(config, output, device, tuple(specs), tuple(entries), threads)
