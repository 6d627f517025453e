"""Time and peak memory of one LUR step in every mode, against one LUR-b (joint) step.

    python -m benchmarks.meta_step --rounds 15 --device cpu --json meta_step.json
    python -m benchmarks.meta_step --model resnet20

The default model is a `UNet2DConditionModel` of about the size of mini-sd's (2.6 M parameters,
latents ``[32, 4, 8, 8]``, text states ``[32, 16, 64]``). The modes take turns, so that other load
on the machine falls on all of them alike; each ratio is the median over rounds of (mode / joint of
the same round). Memory is the peak of live tensors within the step: on a CPU by adding up the
allocator's events, on CUDA as the allocator reports it. `joint` runs without diagnosis, as LUR-b
would be written by hand.

The classifiers `cnn-gelu` (64 images of 16 pixels) and `resnet20` (64 of 32 pixels, channels_last)
show what `exact` costs, their default mode, against LUR-b as its method runs it, with diagnosis.
What was changed, with the time of `exact` in units of LUR-b's before and after (processor time of
one thread on a busy machine, medians of at least 7 rounds or best of 8 to 10):

* the graph of the retain loss is kept from its gradient to the product: cnn-gelu 3.2 to 2.8;
* batch norm by formulas (`erase.core.second_order`): resnet20 3.7 to 2.5;
* convolutions by formulas: resnet20 2.5 to 2.1, cnn-gelu 2.4 to 2.2, not counting page faults;
* freed memory is kept (`keep_freed_memory`): cnn-gelu 2.5 to 2.3;
* the slope of GELU is computed once for all passes: about 3% of a step.

What did not pay: forward-over-reverse, `torch.func.jvp` of `grad`: 3.1 (cnn-gelu) and 3.6
(resnet20); the two convolutions whose results are added in the second backward pass joined into
one over twice the channels: 0.95 to 1.22 of their time (six sizes); formulas for group norm and
GELU without those for convolutions: 2.3 before and 2.4 after; channels_last at 16 pixels: 1.2 of
the time of a pass.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The profiler otherwise writes two lines to stderr for every use.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from erase.core.meta import STEP_BF16, meta_gradient
from erase.core.objectives import mismatch_mse, noise_mse
from erase.core.params import FixedLoss
from erase.models.classifiers import Description, build
from erase.training.classifier import CHANNELS_LAST_FROM, keep_freed_memory

BATCH = 32
TIME_BAR = 1.7
COPIES_BAR = 2.0
# The large lambda makes alpha lambda long enough for `hvp` to take its full course; at alpha = 1e-7
# it takes the "shift". `expected` is checked, so that a row is what it says.
CASES: dict[str, dict[str, Any]] = {
    "joint": {"mode": "joint", "alpha": 0.1, "diagnose": False},
    "joint+diagnose": {"mode": "joint", "alpha": 0.1},
    "first-order": {"mode": "first-order", "alpha": 0.1, "diagnose": False},
    "hvp": {"mode": "hvp", "alpha": 0.1, "forget_weight": 1e3},
    "hvp (shift)": {"mode": "hvp", "alpha": 1e-7},
    "hvp (bf16 rule)": {"mode": "hvp", "alpha": 0.1, "forget_weight": 1e3, "precision": "bf16"},
    "exact": {"mode": "exact", "alpha": 0.1},
}
CLASSIFIERS = {"cnn-gelu": 16, "resnet20": 32}
"""Classifiers, with the pixels a side of their images."""
EXACT_BAR = 2.2
CLASSIFIER_CASES: dict[str, dict[str, Any]] = {
    "joint": {"mode": "joint", "alpha": 0.1},
    "first-order": {"mode": "first-order", "alpha": 0.1},
    "exact": {"mode": "exact", "alpha": 0.1},
    "exact (curvature)": {"mode": "exact", "alpha": 0.1, "measure_curvature": True},
}


def tiny_unet() -> nn.Module:
    """A text-conditional denoiser with 2.6 M parameters, randomly initialised."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=32,
    )


