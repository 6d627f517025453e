"""`erase report A B …`: several evaluations side by side, as in the papers' tables 3 and 4.

Numbers stand in one table only when they mean the same: the same suite, settings, samples, control
and concepts. Anything else is refused, or on request said above the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from erase.errors import InputError
from erase.files import write_bytes, write_text
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
from erase.report.pictures import contact_sheet, picture, png
from erase.report.plots import plot_metrics
from erase.report.sheets import shown
from erase.report.tables import csv_text

STRIP = 8  # samples of forgotten concepts, and as many of others, in the picture strip
FACTS = {
    "device": "device",
    "dtype": "precision",
    "prompts_sha256": "prompts",
    "reference": "reference",
}
"""What of the records has to agree as well, and how people call it."""


def labels(runs: Sequence[ReportData], given: Sequence[str] = ()) -> list[str]:
    """A name for each run: the given ones, else the models' names, numbered where they recur.

    InputError when there are not as many given names as runs, or one is given twice.
    """
    if given:
        if len(given) != len(runs) or len(set(given)) != len(given):
            raise InputError(
                f"{len(given)} labels for {len(runs)} evaluations, {len(set(given))} of them"
                " different.",
                "Give --label once for each folder, in their order.",
            )
        return list(given)
    names = [run.model for run in runs]
    counts = {name: names.count(name) for name in names}
    return [
        f"{name} ({names[: i + 1].count(name)})" if counts[name] > 1 else name
        for i, name in enumerate(names)
    ]


def disagreements(runs: Sequence[ReportData], names: Sequence[str]) -> list[str]:
    """Why the numbers of these runs do not compare with the first one's; empty when they do."""
    first, found = runs[0], []
    for run, name in zip(runs[1:], names[1:], strict=True):
        one, other = first.metrics["protocol"], run.metrics["protocol"]
        differing = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        found += [
            f"{name}: {key} is {_short(other.get(key))}, not {_short(one.get(key))}"
            for key in differing
        ]
        if first.targets != run.targets:
            found.append(f"{name} forgot {_listed(run.targets)}, not {_listed(first.targets)}")
        for key, called in FACTS.items():
            if first.record.get(key) != run.record.get(key):
                said = _short(run.record.get(key)), _short(first.record.get(key))
                found.append(f"{name}: {called} is {said[0]}, not {said[1]}")
        one, other = (r.record.get("observers_sha256") or {} for r in (first, run))
        found += [
            f"{name}: {key} judges with other weights or versions"
            for key in {**one, **other}
            if one.get(key) != other.get(key)
        ]
        if _samples(first) != _samples(run):
            found.append(f"{name}: the samples (prompts or seeds) are other ones")
        if _control(first) != _control(run):
            found.append(f"{name}: the control is {run.baseline}, not {first.baseline}")
    return found


def _samples(run: ReportData) -> list[tuple[Any, ...]]:
    keys = ("id", "prompt", "seed", "target", "guidance", "negative_prompt")
    return [tuple(row.get(key) for key in keys) for row in run.rows]


def _control(run: ReportData) -> Any:
    return (run.record.get("baseline") or {}).get("images_fingerprint")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def comparison(
    runs: Sequence[ReportData], names: Sequence[str], *, allow_different: bool = False
) -> dict[str, Any]:
    """The table: `columns` (metrics) and `rows` (the control, then the runs, in their order).

    A cell is a summary as `metrics.json` holds it, or None; `best` lists, by metric, the rows with
    the best value among the runs, ties included, none where all are equal. InputError for runs of
    different suites, or that do not compare and `allow_different` is off.
    """
    suites = sorted({str(run.metrics["suite"]) for run in runs})
    if len(suites) > 1:
        raise InputError(
            f"These are evaluations of different suites: {', '.join(suites)}.",
            "Compare runs of one suite.",
        )
    differences = disagreements(runs, names)
    if differences and not allow_different:
        raise InputError(
            f"These evaluations do not compare: {differences[0]}"
            + (f" (and {len(differences) - 1} more)." if len(differences) > 1 else "."),
            "Evaluate with the same settings, or give --allow-different to mark them instead.",
        )
    columns: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        for name, found in run.metrics["metrics"].items():
            columns.setdefault(name, found)
    rows: list[dict[str, Any]] = []
    bases = [run.metrics.get("baseline") for run in runs]
    same_control = all(_control(run) == _control(runs[0]) for run in runs)
    if bases[0] and same_control:
        rows.append({"label": str(runs[0].baseline), "control": True, "cells": bases[0]})
    rows += [
        {"label": name, "control": False, "cells": run.metrics["metrics"]}
        for run, name in zip(runs, names, strict=True)
    ]
    best = {name: _best(rows, name, column) for name, column in columns.items()}
    return {"columns": columns, "rows": rows, "best": best, "differences": differences}


