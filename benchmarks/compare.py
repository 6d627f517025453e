"""What the benchmarks of tables share: an `erase` command line, printed and then run."""

import argparse
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from erase.comparison.pool import COSTS
from erase.config.families import CLASSIFIER, TEXT_TO_IMAGE, methods_for
from erase.files import read_jsonl, write_json

MORE = ("lur@alpha=auto",)
"""Lines of a diffusion table beside one for each method."""


def words_of(
    name: str, options: Mapping[str, Any], repeated: Mapping[str, Iterable[str]] | None = None
) -> list[str]:
    """The words of `erase NAME` with options that are given once, and several times."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [
        word
        for option, texts in (repeated or {}).items()
        for text in texts
        for word in (f"--{option}", text)
    ]
    return [sys.executable, "-m", "erase", *name.split(), *words]


def command(
    kind: str, options: Mapping[str, Any], repeated: Mapping[str, Iterable[str]]
) -> list[str]:
    """The words of `erase compare KIND`."""
    return words_of(f"compare {kind}", options, repeated)


def run(words: list[str], log: TextIO | None = None) -> int:
    """Print a command and run it, its processes with one thread each; its exit status.

    With a log, all that is printed goes there.
    """
    print(shlex.join(words), file=log, flush=True)
    return subprocess.run(
        words,
        check=False,
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).returncode


def costs(output: Path) -> dict[str, float]:
    """Processor seconds of what was done, by kind of job and, for searches and runs, by line."""
    sums: dict[str, float] = defaultdict(float)
    for row in read_jsonl(output / COSTS):
        line = f" {row['label'].partition('@')[0]}" if row["kind"] in ("search", "run") else ""
        sums[f"{row['kind']}{line}"] += row["processor_s"]
    return {name: round(sums[name], 1) for name in sorted(sums, key=lambda name: -sums[name])}


def run_and_count(words: list[str], output: Path) -> int:
    """Run a comparison of classifiers, then print its `costs` and write them to `costs.json`."""
    status = run(words)
    if (output / COSTS).is_file():
        sums = costs(output)
        write_json(output / "costs.json", sums)
        print("Seconds of processor time:")
        for name, seconds in {**sums, "all": sum(sums.values())}.items():
            print(f"  {seconds:9.1f}  {name}")
    return status


def classifier_settings(
    training: Iterable[str], forget_only: Mapping[str, int], batch: int
) -> list[str]:
    """`--set` of a table of classifiers.

    Args:
        training: of the original and of Retrain.
        forget_only: passes over D_f of the methods that see nothing else.
        batch: images of each set in a step, of every method.
    """
    passes = [f"{name}.epochs={number}" for name, number in forget_only.items()]
    batches = [f"{name}.train_batch_size={batch}" for name in methods_for(CLASSIFIER)]
    return [*training, *passes, *batches]


def classifier_parser(
    about: str | None, output: str, *, data: str, jobs: int, search: int
) -> argparse.ArgumentParser:
    """The options of all classifier tables; `data` says what `--data-dir` holds."""
    parser = _parser(about, output)
    parser.add_argument("--data-dir", type=Path, help=data)
    parser.add_argument("--jobs", type=int, default=jobs, help="processes, each with one thread")
    parser.add_argument("--forget", action="append", help="only this forget set; several times")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--search", type=int, default=search, help="trials of each method's search")
    return parser


def classifier_options(given: argparse.Namespace) -> dict[str, Any]:
    """What `classifier_parser` was given, as options of `erase compare classifier`."""
    return _named(given, "trials", "search", "jobs", "output", "data-dir", "device")


def table_parser(about: str | None, output: str, *, trials: int) -> argparse.ArgumentParser:
    """The options of all diffusion tables."""
    parser = _parser(about, output)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--trials", type=int, default=trials, help="seeds")
    parser.add_argument("--methods", help="with commas; default: all, and LUR with α auto")
    parser.add_argument("--concept", action="append", help="only this request; several times")
    parser.add_argument("--slice", action="store_true", help="everything tiny, to see it work")
    return parser


def table_options(model: str, given: argparse.Namespace) -> dict[str, Any]:
    """What `table_parser` was given, as options of `erase compare diffusion`."""
    lines = given.methods or ",".join((*methods_for(TEXT_TO_IMAGE), *MORE))
    named = _named(given, "trials", "jobs", "output", "device")
    return {"model": model, "methods": lines, **named}


def _parser(about: str | None, output: str) -> argparse.ArgumentParser:
    """The options of the tables of both kinds."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--device", help="cpu, cuda, …; default: a GPU when there is one")
    return parser


def _named(given: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options as they were given, without those that were not."""
    values = {name: getattr(given, name.replace("-", "_")) for name in names}
    return {name: value for name, value in values.items() if value is not None}
