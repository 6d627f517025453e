"""Contact sheets: images in a grid on white, with names, for reports and validation renders."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from erase.report.pictures import NATIVE

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rows = Sequence[Sequence[Image.Image | None]]
GAP, LINE = 6, 24
"""Pixels between cells, and of a line with the name of the row below it."""
HEADED_GAP, LABEL, HEADER = 4, 96, 48
"""Pixels between cells of a sheet with heads, of the names left of its rows, and of two lines of
heads."""


def contact_sheet(rows: Rows, names: Sequence[str], *, cell: int = 128) -> Image.Image:
    """A sheet on which each row stands under its name; `None` is drawn as a crossed cell.

    Images of at most 64 pixels are scaled up without smoothing.

    Args:
        rows: of images, each as long as the first.
        names: of the rows.
        cell: side of an image's square in pixels.
    """
    font = ImageFont.load_default(16)
    pitch = LINE + cell + GAP
    size = (GAP + len(rows[0]) * (cell + GAP), len(names) * pitch)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(zip(names, rows, strict=True)):
        draw.text((GAP, row * pitch + 2), drawable(name), fill="black", font=font)
        for column, image in enumerate(images):
            corner = (GAP + column * (cell + GAP), LINE + row * pitch)
            _paste(sheet, image, corner, (cell, cell), crisp=NATIVE)
    return sheet


def headed_sheet(
    rows: Rows,
    names: Sequence[str],
    heads: Sequence[str],
    *,
    cell: int = 256,
    font_size: int = 14,
    lines: int = 2,
    label: int = LABEL,
) -> Image.Image:
    """A sheet with a head above each column, and names left of the rows.

    Images smaller than a cell are scaled up without smoothing.

    Args:
        rows: of images of one size, each as long as the first.
        names: of the rows.
        heads: of the columns; cut short after `lines` lines.
        cell: longest side of an image on the sheet in pixels.
        font_size: of heads and names in pixels.
        label: width of the names in pixels.
    """
    font = ImageFont.load_default(font_size)
    header = HEADER + (lines - 2) * (font_size + 4)
    width, height = next(image.size for images in rows for image in images if image)
    scale = cell / max(width, height)
    box = round(width * scale), round(height * scale)
    across, down = box[0] + HEADED_GAP, box[1] + HEADED_GAP
    size = (label + len(heads) * across, header + len(rows) * down)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        text = _wrapped(drawable(head), box[0], lines, draw, font)
        draw.text((label + column * across, 6), text, fill="black", font=font)
    for row, (name, images) in enumerate(zip(names, rows, strict=True)):
        top = header + row * down
        draw.text((6, top + 6), drawable(name), fill="black", font=font)
        for column, image in enumerate(images):
            _paste(sheet, image, (label + column * across, top), box, crisp=cell - 1)
    return sheet


def stacked(sheets: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Sheets one above the other, each below its title."""
    font = ImageFont.load_default(16)
    width = max(sheet.width for sheet in sheets)
    whole = Image.new("RGB", (width, sum(LINE + sheet.height for sheet in sheets)), "white")
    draw, top = ImageDraw.Draw(whole), 0
    for sheet, title in zip(sheets, titles, strict=True):
        draw.text((GAP, top + 4), drawable(title), fill="black", font=font)
        whole.paste(sheet, (0, top + LINE))
        top += LINE + sheet.height
    return whole


def drawable(text: str) -> str:
    """Text with question marks for what the font does not have."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _paste(
    sheet: Image.Image,
    image: Image.Image | None,
    corner: tuple[int, int],
    box: tuple[int, int],
    *,
    crisp: int,
) -> None:
    """Put an image into the middle of a box; up to `crisp` pixels a side it is not smoothed."""
    if image is None:
        far = (corner[0] + box[0] - 1, corner[1] + box[1] - 1)
        draw = ImageDraw.Draw(sheet)
        draw.rectangle((*corner, *far), outline="grey")
        draw.line((*corner, *far), fill="grey")
        return
    scale = max(box) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = max(image.size) <= crisp
    kind = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    place = (corner[0] + (box[0] - size[0]) // 2, corner[1] + (box[1] - size[1]) // 2)
    sheet.paste(image.resize(size, kind), place)


def _wrapped(text: str, width: int, most: int, draw: ImageDraw.ImageDraw, font: Font) -> str:
    """The text in at most `most` lines of `width` pixels, cut short with an ellipsis."""
    lines: list[str] = []
    rest = text.split() or [""]
    while rest and len(lines) < most:
        count = len(rest)
        while count > 1 and draw.textlength(" ".join(rest[:count]), font=font) > width:
            count -= 1
        lines.append(" ".join(rest[:count]))
        rest = rest[count:]
    if rest:
        lines[-1] += " …"
    while draw.textlength(lines[-1], font=font) > width and len(lines[-1]) > 2:
        lines[-1] = lines[-1][:-2].rstrip(" …") + "…"
    return "\n".join(lines)


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
