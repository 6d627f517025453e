"""Whether `--dry-run` foretells the memory and the disk space that a run then takes.

    python -m benchmarks.memory_estimate

Each setting is planned and then run for three steps on mini-sd on the CPU, in processes of their
own, and the peak of the run's resident memory is held against the estimate, in all and without
what the libraries take. The bar: within 15% in all, for every setting.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BAR = 0.15
COMMON = ("--model", "mini-sd", "--concept", "three", "--device", "cpu", "--max-train-steps", "3")
FEW = ("--num-forget-images", "64", "--num-retain-images", "64", "--render-steps", "2")
CASES: dict[str, tuple[str, ...]] = {
    "recipe (hvp, batch 32)": (),
    "hvp, batch 256": ("--train-batch-size", "256"),
    "lur-b, batch 256": ("--method", "lur-b", "--train-batch-size", "256"),
    "exact, batch 128": ("--meta-mode", "exact", "--train-batch-size", "128"),
    "hvp, batch 512, xattn": ("--trainable", "xattn", "--train-batch-size", "512"),
    "hvp, batch 512, checkpointing": ("--gradient-checkpointing", "--train-batch-size", "512"),
    "hvp, batch 128, checkpointing": ("--gradient-checkpointing", "--train-batch-size", "128"),
    "bf16, batch 256": ("--mixed-precision", "bf16", "--train-batch-size", "256"),
    "hvp, batch 256, LoRA": ("--lora-rank", "8", "--train-batch-size", "256"),
    "hvp, batch 128, LoRA, checkpointing": (
        *("--lora-rank", "8", "--gradient-checkpointing", "--train-batch-size", "128"),
    ),
}
UNITS = {"MiB": 2**20, "GiB": 2**30}


def erase(*arguments: str) -> str:
    """Run a command to its end; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "erase", "concept", *COMMON, *FEW, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def figure(text: str, pattern: str) -> float:
    """A size in bytes from what a dry run says."""
    match = re.search(pattern + r" ([\d.]+) (MiB|GiB)", text)
    if match is None:
        raise SystemExit(f"no {pattern!r} in:\n{text}")
    return float(match[1]) * UNITS[match[2]]


def measure(name: str) -> dict[str, Any]:
    """Estimate and run one setting."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "run"
        options = (*CASES[name], "--output", str(output))
        said = erase(*options, "--dry-run")
        erase(*options)
        peak = json.loads((output / "record.json").read_text())["peak_memory_bytes"]
        space = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    libraries = figure(said, "libraries")
    estimated = figure(said, "memory: about")
    return {
        "estimated": estimated,
        "measured": peak,
        "error": estimated / peak - 1,
        "tensors_estimated": estimated - libraries,
        "tensors_measured": peak - libraries,
        "disk_estimated": figure(said, "disk: about"),
        "disk_measured": space,
    }


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 1 if an estimate misses the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="a regular expression for the settings' names")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    rows = {}
    print(f"{'MiB':<36}{'estimate':>9}{'peak':>9}{'error':>8}{'tensors':>9}{'disk':>7}{'took':>7}")
    for name in CASES:
        if args.only and not re.search(args.only, name):
            continue
        row = rows[name] = measure(name)
        print(
            f"{name:<36}{row['estimated'] / 2**20:>9.1f}{row['measured'] / 2**20:>9.1f}"
            f"{row['error']:>8.1%}{row['tensors_estimated'] / 2**20:>9.1f}"
            f"{row['disk_estimated'] / 2**20:>7.1f}{row['disk_measured'] / 2**20:>7.1f}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    worst = max((abs(row["error"]) for row in rows.values()), default=0.0)
    print(f"worst error {worst:.1%}: {'within' if worst <= BAR else 'OVER'} the bar of {BAR:.0%}")
    return 0 if worst <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