def _best(rows: Sequence[Mapping[str, Any]], name: str, column: Mapping[str, Any]) -> list[str]:
    """Labels of the runs with the best value; none where all are equal."""
    values = {
        row["label"]: row["cells"][name]["value"]
        for row in rows
        if not row["control"] and name in row["cells"]
    }
    top = max(values.values()) if column["higher_is_better"] else min(values.values())
    best = [label for label, value in values.items() if value == top]
    return best if len(best) < len(values) or len(values) == 1 else []


def table_csv(table: Mapping[str, Any]) -> str:
    """The table as CSV: value, interval and n of every metric, numbers in full."""
    heads = ["method", "control"]
    for name in table["columns"]:
        heads += [name, f"{name}_ci95_low", f"{name}_ci95_high", f"{name}_n"]
    rows = []
    for row in table["rows"]:
        line = {"method": row["label"], "control": row["control"]}
        for name, cell in row["cells"].items():
            low, high = cell.get("ci95") or (None, None)
            line |= {name: cell["value"], f"{name}_n": cell["n"]}
            line |= {f"{name}_ci95_low": low, f"{name}_ci95_high": high}
        rows.append(line)
    return csv_text(heads, rows)


def table_markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown: best values bold, intervals in brackets, disagreements below."""
    columns = table["columns"]
    heads = [f"{c['title']} {'↑' if c['higher_is_better'] else '↓'}" for c in columns.values()]
    lines = [f"| Method | {' | '.join(map(_cell, heads))} |", f"|---|{'---:|' * len(columns)}"]
    for row in table["rows"]:
        cells = []
        for name in columns:
            cell = row["cells"].get(name)
            if cell is None:
                cells.append("–")
                continue
            value = number(cell["value"], cell["unit"])
            won = not row["control"] and row["label"] in table["best"][name]
            bounds = f" ({interval(cell)})" if cell.get("ci95") else ""
            cells.append((f"**{value}**" if won else value) + bounds)
        label = _cell(row["label"]) + (" (control)" if row["control"] else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    if table["differences"]:
        text += "\nThese evaluations were not made alike:\n\n"
        text += "".join(f"- {_cell(line)}\n" for line in table["differences"])
    return text


def _cell(text: str) -> str:
    """Text that cannot break out of a Markdown table's cell."""
    for character in "\\|<>`*_":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


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
        (str(found["title"]), [row["cells"].get(name) for row in table["rows"]])
        for name, found in table["columns"].items()
    ]
    write_bytes(output / "metrics.png", plot_metrics([r["label"] for r in table["rows"]], columns))
    if chosen:
        write_bytes(output / "strip.png", strip_png(runs, names, chosen))
    write_text(output / "report.html", render_page("runs.html.j2", _page(runs, names, table)))
    return table | {"labels": names}


def strip_samples(runs: Sequence[ReportData]) -> list[str]:
    """Ids of samples that every run has alike: of forgotten concepts first, not chosen by looks."""
    first = dict(zip((row["id"] for row in runs[0].rows), _samples(runs[0]), strict=True))
    others = [set(_samples(run)) for run in runs[1:]]
    common = [k for k, content in first.items() if all(content in found for found in others)]
    rows = {row["id"]: row for row in runs[0].rows}
    bad = {s for s in common if any(flagged(r) for r in (rows[s], rows[s].get("baseline")))}
    groups = [[s for s in common if bool(rows[s].get("forget")) == kind] for kind in (True, False)]
    # Without concepts to forget, the prompts at which NudeNet flags something are what it is about.
    spread = [sorted(group, key=lambda s: s not in bad)[:STRIP] for group in groups]
    return spread[0] + spread[1]


