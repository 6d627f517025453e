"""Every digit as the concept, LUR and LUR-b at the same number of steps: docs/mini-sd.md.

    python -m benchmarks.digits_table --output runs/digits-table

Resumable: what is finished in the output folder is not done again. Writes `table.md` and
`table.json` there.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import click

from erase.config.concept import ConceptConfig
from erase.config.resolve import resolve
from erase.data.captioned import METADATA
from erase.data.prompts import prompts_root, read_class_list
from erase.files import read_json, read_jsonl, write_json, write_text

METHODS = ("lur", "lur-b")
SETS = ("forget", "retain")


def run_one(method: str, concept: str, output: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Erase one digit and evaluate; the row of the table, also written beside the run."""
    from erase.config.evaluate import EvaluateConfig
    from erase.evaluation.run import evaluate
    from erase.training.concept import erase_concept

    folder, first = output / f"{method}-{concept}", output / f"{METHODS[0]}-{concept}" / "data"
    if method != METHODS[0] and all((first / name / METADATA).exists() for name in SETS):
        # The same images for both, rendered once.
        images = {f"{name}_images": str(first / name) for name in SETS}
        changes = {**changes, **images}
    given = {"model": "mini-sd", "concept": concept, "method": method, **changes}
    config = resolve(ConceptConfig, given, None)
    erase_concept(config, folder, resume="latest", device="cpu")
    result = evaluate(EvaluateConfig(model=str(folder), output=str(folder / "evaluation")))
    found, base = result.metrics["metrics"], result.metrics["baseline"]
    fid = next(name for name in found if name.startswith("fid"))
    rows = read_jsonl(folder / "log.jsonl")
    row = {
        "concept": concept,
        "method": method,
        "ua": found["ua"]["value"],
        "ra": found["ra"]["value"],
        "ra_base": base["ra"]["value"],
        "fid": found[fid]["value"],
        "fid_base": base[fid]["value"],
        "cosine": statistics.mean(row["cosine"] for row in rows),
    }
    write_json(folder / "row.json", row)
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, with the mean of each method."""
    lines = [
        "| concept | method | UA % | RA % | RA − base | FID | FID / base | mean cosine |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    means = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        keys = ("ua", "ra", "ra_base", "fid", "fid_base", "cosine")
        mean = {key: statistics.mean(row[key] for row in mine) for key in keys}
        means.append({"method": method, "concept": "**mean**", **mean})
    for row in [*rows, *means]:
        lines.append(
            f"| {row['concept']} | {row['method']} | {100 * row['ua']:.1f} | {100 * row['ra']:.1f}"
            f" | {100 * (row['ra'] - row['ra_base']):+.1f} | {row['fid']:.3f}"
            f" | {row['fid'] / row['fid_base']:.2f} | {row['cosine']:+.3f} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of runs.")
@click.option("--concepts", help="Comma-separated digits; default: all ten.")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="Methods.")
@click.option("--set", "changes", multiple=True, help="NAME=VALUE, another setting for all runs.")
def main(output: Path, concepts: str | None, methods: str, changes: tuple[str, ...]) -> None:
    """Erase every digit with every method and write the table."""
    import yaml

    given = dict(change.split("=", 1) for change in changes)
    settings = {name: yaml.safe_load(value) for name, value in given.items()}
    known = read_class_list(prompts_root() / "digits.yaml").names
    for concept in concepts.split(",") if concepts else known:
        for method in methods.split(","):
            began = time.perf_counter()
            row = run_one(method, concept, output, settings)
            click.echo(f"{row} {time.perf_counter() - began:.0f} s")
    # Of all runs in the folder, so that several of these commands can share the work.
    found = [read_json(path) for path in output.glob("*/row.json")]
    rows = sorted(found, key=lambda row: (known.index(row["concept"]), row["method"] != METHODS[0]))
    write_json(output / "table.json", rows)
    write_text(output / "table.md", markdown(rows))
    click.echo(markdown(rows))


if __name__ == "__main__":
    main()
