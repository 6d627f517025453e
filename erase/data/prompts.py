"""Concepts and their prompts, from the project's prompt files or the user's own.

A prompt folder holds class lists (`digits.yaml`: `classes` and `templates`). A concept is a class
of one of them, by name or numeral; the classes beside it are what has to stay.
"""

import difflib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.config import read_yaml
from erase.errors import InputError
from erase.record import hash_files

PACKAGED = Path(__file__).parent.parent / "prompts"
SOURCE_TREE = Path(__file__).parent.parent.parent / "prompts"
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
    """SHA-256 over the prompt files, as every record holds it."""
    return hash_files(root.rglob("*.yaml"), root)


@dataclass(frozen=True)
class ClassList:
    """Classes with caption templates; the file's name is the evaluation suite's."""

    suite: str
    classes: tuple[dict[str, str], ...]
    templates: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(item["name"] for item in self.classes)

    def label(self, word: str) -> int | None:
        """The label of a class called `word` (any of its spellings, any case), or None."""
        for label, spellings in enumerate(self.classes):
            if word.strip().casefold() in {text.casefold() for text in spellings.values()}:
                return label
        return None

    def captions(self, split: str, label: int) -> list[str]:
        """The captions of one class from the templates `split`."""
        return [template.format(**self.classes[label]) for template in self.templates[split]]


@dataclass(frozen=True)
class Concept:
    """What to forget and what to keep, as prompts.

    `anchors[i]` are the prompts to show instead of `forget[i]`; one is drawn per sample.
    """

    name: str
    suite: str | None
    forget: tuple[str, ...]
    anchors: tuple[tuple[str, ...], ...]
    retain: tuple[str, ...]


def read_class_list(path: Path) -> ClassList:
    """Read a class list; InputError when a part is missing or a template cannot be filled in."""
    content: dict[str, Any] = read_yaml(path)
    found, lists = content.get("classes"), content.get("templates")
    if not found or not lists or not isinstance(found, list) or not isinstance(lists, dict):
        raise _unusable(path, "it needs `classes` and `templates`")
    if missing := [name for name in TEMPLATES if not lists.get(name)]:
        raise _unusable(path, f"`templates` lacks {' and '.join(missing)}")
    classes = []
    for number, spellings in enumerate(found, start=1):
        if not isinstance(spellings, dict) or "name" not in spellings:
            raise _unusable(path, f"class {number} has no `name`")
        where = f"class {number}"
        classes.append({_text(path, where, k): _text(path, where, v) for k, v in spellings.items()})
    templates = {}
    for name, items in lists.items():
        if not isinstance(items, list):
            raise _unusable(path, f"the templates `{name}` are no list")
        templates[str(name)] = tuple(_text(path, f"the templates `{name}`", item) for item in items)
        for template, spellings in itertools.product(templates[str(name)], classes):
            _check_template(path, template, spellings)
    return ClassList(suite=path.stem, classes=tuple(classes), templates=templates)


def _text(path: Path, where: str, value: Any) -> str:
    """A name or template as text; a bare `3` was meant as "3", a bare `no` may be anything."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _unusable(path, f"{where} has {value!r}, which YAML does not read as text: quote it")
    return str(value)


def _check_template(path: Path, template: str, spellings: dict[str, str]) -> None:
    try:
        template.format(**spellings)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        fields = ", ".join(f"{{{name}}}" for name in spellings)
        raise _unusable(
            path,
            f"the template {template!r} does not fit {spellings['name']!r}, which has {fields}",
        ) from error


def _unusable(path: Path, why: str) -> InputError:
    return InputError(f"{path} is no class list: {why}.", "See prompts/digits.yaml.")


def class_lists(root: Path) -> list[ClassList]:
    """All class lists of a prompt folder."""
    return [read_class_list(path) for path in sorted(root.glob("*.yaml"))]


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Prompts of a text file, one a line; InputError for a missing or empty file."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text ({type(error).__name__}).",
            "Give a UTF-8 text file.",
        ) from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise InputError(f"{path} holds no prompt.", "Write one prompt a line.")
    return prompts


def find_concept(
    word: str,
    root: Path,
    *,
    anchor: str | None = None,
    forget: tuple[str, ...] | None = None,
    retain: tuple[str, ...] | None = None,
) -> Concept:
    """Build the prompts of a concept.

    Args:
        word: a class of one of the folder's lists; any word when `forget` and `retain` are given.
        anchor: `next` (the default: the class after it), `random` (any other class), a class of
            the same list, or else a prompt taken literally.
        forget, retain: prompts that replace the list's own.

    Raises InputError for an unknown word, naming the known ones.
    """
    lists = class_lists(root)
    for classes in lists:
        label = classes.label(word)
        if label is not None:
            return _from_list(classes, label, anchor, forget, retain)
    if forget is None or retain is None:
        known = [name for classes in lists for name in classes.names]
        close = difflib.get_close_matches(word, known, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"There is no concept {word!r}.",
            f"{hint}Known: {', '.join(known)}; or give --forget-prompts and --retain-prompts.",
        )
    shown = ("",) if anchor in (None, "next", "random") else (str(anchor),)
    return Concept(word, None, forget, (shown,) * len(forget), retain)


def _from_list(
    classes: ClassList,
    label: int,
    anchor: str | None,
    forget: tuple[str, ...] | None,
    retain: tuple[str, ...] | None,
) -> Concept:
    others = [other for other in range(len(classes.classes)) if other != label]
    anchor_label = classes.label(anchor) if anchor else None
    if anchor_label == label:
        raise InputError(
            f"The anchor {anchor!r} is the concept itself.",
            "Give another class or a prompt.",
        )
    if anchor in (None, "next"):
        anchor_label = (label + 1) % len(classes.classes)
    if anchor_label is not None:
        instead = [anchor_label]
    elif anchor == "random":
        instead = others
    else:
        instead = []
    if forget is None:
        forget = tuple(classes.captions("forget", label))
        columns = [classes.captions("forget", other) for other in instead]
        anchors = tuple(zip(*columns, strict=True)) if columns else ((str(anchor),),) * len(forget)
    else:
        literal = tuple(text for other in instead for text in classes.captions("forget", other))
        anchors = (literal or (str(anchor),),) * len(forget)
    if retain is None:
        retain = tuple(text for other in others for text in classes.captions("retain", other))
    name = classes.classes[label]["name"]
    return Concept(name, classes.suite, forget, anchors, retain)
