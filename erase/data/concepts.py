"""What to forget and what to keep, as prompts: concept files, classes, or a template for any word.

`erase.data.concept_files` reads the concept files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase.data.concept_files import (
    FOLDER,
    concept_from_template,
    find_concept_file,
    read_concept_files,
    shared_prompts,
    spellings,
)
from erase.data.emoji import FILE, read_vocabulary, thing_lists
from erase.data.prompts import ClassList, class_lists
from erase.data.texts import Anchors, read_pairs, read_prompts
from erase.errors import InputError
from erase.reading import expanded
from erase.runs.record import read_record
from erase.scoring.names import plain, unknown_name

SUITES_RENDERED = {"mini-sd": "digits", "mini-emoji": "emoji"}
"""The suite of models that render the classes of one suite only."""
EXAMPLES = {"digits": "three", "emoji": "cat"}
"""By suite, a class to name in a message."""


@dataclass(frozen=True)
class Concept:
    """What to forget and what to keep, as prompts; of one concept or of several together.

    `anchors[i]` are the prompts to show instead of `forget[i]`; one is drawn per sample. `suites`
    are the evaluation suites of the `names`, in the same order. `recipe` holds the settings that
    the concept's source uses, `notes` the warnings for the user.
    """

    names: tuple[str, ...]
    suites: tuple[str | None, ...]
    forget: tuple[str, ...]
    anchors: tuple[Anchors, ...]
    retain: tuple[str, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    detected: Mapping[str, float] = field(default_factory=dict)
    """A detector's labels that show the concept, with the least score of each."""
    kind: str = "class"
    """What is forgotten: nudity, class or style (`erase.config.recipes.KINDS`)."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """All names in one text."""
        return ", ".join(self.names)

    @property
    def suite(self) -> str | None:
        """The evaluation suite, where all concepts have the same."""
        return self.suites[0] if len(set(self.suites)) == 1 else None

    def target(self) -> dict[str, Any]:
        """The entry `target` of a run's record: suite and concepts."""
        target: dict[str, Any] = {"suite": self.suite, "concepts": list(self.names)}
        if len(set(self.suites)) > 1:
            target["suites"] = dict(zip(self.names, self.suites, strict=True))
        return target


@dataclass(frozen=True)
class _Part:
    """One concept before it is joined with others; `source` says where its prompts come from."""

    name: str
    words: tuple[str, ...]
    suite: str | None
    forget: tuple[str, ...]
    anchors: tuple[Anchors, ...]
    retain: tuple[str, ...]
    source: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    detected: Mapping[str, float] = field(default_factory=dict)
    kind: str = "class"
    notes: tuple[str, ...] = ()


def rendered_suite(model: str) -> str | None:
    """The suite whose classes a model renders: of an embedded model, or of a run made from one."""
    if model in SUITES_RENDERED:
        return SUITES_RENDERED[model]
    target = read_record(expanded(model)).get("target") or {}
    suite = target.get("suite")
    return suite if suite in SUITES_RENDERED.values() else None


def lists_for(root: Path, suite: str | None) -> list[ClassList]:
    """The class lists of a prompt folder, those of the suite first; of emoji three kinds of them.

    A suite's own lists are objects, styles and colours, in this order, where it has them.
    """
    lists = class_lists(root)
    own = [classes for classes in lists if classes.suite == suite]
    if own and own[0].suite == Path(FILE).stem:
        own += thing_lists(read_vocabulary(root))
    return [*own, *(classes for classes in lists if classes.suite != suite)]


def given_concept(
    words: Sequence[str],
    root: Path,
    *,
    suite: str | None = None,
    anchor: str | None = None,
    forget_prompts: str | None = None,
    retain_prompts: str | None = None,
) -> Concept:
    """`find_concept` with the user's prompt files; those to forget may have a column `anchor`.

    Raises InputError as `find_concept` and `read_pairs`, and for that column beside an anchor.
    """
    forget, anchors = read_pairs(forget_prompts) if forget_prompts else (None, None)
    if anchors is not None and anchor is not None:
        raise InputError(
            f"--anchor {anchor!r} is given, and {forget_prompts} has a column anchor.",
            "Leave out one of them.",
        )
    retain = read_prompts(retain_prompts) if retain_prompts else None
    return find_concept(
        words, root, suite=suite, anchor=anchor, forget=forget, retain=retain, anchors=anchors
    )


