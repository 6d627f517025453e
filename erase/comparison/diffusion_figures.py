"""The figures of a diffusion comparison: forgetting against retention, and relearning by step.

They are narrow, with names beside the points, so that they can be read at the width of a phone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.comparison.diffusion_columns import KINDS, Rows, by_request, over_trials, value_of
from erase.comparison.diffusion_columns import retention as retention_of
from erase.files import write_bytes
from erase.report.figures import BASE, MODEL, PALETTE, figure, finish, plain, saved

WIDTH, LINE = 4.6, 0.23
"""Inches: of a figure, and of a line of names."""
DASHES = ("-", "--", ":", "-.")
GAP = 1.06
"""Where names stand: right of the axes, which end at 1."""


@dataclass(frozen=True)
class Point:
    """A method in percent: what it kept, what it forgot, and their deviations over trials."""

    name: str
    kept: float
    forgotten: float
    kept_sd: float = 0.0
    forgotten_sd: float = 0.0


def points(rows: Rows) -> list[Point]:
    """A point for each method of which no run failed; empty where UA or retention is missing."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        if any("failed" in row for row in mine):
            continue
        kept, kept_sd = over_trials(mine, retention_of)
        gone, gone_sd = over_trials(mine, lambda row: value_of(row, "ua"))
        if kept is not None and gone is not None:
            spread = 100 * (kept_sd or 0), 100 * (gone_sd or 0)
            found.append(Point(method, 100 * kept, 100 * gone, *spread))
    return found


def frontier(found: Sequence[Point]) -> list[Point]:
    """The points than which no other keeps and forgets at least as much, and one of them more.

    The one that keeps least comes first; of equal points all are there.
    """
    best = [
        point
        for point in found
        if not any(
            other.kept >= point.kept
            and other.forgotten >= point.forgotten
            and (other.kept, other.forgotten) != (point.kept, point.forgotten)
            for other in found
        )
    ]
    return sorted(best, key=lambda point: (point.kept, -point.forgotten))


def write_pareto(folder: Path, rows: Rows, attacks: Sequence[Mapping[str, Any]]) -> dict[str, Path]:
    """Write the figures that the results allow; their titles and files.

    `pareto.png`, for each attack `pareto-after-ATTACK.png` with the share that it does not bring
    back, and `relearn-….png` for each attack that is a curve.
    """
    found = points(rows)
    if not found:
        return {}
    originals = by_request(rows)
    kept = over_trials(originals, lambda row: retention_of(row, "original"))[0]
    original = None if kept is None else 100 * kept
    axis = _kept_title(rows)
    files = {"Forgetting against retention": folder / "pareto.png"}
    drawn = plot_pareto(found, axis, "forgotten: UA (%)", original)
    write_bytes(files["Forgetting against retention"], drawn)
    shown = {line["method"]: line["shown"] for line in attacks if "shown" in line}
    for title in dict.fromkeys(t for summaries in shown.values() for t in list(summaries)[1:]):
        name = f"Still forgotten after {title}, against retention"
        after = {
            method: 100 * (1 - summaries[title]["value"])
            for method, summaries in shown.items()
            if title in summaries
        }
        moved = [Point(p.name, p.kept, after[p.name], p.kept_sd) for p in found if p.name in after]
        files[name] = folder / f"pareto-after-{_slug(title)}.png"
        y = f"not shown after {title} (%)"
        write_bytes(files[name], plot_pareto(moved, axis, y, original, before=found))
        curves = {m: s[title]["steps"] for m, s in shown.items() if "steps" in s.get(title, {})}
        if curves:
            name = f"Shown again by step: {title}"
            files[name] = folder / f"{_slug(title)}.png"
            write_bytes(files[name], plot_curves(curves))
    return files


