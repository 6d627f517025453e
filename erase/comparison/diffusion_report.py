"""The report of a diffusion comparison: tables in a terminal, as CSV, Markdown, JSON and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from erase.comparison.diffusion_attacks import attack_lines, attack_table, half_text
from erase.comparison.diffusion_columns import (
    PERCENT,
    Column,
    Row,
    Rows,
    by_request,
    columns,
    over_trials,
    places,
    value_of,
)
from erase.comparison.diffusion_figures import write_pareto
from erase.comparison.store import write_tables
from erase.report import tables
from erase.report.methods_page import PAGE, Section, write_methods_page
from erase.report.tables import MISSING, Cell

ORIGINAL = "original"
EVERY = "Every run"
NARROW = 6
"""Most columns of one table in a terminal."""
Columns = Sequence[Column]


def summarise(rows: Rows) -> list[dict[str, Any]]:
    """A line for the original and one per method: means over requests and trials.

    `NAME_sd` is the standard deviation over trials of the means over requests, None for one trial.
    A method with a run that failed has `failed`, and no means that would leave that run out.
    """
    shown = columns(rows)
    good = by_request(rows)
    lines: list[dict[str, Any]] = []
    if good:
        means = _means(good, shown, "original")
        lines.append({"method": ORIGINAL} | {k: v for k, v in means.items() if k[-3:] != "_sd"})
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        failed = [row for row in mine if "failed" in row]
        line: dict[str, Any] = {"method": method, "runs": len(mine), "failed": len(failed)}
        lines.append(line if failed else line | _means(mine, shown))
    return lines


def _means(rows: Rows, shown: Columns, side: str = "metrics") -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for column in shown:
        mean, sd = over_trials(rows, partial(value_of, name=column.name, side=side))
        if mean is not None:
            means |= {column.name: mean, f"{column.name}_sd": sd}
    return means


def ranks(lines: Sequence[Mapping[str, Any]], shown: Columns) -> dict[tuple[str, str], int]:
    """Place 1 or 2 of (method, column) among the methods, ties sharing a place."""
    placed: dict[tuple[str, str], int] = {}
    for column in shown:
        # As they are written: what reads the same is the same.
        values = {
            line["method"]: round(line[column.name] * column.scale, column.digits)
            for line in lines
            if line["method"] != ORIGINAL and column.name in line
        }
        found = places(values, more_is_better=column.more_is_better)
        placed |= {(method, column.name): place for method, place in found.items()}
    return placed


def _heads(shown: Columns) -> list[str]:
    return ["method", *(column.title for column in shown)]


def _mean_rows(lines: Sequence[Mapping[str, Any]], shown: Columns) -> list[list[Cell | str]]:
    placed = ranks(lines, shown)
    return [
        [
            line["method"],
            *(Cell(_mean_text(line, c), placed.get((line["method"], c.name), 0)) for c in shown),
        ]
        for line in lines
    ]


def _mean_text(line: Mapping[str, Any], column: Column) -> str:
    if column.name not in line:
        return MISSING
    sd = line.get(f"{column.name}_sd")
    text = column.text(line[column.name])
    return text if sd is None else f"{text} ± {column.text(sd)}"


def _mean_section(title: str, rows: Rows) -> Section:
    """The means of these runs, in the columns that they have."""
    shown = columns(rows)
    return Section(title, _heads(shown), _mean_rows(summarise(rows), shown))


def _run_rows(rows: Rows, shown: Columns) -> list[list[str]]:
    runs = []
    for row in rows:
        values = [value_of(row, column.name) for column in shown]
        texts = [
            MISSING if value is None else column.text(value)
            for column, value in zip(shown, values, strict=True)
        ]
        if "failed" in row:
            texts = [row["failed"], *[""] * (len(shown) - 1)]
        runs.append([row["concept"], str(row["trial"]), row["method"], *texts])
    return runs


def sections(rows: Rows) -> list[Section]:
    """The tables: means, what attacks brought back, means of each request, and every run.

    The means of each request are there where both requests and trials are several.
    """
    shown, attacks = columns(rows), attack_lines(rows)
    found = [_mean_section("Means", rows)]
    if attacks:
        found.append(Section("After attacks", *attack_table(attacks)))
    requests = list(dict.fromkeys(row["concept"] for row in rows))
    if len(requests) > 1 and len({row["trial"] for row in rows}) > 1:
        for request in requests:
            own = [row for row in rows if row["concept"] == request]
            found.append(_mean_section(request, own))
    heads = ["concept", "trial", *_heads(shown)]
    found.append(Section(EVERY, heads, _run_rows(rows, shown)))
    return found


def about_columns(rows: Rows) -> list[tuple[str, str]]:
    """What the columns are, and whether more is better."""
    return [
        (c.title, f"{c.about.rstrip('.')} ({'more' if c.more_is_better else 'less'} is better)")
        for c in columns(rows)
    ]


def markdown(rows: Rows) -> str:
    """All tables, with the best of each column bold and the second best in italics."""
    texts = []
    for part in sections(rows):
        align = "lrlr" if part.title == EVERY else "lr"
        texts.append(f"## {tables.escaped(part.title)}\n\n")
        texts.append(tables.markdown(part.heads, part.rows, align) + "\n")
    about = tables.markdown(("column", "what it is"), about_columns(rows))
    return "".join(texts) + f"## Columns\n\n{about}"


def terminal(lines: Sequence[Mapping[str, Any]], rows: Rows, title: str) -> list[Table]:
    """The means, and what attacks brought back, for rich: best bold green, second best bold.

    Where columns are many, shares and the rest are two tables.
    """
    every = columns(rows)
    shares = [column for column in every if column.scale == PERCENT]
    others = [column for column in every if column.scale != PERCENT]
    parts = [every] if len(every) <= NARROW else [shares, others]
    found = [tables.terminal(_heads(p), _mean_rows(lines, p), "lr", title) for p in parts if p]
    if attacks := attack_lines(rows):
        heads, cells = attack_table(attacks)
        found.append(tables.terminal(heads, cells, "lr", f"{title}, after attacks"))
    return found


def comma_separated(rows: Rows) -> str:
    """Every run as a line of CSV, numbers as they were measured (rates from 0 to 1)."""
    measured = list(dict.fromkeys(name for row in rows for name in row.get("metrics", {})))
    lines = [_csv_line(row, [*measured, "seconds", "memory_bytes"]) for row in rows]
    names = dict.fromkeys(("concept", "trial", "method", *measured, "seconds", "memory_bytes"))
    for line in lines:
        names |= dict.fromkeys(line)
    names.pop("failed", None)
    return tables.csv_text((*names, "failed"), lines)


def _csv_line(row: Row, names: Sequence[str]) -> dict[str, Any]:
    line = {name: row.get(name) for name in ("concept", "trial", "method", "failed")}
    line |= {name: value_of(row, name) for name in names}
    attacked = row.get("attacked", {})
    line["failed"] = line["failed"] or attacked.get("failed")
    if "plain" in attacked:
        line["shown plainly"] = attacked["plain"]["model"]["value"]
    for title, entry in attacked.get("attacks", {}).items():
        line[f"shown after {title}"] = entry["model"]["value"]
        if "half" in entry:
            last = [[point["step"], point["value"]] for point in entry["curve"]["model"]]
            line[f"steps to half, {title}"] = half_text({"half": entry["half"], "steps": last})
    return line


def write_report(folder: Path, rows: Rows, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write `table.csv`, `table.md`, `results.json`, the figures and the page; return the means."""
    lines, attacks = summarise(rows), attack_lines(rows)
    results = {**facts, "means": lines, "attacks": attacks, "rows": list(rows)}
    write_tables(folder, comma_separated(rows), markdown(rows), results)
    config = facts.get("config", {})
    requests = "; ".join(config.get("concept", ())) or "all concepts"
    several = len({row["trial"] for row in rows}) > 1
    write_methods_page(
        folder / PAGE,
        f"Unlearning methods on {requests}",
        "Means over what was forgotten"
        + (", ± standard deviation over seeds" if several else "")
        + "; the best value of each column is marked.",
        sections(rows),
        config,
        write_pareto(folder, rows, attacks),
        about_columns(rows),
    )
    return lines
