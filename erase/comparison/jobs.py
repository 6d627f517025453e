"""The jobs of a comparison of classifiers: what each needs, and how it is done.

The original, Retrains and reference models need nothing and come first, then the searches, the
longest first. `erase.comparison.pool` does them in several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
from erase.comparison.pool import COSTS, run_jobs, say
from erase.comparison.search import REPEATED, forget_set, reference_scores
from erase.files import append_jsonl

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

    def note(job: Job, seconds: float) -> None:
        row: dict[str, Any] = {"kind": job.kind, "forget": job.spec, "label": job.label}
        row |= {"trial": job.trial, "number": job.number, "processor_s": round(seconds, 2)}
        append_jsonl(plan.output / COSTS, row)

    run_jobs(graph(plan), plan.config.jobs, _do, plan, progress=progress, note=note)


_kept: dict[Any, dict[str, ClassifierComparison]] = {}  # of this process, which has one plan


def _comparisons(plan: ComparePlan, *, trained: bool) -> dict[str, ClassifierComparison]:
    """The comparisons of the plan, once the original is trained or before, made once."""
    make = comparisons if trained else before_original
    if make not in _kept:
        _kept[make] = make(plan, say)
    return _kept[make]


def _do(plan: ComparePlan, job: Job) -> None:
    if job.kind == "original":
        prepare_original(plan.config, plan.output, torch.device(plan.device))
    elif job.kind in ("retrain", "search retrain", "shadow"):
        problem = _comparisons(plan, trained=needs_original(job.spec))[job.spec].problem
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
        comparison = _comparisons(plan, trained=True)[job.spec]
        item = next((e for e in comparison.entries if e.label == job.label), entry("retrain"))
        if job.kind == "references":
            reference_scores(comparison.problem, comparison.folder / "search", job.trial)
        elif job.kind == "search":
            comparison.searched_settings(item)
        elif job.label == "original":
            comparison.original_result(job.trial)
        else:
            comparison.run_entry(job.trial, item, comparison.searched_settings(item))
