"""`report.html`: one self-contained page without scripts, made from an evaluation's files.

This module prepares everything a page shows as plain text and numbers; the templates place it,
with autoescaping on. Beside the page go its tables as CSV (`tables/`) and its figures as PNG
(`plots/`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from erase.errors import visible
from erase.files import write_bytes, write_text
from erase.report.before_after import before_after
from erase.report.data import (
    ReportData,
    flagged,
    looked_at,
    missing_images,
    setting,
    threshold,
)
from erase.report.image_sections import failures, sheets
from erase.report.plots import plot_classes, plot_detections
from erase.report.rows import class_rows, detection_rows, difference, summary_rows, tables

LISTED = 50  # missing images named on the page


def write_report(file: Path, data: ReportData) -> None:
    """Write the page, and `plots/` and `tables/` beside it, each file atomically."""
    for folder in ("plots", "tables"):  # no figure of an earlier report stays behind
        shutil.rmtree(file.parent / folder, ignore_errors=True)
    for name, text in tables(data).items():
        write_text(file.parent / "tables" / name, text)
    for name, content in plots(data).items():
        write_bytes(file.parent / "plots" / name, content)
    write_text(file, render_page("report.html.j2", page(data)))


def render_page(template: str, content: Mapping[str, Any]) -> str:
    """A template of `templates/` filled in, every text escaped."""
    environment = Environment(
        loader=PackageLoader("erase.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    return environment.get_template(template).render(content)


def page(data: ReportData) -> dict[str, Any]:
    """All that the template places, by name."""
    lost = missing_images(data)
    return {
        "title": title(data),
        "model": data.model,
        "baseline": data.baseline,
        "no_baseline_reason": (data.record.get("baseline") or {}).get("reason", ""),
        "suite": data.metrics["suite"],
        "lead": lead(data),
        "summary": summary_rows(data.metrics),
        "classes": class_rows(data),
        "detections": detection_rows(data),
        "threshold": threshold(data.metrics),
        "looked": data.has_detections,
        "show_explicit": data.show_explicit,
        "missing": lost[:LISTED],
        "missing_count": len(lost),
        "image_count": len(data.images) + len(data.baseline_images or []),
        "sheets": sheets(data),
        "failures": failures(data),
        "protocol": protocol_rows(data),
        "deviations": {
            name: [setting(value) for value in change]
            for name, change in (data.record.get("deviations") or {}).items()
        },
        "notes": notes(data.metrics),
        "provenance": provenance(data),
        "versions": data.record.get("versions") or {},
    }


def title(data: ReportData) -> str:
    """The page's heading."""
    concepts = ", ".join(f"“{name}”" for name in data.targets)
    if concepts:
        return f"{concepts} erased from {data.baseline or 'a model'}: {data.model}"
    against = f", compared with {data.baseline}" if data.baseline else ""
    return f"What {data.model} renders{against}"


def lead(data: ReportData) -> list[str]:
    """What happened, in sentences that need no statistics."""
    sentences = []
    for row in class_rows(data):
        if not row["forgotten"]:
            continue
        when = f" (forgotten by request {row['request']})" if row["request"] else ""
        text = f"Asked to show “{row['name']}”{when}, it still does in {row['recognised']} of"
        text += f" {row['n']} images"
        if row["base_recognised"] is not None:
            text += f"; {data.baseline} did in {row['base_recognised']} of {row['n']}"
        sentences.append(text + ".")
    if data.has_detections:
        looked = [row for row in data.rows if looked_at(row)]
        text = f"NudeNet flags {sum(map(flagged, looked))} of {len(looked)} images"
        if data.baseline is not None:
            before = sum(flagged(row.get("baseline")) for row in looked)
            text += f"; of {data.baseline}'s, {before}"
        sentences.append(text + ".")
    return sentences


def protocol_rows(data: ReportData) -> list[tuple[str, str]]:
    """The settings that decide what was measured."""
    protocol = data.metrics["protocol"]
    rows = [
        ("suite", f"{protocol['suite']}, version {protocol['version']}"),
        ("protocol", protocol["name"] + (" (changed)" if data.record.get("deviations") else "")),
        ("source", protocol.get("source") or ""),
        ("images", f"{len(data.rows)}, {protocol['images']} a class or prompt"),
        ("denoising steps", protocol["steps"]),
        ("guidance scale", protocol["guidance"]),
        ("scheduler", protocol["scheduler"] or "the model's own"),
        ("size", f"{protocol['size']} px" if protocol["size"] else "the model's own"),
        ("precision", data.record.get("dtype", "fp32")),
        ("seed of the seeds", protocol["seed"]),
        ("limit", protocol["limit"] or "none"),
        ("metrics", ", ".join(protocol["metrics"])),
        ("classifier", protocol.get("classifier") or ""),
    ]
    rows += [
        (f"{metric}: {key.replace('_', ' ')}", setting(value))
        for metric, settings in (protocol.get("settings") or {}).items()
        for key, value in settings.items()
    ]
    return [(name, str(value)) for name, value in rows if value != ""]


def notes(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each metric was measured with."""
    rows = []
    for name, summary in metrics["metrics"].items():
        parts = [
            f"{key.replace('_', ' ')}: {setting(value)}"
            for key, value in summary["detail"].items()
            if isinstance(value, str | int | float | list)
        ]
        paired = difference(metrics, name)
        if paired and paired.get("method"):
            parts.append(f"difference: {paired['method']}, {paired['n']} pairs")
        rows.append((f"{summary['title']} ({name})", "; ".join(parts)))
    return rows


def provenance(data: ReportData) -> list[tuple[str, str]]:
    """Where the numbers come from."""
    record = data.record
    baseline = record.get("baseline") or {}
    rows = [
        ("command", record.get("command")),
        ("model", record.get("model")),
        ("baseline", baseline.get("model") or "none"),
        ("device", record.get("device")),
        ("processes", record.get("processes", 1)),
        ("started", record.get("started")),
        ("wall time", f"{record.get('wall_time_s', 0):.0f} s"),
        ("git commit", record.get("git_commit") or "none"),
        ("evaluation", record.get("fingerprint")),
        ("images", record.get("images_fingerprint")),
        ("baseline's images", baseline.get("images_fingerprint", "none")),
        *(
            (f"{name} SHA-256", digest)
            for name, digest in (record.get("observers_sha256") or {}).items()
        ),
        ("reference", record.get("reference") and setting(record["reference"])),
        ("prompts SHA-256", record.get("prompts_sha256")),
    ]
    unusable = record.get("prompts_unusable") or {}
    if unusable.get("n"):
        rows.append(("prompt rows not used", f"{unusable['n']}: {setting(unusable.get('rows'))}"))
    return [(name, str(value)) for name, value in rows if value is not None]


def plots(data: ReportData) -> dict[str, bytes]:
    """The report's figures as PNG files, by name."""
    figures = {}
    if detections := detection_rows(data):
        figures["detections.png"] = plot_detections(detections, data.model, data.baseline)
    if classes := class_rows(data):
        figures["classes.png"] = plot_classes(classes, data.model, data.baseline)
    if images := before_after(data):
        figures["before_after.png"] = images
    return figures
