"""The table of a diffusion comparison in a terminal, as CSV, Markdown and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from erase.comparison.store import write_tables
from erase.report import tables
from erase.report.methods_page import PAGE, Section, write_methods_page
from erase.report.tables import MISSING, Cell

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Column:
    """A number of the table: its name in a row, how it is written, whether more is better."""

    name: str
    title: str
    scale: float
    digits: int
    more_is_better: bool


COLUMNS = (
    Column("ua", "UA %", 100, 1, True),
    Column("ra", "RA %", 100, 1, True),
    Column("fid", "FID", 1, 3, False),
    Column("seconds", "seconds", 1, 2, False),
    Column("memory_bytes", "memory MiB", 2**-20, 0, False),
)
HEADS = ("method", *(column.title for column in COLUMNS))
RUN_HEADS = ("concept", "trial", *HEADS)
ORIGINAL = "original"


def summarise(rows: Rows) -> list[dict[str, Any]]:
    """A line for the original and one per method: means over concepts and trials.

    A method with a run that failed has `failed`, and no means that would leave that run out.
    """
    good = [row for row in rows if "failed" not in row]
    lines: list[dict[str, Any]] = []
    if good:
        names = ("ua", "ra", "fid")
        means = {name: statistics.fmean(row["original"][name] for row in good) for name in names}
        lines.append({"method": ORIGINAL, **means})
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        failed = [row for row in mine if "failed" in row]
        line: dict[str, Any] = {"method": method, "runs": len(mine), "failed": len(failed)}
        if not failed:
            line |= {c.name: statistics.fmean(row[c.name] for row in mine) for c in COLUMNS}
        lines.append(line)
    return lines


def ranks(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Place 1 or 2 of (method, column) among the methods, ties sharing a place."""
    placed: dict[tuple[str, str], int] = {}
    for column in COLUMNS:
        # As they are written: what reads the same is the same.
        shown = {
            line["method"]: round(line[column.name] * column.scale, column.digits)
            for line in lines
            if line["method"] != ORIGINAL and column.name in line
        }
        best = sorted(set(shown.values()), reverse=column.more_is_better)[:2]
        for method, value in shown.items():
            if value in best:
                placed[method, column.name] = best.index(value) + 1
    return placed


def _text(line: Mapping[str, Any], c: Column) -> str:
    return f"{line[c.name] * c.scale:.{c.digits}f}" if c.name in line else MISSING


def _mean_rows(lines: Rows) -> list[list[Cell | str]]:
    placed = ranks(lines)
    return [
        [
            line["method"],
            *(Cell(_text(line, c), placed.get((line["method"], c.name), 0)) for c in COLUMNS),
        ]
        for line in lines
    ]


def markdown(lines: Sequence[Mapping[str, Any]], rows: Rows) -> str:
    """Means with the best bold and the second best in italics, then every run."""
    means = tables.markdown(HEADS, _mean_rows(lines), "lr")
    return means + "\n" + tables.markdown(RUN_HEADS, _run_rows(rows), "lrlr")


def _run_rows(rows: Rows) -> list[list[str]]:
    runs = []
    for row in rows:
        texts = [_text(row, column) for column in COLUMNS]
        if "failed" in row:
            texts = [row["failed"], *[""] * (len(COLUMNS) - 1)]
        runs.append([row["concept"], str(row["trial"]), row["method"], *texts])
    return runs


def terminal(lines: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The means for rich: best bold green, second best bold."""
    return tables.terminal(HEADS, _mean_rows(lines), "lr", title)


def comma_separated(rows: Rows) -> str:
    """Every run as a line of CSV, numbers as they were measured (rates from 0 to 1)."""
    names = ("concept", "trial", "method", *(column.name for column in COLUMNS), "failed")
    return tables.csv_text(names, rows)


def write_report(folder: Path, rows: Rows, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write `table.csv`, `table.md` and `results.json`; return the lines of means."""
    lines = summarise(rows)
    results = {**facts, "means": lines, "rows": list(rows)}
    write_tables(folder, comma_separated(rows), markdown(lines, rows), results)
    config = facts.get("config", {})
    concepts = ", ".join(config.get("concept", ())) or "all concepts"
    write_methods_page(
        folder / PAGE,
        f"Unlearning methods on {concepts}",
        "Means over concepts and trials; the best value of each column is marked.",
        [
            Section("Means", HEADS, _mean_rows(lines)),
            Section("Every run", RUN_HEADS, _run_rows(rows)),
        ],
        config,
    )
    return lines
