"""Icons of the same objects drawn by several designers, and pictures made of them.

They are read from a folder of the user, for they do not come with the project: either sheets (an
`index.json` with the objects in order, and a WebP or PNG for each style), or the npm packages that
`prompts/emoji.yaml` names (each with an `icons.json` of SVG bodies; needs resvg-py).
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from erase.data.emoji import Item, Style, Vocabulary
from erase.errors import InputError
from erase.files import read_json

TILE = 128  # pixels a side of an icon that is drawn from its SVG
DRAWN = 512  # pixels a side at which the SVG is drawn, before it is made smaller
INK = "#222"  # what `currentColor` stands for
SHARE = 0.84  # side of an icon as a share of the picture's
SHEETS = (".webp", ".png")


class _Index(msgspec.Struct, frozen=True):
    """`index.json` beside the sheets: their tiles, row by row."""

    size: int
    grid: tuple[int, int]
    objects: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Icons:
    """Icons on their own: `tiles` is `[objects, styles, 4, P, P]`, red, green, blue, alpha.

    Values are in [0, 1], colours already multiplied by alpha. Labels are those of the vocabulary.
    """

    tiles: Tensor

    def to(self, device: str | torch.device, size: int) -> Icons:
        """The icons on a device, at twice the resolution of pictures of `size` pixels a side."""
        flat = self.tiles.flatten(0, 1)
        if flat.shape[-1] != 2 * size:
            shape = (2 * size, 2 * size)
            flat = F.interpolate(flat, shape, mode="bilinear", antialias=True, align_corners=False)
        return Icons(flat.unflatten(0, self.tiles.shape[:2]).to(device))

    def compose(
        self,
        objects: Tensor,
        styles: Tensor,
        backgrounds: Tensor,
        draws: torch.Generator,
        *,
        shift: float = 0.03,
        scale: float = 0.05,
        degrees: float = 0.0,
    ) -> Tensor:
        """Put icons on plain backgrounds: pictures `[B, 3, P / 2, P / 2]` in [-1, 1].

        Args:
            objects, styles: labels `[B]`, on the icons' device.
            backgrounds: colours `[B, 3]` in [-1, 1], on the icons' device.
            draws: on the icons' device; draws the changes.
            shift: largest move either way, as a share of the side.
            scale: largest relative change of size either way.
            degrees: largest rotation either way.
        """
        tiles = self.tiles[objects, styles]
        count, side = len(tiles), tiles.shape[-1]
        change = torch.rand(4, count, generator=draws, device=tiles.device) * 2.0 - 1.0
        zoom = (1.0 + scale * change[0]) / SHARE
        angle = change[3] * (degrees * torch.pi / 180.0)
        move = 2.0 * shift * change[1:3] * zoom
        rows = [
            torch.stack([angle.cos() * zoom, -angle.sin() * zoom, move[0]], 1),
            torch.stack([angle.sin() * zoom, angle.cos() * zoom, move[1]], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), [count, 4, side, side], align_corners=False)
        placed = F.avg_pool2d(F.grid_sample(tiles, grid, align_corners=False), 2)
        colour, alpha = placed[:, :3], placed[:, 3:]
        paper = backgrounds[:, :, None, None]
        return (2.0 * colour - alpha + (1.0 - alpha) * paper).clamp(-1.0, 1.0)


def background_colours(vocabulary: Vocabulary, device: str | torch.device = "cpu") -> Tensor:
    """The vocabulary's colours `[colours, 3]` in [-1, 1]."""
    levels = torch.tensor([colour.levels for colour in vocabulary.colours], device=device)
    return levels / 127.5 - 1.0


