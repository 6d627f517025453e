"""The figures of a classifier comparison: cosine of the gradients by step, gap over α."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from erase.comparison.entries import slug
from erase.config.values import parse_line
from erase.files import read_jsonl, write_bytes
from erase.report.figures import figure, saved

HEIGHT, WIDTH = 3.6, 5.0
"""Inches of a figure, and of each of its axes."""
COSINES = {"cosine_penultimate": "last convolution", "cosine": "all parameters"}
AUTO = "lur@alpha=auto"
"""LUR whose α is set from the curvature, with the other settings of `lur`."""
OWN_FIXED = "lur+fixed"
"""LUR at the paper's α, with settings of its own."""
JOINT = "lur@alpha=0.0"
"""With α = 0 LUR is LUR-b: the one that has all of LUR's other settings."""


class Cosines(TypedDict, total=False):
    """What the rows of a log may say."""

    cosine_penultimate: float
    cosine: float


def sweep_alpha(label: str) -> float | None:
    """α of an entry that is LUR with α alone fixed to a number; None for any other entry."""
    line = parse_line(label)
    if (line.method, line.variants, set(line.settings)) != ("lur", (), {"alpha"}):
        return None
    return None if label == AUTO else float(line.settings["alpha"])


def cosines(folder: Path, labels: Sequence[str], trials: int) -> dict[str, dict[str, list[float]]]:
    """Cosine of ∇L_r and ∇L_f by step, mean over trials, of LUR at each α and LUR-b, by layer."""
    curves: dict[str, dict[str, list[float]]] = {}
    for label in labels:
        if label not in ("lur", "lur-b", AUTO, OWN_FIXED) and sweep_alpha(label) is None:
            continue
        files = [folder / f"trial-{t}" / f"{slug(label)}.jsonl" for t in range(trials)]
        logs: list[Any] = [read_jsonl(file, Cosines) for file in files]
        for name in COSINES:
            values = [[row[name] for row in rows if name in row] for rows in logs]
            if all(values):
                mean = [statistics.fmean(at) for at in zip(*values, strict=False)]
                curves.setdefault(label, {})[name] = mean
    return curves


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
    others = [label for label in (AUTO, OWN_FIXED) if label in curves]
    labels = [JOINT if JOINT in curves else "lur-b", "lur", *others, *largest]
    titles = {"lur": "LUR", "lur-b": "LUR-b, its own settings", JOINT: "LUR-b (α = 0)"}
    titles |= {AUTO: "LUR, α auto", OWN_FIXED: "LUR, α = 0.01, its own settings"}
    drawn, axes = figure(2 * WIDTH, HEIGHT, 2)
    for axis, (name, title) in zip(axes, COSINES.items(), strict=True):
        for number, label in enumerate(labels):
            values = curves[label].get(name, [])
            shown = titles.get(label, f"LUR, α = {sweep.get(label)}")
            smooth = running_mean(values, max(1, len(values) // 10))
            axis.plot(range(1, len(values) + 1), smooth, f"C{number}", label=shown)
        axis.axhline(0, color="grey", linewidth=0.5)
        axis.set(title=title, xlabel="step", ylabel="cosine of ∇L_r and ∇L_f")
        axis.legend(fontsize="small")
    write_bytes(folder / "cosine.png", saved(drawn, dpi=80))
    return True


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last `width` values (fewer at first) at each place."""
    return [
        statistics.fmean(values[max(0, end - width) : end]) for end in range(1, len(values) + 1)
    ]


def plot_alpha(folder: Path, table: Mapping[str, Mapping[str, Any]]) -> bool:
    """Figure 5 from the entries `lur@alpha=…`; False when fewer than two have α > 0.

    α = 0, which is LUR-b, and α auto become horizontal lines.
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
    drawn, (axis,) = figure(WIDTH, HEIGHT)
    bars = None if None in deviations else deviations  # one trial has no deviation
    axis.errorbar(alphas, means, bars, marker="o", capsize=3, label="LUR")
    if points[0][0] == 0:
        axis.axhline(points[0][1], color="grey", linestyle="--", label="α = 0 (LUR-b)")
    if "gap" in table.get(AUTO, {}):
        axis.axhline(table[AUTO]["gap"][0], color="C1", linestyle=":", label="α auto")
    axis.set(xscale="log", xlabel="α", ylabel="Avg. Gap (percentage points)")
    axis.legend()
    write_bytes(folder / "alpha.png", saved(drawn, dpi=90))
    return True
