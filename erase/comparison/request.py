"""What one run of a comparison is asked to forget, as `--concept` writes it.

    cat                     one concept
    cat, dagger             several at once
    cat from flat style     a pair: the cat in the flat style, and neither by itself
    dagger, cat from flat   the dagger and that pair

A comma stands between concepts that are forgotten together: no built-in name has one, and
`--methods` separates in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from erase.errors import InputError
from erase.scoring.names import PAIR, pair_name


@dataclass(frozen=True)
class Request:
    """What one run forgets."""

    concepts: tuple[str, ...]
    erase_from: str | None = None
    """What a single one is forgotten from, as `erase concept --erase-from` has it."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """What a `--concept` text asks for; InputError for one that lacks a name."""
        names = tuple(name.strip() for name in text.split(","))
        parts = [f" {name} ".partition(PAIR) for name in names]
        if not all(one.strip() and (other.strip() or not pair) for one, pair, other in parts):
            raise InputError(
                f"--concept {text!r} lacks a name.",
                "Write one concept, several with commas between them ('cat, dagger'), or a pair"
                " ('cat from flat style').",
            )
        if len(names) == 1:
            one, _, within = parts[0]
            return cls((one.strip(),), within.strip() or None)
        return cls(names)  # a pair beside others by its name, which mini-emoji knows

    @property
    def label(self) -> str:
        """How tables call it."""
        names = ", ".join(self.concepts)
        return pair_name(names, self.erase_from) if self.erase_from else names

    @property
    def folder(self) -> str:
        """The name of its folder in that of a comparison."""
        return re.sub(r"[ /]", "-", self.label.replace(", ", "+"))

    def settings(self) -> dict[str, Any]:
        """The settings of an `erase concept` run that say what it forgets."""
        return {"concept": self.concepts, "erase_from": self.erase_from}


def parse_requests(texts: Sequence[str]) -> tuple[Request, ...]:
    """The requests of a comparison; InputError for one that is there twice."""
    requests = tuple(map(Request.parse, texts))
    folders = [request.folder for request in requests]
    for request in requests:
        if folders.count(request.folder) > 1:
            raise InputError(f"--concept {request.label!r} is given twice.", "Give it once.")
    return requests
