"""The same number of hyper-parameter trials for every method, judged on the validation split.

Where steps matter differs by orders of magnitude between methods and between originals: on one
that fits its training data perfectly, both of LUR's gradients nearly vanish, and below some
learning rate nothing moves at all. A range written down beforehand is therefore no equal chance.
So every method's first trials walk its learning rate up and down from its default, in steps of
√10, until one leaves the original as it was and one breaks it. Half a step above and below the best
of these is tried next: a method can go from still to broken within one step. The others are drawn
between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypedDict

from torch import Tensor

from erase.comparison.classifier_problem import ClassifierProblem, fixed_settings
from erase.comparison.entries import Entry, entry
from erase.comparison.store import Judged, cached
from erase.config.classifier import method_module
from erase.core.rng import derive_seed
from erase.errors import RunError
from erase.files import read_json, write_json
from erase.judges.classifier_scores import average_gap
from erase.training.classifier_runs import score

FAILED = 100.0  # Avg. Gap of a trial that diverged
DUAL_RANGE = {"forget_learning_rate": (1e-5, 1e-2)}
RUNG = math.sqrt(10)
WEIGHT = "forget_weight"
REPEATED = 5  # one in so many trials repeats a good one
STILL = 0.5
"""A model within this Avg. Gap of the original, in percentage points, has not moved."""
BROKEN = 10.0
"""A model that lost this much of the original's RA, in percentage points, is broken."""

State = Literal["still", "moved", "broken"]
Scores = dict[str, float]
Row = dict[str, Any]


def search(
    problem: ClassifierProblem, item: Entry, path: Path, progress: Callable[[str], None]
) -> dict[str, float]:
    """The best settings of an entry by Avg. Gap to a Retrain of the search's own forget set.

    The forget set, Retrain and seeds are none of the comparison's trials', and validation images
    stand in for test images. The first trial is the source's defaults; then the learning rate is
    walked (see above, at most half of the budget); the others are drawn by optuna's TPE,
    log-uniformly at first. The last fifth of the budget repeats the best on a second forget set,
    and the best mean of the two wins: the best of many is best by luck, too. What `--set` fixes is
    not searched. All trials are kept in `path`; a search that was killed replays them without
    computing anything again. `progress` is called with a line of text when it has ended.

    Raises:
        InputError: the original has no validation split.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem.original.held_out()  # before anything is computed: is there a validation split?
    trials = _Trials(problem, item, path)
    if not trials.ranges:
        return {}
    repeats = trials.budget // REPEATED
    sampler = optuna.samplers.TPESampler(seed=trials.seed, n_startup_trials=trials.budget // 3)
    study = optuna.create_study(sampler=sampler)
    if "learning_rate" in trials.ranges:
        trials.ranges["learning_rate"] = bracket(
            trials.start["learning_rate"],
            lambda rate: trials.attempt({**trials.start, "learning_rate": rate})["state"],
            trials.budget // 2,
        )
        best = min(trials.rows, key=lambda row: row["gap"])["settings"]["learning_rate"]
        for factor in (math.sqrt(RUNG), 1 / math.sqrt(RUNG)):
            if len(trials.rows) < trials.budget - repeats:
                trials.attempt({**trials.start, "learning_rate": best * factor})
    else:
        trials.attempt(trials.start)
    spans = {
        name: optuna.distributions.FloatDistribution(*span, log=True)
        for name, span in trials.ranges.items()
    }
    for row in trials.rows:
        drawn = row["settings"]  # at the default λ
        if all(lo <= drawn[name] <= hi for name, (lo, hi) in trials.ranges.items()):
            past = {"params": drawn, "distributions": spans, "value": row["gap"]}
            study.add_trial(optuna.trial.create_trial(**past))
    while len(trials.rows) < trials.budget - repeats:
        trial = study.ask(spans)
        study.tell(trial, trials.attempt(trials.weighed(trial.params))["gap"])
    best = sorted(trials.rows, key=lambda row: row["gap"])[: max(repeats, 1)]
    means = [
        (row["gap"] + trials.attempt(row["settings"], 1)["gap"]) / 2 if repeats else row["gap"]
        for row in best
    ]
    gap, chosen = min(zip(means, best, strict=True), key=lambda pair: pair[0])
    settings: dict[str, float] = chosen["settings"]
    if trials.fresh:
        progress(f"{problem.spec}  search {item.label}  gap {gap:.2f}  {settings}")
    return settings


def search_ranges(module: ModuleType, *, dual: bool) -> dict[str, tuple[float, float]]:
    """What a search of a method goes over; the learning rate's range is found by `bracket`."""
    walked = {} if module.Method.closed_form else {"learning_rate": (0.0, 0.0)}
    own: dict[str, tuple[float, float]] = getattr(module, "SEARCH", {})
    return {**walked, **own, **(DUAL_RANGE if dual else {})}


class Trial(TypedDict):
    """A row of a search's file."""

    fingerprint: str
    settings: dict[str, float]
    gap: float
    state: str


class Trials(TypedDict):
    """What a search's file says."""

    trials: list[Trial]


