"""What the benchmarks of tables share: `erase compare` as a command line, printed and then run."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from erase.config.families import TEXT_TO_IMAGE, methods_for

MORE = ("lur@alpha=auto",)
"""Lines of a diffusion table beside one for each method."""


def command(
    kind: str, options: Mapping[str, Any], repeated: Mapping[str, Iterable[str]]
) -> list[str]:
    """The words of `erase compare KIND` with options that are given once, and several times."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [
        word for name, texts in repeated.items() for text in texts for word in (f"--{name}", text)
    ]
    return [sys.executable, "-m", "erase", "compare", kind, *words]


def run(words: list[str]) -> int:
    """Print a command and run it, its processes with one thread each; its exit status."""
    print(shlex.join(words), flush=True)
    return subprocess.run(words, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def table_parser(about: str | None, output: str, *, trials: int) -> argparse.ArgumentParser:
    """The options of all diffusion tables."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--trials", type=int, default=trials, help="seeds")
    parser.add_argument("--methods", help="with commas; default: all, and LUR with α auto")
    parser.add_argument("--concept", action="append", help="only this request; several times")
    parser.add_argument("--slice", action="store_true", help="everything tiny, to see it work")
    return parser


def table_options(model: str, given: argparse.Namespace) -> dict[str, Any]:
    """What `table_parser` was given, as options of `erase compare diffusion`."""
    lines = given.methods or ",".join((*methods_for(TEXT_TO_IMAGE), *MORE))
    named = {name: getattr(given, name) for name in ("trials", "jobs", "output")}
    return {"model": model, "methods": lines, **named}
