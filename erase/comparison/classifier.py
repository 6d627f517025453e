"""`erase compare classifier`: unlearning methods side by side on the same forget sets, N seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erase.comparison.classifier_comparison import ComparePlan, comparisons
from erase.comparison.classifier_problem import check_entries, metric_names
from erase.comparison.classifier_report import table_columns, terminal, write_report
from erase.comparison.entries import entries as parse_entries
from erase.comparison.jobs import run_ahead
from erase.comparison.store import check_alone, forget_failures
from erase.config.compare import CompareConfig
from erase.runs.device import choose_device, say_device
from erase.runs.folder import ComparisonFolder


def compare_classifier(
    config: CompareConfig,
    output: Path,
    specs: Sequence[str],
    *,
    methods: str = "all",
    alphas: str | None = None,
    device: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    show: Callable[[Any], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Run the comparison, or what is missing of it and what failed, and write its reports.

    Args:
        config: what all forget specifications have in common.
        output: one folder a specification, with `table.csv`, `table.md`, `results.json`, figures.
        specs: what to forget, such as `random:10%`.
        methods: with commas between, or `all`.
        alphas: with commas between: run LUR at these α too.
        device: None is a GPU when there is one.
        progress: called with a line of text as things finish.
        show: called with each finished table, for rich to print.

    Returns:
        The table of each specification: mean and deviation of each column by label.

    Raises:
        InputError: settings that no run can use; then nothing was trained.
    """
    began = time.perf_counter()
    check_alone()
    entries = parse_entries(methods, alphas)
    where = choose_device(device)
    check_entries(config, specs, entries)
    tables = {}
    folder = ComparisonFolder(output, "compare classifier", config=config)
    say_device(where, device)
    with folder.hold(config=config.to_dict(), device=where) as record:
        plan = ComparePlan(config, output, where, specs, entries)
        forget_failures(plan.result_files())
        if config.jobs > 1:
            run_ahead(plan, progress)
        parts = comparisons(plan, progress)
        for spec, comparison in parts.items():
            problem = comparison.problem
            facts = {"config": config.to_dict(), "original_sha256": problem.original_sha256}
            tables[spec] = write_report(comparison.folder, comparison.run(), facts)
            dataset = problem.original.description.dataset
            columns = table_columns(metric_names(config))
            show(terminal(tables[spec], f"{dataset}, {spec}, trials: {config.trials}", columns))
        if record:
            record.finish(wall_s=round(time.perf_counter() - began, 1))
    return tables
