"""Every method under every attack on mini-sd, with the curves of relearning: docs/attacks.md.

    python -m benchmarks.attack_table --output runs/attack-table --jobs 2

This is `erase compare diffusion --attacks` with the options below, printed first. It may be killed
and started again; the original is attacked once. `relearn-concept.png` in the output folder is the
figure of the curves, `pareto-after-….png` what each attack leaves of forgetting.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.emoji_table import MORE, SLICE, run
from erase.config.families import TEXT_TO_IMAGE, methods_for

QUICK = (
    *("relearn.steps=0,1", "relearn.batch_size=2", "p4d.iterations=2", "ring-a-bell.generations=2"),
    *("ring-a-bell.population=4", "textual-inversion.steps=2", "unlearndiffatk.iterations=2"),
    *("null-text.refinements=1", "completion.shares=0.5", "noise-probe.noise=1.3"),
)


def command(given: argparse.Namespace) -> list[str]:
    """The command line that makes all of it."""
    lines = given.methods or ",".join((*methods_for(TEXT_TO_IMAGE), *MORE))
    options: dict[str, Any] = {"model": "mini-sd", "methods": lines, "trials": given.trials}
    options |= {"attacks": given.attacks, "attack-limit": given.prompts}
    options |= {"jobs": given.jobs, "output": given.output}
    if given.slice:
        options |= SLICE | {"images-per-class": 2, "evaluation-steps": 2, "attack-limit": 2}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [word for text in given.concept or ("three",) for word in ("--concept", text)]
    chosen = given.attacks.split(",")
    quick = [text for text in QUICK if chosen == ["all"] or text.partition(".")[0] in chosen]
    settings = [*(quick if given.slice else ()), *given.set]
    words += [word for text in settings for word in ("--set", text)]
    return [sys.executable, "-m", "erase", "compare", "diffusion", *words]


def main() -> int:
    """Run the comparison through the command line, as a user would."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/attack-table"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--trials", type=int, default=1, help="seeds")
    parser.add_argument("--methods", help="with commas; default: all, and LUR with α auto")
    parser.add_argument("--attacks", default="all", help="with commas")
    parser.add_argument("--prompts", type=int, default=20, help="prompts to attack")
    parser.add_argument("--concept", action="append", help="the digit; several times")
    parser.add_argument("--set", action="append", default=[], help="as of erase compare diffusion")
    parser.add_argument("--slice", action="store_true", help="everything tiny, to see it work")
    return run(command(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
