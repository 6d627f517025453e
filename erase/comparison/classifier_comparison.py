"""The runs of a classifier comparison: every entry in every trial, each a file of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.comparison.classifier_problem import (
    ClassifierProblem,
    before_training,
    metric_names,
    prepare_original,
)
from erase.comparison.entries import Entry, entry, slug
from erase.comparison.scratch import ScratchModels
from erase.comparison.search import search
from erase.comparison.store import Judged, Result, cached
from erase.config.classifier import ClassifierConfig
from erase.config.compare import CompareConfig
from erase.errors import RunError
from erase.files import write_jsonl
from erase.training.classifier import Original

SCRATCH = "from-scratch"
"""Folder of the models that were trained from scratch."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ClassifierComparison:
    """One forget specification: the original, Retrain and all entries over all trials."""

    problem: ClassifierProblem
    entries: Sequence[Entry]
    """The lines of the table, without the original and Retrain."""
    folder: Path
    """Of the results."""
    progress: Progress
    """Called with a line of text as things finish."""

    def run(self) -> dict[str, Any]:
        """Search if asked, run what is missing, and return all results."""
        searched = {e.label: self.searched_settings(e) for e in (entry("retrain"), *self.entries)}
        results: dict[str, list[Result]] = {"original": [], "retrain": []}
        results |= {item.label: [] for item in self.entries}
        for trial in range(self.problem.config.trials):
            results["original"].append(self.original_result(trial))
            for item in (*self.entries, entry("retrain")):
                results[item.label].append(self.run_entry(trial, item, searched[item.label]))
        return {
            "forget": self.problem.spec,
            "results": results,
            "search": searched,
            "metrics": metric_names(self.problem.config),
        }

    def searched_settings(self, item: Entry) -> dict[str, float]:
        """The settings that the search chooses for an entry; its trials on disk are not repeated.

        An entry of a sweep (`lur@alpha=…`) takes those of its base: a sweep shows what one setting
        does, so everything else is as in the base.
        """
        base, sweep, _ = item.label.partition("@")
        if sweep:
            bases = [other for other in self.entries if other.label == base]
            return self.searched_settings(bases[0]) if bases else {}
        if not self.problem.config.search or item.method == "retrain":
            return {}
        path = self.folder / "search" / f"{slug(item.label)}.json"
        return search(self.problem, item, path, self.progress)

    def original_result(self, trial: int) -> Result:
        """Scores of the original in a trial."""
        seed = self.problem.config.seed + trial
        forget = self.problem.forget(seed)
        config = ClassifierConfig(forget=self.problem.spec, seed=seed)
        key = self.problem.key(config, forget, scoring="original", **self.problem.measuring())
        model = self.problem.original.model
        path = self._path(trial, "original")
        return cached(path, key, lambda: self.problem.judge(model, forget, config), Judged)

    def run_entry(self, trial: int, item: Entry, searched: dict[str, float]) -> Result:
        """Run and judge an entry in a trial, unless its result is there already."""
        seed = self.problem.config.seed + trial
        forget = self.problem.forget(seed)
        config = self.problem.configuration(item, seed, forget, searched)
        path = self._path(trial, item.label)

        def make() -> Result:
            result = self._result(config, forget, path)
            scores = result.get("scores", {"failed": result.get("failed")})
            self.progress(f"{self.problem.spec}  trial {trial}  {item.label}  {_line(scores)}")
            return result

        key = self.problem.key(config, forget, **self.problem.measuring())
        return cached(path, key, make, Judged)

    def _path(self, trial: int, label: str) -> Path:
        return result_file(self.folder, trial, label)

    def _result(self, config: ClassifierConfig, forget: Tensor, path: Path) -> Result:
        try:
            out = self.problem.run(forget, config)
        except RunError as error:
            return {"failed": error.message, "settings": config.to_dict()}
        write_jsonl(path.with_suffix(".jsonl"), out.rows)
        judged = self.problem.judge(out.model, forget, config)
        return {**judged, "rte_s": round(out.seconds, 3), "settings": config.to_dict()}


def _line(scores: dict[str, Any]) -> str:
    return " ".join(
        f"{name.upper()} {value:.2f}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in scores.items()
        if not name.startswith("n_")
    )


@dataclass(frozen=True)
class ComparePlan:
    """All that a process needs to make the comparisons."""

    config: CompareConfig
    output: Path
    device: str
    specs: Sequence[str]
    entries: Sequence[Entry]

    @property
    def labels(self) -> list[str]:
        """The lines that are run, that of Retrain first."""
        return ["retrain", *(item.label for item in self.entries)]

    def result_files(self) -> list[Path]:
        """Where the results of all runs lie."""
        runs = itertools.product(self.specs, range(self.config.trials), self.labels)
        return [result_file(self.output / slug(s), trial, label) for s, trial, label in runs]


def result_file(folder: Path, trial: int, label: str) -> Path:
    """Where the result of a line in a trial lies in the folder of its forget specification."""
    return folder / f"trial-{trial}" / f"{slug(label)}.json"


def comparisons(plan: ComparePlan, progress: Progress) -> dict[str, ClassifierComparison]:
    """The comparison of each forget specification, all with one original, trained if need be."""
    config, output = plan.config, plan.output
    original, sha256 = prepare_original(config, output, torch.device(plan.device))
    return _comparisons(plan, original, sha256, progress)


def before_original(plan: ComparePlan, progress: Progress) -> dict[str, ClassifierComparison]:
    """The same before the original is trained: enough for what is trained from scratch."""
    original = before_training(plan.config, torch.device(plan.device))
    return _comparisons(plan, original, "", progress)


def _comparisons(
    plan: ComparePlan, original: Original, sha256: str, progress: Progress
) -> dict[str, ClassifierComparison]:
    scratch = ScratchModels(original, plan.output / SCRATCH)
    return {
        spec: ClassifierComparison(
            ClassifierProblem(plan.config, original, sha256, spec, scratch),
            plan.entries,
            plan.output / slug(spec),
            progress,
        )
        for spec in plan.specs
    }
