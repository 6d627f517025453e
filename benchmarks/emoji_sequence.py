"""One request after another on mini-emoji: what is kept, and what comes back: docs/diffusion.md.

    python -m benchmarks.emoji_sequence --output runs/emoji-sequence --jobs 2

Each method forgets six objects in six runs of `erase concept`, each from the run before
(`--model`), and every run is evaluated on all that was forgotten so far. It may be killed and
started again. Steps, images and evaluation are those of `benchmarks.emoji_table`. Writes `table.md`
and `table.json`: means and standard deviations over seeds.
"""

import argparse
import shlex
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.compare import run, words_of
from benchmarks.emoji_table import EVALUATION, SETTINGS, SLICE, TRAINING
from erase.files import read_json, write_json, write_text

METHODS = ("lur", "lur-b", "esd", "salun", "uce")
REQUESTS = ("cat", "guitar", "castle", "dog", "rocket", "apple")
"""The dog is one of the cat's neighbours, and what the cat's captions show once it is forgotten."""
COLUMNS = {"ua": "UA", "ira": "IRA", "cra": "CRA", "neighbours": "near", "h": "H"}


def place(output: Path, method: str, trial: int) -> Path:
    """The folder of a chain; that of each run in it is called by its number, from 1."""
    return output / f"{method}-{trial}"


def commands(folder: Path, method: str, seed: int, given: argparse.Namespace) -> list[list[str]]:
    """What a chain runs: `erase concept` and `erase evaluate` of each request in turn."""
    training, settings = dict(TRAINING), SETTINGS
    judging = {**EVALUATION, "cache-dir": given.output / "base"}
    judging["render-steps"] = judging.pop("evaluation-steps")
    if given.slice:
        training |= SLICE
        judging |= {"render-steps": 1}
        settings = ("emoji.forgotten=6", "emoji.paraphrases=1")
    chain, model = [], "mini-emoji"
    for number, concept in enumerate(REQUESTS[: given.requests], start=1):
        output = folder / str(number)
        options = {"model": model, "concept": concept, "method": method, "seed": seed, **training}
        options |= {"output": output, "resume-from-checkpoint": "latest"}
        chain.append(words_of("concept", options))
        about = {"suite": "emoji", "model": output, "output": output / "evaluation", **judging}
        chain.append(words_of("evaluate", about, {"set": settings}))
        model = str(output)
    return chain


def run_chain(folder: Path, chain: list[list[str]]) -> None:
    """Run a chain from the first command that did not end; RuntimeError with the one that fails.

    A folder whose runs were made by other commands is refused (RuntimeError).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, command in enumerate(chain):
        done, text = folder / f"{number}.done", shlex.join(command[1:])
        if done.exists():
            if done.read_text() != text:
                raise RuntimeError(f"{done} is of other settings: give another --output.")
            continue
        with (folder / f"{number}.log").open("w") as log:
            status = run(command, log)
        if status:
            raise RuntimeError(f"{shlex.join(command)}: see {log.name}")
        done.write_text(text)
        print(f"{folder.name}: {command[3]} {number // 2 + 1}", flush=True)


def rows(output: Path, methods: Iterable[str], trials: int, requests: int) -> list[dict[str, Any]]:
    """A row for each method and number of requests, each value a list over seeds."""
    found = []
    for method in methods:
        for number in range(1, requests + 1):
            row: dict[str, Any] = {"method": method, "requests": number}
            for trial in range(trials):
                folder = place(output, method, trial) / str(number) / "evaluation"
                content = read_json(folder / "metrics.json", dict)
                values = {name: content["metrics"][name]["value"] for name in COLUMNS}
                earlier = content.get("requests", [])[:-1]
                shown, n = (sum(item[name] for item in earlier) for name in ("shown", "n"))
                values["back"] = shown / n if n else None
                for name, value in values.items():
                    row.setdefault(name, []).append(value)
            found.append(row)
    return found


def markdown(table: Iterable[dict[str, Any]]) -> str:
    """The rows in percent, mean ± standard deviation where there are several seeds."""
    heads = ("method", "after", *COLUMNS.values(), "earlier ones shown")
    lines = [f"| {' | '.join(heads)} |", f"|---|---:|{'---:|' * (len(heads) - 2)}"]
    for row in table:
        cells = (_cell(row[name]) for name in (*COLUMNS, "back"))
        lines.append(f"| `{row['method']}` | {row['requests']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{spread}"


def main() -> int:
    """Run all chains, then write and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/emoji-sequence"))
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas")
    parser.add_argument("--jobs", type=int, default=2, help="chains at a time, one thread each")
    parser.add_argument("--trials", type=int, default=1, help="seeds")
    parser.add_argument("--requests", type=int, default=len(REQUESTS), help="of the six")
    parser.add_argument("--slice", action="store_true", help="everything tiny, to see it work")
    given = parser.parse_args()
    methods = given.methods.split(",")
    chains = {
        folder: commands(folder, method, trial, given)
        for trial in range(given.trials)
        for method in methods
        for folder in [place(given.output, method, trial)]
    }
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(run_chain, chains, chains.values()))
    table = rows(given.output, methods, given.trials, given.requests)
    write_json(given.output / "table.json", {"rows": table, "argv": sys.argv[1:]})
    write_text(given.output / "table.md", markdown(table))
    print(markdown(table), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
