"""The words of mini-emoji: objects, styles and colours, how captions name them, who sees which.

`prompts/emoji.yaml` holds them; its head says which words a training may use. A caption names an
object, a style, a colour, some of the three or none. Every object, style and colour has a label:
its place in the file.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec

from erase.data.prompts import TEMPLATES, ClassList, prompts_root, read_class_list
from erase.errors import InputError
from erase.files import read_yaml

FILE = "emoji.yaml"
KINDS = ("object", "style", "colour")
NEIGHBOURS = 5
Words = Literal["name", "synonyms", "descriptions", "held_out"]
"""How a caption calls a thing; captions of `held_out` words are never trained on."""
_STYLED = "in the {} style"
FIELDS = {
    "object": "object",
    "name": "object",
    "style": "style",
    "a_style": "style",
    "drawn": "style",
    "colour": "colour",
    "a_colour": "colour",
}
"""The fields of caption templates, with the kind of thing that each names."""


class Thing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object, a style or a colour: its name, and other words for it.

    Attributes:
        name: the word for it that most training captions use.
        synonyms: other words that stand in the same place; of objects with their article.
        descriptions: phrases that never use the name.
        held_out: phrases that no training caption uses, made of words that trained ones use.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()

    def words(self, kind: Words) -> tuple[str, ...]:
        """The words of one kind; for `name` the name alone."""
        return (self.name,) if kind == "name" else getattr(self, kind)


ThingT = TypeVar("ThingT", bound=Thing)


class Item(Thing, frozen=True, forbid_unknown_fields=True):
    """An object: `a` is the name with its article, `icon` what the icon sets call it."""

    a: str = ""
    icon: str = ""

    def words(self, kind: Words) -> tuple[str, ...]:
        """The words of one kind, with articles; for `name` the name alone."""
        return (self.a,) if kind == "name" else getattr(self, kind)


class Style(Thing, frozen=True, forbid_unknown_fields=True):
    """A style: the icon set that is drawn in it, its npm package, its maker and its licence."""

    set: str = ""
    package: str = ""
    version: str = ""
    title: str = ""
    maker: str = ""
    licence: str = ""


class Colour(Thing, frozen=True, forbid_unknown_fields=True):
    """A background colour: `rgb` in six hexadecimal digits."""

    rgb: str = ""

    @property
    def levels(self) -> tuple[int, int, int]:
        """Red, green and blue, each from 0 to 255."""
        red, green, blue = bytes.fromhex(self.rgb)
        return red, green, blue


@dataclass(frozen=True)
class Vocabulary:
    """All words of mini-emoji, in the order of the file.

    Attributes:
        objects, styles, colours: the things; a label is a place in one of them.
        templates: lists of caption templates: `generic`, `train`, `paraphrase` and `evaluate`.
        classes: the objects as a class list, with the templates that unlearning uses.
        neighbours: by object, the objects nearest to it, nearest first.
    """

    objects: tuple[Item, ...]
    styles: tuple[Style, ...]
    colours: tuple[Colour, ...]
    templates: Mapping[str, tuple[str, ...]]
    classes: ClassList
    neighbours: Mapping[str, tuple[str, ...]]

    def things(self, kind: str) -> tuple[Thing, ...]:
        """The things of a kind: object, style or colour."""
        return {"object": self.objects, "style": self.styles, "colour": self.colours}[kind]

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of the things of a kind, in label order."""
        return tuple(thing.name for thing in self.things(kind))

    def first(self, objects: int, styles: int, colours: int) -> Vocabulary:
        """The same with the first objects, styles and colours only, and without neighbours."""
        return replace(
            self,
            objects=self.objects[:objects],
            styles=self.styles[:styles],
            colours=self.colours[:colours],
            classes=replace(self.classes, classes=self.classes.classes[:objects]),
            neighbours={},
        )

    def texts(self) -> list[str]:
        """All texts that captions are made of, the fields of templates left out: all its words."""
        things: list[Thing] = [*self.objects, *self.styles, *self.colours]
        words = [t for thing in things for w in get_args(Words) for t in thing.words(w)]
        lists = [*self.templates.values(), *self.classes.templates.values()]
        templates = [re.sub(r"\{.*?\}", "", template) for t in lists for template in t]
        fixed = ["a", "an", _STYLED.format(""), *self.names("object")]
        return [*words, *templates, *fixed]

    def captions(
        self, split: str, labels: Mapping[str, int], words: Mapping[str, Words] | None = None
    ) -> list[str]:
        """Every caption that names the given things and nothing else.

        Args:
            split: the list of templates: `train`, `paraphrase` or `evaluate`.
            labels: what the captions name, by kind; `{"object": 0, "colour": 2}` names no style.
            words: by kind, how they name it; default: by its name. A template that asks for the
                bare name is used for names only.
        """
        wanted = labels.keys()
        chosen = [template for template in self.templates[split] if named(template) == wanted]
        texts = [
            template.format(**fields)
            for fields in self._fields(labels, words or {})
            for template in chosen
            if _fields_of(template) <= fields.keys()
        ]
        return list(dict.fromkeys(texts))

    def _fields(
        self, labels: Mapping[str, int], words: Mapping[str, Words]
    ) -> list[dict[str, str]]:
        """The values of the templates' fields, once for each combination of words."""
        options = []
        for kind, label in labels.items():
            thing, how = self.things(kind)[label], words.get(kind, "name")
            options.append([_values(kind, thing, how, word) for word in thing.words(how)])
        return [
            {name: value for values in combination for name, value in values.items()}
            for combination in itertools.product(*options)
        ]


