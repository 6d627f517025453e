"""What attacks brought back, by method: rates after each, and how soon fine-tuning restores half.

A rate is over all prompts of all requests and trials, with Wilson's interval; trials attack the
same prompts, so that the interval of several is too narrow by what they have in common.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from erase.comparison.diffusion_columns import Rows, by_request, over_trials, places
from erase.report.data import interval
from erase.report.tables import MISSING, Cell
from erase.scoring.results import rate

PLAIN = "plainly"


def attack_lines(rows: Rows) -> list[dict[str, Any]]:
    """A line for the original and one a method: by attack, the share of prompts shown after it.

    Each is a summary with `sd` over trials; of a curve also `steps` with the rates, and `half`, the
    median over runs of the steps to half of the original's rate, None for more than the last.
    A method with an attack that failed has `failed`. Empty without attacks.
    """
    attacked = [row for row in rows if "attacked" in row]
    if not attacked:
        return []
    sound = [row for row in attacked if "failed" not in row["attacked"]]
    lines = [_line("original", by_request(sound), "original")] if sound else []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        broken = [r for r in mine if "failed" in r or "failed" in r.get("attacked", {})]
        lines.append(
            {"method": method, "failed": len(broken)} if broken else _line(method, mine, "model")
        )
    return lines


def _line(method: str, rows: Rows, side: str) -> dict[str, Any]:
    titles = dict.fromkeys(title for row in rows for title in row["attacked"]["attacks"])
    shown: dict[str, dict[str, Any]] = {PLAIN: _pooled(rows, PLAIN, side)}
    for title in titles:
        shown[title] = _pooled(rows, title, side)
        entries = [row["attacked"]["attacks"][title] for row in rows]
        curves = [entry["curve"] for entry in entries if "curve" in entry]
        if curves:
            points = [curve["model" if side == "model" else "baseline"] for curve in curves]
            shown[title] |= {"steps": _mean_curve(points)}
        if curves and side == "model":
            halves = [math.inf if e["half"] is None else e["half"] for e in entries]
            half = statistics.median(halves)
            shown[title]["half"] = half if math.isfinite(half) else None
    return {"method": method, "shown": shown}


def _rates(row: Mapping[str, Any], title: str, side: str) -> Mapping[str, Any]:
    attacked = row["attacked"]
    found: Mapping[str, Any] = (
        attacked["plain"] if title == PLAIN else attacked["attacks"][title]
    )[side]
    return found


def _pooled(rows: Rows, title: str, side: str) -> dict[str, Any]:
    rates = [_rates(row, title, side) for row in rows]
    n = sum(each["n"] for each in rates)
    count = round(sum(each["value"] * each["n"] for each in rates))
    summary = rate(title, count, n, higher_is_better=False).to_json()
    _, sd = over_trials(rows, lambda row: float(_rates(row, title, side)["value"]))
    return {**{key: summary[key] for key in ("value", "n", "ci95", "unit")}, "sd": sd}


def _mean_curve(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[float]]:
    """Pairs of a step and the mean rate after it."""
    steps = [point["step"] for point in curves[0]]
    values = zip(*([p["value"] for p in curve] for curve in curves), strict=True)
    return [[step, statistics.fmean(at)] for step, at in zip(steps, values, strict=True)]


def attack_table(lines: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Cell | str]]]:
    """Heads and rows of the table: the least shown after an attack is the best."""
    titles = list(dict.fromkeys(t for line in lines for t in line.get("shown", {})))
    curves = [
        t for t in titles if any("half" in line.get("shown", {}).get(t, {}) for line in lines)
    ]
    heads = ["method", f"shown {PLAIN} %"]
    for title in titles[1:]:
        heads += [f"after {title} %", *(["steps to half"] if title in curves else [])]
    placed = {title: _places(lines, title) for title in titles[1:]}
    rows: list[list[Cell | str]] = []
    for line in lines:
        if "shown" not in line:
            rows.append([line["method"], *[Cell(MISSING)] * (len(heads) - 1)])
            continue
        row: list[Cell | str] = [line["method"]]
        for title in titles:
            summary = line["shown"].get(title)
            if summary is None:
                row += [Cell(MISSING)] * (2 if title in curves else 1)
                continue
            spread = f" ± {100 * summary['sd']:.1f}" if summary["sd"] is not None else ""
            note = f" ({interval(summary)})".replace("%", "")
            place = placed.get(title, {}).get(line["method"], 0)
            row.append(Cell(f"{100 * summary['value']:.1f}{spread}", place, note))
            if title in curves:
                row.append(Cell(half_text(summary)))
        rows.append(row)
    return heads, rows


def half_text(summary: Mapping[str, Any]) -> str:
    """Steps to half of the original's rate, as the table says it."""
    if "half" not in summary:
        return MISSING
    last = summary["steps"][-1][0]
    return f"> {last:g}" if summary["half"] is None else f"{summary['half']:g}"


def _places(lines: Sequence[Mapping[str, Any]], title: str) -> dict[str, int]:
    shown = {
        line["method"]: round(100 * line["shown"][title]["value"], 1)
        for line in lines
        if line["method"] != "original" and title in line.get("shown", {})
    }
    return places(shown, more_is_better=False)