def read_icons(folder: Path, vocabulary: Vocabulary) -> Icons:
    """Read the vocabulary's icons from sheets or from npm packages, whichever the folder holds.

    Raises InputError when it holds neither, or lacks an object or a style.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.", "Give the folder of the icons: --data-dir.")
    if (folder / "index.json").is_file():
        tiles = [_read_sheet(folder, style, vocabulary) for style in vocabulary.styles]
    else:
        paths = [_find_package(folder, style) for style in vocabulary.styles]
        tiles = [_draw_package(path, vocabulary) for path in paths]
    return Icons(torch.stack(tiles, 1))


def _read_sheet(folder: Path, style: Style, vocabulary: Vocabulary) -> Tensor:
    """The icons of one style `[objects, 4, P, P]` from its sheet."""
    index = _read_index(folder / "index.json")
    places = {item.get("name"): place for place, item in enumerate(index.objects)}
    files = [folder / f"{style.name}{suffix}" for suffix in SHEETS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(f"{folder} has no sheet {files[0].name}.", "Add it beside index.json.")
    if lacking := [name for name in vocabulary.names("object") if name not in places]:
        raise InputError(f"{folder / 'index.json'} has no {lacking[0]!r}.", "Use another folder.")
    columns, rows = index.grid
    wanted = (columns * index.size, rows * index.size)
    try:
        with Image.open(file) as image:
            if image.size != wanted:
                raise InputError(
                    f"{file} has {image.width} x {image.height} pixels, not {wanted[0]} x"
                    f" {wanted[1]} as index.json says.",
                    "Make the sheet again.",
                )
            sheet = _premultiplied(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read: {error}", "Make the sheet again.") from None
    found = [places[name] for name in vocabulary.names("object")]
    if max(found) >= columns * rows:
        raise InputError(f"{folder / 'index.json'} lists more than its grid.", "Correct it.")
    parts = sheet.unfold(1, index.size, index.size).unfold(2, index.size, index.size)
    return torch.stack([parts[:, place // columns, place % columns] for place in found])


def _read_index(path: Path) -> _Index:
    index = read_json(path, _Index)
    if not 8 <= index.size <= 1024 or not all(1 <= side <= 64 for side in index.grid):
        raise InputError(f"{path} describes no sheets of usual size.", "Correct it.")
    return index


def _find_package(folder: Path, style: Style) -> Path:
    """The `icons.json` of a style's npm package, under any of the usual places."""
    name = style.package.rpartition("/")[2]
    tries = (
        folder / style.package,
        folder / "node_modules" / style.package,
        folder / name,
        folder / name / "package",
    )
    for place in tries:
        if (place / "icons.json").is_file():
            return place / "icons.json"
    raise InputError(
        f"{folder} holds neither sheets (index.json) nor the npm package {style.package}.",
        f"Put it there: npm install --prefix {folder} {style.package}@{style.version}",
    )


def _draw_package(path: Path, vocabulary: Vocabulary) -> Tensor:
    """The icons of one style `[objects, 4, TILE, TILE]`, drawn from an icon set's SVG bodies."""
    if importlib.util.find_spec("resvg_py") is None:
        raise InputError(
            f"Icons are drawn from {path.name} by resvg-py, which is not installed.",
            "Install it: pip install resvg-py; or give a folder of sheets.",
        )
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("icons"), dict):
        raise InputError(f"{path} is no icon set: it has no `icons`.", "Install the package again.")
    return torch.stack([_draw(path, content, item) for item in vocabulary.objects])


def _draw(path: Path, content: dict[str, Any], item: Item) -> Tensor:
    import resvg_py  # type: ignore[import-not-found,unused-ignore]

    name = item.icon or item.name
    icon = content["icons"].get(name)
    if not isinstance(icon, dict) or not isinstance(icon.get("body"), str):
        raise InputError(f"{path} has no icon {name!r}.", "Install the version of emoji.yaml.")
    left, top, width, height = (
        icon.get(key, content.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    body = icon["body"].replace("currentColor", INK)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{body}</svg>'
    )
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN, height=DRAWN)
    with Image.open(io.BytesIO(bytes(drawn))) as image:
        small = image.convert("RGBA").resize((TILE, TILE), Image.Resampling.LANCZOS)
    return _premultiplied(small)


def _premultiplied(image: Image.Image) -> Tensor:
    """An image as `[4, H, W]` in [0, 1], its colours multiplied by its alpha."""
    values = torch.from_numpy(np.asarray(image.convert("RGBA")).copy()).float() / 255.0
    values = values.permute(2, 0, 1)
    return torch.cat([values[:3] * values[3:], values[3:]])
