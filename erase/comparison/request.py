"""What one run of a comparison is asked to forget, as `--concept` writes it.

    cat             one concept
    cat, dagger     several at once

A comma stands between concepts that are forgotten together: no built-in name has one, and
`--methods` separates in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from erase.errors import InputError


@dataclass(frozen=True)
class Request:
    """What one run forgets."""

    concepts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """What a `--concept` text asks for; InputError for one that lacks a name."""
        names = tuple(name.strip() for name in text.split(","))
        if not all(names):
            raise InputError(
                f"--concept {text!r} lacks a name.",
                "Write one concept, or several with commas between them: 'cat, dagger'.",
            )
        return cls(names)

    @property
    def label(self) -> str:
        """How tables call it."""
        return ", ".join(self.concepts)

    @property
    def folder(self) -> str:
        """The name of its folder in that of a comparison."""
        return re.sub(r"[ /]", "-", "+".join(self.concepts))

    def settings(self) -> dict[str, Any]:
        """The settings of an `erase concept` run that say what it forgets."""
        return {"concept": self.concepts}


def parse_requests(texts: Sequence[str]) -> tuple[Request, ...]:
    """The requests of a comparison; InputError for one that is there twice."""
    requests = tuple(map(Request.parse, texts))
    folders = [request.folder for request in requests]
    for request in requests:
        if folders.count(request.folder) > 1:
            raise InputError(f"--concept {request.label!r} is given twice.", "Give it once.")
    return requests
