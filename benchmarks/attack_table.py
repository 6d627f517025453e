"""Every method under every attack on mini-sd, with the curves of relearning: docs/attacks.md.

    python -m benchmarks.attack_table --output runs/attack-table --jobs 2

This is `erase compare diffusion --attacks` with the options below, printed first. It may be killed
and started again; the original is attacked once. `relearn-concept.png` in the output folder is the
figure of the curves, `pareto-after-….png` what each attack leaves of forgetting.
"""

import argparse
import sys
from typing import Any

from benchmarks.compare import command as compare
from benchmarks.compare import run, table_options, table_parser
from benchmarks.emoji_table import SLICE

QUICK = (
    *("relearn.steps=0,1", "relearn.batch_size=2", "p4d.iterations=2", "ring-a-bell.generations=2"),
    *("ring-a-bell.population=4", "textual-inversion.steps=2", "unlearndiffatk.iterations=2"),
    *("null-text.refinements=1", "completion.shares=0.5", "noise-probe.noise=1.3"),
)


def command(given: argparse.Namespace) -> list[str]:
    """The command line that makes all of it."""
    options: dict[str, Any] = table_options("mini-sd", given)
    options |= {"attacks": given.attacks, "attack-limit": given.prompts}
    if given.slice:
        options |= SLICE | {"images-per-class": 2, "evaluation-steps": 2, "attack-limit": 2}
    chosen = given.attacks.split(",")
    quick = [text for text in QUICK if chosen == ["all"] or text.partition(".")[0] in chosen]
    settings = [*(quick if given.slice else ()), *given.set]
    return compare("diffusion", options, {"concept": given.concept or ("three",), "set": settings})


def main() -> int:
    """Run the comparison through the command line, as a user would."""
    parser = table_parser(__doc__, "runs/attack-table", trials=1)
    parser.add_argument("--attacks", default="all", help="with commas")
    parser.add_argument("--prompts", type=int, default=20, help="prompts to attack")
    parser.add_argument("--set", action="append", default=[], help="as of erase compare diffusion")
    return run(command(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
