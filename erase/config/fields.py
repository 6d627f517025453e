"""What a field of a configuration may hold: its type, its choices and its range.

Every value is checked here, where the object that holds it is made, so that the command line, a
`--config` file, `--set`, a comparison and Python all meet the same checks and the same message.
Texts are read as the numbers, words and answers that they stand for: YAML reads `1e-4` as a word
and `no` as false, and the command line gives nothing but texts.
"""

import contextlib
import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from erase.config.limits import LARGEST
from erase.config.values import read_value, unusable_text
from erase.errors import InputError, SettingError
from erase.reading import ContentError

NOUNS = {int: "whole number", float: "number", bool: "yes or no", str: "text"}
SHOWN = 80
"""Most characters of a value in a message."""


@dataclass(frozen=True)
class Range:
    """Limits of a number; None is no limit. Numbers that are not finite are never inside."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.below is not None:
            return f"from {_written(self.least)} to below {_written(self.below)}"
        if self.least is not None and self.most is not None:
            return f"from {_written(self.least)} to {_written(self.most)}"
        words = {"of at least": self.least, "above": self.above}
        words |= {"of at most": self.most, "below": self.below}
        parts = [f"{word} {_written(limit)}" for word, limit in words.items() if limit is not None]
        return " and ".join(parts) or "that is finite"


def option(
    default: Any,
    help: str,  # noqa: A002
    choices: Iterable[str] = (),
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    metavar: str | None = None,
    path: bool = False,
    former: Iterable[str] = (),
    required: bool = False,
    advice: Mapping[str, str] | None = None,
    words: Iterable[str] = (),
) -> Any:
    """A dataclass field with its help text, and what its value may be.

    Args:
        default: None is "not set".
        help: states the unit or the range; shown by `--help`.
        choices: the possible values, where there are few.
        least: smallest value.
        above: a number that the value has to exceed.
        most: largest value.
        below: a number that the value must not reach.
        metavar: what `--help` shows in the place of the value.
        former: names that the field had in earlier versions, or that other programs use; they are
            read everywhere, and shown nowhere.
        required: whether a command needs the value, for the help.
        advice: what to do instead, for values that people expect among the choices.
        words: texts that a number's field may hold instead.
        path: whether the text names, or may name, a file or folder.

    A number without an upper limit is at most `LARGEST`.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "choices": tuple(choices),
            "range": Range(least, above, most, below),
            "metavar": metavar,
            "path": path,
            "former": tuple(former),
            "required": required,
            "advice": dict(advice or {}),
            "words": tuple(words),
        },
    )


def settings_field(help: str) -> Any:  # noqa: A002
    """A field of NAME: VALUE pairs, empty by default, which has no option of its own."""
    return field(default_factory=dict, metadata={"help": help, "option": False})


@dataclass(frozen=True)
class FieldSpec:
    """The name of a field and what it may hold."""

    name: str
    kind: type
    """int, float, bool, str, tuple (of words), Mapping, or object for anything."""
    optional: bool
    choices: tuple[str, ...]
    range: Range
    words: tuple[str, ...] = ()
    advice: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    path: bool = False

    def typed(self, value: Any) -> Any:
        """The value as the field holds it; InputError when the field cannot hold it."""
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str) and self.optional and (self.kind is not str or self.choices):
            value = None if _read(value) is None else value
        if value is None and self.optional:
            return None
        if isinstance(value, str) and value in self.words:
            return value
        if self.kind is tuple:
            return self._words(value)
        if self.kind is Mapping:
            if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
                raise self.refusal(value, "which is no list of names with values")
            return dict(value)
        if self.choices:
            value = "no" if value is False and "no" in self.choices else value
            if value not in self.choices:
                possible = f"Possible: {', '.join(self.choices)}."
                raise self.refusal(value, remedy=self.advice.get(str(value), possible))
            return value
        if self.kind not in NOUNS:
            return value
        typed = _READERS[self.kind](value)
        if typed is None:
            raise self.refusal(value, f"which is no {NOUNS[self.kind]}")
        if self.kind in LARGEST:
            self._check_number(typed)
        elif self.kind is str:
            self._check_text(typed)
        return typed

    def _check_number(self, value: float) -> None:
        if value not in self.range:
            raise self.refusal(value, remedy=f"Give a value {self.range}.")
        largest = LARGEST[self.kind]
        if self.range.most is None and self.range.below is None and abs(value) > largest:
            raise self.refusal(value, remedy=f"Give a value of at most {_written(largest)}.")

    def _check_text(self, text: str) -> None:
        if why := unusable_text(text, path=self.path):
            raise self.refusal(text, f"which {why}")

    def refusal(
        self, value: Any, reason: str = "", remedy: str = "Correct the value."
    ) -> InputError:
        """The error that says in one form, whoever gave the value, that it cannot be used."""
        return SettingError(self.name, f"is {shown(value)}{reason and f', {reason}'}.", remedy)

    def _words(self, value: Any) -> tuple[str, ...]:
        words = ([value] if value else []) if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
            raise self.refusal(value, "which is no list of words", "Quote them.")
        for word in words:
            self._check_text(word)
        return tuple(words)


