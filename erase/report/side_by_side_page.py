"""The page and the pictures of several evaluations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.files import write_bytes, write_text
from erase.report.contact_sheet import contact_sheet, png
from erase.report.data import (
    ReportData,
    detection_counts,
    flagged,
    interval,
    number,
    part_name,
    threshold,
)
from erase.report.evaluation import render_page
from erase.report.image_sections import shown
from erase.report.pictures import picture
from erase.report.plots import plot_metrics
from erase.report.side_by_side import (
    comparison,
    is_best,
    labels,
    same_baseline,
    samples,
    table_csv,
    table_markdown,
)
from erase.report.tables import MISSING

STRIP = 8  # samples of forgotten concepts, and as many of others, in the picture strip


def write_comparison(
    output: Path,
    runs: Sequence[ReportData],
    *,
    given: Sequence[str] = (),
    allow_different: bool = False,
) -> dict[str, Any]:
    """Write `report.html`, `table.csv`, `table.md`, `metrics.png` and `strip.png`.

    Returns the table, as `comparison` gives it, with the runs' `labels`.
    """
    names = labels(runs, given)
    table = comparison(runs, names, allow_different=allow_different)
    chosen = strip_samples(runs)
    write_text(output / "table.csv", table_csv(table))
    write_text(output / "table.md", table_markdown(table))
    columns = [
        (str(column["title"]), [row["cells"].get(name) for row in table["rows"]])
        for name, column in table["columns"].items()
    ]
    write_bytes(output / "metrics.png", plot_metrics([r["label"] for r in table["rows"]], columns))
    if chosen:
        write_bytes(output / "strip.png", strip_png(_models(runs, names), chosen))
    write_text(output / "report.html", render_page("runs.html.j2", _page(runs, names, table)))
    return table | {"labels": names}


def strip_samples(runs: Sequence[ReportData]) -> list[str]:
    """Ids of samples that every run has alike: of forgotten concepts first, not chosen by looks."""
    first = dict(zip((row["id"] for row in runs[0].rows), samples(runs[0]), strict=True))
    others = [set(samples(run)) for run in runs[1:]]
    common = [k for k, content in first.items() if all(content in other for other in others)]
    rows = {row["id"]: row for row in runs[0].rows}
    bad = {s for s in common if any(flagged(r) for r in (rows[s], rows[s].get("baseline")))}
    groups = [[s for s in common if bool(rows[s].get("forget")) == kind] for kind in (True, False)]
    # Without concepts to forget, the prompts at which NudeNet flags something are what it is about.
    spread = [sorted(group, key=lambda s: s not in bad)[:STRIP] for group in groups]
    return spread[0] + spread[1]


@dataclass(frozen=True)
class Shown:
    """A model of the strip: a run's, or the baseline, as the first run's folder has it."""

    title: str
    run: ReportData
    rows: Sequence[Mapping[str, Any]]
    files: Sequence[Path]
    is_baseline: bool = False

    def sample(self, name: str) -> tuple[Mapping[str, Any], Path]:
        """Row and image of a sample."""
        index = next(i for i, row in enumerate(self.rows) if row["id"] == name)
        return self.rows[index], self.files[index]


def _models(runs: Sequence[ReportData], names: Sequence[str]) -> list[Shown]:
    """The strip's models: the baseline where all runs have one, and the same; then the runs."""
    models = [Shown(name, run, run.rows, run.images) for name, run in zip(names, runs, strict=True)]
    first = runs[0]
    if same_baseline(runs) and first.baseline_images is not None:
        rows = [
            {**{key: row[key] for key in ("id", "prompt", "seed")}, **(row.get("baseline") or {})}
            for row in first.rows
        ]
        title = f"{first.baseline} (baseline)"
        models.insert(0, Shown(title, first, rows, first.baseline_images, is_baseline=True))
    return models


def strip_png(models: Sequence[Shown], chosen: Sequence[str]) -> bytes:
    """The strip as a picture: a column a sample; the baseline on top, then the runs in order."""
    rows = [
        [
            picture(file, row, show_explicit=model.run.show_explicit)[0]
            for row, file in map(model.sample, chosen)
        ]
        for model in models
    ]
    return png(contact_sheet(rows, [model.title for model in models]))


def _page(
    runs: Sequence[ReportData], names: Sequence[str], table: Mapping[str, Any]
) -> dict[str, Any]:
    models = _models(runs, names)
    return {
        "title": f"{len(runs)} models side by side: {runs[0].metrics['suite']}",
        "concepts": runs[0].targets,
        "columns": [
            {
                "title": column["title"],
                "arrow": "↑" if column["higher_is_better"] else "↓",
                "better": "higher is better" if column["higher_is_better"] else "lower is better",
            }
            for column in table["columns"].values()
        ],
        "rows": [_row(row, table) for row in table["rows"]],
        "differences": table["differences"],
        "detections": _detections(models),
        "threshold": threshold(runs[0].metrics),
        "heads": [model.title for model in models],
        "strip": [_strip_row(models, sample) for sample in strip_samples(runs)],
        "looked": any(run.has_detections for run in runs),
        "show_explicit": runs[0].show_explicit,
        "protocol": runs[0].metrics["protocol"],
        "sources": [
            (name, f"{run.record.get('model')}, evaluation {run.record.get('fingerprint')}")
            for name, run in zip(names, runs, strict=True)
        ],
    }


def _row(row: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    cells = []
    for name in table["columns"]:
        cell = row["cells"].get(name)
        best = is_best(table, row, name)
        value = MISSING if cell is None else number(cell["value"], cell["unit"])
        bounds = "" if cell is None else interval(cell)
        cells.append({"value": value, "interval": bounds, "n": cell and cell["n"], "best": best})
    return {"label": row["label"], "baseline": row["baseline"], "cells": cells}


def _detections(models: Sequence[Shown]) -> dict[str, Any] | None:
    """NudeNet's counts by class: a row a model; None when it looked at no run."""
    if not any(model.run.has_detections for model in models):
        return None
    counted = [
        (model.title, detection_counts(model.rows, threshold(model.run.metrics)))
        for model in models
    ]
    classes = sorted({key for _, counts in counted for key in counts})
    return {
        "classes": [part_name(key) for key in classes],
        "rows": [
            (name, [counts.get(key, 0) for key in classes], sum(counts.values()))
            for name, counts in counted
        ],
    }


def _strip_row(models: Sequence[Shown], sample: str) -> dict[str, Any]:
    images = []
    for model in models:
        row, file = model.sample(sample)
        forget = None if model.is_baseline else bool(row.get("forget"))
        moment = "baseline" if model.is_baseline else model.run.model
        images.append(shown(row, file, moment, forget, model.run))
    row, _ = next(model for model in models if not model.is_baseline).sample(sample)
    return {
        "prompt": row["prompt"] or "(no caption)",
        "seed": row["seed"],
        "target": row.get("target", ""),
        "forgotten": bool(row.get("forget")),
        "images": images,
    }
