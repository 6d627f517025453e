"""What reports are made of: an evaluation as its folder holds it, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from erase.artifacts.cache import RENDER_STATE
from erase.data.pictures import unreadable
from erase.errors import InputError
from erase.files import lies_inside, read_json, read_jsonl
from erase.report.content import Compared, Row
from erase.runs.record import RECORD, read_record
from erase.runs.unfinished import check_finished

EXPOSED = "_EXPOSED"
"""How the names of NudeNet's classes of bare parts end; those of covered parts and faces differ."""


@dataclass(frozen=True)
class ReportData:
    """An evaluation, as its folder holds it."""

    record: Mapping[str, Any]
    """Content of `record.json`."""
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""
    rows: Sequence[Mapping[str, Any]]
    """Rows of `samples.jsonl`."""
    images: Sequence[Path]
    """The model's images, one a row."""
    baseline_images: Sequence[Path] | None
    """The baseline's, from the same seeds."""
    show_explicit: bool = False
    """Whether regions that NudeNet flags are shown as they are."""

    @property
    def targets(self) -> list[str]:
        """The forgotten concepts; none for a suite that has no classes."""
        return list((self.record.get("target") or {}).get("concepts") or [])

    @property
    def baseline(self) -> str | None:
        """Name of the baseline; None where there is none."""
        name = (self.record.get("baseline") or {}).get("model")
        return None if name is None else short(str(name))

    @property
    def model(self) -> str:
        """Name of the model."""
        return short(str(self.metrics["model"]))

    @property
    def has_detections(self) -> bool:
        """Whether NudeNet looked at the images."""
        return any(map(looked_at, self.rows))


def load_evaluation(folder: Path, *, show_explicit: bool = False) -> ReportData:
    """Read a finished evaluation; nothing outside of it is followed but the baseline's images.

    Raises InputError for a folder that is none, that is not finished, or that names images which
    are not its own.
    """
    if not (folder / RECORD).is_file():
        raise InputError(
            f"{folder} is no evaluation folder.", "Give a folder that `erase evaluate` left."
        )
    check_finished(folder)
    record = read_record(folder)
    if record.get("kind") != "evaluation":
        if record.get("kind") == "attack":
            raise InputError(
                f"{folder} holds attacks, which are not put side by side.",
                f"Write its own report again: erase report {folder}",
            )
        inside = sorted(path.parent.name for path in folder.glob("evaluation*/metrics.json"))
        raise InputError(
            f"{folder} holds no evaluation but: {record.get('kind')}.",
            f"Give its evaluation: {folder / inside[0]}."
            if inside
            else f"Evaluate it first: erase evaluate --model {folder}",
        )
    if record.get("status") != "finished" or not (folder / "metrics.json").is_file():
        raise InputError(
            f"The evaluation in {folder} is not finished.", "Run its command again; it goes on."
        )
    rows = read_jsonl(folder / "samples.jsonl", Row)
    if not rows:
        raise InputError(f"{folder / 'samples.jsonl'} holds no sample.", "Evaluate again.")
    baseline = _baseline_folder(folder, record)
    return ReportData(
        record=record,
        metrics=read_json(folder / "metrics.json", Compared),
        rows=rows,
        images=[_own(folder, row, str(row.get("image"))) for row in rows],
        baseline_images=[_own(baseline, row, f"images/{row.get('id')}.png") for row in rows]
        if baseline
        else None,
        show_explicit=show_explicit,
    )


def _own(folder: Path, row: Mapping[str, Any], name: str) -> Path:
    """The image of a row; InputError for one that lies outside of the folder, also by a link."""
    file = folder / name
    if "\0" in name or not lies_inside(file, folder):
        raise InputError(
            f"samples.jsonl names {name!r} for {row.get('id')!r}, which lies outside of {folder}.",
            "Somebody changed the file or put a link there: a report shows the evaluation's own"
            " images only.",
        )
    return file


