"""What README, CONTRIBUTING and docs name exists: commands, options, targets, files, rooms."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from erase.cli.main import main
from tests.test_layers import RANKS

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )*"  # settings of the environment
    r"(?:\.venv/bin/)?(?:accelerate launch (?:--?\w+ (?:\d+ )?)*-m )?"
    r"erase ((?:[^\s`…]|[ ](?!#))+.*)"
)


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code(page: Path) -> list[str]:
    """Lines of indented blocks, continued lines joined, and all that stands in backticks."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^ {4}(.+)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    return [line.strip() for line in found]


def commands() -> list[tuple[str, str]]:
    matches = [(title(page), re.fullmatch(COMMAND, line)) for page in PAGES for line in code(page)]
    return [(page, match[1].replace("…", "").strip()) for page, match in matches if match]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 100
    pages = {page for page, _ in commands()}
    assert {"README.md", "docs/troubleshooting.md", "docs/architecture.md"} <= pages


@pytest.mark.parametrize(
    "line",
    [
        "HF_HUB_OFFLINE=1 ERASE_CACHE=DIR erase doctor --suite digits",
        "accelerate launch --cpu --num_processes 2 -m erase evaluate --suite digits",
        "erase doctor  # what is there",
    ],
)
def test_a_command_is_known_as_one(line: str) -> None:
    assert re.fullmatch(COMMAND, line)


@pytest.mark.parametrize(("page", "line"), commands())
def test_documented_command_exists(page: str, line: str) -> None:
    words = shlex.split(re.split(r"\\?\|", line)[0], comments=True)  # a pipe ends it
    command: click.Command = main
    if words[:1] == ["--processes"]:  # of the program, before the command
        del words[:2]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        subcommand = command.get_command(click.Context(command), name)
        assert subcommand is not None, f"{page}: erase has no command {name!r}"
        command = subcommand
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{page}: {line}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_documented_targets_and_modules_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in code(page):
        if match := re.match(r"make ([a-z-]+)\b", line):
            assert match[1] in targets, f"{title(page)}: make has no target {match[1]}"
        if match := re.search(r"python -m (benchmarks\.\w+)", line):
            module = ROOT / f"{match[1].replace('.', '/')}.py"
            assert module.is_file(), f"{title(page)}: there is no {match[1]}"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{title(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_into_a_page_name_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        other = page.parent / target if target else page
        headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
        }
        assert anchor in anchors, f"{title(page)} links to {target}#{anchor}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=title)
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    assert not re.findall(r"\b[A-Z]+_TABLE\b|\bTABLE_[A-Z_]+\b|\bTODO\b", page.read_text())


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    assert linked == {page.name for page in DOCS} - {"README.md"}


def test_the_documented_ranks_are_those_that_hold() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    page = page.partition("## Rooms and ranks")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", page, re.MULTILINE)
    table = [(room, int(rank)) for rank, rooms in rows for room in re.findall(r"`(\w+)`", rooms)]
    assert dict(table) == RANKS
    assert len(table) == len(RANKS)


def test_the_explained_messages_are_those_that_are_printed() -> None:
    texts = {
        node.value
        for path in (ROOT / "erase").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page.partition("## Messages")[2], re.MULTILINE)
    assert messages
    for message in messages:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            assert any(part in text for text in texts), f"nothing says {part!r}"
