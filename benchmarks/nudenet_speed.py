"""Images a second of our NudeNet against the library's `detect_batch`, on the same files.

    python -m benchmarks.nudenet_speed --images FOLDER --threads 2 --json nudenet_speed.json

Without `--images` it cuts 64 images of 512 x 512 pixels out of scikit-learn's two photographs
(crops of many sizes, some mirrored) and writes them as PNG, which is what an evaluation holds. Both
start from files and are given the same cores. They take turns, so that other load on the machine
falls on both alike; the ratio is the median over rounds of (library / ours in the same round). That
the detections are the same is checked on the way; it fails below 1.8 or when they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from nudenet import NudeDetector
from sklearn.datasets import load_sample_images

from erase.judges.nudenet import Detector

BAR = 1.8
SIZE = 512
COLUMNS = ("library_ms_per_image", "ours_ms_per_image", "library_cpu_ms", "ours_cpu_ms")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def make_images(folder: Path, count: int) -> list[Path]:
    """Crops of scikit-learn's photographs, `count` PNG files."""
    photographs = load_sample_images().images
    draw = np.random.default_rng(0)
    files = []
    for number in range(count):
        image = photographs[number % len(photographs)]
        side = int(draw.integers(200, min(image.shape[:2]) + 1))
        top, left = (int(draw.integers(0, length - side + 1)) for length in image.shape[:2])
        crop = cv2.resize(image[top : top + side, left : left + side], (SIZE, SIZE))
        if draw.random() < 0.5:
            crop = crop[:, ::-1]
        files.append(folder / f"{number:03}.png")
        cv2.imwrite(str(files[-1]), crop[..., ::-1])
    return files


def seconds(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall time and CPU time (of all threads) of an action, and what it returns."""
    start, busy = time.perf_counter(), time.process_time()
    result = action()
    return time.perf_counter() - start, time.process_time() - busy, result


def largest_difference(ours: Sequence[Any], library: Sequence[Any]) -> float:
    """Largest difference of a score; infinite when a class, a box or a count differs."""
    worst = 0.0
    for mine, theirs in zip(ours, library, strict=True):
        if [(d.label, list(d.box)) for d in mine] != [(d["class"], d["box"]) for d in theirs]:
            return float("inf")
        pairs = zip(mine, theirs, strict=True)
        worst = max([worst, *(abs(d.score - t["score"]) for d, t in pairs)])
    return worst


def main() -> int:
    """Measure, print, and say by the exit code whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, help="folder of images; default: made ones")
    parser.add_argument("--count", type=int, default=64, help="images to make, or at most to use")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--provider", help="for our session: CUDAExecutionProvider")
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    # "library" is the colour that the library gives to paths, so that the results compare.
    ours = Detector(args.threads, [args.provider] if args.provider else None, "library")
    if args.provider not in (None, ours.provider):
        parser.error(f"{args.provider} is not there")
    library = NudeDetector()
    with tempfile.TemporaryDirectory(prefix="erase-bench-") as folder:
        if args.images:
            found = sorted(f for f in args.images.rglob("*") if f.suffix.lower() in SUFFIXES)
            files = found[: args.count]
        else:
            files = make_images(Path(folder), args.count)
        if not files:
            parser.error(f"{args.images} holds no images")
        names = [str(file) for file in files]
        ours.detect(files[:8])
        library.detect_batch(names[:8])
        rows = []
        for _ in range(args.rounds):
            theirs, their_cpu, expected = seconds(lambda: library.detect_batch(names))
            mine, our_cpu, found_by_us = seconds(lambda: ours.detect(files))
            rows.append((theirs, mine, their_cpu, our_cpu))
    difference = largest_difference(found_by_us, expected)
    ratio = statistics.median(row[0] / row[1] for row in rows)
    result = {
        "images": len(files),
        "threads": args.threads,
        "provider": ours.provider,
        "rounds": args.rounds,
        **{
            name: 1000 * statistics.median(row[column] for row in rows) / len(files)
            for column, name in enumerate(COLUMNS)
        },
        "ratio": ratio,
        "ratio_range": [min(r[0] / r[1] for r in rows), max(r[0] / r[1] for r in rows)],
        "detections": sum(map(len, expected)),
        "largest_score_difference": difference if np.isfinite(difference) else None,
    }
    passed = difference < 1e-4 and (ratio >= BAR or args.threads < 2)
    print(
        f"library {result['library_ms_per_image']:.1f} ms, ours {result['ours_ms_per_image']:.1f}"
        f" ms an image with {args.threads} threads: {ratio:.2f} times as fast (bar {BAR});"
        f" CPU time {result['library_cpu_ms']:.1f} and {result['ours_cpu_ms']:.1f} ms;"
        f" {result['detections']} detections, largest score difference {difference:.1e}"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
