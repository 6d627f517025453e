"""The commands in README and docs name commands and options that exist."""

import re
import shlex
from pathlib import Path

import click
import pytest

from erase.cli.main import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:\.venv/bin/)?(?:accelerate launch -m )?erase ((?:[^\s`…]|[ ](?!#))+.*)")


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^ {4}(.+)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
        for line in blocks:
            match = re.fullmatch(COMMAND, line.strip())
            if match:
                found.append((page.name, match[1].replace("…", "").strip()))
    return found


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize(("page", "line"), commands())
def test_documented_command_exists(page: str, line: str) -> None:
    words = shlex.split(line)
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"{page}: erase has no command {name!r}"
        command = found
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{page}: {line}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    assert not re.findall(r"\b[A-Z]+_TABLE\b|\bTABLE_[A-Z_]+\b|\bTODO\b", page.read_text())
