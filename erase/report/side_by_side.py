"""`erase report A B …`: several evaluations side by side, as in the papers' tables 3 and 4.

A table holds only numbers of the same suite, settings, samples, baseline and concepts. Other
evaluations are refused, or on request their differences are listed above the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erase.errors import InputError
from erase.report.data import ReportData, interval, number
from erase.report.tables import MISSING, Cell, csv_text, escaped, markdown

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
    first, reasons = runs[0], []
    for run, name in zip(runs[1:], names[1:], strict=True):
        wanted, own = first.metrics["protocol"], run.metrics["protocol"]
        reasons += [
            f"{name}: {key} is {_short(own.get(key))}, not {_short(wanted.get(key))}"
            for key in {**wanted, **own}
            if wanted.get(key) != own.get(key)
        ]
        if first.targets != run.targets:
            reasons.append(f"{name} forgot {_listed(run.targets)}, not {_listed(first.targets)}")
        for key, called in FACTS.items():
            if first.record.get(key) != run.record.get(key):
                values = _short(run.record.get(key)), _short(first.record.get(key))
                reasons.append(f"{name}: {called} is {values[0]}, not {values[1]}")
        wanted, own = (r.record.get("observers_sha256") or {} for r in (first, run))
        reasons += [
            f"{name}: {key} judges with other weights or versions"
            for key in {**wanted, **own}
            if wanted.get(key) != own.get(key)
        ]
        if samples(first) != samples(run):
            reasons.append(f"{name}: the samples (prompts or seeds) are other ones")
        if baseline(first) != baseline(run):
            reasons.append(f"{name}: {_other_baseline(run, first)}")
    return reasons


def _other_baseline(run: ReportData, first: ReportData) -> str:
    """How a run's baseline differs from the first one's, by its whole name where that helps."""
    full, wanted = ((r.record.get("baseline") or {}).get("model") for r in (run, first))
    if full == wanted:
        return f"the baseline {run.baseline} has other files here, or was rendered in another way"
    if run.baseline == first.baseline:
        return f"the baseline is {full}, not {wanted}"
    return f"the baseline is {run.baseline or 'none'}, not {first.baseline or 'none'}"


def samples(run: ReportData) -> list[tuple[Any, ...]]:
    """What decides the images of a run, a tuple for each."""
    keys = ("id", "prompt", "seed", "target", "guidance", "negative_prompt")
    return [tuple(row.get(key) for key in keys) for row in run.rows]


def baseline(run: ReportData) -> Any:
    """Fingerprint of the baseline's images; None without a baseline."""
    return (run.record.get("baseline") or {}).get("images_fingerprint")


def same_baseline(runs: Sequence[ReportData]) -> bool:
    """Whether all runs have the same baseline, or none has one."""
    return all(baseline(run) == baseline(runs[0]) for run in runs)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def comparison(
    runs: Sequence[ReportData], names: Sequence[str], *, allow_different: bool = False
) -> dict[str, Any]:
    """The table: `columns` (metrics) and `rows` (the baseline, then the runs in their order).

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
        for name, summary in run.metrics["metrics"].items():
            columns.setdefault(name, {**summary, "title": _title(name, summary)})
    rows: list[dict[str, Any]] = []
    bases = [run.metrics.get("baseline") for run in runs]
    if bases[0] and same_baseline(runs):
        rows.append({"label": str(runs[0].baseline), "baseline": True, "cells": bases[0]})
    rows += [
        {"label": name, "baseline": False, "cells": run.metrics["metrics"]}
        for run, name in zip(runs, names, strict=True)
    ]
    best = {name: _best(rows, name, column) for name, column in columns.items()}
    return {"columns": columns, "rows": rows, "best": best, "differences": differences}


def _title(name: str, summary: Mapping[str, Any]) -> str:
    """The title of a column; H's own holds values, which are other ones in every row."""
    parts = (summary.get("detail") or {}).get("parts")
    return f"H of {', '.join(parts)}" if name == "h" and parts else str(summary["title"])


def _best(rows: Sequence[Mapping[str, Any]], name: str, column: Mapping[str, Any]) -> list[str]:
    """Labels of the runs with the best value; none where all are equal."""
    values = {
        row["label"]: row["cells"][name]["value"]
        for row in rows
        if not row["baseline"] and name in row["cells"]
    }
    top = max(values.values()) if column["higher_is_better"] else min(values.values())
    best = [label for label, value in values.items() if value == top]
    return best if len(best) < len(values) or len(values) == 1 else []


def table_csv(table: Mapping[str, Any]) -> str:
    """The table as CSV: value, interval and n of every metric, numbers in full."""
    heads = ["method", "baseline"]
    for name in table["columns"]:
        heads += [name, f"{name}_ci95_low", f"{name}_ci95_high", f"{name}_n"]
    rows = []
    for row in table["rows"]:
        line = {"method": row["label"], "baseline": row["baseline"]}
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
    rows: list[list[Cell | str]] = []
    for row in table["rows"]:
        label = row["label"] + (" (baseline)" if row["baseline"] else "")
        rows.append([label, *(_cell(table, row, name) for name in columns)])
    text = markdown(["Method", *heads], rows, "lr")
    if table["differences"]:
        text += "\nThese evaluations were not made alike:\n\n"
        text += "".join(f"- {escaped(line)}\n" for line in table["differences"])
    return text


def _cell(table: Mapping[str, Any], row: Mapping[str, Any], name: str) -> Cell:
    summary = row["cells"].get(name)
    if summary is None:
        return Cell(MISSING)
    bounds = f" ({interval(summary)})" if summary.get("ci95") else ""
    value = number(summary["value"], summary["unit"])
    return Cell(value, int(is_best(table, row, name)), bounds)


def is_best(table: Mapping[str, Any], row: Mapping[str, Any], name: str) -> bool:
    """Whether a row's value of a metric is the best among the models, the baseline aside."""
    return not row["baseline"] and row["label"] in table["best"][name]
