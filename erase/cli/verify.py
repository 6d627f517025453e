"""`erase verify`: check what a command left against the hashes that it wrote."""

from pathlib import Path

import click

from erase.cli.command import PathType, command


@command()
@click.argument("path", metavar="DIR|FILE", type=PathType())
def verify(path: Path) -> None:
    """Name every file that is missing, changed or unknown in what a command left.

    DIR is the folder of a run, a checkpoint, an evaluation, a classifier or a comparison; FILE is a
    file of erase export. Every file is read and compared with the SHA-256 that was written
    beside it. The exit code is 0 when all is as it was, else 1.

    \b
    erase verify runs/three
    erase verify runs/three/evaluation-digits
    erase verify three.safetensors
    """
    from erase.runs.verify import verify as check

    result = check(path)
    for finding in result.findings:
        click.echo(f"{finding.state}  {finding.path}")
    for folder in result.unfinished:
        click.echo(f"{folder} is not finished; its last files have no hash yet.")
    if result.findings:
        count = len(result.findings)
        click.echo(f"{path}: {count} {'file is' if count == 1 else 'files are'} not as written.")
        raise click.exceptions.Exit(1)
    click.echo(f"{path}: {result.files} {'file is' if result.files == 1 else 'files are'} whole.")