def losses(unet: nn.Module, device: torch.device) -> tuple[FixedLoss, FixedLoss]:
    """The retain (14) and forget (13) loss on one random batch each."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape).to(device)

    x, noise, text = draw(BATCH, 4, 8, 8), draw(BATCH, 4, 8, 8), draw(BATCH, 16, 64)
    x_forget, own, anchor = draw(BATCH, 4, 8, 8), draw(BATCH, 16, 64), draw(BATCH, 16, 64)
    steps = torch.randint(0, 1000, (BATCH,)).to(device)

    def retain() -> Tensor:
        return noise_mse(unet(x, steps, text).sample, noise).mean()

    def forget() -> Tensor:
        with torch.no_grad():
            target = unet(x_forget, steps, anchor).sample
        return mismatch_mse(unet(x_forget, steps, own).sample, target).mean()

    return FixedLoss(unet, retain, 0), FixedLoss(unet, forget, 1)


def classifier(arch: str, device: torch.device) -> tuple[nn.Module, FixedLoss, FixedLoss]:
    """A classifier with its retain (9) and forget (10) loss on one random batch each."""
    side, batch = CLASSIFIERS[arch], 64
    classes = tuple(str(number) for number in range(10))
    net = build(Description(arch, classes, side, (0.5,) * 3, (0.25,) * 3, "none")).to(device)
    how = torch.channels_last if side >= CHANNELS_LAST_FROM else torch.contiguous_format
    net = net.train().to(memory_format=how)
    images = torch.rand(2, batch, 3, side, side).to(device)
    labels = torch.randint(0, 10, (2, batch)).to(device)

    def mean(which: int) -> Tensor:
        logits = net(images[which].contiguous(memory_format=how))
        return nn.functional.cross_entropy(logits, labels[which])

    retain, forget = FixedLoss(net, lambda: mean(0), 0), FixedLoss(net, lambda: -mean(1), 1)
    return net, retain, forget


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Peak of the memory that the step holds beyond what was live before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measure(rounds: int, device: torch.device, model: str = "tiny-unet") -> dict[str, Any]:
    """Run every case `rounds` times in turn; the table as a dictionary."""
    torch.manual_seed(0)
    cases = CLASSIFIER_CASES if model in CLASSIFIERS else CASES
    if model in CLASSIFIERS:
        keep_freed_memory()  # as a run does
        net, retain, forget = classifier(model, device)
    else:
        net = tiny_unet().to(device)
        retain, forget = losses(net, device)
    params = list(net.parameters())
    copy = sum(p.numel() * p.element_size() for p in params)

    def stepper(case: str) -> Callable[[], object]:
        return lambda: meta_gradient(params, retain, forget, **cases[case])

    def clear() -> None:
        for p in params:
            p.grad = None

    memory: dict[Any, int] = {}
    seconds: dict[Any, list[float]] = {case: [] for case in cases}
    for case in cases:
        clear()
        stats = meta_gradient(params, retain, forget, **cases[case])  # also warms up
        if case in ("hvp", "hvp (bf16 rule)") and not (stats.rho or 0) > STEP_BF16:
            raise SystemExit(f"{case}: rho {stats.rho} is too small for the full course")
        clear()
        memory[case] = peak_bytes(stepper(case), device)
    for _ in range(rounds):
        for case in cases:
            clear()
            start = time.perf_counter()
            stepper(case)()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[case].append(time.perf_counter() - start)
    rows = {
        case: {
            "seconds": statistics.median(seconds[case]),
            "ratio": statistics.median(
                own / joint for own, joint in zip(seconds[case], seconds["joint"], strict=True)
            ),
            "peak_bytes": memory[case],
            "extra_bytes": memory[case] - memory["joint"],
            "extra_copies": (memory[case] - memory["joint"]) / copy,
        }
        for case in cases
    }
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": rounds,
        "batch": 64 if model in CLASSIFIERS else BATCH,
        "parameters": sum(p.numel() for p in params),
        "copy_bytes": copy,
        "cases": rows,
    }


def _judge(cases: dict[str, Any]) -> bool:
    """Whether the cases are within the bars; says so."""
    if "hvp" not in cases:
        ratio = cases["exact"]["ratio"]
        passed = ratio <= EXACT_BAR
        text = f"exact: {ratio:.2f} x the time of LUR-b (bar {EXACT_BAR})"
    else:
        hvp = cases["hvp"]
        passed = hvp["ratio"] <= TIME_BAR and hvp["extra_copies"] <= COPIES_BAR
        text = (
            f"hvp: {hvp['ratio']:.2f} x the time of joint (bar {TIME_BAR}), "
            f"{hvp['extra_copies']:+.2f} copies (bar +{COPIES_BAR:.0f})"
        )
    print(f"{text}: {'within' if passed else 'OVER'} the bars")
    return bool(passed)


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 1 if `hvp`, or `exact` of a classifier, misses a bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="interleaved repetitions")
    parser.add_argument("--model", choices=["tiny-unet", *CLASSIFIERS], default="tiny-unet")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    result = measure(args.rounds, torch.device(args.device), args.model)
    print(
        f"{args.model}: {result['parameters']:,} parameters "
        f"({result['copy_bytes'] / 2**20:.1f} MiB a copy), batch {result['batch']}, "
        f"{result['device']}, "
        f"{result['threads']} threads, {args.rounds} rounds"
    )
    print(f"{'mode':<16}{'ms':>9}{'x joint':>9}{'peak MiB':>10}{'+ MiB':>8}{'+ copies':>10}")
    for case, row in result["cases"].items():
        print(
            f"{case:<16}{row['seconds'] * 1e3:>9.1f}{row['ratio']:>9.2f}"
            f"{row['peak_bytes'] / 2**20:>10.1f}{row['extra_bytes'] / 2**20:>8.1f}"
            f"{row['extra_copies']:>10.2f}"
        )
    passed = _judge(result["cases"])
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
