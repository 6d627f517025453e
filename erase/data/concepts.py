"""What to forget and what to keep, as prompts: concept files, classes, or a template for any word.

`erase.data.concept_files` reads the concept files; `erase.data.rendered` says what a model renders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase.data.concept_files import (
    concept_from_template,
    find_concept_file,
    pair_from_template,
    read_concept_files,
    spellings,
)
from erase.data.concept_parts import (
    Part,
    mentions,
    part_of_cell,
    part_of_class,
    part_of_file,
    source_of,
)
from erase.data.emoji import FILE, KINDS, Vocabulary, read_vocabulary, thing_lists
from erase.data.emoji_pairs import Cell, cell_name, find_cell, find_pair, named_pair
from erase.data.prompts import ClassList, class_lists
from erase.data.texts import Anchors, read_pairs, read_prompts
from erase.errors import InputError
from erase.runs.requests import Forgotten
from erase.scoring.names import unknown_name

EMOJI = Path(FILE).stem


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
    pairs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By name of a pair, the thing and what it is forgotten within: `hat`, `snowman`."""

    @property
    def name(self) -> str:
        """All names in one text."""
        return ", ".join(self.names)

    @property
    def suite(self) -> str | None:
        """The evaluation suite, where all concepts have the same."""
        return self.suites[0] if len(set(self.suites)) == 1 else None

    def target(self) -> dict[str, Any]:
        """The entry `target` of a run's record: suite and concepts, and which of them are pairs."""
        target: dict[str, Any] = {"suite": self.suite, "concepts": list(self.names)}
        if len(set(self.suites)) > 1:
            target["suites"] = dict(zip(self.names, self.suites, strict=True))
        if self.pairs:
            target["pairs"] = {name: list(pair) for name, pair in self.pairs.items()}
        return target


def lists_for(root: Path, suite: str | None) -> list[ClassList]:
    """The class lists of a prompt folder, those of the suite first; of emoji three kinds of them.

    A suite's own lists are objects, styles and colours, in this order, where it has them.
    """
    lists = class_lists(root)
    own = [classes for classes in lists if classes.suite == suite]
    if own and own[0].suite == EMOJI:
        own += thing_lists(read_vocabulary(root))
    return [*own, *(classes for classes in lists if classes.suite != suite)]


def given_concept(
    words: Sequence[str],
    root: Path,
    *,
    suite: str | None = None,
    anchor: str | None = None,
    erase_from: str | None = None,
    forget_prompts: str | None = None,
    retain_prompts: str | None = None,
    before: Sequence[Forgotten] = (),
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
        words,
        root,
        suite=suite,
        anchor=anchor,
        erase_from=erase_from,
        forget=forget,
        retain=retain,
        anchors=anchors,
        before=before,
    )


def find_concept(
    words: str | Sequence[str],
    root: Path,
    *,
    suite: str | None = None,
    anchor: str | None = None,
    erase_from: str | None = None,
    forget: tuple[str, ...] | None = None,
    retain: tuple[str, ...] | None = None,
    anchors: tuple[Anchors, ...] | None = None,
    before: Sequence[Forgotten] = (),
) -> Concept:
    """Build the prompts of a concept, or of several that are forgotten together.

    Several concepts get equal shares of the forget prompts. No retain prompt and no anchor names a
    concept that is forgotten, or was before.

    Args:
        words: concept files' names or aliases, classes of the folder's lists by any spelling, or
            any other words, which fill in the template. For a model that renders emoji also the
            name of a pair (`cat from flat`).
        root: the prompt folder.
        suite: what the model renders (`rendered_suite`); its classes are looked for first, also
            where `erase concept` does not know them for other models.
        anchor: `next` (the default: a concept file's own, the next retained class, or the empty
            prompt), `random` (any retained class, or any retain prompt), a class of the same list,
            or any other text, which is used as a prompt.
        erase_from: what each concept is forgotten within: the pair is, and its parts are retained.
        forget, retain: prompts that replace the concepts' own.
        anchors: for each prompt of `forget`, what to show instead; without it, each gets all
            anchors of the concepts.
        before: what the model has already forgotten.

    Raises InputError for a word that looks like a misspelt name, for a concept named twice, for an
    anchor that is to be forgotten, or when nothing is left to retain.
    """
    words = (words,) if isinstance(words, str) else tuple(words)
    lists = [c for c in lists_for(root, suite) if c.concepts or c.suite == suite]
    files = read_concept_files(root)
    vocabulary = read_vocabulary(root) if suite == EMOJI else None
    found = [
        _pair(word, erase_from, root, vocabulary)
        if erase_from is not None
        else _find(word, lists, files, vocabulary)
        for word in words
    ]
    known = [*(n for c in lists for n in c.names), *(str(f["name"]) for f in files)]
    own_prompts = bool(forget and retain)
    found = [
        _Found(word, concept_from_template(word, root, known, own_prompts=own_prompts))
        if item.unknown
        else item
        for word, item in zip(words, found, strict=True)
    ]
    earlier = [_find(item.name, lists, files, vocabulary, item.pair) for item in before]
    gone = [*found, *earlier]
    cells = [item.cell for item in gone if item.cell is not None]
    parts = []
    for item in found:
        if item.cell is not None and len(item.cell) > 1 and vocabulary is not None:
            parts.append(part_of_cell(vocabulary, item.cell, anchor, cells))
        elif item.classes is not None:
            labels = {other.label for other in gone if other.classes is item.classes}
            parts.append(part_of_class(item.classes, item.label, labels, anchor))
        else:
            parts.append(part_of_file(item.file or {}, root, anchor))
    return _join(parts, forget, retain, anchors, [_as_mentioned(item) for item in earlier])