def thing_lists(vocabulary: Vocabulary) -> list[ClassList]:
    """The styles and the colours as class lists, whose captions name every object once.

    A caption of a style is a training caption of an object in it, or of the style alone.
    """
    rows: dict[str, tuple[dict[str, str], ...]] = {
        "style": tuple(
            {
                "name": style.name,
                "called": f"{style.name} style",
                "a": with_article(style.name),
                "drawn": _STYLED.format(style.name),
            }
            for style in vocabulary.styles
        ),
        "colour": tuple(
            {
                "name": colour.name,
                "called": f"{colour.name} background",
                "a": with_article(colour.name),
            }
            for colour in vocabulary.colours
        ),
    }
    lists = []
    for kind, classes in rows.items():
        fields = {kind: "{name}", f"a_{kind}": "{a}", "drawn": "{drawn}"}
        train = vocabulary.templates["train"]
        alone = [t.format(**fields) for t in train if named(t) == {kind}]
        both = [t for t in train if named(t) == {"object", kind}]
        texts = tuple(alone) + tuple(
            both[place % len(both)].format(object=item.a, **fields | {"name": item.name})
            for place, item in enumerate(vocabulary.objects)
        )
        templates = dict.fromkeys(TEMPLATES, texts)
        lists.append(ClassList(vocabulary.classes.suite, classes, templates, False, kind))
    return lists


def _values(kind: str, thing: Thing, how: Words, word: str) -> dict[str, str]:
    """The fields of templates that a word fills in; a description of a style fits `drawn` alone."""
    if kind == "object":
        return {"object": word} | ({"name": thing.name} if how == "name" else {})
    if kind == "style" and how in ("descriptions", "held_out"):
        return {"drawn": word}
    values = {kind: word, f"a_{kind}": with_article(word)}
    return values | ({"drawn": _STYLED.format(word)} if kind == "style" else {})


def with_article(word: str) -> str:
    """The word after "a" or "an"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@lru_cache(maxsize=1000)
def named(template: str) -> frozenset[str]:
    """The kinds of things that a caption template names."""
    return frozenset(FIELDS[field] for field in _fields_of(template))


@lru_cache(maxsize=1000)
def _fields_of(template: str) -> frozenset[str]:
    parsed = string.Formatter().parse(template)
    return frozenset(name for _, name, _, _ in parsed if name is not None)


def words_of(text: str) -> set[str]:
    """The words of a text."""
    return set(re.findall(r"[a-z]+", text.lower()))


def read_vocabulary(root: Path | None = None) -> Vocabulary:
    """Read `emoji.yaml` of a prompt folder; default: the project's own.

    Raises InputError when the file is missing or a part of it cannot be used.
    """
    path = (root or prompts_root()) / FILE
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=4)
def _read(path: Path, _modified: int) -> Vocabulary:
    classes, content = read_class_list(path), read_yaml(path)
    extra = content.get("objects")
    if not isinstance(extra, dict) or (unknown := set(extra) - set(classes.names)):
        why = f"{unknown.pop()!r}, which is no class" if extra else "nothing"
        raise _unusable(path, f"`objects` holds {why}")
    rows = [{**row, **_mapping(path, extra, row["name"])} for row in classes.classes]
    vocabulary = Vocabulary(
        objects=_convert(path, "objects", rows, Item),
        styles=_convert(path, "styles", content.get("styles"), Style),
        colours=_convert(path, "colours", content.get("colours"), Colour),
        templates=_convert_templates(path, content.get("captions")),
        classes=classes,
        neighbours=classes.neighbours,
    )
    _check(path, vocabulary)
    return vocabulary


def _mapping(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name) or {}
    if not isinstance(part, dict):
        raise _unusable(path, f"`{name}` is no mapping")
    return part


def _convert(path: Path, part: str, rows: Any, kind: type[ThingT]) -> tuple[ThingT, ...]:
    try:
        things: tuple[ThingT, ...] = tuple(
            msgspec.convert(row, kind) for row in msgspec.convert(rows, list[dict[str, Any]])
        )
    except msgspec.ValidationError as error:
        raise _unusable(path, f"`{part}`: {error}") from None
    names = [thing.name for thing in things]
    if not names or len(set(names)) < len(names):
        raise _unusable(path, f"`{part}` is empty or names something twice")
    return things


def _convert_templates(path: Path, lists: Any) -> dict[str, tuple[str, ...]]:
    try:
        templates = msgspec.convert(lists, dict[str, tuple[str, ...]])
    except msgspec.ValidationError as error:
        raise _unusable(path, f"`captions`: {error}") from None
    for name in ("generic", "train", "paraphrase", "evaluate"):
        if not templates.get(name):
            raise _unusable(path, f"`captions` lacks {name}")
    for template in itertools.chain(*templates.values()):
        try:
            known = _fields_of(template) <= FIELDS.keys()
        except ValueError:  # a brace without its partner
            known = False
        if not known:
            raise _unusable(path, f"the caption {template!r} has a field that no thing fills in")
    return templates


def _check(path: Path, vocabulary: Vocabulary) -> None:
    for item in vocabulary.objects:
        if not item.a:
            raise _unusable(path, f"the class {item.name!r} lacks `a`")
    for colour in vocabulary.colours:
        if not re.fullmatch(r"[0-9a-fA-F]{6}", colour.rgb):
            raise _unusable(path, f"the colour {colour.name!r} has the rgb {colour.rgb!r}")
    names = set(vocabulary.names("object"))
    for others in vocabulary.neighbours.values():
        if wrong := set(others) - names:
            raise _unusable(path, f"`neighbours` names {wrong.pop()!r}, which is no class")


def _unusable(path: Path, why: str) -> InputError:
    return InputError(f"{path} cannot be used: {why}.", "Compare it with the project's own file.")
