"""Tables (terminal, CSV, Markdown, JSON) and figures of a classifier comparison."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from erase.compare.classifier import gap_to
from erase.compare.entries import slug
from erase.config.values import parse_line
from erase.files import read_jsonl, write_json, write_text
from erase.judges.classifier_scores import GAP_METRICS, average_gap, tow

COLUMNS = ("ua", "ra", "ta", "mia", "gap", "tow", "rte_s", "rmia_auc")
TITLES = {
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
Results = Mapping[str, Sequence[Mapping[str, Any]]]


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
        values["gap"] = gap_to(results, label)
        pairs = zip(trials, results["retrain"], strict=True)
        values["tow"] = [tow(a["scores"], b["scores"]) for a, b in pairs if "scores" in a]
        for name in ("rte_s", "rmia_auc"):
            values[name] = [t[name] for t in good if name in t]
        row |= {n: _mean_std(found) for n, found in values.items() if found}
        table[label] = row
    for label, row in table.items():
        if all(name in row for name in GAP_METRICS):
            mine, gold = ({n: table[k][n][0] for n in GAP_METRICS} for k in (label, "retrain"))
            row["gap_of_means"] = average_gap(mine, gold)
    return table


def _mean_std(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def ranked(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Labels of the methods that finished, best Avg. Gap first; no references."""
    rows = [k for k, row in table.items() if k not in REFERENCES and "gap" in row]
    return sorted(rows, key=lambda label: table[label]["gap"][0])


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return "–"
    mean, std = row[name]
    digits = DIGITS.get(name, 2)
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def _columns(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name in COLUMNS if any(name in row for row in table.values())]


