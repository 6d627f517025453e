"""The image sections of a report: before/after pairs of each class, and the worst failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from erase.report.data import ReportData, exposed, flagged, looked_at, part_name
from erase.report.pictures import embed
from erase.scoring.samples import things


class Page(Protocol):
    """A report's data, as far as a single image needs it."""

    @property
    def show_explicit(self) -> bool:
        """Whether regions that NudeNet flags are shown as they are."""


Order = Callable[[Mapping[str, Any]], float]
PAIRS = 10  # before/after pairs shown of each class; more classes get fewer, forgotten ones do not
CAPTIONED = 8  # pairs shown of each forgotten class, with their captions
ALONE = 20  # pairs shown of a suite without classes
ALL_PAIRS = 120  # pairs shown in all, however many classes there are
FAILURES = 20  # worst failures shown of each kind
CHANGED = 10  # images shown that changed most, by metrics that know no right or wrong


def sheets(data: ReportData) -> list[dict[str, Any]]:
    """Before/after pairs of each class, forgotten classes first; `ALL_PAIRS` at most of others."""
    members: dict[str, list[int]] = {}
    for index, row in enumerate(data.rows):
        members.setdefault(_name(row, data.targets), []).append(index)
    names = sorted(members, key=lambda name: name not in data.targets)
    each = ALONE if len(names) == 1 else max(1, min(PAIRS, ALL_PAIRS // len(names)))
    return [_sheet(data, name, members[name], each) for name in names[:ALL_PAIRS]]


def _sheet(data: ReportData, name: str, own: Sequence[int], most: int) -> dict[str, Any]:
    """Pairs of one class, evenly from all of its samples; with captions if it was forgotten."""
    forgotten = name in data.targets
    chosen = evenly(own, CAPTIONED if forgotten else most)
    return {
        "name": name or "Images",
        "forgotten": forgotten,
        "total": len(own),
        "width": "full" if forgotten or most > 5 else "half" if most > 3 else "third",
        "pairs": [pair(data, i) | {"captioned": forgotten or not name} for i in chosen],
    }


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most so many of the items, evenly from first to last."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _name(row: Mapping[str, Any], targets: Sequence[str]) -> str:
    """What an image is shown under: a forgotten thing or pair that it asks for, else its target."""
    target = str(row.get("target") or "")
    asked = things(target, row.get("asks") or {})
    return next((name for name in targets if name in asked), target)


def failures(data: ReportData) -> list[dict[str, Any]]:
    """The clearest failures first, of every kind that the metrics can tell."""
    return [*_recognition(data), *_other_words(data), *_nudity(data), *_changes(data)]


def _recognition(data: ReportData) -> list[dict[str, Any]]:
    """Still shown though forgotten, and lost though retained; the surest verdicts first."""
    judged = [index for index, row in enumerate(data.rows) if "recognised" in row]
    still = [i for i in judged if data.rows[i]["forget"] and data.rows[i]["recognised"]]
    lost = [i for i in judged if not data.rows[i]["forget"] and not data.rows[i]["recognised"]]
    forgotten = sum(bool(data.rows[index]["forget"]) for index in judged)
    sure = "Sorted by how sure the classifier is."
    kinds = (
        ("Forgotten, yet still recognised", still, forgotten),
        ("Retained, yet taken for something else", lost, len(judged) - forgotten),
    )
    return [
        _kind(data, name, sure, indices, of, lambda row: -row.get("probability", 0.0))
        for name, indices, of in kinds
        if of
    ]


def _other_words(data: ReportData) -> list[dict[str, Any]]:
    """Forgotten things that are shown when they are called by other words."""
    asked = [i for i, row in enumerate(data.rows) if "paraphrases" in row]
    still = [i for i in asked if not data.rows[i]["paraphrases"]]
    title, note = "Forgotten, yet shown when called by other words", "In the suite's order."
    return [_kind(data, title, note, still, len(asked), lambda _: 0.0)] if asked else []


def _nudity(data: ReportData) -> list[dict[str, Any]]:
    looked = [i for i, row in enumerate(data.rows) if looked_at(row)]
    if not looked:
        return []
    marked = [index for index in looked if flagged(data.rows[index])]
    note = "Sorted by the detector's confidence. It does err: look before you count."
    return [_kind(data, "Flagged by NudeNet", note, marked, len(looked), lambda r: -_surest(r))]


def _surest(row: Mapping[str, Any]) -> float:
    return max((float(item["score"]) for item in exposed(row)), default=1.0)


def _changes(data: ReportData) -> list[dict[str, Any]]:
    """Images of other concepts that moved furthest, where a metric tells how far."""
    retained = [i for i, row in enumerate(data.rows) if not row.get("forget")]
    drift = "Furthest from the baseline's image of the same seed by LPIPS; no failure by itself."
    look = "Furthest from it to the classifier, by its features; no failure by itself."
    fit = "Furthest below the baseline by CLIP score; no failure by itself."
    if data.baseline is None:
        fit = "Lowest CLIP score; no failure by itself."
    kinds: tuple[tuple[str, str, str, Order], ...] = (
        ("lpips", "Changed most", drift, lambda row: -row["lpips"]),
        ("drift", "Changed most to the classifier", look, lambda row: -row["drift"]),
        ("clip", "Least like the caption", fit, _clip_gain),
    )
    return [
        _kind(data, title, note, measured, len(retained), order, ranking=True)
        for metric, title, note, order in kinds
        if (measured := [i for i in retained if data.rows[i].get(metric) is not None])
    ]


def _clip_gain(row: Mapping[str, Any]) -> float:
    before = (row.get("baseline") or {}).get("clip") or 0.0
    return float(row["clip"]) - float(before)


def _kind(
    data: ReportData,
    name: str,
    note: str,
    indices: Sequence[int],
    of: int,
    order: Order,
    *,
    ranking: bool = False,
) -> dict[str, Any]:
    """One kind of failure, the first by `order` first; a `ranking` holds no failures."""
    indices = sorted(indices, key=lambda index: order(data.rows[index]))
    if ranking:
        indices = indices[:CHANGED]
    return {
        "title": name,
        "note": note,
        "total": len(indices),
        "of": of,
        "ranking": ranking,
        "pairs": [pair(data, index) | {"captioned": True} for index in indices[:FAILURES]],
    }


def pair(data: ReportData, index: int) -> dict[str, Any]:
    """The baseline's and the model's image of one sample."""
    row = data.rows[index]
    before = None
    if data.baseline_images is not None:
        base = row.get("baseline") or {}
        common = {k: row[k] for k in ("id", "prompt", "seed", "target") if k in row}
        before = shown({**common, **base}, data.baseline_images[index], "before", None, data)
    return {
        "prompt": row["prompt"],
        "target": row.get("target", ""),
        "seed": row["seed"],
        "captioned": False,
        "before": before,
        "after": shown(row, data.images[index], "after", bool(row.get("forget")), data),
    }


def shown(
    row: Mapping[str, Any], file: Path, moment: str, forget: bool | None, data: Page
) -> dict[str, Any]:
    """One image with what was seen in it; `forget` is None where nothing is right or wrong."""
    image = embed(file, row, show_explicit=data.show_explicit)
    alt = f"{moment}: “{row['prompt']}”, seed {row['seed']}"
    seen, mark = "", ""
    if not image["uri"]:
        alt += ", image missing or unreadable"
    if row.get("predicted"):
        seen = str(row["predicted"])
        alt += f", recognised as {seen} ({100 * row.get('probability', 0.0):.0f}%)"
        if forget is not None:
            mark = "bad" if row.get("recognised") == forget else "good"
    elif "paraphrases" in row:
        seen = "not recognised" if row["paraphrases"] else "recognised"
        mark = "" if forget is None else "good" if row["paraphrases"] else "bad"
        alt += f", {seen}"
    elif flagged(row):
        best = max(exposed(row), key=lambda item: item["score"], default=None)
        seen = "flagged" if best is None else f"{part_name(best['label'])} {best['score']:.2f}"
        mark = "bad" if forget is not None else ""
    elif "flagged" in row and forget is not None:
        mark = "good"
        seen = "not flagged"
    if flagged(row):
        alt += ", flagged by NudeNet"
    if image["hidden"]:
        alt += ", flagged regions pixelated"
    return {**image, "alt": alt, "seen": seen, "mark": mark, "detail": _detail(row)}


def _detail(row: Mapping[str, Any]) -> str:
    known = (("lpips", "LPIPS {:.2f}"), ("clip", "CLIP {:.1f}"))
    return ", ".join(text.format(row[key]) for key, text in known if row.get(key) is not None)
