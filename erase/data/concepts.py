"""What to forget and what to keep, as prompts: concept files, classes, or a template for any word.

`prompts/concepts/NAME.yaml` holds a concept: its `name` and `aliases`, `forget` (prompt → what is
shown instead, a text or a list of texts), `retain` (prompts; `_neutral` stands for those of
`_neutral.yaml`), and, where there are any, its evaluation `suite`, a `recipe` of settings with
their `source`, and what a detector finds of it (`nudenet`). `_word.yaml` is the same with `{word}`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase.config.concept import ConceptConfig
from erase.data.prompts import ClassList, as_text, class_lists
from erase.errors import InputError
from erase.files import read_yaml

FOLDER = "concepts"
TEMPLATE = "_word.yaml"
FIELDS = {"name", "aliases", "forget", "retain", "suite", "source", "recipe", "nudenet"}
CLOSE = 0.8  # similarity from which a word is taken for a misspelt name
Anchors = tuple[str, ...]


@dataclass(frozen=True)
class Concept:
    """What to forget and what to keep, as prompts; of one concept or of several together.

    `anchors[i]` are the prompts to show instead of `forget[i]`; one is drawn per sample. `suites`
    are the evaluation suites of the `names`, in their order. `recipe` are settings that its source
    uses, `notes` what the user should know.
    """

    names: tuple[str, ...]
    suites: tuple[str | None, ...]
    forget: tuple[str, ...]
    anchors: tuple[Anchors, ...]
    retain: tuple[str, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    detected: Mapping[str, float] = field(default_factory=dict)
    """A detector's labels that show the concept, with the least score of each."""
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
        """What a run's record says was forgotten."""
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
    notes: tuple[str, ...] = ()


def find_concept(
    words: str | Sequence[str],
    root: Path,
    *,
    anchor: str | None = None,
    forget: tuple[str, ...] | None = None,
    retain: tuple[str, ...] | None = None,
) -> Concept:
    """Build the prompts of a concept, or of several that are forgotten together.

    Of several, every concept has as large a share of the forget prompts, and neither a retain
    prompt nor an anchor is of a concept that is forgotten.

    Args:
        words: concept files' names or aliases, classes of the folder's lists by any spelling, or
            any other words, for which the template stands in.
        root: the prompt folder.
        anchor: `next` (the default: a concept file's own, the next class that is kept, or the empty
            prompt), `random` (any class that is kept, or any retain prompt), a class of the same
            list, or else a prompt taken literally.
        forget, retain: prompts that replace the concepts' own.

    Raises InputError for a word that looks like a misspelt name, for a concept named twice, for an
    anchor that is to be forgotten, or when nothing is left to retain.
    """
    words = (words,) if isinstance(words, str) else tuple(words)
    lists = [classes for classes in class_lists(root) if classes.concepts]
    files = concept_files(root)
    labels: dict[str | None, set[int]] = {}
    found: list[tuple[str, ClassList | None, Any]] = []
    for word in words:
        file = _by_name(files, word)
        classes = None if file else next((c for c in lists if c.label(word) is not None), None)
        if classes is not None:
            labels.setdefault(classes.suite, set()).add(classes.label(word) or 0)
        elif file is None:
            known = [*(n for c in lists for n in c.names), *(str(f["name"]) for f in files)]
            file = _template(word, root, known, own_prompts=bool(forget and retain))
        found.append((word, classes, file))
    parts = [
        from_class_list(classes, classes.label(word) or 0, labels[classes.suite], anchor)
        if classes is not None
        else _from_file(file, root, anchor)
        for word, classes, file in found
    ]
    return _joined(parts, forget, retain)


def find_classes(classes: ClassList, words: Sequence[str], anchor: str | None) -> Concept:
    """The prompts of classes of one list, to be forgotten together; see `find_concept`.

    Raises InputError for a word that is no class of the list, naming the closest that is.
    """
    labels = []
    for word in words:
        label = classes.label(word)
        if label is None:
            close = difflib.get_close_matches(word.casefold(), _spellings(classes), n=1, cutoff=0.5)
            hint = f"Did you mean {_spellings(classes)[close[0]]!r}? " if close else ""
            raise InputError(
                f"There is no class {word!r}.", f"{hint}Known: {', '.join(classes.names)}."
            )
        labels.append(label)
    return _joined([from_class_list(classes, n, set(labels), anchor) for n in labels], None, None)


