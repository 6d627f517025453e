"""`before_after.png`: the same captions and seeds before and after forgetting, in one picture."""

from __future__ import annotations

from PIL import Image

from erase.report.contact_sheet import headed_sheet, png, stacked
from erase.report.data import ReportData
from erase.report.image_sections import evenly
from erase.report.pictures import picture

COLUMNS = 8  # images of forgotten concepts, and as many of others
SIDE = 128  # pixels at most of an image; small ones are scaled up by whole numbers
FONT, LINES, LABEL = 12, 4, 50  # pixels of the font; lines of a caption; pixels of a row's name


def before_after(data: ReportData) -> bytes | None:
    """Figures 4B and 8: a row of the baseline's images over a row of the model's, same seeds.

    Images of forgotten concepts first, then others, neighbours of what was forgotten first; all
    below their captions, and hidden as on the page. Classes and the images of each are gone through
    evenly, whatever they show. None without an image.
    """
    sheets, titles = [], []
    for forget in (True, False):
        chosen = chosen_samples(data, forget=forget)
        rows = [[_shown(data, i, baseline=True) for i in chosen]] if data.baseline_images else []
        rows.append([_shown(data, i, baseline=False) for i in chosen])
        sizes = [image.size for row in rows for image in row if image]
        if not sizes:
            continue
        names = ("before", "after")[-len(rows) :] if data.baseline_images else ("",)
        heads = [str(data.rows[i]["prompt"]) for i in chosen]
        longest = max(sizes[0])
        cell = max(1, SIDE // longest) * longest if longest <= SIDE else SIDE
        sheet = headed_sheet(
            rows, names, heads, cell=cell, font_size=FONT, lines=LINES, label=LABEL
        )
        sheets.append(sheet)
        titles.append(_title(data, forget=forget))
    return png(stacked(sheets, titles)) if sheets else None


def _title(data: ReportData, *, forget: bool) -> str:
    """What a block of the picture shows; the first one names the models too."""
    models = f"before: {data.baseline}, after: {data.model}" if data.baseline else data.model
    if not data.targets:
        return models
    return f"forgotten: {', '.join(data.targets)} ({models})" if forget else "kept"


def _shown(data: ReportData, index: int, *, baseline: bool) -> Image.Image | None:
    """An image of a sample as a report may show it."""
    files = data.baseline_images if baseline else data.images
    row = data.rows[index]
    seen = row.get("baseline") if baseline else row
    return picture((files or ())[index], seen, show_explicit=data.show_explicit)[0]


def chosen_samples(data: ReportData, *, forget: bool) -> list[int]:
    """Places of up to `COLUMNS` samples, evenly over classes and over the samples of each."""
    members: dict[str, list[int]] = {}
    for index, row in enumerate(data.rows):
        if bool(row.get("forget")) == forget:
            members.setdefault(str(row.get("target", "")), []).append(index)
    near = (data.metrics["metrics"].get("neighbours") or {}).get("detail", {}).get("parts") or {}
    names = sorted(members, key=lambda name: name not in near)[:COLUMNS]
    chosen: list[int] = []
    for place, name in enumerate(names):
        count = len(range(place, COLUMNS, len(names)))
        own = members[name]
        start = place * len(own) // (len(names) * count)  # not every class from the same place
        chosen += evenly(own[start:], count)
    return chosen
