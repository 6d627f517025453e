"""The prompt folder, its class lists, and prompt files of the user's own.

A prompt folder holds class lists (`digits.yaml`: `classes` and `templates`) and, in `concepts/`,
concept files, which `erase.data.concept_files` reads.
"""

import itertools
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from erase.errors import InputError
from erase.files import hash_files, read_yaml
from erase.scoring.names import plain

PACKAGED = Path(__file__).parent.parent / "prompts"
SOURCE_TREE = Path(__file__).parent.parent.parent / "prompts"
T = TypeVar("T")
TEMPLATES = ("forget", "retain", "evaluate")
"""The lists of templates that every class list has to hold; it may hold more."""


def prompts_root(override: str | Path | None = None) -> Path:
    """The prompt folder: the user's, the one inside the wheel, or the source tree's."""
    if override is not None:
        folder = Path(override)
        if not folder.is_dir() or not any(folder.glob("*.yaml")):
            raise InputError(
                f"{folder} is not a prompt folder: it holds no .yaml file.",
                "Copy the project's prompts/ folder and change that.",
            )
        return folder
    return PACKAGED if PACKAGED.is_dir() else SOURCE_TREE


def prompts_hash(root: Path) -> str:
    """SHA-256 over the prompt files, as records hold it."""
    return hash_files(root.rglob("*.yaml"), root)


@dataclass(frozen=True)
class ClassList:
    """Classes with caption templates.

    `suite` is the evaluation suite of the same name as the file, if there is one. `concepts` says
    whether `erase concept` knows the classes for every model. `thing` is what the classes are
    where a suite has several lists: "style".
    """

    suite: str | None
    classes: tuple[dict[str, str], ...]
    templates: dict[str, tuple[str, ...]]
    concepts: bool = True
    thing: str = ""
    neighbours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By class, the things that are most like it, the nearest first; they may be no classes."""
    paraphrases: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """By class and kind of words (`synonyms`), captions that ask for it without its name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(item["name"] for item in self.classes)

    def label(self, word: str) -> int | None:
        """The label of a class called `word` (any of its spellings; see `plain`), or None."""
        for label, spellings in enumerate(self.classes):
            if plain(word) in map(plain, spellings.values()):
                return label
        return None

    def captions(self, split: str, label: int) -> list[str]:
        """The captions of one class from the templates `split`."""
        return [template.format(**self.classes[label]) for template in self.templates[split]]


def read_class_list(path: Path) -> ClassList:
    """Read a class list; InputError when a part is missing or a template cannot be filled in."""
    content: dict[str, Any] = read_yaml(path)
    rows, lists = content.get("classes"), content.get("templates")
    if not rows or not lists or not isinstance(rows, list) or not isinstance(lists, dict):
        raise _unusable(path, "it needs `classes` and `templates`")
    if missing := [name for name in TEMPLATES if not lists.get(name)]:
        raise _unusable(path, f"`templates` lacks {' and '.join(missing)}")
    classes = []
    for number, spellings in enumerate(rows, start=1):
        if not isinstance(spellings, dict) or "name" not in spellings:
            raise _unusable(path, f"class {number} has no `name`")
        place = f"class {number}"
        classes.append({_text(path, place, k): _text(path, place, v) for k, v in spellings.items()})
    templates = {}
    for name, items in lists.items():
        if not isinstance(items, list):
            raise _unusable(path, f"the templates `{name}` are no list")
        templates[str(name)] = tuple(_text(path, f"the templates `{name}`", item) for item in items)
        for template, spellings in itertools.product(templates[str(name)], classes):
            _check_template(path, template, spellings)
    return ClassList(
        path.stem,
        tuple(classes),
        templates,
        bool(content.get("concepts", True)),
        neighbours=_by_class(path, content, "neighbours", classes, tuple[str, ...]),
        paraphrases=_by_class(path, content, "paraphrases", classes, dict[str, tuple[str, ...]]),
    )


def _by_class(
    path: Path, content: dict[str, Any], part: str, classes: list[dict[str, str]], kind: type[T]
) -> dict[str, T]:
    """A mapping of the file from names of classes; empty where the file has none."""
    try:
        found = msgspec.convert(content.get(part) or {}, dict[str, kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise _unusable(path, f"`{part}`: {error}") from None
    if wrong := found.keys() - {item["name"] for item in classes}:
        raise _unusable(path, f"`{part}` names {min(wrong)!r}, which is no class")
    return found


def as_text(value: Any) -> str | None:
    """A YAML value as text: an unquoted 3 is "3"; None for an unquoted `no`, which is ambiguous."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


def _text(path: Path, where: str, value: Any) -> str:
    text = as_text(value)
    if text is None:
        raise _unusable(path, f"{where} has {value!r}, which YAML does not read as text: quote it")
    return text


def _check_template(path: Path, template: str, spellings: dict[str, str]) -> None:
    """Accept `{NAME}` for the class's spellings and nothing else that `str.format` knows."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        parts = [("", template, None, None)]
    if not all(
        name is None or (name in spellings and not form and not conversion)
        for _, name, form, conversion in parts
    ):
        fields = ", ".join(f"{{{name}}}" for name in spellings)
        raise _unusable(
            path,
            f"the template {template!r} does not fit {spellings['name']!r}, which has {fields}",
        )


def _unusable(path: Path, why: str) -> InputError:
    return InputError(f"{path} is no class list: {why}.", "See prompts/digits.yaml.")


def class_lists(root: Path) -> list[ClassList]:
    """All class lists of a prompt folder."""
    return [read_class_list(path) for path in sorted(root.glob("*.yaml"))]
