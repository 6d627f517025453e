"""The report of attacks: rates before and after, curves, and the attacked images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.errors import InputError
from erase.files import lies_inside, read_json, read_jsonl, write_bytes, write_text
from erase.report.data import change, interval, number, setting, short
from erase.report.evaluation import render_page
from erase.report.figures import BASE, MODEL, figure, finish, plain, saved
from erase.report.image_sections import shown
from erase.report.tables import csv_text, terminal
from erase.runs.record import RECORD
from erase.runs.unfinished import check_finished

PAIRS = 10  # prompts shown of each attack
SIDES = ("model", "baseline")
CSV = (
    *("attack", "group", "side", "n", "before", "before_low", "before_high"),
    *("after", "after_low", "after_high", "change", "change_low", "change_high", "either"),
)
CURVE = ("attack", "group", "side", "step", "value", "low", "high", "n")


@dataclass(frozen=True)
class AttackData:
    """A run of attacks, as its folder holds it."""

    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    folder: Path
    show_explicit: bool = False

    @property
    def model(self) -> str:
        """Name of the model."""
        return short(str(self.metrics["model"]))

    @property
    def baseline(self) -> str:
        """Name of the base model."""
        return short(str(self.metrics["baseline"]))

    def image(self, row: Mapping[str, Any]) -> Path:
        """The model's own image of a row; InputError for a name that leads out of the folder."""
        name = str(row.get("image") or f"before/images/{row['id']}.png")
        if "\0" in name or not lies_inside(self.folder / name, self.folder):
            raise InputError(
                f"samples.jsonl names {name!r}, which lies outside of {self.folder}.",
                "Somebody changed the file or put a link there: a report shows the run's own"
                " images only.",
            )
        return self.folder / name


def load_attack(folder: Path, *, show_explicit: bool = False) -> AttackData:
    """Read a finished run of attacks.

    Raises InputError for a folder whose run is not finished.
    """
    check_finished(folder)
    record, metrics = read_json(folder / RECORD), read_json(folder / "metrics.json")
    rows = read_jsonl(folder / "samples.jsonl")
    return AttackData(record, metrics, rows, folder, show_explicit)


def title_of(entry: Mapping[str, Any]) -> str:
    """An attack's name for people, with the part that a row is about."""
    return f"{entry['attack']} ({entry['group']})" if entry["group"] else str(entry["attack"])


