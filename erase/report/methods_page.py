"""The page of a comparison of methods: tables, figures and settings in one file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.files import write_text
from erase.report.data import setting
from erase.report.evaluation import render_page
from erase.report.tables import Cell, Rows, cells

PAGE = "report.html"


@dataclass(frozen=True)
class Section:
    """A table of the page."""

    title: str
    heads: Sequence[str]
    rows: Rows

    def content(self) -> dict[str, Any]:
        """What the template places."""
        rows: list[list[Cell]] = [cells(row) for row in self.rows]
        return {"title": self.title, "heads": list(self.heads), "rows": rows}


def write_methods_page(
    path: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    settings: Mapping[str, Any],
    figures: Mapping[str, Path] | None = None,
    about: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page.

    Args:
        path: of the file.
        title, lead: of the page, as text.
        sections: tables.
        settings: of the comparison, by name; those that are not set are left out.
        figures: PNG files by their titles; one that is not there is left out.
        about: what the columns of the tables are, by their heads.
    """
    pictures = [
        {"title": name, "uri": f"data:image/png;base64,{base64.b64encode(data).decode()}"}
        for name, file in (figures or {}).items()
        if file.is_file() and (data := file.read_bytes())
    ]
    content = {
        "title": title,
        "lead": lead,
        "tables": [section.content() for section in sections],
        "figures": pictures,
        "about": list(about),
        "settings": [row for name, value in settings.items() for row in _settings(name, value)],
    }
    write_text(path, render_page("methods.html.j2", content))


def _settings(name: str, value: Any) -> list[tuple[str, str]]:
    """Rows for a setting: one, or one a method where it holds several methods' settings."""
    if isinstance(value, Mapping):
        return [(f"{name}: {key}", setting(item)) for key, item in value.items()]
    return [] if value is None else [(name, setting(value))]
