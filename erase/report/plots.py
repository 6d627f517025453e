"""The report's figures as PNG files, for papers and slides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erase.report.figures import BASE, MODEL, PALETTE, figure, finish, plain, saved

MANY = 15  # classes from which on their bars lie below each other


def plot_detections(rows: Sequence[Mapping[str, Any]], model: str, base: str | None) -> bytes:
    """Figure 4A from `detection_rows`: counts by class, with the change against the baseline."""
    shown = [row for row in rows if not row["total"]] or list(rows)
    drawn, (axis,) = figure(7, 1.2 + 0.5 * len(shown))
    series: list[tuple[str, list[float], str]] = [(model, [row["count"] for row in shown], MODEL)]
    if base is not None:
        series.insert(0, (base, [row["base"] for row in shown], BASE))
    _bars(axis.barh, series)
    most = max([1, *(value for _, values, _ in series for value in values)])
    for y, row in enumerate(shown):
        end = max(row["count"], row["base"] or 0)
        axis.text(end + 0.01 * most, y, row["change_text"], va="center", fontsize=9)
    axis.set_yticks(range(len(shown)), [plain(row["name"]) for row in shown])
    axis.invert_yaxis()
    axis.set(xlabel="detections", xlim=(0, 1.15 * most))
    axis.xaxis.get_major_locator().set_params(integer=True)
    finish(axis, "x")
    drawn.legend(frameon=False, loc="outside upper center", ncols=2)
    return saved(drawn)


def plot_classes(rows: Sequence[Mapping[str, Any]], model: str, base: str | None) -> bytes:
    """Share of images recognised as what was asked for, by class, from `class_rows`."""
    series = [(model, [row["share"] for row in rows], MODEL)]
    if base is not None and all(row["base"] is not None for row in rows):
        series.insert(0, (base, [row["base"] for row in rows], BASE))
    names = [plain(row["name"] + (" (forgotten)" if row["forgotten"] else "")) for row in rows]
    if len(rows) > MANY:
        drawn, (axis,) = figure(6, 1 + 0.26 * len(rows))
        _bars(axis.barh, series)
        axis.set_yticks(range(len(rows)), names)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set(xlabel="recognised (%)", xlim=(0, 100))
        finish(axis, "x")
    else:
        drawn, (axis,) = figure(max(5.0, 1.5 + 0.55 * len(rows)), 3.4)
        _bars(axis.bar, series)
        axis.set_xticks(range(len(rows)), names, rotation=30, ha="right")
        axis.set(ylabel="recognised (%)", ylim=(0, 100))
        finish(axis, "y")
    drawn.legend(frameon=False, loc="outside upper center", ncols=2)
    return saved(drawn)


def _bars(draw: Callable[..., Any], series: Sequence[tuple[str, list[float], str]]) -> None:
    """Draw (label, values, colour) as bars beside each other at every place."""
    thick = 0.8 / len(series)
    for number, (label, values, colour) in enumerate(series):
        at = [place + (number - (len(series) - 1) / 2) * thick for place in range(len(values))]
        draw(at, values, thick, color=colour, label=plain(label))


def plot_metrics(
    labels: Sequence[str], columns: Sequence[tuple[str, Sequence[Mapping[str, Any] | None]]]
) -> bytes:
    """Every metric of several runs beside each other: value and 95% interval.

    Args:
        labels: names of the runs, in order.
        columns: title of each metric, and each run's summary of it as `metrics.json` holds it;
            None where a run does not have it.
    """
    height = 1.2 + 0.32 * len(labels)
    drawn, axes = figure(max(3.2 * len(columns), 4), height, len(columns))
    for place, (axis, (title, summaries)) in enumerate(zip(axes, columns, strict=True)):
        for y, summary in enumerate(summaries):
            if summary is None:
                continue
            scale = 100 if summary["unit"] == "share" else 1
            value = scale * summary["value"]
            low, high = (scale * bound for bound in summary["ci95"] or [summary["value"]] * 2)
            axis.plot([low, high], [y, y], color=PALETTE[y % len(PALETTE)], linewidth=2)
            axis.plot(value, y, "o", color=PALETTE[y % len(PALETTE)], markersize=6)
        share = any(summary and summary["unit"] == "share" for summary in summaries)
        axis.set_title(plain(title + (" (%)" if share else "")), fontsize=9)
        axis.set_yticks(range(len(labels)), [plain(x) for x in labels] if not place else [])
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.margins(x=0.1)
        finish(axis, "x")
    return saved(drawn)
