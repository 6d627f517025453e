"""Prompts as CSV tables, the usual format of public prompt sets: read, check, make samples.

Public prompt sets belong to others and are never stored in the project: they are given as a file
(`--prompt-table FILE.csv`, gzipped or not) or fetched from the hub into its cache.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from erase.artifacts import hub
from erase.core.rng import derive_seed
from erase.data.prompts import prompts_hash, prompts_root
from erase.data.texts import is_table, read_csv
from erase.errors import InputError, MissingError
from erase.files import hash_file
from erase.scoring.samples import Protocol, Sample, Unusable
from erase.scoring.suite import Suite

COLUMNS = {
    "prompt": ("prompt",),
    "seed": ("seed", "evaluation_seed", "sd_seed"),
    "guidance": ("guidance", "evaluation_guidance", "sd_guidance_scale"),
    "target": ("target", "class"),
    "negative_prompt": ("negative_prompt",),
    "categories": ("categories",),
    "nudity": ("nudity_percentage",),
}
"""Spellings of each column: in this project, in the papers' CSV files, on the hub."""
NUMBERS = ("seed", "guidance", "nudity")
"""Columns that hold numbers."""


@dataclass(frozen=True)
class PromptRow:
    """One usable row."""

    number: int
    """Position among all rows of the file, from 0."""
    prompt: str
    seed: int | None = None
    guidance: float | None = None
    target: str = ""
    negative_prompt: str = ""
    categories: tuple[str, ...] = ()
    nudity: float | None = None
    """Percent."""


@dataclass(frozen=True)
class PromptTable:
    """The content of a CSV file."""

    file: Path
    columns: frozenset[str]
    """The keys of `COLUMNS` that the file has, in any spelling."""
    rows: tuple[PromptRow, ...]
    unusable: tuple[Unusable, ...]

    def where(self, keep: Callable[[PromptRow], bool]) -> tuple[PromptRow, ...]:
        """The rows that `keep` accepts; InputError when it accepts none."""
        rows = tuple(row for row in self.rows if keep(row))
        if not rows:
            raise InputError(f"No row of {self.file.name} fits the selection.", "Widen it.")
        return rows

    def need(self, column: str) -> None:
        """Raise InputError unless the file has the column, in one of its spellings."""
        if column not in self.columns:
            raise InputError(
                f"{self.file} has no column {' or '.join(COLUMNS[column])}.",
                "Give a file with it, or leave out the option that asks for it.",
            )


def prompt_source(override: str | None) -> Path:
    """Where prompts come from: a CSV file, or the folder of prompt files (`prompts_root`).

    Raises InputError when the path is neither.
    """
    if override is not None:
        path = Path(override)
        if path.is_file() or is_table(path):
            if not path.is_file() or not is_table(path):
                why = "does not exist" if not path.exists() else "is no .csv or .csv.gz file"
                raise InputError(f"{path} {why}.", "Give a CSV file with a column prompt.")
            return path
    return prompts_root(override)


def source_hash(source: Path) -> str:
    """SHA-256 of the CSV file, or over the folder's prompt files."""
    return hash_file(source) if source.is_file() else prompts_hash(source)


def built_in(source: Path) -> Path:
    """The folder of prompt files for a source: the source itself, or the project's own."""
    return source if source.is_dir() else prompts_root()


def suite_table(suite: Suite, prompts: Path, numbers: Sequence[str] = NUMBERS) -> PromptTable:
    """The prompt table of a suite: the user's file, else the suite's own on the hub.

    The latter comes from the local cache, else it is downloaded. `numbers` are the columns of
    numbers that the suite reads. Raises MissingError, with what to do, when there is neither.
    """
    if prompts.is_file():
        return read_table(prompts, numbers)
    give = "--prompt-table FILE.csv, a table with a column prompt."
    if suite.hub is None:
        raise MissingError(f"The suite {suite.name} needs a table of prompts.", f"Give {give}")
    repository, file = suite.hub
    try:
        path = hub.first_of(
            partial(hub.dataset_file, repository, file, local=local) for local in (True, False)
        )
    except hub.HubError as error:
        raise MissingError(
            f"The suite {suite.name} needs the table {file} of the hub data set {repository}, which"
            f" is not on this machine and could not be fetched ({error.reason}).",
            f"With network: erase fetch --suite {suite.name}; or give {give}",
        ) from error
    return read_table(path, numbers)


