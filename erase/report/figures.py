"""What all figures share: a matplotlib figure without a window, colours, axes, the PNG file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

MODEL, BASE = "#2f5fb3", "#a3abb5"
PALETTE = ("#2f5fb3", "#c2571a", "#14713a", "#7b4bb0", "#8a6d00", "#b3261e", "#1a7f8c", "#5b636d")


def plain(text: str) -> str:
    """Text as matplotlib draws it literally: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def figure(width: float, height: float, columns: int = 1) -> tuple[Any, Sequence[Any]]:
    """A matplotlib figure in inches that needs no window system, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(1, columns, squeeze=False)[0]


def saved(drawn: Any, dpi: int = 150) -> bytes:
    """The figure as a PNG file, without a date in it."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def finish(axis: Any, grid: str) -> None:
    """A light grid along one axis (`x` or `y`), and no frame above and on the right."""
    axis.grid(axis=grid, color="#dfe1e4", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
