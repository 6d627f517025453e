"""Which suite's classes a model renders, where it renders those of one suite only."""

from collections.abc import Mapping
from typing import Any

from erase.data.concepts import Concept
from erase.errors import InputError
from erase.files import read_json
from erase.reading import expanded
from erase.runs.record import read_record
from erase.runs.requests import original

SUITES_RENDERED = {"mini-sd": "digits", "mini-emoji": "emoji"}
"""By embedded model, the suite whose classes it renders."""
RENDERS = "_renders"
"""The entry of `model_index.json` with that suite, in folders that `erase train` writes."""
EXAMPLES = {"digits": "three", "emoji": "cat"}
"""By suite, a class to name in a message."""


def rendered_suite(model: str) -> str | None:
    """The suite whose classes a model renders; None for a model that renders anything.

    Known of embedded models, of those that `erase train` makes, and of runs from either.
    """
    record = read_record(expanded(model))
    if suite := _own_suite(model, record):
        return suite
    suite = (record.get("target") or {}).get("suite")
    return suite if suite in SUITES_RENDERED.values() else None


def suite_for(model: str) -> str:
    """The suite of what a model was made to forget, else of what it renders, else `digits`."""
    record = read_record(expanded(model))
    target = record.get("target") or {}
    return target.get("suite") or _own_suite(model, record) or next(iter(EXAMPLES))


def check_renderable(model: str, concept: Concept, *, own_prompts: bool) -> None:
    """Raise InputError for a concept that the model never learned to render.

    Args:
        model: the user's name for it: an embedded model's, or a folder.
        concept: what is to be forgotten.
        own_prompts: whether the forget prompts are the user's, which are not checked.
    """
    suite = None if own_prompts else _own_suite(model, read_record(expanded(model)))
    for name, own in zip(concept.names, concept.suites, strict=True):
        if suite and own != suite:
            raise InputError(
                f"There is no concept {name!r} in {model}, which renders {suite} only.",
                f"Give one of its {suite} ({EXAMPLES[suite]!r}), another --model, or your own"
                " prompts.",
            )


def _own_suite(model: str, record: Mapping[str, Any]) -> str | None:
    """The suite of a model, or of the original that its record names."""
    first = (original(record) or {}).get("model")
    return _named_suite(model) or (_named_suite(str(first)) if first else None)


def _named_suite(model: str) -> str | None:
    """The suite of an embedded model, or the one that a folder's index names.

    Raises InputError for a `model_index.json` that cannot be read.
    """
    if model in SUITES_RENDERED:
        return SUITES_RENDERED[model]
    index = expanded(model) / "model_index.json"
    suite = read_json(index).get(RENDERS) if index.is_file() else None
    return suite if suite in SUITES_RENDERED.values() else None
