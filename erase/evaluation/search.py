"""The same number of hyper-parameter trials for every method, judged on the validation split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase.core.rng import derive_seed
from erase.errors import InputError, RunError
from erase.evaluation.classifier_metrics import average_gap
from erase.record import read_json, write_json
from erase.training.classifier import run_method
from erase.training.classifier_config import method_module
from erase.training.classifier_runs import score

if TYPE_CHECKING:
    from erase.evaluation.compare_classifier import Comparison, Entry

FAILED = 100.0  # Avg. Gap of a trial that diverged
DUAL_RANGE = {"forget_learning_rate": (1e-5, 1e-2)}


def search(comparison: Comparison, item: Entry, path: Path) -> dict[str, float]:
    """The best settings of an entry by Avg. Gap to a Retrain of the search's own forget set.

    The forget set, Retrain and seeds are none of the comparison's trials', and validation images
    stand in for test images. The first trial is the source's defaults; the others are drawn by
    optuna's TPE, log-uniformly at first. All trials are kept in `path`; a search that was killed
    replays them without computing anything again.

    Raises:
        InputError: optuna is not installed, or the original has no validation split.
    """
    try:
        import optuna
    except ImportError:
        raise InputError(
            "--search needs optuna, which is not installed.", "pip install optuna"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    comparison.original.held_out()  # before anything is computed: is there a validation split?
    seed = derive_seed(comparison.config.seed, "search") % 2**31
    forget = comparison.forget(seed)
    ranges = {**method_module(item.method).SEARCH, **(DUAL_RANGE if item.changes else {})}
    ranges = {name: span for name, span in ranges.items() if name not in item.settings}
    gold = _retrain(comparison, seed, forget, path.with_name("retrain.json"))
    defaults = comparison.resolved(item, seed, forget, {})
    plain = {**defaults.settings, **defaults.to_dict()}
    known = {row["fingerprint"]: row for row in _trials(path)}
    rows: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        found = {n: trial.suggest_float(n, *span, log=True) for n, span in ranges.items()}
        config = comparison.resolved(item, seed, forget, found)
        key = comparison.key(config, forget, search=True)
        row = known.get(key)
        if row is None:
            row = {"fingerprint": key, "settings": found}
            try:
                out = run_method(comparison.original, forget, config)
                scores = score(comparison.original, out.model, forget, config, validation=True)
                row |= {"scores": scores.to_dict(), "gap": average_gap(scores.to_dict(), gold)}
            except RunError as error:
                row |= {"failed": error.message, "gap": FAILED}
        rows.append(row)
        write_json(path, {"budget": comparison.config.search, "retrain": gold, "trials": rows})
        return float(row["gap"])

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    if ranges:
        start = {n: min(max(float(plain[n]), span[0]), span[1]) for n, span in ranges.items()}
        study.enqueue_trial(start)
    study.optimize(objective, n_trials=comparison.config.search)
    best = min(rows, key=lambda row: row["gap"])
    comparison.progress(
        f"{comparison.spec}  search {item.label}  gap {best['gap']:.2f}  {best['settings']}"
    )
    settings: dict[str, float] = best["settings"]
    return settings


def _trials(path: Path) -> list[dict[str, Any]]:
    return list(read_json(path)["trials"]) if path.exists() else []


def _retrain(comparison: Comparison, seed: int, forget: Any, path: Path) -> dict[str, float]:
    from erase.evaluation.compare_classifier import entry

    config = comparison.resolved(entry("retrain"), seed, forget, {})
    key = comparison.key(config, forget, search=True)
    if path.exists():
        kept = read_json(path)
        if kept["fingerprint"] == key:
            return dict(kept["scores"])
    out = run_method(comparison.original, forget, config)
    scores = score(comparison.original, out.model, forget, config, validation=True).to_dict()
    write_json(path, {"fingerprint": key, "scores": scores})
    return scores
