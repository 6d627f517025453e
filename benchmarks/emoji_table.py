"""Every method on mini-emoji: objects, styles, two at once, a pair, two seeds: docs/diffusion.md.

    python -m benchmarks.diffusion_tuning --model mini-emoji --output runs/tuning-emoji --jobs 2
    python -m benchmarks.emoji_table --tuned runs/tuning-emoji/choice.json --jobs 2

This is `erase compare diffusion` with the options below, printed first. It may be killed and
started again. The evaluation and the training are smaller than the suite's and the recipe's own
(`--full` leaves both as they are), so that all of it fits two CPU cores.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.compare import command as compare
from benchmarks.compare import run, table_options, table_parser
from erase.comparison.entries import diffusion_entries
from erase.config.values import parse_line
from erase.files import read_json

PAIR = "cat from flat style"
REQUESTS = ("cat", "guitar", "castle", "flat style", "mono style", "cat, dagger", PAIR)
"""Three objects, two styles, two objects at once, a pair without its parts."""
TRAINING: dict[str, Any] = {
    "max-train-steps": 60,
    "train-batch-size": 16,
    "num-forget-images": 64,
    "num-retain-images": 192,
    "num-anchor-images": 64,
    "render-steps": 8,
}
EVALUATION: dict[str, Any] = {"images-per-class": 1, "evaluation-steps": 8}
SETTINGS = ("emoji.forgotten=24", "emoji.paraphrases=6")
SLICE = {"max-train-steps": 1, "train-batch-size": 2, "num-forget-images": 2}
SLICE |= {"num-retain-images": 4, "num-anchor-images": 2, "render-steps": 2}


def tuned(path: Path, methods: str) -> list[str]:
    """What a choice says of the compared methods, as `--set` takes it: METHOD.NAME=VALUE."""
    compared = {line.method for line in diffusion_entries(methods)}
    return [
        f"{line.method}.{name}={value}"
        for line in map(parse_line, read_json(path, dict).values())
        if line.method in compared
        for name, value in line.settings.items()
    ]


def command(given: argparse.Namespace) -> list[str]:
    """The command line that makes all of it."""
    options: dict[str, Any] = table_options("mini-emoji", given)
    if not given.full:
        options |= TRAINING | EVALUATION
    if given.slice:
        options |= SLICE | EVALUATION | {"evaluation-steps": 2}
    options |= {"max-train-steps": given.steps} if given.steps else {}
    settings = [] if given.full else [*SETTINGS]
    settings += tuned(given.tuned, options["methods"]) if given.tuned else []
    return compare("diffusion", options, {"concept": given.concept or REQUESTS, "set": settings})


def main() -> int:
    """Run the comparison through the command line, as a user would."""
    parser = table_parser(__doc__, "runs/emoji-table", trials=2)
    parser.add_argument("--tuned", type=Path, help="choice.json of benchmarks.diffusion_tuning")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--full", action="store_true", help="the recipe's steps, all images")
    return run(command(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
