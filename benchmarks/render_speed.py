"""Rendering an evaluation with erase against the one-prompt-at-a-time loop of the public scripts.

    python -m benchmarks.render_speed --images 64 --device cpu --json render_speed.json

Both render the same prompts from the same model (mini-sd by default, `--model` for another) in the
same precision and write PNG files. The loop is what the public evaluation scripts do: one prompt,
one seeded generator, one call of the pipeline, one save, with the pipeline's progress bar off. The
two take turns, so that other load on the machine falls on both alike; the ratio is the median over
rounds of (loop / erase of the same round). On a GPU the bar is 3; on a CPU, where a batch saves
little, none is set. `--dtype bf16` adds erase in that precision against the loop in float32, which
is how those scripts run: that ratio is printed beside the other, and no bar rests on it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from erase.models.loading import load_pipeline, resolve
from erase.render.render import DTYPES, render
from erase.scoring.samples import Sample

BAR = 3.0
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def loop(pipeline: Any, samples: list[Sample], folder: Path, steps: int, size: int | None) -> None:
    """As the public scripts do it: one prompt after the other."""
    options = {} if size is None else {"height": size, "width": size}
    for sample in samples:
        image = pipeline(
            prompt=sample.prompt,
            num_inference_steps=steps,
            guidance_scale=sample.guidance,
            generator=torch.Generator().manual_seed(sample.seed),
            **options,
        ).images[0]
        image.save(folder / f"{sample.id}.png")


def timed(work: Any, device: torch.device) -> float:
    """Seconds that `work` takes, with what it left running on the device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every round, and the ratios."""
    device = torch.device(args.device)
    source = resolve(args.model)
    samples = [
        Sample(f"s{i:04d}", f"a handwritten {DIGITS[i % 10]}", i, guidance=args.guidance)
        for i in range(args.images)
    ]
    pipelines = {"loop": load_pipeline(source).to(device), "erase": load_pipeline(source)}
    if args.dtype != "fp32":
        pipelines[f"erase {args.dtype}"] = load_pipeline(source, dtype=DTYPES[args.dtype])

    def work(name: str, count: int, folder: Path) -> None:
        if name == "loop":
            loop(pipelines[name], samples[:count], folder, args.steps, args.size)
            return
        settings = {"steps": args.steps, "size": args.size, "batch_size": args.batch_size}
        render(
            pipelines[name],
            samples[:count],
            folder,
            fingerprint="benchmark",
            device=args.device,
            **settings,
        )

    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(args.rounds + 1):
        for name in pipelines:
            with tempfile.TemporaryDirectory() as folder:
                count = args.images if turn else min(args.batch_size, args.images)  # warms up
                spent = timed(lambda: work(name, count, Path(folder)), device)  # noqa: B023
            if turn:
                seconds[name].append(spent)
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds["loop"], own, strict=True))
        for name, own in seconds.items()
    }
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else args.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{k: v for k, v in vars(args).items() if k != "json"},
        "seconds": seconds,
        "ratio": ratios,
    }


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 1 if a GPU misses the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini-sd")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--size", type=int, help="pixels; default: the model's own")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repetitions")
    parser.add_argument(
        "--dtype", choices=list(DTYPES), default="fp32", help="erase's, beside fp32"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if min(args.images, args.batch_size, args.steps, args.rounds) < 1:
        parser.error("counts must be at least 1")
    result = measure(args)
    print(
        f"{args.model}, {args.images} images, {args.steps} steps, batches of {args.batch_size}, "
        f"{result['device']}, {result['threads']} threads, {args.rounds} rounds"
    )
    print(f"{'renderer':<14}{'images/s':>10}{'x loop':>9}")
    for name, own in result["seconds"].items():
        speed = args.images / statistics.median(own)
        print(f"{name:<14}{speed:>10.2f}{result['ratio'][name]:>9.2f}")
    ratio = result["ratio"]["erase"]
    bar = BAR if torch.device(args.device).type == "cuda" else None
    passed = bar is None or ratio >= bar
    said = "no bar on this device" if bar is None else f"bar {bar}: {'met' if passed else 'MISSED'}"
    print(f"erase renders {ratio:.2f} x as fast as the loop ({said})")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
