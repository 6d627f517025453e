"""The table of a classifier comparison in a terminal, as CSV, Markdown and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from erase.comparison.classifier_figures import JOINT, cosines, plot_alpha, plot_cosine, share_above
from erase.comparison.store import write_tables
from erase.judges.classifier_scores import GAP_METRICS, average_gap, tow
from erase.report import tables
from erase.report.methods_page import PAGE, Section, write_methods_page
from erase.report.tables import MISSING, Cell

COLUMNS = {
    "ua": "UA",
    "ra": "RA",
    "ta": "TA",
    "mia": "MIA",
    "gap": "Avg. Gap",
    "tow": "ToW",
    "rte_s": "RTE (s)",
    "rmia_auc": "RMIA AUC",
}
DIGITS = {"tow": 3, "rmia_auc": 3}
REFERENCES = ("original", "retrain")


def summarise(results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Mean and sample standard deviation over trials of each column, by label.

    Avg. Gap and ToW are taken in each trial against that trial's own Retrain, then averaged;
    `gap_of_means`, the gap between the averaged columns, is what some papers print.
    """
    table: dict[str, dict[str, Any]] = {}
    for label, trials in results.items():
        good = [t for t in trials if "scores" in t]
        row: dict[str, Any] = {"trials": len(good), "failed": len(trials) - len(good)}
        values: dict[str, list[float]] = {n: [t["scores"][n] for t in good] for n in GAP_METRICS}
        pairs = [
            (own["scores"], gold["scores"])
            for own, gold in zip(trials, results["retrain"], strict=True)
            if "scores" in own and "scores" in gold
        ]
        values["gap"] = [average_gap(*pair) for pair in pairs]
        values["tow"] = [tow(*pair) for pair in pairs]
        for name in ("rte_s", "rmia_auc"):
            values[name] = [t[name] for t in good if name in t]
        row |= {n: _mean_std(numbers) for n, numbers in values.items() if numbers}
        table[label] = row
    for label, row in table.items():
        if all(name in row for name in GAP_METRICS):
            mine, gold = ({n: table[k][n][0] for n in GAP_METRICS} for k in (label, "retrain"))
            row["gap_of_means"] = average_gap(mine, gold)
    return table


def _mean_std(values: list[float]) -> tuple[float, float | None]:
    """Mean and standard deviation; one value has no deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def ranked(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Labels of the methods that finished, best Avg. Gap first; no references."""
    rows = [k for k, row in table.items() if k not in REFERENCES and "gap" in row]
    return sorted(rows, key=lambda label: table[label]["gap"][0])


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return MISSING
    mean, std = row[name]
    digits = DIGITS.get(name, 2)
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def _columns(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name in COLUMNS if any(name in row for row in table.values())]


def _order(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys([*REFERENCES, *ranked(table), *table]))


def _heads(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return ["Method", *(COLUMNS[name] for name in _columns(table))]


def _rows(table: Mapping[str, Mapping[str, Any]], marked: Collection[str]) -> list[list[Cell]]:
    """A row for each label, in which the `marked` columns show the label's place.

    A sweep's entries have no place: its best would be chosen on the trials themselves.
    """
    best = [label for label in ranked(table) if "@" not in label][:2]
    rows = []
    for label in _order(table):
        place = best.index(label) + 1 if label in best else 0
        cells = {"method": label} | {name: _text(table[label], name) for name in _columns(table)}
        rows.append([Cell(text, place * (name in marked)) for name, text in cells.items()])
    return rows


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as Markdown: best Avg. Gap bold, second best in italics."""
    return tables.markdown(_heads(table), _rows(table, ("method", "gap")))


def terminal(table: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """The table for rich: the row with the best Avg. Gap bold green, the second best bold."""
    return tables.terminal(_heads(table), _rows(table, ("method", *COLUMNS)), "lr", title)


def _csv(table: Mapping[str, Mapping[str, Any]]) -> str:
    names = _columns(table)
    heads = [head for name in names for head in (name, f"{name}_std")]
    rows = []
    for label in _order(table):
        row = table[label]
        line = {"method": label, "trials": row["trials"], "failed": row["failed"]}
        for name in names:
            line[name], line[f"{name}_std"] = row.get(name, (None, None))
        rows.append(line)
    return tables.csv_text(["method", "trials", "failed", *heads], rows)


def write_report(folder: Path, content: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `table.csv`, `table.md`, `results.json` and the figures; return the table."""
    table = summarise(content["results"])
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
    write_tables(folder, _csv(table), markdown(table), results)
    plot_cosine(folder, curves)
    plot_alpha(folder, table)
    write_methods_page(
        folder / PAGE,
        f"Unlearning methods on {content['forget']}",
        "Means over the trials; best values against Retrain are marked. UA, RA, TA and MIA in"
        " percent.",
        [Section("All methods", _heads(table), _rows(table, ("method", *COLUMNS)))],
        facts.get("config", {}),
        {
            "Cosine of both gradients": folder / "cosine.png",
            "Gap over α": folder / "alpha.png",
        },
    )
    return table
