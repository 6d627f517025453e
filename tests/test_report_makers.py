"""The makers that all reports share: one table in three forms, contact sheets, figures."""

import csv
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from erase.report.contact_sheet import GAP, LINE, contact_sheet, headed_sheet, png
from erase.report.figures import figure, saved
from erase.report.tables import Cell, Rows, csv_text, escaped, markdown, terminal

HEADS = ("method", "UA", "FID")
ROWS: Rows = [
    ("lur", Cell("98.0", 1), Cell("3.1", 2, " (3.0 to 3.2)")),
    ("[esd]", Cell("97.0", 2), Cell("2.9", 1)),
    ("uce", "–", "–"),
]


def test_markdown_marks_places_and_leaves_notes_alone() -> None:
    assert markdown(HEADS, ROWS, "lr").splitlines() == [
        "| method | UA | FID |",
        "|---|---:|---:|",
        "| lur | **98.0** | *3.1* (3.0 to 3.2) |",
        "| [esd] | *97.0* | **2.9** |",
        "| uce | – | – |",
    ]
    assert markdown(HEADS, []).splitlines()[1] == "|---|---|---|"


def test_a_terminal_shows_the_same_cells_and_reads_no_markup_in_them() -> None:
    file = io.StringIO()
    Console(file=file, width=80).print(terminal(HEADS, ROWS, "lr", "a title"))
    text = file.getvalue()
    assert "a title" in text
    for words in ("98.0", "3.1 (3.0 to 3.2)", "[esd]"):
        assert words in text
    assert "**" not in text


def test_a_row_of_another_length_is_no_row() -> None:
    with pytest.raises(ValueError, match="zip"):
        terminal(HEADS, ROWS, "lrrrr")


def test_csv_and_markdown_survive_what_names_contain() -> None:
    rows: list[dict[str, Any]] = [{"a": 'x,"y"\n', "b": None}, {"b": 0.1}]
    assert list(csv.DictReader(io.StringIO(csv_text(("a", "b"), rows)))) == [
        {"a": 'x,"y"\n', "b": ""},
        {"a": "", "b": "0.1"},
    ]
    assert escaped("a|b\n<c> *d*") == r"a\|b \<c\> \*d\*"


def test_sheets_place_every_image_and_cross_out_the_missing() -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    sheet = np.asarray(contact_sheet([[red, None], [blue, red]], ["one", "two"], cell=16))
    assert sheet.shape == (2 * (LINE + 16 + GAP), GAP + 2 * (16 + GAP), 3)
    assert (sheet[LINE : LINE + 16, GAP : GAP + 16] == (255, 0, 0)).all()
    missing = sheet[LINE : LINE + 16, 2 * GAP + 16 : 2 * GAP + 32]
    assert {tuple(pixel) for pixel in missing.reshape(-1, 3)} == {(255,) * 3, (128,) * 3}
    headed = headed_sheet([[red, blue]], ["step 0"], ["a", "b"], cell=32)
    assert np.asarray(headed)[-5, -5].tolist() == [0, 0, 255]


def test_the_same_picture_is_the_same_file() -> None:
    drawn = [figure(2, 1) for _ in range(2)]
    files = [saved(made, dpi=50) for made, _ in drawn]
    assert files[0] == files[1]
    with Image.open(io.BytesIO(files[0])) as image:
        assert image.size == (100, 50)
    plain = Image.new("RGB", (4, 4))
    assert png(plain) == png(plain)
