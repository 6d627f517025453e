"""How long commands take before they do anything: help, a mistake, a dry run.

    python -m benchmarks.start

Prints CPU seconds and seconds on the clock of each, the least of `--repeats` runs. On a busy
machine the CPU seconds tell more.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = ("concept", "--model", "mini-sd", "--concept", "three", "--output", "OUT")
CASES = {
    "import torch": ("-c", "import torch"),
    "import UNet2DConditionModel": ("-c", "from diffusers import UNet2DConditionModel"),
    "erase --help": ("-m", "erase", "--help"),
    "erase concept --help": ("-m", "erase", "concept", "--help"),
    "a misspelt method": ("-m", "erase", *RUN, "--method", "lurr"),
    "an unknown concept": ("-m", "erase", *RUN, "--concept", "dog"),
    "a misspelt model": ("-m", "erase", *RUN, "--model", "sd1.4"),
    "a bad setting of a method": ("-m", "erase", *RUN, "--alpha", "x"),
    "--dry-run": ("-m", "erase", *RUN, "--dry-run"),
}
"""What is timed, as arguments of Python; the imports are what no dry run can do without."""


def spent(arguments: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """CPU seconds and seconds on the clock of one call of Python."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(f"{'':30}{'CPU s':>8}{'clock s':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in CASES.items():
            runs = [spent(arguments, Path(folder)) for _ in range(given.repeats)]
            cpu, clock = (min(times) for times in zip(*runs, strict=True))
            print(f"{name:30}{cpu:8.2f}{clock:8.2f}")


if __name__ == "__main__":
    main()
