"""A few words of mini-emoji, and sheets of icons drawn here: what its training needs, in small."""

from pathlib import Path

from PIL import Image, ImageDraw

from erase.data.emoji import Vocabulary, read_vocabulary
from erase.embedded.mini_emoji_model import Design
from erase.embedded.mini_emoji_stages import Recipe
from erase.files import write_json

TILE = 16
COLUMNS = 8
DESIGN = Design(
    size=16,
    vae_widths=(16, 16),
    latent_channels=4,
    unet_widths=(16, 32),
    heads=2,
    text_width=16,
    text_layers=1,
)
RECIPE = Recipe(
    vae_steps=3, vae_batch=4, judge_steps=2, judge_batch=8, steps=4, batch=4, copies=1, ema=0.9
)


def few_words() -> Vocabulary:
    """The first objects, styles and colours of the project's vocabulary."""
    return read_vocabulary().first(3, 2, 2)


def draw_sheets(folder: Path, vocabulary: Vocabulary) -> Path:
    """Write sheets with a shape for every object, in a colour for every style."""
    folder.mkdir(parents=True, exist_ok=True)
    names = vocabulary.names("object")
    rows = -(-len(names) // COLUMNS)
    for number, style in enumerate(vocabulary.names("style")):
        sheet = Image.new("RGBA", (COLUMNS * TILE, rows * TILE))
        pen = ImageDraw.Draw(sheet)
        ink = (40 * number, 200 - 30 * number, 90, 255)
        for place in range(len(names)):
            left, top = TILE * (place % COLUMNS), TILE * (place // COLUMNS)
            box = (left + 2, top + 2, left + TILE - 3, top + TILE - 3 - place % 7)
            (pen.ellipse if place % 2 else pen.rectangle)(box, fill=ink)
        sheet.save(folder / f"{style}.webp", lossless=True)
    index = {"size": TILE, "grid": [COLUMNS, rows], "objects": [{"name": name} for name in names]}
    write_json(folder / "index.json", index)
    return folder
