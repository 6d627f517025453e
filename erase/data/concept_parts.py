"""One concept as prompts, before it is joined with others: a class, a concept file's, a pair."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase.data.concept_files import FOLDER, shared_prompts, spellings
from erase.data.emoji import Vocabulary
from erase.data.emoji_pairs import (
    Cell,
    anchor_cells,
    cell_name,
    kept_captions,
    named_pair,
    pair_captions,
)
from erase.data.prompts import ClassList
from erase.data.texts import Anchors
from erase.errors import InputError
from erase.scoring.names import plain


@dataclass(frozen=True)
class Part:
    """One concept; `source` says where its prompts come from.

    A prompt mentions it that has one of its `words`, and of a pair also one of the words `within`.
    """

    name: str
    words: tuple[str, ...]
    within: tuple[str, ...] = ()
    suite: str | None = None
    forget: tuple[str, ...] = ()
    anchors: tuple[Anchors, ...] = ()
    retain: tuple[str, ...] = ()
    source: str = ""
    by_label: bool = False
    """Whether prompts of other parts of the same source never mention it."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    detected: Mapping[str, float] = field(default_factory=dict)
    kind: str = "class"
    notes: tuple[str, ...] = ()
    pair: tuple[str, str] | None = None
    """Of a pair, the thing and what it is forgotten within."""

    def mentioned(self, text: str) -> bool:
        """Whether a text names the concept: a pair where it names both of its things."""
        groups = (self.words, self.within) if self.within else (self.words,)
        return all(any(_has(text, word) for word in words) for words in groups)


def _has(text: str, word: str) -> bool:
    pattern = rf"(?<!\w){re.escape(word)}(s|es)?(?!\w)"
    return re.search(pattern, text, re.IGNORECASE) is not None


def mentions(text: str, part: Part, other: Part) -> bool:
    """Whether a prompt of `part` names `other`; never for two classes of one list.

    Prompts of a class list were already chosen by label.
    """
    if part.by_label and other.by_label and part.source == other.source:
        return False
    return other.mentioned(text)


def source_of(classes: ClassList) -> str:
    """What the concepts of a class list have as their source."""
    return f"{classes.suite or 'classes'}{classes.thing}"


def part_of_class(
    classes: ClassList, label: int, forgotten: Collection[int], anchor: str | None
) -> Part:
    """One class as a concept; the classes of its list that are not `forgotten` are retained."""
    count = len(classes.classes)
    retained = [other for other in range(count) if other not in forgotten]
    if not retained:
        raise InputError(
            f"All of {', '.join(classes.names)} are to be forgotten, or were before.",
            "Leave some to be kept.",
        )
    anchor_label = classes.label(anchor) if anchor else None
    if anchor_label in forgotten:
        raise InputError(
            f"The anchor {anchor!r} is the concept itself."
            if anchor_label == label
            else f"The anchor {anchor!r} is to be forgotten too.",
            "Give another class or a prompt.",
        )
    if anchor in (None, "next"):
        following = ((label + step) % count for step in range(1, count + 1))
        anchor_label = next(other for other in following if other in retained)
    anchor_labels = (
        retained if anchor == "random" else [] if anchor_label is None else [anchor_label]
    )
    forget = tuple(classes.captions("forget", label))
    columns = [classes.captions("forget", other) for other in anchor_labels]
    names = classes.classes[label]
    return Part(
        name=names["name"],
        words=tuple(names.values()),
        suite=classes.suite,
        forget=forget,
        anchors=tuple(zip(*columns, strict=True)) or ((str(anchor),),) * len(forget),
        retain=tuple(text for other in retained for text in classes.captions("retain", other)),
        source=source_of(classes),
        by_label=True,
        kind="style" if classes.thing == "style" else "class",
    )


def part_of_file(content: Mapping[str, Any], root: Path, anchor: str | None) -> Part:
    """A concept of a concept file's content, also of a template that was filled in.

    Raises InputError for an anchor that is the concept itself.
    """
    forget: dict[str, Anchors] = content["forget"]
    retain = [
        text
        for item in content["retain"]
        for text in (shared_prompts(root, item) if item.startswith("_") else (item,))
    ]
    pair: tuple[str, str] | None = content.get("pair")
    words = spellings(content) if pair is None else (pair[0],)
    itself = (*words, *(pair or ()), str(content["name"]))
    if anchor is not None and plain(anchor) in map(plain, itself):
        raise InputError(f"The anchor {anchor!r} is the concept itself.", "Give another prompt.")
    anchors = tuple(forget.values())
    if anchor == "random":
        anchors = (tuple(retain) or ("",),) * len(forget)
    elif anchor not in (None, "next"):
        anchors = ((str(anchor),),) * len(forget)
    return Part(
        name=str(content["name"]),
        words=words,
        within=(pair[1],) if pair else (),
        suite=content.get("suite"),
        forget=tuple(forget),
        anchors=anchors,
        retain=tuple(retain),
        source=f"{FOLDER}/{content['name']}",
        recipe=content.get("recipe", {}),
        detected=content.get("nudenet", {}),
        kind=content.get("kind", "class"),
        notes=(content["note"],) if "note" in content else (),
        pair=pair,
    )


def part_of_cell(
    vocabulary: Vocabulary, cell: Cell, anchor: str | None, forgotten: Sequence[Cell]
) -> Part:
    """A pair of mini-emoji's things as a concept; no anchor shows any of the `forgotten` things.

    Raises InputError as `anchor_cells`.
    """
    forget = tuple(pair_captions(vocabulary, cell))
    cells = anchor_cells(vocabulary, cell, anchor, forgotten)
    columns = [pair_captions(vocabulary, other) for other in cells]
    thing, within = named_pair(vocabulary, cell)
    return Part(
        name=cell_name(vocabulary, cell),
        words=(thing,),
        within=(within,),
        suite=vocabulary.classes.suite,
        forget=forget,
        anchors=tuple(zip(*columns, strict=True)) or ((str(anchor),),) * len(forget),
        retain=tuple(kept_captions(vocabulary, cell)),
        source=f"{vocabulary.classes.suite} pairs",
        pair=(thing, within),
    )
