"""`erase export`: write a run's result as a file that A1111, ComfyUI and others open."""

from pathlib import Path

import click

from erase.cli.command import PathType, command, option
from erase.config.limits import RANK


@command()
@click.argument("run", metavar="DIR", type=PathType())
@option(
    "--format",
    "kind",
    type=click.Choice(["single-file", "unet", "vae", "lora", "diff"]),
    required=True,
    help="A whole checkpoint, its UNet or VAE alone, a LoRA (kohya), or the difference to the base"
    " (LyCORIS).",
)
@option("--output", type=PathType(), required=True, help="The .safetensors file.")
@option(
    "--dtype",
    type=click.Choice(["fp16", "bf16", "fp32", "fp8"]),
    help="Precision of the weights; fp8 is for the UNet of single-file and unet.  [default: fp32"
    " for diff, else fp16]",
)
@option(
    "--rank",
    type=click.IntRange(1, RANK),
    help="Rank of a LoRA taken from a run that trained the weights.  [default: 16]",
)
@option(
    "--common-layers",
    is_flag=True,
    help="LoRA: leave out the layers that kohya's scripts and diffusers 0.32 do not know.",
)
@option(
    "--baseline",
    "base",
    former=("base",),
    help="Folder or hub id of the original.  [default: what the record says]",
)
@option("--overwrite", is_flag=True, help="Replace an existing file.")
def export(
    run: Path,
    kind: str,
    output: Path,
    dtype: str | None,
    rank: int | None,
    common_layers: bool,
    base: str | None,
    overwrite: bool,
) -> None:
    """Write the result of the run in DIR as one file for other tools.

    \b
    erase export runs/three --format single-file --output three.safetensors
    erase export runs/three --format lora --output three-lora.safetensors
    """
    from erase.runs.checks import check_not_among
    from erase.runs.manifest import check_model

    check_not_among(output, run)
    if (run / "model_index.json").is_file():
        check_model(run, "lora")
    from erase.export.export import export as write

    written = write(
        run,
        output,
        kind=kind,
        dtype=dtype,
        rank=rank,
        common_layers=common_layers,
        base=base,
        overwrite=overwrite,
    )
    click.echo(f"Saved {written.path}: {written.tensors} tensors, {written.bytes / 1e6:.1f} MB.")
    for note in written.notes:
        click.echo(f"Note: {note}")
    if written.residual is not None:
        click.echo(
            f"The LoRA leaves out {written.residual:.1%} of the change (‖ΔW − BA‖ / ‖ΔW‖ over all"
            " weights)." + (" The layers that lose most:" if written.residuals else "")
        )
        worst = sorted(written.residuals.items(), key=lambda item: -item[1])[:5]
        for name, value in worst:
            click.echo(f"  {value:.1%}  {name}")
