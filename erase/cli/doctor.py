"""`erase doctor`: what is there, what is missing, and the command that fetches it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from erase.errors import EraseError

if TYPE_CHECKING:
    from erase.cli.inventory import Item

EMBEDDED_SHA256 = {
    "mini-sd": "31418554c9e2b61d08464ccd1d8970c99e87507cadad60ab91aea33edc820193",
    "digits-classifier": "5e2efadf91e8c197ace792c46a004b3ac91723039fb506bb913f54f20c8af9d9",
    "nudenet": "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
}
"""Over the weights and configurations that come with erase, and of nudenet 3.4.2's network."""
OK, MISSING, BROKEN, NOTE = "ok", "missing", "broken", "note"
MARKS = {OK: "[green]ok[/]", MISSING: "[yellow]missing[/]", BROKEN: "[red]broken[/]", NOTE: ""}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    group: str
    """`system`, `libraries`, `package` or `data`."""
    name: str
    state: str
    """`ok`, `missing`, `broken`, or `note` for what is neither good nor bad."""
    detail: str = ""
    remedy: str = ""
    needed: bool = True
    """Whether this fails the command when it is not ok."""


@click.command()
@click.option("--suite", "suites", multiple=True, help="Check what a suite needs.")
@click.option("--model", "models", multiple=True, help="Check a model: alias, hub id or folder.")
@click.option("--metric", "metrics", multiple=True, help="Check what a metric needs.")
@click.option("--weights", multiple=True, metavar="NAME", help="Check a weight file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    suites: tuple[str, ...],
    models: tuple[str, ...],
    metrics: tuple[str, ...],
    weights: tuple[str, ...],
    as_json: bool,
) -> None:
    r"""Say what is there, what is missing, and the command that fetches it. Needs no network.

    Exit code 0 when the installation is sound and what was asked for is there, else 1. Without an
    option the weights that erase knows are listed, and none is asked for.

    \b
    erase doctor --suite i2p --model sd-1.4
    """
    from erase.cli.inventory import wanted, weight_names

    asked = bool(suites or models or metrics or weights)
    items = wanted(suites, models, metrics, weights if asked else weight_names())
    findings = [*_system(), *_libraries(), *_package(), *(_item(i, needed=asked) for i in items)]
    failed = [f for f in findings if f.needed and f.state in (MISSING, BROKEN)]
    if as_json:
        content = {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(content, indent=2))
    else:
        _show(findings)
        click.echo(f"{len(failed)} to mend." if failed else "All is well.")
    if failed:
        raise click.exceptions.Exit(1)


def _system() -> Iterator[Finding]:
    import psutil
    from huggingface_hub import constants

    from erase.artifacts.fetching import cache_root

    yield Finding("system", "Python", OK, platform.python_version())
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("system", "processor", OK, f"{platform.machine()}, {cores} cores")
    used = f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free"
    yield Finding("system", "memory", OK, used)
    yield from _devices()
    root = cache_root()
    here = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(here).free
    writable = os.access(here, os.W_OK)
    yield Finding(
        "system",
        "cache",
        OK if writable else BROKEN,
        f"{root}, {free / 1e9:.0f} GB free" if writable else f"{here} may not be written to",
        "" if writable else "Set ERASE_CACHE to another folder.",
    )
    offline = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "online"
    yield Finding("system", "hub", NOTE, f"{offline}, cache {constants.HF_HUB_CACHE}")


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("system", "devices", BROKEN, f"torch: {error}", "Install torch again.")
        return
    found = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            found.append(f"cuda:{number} {name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    if torch.backends.mps.is_available():
        found.append("mps")
    yield Finding("system", "devices", OK, "; ".join([*found, "cpu"]))


def requirements() -> list[str]:
    """The libraries that erase asks for, from the source tree or the installed package."""
    source = Path(__file__).parent.parent.parent / "pyproject.toml"
    if source.is_file():
        project = tomllib.loads(source.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "erase":
            return list(project["dependencies"])
    return [line for line in importlib.metadata.requires("erase") or [] if "extra ==" not in line]


def _libraries() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    for line in sorted(requirements()):
        wanted = Requirement(line)
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            remedy = f"pip install '{line}'"
            yield Finding("libraries", wanted.name, MISSING, str(wanted.specifier), remedy)
            continue
        fits = wanted.specifier.contains(version, prereleases=True)
        detail = version if fits else f"{version}, needed {wanted.specifier}"
        remedy = "" if fits else f"pip install '{line}'"
        yield Finding("libraries", wanted.name, OK if fits else BROKEN, detail, remedy)


def _package() -> Iterator[Finding]:
    from erase.data.prompts import prompts_hash, prompts_root, read_class_list

    for name, expected in EMBEDDED_SHA256.items():
        try:
            right = embedded_sha256(name) == expected
        except (EraseError, OSError) as error:
            yield Finding("package", name, BROKEN, str(error), "Install it again.")
            continue
        if name == "nudenet" and not right:
            detail = "another network than 3.4.2's: its numbers may not compare"
            yield Finding("package", name, NOTE, detail)
        elif right:
            yield Finding("package", name, OK, f"sha256 {expected[:12]}…")
        else:
            detail = "its files are not those that came with erase"
            yield Finding("package", name, BROKEN, detail, "Install erase again.")
    try:
        root = prompts_root()
        count = len([read_class_list(file) for file in sorted(root.glob("*.yaml"))])
        detail = f"{count} class lists, sha256 {prompts_hash(root)[:12]}…"
        yield Finding("package", "prompts", OK if count else MISSING, detail)
    except (EraseError, OSError) as error:
        yield Finding("package", "prompts", BROKEN, str(error), "Install erase again.")


def embedded_sha256(name: str) -> str:
    """SHA-256 of what an entry of `EMBEDDED_SHA256` stands for, as it lies here."""
    from erase.files import hash_file, hash_files

    if name == "nudenet":
        from erase.cli.inventory import nudenet

        return hash_file(nudenet().find())
    folder = Path(__file__).parent.parent / "embedded" / "assets" / name
    files = [file for file in folder.rglob("*") if file.suffix in (".json", ".safetensors")]
    return hash_files(files, folder)


def _item(item: Item, *, needed: bool) -> Finding:
    try:
        where = item.find()
    except EraseError as error:
        there = "not on this machine" in error.message
        state = MISSING if there or not item.command else BROKEN
        size = f"; about {_size(item)}" if item.fetch else ""
        detail = error.message if needed else item.what + size
        return Finding("data", item.name, state, detail, item.command or error.remedy, needed)
    return Finding("data", item.name, OK, str(where), "", needed)


def _size(item: Item) -> str:
    from erase.cli.inventory import size_text

    return size_text(item.size)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for group in ("system", "package", "libraries", "data"):
        rows = [finding for finding in findings if finding.group == group]
        if group == "libraries" and all(row.state == OK for row in rows):
            listed = ", ".join(f"{row.name} {row.detail}" for row in rows)
            rows = [Finding(group, f"all {len(rows)}", OK, listed)]
        if not rows:
            continue
        table = Table(title=group, title_justify="left", title_style="bold", box=None)
        table.add_column("", no_wrap=True, min_width=17)
        table.add_column("", no_wrap=True, min_width=7)
        table.add_column("", overflow="fold")
        table.show_header = False
        for row in rows:
            remedy = f"[cyan]{escape(row.remedy)}[/]" if row.remedy else ""
            text: list[Any] = [part for part in (escape(row.detail), remedy) if part]
            table.add_row(escape(row.name), MARKS[row.state], "\n".join(text))
        console.print(table)
        console.print()