def find_concept(
    words: str | Sequence[str],
    root: Path,
    *,
    suite: str | None = None,
    anchor: str | None = None,
    forget: tuple[str, ...] | None = None,
    retain: tuple[str, ...] | None = None,
    anchors: tuple[Anchors, ...] | None = None,
) -> Concept:
    """Build the prompts of a concept, or of several that are forgotten together.

    Several concepts get equal shares of the forget prompts. No retain prompt and no anchor names a
    concept that is forgotten.

    Args:
        words: concept files' names or aliases, classes of the folder's lists by any spelling, or
            any other words, which fill in the template.
        root: the prompt folder.
        suite: what the model renders (`rendered_suite`); its classes are looked for first, also
            where `erase concept` does not know them for other models.
        anchor: `next` (the default: a concept file's own, the next retained class, or the empty
            prompt), `random` (any retained class, or any retain prompt), a class of the same list,
            or any other text, which is used as a prompt.
        forget, retain: prompts that replace the concepts' own.
        anchors: for each prompt of `forget`, what to show instead; without it, each gets all
            anchors of the concepts.

    Raises InputError for a word that looks like a misspelt name, for a concept named twice, for an
    anchor that is to be forgotten, or when nothing is left to retain.
    """
    words = (words,) if isinstance(words, str) else tuple(words)
    lists = [c for c in lists_for(root, suite) if c.concepts or c.suite == suite]
    files = read_concept_files(root)
    labels: dict[str, set[int]] = {}
    sources: list[tuple[str, ClassList | None, Any]] = []
    for word in words:
        file = find_concept_file(files, word)
        classes = None if file else next((c for c in lists if c.label(word) is not None), None)
        if classes is not None:
            labels.setdefault(_source(classes), set()).add(classes.label(word) or 0)
        elif file is None:
            names = [*(n for c in lists for n in c.names), *(str(f["name"]) for f in files)]
            file = concept_from_template(word, root, names, own_prompts=bool(forget and retain))
        sources.append((word, classes, file))
    parts = [
        _part_of_class(classes, classes.label(word) or 0, labels[_source(classes)], anchor)
        if classes is not None
        else _part_of_file(file, root, anchor)
        for word, classes, file in sources
    ]
    return _join(parts, forget, retain, anchors)


def find_classes(classes: ClassList, words: Sequence[str], anchor: str | None) -> Concept:
    """Build the prompts of classes of one list that are forgotten together; see `find_concept`.

    Raises InputError for a word that is no class of the list, naming the closest that is.
    """
    labels = []
    for word in words:
        label = classes.label(word)
        if label is None:
            spellings = {w: row["name"] for row in classes.classes for w in row.values()}
            raise unknown_name(word, classes.names, spellings)
        labels.append(label)
    return _join([_part_of_class(classes, n, set(labels), anchor) for n in labels], None, None)