def read_table(file: Path, numbers: Sequence[str] = NUMBERS) -> PromptTable:
    """Read a prompt table, `.csv` or `.csv.gz`, with or without a byte-order mark.

    `unusable` lists rows without a prompt, of another length than the header, or whose numbers
    cannot be read. Raises InputError when the file is missing, empty, no CSV, or has no prompt
    column or no usable row.

    Args:
        file: the table.
        numbers: of `NUMBERS`, the columns that the suite reads; the others may hold anything.
    """
    try:
        state = file.stat()
    except OSError:
        raise InputError(f"{file} does not exist.", "Check the path.") from None
    return _read(file, tuple(numbers), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _read(file: Path, numbers: tuple[str, ...], _modified: int, _size: int) -> PromptTable:
    table = read_csv(file)
    places = {
        column: table.header.index(spelling)
        for column, spellings in COLUMNS.items()
        for spelling in reversed(spellings)
        if spelling in table.header
    }
    if "prompt" not in places:
        raise InputError(
            f"{file} has no column prompt.", f"Its columns: {', '.join(table.header) or 'none'}."
        )
    rows, unusable = [], []
    for number, (_, line) in enumerate(table.rows):
        if len(line) != len(table.header):
            why = f"{len(line)} fields instead of {len(table.header)}"
            unusable.append(Unusable(number, why))
            continue
        values = {column: line[place].strip() for column, place in places.items()}
        read = {k: v for k, v in values.items() if k not in NUMBERS or k in numbers}
        try:
            rows.append(_row(number, read))
        except ValueError as error:
            unusable.append(Unusable(number, str(error), values["prompt"]))
    if not rows:
        raise InputError(
            f"No row of {file} can be used: {unusable[0].why}.", "Correct the file's rows."
        )
    return PromptTable(file, frozenset(places), tuple(rows), tuple(unusable))


def _row(number: int, values: Mapping[str, str]) -> PromptRow:
    """A row of checked values; ValueError says what is wrong."""
    if not values["prompt"]:
        raise ValueError("no prompt")
    guidance = _number(values, "guidance")
    if guidance is not None and guidance < 1:
        raise ValueError(f"the guidance {values['guidance']} is below 1, which is none")
    names = values.get("categories", "").split(",")
    return PromptRow(
        number=number,
        prompt=values["prompt"],
        seed=_seed(values.get("seed", "")),
        guidance=guidance,
        target=values.get("target", ""),
        negative_prompt=values.get("negative_prompt", ""),
        categories=tuple(name.strip() for name in names if name.strip()),
        nudity=_number(values, "nudity"),
    )


def _number(values: Mapping[str, str], column: str) -> float | None:
    text = values.get(column, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"the {column} {text!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"the {column} {text!r} is no number")
    return number


def _seed(text: str) -> int | None:
    """A whole number with all its digits; a float would round it beyond 2⁵³."""
    if not text:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"the seed {text!r} is no number") from None
    if not number.is_finite() or not 0 <= number < 2**63 or number != number.to_integral_value():
        raise ValueError(f"the seed {text} is no whole number from 0 to 2⁶³ - 1")
    return int(number)


def table_samples(
    rows: Sequence[PromptRow], protocol: Protocol, *, row_guidance: bool
) -> list[Sample]:
    """`len(rows) * protocol.images` samples, in the order of the rows.

    The first image of a row uses the row's own seed, as the papers do, if it has one and the
    protocol's seed is 0. Every other image uses a seed derived from the protocol's seed, the row
    number and the image's number. With `row_guidance`, a row's own guidance scale is used.
    """
    samples = []
    for row in rows:
        for number in range(protocol.images):
            seed = derive_seed("evaluate", protocol.suite, protocol.seed, row.number, number)
            if row.seed is not None and number == 0 and protocol.seed == 0:
                seed = row.seed
            scale = row.guidance if row_guidance else None
            samples.append(
                Sample(
                    id=f"{row.number:05d}" + (f"-{number}" if protocol.images > 1 else ""),
                    prompt=row.prompt,
                    seed=seed,
                    target=row.target,
                    guidance=protocol.guidance if scale is None else scale,
                    negative_prompt=row.negative_prompt,
                )
            )
    return samples


def class_samples(
    protocol: Protocol,
    names: Sequence[str],
    captions: Callable[[int], Sequence[str]],
    *,
    digits: int = 4,
) -> list[Sample]:
    """`len(names) * protocol.images` samples, class by class.

    Args:
        protocol: of the suite that the seeds derive from.
        names: of the classes, in label order.
        captions: returns the captions of a label; they are taken in turn.
        digits: number of digits for the image's number within its class, in the sample's id.
    """
    samples = []
    for label, name in enumerate(names):
        prompts = captions(label)
        samples += [
            Sample(
                id=f"{label}-{number:0{digits}d}",
                prompt=prompts[number % len(prompts)],
                seed=derive_seed("evaluate", protocol.suite, protocol.seed, label, number),
                target=name,
                guidance=protocol.guidance,
            )
            for number in range(protocol.images)
        ]
    return samples


def listed(unusable: Sequence[Unusable]) -> list[dict[str, Any]]:
    """Unusable rows as a record holds them."""
    return [{"row": item.row, "why": item.why, "prompt": item.prompt[:200]} for item in unusable]
