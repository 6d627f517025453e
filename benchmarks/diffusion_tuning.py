"""The same small effort for every method: three settings each, on a concept of its own.

    python -m benchmarks.diffusion_tuning --output runs/tuning
    python -m benchmarks.diffusion_tuning --model mini-emoji --concept fox --output runs/tuning-fox

Resumable. What it forgets must not be among what the tables of docs/diffusion.md forget. Prints,
and writes to `choice.json`, the best of each method's three: the highest H where the suite measures
it, else harmonic mean of UA and RA (a method that forgets nothing, or that keeps nothing, has 0),
ties by the lower FID. The choices stand in the methods' files, in `RECIPES["small"]`.
"""

from pathlib import Path
from typing import Any

import click

from erase.files import write_json

GRID: dict[str, tuple[str, ...]] = {
    # LUR's λ was chosen among 0.5, 1 and 3 on "three" when mini-sd was made; λ alone here too.
    "lur": ("@forget_weight=0.25", "@forget_weight=0.5", "@forget_weight=1"),
    "lur-b": ("@forget_weight=0.25", "@forget_weight=0.5", "@forget_weight=1"),
    "lur-guard": ("@forget_weight=0.5", "@forget_weight=1", "@forget_weight=2"),
    "salun": ("@retain_weight=0.5", "@retain_weight=1", "@retain_weight=2"),
    "shs": (
        "@forget_weight=0.5@sparsity=0.999",
        "@forget_weight=0.5@sparsity=0.99",
        "@forget_weight=1@sparsity=0.99",
    ),
    "esd": (
        "@variant=u@learning_rate=3e-5",
        "@variant=x@learning_rate=3e-4",
        "@variant=full@learning_rate=3e-5",
    ),
    "sa": ("@ewc=50", "@ewc=0.5", "@ewc=0.005"),
    "fmn": ("@learning_rate=1e-5", "@learning_rate=3e-5", "@learning_rate=1e-4"),
    "uce": (
        "@variant=current@regularise=0.5",
        "@variant=current@regularise=0.01",
        "@variant=first@preserve_scale=1@regularise=0.01",
    ),
    "erasediff": (
        "@rule=fixed@forget_weight=0.1",
        "@rule=fixed@forget_weight=1",
        "@rule=adaptive@eta=0.3",
    ),
    "ca": (
        "@retain_weight=0",
        "@retain_weight=1@regulariser=anchor",
        "@retain_weight=1@regulariser=retain",
    ),
    "munba": ("@learning_rate=3e-5", "@learning_rate=1e-4", "@learning_rate=3e-4"),
    "advunlearn": (
        "@trainable=text@learning_rate=1e-4",
        "@trainable=text@learning_rate=3e-4",
        "@trainable=xattn@learning_rate=3e-4",
    ),
    "sfr-on": ("@forget_weight=0.5", "@forget_weight=1", "@forget_weight=1@threshold=0.1"),
}


def choose(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The best row of each method by UA and RA, then by FID; runs that failed lose."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        method = row["method"].partition("@")[0]
        if "failed" not in row and (method not in found or _rank(row) < _rank(found[method])):
            found[method] = row
    return found


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    values = {name: summary["value"] for name, summary in row["metrics"].items()}
    ua, ra = values["ua"], values["ra"]
    fid = next(value for name, value in values.items() if name.startswith("fid"))
    return -values.get("h", 2 * ua * ra / (ua + ra or 1.0)), fid


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of runs.")
@click.option("--model", default="mini-sd", show_default=True, help="The model.")
@click.option("--concept", default="nine", show_default=True, help="What is forgotten.")
@click.option("--images", default=20, show_default=True, help="Images a class to judge by.")
@click.option("--methods", default=",".join(GRID), show_default=True, help="Methods.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, …")
def main(output: Path, model: str, concept: str, images: int, methods: str, device: str) -> None:
    """Run three settings of every method on one concept, and choose."""
    from erase.comparison.diffusion import DiffusionComparison
    from erase.comparison.diffusion_report import write_report
    from erase.comparison.entries import diffusion_entries
    from erase.config.compare import CompareDiffusionConfig

    labels = [name + fixed for name in methods.split(",") for fixed in GRID[name]]
    config = CompareDiffusionConfig(model=model, concept=(concept,), images_per_class=images)
    comparing = diffusion_entries(",".join(labels))
    comparison = DiffusionComparison(config, comparing, output, device, click.echo)
    comparison.check()
    rows = comparison.run()
    write_report(output, rows, {"config": config.to_dict()})
    chosen = choose(rows)
    write_json(output / "choice.json", {name: row["method"] for name, row in chosen.items()})
    for name, row in chosen.items():
        values = {key: summary["value"] for key, summary in row["metrics"].items()}
        click.echo(f"{name}: {row['method']}  UA {values['ua']:.3f} RA {values['ra']:.3f}")


if __name__ == "__main__":
    main()