def _part_of_class(
    classes: ClassList, label: int, forgotten: set[int], anchor: str | None
) -> _Part:
    """One class as a concept; the classes of its list that are not `forgotten` are retained."""
    count = len(classes.classes)
    retained = [other for other in range(count) if other not in forgotten]
    if not retained:
        raise InputError(
            f"All of {', '.join(classes.names)} are to be forgotten.", "Leave some to be kept."
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
    return _Part(
        name=names["name"],
        words=tuple(names.values()),
        suite=classes.suite,
        forget=forget,
        anchors=tuple(zip(*columns, strict=True)) or ((str(anchor),),) * len(forget),
        retain=tuple(text for other in retained for text in classes.captions("retain", other)),
        source=_source(classes),
        kind="style" if classes.thing == "style" else "class",
    )


def _source(classes: ClassList) -> str:
    return f"{classes.suite or 'classes'}{classes.thing}"


def _part_of_file(content: Mapping[str, Any], root: Path, anchor: str | None) -> _Part:
    forget: dict[str, Anchors] = content["forget"]
    retain = [
        text
        for item in content["retain"]
        for text in (shared_prompts(root, item) if item.startswith("_") else (item,))
    ]
    words = spellings(content)
    if anchor is not None and plain(anchor) in map(plain, words):
        raise InputError(f"The anchor {anchor!r} is the concept itself.", "Give another prompt.")
    anchors = tuple(forget.values())
    if anchor == "random":
        anchors = (tuple(retain) or ("",),) * len(forget)
    elif anchor not in (None, "next"):
        anchors = ((str(anchor),),) * len(forget)
    return _Part(
        name=str(content["name"]),
        words=words,
        suite=content.get("suite"),
        forget=tuple(forget),
        anchors=anchors,
        retain=tuple(retain),
        source=f"{FOLDER}/{content['name']}",
        recipe=content.get("recipe", {}),
        detected=content.get("nudenet", {}),
        kind=content.get("kind", "class"),
        notes=(content["note"],) if "note" in content else (),
    )


def _join(
    parts: Sequence[_Part],
    forget: tuple[str, ...] | None,
    retain: tuple[str, ...] | None,
    own_anchors: tuple[Anchors, ...] | None = None,
) -> Concept:
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"The concept {twice[0]!r} is given twice.", "Name it once.")
    anchors = {part.name: _allowed_anchors(part, parts) for part in parts}
    if forget is None:
        # Round robin, the shorter lists repeated, so that each concept gets as many images.
        rounds = range(max(len(part.forget) for part in parts))
        turns = [(part, turn % len(part.forget)) for turn in rounds for part in parts]
        forget_anchors = tuple(anchors[part.name][number] for part, number in turns)
        forget = tuple(part.forget[number] for part, number in turns)
    elif own_anchors is not None:
        forget_anchors = own_anchors
    else:
        texts = [t for part in parts for items in anchors[part.name] for t in items]
        forget_anchors = (tuple(dict.fromkeys(texts)),) * len(forget)
    if retain is None:
        allowed = [
            text
            for part in parts
            for text in part.retain
            if not any(_mentions(text, part, other) for other in parts)
        ]
        retain = tuple(dict.fromkeys(allowed)) if len(parts) > 1 else tuple(allowed)
    if not retain:
        raise InputError(
            f"Nothing is left to retain beside {', '.join(names)}.", "Give --retain-prompts."
        )
    recipe: dict[str, Any] = {}
    for part in reversed(parts):  # the first concept's settings win
        recipe |= part.recipe
    return Concept(
        names=tuple(names),
        suites=tuple(part.suite for part in parts),
        forget=forget,
        anchors=forget_anchors,
        retain=retain,
        recipe=recipe,
        detected={label: score for part in parts for label, score in part.detected.items()},
        kind=parts[0].kind,
        notes=tuple(note for part in parts for note in part.notes),
    )


def _allowed_anchors(part: _Part, parts: Sequence[_Part]) -> tuple[Anchors, ...]:
    """A part's anchors without those that name another forgotten concept; empty if none is left.

    Anchors may name the part itself: "a person wearing no mask" is a good anchor of "mask".
    """
    others = [other for other in parts if other is not part]
    return tuple(
        tuple(text for text in texts if not any(_mentions(text, part, o) for o in others)) or ("",)
        for texts in part.anchors
    )


def _mentions(text: str, part: _Part, other: _Part) -> bool:
    """Whether a prompt of `part` names `other`; never for two classes of one list.

    Prompts of a class list were already chosen by label.
    """
    if part.source == other.source and not part.source.startswith(FOLDER):
        return False
    return any(
        re.search(rf"(?<!\w){re.escape(word)}(s|es)?(?!\w)", text, re.IGNORECASE)
        for word in other.words
    )


def check_renderable(model: str, concept: Concept, *, own_prompts: bool) -> None:
    """Raise InputError for a concept that the model never learned to render.

    Args:
        model: the user's name for it.
        concept: what is to be forgotten.
        own_prompts: whether the forget prompts are the user's, which are not checked.
    """
    suite = None if own_prompts else SUITES_RENDERED.get(model)
    for name, own in zip(concept.names, concept.suites, strict=True):
        if suite and own != suite:
            raise InputError(
                f"There is no concept {name!r} in {model}, which renders {suite} only.",
                f"Give one of its {suite} ({EXAMPLES[suite]!r}), another --model, or your own"
                " prompts.",
            )
