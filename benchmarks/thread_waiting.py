"""How a LUR step's time depends on how OpenMP's threads wait, on an idle and on a busy machine.

    python -m benchmarks.thread_waiting --rounds 15 --busy 2 --json thread_waiting.json

One process a policy trains the model of `benchmarks.meta_step` with the same seeds. The processes
take turns step by step (the others sleep), so that other load on the machine falls on all alike;
each ratio is the median over rounds of (policy / libgomp's default in the same round). `--busy N`
repeats all with N processes beside them that never rest. The weights after the last step are
hashed: the policy must not change a bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "spin 30000": {"GOMP_SPINCOUNT": "30000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 3000": {"GOMP_SPINCOUNT": "3000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def work() -> None:
    """Take a step for every line of the standard input; answer with its seconds, then the hash."""
    import torch

    from benchmarks.meta_step import losses, tiny_unet
    from erase.core.meta import meta_gradient

    torch.manual_seed(0)
    unet = tiny_unet()
    parameters = list(unet.parameters())
    retain, forget = losses(unet, torch.device("cpu"))
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    for _ in sys.stdin:
        start = time.perf_counter()
        meta_gradient(parameters, retain, forget, mode="hvp", alpha=0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(time.perf_counter() - start, flush=True)
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().numpy().tobytes())
    print(digest.hexdigest(), torch.get_num_threads(), flush=True)


def _spin() -> None:
    while True:
        pass


@contextmanager
def load(processes: int) -> Iterator[None]:
    """That many processes that never rest."""
    running = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in running:
        process.start()
    try:
        yield
    finally:
        for process in running:
            process.kill()


def measure(rounds: int, busy: int) -> dict[str, Any]:
    """Median seconds of a step and ratios by policy."""
    plain = {name: value for name, value in os.environ.items() if name not in NAMES}
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.thread_waiting", "--work"],
            env={**plain, **policy},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, policy in POLICIES.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in workers}

    def step(name: str) -> float:
        worker = workers[name]
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("step\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    for name in workers:
        step(name)  # warms up
    with load(busy):
        for _ in range(rounds):
            for name in workers:
                seconds[name].append(step(name))
    ends = {name: worker.communicate()[0].split() for name, worker in workers.items()}
    return {
        "busy": busy,
        "threads": int(ends["default"][1]),
        "same_bytes": len({end[0] for end in ends.values()}) == 1,
        "policies": {
            name: {
                "seconds": statistics.median(own),
                "slowest": max(own),
                "ratio": statistics.median(
                    a / b for a, b in zip(own, seconds["default"], strict=True)
                ),
            }
            for name, own in seconds.items()
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Print a table for the machine as it is, and one with the load; 1 if a bit differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="interleaved repetitions")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="resting never")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.work:
        work()
        return 0
    results = []
    for busy in sorted({0, args.busy}):
        print(f"{busy} busy processes beside; load of the machine {os.getloadavg()[0]:.1f}")
        results.append(measure(args.rounds, busy))
        print(f"{'policy':<12}{'s/step':>9}{'slowest':>9}{'ratio':>8}")
        for name, row in results[-1]["policies"].items():
            print(f"{name:<12}{row['seconds']:>9.3f}{row['slowest']:>9.3f}{row['ratio']:>8.2f}")
        same = "the same" if results[-1]["same_bytes"] else "NOT the same"
        print(f"{results[-1]['threads']} threads; weights {same} to the byte\n")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(result["same_bytes"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
