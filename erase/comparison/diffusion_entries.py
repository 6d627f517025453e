"""The lines of a comparison of text-to-image methods: a method, with what is fixed for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erase.config.compare import diffusion_settings
from erase.config.families import TEXT_TO_IMAGE, methods_for
from erase.config.values import parse_line, parse_owned
from erase.errors import InputError


@dataclass(frozen=True)
class Entry:
    """A line of the comparison: a method with what is fixed for it or for its run."""

    label: str
    method: str
    settings: Mapping[str, Any]


def entries(methods: str, settings: tuple[str, ...]) -> list[Entry]:
    """The lines of `--methods` (`all`, or METHOD[@NAME=VALUE…] with commas between) and `--set`.

    Raises:
        InputError: an unknown method or setting, a bad value, a method that is not for
            text-to-image models, or a line that is there twice.
    """
    labels = methods_for(TEXT_TO_IMAGE) if methods == "all" else methods.split(",")
    common = parse_owned(settings, example="esd.guidance=2")
    lines = [_entry(label.strip(), common) for label in labels]
    if len({line.label for line in lines}) < len(lines):
        raise InputError("A method is named twice.", "Name each once.")
    if unused := sorted(set(common) - {line.method for line in lines}):
        raise InputError(f"--set names {unused[0]}, which is not compared.", "Add it to --methods.")
    return lines


def _entry(label: str, common: Mapping[str, Mapping[str, str]]) -> Entry:
    line = parse_line(label)
    if line.variants:
        raise InputError(
            f"There is no variant {line.variants[0]!r} of a method for text-to-image models.",
            "Write METHOD@NAME=VALUE for a line with settings of its own.",
        )
    fixed = {**common.get(line.method, {}), **line.settings}
    return Entry(label, line.method, diffusion_settings(line.method, fixed))
