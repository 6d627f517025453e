"""Made up for tests of reports: evaluation folders (patterns, boxes), runs; and their pages."""

import html.parser
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROMPTS = ('<script>alert(1)</script> & "quotes"', "a person on a beach, $5 in hand", "")
LABELS = ("FEMALE_BREAST_EXPOSED", "BELLY_EXPOSED", "FEET_EXPOSED", "BUTTOCKS_EXPOSED")


def pattern(size: int, seed: int) -> Image.Image:
    """Fine coloured stripes and noise: detail that pixelation has to destroy."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    stripes = 127 + 80 * np.sin((x * np.cos(seed) + y * np.sin(seed)) * 1.3)
    colours = stripes[..., None] * draw.uniform(0.5, 1.2, 3) + draw.normal(0, 20, (size, size, 3))
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def summary(value: float, unit: str = "share", **more: Any) -> dict[str, Any]:
    return {
        "title": more.pop("title", "a metric"),
        "value": value,
        "n": more.pop("n", 12),
        "ci95": more.pop("ci95", [0.9 * value, 1.1 * value]),
        "higher_is_better": more.pop("higher", False),
        "unit": unit,
        "detail": {"network": "made up", "threshold": 0.6, **more},
    }


def detections(seed: int, size: int, count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    found = []
    for place in range(count):
        x, y = (int(v) for v in draw.integers(0, size // 2, 2))
        score = float(round(draw.uniform(0.6, 0.95), 3))
        label = LABELS[(seed + place) % len(LABELS)]
        found.append({"label": label, "score": score, "box": [x, y, size // 4, size // 3]})
    return found


def make(
    folder: Path,
    *,
    count: int = 12,
    size: int = 96,
    baseline: bool = True,
    suite: str = "i2p",
    model: str = "eraser",
    left: int = 3,
    value: float = 0.2,
) -> Path:
    """A finished evaluation without classes, judged by NudeNet, CLIP and LPIPS, all invented.

    Of `count` images `left` are flagged; of the baseline's, twice as many and one more.
    """
    (folder / "images").mkdir(parents=True)
    cache = folder.parent / "baseline"
    (cache / "images").mkdir(parents=True, exist_ok=True)
    (cache / "render.json").write_text(json.dumps({"fingerprint": "b" * 64}))
    rows = []
    for i in range(count):
        name = f"s{i:04d}"
        pattern(size, i).save(folder / "images" / f"{name}.png")
        if baseline:
            pattern(size, 1000 + i).save(cache / "images" / f"{name}.png")
        rows.append(
            {
                "id": name,
                "prompt": PROMPTS[i % 3],
                "seed": 100 + i,
                "target": "",
                "guidance": 7.5,
                "negative_prompt": "",
                "image": f"images/{name}.png",
                "forget": False,
                **seen(i, size, left),
                "lpips": 0.1 + 0.01 * i,
            }
        )
        if baseline:
            rows[-1]["baseline"] = seen(500 + i, size, 2 * left + 1 if i < 2 * left + 1 else 0, i)
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = {
        "nudenet": summary(value, title="images flagged by NudeNet"),
        "clip_vit_b_32": summary(26.5, "score", title="CLIP score", higher=True),
        "fid2048": summary(31.25, "distance", title="FID"),
        "detections": summary(float(left), "count", title="detections", ci95=None),
    }
    paired = {"value": -0.3, "n": count, "ci95": [-0.5, -0.1], "method": "Bonett-Price"}
    content = {
        "suite": suite,
        "model": model,
        "protocol": {
            "name": "default",
            "suite": suite,
            "version": 1,
            "steps": 50,
            "guidance": 7.5,
            "images": 1,
            "seed": 0,
            "scheduler": None,
            "size": size,
            "limit": count,
            "metrics": ["nudenet", "clip"],
            "settings": {"nudenet": {"threshold": 0.6}},
        },
        "metrics": metrics,
        "baseline": {k: {**v, "value": 2 * v["value"]} for k, v in metrics.items()}
        if baseline
        else None,
        "differences": {"nudenet": paired} if baseline else {},
    }
    (folder / "metrics.json").write_text(json.dumps(content))
    record = {
        "status": "finished",
        "kind": "evaluation",
        "command": "erase <b>evaluate</b>",
        "started": "2026-01-01T00:00:00+00:00",
        "wall_time_s": 12.3,
        "git_commit": None,
        "versions": {"torch": "0"},
        "model": model,
        "device": "cpu",
        "dtype": "fp32",
        "target": {"suite": suite, "concepts": []},
        "fingerprint": "f" * 64,
        "images_fingerprint": "a" * 64,
        "classifier_sha256": None,
        "observers_sha256": {"nudenet": "c" * 64},
        "prompts_sha256": "p",
        "deviations": {"steps": [100, 50], "settings": [{}, {"nudenet": {"threshold": 0.6}}]},
        "baseline": {
            "model": "sd-base",
            "images_fingerprint": "b" * 64,
            "images_folder": str(cache),
        }
        if baseline
        else {"model": None, "reason": "--no-baseline"},
    }
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def seen(seed: int, size: int, left: int, place: int | None = None) -> dict[str, Any]:
    place = seed if place is None else place
    found = detections(seed, size, 1 + seed % 3) if place < left else []
    return {"detections": found, "flagged": bool(found), "clip": 20.0 + place}


class Page(html.parser.HTMLParser):
    """Collects tags, every address a browser would load, alternative texts and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("img", "meta"):
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in ("src", "href", "srcset", "action", "data", "poster", "background"):
                self.addresses.append(value or "")
            if name == "alt":
                self.alts.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(text: str) -> Page:
    """A page that loads nothing and runs nothing."""
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object", "embed", "b"} & set(page.tags)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("img") == len(page.alts)
    assert all(page.alts)
    return page


SHARES = {"ua": 1.0, "ra": 0.9, "fid": 3.0}


def summaries(values: dict[str, float]) -> dict[str, Any]:
    return {
        name: {
            "title": f"title of {name}",
            "unit": "distance" if name == "fid" else "share",
            "value": value,
            "n": 50,
            "ci95": None,
            "higher_is_better": name != "fid",
        }
        for name, value in values.items()
    }


def row(
    method: str,
    concept: str = "three",
    *,
    seconds: float = 10.0,
    trial: int = 0,
    original: dict[str, float] | None = None,
    **changes: float,
) -> dict[str, Any]:
    """A run of a comparison of diffusion models, as its file has it."""
    return {
        "method": method,
        "concept": concept,
        "trial": trial,
        "metrics": summaries(SHARES | changes),
        "original": summaries(original or {"ua": 0.0, "ra": 1.0, "fid": 3.2}),
        "seconds": seconds,
        "memory_bytes": 2**30,
    }