def _kept_title(rows: Rows) -> str:
    kinds = any(name in row.get("metrics", {}) for row in rows for name in KINDS)
    return f"kept: {'mean of IRA and CRA' if kinds else 'RA'} (%)"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def plot_pareto(
    found: Sequence[Point],
    kept: str,
    forgotten: str,
    original: float | None = None,
    before: Sequence[Point] = (),
) -> bytes:
    """One point a method, the frontier as a line, its points in colour.

    Args:
        found: the methods.
        kept, forgotten: titles of the axes.
        original: what the original keeps, a vertical line.
        before: where the methods were before an attack, drawn hollow.
    """
    drawn, (axis,) = figure(WIDTH, max(3.6, 1.2 + LINE * len(found)))
    best = frontier(found)
    corners = _staircase([(point.kept, point.forgotten) for point in best])
    axis.plot(*zip(*corners, strict=True), color=MODEL, linewidth=1.3, zorder=2)
    if original is not None:
        axis.axvline(original, color=BASE, linewidth=1, linestyle=":", zorder=1)
        axis.text(
            original,
            1.01,
            "original",
            transform=axis.get_xaxis_transform(),
            ha="center",
            fontsize=8,
            color="#5b636d",
        )
    earlier = {point.name: point for point in before}
    for point in found:
        colour = MODEL if point in best else "#5b636d"
        if start := earlier.get(point.name):
            axis.plot(
                [start.kept, point.kept],
                [start.forgotten, point.forgotten],
                color=BASE,
                linewidth=0.8,
                zorder=1,
            )
            axis.plot(start.kept, start.forgotten, "o", mfc="white", mec=BASE, ms=6, zorder=2)
        axis.errorbar(
            point.kept,
            point.forgotten,
            point.forgotten_sd or None,
            point.kept_sd or None,
            marker="o",
            color=colour,
            ms=6,
            elinewidth=0.8,
            capsize=2,
            zorder=3,
        )
    axis.margins(0.08)
    axis.set(xlabel=kept, ylabel=plain(forgotten))
    finish(axis, "both")
    _names(axis, [(p.name, p.kept, p.forgotten, MODEL if p in best else "#30363d") for p in found])
    return saved(drawn)


def _staircase(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The border of what some point of the frontier is at least as good as."""
    path = [corners[0]]
    for right, low in corners[1:]:
        path += [(path[-1][0], low), (right, low)]
    return path


def _names(axis: Any, marks: Sequence[tuple[str, float, float, str]]) -> None:
    """Names in a column right of the axes, from top to bottom like their points, with lines."""
    low, high = axis.get_ylim()
    ordered = sorted(marks, key=lambda mark: (-mark[2], -mark[1]))
    wanted = [(mark[2] - low) / (high - low) for mark in ordered]
    step = LINE / (axis.figure.get_figheight() - 0.9)
    for (name, x, y, colour), at in zip(ordered, spread(wanted, step), strict=True):
        axis.annotate(
            plain(name),
            (x, y),
            (GAP, at),
            textcoords="axes fraction",
            va="center",
            fontsize=10,
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": BASE,
                "linewidth": 0.6,
                "shrinkB": 4,
            },
        )


def spread(wanted: Sequence[float], step: float) -> list[float]:
    """Falling heights from 0 to 1 moved apart to at least `step`: down, then up from the floor."""
    placed: list[float] = []
    for height in wanted:
        placed.append(min(height, placed[-1] - step if placed else 1.0))
    floor = 0.0
    for place in reversed(range(len(placed))):
        placed[place] = max(placed[place], floor)
        floor = placed[place] + step
    return placed


def plot_curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> bytes:
    """Rate of the concept by step of fine-tuning, a line a method, means over runs."""
    drawn, (axis,) = figure(WIDTH, max(3.6, 1.2 + LINE * len(curves)))
    marks = []
    for number, (name, pairs) in enumerate(curves.items()):
        steps, rates = zip(*pairs, strict=True)
        is_original = name == "original"
        colour = BASE if is_original else PALETTE[number % len(PALETTE)]
        style = ":" if is_original else DASHES[number // len(PALETTE) % len(DASHES)]
        values = [100 * rate for rate in rates]
        axis.plot(steps, values, style, marker="o", ms=3.5, linewidth=1.5, color=colour)
        marks.append((name, steps[-1], values[-1], "#5b636d" if is_original else colour))
    axis.set(xlabel="steps of fine-tuning", ylabel="images of the concept (%)", ylim=(-2, 102))
    finish(axis, "y")
    _names(axis, marks)
    return saved(drawn)