class _Trials:
    """The trials of an entry's search so far, kept in a file."""

    def __init__(self, problem: ClassifierProblem, item: Entry, path: Path) -> None:
        self.problem, self.item, self.path = problem, item, path
        self.budget = problem.config.search
        self.seed, forget = forget_set(problem)
        module = method_module(item.method)
        ranges = search_ranges(module, dual="dual_optim" in item.changes)
        settled = {*item.settings, *fixed_settings(problem.config, item)}
        self.ranges = {name: span for name, span in ranges.items() if name not in settled}
        defaults = problem.configuration(item, self.seed, forget, {})
        plain = {**defaults.settings, **defaults.to_dict()}
        self.start = {name: float(plain[name]) for name in self.ranges}
        self.known: dict[str, Row] = {}
        if path.exists():
            self.known = {
                row["fingerprint"]: dict(row) for row in read_json(path, Trials)["trials"]
            }
        self.rows: list[Row] = []
        self.fresh = False
        """Whether anything had to be computed."""

    def weighed(self, drawn: dict[str, float]) -> dict[str, float]:
        """The settings that were drawn, with a learning rate that suits λ.

        What breaks a model is the forget step, learning rate × λ. The range was walked at the
        default λ; with a smaller one it lies as much higher.
        """
        settings = dict(drawn)
        if {"learning_rate", WEIGHT} <= set(settings):
            settings["learning_rate"] *= self.start[WEIGHT] / settings[WEIGHT]
        return settings

    def attempt(self, settings: dict[str, float], repeat: int = 0) -> Row:
        """The trial of these settings, computed unless it is known."""
        problem = self.problem
        seed, forget = forget_set(problem, repeat)
        config = problem.configuration(self.item, seed, forget, settings)
        key = problem.key(config, forget, search=True)
        row = self.known.get(key)
        if row is None:
            self.fresh = True
            references = reference_scores(problem, self.path.parent, repeat)
            row = {"fingerprint": key, "settings": settings, "repeat": repeat}
            try:
                out = problem.run(forget, config)
                scores = score(problem.original, out.model, forget, config, validation=True)
                row["scores"] = scores.to_dict()
                row["gap"] = average_gap(row["scores"], references["retrain"])
            except RunError as error:
                row |= {"failed": error.message, "gap": FAILED}
            row["state"] = state(row.get("scores"), references["original"])
        self.rows.append(row)
        if self.fresh:
            content = {"budget": self.budget, "ranges": self.ranges, "trials": self.rows}
            write_json(self.path, content)
        return row


def bracket(start: float, outcome: Callable[[float], State], budget: int) -> tuple[float, float]:
    """The range of learning rates that matter, walked in steps of `RUNG`.

    It ends above at the first rate that breaks the model, and below at the last that changes
    nothing, or that breaks it too: a trimmed model stays broken unless it is repaired. Where the
    start itself breaks it, rates above and below are tried in turn until one does not.

    Args:
        start: where to begin; always tried.
        outcome: of a trial at a learning rate.
        budget: most trials to spend; when it ends first, the range reaches about as far as it got.
    """
    seen: dict[int, State] = {}  # by rung, 0 being the start

    def at(rung: int) -> State:
        if rung not in seen and len(seen) < max(budget, 1):
            seen[rung] = outcome(start * RUNG**rung)
        return seen.get(rung, "broken")

    turns = (sign * rung for rung in range(budget) for sign in (1, -1))
    middle = next((rung for rung in turns if at(rung) != "broken"), 0)
    high = low = middle
    while at(high) != "broken":
        high += 1
    while at(low) != "broken" and (at(low) != "still" or low == high):
        low -= 1
    while low < high - 1 and at(low + 1) == "still":
        low += 1
    tried = [rung for rung in range(low, high + 1) if rung in seen]
    low, high = tried[0], tried[-1]
    if low == high:
        low, high = low - 1, high + 1
    return start * RUNG**low, start * RUNG**high


def state(scores: Scores | None, original: Scores) -> State:
    """Whether a model is as the original was, is broken, or is something in between."""
    if scores is None or scores["ra"] < original["ra"] - BROKEN:
        return "broken"
    return "still" if average_gap(scores, original) < STILL else "moved"


def forget_set(problem: ClassifierProblem, repeat: int = 0) -> tuple[int, Tensor]:
    """Seed and forget set of the search, or of its repetition; none of them a trial's."""
    seed = derive_seed(problem.config.seed, *("search", repeat)[: repeat + 1]) % 2**31
    return seed, problem.forget(seed)


def reference_scores(
    problem: ClassifierProblem, folder: Path, repeat: int = 0
) -> dict[str, Scores]:
    """Validation scores of the original and of Retrain for the search's forget set."""
    seed, forget = forget_set(problem, repeat)
    config = problem.configuration(entry("retrain"), seed, forget, {})

    def scored(model: Any) -> Row:
        scores = score(problem.original, model, forget, config, validation=True)
        return {"scores": scores.to_dict()}

    key = problem.key(config, forget, search=True)
    makers: dict[str, Callable[[], Row]] = {
        "original": lambda: scored(problem.original.model),
        "retrain": lambda: scored(problem.retrain(seed, forget).model),
    }
    return {
        name: dict(cached(folder / f"{name}-{repeat}.json", key, make, Judged)["scores"])
        for name, make in makers.items()
    }