@dataclass(frozen=True)
class _Found:
    """What a word stands for: a concept file's content, a class of a list, or mini-emoji's things.

    Without any of them it is unknown, or the name of a pair of any other model's.
    """

    word: str
    file: Mapping[str, Any] | None = None
    classes: ClassList | None = None
    label: int = 0
    cell: Cell | None = None
    pair: tuple[str, str] | None = None

    @property
    def unknown(self) -> bool:
        return self.file is None and self.classes is None and self.cell is None


def _find(
    word: str,
    lists: Sequence[ClassList],
    files: Sequence[Mapping[str, Any]],
    vocabulary: Vocabulary | None,
    pair: tuple[str, str] | None = None,
) -> _Found:
    """What a word stands for; `pair` are the parts of the name of one."""
    if file := find_concept_file(files, word):
        return _Found(word, file)
    for classes in lists:
        label = classes.label(word)
        if label is not None:
            kind = classes.thing or KINDS[0]
            cell = {kind: label} if vocabulary and classes.suite == EMOJI else None
            return _Found(word, None, classes, label, cell)
    if vocabulary and (cell := find_cell(vocabulary, word)):
        return _Found(cell_name(vocabulary, cell), cell=cell, pair=named_pair(vocabulary, cell))
    return _Found(word, pair=pair)


def _pair(word: str, erase_from: str, root: Path, vocabulary: Vocabulary | None) -> _Found:
    """A word within another one; InputError for what mini-emoji does not know or cannot draw."""
    if vocabulary is None:
        return _Found(word, pair_from_template(word, erase_from, root))
    return _Found(word, cell=find_pair(vocabulary, word, erase_from))


def _as_mentioned(item: _Found) -> Part:
    """Something forgotten before: by what a prompt mentions it."""
    if item.classes is not None:
        spelled = tuple(item.classes.classes[item.label].values())
        return Part(spelled[0], spelled, source=source_of(item.classes), by_label=True)
    if item.file is not None:
        return Part(str(item.file["name"]), spellings(item.file))
    if item.pair is not None:
        return Part(item.word, item.pair[:1], item.pair[1:])
    return Part(item.word, (item.word,))


def find_classes(
    classes: ClassList,
    words: Sequence[str],
    anchor: str | None,
    before: Sequence[Forgotten] = (),
) -> Concept:
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
    earlier = [_find(item.name, [classes], (), None, item.pair) for item in before]
    gone = {*labels, *(item.label for item in earlier if item.classes is not None)}
    parts = [part_of_class(classes, label, gone, anchor) for label in labels]
    return _join(parts, None, None, earlier=[_as_mentioned(item) for item in earlier])


def _join(
    parts: Sequence[Part],
    forget: tuple[str, ...] | None,
    retain: tuple[str, ...] | None,
    own_anchors: tuple[Anchors, ...] | None = None,
    earlier: Sequence[Part] = (),
) -> Concept:
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"The concept {twice[0]!r} is given twice.", "Name it once.")
    gone = [*parts, *(part for part in earlier if part.name not in names)]
    anchors = {part.name: _allowed_anchors(part, gone) for part in parts}
    notes = [note for part in parts for note in part.notes]
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
            if not any(mentions(text, part, other) for other in gone)
        ]
        retain = tuple(dict.fromkeys(allowed)) if len(parts) > 1 else tuple(allowed)
    else:
        notes += _named_by_retain_prompts(retain, gone[len(parts) :])
    if not retain:
        raise InputError(
            f"Nothing is left to retain beside {', '.join(part.name for part in gone)}.",
            "Give --retain-prompts.",
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
        notes=tuple(notes),
        pairs={part.name: part.pair for part in parts if part.pair is not None},
    )


def _named_by_retain_prompts(texts: Sequence[str], earlier: Sequence[Part]) -> list[str]:
    """A warning for retain prompts of the user's that name what was forgotten before."""
    return [
        f"a retain prompt names {part.name!r}, which the model was made to forget before: {text!r}"
        for part in earlier
        if (text := next((text for text in texts if part.mentioned(text)), None))
    ]


def _allowed_anchors(part: Part, parts: Sequence[Part]) -> tuple[Anchors, ...]:
    """A part's anchors without those that name another forgotten concept; empty if none is left.

    Anchors may name the part itself: "a person wearing no mask" is a good anchor of "mask".
    """
    others = [other for other in parts if other is not part]
    return tuple(
        tuple(text for text in texts if not any(mentions(text, part, o) for o in others)) or ("",)
        for texts in part.anchors
    )