def _order(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    done = ranked(table)
    left = [k for k in table if k not in done and k not in REFERENCES]
    return [*REFERENCES, *done, *left]


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as Markdown: best Avg. Gap bold, second best in italics."""
    names, best = _columns(table), _placed(table)
    lines = [
        f"| Method | {' | '.join(TITLES[name] for name in names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for label in _order(table):
        cells = [_cell(table[label], name) for name in names]
        around = _mark(label, best, "**", "*")
        cells = [
            f"{around}{c}{around}" if n == "gap" else c for n, c in zip(names, cells, strict=True)
        ]
        lines.append(f"| {around}{label}{around} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _placed(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The ranking without a sweep's entries: its best would be chosen on the trials themselves."""
    return [label for label in ranked(table) if "@" not in label]


def _mark(label: str, best: Sequence[str], first: str, second: str) -> str:
    if label in best[:1]:
        return first
    return second if label in best[1:2] else ""


def terminal(table: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """The table for rich: best bold green, second best bold."""
    names, best = _columns(table), _placed(table)
    shown = Table(title=title)
    shown.add_column("Method")
    for name in names:
        shown.add_column(TITLES[name], justify="right")
    for label in _order(table):
        style = _mark(label, best, "bold green", "bold")
        shown.add_row(label, *(_cell(table[label], name) for name in names), style=style or None)
    return shown


def _csv(table: Mapping[str, Mapping[str, Any]]) -> str:
    names = _columns(table)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [head for name in names for head in (name, f"{name}_std")]
    writer.writerow(["method", "trials", "failed", *heads])
    for label in _order(table):
        row = table[label]
        cells = [value for name in names for value in row.get(name, ("", ""))]
        writer.writerow([label, row["trials"], row["failed"], *cells])
    return file.getvalue()


def write_report(folder: Path, content: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `table.csv`, `table.md`, `results.json` and the figures; return the table."""
    table = summarise(content["results"])
    write_text(folder / "table.csv", _csv(table))
    write_text(folder / "table.md", markdown(table))
    curves = cosines(folder, list(content["results"]), len(content["results"]["retrain"]))
    means = {
        label: {
            name: {
                "mean": statistics.fmean(values),
                "share_of_steps_above_lur_b": share_above(values, curves.get(JOINT, {})[name])
                if name in curves.get(JOINT, {})
                else None,
            }
            for name, values in by_layer.items()
        }
        for label, by_layer in curves.items()
    }
    write_json(folder / "results.json", {**facts, **content, "table": table, "cosine": means})
    plot_cosine(folder, curves)
    plot_alpha(folder, table)
    return table


COSINES = {"cosine_penultimate": "last convolution", "cosine": "all parameters"}
JOINT = "lur@alpha=0.0"
"""With α = 0 LUR is LUR-b: the one that has all of LUR's other settings."""


def sweep_alpha(label: str) -> float | None:
    """α of an entry that is LUR with α alone fixed; None for any other entry."""
    line = parse_line(label)
    if (line.method, line.variants, set(line.settings)) != ("lur", (), {"alpha"}):
        return None
    return float(line.settings["alpha"])


def cosines(folder: Path, labels: Sequence[str], trials: int) -> dict[str, dict[str, list[float]]]:
    """Cosine of ∇L_r and ∇L_f by step, mean over trials, of LUR at each α and LUR-b, by layer."""
    found: dict[str, dict[str, list[float]]] = {}
    for label in labels:
        if label not in ("lur", "lur-b") and sweep_alpha(label) is None:
            continue
        for name in COSINES:
            logs = [
                _curve(folder / f"trial-{t}" / f"{slug(label)}.jsonl", name) for t in range(trials)
            ]
            if all(logs):
                mean = [statistics.fmean(at) for at in zip(*logs, strict=False)]
                found.setdefault(label, {})[name] = mean
    return found


def share_above(mine: Sequence[float], other: Sequence[float]) -> float:
    """Share of the steps, 0 to 1, at which the first curve is above the second."""
    pairs = list(zip(mine, other, strict=False))
    return sum(a > b for a, b in pairs) / len(pairs)


def plot_cosine(folder: Path, curves: Mapping[str, Mapping[str, list[float]]]) -> bool:
    """Figure 3A from the logs; False unless LUR and a LUR-b are there.

    After `--alphas 0,…` LUR-b is the one with LUR's settings, and LUR appears with the largest α of
    the sweep too. Lines are running means over a tenth of the steps; the logs have each step.
    """
    if "lur" not in curves or len(curves) < 2:
        return False
    sweep = {label: alpha for label in curves if (alpha := sweep_alpha(label)) is not None}
    sweep.pop(JOINT, None)
    largest = sorted(sweep, key=lambda label: sweep[label])[-1:]
    labels = [JOINT if JOINT in curves else "lur-b", "lur", *largest]
    titles = {"lur": "LUR", "lur-b": "LUR-b, its own settings", JOINT: "LUR-b (α = 0)"}
    figure, axes = _figure(2)
    for axis, (name, title) in zip(axes, COSINES.items(), strict=True):
        for number, label in enumerate(labels):
            values = curves[label].get(name, [])
            shown = titles.get(label, f"LUR, α = {sweep.get(label)}")
            smooth = running_mean(values, max(1, len(values) // 10))
            axis.plot(range(1, len(values) + 1), smooth, f"C{number}", label=shown)
        axis.axhline(0, color="grey", linewidth=0.5)
        axis.set(title=title, xlabel="step", ylabel="cosine of ∇L_r and ∇L_f")
        axis.legend(fontsize="small")
    figure.savefig(folder / "cosine.png", dpi=80)
    return True


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last `width` values (fewer at first) at each place."""
    return [
        statistics.fmean(values[max(0, end - width) : end]) for end in range(1, len(values) + 1)
    ]


def _curve(path: Path, name: str) -> list[float]:
    return [row[name] for row in read_jsonl(path) if name in row]


def plot_alpha(folder: Path, table: Mapping[str, Mapping[str, Any]]) -> bool:
    """Figure 5 from the entries `lur@alpha=…`; False when fewer than two have α > 0.

    α = 0, which is LUR-b, becomes a horizontal line.
    """
    points = sorted(
        (alpha, *row["gap"])
        for label, row in table.items()
        if (alpha := sweep_alpha(label)) is not None and "gap" in row
    )
    positive = [point for point in points if point[0] > 0]
    if len(positive) < 2:
        return False
    alphas, means, deviations = zip(*positive, strict=True)
    figure, (axis,) = _figure(1)
    axis.errorbar(alphas, means, deviations, marker="o", capsize=3, label="LUR")
    if points[0][0] == 0:
        axis.axhline(points[0][1], color="grey", linestyle="--", label="α = 0 (LUR-b)")
    axis.set(xscale="log", xlabel="α", ylabel="Avg. Gap (percentage points)")
    axis.legend()
    figure.savefig(folder / "alpha.png", dpi=90)
    return True


def _figure(count: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * count, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def report_folder(output: Path, spec: str) -> Path:
    """Where the results of a forget specification are."""
    return output / slug(spec)