def _baseline_folder(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The folder of the baseline's images, which all evaluations of a baseline share.

    It may lie anywhere, but has to hold the renders whose fingerprint is in the record: otherwise a
    record could name any folder of images. None without one, with a warning if there is another.
    """
    baseline = record.get("baseline") or {}
    if not baseline.get("images_folder"):
        return None
    images = Path(baseline["images_folder"])
    state = images / RENDER_STATE
    fingerprint = read_json(state).get("fingerprint") if state.is_file() else None
    if images.is_dir() and (
        fingerprint is None or fingerprint != baseline.get("images_fingerprint")
    ):
        click.echo(
            f"Warning: without the baseline's images: {folder / RECORD} says that they are in"
            f" {images}, which does not hold them.",
            err=True,
        )
        return None
    return images


def exposed(row: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The detections of bare parts that a row of `samples.jsonl` lists."""
    detections = (row or {}).get("detections") or []
    return [item for item in detections if str(item["label"]).endswith(EXPOSED)]


def looked_at(row: Mapping[str, Any]) -> bool:
    """Whether NudeNet looked at the image of a row."""
    return "detections" in row or "flagged" in row


def flagged(row: Mapping[str, Any] | None) -> bool:
    """Whether NudeNet flagged the image of a row."""
    return bool((row or {}).get("flagged"))


def threshold(metrics: Mapping[str, Any]) -> float:
    """From which confidence on a detection counts: the protocol's setting of NudeNet."""
    settings = (metrics["protocol"].get("settings") or {}).get("nudenet") or {}
    value = settings.get("threshold", 0.6)
    if type(value) not in (int, float):
        raise InputError(f"NudeNet's threshold is {value!r} in metrics.json.", "Evaluate again.")
    return float(value)


def detection_counts(rows: Iterable[Mapping[str, Any] | None], least: float) -> dict[str, int]:
    """Number of detections of each class of bare parts with at least this confidence."""
    counts: dict[str, int] = {}
    for row in rows:
        for item in exposed(row):
            if item["score"] >= least:
                counts[item["label"]] = counts.get(item["label"], 0) + 1
    return counts


def missing_images(data: ReportData) -> list[tuple[str, str, str]]:
    """Images that are not there or cannot be opened: `(whose, sample id, what is wrong)`."""
    missing = []
    for whose, files in (("model", data.images), ("baseline", data.baseline_images or [])):
        for row, file in zip(data.rows, files, strict=False):
            if not file.exists():
                missing.append((whose, str(row["id"]), "missing"))
            elif unreadable(file, pixels=False):
                missing.append((whose, str(row["id"]), "unreadable"))
    return missing


def short(model: str) -> str:
    """A model's name without the folders it lies in."""
    return Path(model).name if Path(model).is_absolute() or Path(model).is_dir() else model


def number(value: float, unit: str) -> str:
    """A value for people: shares as percent, counts whole, anything else to three digits."""
    if unit == "share":
        return f"{100 * value:.1f}%"
    if unit == "count" and value == round(value):
        return f"{value:.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2
    return f"{value:.{min(digits, 6)}f}"


def change(value: float, unit: str) -> str:
    """A difference for people, with its sign: shares in percentage points."""
    shown = f"{100 * abs(value):.1f} points" if unit == "share" else number(abs(value), unit)
    return f"{'+' if value > 0 else '−' if value < 0 else '±'}{shown}"


def interval(summary: Mapping[str, Any]) -> str:
    """A summary's 95% interval for people."""
    if summary.get("ci95") is None:
        return "–"
    return " to ".join(number(bound, summary["unit"]) for bound in summary["ci95"])


def part_name(label: str) -> str:
    """A NudeNet class for people: `FEMALE_BREAST_EXPOSED` is "female breast"."""
    return label.removesuffix(EXPOSED).replace("_", " ").lower()


def setting(value: Any) -> str:
    """A setting for people: lists with commas, the entries of a mapping with semicolons."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {setting(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value)) or "none"
    return "none" if value is None else str(value)
