"""The pictures that reports show: small, and with explicit regions made unrecognisable."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from erase.data.pictures import read_picture
from erase.errors import InputError
from erase.report.data import exposed, flagged

NATIVE = 64  # pixels: up to this size an image is embedded as it is, and scaled up crisply
THUMBNAIL = 256  # pixels: larger images are scaled down to this
BLOCKS = 6  # blocks along the longer side of a hidden region: too few to make anything out
MARGIN = 0.1  # share of a box's longer side by which the hidden region is larger


def pixelate(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """A copy in which a region is replaced by the mean colours of a few large blocks.

    Args:
        image: RGB.
        box: left, top, width, height in pixels; it is widened by a margin and cut to the image. A
            box that does not touch the image at all cannot be right: then all of it is hidden.
    """
    left, top, width, height = box
    margin = MARGIN * max(width, height, 0)
    x0, y0 = max(0, math.floor(left - margin)), max(0, math.floor(top - margin))
    x1 = min(image.width, math.ceil(left + width + margin))
    y1 = min(image.height, math.ceil(top + height + margin))
    if not all(map(math.isfinite, box)) or width <= 0 or height <= 0 or x1 <= x0 or y1 <= y0:
        x0, y0, x1, y1 = 0, 0, *image.size
    region = image.crop((x0, y0, x1, y1))
    block = max(region.size) / BLOCKS
    few = tuple(max(1, math.floor(side / block)) for side in region.size)
    coarse = region.resize((few[0], few[1]), Image.Resampling.BOX)
    hidden = image.copy()
    hidden.paste(coarse.resize(region.size, Image.Resampling.NEAREST), (x0, y0))
    return hidden


def hide(image: Image.Image, row: Mapping[str, Any] | None) -> tuple[Image.Image, bool]:
    """An image without what NudeNet flagged in it, and whether anything was hidden.

    Every detection of a bare part is hidden, those below the counting threshold too. A flagged
    image whose boxes are missing or broken is hidden as a whole.
    """
    boxes = [item.get("box") for item in exposed(row)]
    if not boxes and not flagged(row):
        return image, False
    whole = (0.0, 0.0, float(image.width), float(image.height))
    if not boxes or any(box is None or len(box) != 4 for box in boxes):
        return pixelate(image, whole), True
    for box in boxes:
        left, top, width, height = (float(value) for value in box or whole)
        image = pixelate(image, (left, top, width, height))
    return image, True


def picture(
    file: Path, row: Mapping[str, Any] | None = None, *, show_explicit: bool = False
) -> tuple[Image.Image | None, bool]:
    """The image of a row as a report may show it, scaled down, and whether parts are hidden.

    None for a file that is missing or cannot be read. Every picture of a report passes here.
    """
    try:
        image = read_picture(file)  # upright, as NudeNet sees it, whose boxes these are
    except InputError:
        return None, False
    hidden = False
    if not show_explicit:
        image, hidden = hide(image, row)
    if max(image.size) > NATIVE:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image, hidden


def embed(
    file: Path, row: Mapping[str, Any] | None = None, *, show_explicit: bool = False
) -> dict[str, Any]:
    """An image for a page: `uri` (data URI, empty when unreadable), `width` and `height`.

    `crisp` says that it is to be scaled up without smoothing, `hidden` that parts are pixelated.
    """
    image, hidden = picture(file, row, show_explicit=show_explicit)
    if image is None:
        return {"uri": "", "width": 1, "height": 1, "crisp": False, "hidden": False}
    buffer = io.BytesIO()
    small = max(image.size) <= NATIVE
    if small:
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="JPEG", quality=82)
    code = base64.b64encode(buffer.getvalue()).decode()
    return {
        "uri": f"data:image/{'png' if small else 'jpeg'};base64,{code}",
        "width": image.width,
        "height": image.height,
        "crisp": small,
        "hidden": hidden,
    }
