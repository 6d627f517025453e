"""The table of a classifier comparison in a terminal, as CSV, Markdown and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from erase.comparison.classifier_figures import JOINT, cosines, plot_alpha, plot_cosine, share_above
from erase.comparison.store import write_tables
from erase.judges.classifier_scores import GAP_METRICS, average_gap, tow
from erase.report import tables
from erase.report.methods_page import PAGE, Section, write_methods_page
from erase.report.tables import MISSING, Cell
from erase.scoring.classifier_metric import Column, load_classifier_metric
from erase.training.classifier_measures import related

COLUMNS = {
    "ua": Column("UA"),
    "ra": Column("RA"),
    "ta": Column("TA"),
    "mia": Column("MIA"),
    "gap": Column("Avg. Gap"),
    "tow": Column("ToW", 3),
    "rte_s": Column("RTE (s)"),
}
"""The columns of every table; those of other metrics follow."""
REFERENCES = ("original", "retrain")
Rows = Mapping[str, Mapping[str, Any]]
Columns = Mapping[str, Column]


def table_columns(metrics: Sequence[str]) -> dict[str, Column]:
    """The columns of a table with these metrics, by the names of their values."""
    own = [load_classifier_metric(name).columns for name in metrics]
    return {**COLUMNS, **{name: column for columns in own for name, column in columns.items()}}


def summarise(
    results: dict[str, list[dict[str, Any]]], metrics: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Mean and sample standard deviation over trials of each column, by label.

    Avg. Gap, ToW and what metrics relate to Retrain are taken in each trial against that trial's
    own Retrain, then averaged; `gap_of_means`, the gap between the averaged columns, is what some
    papers print. A column without a number in some trial has no mean: [None, None], and
    `NAME_beyond` says in how many trials.
    """
    loaded = [load_classifier_metric(name) for name in metrics]
    table: dict[str, dict[str, Any]] = {}
    for label, trials in results.items():
        good = [t for t in trials if "scores" in t]
        row: dict[str, Any] = {"trials": len(good), "failed": len(trials) - len(good)}
        values: dict[str, list[Any]] = {n: [t["scores"][n] for t in good] for n in GAP_METRICS}
        pairs = [
            (own["scores"], gold["scores"])
            for own, gold in zip(trials, results["retrain"], strict=True)
            if "scores" in own and "scores" in gold
        ]
        values["gap"] = [average_gap(*pair) for pair in pairs]
        values["tow"] = [tow(*pair) for pair in pairs]
        values["rte_s"] = [t["rte_s"] for t in good if "rte_s" in t]
        three = zip(trials, results["original"], results["retrain"], strict=True)
        measured = [[t.get("measured") for t in each] for each in three]
        for mine, original, gold in measured:
            if mine is not None:
                for name, value in related(loaded, mine, original or {}, gold or {}).items():
                    values.setdefault(name, []).append(value)
        for name, numbers in values.items():
            if beyond := sum(number is None for number in numbers):
                row |= {name: (None, None), f"{name}_beyond": beyond}
            elif numbers:
                row[name] = _mean_std(numbers)
        table[label] = row
    for label, row in table.items():
        if all(name in row for name in GAP_METRICS):
            mine, gold = ({n: table[k][n][0] for n in GAP_METRICS} for k in (label, "retrain"))
            row["gap_of_means"] = average_gap(mine, gold)
    return table


def _mean_std(values: list[float]) -> tuple[float, float | None]:
    """Mean and standard deviation; one value has no deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def ranked(table: Rows) -> list[str]:
    """Labels of the methods that finished, best Avg. Gap first; no references."""
    rows = [k for k, row in table.items() if k not in REFERENCES and "gap" in row]
    return sorted(rows, key=lambda label: table[label]["gap"][0])


def _text(row: Mapping[str, Any], name: str, column: Column) -> str:
    if name not in row:
        return MISSING
    mean, std = row[name]
    if mean is None:
        beyond, trials = row[f"{name}_beyond"], row["trials"]
        return column.beyond + (f" ({beyond} of {trials})" if beyond < trials else "")
    return column.text(mean, std)


def _shown(table: Rows, columns: Columns) -> Columns:
    """The columns that some row has a value in."""
    return {k: v for k, v in columns.items() if any(k in row for row in table.values())}


def _order(table: Rows) -> list[str]:
    return list(dict.fromkeys([*REFERENCES, *ranked(table), *table]))


def _heads(table: Rows, columns: Columns) -> list[str]:
    return ["Method", *(column.title for column in _shown(table, columns).values())]


def _rows(table: Rows, marked: Collection[str], columns: Columns) -> list[list[Cell]]:
    """A row for each label, in which the `marked` columns show the label's place.

    A sweep's entries have no place: its best would be chosen on the trials themselves.
    """
    best = [label for label in ranked(table) if "@" not in label][:2]
    shown, rows = _shown(table, columns), []
    for label in _order(table):
        place = best.index(label) + 1 if label in best else 0
        texts = {name: _text(table[label], name, column) for name, column in shown.items()}
        cells = {"method": label, **texts}
        rows.append([Cell(text, place * (name in marked)) for name, text in cells.items()])
    return rows


def markdown(table: Rows, columns: Columns = COLUMNS) -> str:
    """The table as Markdown: best Avg. Gap bold, second best in italics."""
    return tables.markdown(_heads(table, columns), _rows(table, ("method", "gap"), columns))


def terminal(table: Rows, title: str, columns: Columns = COLUMNS) -> Table:
    """The table for rich: the row with the best Avg. Gap bold green, the second best bold."""
    rows = _rows(table, ("method", *columns), columns)
    return tables.terminal(_heads(table, columns), rows, "lr", title)


def _csv(table: Rows, columns: Columns) -> str:
    names = list(_shown(table, columns))
    beyond = [
        f"{name}_beyond" for name in names if any(f"{name}_beyond" in r for r in table.values())
    ]
    heads = [head for name in names for head in (name, f"{name}_std")]
    rows = []
    for label in _order(table):
        row = table[label]
        line = {"method": label, "trials": row["trials"], "failed": row["failed"]}
        for name in names:
            line[name], line[f"{name}_std"] = row.get(name, (None, None))
        rows.append({**line, **{name: row.get(name, 0) for name in beyond}})
    return tables.csv_text(["method", "trials", "failed", *heads, *beyond], rows)


def write_report(folder: Path, content: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `table.csv`, `table.md`, `results.json` and the figures; return the table."""
    table = summarise(content["results"], content.get("metrics", ()))
    columns = table_columns(content.get("metrics", ()))
    curves = cosines(folder, list(content["results"]), len(content["results"]["retrain"]))
    joint = curves.get(JOINT, {})
    means = {
        label: {
            name: {
                "mean": statistics.fmean(values),
                "share_of_steps_above_lur_b": share_above(values, joint[name])
                if name in joint
                else None,
            }
            for name, values in by_layer.items()
        }
        for label, by_layer in curves.items()
    }
    results = {**facts, **content, "table": table, "cosine": means}
    write_tables(folder, _csv(table, columns), markdown(table, columns), results)
    plot_cosine(folder, curves)
    plot_alpha(folder, table)
    write_methods_page(
        folder / PAGE,
        f"Unlearning methods on {content['forget']}",
        "Means over the trials; best values against Retrain are marked. UA, RA, TA and MIA in"
        " percent.",
        [
            Section(
                "All methods", _heads(table, columns), _rows(table, ("method", *columns), columns)
            )
        ],
        facts.get("config", {}),
        {
            "Cosine of both gradients": folder / "cosine.png",
            "Gap over α": folder / "alpha.png",
        },
    )
    return table
