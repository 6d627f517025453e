"""The one grammar of values given as texts.

    NAME=VALUE                              a setting
    METHOD.NAME=VALUE, METRIC.NAME=VALUE    a setting of one method, or of one metric
    METHOD[+VARIANT…][@NAME=VALUE…]         a line of a comparison, with settings fixed for it

Names may be spelt with dashes or underscores. Values stay texts until it is known what they are
settings of (`erase.config.fields`).
"""

import contextlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from erase.errors import InputError
from erase.reading import parse_yaml

LONGEST, LONGEST_NAME = 4096, 255
"""Most characters of a text, and most bytes of a name in a path."""


@dataclass(frozen=True)
class LineSpec:
    """A line of a comparison as it was written: a method, its variants, its own settings."""

    label: str
    method: str
    variants: tuple[str, ...]
    settings: Mapping[str, str]


def read_value(text: str) -> Any:
    """A number, a word, true, false or null; ContentError where YAML cannot read the text."""
    value = parse_yaml(text, finite=False)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML takes 1e-3 for a word
    return value


def unusable_text(text: str, *, path: bool = False) -> str:
    """Why a text cannot be used as a value, to follow "which"; empty where it can.

    Control characters would reach the terminal and the reports. A name in a path may have 255
    bytes.
    """
    if len(text) > LONGEST:
        return f"has more than {LONGEST:,} characters"
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r" for c in text):
        return "holds a control character, or bytes that are no text"
    if path and any(len(name.encode()) > LONGEST_NAME for name in text.split("/")):
        return f"holds a name of more than {LONGEST_NAME} bytes, which no file has"
    return ""


def parse_pairs(texts: Iterable[str]) -> dict[str, str]:
    """What `NAME=VALUE` texts say, the last of a name; InputError for another form."""
    return dict(
        _pair(text, f"--set {text} is not NAME=VALUE.", "alpha=0.01", "--set ") for text in texts
    )


def parse_owned(
    texts: Iterable[str], *, owner: str = "METHOD", example: str = "ft.learning_rate=0.1"
) -> dict[str, dict[str, str]]:
    """What `OWNER.NAME=VALUE` texts say, by owner.

    Args:
        texts: as they were given to `--set`.
        owner: what the part before the dot is, for the message.
        example: shown where a text has another form.

    Raises:
        InputError: a text of another form.
    """
    values: dict[str, dict[str, str]] = {}
    for text in texts:
        wrong = f"--set {text} is not {owner}.NAME=VALUE."
        left, value = _pair(text, wrong, example, "--set ")
        name, dot, setting = left.partition(".")
        if not (dot and name and setting):
            raise InputError(wrong, f"Write e.g. --set {example}.")
        # A method's name keeps its dashes.
        values.setdefault(text.partition(".")[0].strip(), {})[setting] = value
    return values


def parse_line(text: str) -> LineSpec:
    """What `METHOD[+VARIANT…][@NAME=VALUE…]` says; InputError for another form."""
    body, *fixed = text.split("@")
    method, *variants = body.split("+")
    wrong = f"{text} is not METHOD@NAME=VALUE."
    pairs = [_pair(pair, wrong, "esd@variant=x") for pair in fixed]
    return LineSpec(text, method, tuple(variants), dict(pairs))


def _pair(text: str, wrong: str, example: str, option: str = "") -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip()):
        raise InputError(wrong, f"Write e.g. {option}{example}.")
    return name.strip().replace("-", "_"), value
