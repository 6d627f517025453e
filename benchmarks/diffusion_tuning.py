"""The same small effort for every method: three settings each, on requests of its own.

    python -m benchmarks.diffusion_tuning --output runs/tuning
    python -m benchmarks.diffusion_tuning --model mini-emoji --output runs/tuning-emoji

This is `erase compare diffusion` with the options below, printed first. It may be killed and
started again. What it forgets must not be among what the tables of docs/diffusion.md forget; on
mini-emoji it is an object and a style, and it trains and judges as `benchmarks.emoji_table` does.
Prints, and writes to `choice.json`, the best of each method's three: the highest mean over the
requests of H where the suite measures it, else the harmonic mean of UA and RA (a method that
forgets nothing, or that keeps nothing, has 0). Where several are within half a point of the best,
it is the first of them in `GRID`: what stands first is what ships.
"""

import argparse
import sys
from statistics import harmonic_mean
from typing import Any

from benchmarks import emoji_table
from benchmarks.compare import command as compare
from benchmarks.compare import run, table_options, table_parser
from erase.comparison.diffusion_report import ORIGINAL
from erase.config.values import parse_line
from erase.files import read_json, write_json

MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]] = {
    "mini-sd": (("nine",), {"images-per-class": 20}, ()),
    "mini-emoji": (
        ("fox", "noto style"),
        emoji_table.TRAINING | emoji_table.EVALUATION,
        emoji_table.SETTINGS,
    ),
}
"""What each model forgets, options of the comparison, and `--set` of it."""
GRID: dict[str, tuple[str, ...]] = {
    # LUR's λ was chosen among 0.5, 1 and 3 on "three" when mini-sd was made; λ alone here too.
    "lur": ("@forget_weight=0.5", "@forget_weight=0.25", "@forget_weight=1"),
    "lur-b": ("@forget_weight=0.5", "@forget_weight=0.25", "@forget_weight=1"),
    "lur-guard": ("@forget_weight=1", "@forget_weight=0.5", "@forget_weight=2"),
    "salun": ("@retain_weight=1", "@retain_weight=0.5", "@retain_weight=2"),
    "shs": (
        "@forget_weight=0.5@sparsity=0.999",
        "@forget_weight=0.5@sparsity=0.99",
        "@forget_weight=1@sparsity=0.99",
    ),
    "esd": (
        "@variant=x@learning_rate=3e-4",
        "@variant=u@learning_rate=3e-5",
        "@variant=full@learning_rate=3e-5",
    ),
    "sa": ("@ewc=0.005", "@ewc=0.5", "@ewc=50"),
    "fmn": ("@learning_rate=1e-4", "@learning_rate=3e-5", "@learning_rate=1e-5"),
    "uce": (
        "@variant=first@preserve_scale=1@regularise=0.01",
        "@variant=current@regularise=0.01",
        "@variant=current@regularise=0.5",
    ),
    "erasediff": (
        "@rule=fixed@forget_weight=1",
        "@rule=fixed@forget_weight=0.1",
        "@rule=adaptive@eta=0.3",
    ),
    "ca": (
        "@retain_weight=1@regulariser=anchor",
        "@retain_weight=1@regulariser=retain",
        "@retain_weight=0",
    ),
    "munba": ("@learning_rate=3e-5", "@learning_rate=1e-4", "@learning_rate=3e-4"),
    "advunlearn": (
        "@trainable=text@learning_rate=3e-4",
        "@trainable=text@learning_rate=1e-4",
        "@trainable=xattn@learning_rate=3e-4",
    ),
    "sfr-on": ("@forget_weight=1", "@forget_weight=0.5", "@forget_weight=1@threshold=0.1"),
}
TIE = 0.005
"""Scores (0 to 1) that differ by less are equal; an image of the forgotten is about 0.01."""


def choose(means: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The best line of each method, with its score; a line with a run that failed loses.

    `means` are those of `results.json`, a method's lines in the order of `GRID`.
    """
    tried: dict[str, list[dict[str, Any]]] = {}
    for line in means:
        if line["method"] != ORIGINAL and not line["failed"]:
            scored = line | {"score": _score(line)}
            tried.setdefault(parse_line(line["method"]).method, []).append(scored)
    best = {method: max(line["score"] for line in lines) for method, lines in tried.items()}
    return {
        method: next(line for line in lines if line["score"] > best[method] - TIE)
        for method, lines in tried.items()
    }


def _score(line: dict[str, Any]) -> float:
    """H, or the harmonic mean of UA and RA."""
    return float(line["h"] if "h" in line else harmonic_mean((line["ua"], line["ra"])))


def command(given: argparse.Namespace) -> list[str]:
    """The command line that makes all of it."""
    requests, options, settings = MODELS[given.model]
    names = given.methods.split(",") if given.methods else GRID
    given.methods = ",".join(name + fixed for name in names for fixed in GRID[name])
    options = table_options(given.model, given) | options
    if given.slice:
        options |= emoji_table.SLICE | {"images-per-class": 1, "evaluation-steps": 2}
    return compare("diffusion", options, {"concept": given.concept or requests, "set": settings})


def main() -> int:
    """Run three settings of every method, and choose."""
    parser = table_parser(__doc__, "runs/tuning", trials=1)
    parser.add_argument("--model", choices=MODELS, default="mini-sd")
    given = parser.parse_args()
    if status := run(command(given)):
        return status
    chosen = choose(read_json(given.output / "results.json", dict)["means"])
    write_json(
        given.output / "choice.json", {name: line["method"] for name, line in chosen.items()}
    )
    for name, line in chosen.items():
        shown = [key for key in ("ua", "ra", "ira", "cra", "score") if key in line]
        print(f"{name}: {line['method']}  {' '.join(f'{key} {line[key]:.3f}' for key in shown)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
