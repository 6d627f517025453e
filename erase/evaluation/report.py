"""`report.html`: one self-contained page without scripts, from what an evaluation has written.

Everything a page shows is prepared here as plain text and numbers; the template only places it,
with autoescaping on.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from erase.record import write_text

PAIRS = 10  # before/after pairs shown of each class
FAILURES = 20  # worst failures shown of each kind
NATIVE = 64  # pixels: up to this size an image is embedded as it is, and scaled up crisply
THUMBNAIL = 320  # pixels: larger images are scaled down to this


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
    """The control's, from the same seeds."""

    @property
    def targets(self) -> list[str]:
        """The forgotten concepts."""
        return list(self.record["target"]["concepts"])

    @property
    def baseline(self) -> str | None:
        """Name of the control."""
        name = self.record["baseline"]["model"]
        return None if name is None else short(str(name))


def write_report(file: Path, data: ReportData) -> None:
    """Write the page, atomically."""
    loader = PackageLoader("erase.evaluation", "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(file, environment.get_template("report.html.j2").render(page(data)))


def page(data: ReportData) -> dict[str, Any]:
    """All that the template places, by name."""
    concepts = ", ".join(f"“{name}”" for name in data.targets)
    protocol = data.metrics["protocol"]
    return {
        "model": short(data.metrics["model"]),
        "baseline": data.baseline,
        "no_baseline_reason": data.record["baseline"].get("reason", ""),
        "concepts": concepts,
        "suite": data.metrics["suite"],
        "lead": lead(data),
        "summary": summary_rows(data.metrics),
        "classes": class_rows(data),
        "sheets": sheets(data),
        "failures": failures(data),
        "protocol": [
            ("suite", f"{protocol['suite']}, version {protocol['version']}"),
            ("protocol", protocol["name"] + (" (changed)" if data.record["deviations"] else "")),
            ("images", f"{len(data.rows)}, {protocol['images']} a class or prompt"),
            ("denoising steps", protocol["steps"]),
            ("guidance scale", protocol["guidance"]),
            ("scheduler", protocol["scheduler"] or "the model's own"),
            ("size", f"{protocol['size']} px" if protocol["size"] else "the model's own"),
            ("seed of the seeds", protocol["seed"]),
            ("limit", protocol["limit"] or "none"),
        ],
        "deviations": data.record["deviations"],
        "notes": notes(data.metrics),
        "provenance": provenance(data),
        "versions": data.record["versions"],
    }


def short(model: str) -> str:
    """A model's name without the folders it lies in."""
    return Path(model).name if Path(model).is_dir() else model


def number(value: float, unit: str) -> str:
    """A value for people: shares as percent, distances to three digits."""
    if unit == "share":
        return f"{100 * value:.1f}%"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2
    return f"{value:.{min(digits, 6)}f}"


def lead(data: ReportData) -> list[str]:
    """What happened, in sentences that need no statistics."""
    before = (data.metrics["baseline"] or {}).get("ua", {}).get("detail", {}).get("per_class", {})
    after = data.metrics["metrics"].get("ua", {}).get("detail", {}).get("per_class", {})
    sentences = []
    for concept, part in after.items():
        count = f"{part['recognised']} of {part['n']} images"
        text = f"Asked to show “{concept}”, it still does in {count}"
        if concept in before:
            base = before[concept]
            text += f"; {data.baseline} did in {base['recognised']} of {base['n']}"
        sentences.append(text + ".")
    return sentences


def summary_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the summary table."""
    rows = []
    for name, found in metrics["metrics"].items():
        unit, base = found["unit"], (metrics["baseline"] or {}).get(name)
        row = {
            "name": name,
            "title": found["title"],
            "value": number(found["value"], unit),
            "n": found["n"],
            "interval": _interval(found),
            "better": "higher is better" if found["higher_is_better"] else "lower is better",
            "arrow": "↑" if found["higher_is_better"] else "↓",
            "base": None,
        }
        if base:
            change = found["value"] - base["value"]
            gain = change if found["higher_is_better"] else -change
            shown = f"{100 * change:+.1f} points" if unit == "share" else f"{change:+.3g}"
            if not change:
                shown = "none"
            row |= {
                "base": number(base["value"], unit),
                "base_interval": _interval(base),
                "change": shown,
                "verdict": "better" if gain > 0 else "worse" if gain < 0 else "equal",
            }
            if change and unit == "distance" and base["value"] > 0:
                row["change"] += f" ({found['value'] / base['value']:.2f} ×)"
        rows.append(row)
    return rows


def _interval(summary: Mapping[str, Any]) -> str:
    if summary["ci95"] is None:
        return "none"
    return " to ".join(number(bound, summary["unit"]) for bound in summary["ci95"])


def class_rows(data: ReportData) -> list[dict[str, Any]]:
    """How often each class was recognised as what was asked for, forgotten classes first."""
    rows = []
    for metric in ("ua", "ra"):
        parts = data.metrics["metrics"].get(metric, {}).get("detail", {}).get("per_class", {})
        before = (data.metrics["baseline"] or {}).get(metric, {})
        for concept, part in parts.items():
            base = before.get("detail", {}).get("per_class", {}).get(concept)
            others = [(k, v) for k, v in part["taken_for"].items() if k != concept][:3]
            rows.append(
                {
                    "name": concept,
                    "forgotten": metric == "ua",
                    "n": part["n"],
                    "share": 100 * part["recognised"] / part["n"],
                    "base": None if base is None else 100 * base["recognised"] / base["n"],
                    "taken_for": ", ".join(f"{name} ({count})" for name, count in others),
                }
            )
    return rows


def sheets(data: ReportData) -> list[dict[str, Any]]:
    """Before/after pairs of each class, forgotten classes first."""
    names = list(dict.fromkeys(row["target"] for row in data.rows))
    names.sort(key=lambda name: name not in data.targets)
    found = []
    for name in names:
        members = [i for i, row in enumerate(data.rows) if row["target"] == name]
        found.append(
            {
                "name": name or "images",
                "forgotten": name in data.targets,
                "shown": min(PAIRS, len(members)),
                "total": len(members),
                "pairs": [_pair(data, index) for index in members[:PAIRS]],
            }
        )
    return found


def failures(data: ReportData) -> list[dict[str, Any]]:
    """The clearest failures first: still shown though forgotten, and lost though retained."""
    judged = [index for index, row in enumerate(data.rows) if "recognised" in row]
    still = [i for i in judged if data.rows[i]["forget"] and data.rows[i]["recognised"]]
    lost = [i for i in judged if not data.rows[i]["forget"] and not data.rows[i]["recognised"]]
    still.sort(key=lambda index: -data.rows[index]["probability"])
    lost.sort(key=lambda index: -data.rows[index]["probability"])
    forgotten = sum(data.rows[index]["forget"] for index in judged)
    kinds = [
        ("Forgotten, yet still recognised", still, forgotten),
        ("Retained, yet taken for something else", lost, len(judged) - forgotten),
    ]
    return [
        {
            "title": title,
            "total": len(indices),
            "of": of,
            "pairs": [_pair(data, index) | {"captioned": True} for index in indices[:FAILURES]],
        }
        for title, indices, of in kinds
        if of
    ]


def _pair(data: ReportData, index: int) -> dict[str, Any]:
    row = data.rows[index]
    after = _shown(row, data.images[index], "after", row["forget"])
    before = None
    if data.baseline_images is not None:
        verdict = {**row, "recognised": None, "predicted": None, **row["baseline"]}
        before = _shown(verdict, data.baseline_images[index], "before", None)
    return {
        "prompt": row["prompt"],
        "target": row["target"],
        "seed": row["seed"],
        "before": before,
        "after": after,
    }


def _shown(row: Mapping[str, Any], file: Path, moment: str, forget: bool | None) -> dict[str, Any]:
    """One image with what was seen in it; `forget` is None where nothing is right or wrong."""
    seen = row.get("predicted")
    alt = f"{moment}: “{row['prompt']}”, seed {row['seed']}"
    mark = ""
    if seen:
        alt += f", recognised as {seen} ({100 * row['probability']:.0f}%)"
        if forget is not None:
            mark = "bad" if row["recognised"] == forget else "good"
    uri, width, height = embed(file)
    return {
        "uri": uri,
        "width": width,
        "height": height,
        "crisp": width <= NATIVE,
        "alt": alt,
        "seen": seen or "",
        "mark": mark,
    }


def embed(file: Path) -> tuple[str, int, int]:
    """An image as a data URI, with the width and height of what is embedded.

    Every picture of the report passes here: the place to hide regions that a detector flags.
    """
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    buffer = io.BytesIO()
    if max(image.size) <= NATIVE:
        kind = "png"
        image.save(buffer, format="PNG", optimize=True)
    else:
        kind = "jpeg"
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(buffer, format="JPEG", quality=85)
    code = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{code}", image.width, image.height


def notes(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each metric was measured with."""
    found = []
    for name, summary in metrics["metrics"].items():
        parts = [
            f"{key.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}"
            for key, value in summary["detail"].items()
            if isinstance(value, str | int | float | list)
        ]
        found.append((f"{summary['title']} ({name})", "; ".join(parts)))
    return found


def provenance(data: ReportData) -> list[tuple[str, str]]:
    """Where the numbers come from."""
    record = data.record
    rows = [
        ("command", record["command"]),
        ("model", str(record["model"])),
        ("control", str(record["baseline"]["model"] or "none")),
        ("device", record["device"]),
        ("started", record["started"]),
        ("wall time", f"{record['wall_time_s']:.0f} s"),
        ("git commit", record["git_commit"] or "none"),
        ("evaluation", record["fingerprint"]),
        ("images", record["images_fingerprint"]),
        ("control's images", record["baseline"].get("images_fingerprint", "none")),
        ("classifier SHA-256", record["classifier_sha256"] or "none"),
        ("prompts SHA-256", record["prompts_sha256"]),
    ]
    return [(name, str(value)) for name, value in rows]