def field_specs(config: type) -> Mapping[str, FieldSpec]:
    """What each field of a dataclass may hold, by name."""
    return _field_specs(config)


@functools.cache
def _field_specs(config: type) -> Mapping[str, FieldSpec]:
    hints = typing.get_type_hints(config)
    return {item.name: _spec(item, hints[item.name]) for item in dataclasses.fields(config)}


def check_fields(config: Any) -> None:
    """Type and check all values of a frozen dataclass in place; InputError for one that fails."""
    for name, spec in field_specs(type(config)).items():
        object.__setattr__(config, name, spec.typed(getattr(config, name)))


def typed_values(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of some fields of a dataclass as the fields hold them; InputError for one that fails.

    The names have to be those of fields.
    """
    specs = field_specs(config)
    return {name: specs[name].typed(value) for name, value in values.items()}


def shown(value: Any) -> str:
    """A value in a message, the same whether it was given as a text or as what the text says."""
    if isinstance(value, str):
        value = value if (number := _number(value)) is None else number
    if isinstance(value, str) and value:
        read = _read(value)
        value = read if isinstance(read, bool) or read is None else value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _written(number: float) -> str:
    return f"{number:g}" if abs(number) < 1e6 else f"{int(number):,}"


def _spec(item: "dataclasses.Field[Any]", hint: Any) -> FieldSpec:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    parts = typing.get_args(hint) if union else (hint,)
    optional = type(None) in parts
    words = tuple(item.metadata.get("words", ()))
    others = [part for part in parts if part is not type(None) and not (words and part is str)]
    hint = others[0] if len(others) == 1 else Any
    origin = typing.get_origin(hint)
    choices = tuple(item.metadata.get("choices", ()))
    kind: type
    if origin is typing.Literal:
        kind, choices = str, choices or typing.get_args(hint)
    elif origin is tuple:
        kind = tuple
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        kind = Mapping
    else:
        kind = hint if hint in NOUNS else object
    return FieldSpec(
        *(item.name, kind, optional, choices, item.metadata.get("range", Range())),
        words,
        item.metadata.get("advice", {}),
        bool(item.metadata.get("path")),
    )


def _read(text: str) -> Any:
    """What a text says; itself where YAML cannot read it."""
    try:
        return read_value(text)
    except ContentError:
        return text


def _number(value: Any) -> int | float | None:
    """The number that a value is, or that a text says."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(value)
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else None


def _float(value: Any) -> float | None:
    number = _number(value)
    try:
        return None if number is None else float(number)
    except OverflowError:  # a whole number of more than 300 digits
        return math.inf


def _whole(value: Any) -> int | None:
    """A whole number; another one is never cut short, nor rounded, to fit."""
    number = _number(value)
    if not isinstance(number, float):
        return number
    if not number.is_integer():
        return None
    exact = Decimal(value) if isinstance(value, str) else Decimal(number)
    return int(exact) if exact == exact.to_integral_value() else None


def _answer(value: Any) -> bool | None:
    read = _read(value) if isinstance(value, str) else value
    return read if isinstance(read, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_READERS: Mapping[type, Any] = {int: _whole, float: _float, bool: _answer, str: _text}
