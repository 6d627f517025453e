"""The page and the pictures of several evaluations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

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
    control,
    is_best,
    labels,
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
        write_bytes(output / "strip.png", strip_png(runs, names, chosen))
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


def _has_control(runs: Sequence[ReportData]) -> bool:
    """Whether the strip starts with the control: all runs have one, and the same."""
    same = all(control(run) == control(runs[0]) for run in runs)
    return same and runs[0].baseline_images is not None


def _heads(runs: Sequence[ReportData], names: Sequence[str]) -> list[str]:
    """Names of the strip's columns on the page, of its rows in the picture."""
    return ([f"{runs[0].baseline} (control)"] if _has_control(runs) else []) + list(names)


def strip_png(runs: Sequence[ReportData], names: Sequence[str], chosen: Sequence[str]) -> bytes:
    """The strip as a picture: a column a sample; the control on top, then the runs in order."""
    at = [{row["id"]: i for i, row in enumerate(run.rows)} for run in runs]
    columns = []
    for sample in chosen:
        column: list[Image.Image | None] = []
        if _has_control(runs) and runs[0].baseline_images is not None:
            index, first = at[0][sample], runs[0]
            seen = first.rows[index].get("baseline")
            file = runs[0].baseline_images[index]
            column.append(picture(file, seen, show_explicit=first.show_explicit)[0])
        for run, places in zip(runs, at, strict=True):
            index = places[sample]
            file, row = run.images[index], run.rows[index]
            column.append(picture(file, row, show_explicit=run.show_explicit)[0])
        columns.append(column)
    return png(contact_sheet(list(zip(*columns, strict=True)), _heads(runs, names)))


def _page(
    runs: Sequence[ReportData], names: Sequence[str], table: Mapping[str, Any]
) -> dict[str, Any]:
    chosen = strip_samples(runs)
    with_control = _has_control(runs)
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
        "detections": _detections(runs, names, with_control),
        "threshold": threshold(runs[0].metrics),
        "heads": _heads(runs, names),
        "strip": [_strip_row(runs, sample, with_control) for sample in chosen],
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
    return {"label": row["label"], "control": row["control"], "cells": cells}


def _detections(
    runs: Sequence[ReportData], names: Sequence[str], with_control: bool
) -> dict[str, Any] | None:
    """NudeNet's counts by class: a row a run; None when it looked at none of them."""
    if not any(run.has_detections for run in runs):
        return None
    counted: list[tuple[str, dict[str, int]]] = []
    if with_control:
        base = (row.get("baseline") for row in runs[0].rows)
        counts = detection_counts(base, threshold(runs[0].metrics))
        counted.append((f"{runs[0].baseline} (control)", counts))
    for name, run in zip(names, runs, strict=True):
        counted.append((name, detection_counts(run.rows, threshold(run.metrics))))
    classes = sorted({key for _, counts in counted for key in counts})
    return {
        "classes": [part_name(key) for key in classes],
        "rows": [
            (name, [counts.get(key, 0) for key in classes], sum(counts.values()))
            for name, counts in counted
        ],
    }


def _strip_row(runs: Sequence[ReportData], sample: str, with_control: bool) -> dict[str, Any]:
    images = []
    for place, run in enumerate(runs):
        index = next(i for i, row in enumerate(run.rows) if row["id"] == sample)
        row = run.rows[index]
        if with_control and not place and run.baseline_images is not None:
            base = {"prompt": row["prompt"], "seed": row["seed"], **(row.get("baseline") or {})}
            images.append(shown(base, run.baseline_images[index], "control", None, run))
        images.append(shown(row, run.images[index], run.model, bool(row.get("forget")), run))
    row = next(row for row in runs[0].rows if row["id"] == sample)
    return {
        "prompt": row["prompt"] or "(no caption)",
        "seed": row["seed"],
        "target": row.get("target", ""),
        "forgotten": bool(row.get("forget")),
        "images": images,
    }