def _spellings(classes: ClassList) -> dict[str, str]:
    """Names of a list's classes by every spelling, in lower case."""
    return {text.casefold(): item["name"] for item in classes.classes for text in item.values()}


def from_class_list(
    classes: ClassList, label: int, forgotten: set[int], anchor: str | None
) -> _Part:
    """A class as a concept: the classes of its list that are not `forgotten` have to stay."""
    count = len(classes.classes)
    kept = [other for other in range(count) if other not in forgotten]
    if not kept:
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
        anchor_label = next(other for other in following if other in kept)
    instead = kept if anchor == "random" else [] if anchor_label is None else [anchor_label]
    forget = tuple(classes.captions("forget", label))
    columns = [classes.captions("forget", other) for other in instead]
    spellings = classes.classes[label]
    return _Part(
        name=spellings["name"],
        words=tuple(spellings.values()),
        suite=classes.suite,
        forget=forget,
        anchors=tuple(zip(*columns, strict=True)) or ((str(anchor),),) * len(forget),
        retain=tuple(text for other in kept for text in classes.captions("retain", other)),
        source=classes.suite or "classes",
    )


def concept_files(root: Path) -> list[dict[str, Any]]:
    """The contents of a prompt folder's concept files, checked; none is a template."""
    found = sorted((root / FOLDER).glob("*.yaml"))
    return [_read(path) for path in found if not path.name.startswith("_")]


def _by_name(files: Sequence[Mapping[str, Any]], word: str) -> Mapping[str, Any] | None:
    wanted = word.strip().casefold()
    return next((f for f in files if wanted in {w.casefold() for w in _words(f)}), None)


def _words(content: Mapping[str, Any]) -> tuple[str, ...]:
    return (str(content["name"]), *content.get("aliases", ()))


def _read(path: Path) -> dict[str, Any]:
    """A concept file with its parts as texts; InputError saying what is wrong with it."""
    content = read_yaml(path)
    name, forget = as_text(content.get("name")), content.get("forget")
    aliases, retain = content.get("aliases") or [], content.get("retain")
    recipe, nudenet = content.get("recipe") or {}, content.get("nudenet") or {}
    if unknown := sorted(map(str, set(content) - FIELDS)):
        raise _unusable(path, f"it has an unknown part {unknown[0]!r}")
    if not name:
        raise _unusable(path, "it needs a `name`")
    if not isinstance(forget, dict) or not forget:
        raise _unusable(path, "`forget` has to say for each prompt what is shown instead")
    if not isinstance(retain, list) or not retain or not isinstance(aliases, list):
        raise _unusable(path, "`retain`, and `aliases` if there are any, have to be lists")
    if not isinstance(recipe, dict) or not isinstance(nudenet, dict):
        raise _unusable(path, "`recipe` and `nudenet` have to be `name: value` lines")
    ConceptConfig.check_names(recipe, f"The recipe of {path}")
    if fixed := [key for key in recipe if getattr(ConceptConfig(), key) is not None]:
        raise _unusable(path, f"a recipe cannot set {fixed[0]!r}, which has a default of its own")
    labels, threshold = nudenet.get("labels", []), nudenet.get("threshold", 0.6)
    if not isinstance(labels, list) or not isinstance(threshold, int | float):
        raise _unusable(path, "`nudenet` needs a list of `labels` and a `threshold`")
    pairs = {key: shown if isinstance(shown, list) else [shown] for key, shown in forget.items()}
    texts = [*pairs, *(text for shown in pairs.values() for text in shown), *retain, *aliases]
    for text in texts:
        if as_text(text) is None:
            raise _unusable(path, f"it has {text!r}, which YAML does not read as text: quote it")
    return {
        **content,
        "name": name,
        "aliases": tuple(map(str, aliases)),
        "forget": {str(key): tuple(map(str, shown)) for key, shown in pairs.items()},
        "retain": tuple(map(str, retain)),
        "recipe": recipe,
        "nudenet": {str(label): float(threshold) for label in labels},
    }