def summary_rows(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of the summary table, one for each part of an attack, as texts."""
    plainly = metrics["before"]
    rows = []
    for entry in metrics["attacks"]:
        row = {"title": title_of(entry), "budget": entry["budget"], "n": str(metrics["n"])}
        for side in SIDES:
            after = entry["after"][side]
            row |= {
                f"{side}_before": number(plainly[side]["value"], "share"),
                f"{side}_after": number(after["value"], "share"),
                f"{side}_interval": interval(after),
                f"{side}_change": _change(entry["change"][side]),
            }
        row["difference"] = _change(entry["after"]["difference"])
        row["half"] = _half(entry)
        rows.append(row)
    return rows


def _change(paired: Mapping[str, Any]) -> str:
    low, high = (change(bound, "share") for bound in paired["ci95"])
    value = change(paired["value"], "share") if paired["value"] else "±0.0 points"
    return f"{value} ({low} to {high})".replace(" points", "", 2)


def _half(entry: Mapping[str, Any]) -> str:
    if "curve" not in entry:
        return ""
    last = entry["curve"]["model"][-1]["step"]
    return f"more than {last} steps" if entry["half"] is None else f"{entry['half']} steps"


def summary_table(metrics: Mapping[str, Any]) -> Any:
    """The summary for a terminal."""
    heads = ("attack", "before", "after", "95% interval", "base: before", "after", "n")
    rows = [
        (
            *(row["title"], row["model_before"], row["model_after"], row["model_interval"]),
            *(row["baseline_before"], row["baseline_after"], row["n"]),
        )
        for row in summary_rows(metrics)
    ]
    return terminal(heads, rows, "lr", f"images of: {', '.join(metrics['concepts'])}")


def write_report(file: Path, data: AttackData) -> None:
    """Write the page, and `plots/` and `tables/` beside it, each file atomically."""
    for name, text in tables(data.metrics).items():
        write_text(file.parent / "tables" / name, text)
    if curves := [entry for entry in data.metrics["attacks"] if "curve" in entry]:
        write_bytes(file.parent / "plots" / "curves.png", plot_curves(curves, data))
    write_text(file, render_page("attack.html.j2", page(data)))


def page(data: AttackData) -> dict[str, Any]:
    """All that the template places, by name."""
    metrics, record = data.metrics, data.record
    return {
        "title": f"{', '.join(metrics['concepts'])}: does {data.model} show it under attack?",
        "model": data.model,
        "baseline": data.baseline,
        "suite": metrics["suite"],
        "lead": lead(data),
        "rows": summary_rows(metrics),
        "curves": [
            {
                "title": title_of(entry),
                "steps": [str(point["step"]) for point in entry["curve"]["model"]],
                "sides": [
                    (name, [number(point["value"], "share") for point in entry["curve"][side]])
                    for side, name in zip(SIDES, (data.model, data.baseline), strict=True)
                ],
                "half": _half(entry),
            }
            for entry in metrics["attacks"]
            if "curve" in entry
        ],
        "sheets": [sheet(data, entry) for entry in metrics["attacks"]],
        "looked": any("detections" in row for row in data.rows),
        "show_explicit": data.show_explicit,
        "settings": [
            (name, setting(values)) for name, values in (record.get("attacks") or {}).items()
        ],
        "protocol": [(name, setting(value)) for name, value in metrics["protocol"].items()],
        "provenance": [
            (name, setting(record[key]))
            for name, key in (
                ("command", "command"),
                ("device", "device"),
                ("precision", "dtype"),
                ("started", "started"),
                ("seconds", "seconds"),
                ("fingerprint", "fingerprint"),
                ("judges", "observers_sha256"),
            )
            if record.get(key) is not None
        ],
        "versions": record.get("versions") or {},
    }


def lead(data: AttackData) -> list[str]:
    """What happened, in sentences that need no statistics."""
    metrics, n = data.metrics, data.metrics["n"]

    def count(summary: Mapping[str, Any]) -> int:
        return round(float(summary["value"]) * int(n))

    plainly = metrics["before"]
    sentences = [
        f"Without an attack {count(plainly['model'])} of {n} images of {data.model} show it;"
        f" {count(plainly['baseline'])} of {n} of {data.baseline}."
    ]
    for entry in metrics["attacks"]:
        after = entry["after"]
        sentences.append(
            f"Under {title_of(entry)}: {count(after['model'])} of {n};"
            f" {data.baseline}: {count(after['baseline'])} of {n}."
        )
    return sentences


def sheet(data: AttackData, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Plain over attacked images of the model, those that show the concept first."""
    plainly = {row["id"]: row for row in data.rows if "attack" not in row and _own(row)}
    best: dict[str, Mapping[str, Any]] = {}
    chosen = entry["stages"][-1:] if "curve" in entry else entry["stages"]
    for row in data.rows:
        if _own(row) and row.get("attack") == entry["attack"] and row["stage"] in chosen:
            best[row["id"]] = row if row["shown"] else best.get(row["id"], row)
    rows = sorted(best.values(), key=lambda row: not row["shown"])[:PAIRS]
    pairs = [
        {
            "prompt": row["prompt"],
            "captioned": True,
            "before": _image(plainly[row["id"]], "plain", data),
            "after": _image(row, "attacked", data),
        }
        for row in rows
    ]
    return {"title": title_of(entry), "pairs": pairs, "total": len(best)}


def _own(row: Mapping[str, Any]) -> bool:
    return bool(row["side"] == "model")


def _image(row: Mapping[str, Any], moment: str, data: AttackData) -> dict[str, Any]:
    return shown(row, data.image(row), moment, True, data)


def plot_curves(entries: Sequence[Mapping[str, Any]], data: AttackData) -> bytes:
    """The rate of the concept by training step, model and base model, with 95% intervals."""
    drawn, axes = figure(4.2 * len(entries), 3.4, len(entries))
    for axis, entry in zip(axes, entries, strict=True):
        for side, name, colour in (
            ("model", data.model, MODEL),
            ("baseline", data.baseline, BASE),
        ):
            points = entry["curve"][side]
            steps = [point["step"] for point in points]
            low, high = zip(*(point["ci95"] for point in points), strict=True)
            axis.plot(
                steps,
                [100 * point["value"] for point in points],
                "o-",
                color=colour,
                label=plain(name),
            )
            axis.fill_between(
                steps, [100 * x for x in low], [100 * x for x in high], color=colour, alpha=0.15
            )
        axis.set_title(plain(title_of(entry)), fontsize=10)
        axis.set(xlabel="steps of fine-tuning", ylabel="images of the concept (%)", ylim=(0, 102))
        finish(axis, "y")
    axes[0].legend(frameon=False, fontsize=9)
    return saved(drawn)


def tables(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The report's tables as CSV text, by file name: shares from 0 to 1."""
    rows, points = [], []
    for entry in metrics["attacks"]:
        for side in SIDES:
            before, after = metrics["before"][side], entry["after"][side]
            changed = entry["change"][side]
            common = {"attack": entry["attack"], "group": entry["group"], "side": side}
            rows.append(
                {
                    **common,
                    "n": metrics["n"],
                    "before": before["value"],
                    "after": after["value"],
                    "change": changed["value"],
                    "either": entry["either"][side]["value"],
                    **_bounds("before", before),
                    **_bounds("after", after),
                    **_bounds("change", changed),
                }
            )
            for point in (entry.get("curve") or {}).get(side, ()):
                low, high = point["ci95"]
                points.append({**common, **point, "low": low, "high": high})
    files = {"attacks.csv": csv_text(CSV, rows)}
    if points:
        files["curves.csv"] = csv_text(CURVE, points)
    return files


def _bounds(name: str, summary: Mapping[str, Any]) -> dict[str, float]:
    low, high = summary["ci95"]
    return {f"{name}_low": low, f"{name}_high": high}
