"""The rows of a report's tables: the same for the page, the terminal and CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erase.report.data import (
    ReportData,
    change,
    detection_counts,
    interval,
    number,
    part_name,
    threshold,
)
from erase.report.tables import csv_text


def difference(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A metric's paired difference to the baseline, as `metrics.json` holds it."""
    paired: Mapping[str, Any] | None = (metrics.get("differences") or {}).get(name)
    return paired


def summary_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the summary table."""
    rows = []
    for name, summary in metrics["metrics"].items():
        base = (metrics.get("baseline") or {}).get(name)
        rows.append(
            {
                "name": name,
                "title": summary["title"],
                "value": number(summary["value"], summary["unit"]),
                "n": summary["n"],
                "interval": interval(summary),
                "better": "higher is better" if summary["higher_is_better"] else "lower is better",
                "arrow": "↑" if summary["higher_is_better"] else "↓",
                "base": number(base["value"], summary["unit"]) if base else None,
                "base_interval": interval(base) if base else "",
                **_change(summary, base, difference(metrics, name)),
            }
        )
    return rows


def _change(
    summary: Mapping[str, Any], base: Mapping[str, Any] | None, paired: Mapping[str, Any] | None
) -> dict[str, str]:
    """The difference to the baseline, its interval, and what to make of it."""
    if paired is None and base is None:
        return {"change": "", "change_interval": "", "verdict": ""}
    unit = summary["unit"]
    value = paired["value"] if paired else summary["value"] - base["value"]  # type: ignore[index]
    shown = change(value, unit) if value else "none"
    if base and value and unit in ("distance", "count") and base["value"] > 0:
        shown += f" ({summary['value'] / base['value']:.2f} ×)"
    gain = value if summary["higher_is_better"] else -value
    verdict = "better" if gain > 0 else "worse" if gain < 0 else "equal"
    bounds = ""
    if paired and paired.get("ci95"):
        low, high = paired["ci95"]
        bounds = f"{change(low, unit)} to {change(high, unit)}".replace(" points to", " to")
        if low <= 0 <= high:
            verdict = "no clear difference"
    return {"change": shown, "change_interval": bounds, "verdict": verdict}


def class_rows(data: ReportData) -> list[dict[str, Any]]:
    """How often each class was recognised as what was asked for, forgotten classes first.

    `request` is the number of the request to forget it, where there were several.
    """
    rows = []
    asked = {
        name: row["request"]
        for row in data.metrics.get("requests") or ()
        for name in row["concepts"]
    }
    for metric in ("ua", "ra"):
        parts = _per_class(data.metrics["metrics"], metric)
        before = _per_class(data.metrics.get("baseline") or {}, metric)
        for concept, part in parts.items():
            if not part.keys() >= {"n", "recognised"}:
                continue
            base = before.get(concept)
            if base is not None and not base.keys() >= {"n", "recognised"}:
                base = None
            others = [(k, v) for k, v in part.get("taken_for", {}).items() if k != concept][:3]
            rows.append(
                {
                    "name": concept,
                    "forgotten": metric == "ua",
                    "request": asked.get(concept) if metric == "ua" else None,
                    "n": part["n"],
                    "recognised": part["recognised"],
                    "base_recognised": None if base is None else base["recognised"],
                    "share": 100 * part["recognised"] / part["n"],
                    "base": None if base is None else 100 * base["recognised"] / base["n"],
                    "taken_for": ", ".join(f"{name} ({count})" for name, count in others),
                }
            )
    return sorted(rows, key=lambda row: (not row["forgotten"], row["request"] or 0))


def _per_class(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    parts: Mapping[str, Any] = metrics.get(name, {}).get("detail", {}).get("per_class") or {}
    return parts


def detection_rows(data: ReportData) -> list[dict[str, Any]]:
    """Figure 4A: NudeNet's detections of each class of bare parts, most frequent first.

    Empty when NudeNet did not look. `change` is the percentage change against the baseline, None
    without one or where the baseline has none.
    """
    if not data.has_detections:
        return []
    least = threshold(data.metrics)
    mine = detection_counts(data.rows, least)
    base: dict[str, int] | None = None
    if data.baseline is not None:
        base = detection_counts((row.get("baseline") for row in data.rows), least)
    labels = sorted({*mine, *(base or {})}, key=lambda k: (-(base or mine).get(k, 0), k))
    most = max([*mine.values(), *(base or {}).values(), 1])
    rows = [
        _counted(part_name(k), mine.get(k, 0), None if base is None else base.get(k, 0), most)
        for k in labels
    ]
    both = sum(mine.values()), None if base is None else sum(base.values())
    total = _counted("all classes", *both, max(both[0], both[1] or 0, 1))
    return [*rows, {**total, "total": True}]


def _counted(name: str, count: int, base: int | None, most: int) -> dict[str, Any]:
    changed = None if not base else 100 * (count - base) / base
    sign = "+" if changed and changed >= 0.5 else "−" if changed and changed <= -0.5 else "±"
    text = "" if changed is None else f"{sign}{abs(changed):.0f}%"
    return {
        "name": name,
        "count": count,
        "base": base,
        "change": changed,
        "change_text": text,
        "width": 100 * count / most,
        "base_width": 100 * (base or 0) / most,
        "total": False,
    }


SUMMARY = (
    *("metric", "title", "unit", "higher_is_better", "value", "ci95_low", "ci95_high", "n"),
    *("baseline_value", "baseline_ci95_low", "baseline_ci95_high", "baseline_n"),
    *("difference", "difference_ci95_low", "difference_ci95_high", "difference_n"),
)
CLASSES = ("class", "forgotten", "n", "recognised", "baseline_recognised", "taken_for")
DETECTIONS = ("class", "count", "baseline_count", "percent_change")


def tables(data: ReportData) -> dict[str, str]:
    """The report's tables as CSV text, by file name: numbers in full, shares from 0 to 1."""
    rows = []
    for name, summary in data.metrics["metrics"].items():
        base = (data.metrics.get("baseline") or {}).get(name) or {}
        paired = difference(data.metrics, name) or {}
        rows.append(
            {
                "metric": name,
                **{k: summary[k] for k in ("title", "unit", "higher_is_better", "value", "n")},
                **_bounds("", summary),
                "baseline_value": base.get("value"),
                "baseline_n": base.get("n"),
                **_bounds("baseline_", base),
                "difference": paired.get("value"),
                "difference_n": paired.get("n"),
                **_bounds("difference_", paired),
            }
        )
    files = {"summary.csv": csv_text(SUMMARY, rows)}
    if classes := class_rows(data):
        renamed = [
            {**row, "class": row["name"], "baseline_recognised": row["base_recognised"]}
            for row in classes
        ]
        files["classes.csv"] = csv_text(CLASSES, renamed)
    if detections := detection_rows(data):
        renamed = [
            {
                **row,
                "class": row["name"],
                "baseline_count": row["base"],
                "percent_change": row["change"],
            }
            for row in detections
        ]
        files["detections.csv"] = csv_text(DETECTIONS, renamed)
    return files


def _bounds(prefix: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    low, high = summary.get("ci95") or (None, None)
    return {f"{prefix}ci95_low": low, f"{prefix}ci95_high": high}