def _unusable(path: Path, why: str) -> InputError:
    return InputError(f"{path} is no concept file: {why}.", "See prompts/concepts/nudity.yaml.")


def _template(word: str, root: Path, known: Iterable[str], *, own_prompts: bool) -> dict[str, Any]:
    """A concept for a word that nothing else knows.

    A word that looks like a misspelt name is refused, unless the user's own prompts say what is
    meant.
    """
    known = tuple(known)
    path = root / FOLDER / TEMPLATE
    if own_prompts:
        return {"name": word, "forget": {word: ("",)}, "retain": ()}
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.strip().casefold(), folded, n=1, cutoff=CLOSE)
    if close or not word.strip() or not path.is_file():
        hint = f"Did you mean {folded[close[0]]!r}? " if close else ""
        raise InputError(
            f"There is no concept {word!r}.",
            f"{hint}Known: {', '.join(known)}; or give --forget-prompts and --retain-prompts.",
        )
    content = _read(path)

    def filled(text: str) -> str:
        return text.replace("{word}", word.strip())

    return {
        "name": filled(content["name"]),
        "forget": {
            filled(key): tuple(map(filled, shown)) for key, shown in content["forget"].items()
        },
        "retain": tuple(map(filled, content["retain"])),
        "note": f"no concept file or class list knows {word!r}: it is forgotten from template"
        " prompts and the retain set is everyday prompts, which fit it only by chance",
    }


def _from_file(content: Mapping[str, Any], root: Path, anchor: str | None) -> _Part:
    forget: dict[str, Anchors] = content["forget"]
    retain = [
        text
        for item in content["retain"]
        for text in (_listed(root, item) if item.startswith("_") else (item,))
    ]
    words = _words(content)
    if anchor is not None and anchor.strip().casefold() in {word.casefold() for word in words}:
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
        notes=(content["note"],) if "note" in content else (),
    )


def _listed(root: Path, name: str) -> tuple[str, ...]:
    """The prompts of `concepts/_NAME.yaml`."""
    path = root / FOLDER / f"{name}.yaml"
    prompts = read_yaml(path).get("prompts")
    if not isinstance(prompts, list) or not prompts or None in map(as_text, prompts):
        raise InputError(f"{path} holds no prompts.", "Write them as a list named `prompts`.")
    return tuple(map(str, prompts))


def _joined(
    parts: Sequence[_Part], forget: tuple[str, ...] | None, retain: tuple[str, ...] | None
) -> Concept:
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"The concept {twice[0]!r} is given twice.", "Name it once.")
    anchors = {part.name: _allowed_anchors(part, parts) for part in parts}
    if forget is None:
        # Round robin, the shorter lists repeated, so that each concept gets as many images.
        rounds = range(max(len(part.forget) for part in parts))
        turns = [(part, turn % len(part.forget)) for turn in rounds for part in parts]
        shown = tuple(anchors[part.name][number] for part, number in turns)
        forget = tuple(part.forget[number] for part, number in turns)
    else:
        texts = [t for part in parts for each in anchors[part.name] for t in each]
        shown = (tuple(dict.fromkeys(texts)),) * len(forget)
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
        anchors=shown,
        retain=retain,
        recipe=recipe,
        detected={label: score for part in parts for label, score in part.detected.items()},
        notes=tuple(note for part in parts for note in part.notes),
    )


def _allowed_anchors(part: _Part, parts: Sequence[_Part]) -> tuple[Anchors, ...]:
    """A part's anchors without those that are to be forgotten; the empty prompt where none is left.

    Its own words are let stand: "a person wearing no mask" may be the very anchor of "mask".
    """
    others = [other for other in parts if other is not part]
    return tuple(
        tuple(text for text in texts if not any(_mentions(text, part, o) for o in others)) or ("",)
        for texts in part.anchors
    )


def _mentions(text: str, part: _Part, other: _Part) -> bool:
    """Whether a prompt of `part` names `other`; of one class list, labels have settled that."""
    if part.source == other.source and not part.source.startswith(FOLDER):
        return False
    return any(
        re.search(rf"(?<!\w){re.escape(word)}(s|es)?(?!\w)", text, re.IGNORECASE)
        for word in other.words
    )
