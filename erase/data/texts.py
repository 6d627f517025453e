"""Text that people bring, as prompts, captions and tables: one reader for all of it.

What a file may hold at all, and in which encoding, is decided in `erase.reading`.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.errors import InputError
from erase.files import read_jsonl
from erase.reading import read_text
from erase.scoring.names import plain

ROWS = 1_000_000
"""Most rows of a table, and most prompts of a text."""
TABLES = (".csv", ".tsv")
"""Suffixes of tables; `.gz` may follow."""
PROMPT = ("prompt", "text", "caption")
"""Names of the column, or of the key, that holds a prompt or caption."""
ANCHOR = "anchor"
"""Name of the column, or of the key, that holds what to show instead of the row's prompt."""
Anchors = tuple[str, ...]
"""The prompts to show instead of one forget prompt; one is drawn per sample."""
_NOT_LINES = (".json", ".yaml", ".yml", ".parquet", ".arrow", ".xlsx", ".xls", ".ods", ".xml")


@dataclass(frozen=True)
class Table:
    """A CSV table: its header, and for each row below the number of its first line."""

    file: Path
    header: tuple[str, ...]
    """Lower-case names of the columns, without spaces around them."""
    rows: tuple[tuple[int, tuple[str, ...]], ...]


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name, in any case, gzipped or not."""
    return path.name.lower().removesuffix(".gz").endswith(TABLES)


def read_csv(path: Path) -> Table:
    """A table with a header; its columns are separated by commas, semicolons or tabs.

    Raises InputError as `read_text`, for quotes that do not match (with the number of the line
    that the row begins in), and for a table without a row.
    """
    text = read_text(path, kind="a CSV table")
    header = text.lstrip().split("\n", 1)[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), strict=True, delimiter=max(",;\t", key=header.count)
    )
    lines = list(_lines(path, reader))
    if len(lines) < 2:
        raise InputError(f"{path} holds no row below a header.", "Give a table of prompts.")
    names = tuple(name.strip().casefold() for name in lines[0][1])
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise InputError(f"{path} has two columns {twice[0]!r}.", "Rename or remove one of them.")
    return Table(path, names, tuple(lines[1:]))


def _lines(path: Path, reader: Any) -> Iterator[tuple[int, tuple[str, ...]]]:
    count = 0
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}, line {number}: cannot be read as a CSV table ({error}).",
                'Put fields with quotes or commas into quotes, and double the quotes in them: "".',
            ) from error
        if row is None:
            return
        if row:
            count += 1
            _check_count(path, count)
            yield number, tuple(row)


def _check_count(path: Path, count: int) -> None:
    if count > ROWS:
        raise InputError(f"{path} has more than {ROWS:,} rows.", "Give a part of it.")


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers, of a table or of JSON lines (`.jsonl`).

    Raises InputError for a line that is no JSON object, or a row of another length than the header.
    """
    if is_table(path):
        table = read_csv(path)
        for number, row in table.rows:
            if len(row) != len(table.header):
                raise InputError(
                    f"{path}, line {number} has {len(row)} fields instead of {len(table.header)}.",
                    "Correct the line.",
                )
        return [(n, dict(zip(table.header, row, strict=True))) for n, row in table.rows]
    text = read_text(path, kind="text")
    lines = [n for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows: Sequence[Any] = read_jsonl(path, Any)
    if len(rows) < len(lines):  # `read_jsonl` takes it for a write that was cut short
        raise InputError(f"{path}, line {lines[len(rows)]} is not JSON.", "Correct the line.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, row {number} is no JSON object but {json.dumps(row)[:60]}.",
                'Write each line as {"name": "value"}.',
            )
    return list(zip(lines, rows, strict=True))


def prompt_of(row: Mapping[str, Any]) -> str | None:
    """The prompt of a row, under the first of the names in `PROMPT` that it has; None without."""
    values = (row[name] for name in PROMPT if name in row)
    return next((value for value in values if value is not None), None)


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Prompts of a text file, one a line, or those of a table's or JSON lines' prompt column.

    Raises InputError for a file that is missing, empty or of another kind, and, with its line, for
    a row without a prompt.
    """
    path = Path(path)
    rows = _prompt_rows(path)
    texts = (
        list(read_text(path, kind="text").splitlines())
        if rows is None
        else [text for _, _, text in rows]
    )
    _check_count(path, len(texts))
    prompts = tuple(text.strip() for text in texts if text.strip())
    if not prompts:
        raise InputError(f"{path} holds no prompt.", "Write one prompt a line.")
    return prompts


def read_pairs(path: str | Path) -> tuple[tuple[str, ...], tuple[Anchors, ...] | None]:
    """Prompts as `read_prompts`, and for each of them its anchors, from the column `anchor`.

    The anchors are None where the file has no such column. Rows with the same prompt give one
    prompt with several anchors; in JSON lines, `anchor` may also be a list. Raises InputError as
    `read_prompts`, and, with its line, for a row without an anchor where others have one, and for
    an anchor that is itself a prompt of the file.
    """
    path = Path(path)
    prompts = read_prompts(path)
    rows = _prompt_rows(path)
    if rows is None or not any(ANCHOR in row for _, row, _ in rows):
        return prompts, None
    forgotten = {plain(prompt) for prompt in prompts}
    anchors: dict[str, list[str]] = {}
    for number, row, prompt in rows:
        given = row.get(ANCHOR)
        for text in given if isinstance(given, list) and given else [given]:
            if not isinstance(text, str) or not text.strip():
                raise InputError(
                    f"{path}, line {number} has no anchor.",
                    "Fill in the anchor of every row, or remove the column and give --anchor.",
                )
            if plain(text) in forgotten:
                raise InputError(
                    f"{path}, line {number}: the anchor {text.strip()!r} is to be forgotten too.",
                    "Give another one; an anchor is what to show instead of a prompt.",
                )
            anchors.setdefault(prompt, []).append(text.strip())
    return tuple(anchors), tuple(tuple(dict.fromkeys(texts)) for texts in anchors.values())


def _prompt_rows(path: Path) -> list[tuple[int, dict[str, Any], str]] | None:
    """Line number, row and prompt of a table or of JSON lines; None for a file of other text."""
    if path.suffix.lower() in _NOT_LINES:
        raise InputError(
            f"{path} is no list of prompts.",
            "Give a text file with one prompt a line, or a .csv or .jsonl file with a column"
            " prompt.",
        )
    if not is_table(path) and path.suffix.lower() != ".jsonl":
        return None
    rows = []
    for number, row in read_rows(path):
        text = prompt_of(row)
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{path}, line {number} has no prompt.",
                f"Its columns: {', '.join(row)}. Give one called prompt, and fill it in.",
            )
        rows.append((number, row, text.strip()))
    return rows
