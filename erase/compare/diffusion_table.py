"""The table of a diffusion comparison: terminal, CSV, Markdown, JSON."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from erase.files import write_json, write_text

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Column:
    """A number of the table: how it is found in a row, written, and whether more is better."""

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
ORIGINAL = "original"
MARKS = ("", "**", "*")
"""Around a number of no place, the best, the second best."""


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


def _cells(line: Mapping[str, Any]) -> list[str]:
    return [f"{line[c.name] * c.scale:.{c.digits}f}" if c.name in line else "–" for c in COLUMNS]


def markdown(lines: Sequence[Mapping[str, Any]], rows: Rows) -> str:
    """Means with the best bold and the second best in italics, then every run."""
    placed = ranks(lines)
    head = f"| method | {' | '.join(c.title for c in COLUMNS)} |"
    text = [head, "|---|" + "---:|" * len(COLUMNS)]
    for line in lines:
        marks = [
            {1: "**", 2: "*"}.get(placed.get((line["method"], c.name), 0), "") for c in COLUMNS
        ]
        cells = [f"{m}{cell}{m}" for m, cell in zip(marks, _cells(line), strict=True)]
        text.append(f"| {line['method']} | {' | '.join(cells)} |")
    text += ["", head.replace("| method", "| concept | trial | method")]
    text.append("|---|---:|---|" + "---:|" * len(COLUMNS))
    for row in rows:
        cells = [row["failed"]] + [""] * (len(COLUMNS) - 1) if "failed" in row else _cells(row)
        where = f"| {row['concept']} | {row['trial']} | {row['method']} "
        text.append(f"{where}| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def terminal(lines: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The means for rich: best bold green, second best bold."""
    placed = ranks(lines)
    table = Table(title=title)
    table.add_column("method")
    for column in COLUMNS:
        table.add_column(column.title, justify="right")
    styles = {1: "[bold green]{}[/]", 2: "[bold]{}[/]", 0: "{}"}
    for line in lines:
        places = [placed.get((line["method"], column.name), 0) for column in COLUMNS]
        cells = [
            styles[place].format(cell) for place, cell in zip(places, _cells(line), strict=True)
        ]
        table.add_row(line["method"], *cells)
    return table


def comma_separated(rows: Rows) -> str:
    """Every run as a line of CSV, numbers as they were measured (rates from 0 to 1)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ("concept", "trial", "method", *(column.name for column in COLUMNS), "failed")
    writer.writerow(names)
    for row in rows:
        writer.writerow([row.get(name, "") for name in names])
    return file.getvalue()


def write_table(folder: Path, rows: Rows, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write `table.csv`, `table.md` and `results.json`; return the lines of means."""
    lines = summarise(rows)
    write_text(folder / "table.csv", comma_separated(rows))
    write_text(folder / "table.md", markdown(lines, rows))
    write_json(folder / "results.json", {**facts, "means": lines, "rows": list(rows)})
    return lines
