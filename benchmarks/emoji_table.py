"""Every method on mini-emoji: objects, styles, two at once, a pair, two seeds: docs/diffusion.md.

    python -m benchmarks.emoji_table --output runs/emoji-table --jobs 2

This is `erase compare diffusion` with the options below, printed first. It may be killed and
started again. The evaluation and the training are smaller than the suite's and the recipe's own
(`--full` leaves both as they are), so that all of it fits two CPU cores.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from erase.config.families import TEXT_TO_IMAGE, methods_for

PAIR = "cat from flat style"
REQUESTS = ("cat", "guitar", "castle", "flat style", "mono style", "cat, dagger", PAIR)
"""Three objects, two styles, two objects at once, a pair without its parts."""
MORE = ("lur@alpha=auto",)
"""Lines beside one for each method."""
TRAINING: dict[str, Any] = {
    "max-train-steps": 60,
    "train-batch-size": 16,
    "num-forget-images": 64,
    "num-retain-images": 192,
    "num-anchor-images": 64,
}
EVALUATION: dict[str, Any] = {"images-per-class": 1, "evaluation-steps": 12}
SETTINGS = ("emoji.forgotten=24", "emoji.paraphrases=6")
SLICE = {"max-train-steps": 1, "train-batch-size": 2, "num-forget-images": 2}
SLICE |= {"num-retain-images": 4, "num-anchor-images": 2, "render-steps": 2}


def command(given: argparse.Namespace) -> list[str]:
    """The command line that makes all of it."""
    lines = given.methods or ",".join((*methods_for(TEXT_TO_IMAGE), *MORE))
    options: dict[str, Any] = {"model": "mini-emoji", "methods": lines, "trials": given.trials}
    options |= {"jobs": given.jobs, "output": given.output}
    if not given.full:
        options |= TRAINING | EVALUATION
    if given.slice:
        options |= SLICE | EVALUATION | {"evaluation-steps": 2}
    options |= {name: value for name, value in (("max-train-steps", given.steps),) if value}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [word for text in given.concept or REQUESTS for word in ("--concept", text)]
    settings = () if given.full else SETTINGS
    words += [word for text in settings for word in ("--set", text)]
    return [sys.executable, "-m", "erase", "compare", "diffusion", *words]


def run(words: list[str]) -> int:
    """Print a command and run it, its processes with one thread each; its exit status."""
    print(shlex.join(words), flush=True)
    return subprocess.run(words, check=False, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode


def main() -> int:
    """Run the comparison through the command line, as a user would."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/emoji-table"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--trials", type=int, default=2, help="seeds")
    parser.add_argument("--methods", help="with commas; default: all, and LUR with α auto")
    parser.add_argument("--concept", action="append", help="only this request; several times")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--full", action="store_true", help="the recipe's steps, all images")
    parser.add_argument("--slice", action="store_true", help="everything tiny, to see it work")
    return run(command(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
