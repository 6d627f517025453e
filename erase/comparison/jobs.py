"""A comparison's work in several processes, each of which leaves its results in files.

Every result is a file of its own (`store.cached`), so the processes need not tell each other
anything: the parent finds all results where it would look for those of a comparison that was
killed. A job begins as soon as a process is free and all that it reads is there. The original,
Retrains and reference models need nothing and come first, then the searches, the longest first.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from erase.comparison.classifier_comparison import (
    ClassifierComparison,
    ComparePlan,
    before_original,
    comparisons,
)
from erase.comparison.classifier_problem import prepare_original
from erase.comparison.entries import Entry, entry
from erase.comparison.search import REPEATED, forget_set, reference_scores
from erase.errors import EraseError
from erase.files import append_jsonl

COSTS = "costs.jsonl"
"""File of the jobs' seconds in a comparison's folder."""
DEAR = ("lur", "iu", "ssd", "lur-b", "scrub", "shs", "salun")
"""Methods whose runs take longest, so that their searches begin first."""

Kind = Literal["original", "retrain", "search retrain", "shadow", "references", "search", "run"]


@dataclass(frozen=True)
class Job:
    """One piece of work: a model trained from scratch, a search, or one entry's run in a trial."""

    kind: Kind
    spec: str = ""
    label: str = "retrain"
    trial: int = 0
    """Or the number of the search's forget set."""
    number: int = 0
    """Of a reference model."""

    def __str__(self) -> str:
        label = self.label if self.kind in ("search", "run") else ""
        trial = "" if self.kind in ("original", "search") else str(self.trial)
        return " ".join(part for part in (self.kind, self.spec, label, trial) if part)


def graph(plan: ComparePlan) -> dict[Job, set[Job]]:
    """All jobs in the order in which they should begin, with the jobs that each needs."""
    config = plan.config
    entries = sorted(plan.entries, key=_rank)
    repeats = range(0 if not config.search else 2 if config.search >= REPEATED else 1)
    original = Job("original")

    def scratch(spec: str) -> set[Job]:  # the hardest samples are chosen by the original
        return {original} if needs_original(spec) else set()

    needs: dict[Job, set[Job]] = {original: set()}
    for spec in plan.specs:
        first = scratch(spec)
        needs |= {Job("retrain", spec, trial=trial): first for trial in range(config.trials)}
        needs |= {Job("search retrain", spec, trial=number): first for number in repeats}
    for spec in plan.specs:
        for trial in range(config.trials):
            shadows = (Job("shadow", spec, trial=trial, number=k) for k in _shadows(plan))
            needs |= {shadow: scratch(spec) for shadow in shadows}
    for spec in plan.specs:
        for number in repeats:
            own = Job("search retrain", spec, trial=number)
            needs[Job("references", spec, trial=number)] = {original, own}
    searched = [item.label for item in entries if "@" not in item.label and config.search]
    for label in searched:
        for spec in plan.specs:
            references = {Job("references", spec, trial=number) for number in repeats}
            needs[Job("search", spec, label)] = references
    for label in ("original", "retrain", *(item.label for item in entries)):
        for spec in plan.specs:
            base = label.partition("@")[0]
            search = {Job("search", spec, base)} if base in searched else set()
            for trial in range(config.trials):
                made = {Job("shadow", spec, trial=trial, number=k) for k in _shadows(plan)}
                made |= {Job("retrain", spec, trial=trial), original}
                needs[Job("run", spec, label, trial)] = made | search
    return needs


def needs_original(spec: str) -> bool:
    """Whether what a specification names depends on the original's weights."""
    return spec.startswith("worst:")


def _rank(item: Entry) -> int:
    return DEAR.index(item.method) if item.method in DEAR else len(DEAR)


def _shadows(plan: ComparePlan) -> Iterable[int]:
    return range(plan.config.shadow_models)


def run_ahead(plan: ComparePlan, progress: Callable[[str], None]) -> None:
    """Do all the work of a comparison in `config.jobs` processes.

    Raises:
        EraseError: what a process failed with.
    """
    waiting = graph(plan)
    total, finished = len(waiting), set[Job]()
    running: dict[Future[_Done], Job] = {}
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    with ProcessPoolExecutor(plan.config.jobs, context, _start, (plan,)) as pool:
        try:
            while waiting or running:
                ready = (job for job, needs in waiting.items() if needs <= finished)
                for job in [*ready][: plan.config.jobs - len(running)]:
                    del waiting[job]
                    running[pool.submit(_run, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, done = running.pop(future), future.result()
                    if done.error is not None:
                        kind, message, remedy = done.error
                        raise kind(message, remedy)
                    finished.add(job)
                    _note(plan, job, done)
                    progress(
                        f"[{time.monotonic() - began:6.0f} s, {len(finished)} of {total}] {job}:"
                        f" {done.seconds:.1f} s of processor time"
                    )
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                for process in list((pool._processes or {}).values()):
                    process.terminate()  # what it was writing is swept by the next command
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Done:
    error: tuple[type[EraseError], str, str] | None
    seconds: float
    """Of processor time."""


def _note(plan: ComparePlan, job: Job, done: _Done) -> None:
    row: dict[str, Any] = {"kind": job.kind, "forget": job.spec, "label": job.label}
    row |= {"trial": job.trial, "number": job.number, "processor_s": round(done.seconds, 2)}
    append_jsonl(plan.output / COSTS, row)


_plans: list[ComparePlan] = []  # of this process: one


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _start(plan: ComparePlan) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent ends us
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // plan.config.jobs))
    _plans[:] = [plan]


@cache
def _before() -> dict[str, ClassifierComparison]:
    return before_original(_plans[0], _say)


@cache
def _after() -> dict[str, ClassifierComparison]:
    return comparisons(_plans[0], _say)


def _run(job: Job) -> _Done:
    began = time.process_time()
    try:
        _do(job)
    except EraseError as error:
        return _Done((type(error), error.message, error.remedy), 0.0)
    return _Done(None, time.process_time() - began)


def _do(job: Job) -> None:
    plan = _plans[0]
    if job.kind == "original":
        prepare_original(plan.config, plan.output, torch.device(plan.device))
    elif job.kind in ("retrain", "search retrain", "shadow"):
        problem = (_after() if needs_original(job.spec) else _before())[job.spec].problem
        if job.kind == "search retrain":
            problem.retrain(*forget_set(problem, job.trial))
            return
        seed = plan.config.seed + job.trial
        forget = problem.forget(seed)
        if job.kind == "retrain":
            problem.retrain(seed, forget)
        else:
            problem.shadow(forget, seed, job.number)
    else:
        comparison = _after()[job.spec]
        item = next((e for e in comparison.entries if e.label == job.label), entry("retrain"))
        if job.kind == "references":
            reference_scores(comparison.problem, comparison.folder / "search", job.trial)
        elif job.kind == "search":
            comparison.searched_settings(item)
        elif job.label == "original":
            comparison.original_result(job.trial)
        else:
            comparison.run_entry(job.trial, item, comparison.searched_settings(item))
