"""Tables as Markdown, in a terminal and as CSV, for all reports, comparisons and model cards."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase.errors import visible

if TYPE_CHECKING:
    from rich.table import Table

MARKS = ("", "**", "*")
"""Markdown around a cell of no place, the best and the second best."""
STYLES = ("", "bold green", "bold")
"""The same in a terminal."""
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula."""
MISSING = "–"
"""What a cell says where there is no number."""


@dataclass(frozen=True)
class Cell:
    """A cell's text, its place in the ranking (1 the best, 2 the second best, 0 none) and a note.

    The note, an interval for example, stands behind the text and is never marked.
    """

    text: str
    place: int = 0
    note: str = ""


Rows = Sequence[Sequence[Cell | str]]


def markdown(heads: Sequence[str], rows: Rows, align: str = "l") -> str:
    """A Markdown table with the best cells bold and the second best in italics.

    Args:
        heads: titles of the columns.
        rows: as many cells each; a text is a cell without a place.
        align: `l` or `r` for each column; the last letter serves for all that follow.
    """
    rules = "".join("---:|" if side == "r" else "---|" for side in _sides(align, len(heads)))
    lines = [f"| {' | '.join(map(escaped, heads))} |", f"|{rules}"]
    for row in rows:
        texts = [
            f"{MARKS[cell.place]}{escaped(cell.text)}{MARKS[cell.place]}{cell.note}"
            for cell in cells(row)
        ]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def terminal(heads: Sequence[str], rows: Rows, align: str = "l", title: str | None = None) -> Table:
    """The same table for rich: best cells bold green, second best bold.

    A deviation (`97.21 ± 0.15`) stays in one piece, below its mean where 80 columns are too few.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown_title = Text(visible(title), "table.title") if title else None
    table = Table(title=shown_title, box=SIMPLE_HEAD, pad_edge=False)
    for head, side in zip(heads, _sides(align, len(heads)), strict=True):
        table.add_column(
            Text(visible(head)), justify="right" if side == "r" else "left", overflow="fold"
        )
    for row in rows:
        shown = cells(row)
        texts = (visible(cell.text.replace("± ", "±") + cell.note) for cell in shown)
        table.add_row(*map(Text, texts, (STYLES[cell.place] for cell in shown)))
    return table


def _sides(align: str, count: int) -> str:
    return align.ljust(count, align[-1])


def cells(row: Sequence[Cell | str]) -> list[Cell]:
    """A row's cells; a text is a cell without a place."""
    return [Cell(cell) if isinstance(cell, str) else cell for cell in row]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, link, tag, cell or comment."""
    text = visible(text)
    for character in "\\|<>`*_":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("](", "]\\(").split())


def code(text: str) -> str:
    """Text as code in Markdown, on one line; what would end it is replaced."""
    text = visible(text).replace("`", "'").replace("|", "/").replace("<!--", "<! --")
    return f"`{' '.join(text.split()) or ' '}`"


def csv_cell(value: Any) -> Any:
    """A value for a cell of CSV: a spreadsheet takes no text for a formula.

    A text that begins like one gets an apostrophe before it, as spreadsheets mark texts.
    """
    if not isinstance(value, str):
        return "" if value is None else value
    text = visible(value)
    if not value.lstrip().startswith(FORMULA) and not value.startswith(("\t", "\n")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a line of column names; missing and None values are empty cells.

    Every cell passes `csv_cell`.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    for row in rows:
        writer.writerow([csv_cell(row.get(name)) for name in columns])
    return file.getvalue()