def _strip_runs(runs: Sequence[ReportData]) -> bool:
    """Whether the strip starts with the control: all runs have one, and the same."""
    same = all(_control(run) == _control(runs[0]) for run in runs)
    return same and runs[0].baseline_images is not None


def _heads(runs: Sequence[ReportData], names: Sequence[str]) -> list[str]:
    """Names of the strip's columns on the page, of its rows in the picture."""
    return ([f"{runs[0].baseline} (control)"] if _strip_runs(runs) else []) + list(names)


def strip_png(runs: Sequence[ReportData], names: Sequence[str], chosen: Sequence[str]) -> bytes:
    """The strip as a picture: a column a sample; the control on top, then the runs in order."""
    at = [{row["id"]: i for i, row in enumerate(run.rows)} for run in runs]
    columns = []
    for sample in chosen:
        column: list[Image.Image | None] = []
        if _strip_runs(runs) and runs[0].baseline_images is not None:
            index, first = at[0][sample], runs[0]
            seen = first.rows[index].get("baseline")
            file = runs[0].baseline_images[index]
            column.append(picture(file, seen, show_explicit=first.show_explicit)[0])
        for run, places in zip(runs, at, strict=True):
            index = places[sample]
            file, row = run.images[index], run.rows[index]
            column.append(picture(file, row, show_explicit=run.show_explicit)[0])
        columns.append(column)
    return png(contact_sheet(columns, _heads(runs, names)))


def _page(
    runs: Sequence[ReportData], names: Sequence[str], table: Mapping[str, Any]
) -> dict[str, Any]:
    chosen = strip_samples(runs)
    with_control = _strip_runs(runs)
    return {
        "title": f"{len(runs)} models side by side: {runs[0].metrics['suite']}",
        "concepts": runs[0].targets,
        "columns": [
            {
                "title": found["title"],
                "arrow": "↑" if found["higher_is_better"] else "↓",
                "better": "higher is better" if found["higher_is_better"] else "lower is better",
            }
            for found in table["columns"].values()
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
        best = not row["control"] and row["label"] in table["best"][name]
        value = "–" if cell is None else number(cell["value"], cell["unit"])
        bounds = "" if cell is None else interval(cell)
        cells.append({"value": value, "interval": bounds, "n": cell and cell["n"], "best": best})
    return {"label": row["label"], "control": row["control"], "cells": cells}


def _detections(
    runs: Sequence[ReportData], names: Sequence[str], with_control: bool
) -> dict[str, Any] | None:
    """NudeNet's counts by class: a row a run; None when it looked at none of them."""
    if not any(run.has_detections for run in runs):
        return None
    found: list[tuple[str, dict[str, int]]] = []
    if with_control:
        base = (row.get("baseline") for row in runs[0].rows)
        counts = detection_counts(base, threshold(runs[0].metrics))
        found.append((f"{runs[0].baseline} (control)", counts))
    for name, run in zip(names, runs, strict=True):
        found.append((name, detection_counts(run.rows, threshold(run.metrics))))
    classes = sorted({key for _, counts in found for key in counts})
    return {
        "classes": [part_name(key) for key in classes],
        "rows": [
            (name, [counts.get(key, 0) for key in classes], sum(counts.values()))
            for name, counts in found
        ],
    }


def _strip_row(runs: Sequence[ReportData], sample: str, with_control: bool) -> dict[str, Any]:
    found = []
    for place, run in enumerate(runs):
        index = next(i for i, row in enumerate(run.rows) if row["id"] == sample)
        row = run.rows[index]
        if with_control and not place and run.baseline_images is not None:
            base = {"prompt": row["prompt"], "seed": row["seed"], **(row.get("baseline") or {})}
            found.append(shown(base, run.baseline_images[index], "control", None, run))
        found.append(shown(row, run.images[index], run.model, bool(row.get("forget")), run))
    row = next(row for row in runs[0].rows if row["id"] == sample)
    return {
        "prompt": row["prompt"] or "(no caption)",
        "seed": row["seed"],
        "target": row.get("target", ""),
        "forgotten": bool(row.get("forget")),
        "images": found,
    }
