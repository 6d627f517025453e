"""A comparison's runs in several processes, each of which leaves its results in files.

Every result is a file of its own (`store.cached`), so the processes need not tell each other
anything: the parent finds all results where it would look for those of a comparison that was
killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch

from erase.comparison.classifier_comparison import (
    ClassifierComparison,
    ComparePlan,
    comparisons,
)
from erase.comparison.entries import entry
from erase.comparison.search import REPEATED, reference_scores
from erase.errors import EraseError


@dataclass(frozen=True)
class Job:
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
                for error in pool.map(_run, stage):
                    if error is not None:
                        kind, message, remedy = error
                        raise kind(message, remedy)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                for process in list((pool._processes or {}).values()):
                    process.terminate()  # what it was writing is swept by the next command
            pool.shutdown(cancel_futures=True)
            raise


def stages(plan: ComparePlan) -> Iterator[list[Job]]:
    """The work in an order in which nothing waits for what comes later; the longest first."""
    entries = sorted(plan.entries, key=lambda item: item.method != "lur")
    trials = range(plan.config.trials)
    repeats = (0, 1) if plan.config.search >= REPEATED else (0,)
    first = [Job("run", spec, trial=t) for spec in plan.specs for t in trials]
    if plan.config.search:
        yield [Job("references", spec, trial=n) for spec in plan.specs for n in repeats] + first
        first = []
        searched = [item.label for item in entries if "@" not in item.label]
        yield [Job("search", spec, label) for label in searched for spec in plan.specs]
    yield first + [
        Job("run", spec, item.label, t) for item in entries for spec in plan.specs for t in trials
    ]


_comparisons: dict[str, ClassifierComparison] = {}  # of this process


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _start(plan: ComparePlan) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent ends us
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // plan.config.jobs))
    _comparisons.update(comparisons(plan, _say))


def _run(job: Job) -> tuple[type[EraseError], str, str] | None:
    comparison = _comparisons[job.spec]
    item = next((e for e in comparison.entries if e.label == job.label), entry("retrain"))
    try:
        if job.kind == "references":
            reference_scores(comparison.problem, comparison.folder / "search", job.trial)
        elif job.kind == "search":
            comparison.searched_settings(item)
        else:
            comparison.run_entry(job.trial, item, comparison.searched_settings(item))
    except EraseError as error:
        return type(error), error.message, error.remedy
    return None
