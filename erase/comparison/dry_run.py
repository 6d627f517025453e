"""`erase compare … --dry-run`: the runs of a comparison, what is there of them, what they take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from erase.artifacts import hub
from erase.artifacts.datasets import find_dataset
from erase.comparison.classifier_comparison import ComparePlan
from erase.comparison.classifier_problem import check_entries
from erase.comparison.diffusion import SETS, DiffusionComparison
from erase.comparison.entries import diffusion_entries
from erase.comparison.entries import entries as parse_entries
from erase.comparison.store import Result, results
from erase.config.compare import CompareConfig, CompareDiffusionConfig, sorted_settings
from erase.data.classification import CIFAR
from erase.errors import MissingError
from erase.models.classifiers import WEIGHTS
from erase.render.sizes import png_bytes, readable_bytes, readable_time
from erase.runs.device import choose_device
from erase.runs.folder import ComparisonFolder
from erase.training.sizes import disk_space


def plan_classifier(
    config: CompareConfig,
    output: Path,
    specs: Sequence[str],
    *,
    methods: str = "all",
    alphas: str | None = None,
    device: str | None = None,
) -> list[str]:
    """What `erase compare classifier` would do, as lines of text; writes and downloads nothing.

    Raises InputError for what the comparison itself would refuse before it trains.
    """
    entries = parse_entries(methods, alphas)
    where = choose_device(device)
    missing = []
    if config.dataset in CIFAR and config.data_dir is None and config.model is None:
        try:
            find_dataset(config.dataset)
        except MissingError as error:
            missing.append(f"{error.message} It is downloaded when the comparison begins.")
    check_entries(config, specs, entries, read_data=not missing)
    ComparisonFolder(output, "compare classifier", config=config).check()
    plan = ComparePlan(config, output, where, specs, entries)
    labels, files = plan.labels, plan.result_files()
    there = _there(files)
    folder = Path(config.model) if config.model else output / "original"
    trained = (folder / WEIGHTS).is_file()
    searched = [item for item in entries if "@" not in item.label and item.method != "retrain"]
    trials = config.search * len(searched) * len(specs)
    lines = [
        f"# device: {where}",
        f"# original: {folder}, {'there' if trained else 'trained first'}",
        f"# lines: {', '.join(labels)}",
        f"# runs: {len(files)} ({len(specs)} forget sets, {config.trials} trials, {len(labels)}"
        f" lines), of which {len(there)} are there; {config.jobs} at a time",
        f"# search: {trials} more runs, at the most" if trials else "# search: none",
        f"# time: {_time(there, len(files) - len(there), 'rte_s', config.jobs)}",
        "# disk: results and curves; weights of the original, Retrains and references alone",
    ]
    return [*lines, *_kept(there), *_missing(missing)]


def plan_diffusion(
    config: CompareDiffusionConfig,
    output: Path,
    *,
    methods: str = "all",
    settings: tuple[str, ...] = (),
    device: str | None = None,
) -> list[str]:
    """What `erase compare diffusion` would do, as lines of text; writes and downloads nothing.

    Raises InputError for what the comparison itself would refuse before it renders.
    """
    where = choose_device(device)
    texts = sorted_settings(settings, config.attacks)
    entries = diffusion_entries(methods, texts.methods)
    ComparisonFolder(output, "compare diffusion", config=config).check()
    comparison = DiffusionComparison(config, entries, output, where, lambda _: None, texts)
    with hub.nothing_is_fetched():
        planned = comparison.check(fetch=False)
    requests = comparison.requests
    notes = dict.fromkeys(note for item in planned.values() for note in item.notes)
    runs, there = comparison.runs(), _there(comparison.result_files())
    shared = disk = judged = 0
    for request in requests:
        first = planned[request.label, ""]
        side = first.config.resolution or first.source.resolution()
        shared += sum(int(getattr(first.config, f"num_{name}_images") or 0) for name in SETS)
        judged += len(comparison.samples(first.concept))
    for request, _, entry in runs:
        disk += disk_space(planned[request.label, entry.label], 0)["model"]
    each = judged // len(requests)
    images = shared + each * (len(runs) + len(requests))
    attacks = ", ".join(config.attacks) or "none"
    time = _time(there, len(runs) - len(there), "seconds", config.jobs)
    lines = [
        f"# device: {where}",
        f"# lines: {', '.join(entry.label for entry in entries)}",
        f"# runs: {len(runs)} ({len(requests)} concepts, {config.trials} trials,"
        f" {len(entries)} lines), of which {len(there)} are there; {config.jobs} at a time",
        f"# images that all lines share: {shared}",
        f"# images to judge by: {each} a run, and {each} of the original for each concept",
        f"# attacks: {attacks}{'; their images come on top' if config.attacks else ''}",
        f"# time: {time}; rendering comes on top",
        f"# disk: about {readable_bytes(disk + images * png_bytes(side))}"
        f" ({len(runs)} models {readable_bytes(disk)}, {images} images)",
    ]
    return [*lines, *_kept(there), *_missing(notes)]


def _there(files: Iterable[Path]) -> list[Result]:
    """The results that are there; what failed is tried again."""
    return [result for result in results(files).values() if not result.get("failed")]


def _kept(there: Sequence[Result]) -> list[str]:
    """What becomes of those results; only the comparison itself works out their fingerprints."""
    return ["# kept: of the runs that are there, those of the same settings"] if there else []


def _time(there: Sequence[Result], todo: int, name: str, jobs: int = 1) -> str:
    """The training time of `todo` runs, by those that are there."""
    values: list[Any] = [result.get(name) for result in there]
    known = [float(value) for value in values if type(value) in (int, float)]
    if not todo:
        return "none"
    if not known:
        return "not known before the first run is done"
    seconds = statistics.fmean(known) * todo / jobs
    return f"about {readable_time(seconds)} to train, by the {len(known)} runs that are there"


def _missing(notes: Iterable[str]) -> list[str]:
    return [f"# missing: {note}" for note in notes] or ["# missing: nothing"]
