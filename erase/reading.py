"""The one reader of small files: records, configurations, logs, concept files, cards.

A file that comes from elsewhere may be anything: a pipe that never ends, a gigabyte of brackets, a
number of 5,000 digits. Every file is opened, measured, decoded, parsed and compared with the types
that its reader needs here, and whatever is wrong becomes an InputError that names the file.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from erase.errors import InputError

Shape = TypeVar("Shape")
SMALL = 64 << 20
"""Most bytes of a JSON or text file; the largest of them are lists of indices."""
YAML = 4 << 20
"""Most bytes of a YAML file."""
ROWS = 1 << 30
"""Most bytes of a file of JSON lines: a row for each step, or for each of 30,000 images."""
DEPTH = 64
"""Most lists and mappings inside one another."""
DIGITS = 40
"""Most digits of a whole number; a tokenizer's `model_max_length` has 31."""
_SIMPLE = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class ContentError(ValueError):
    """Text that is not what it should be; the message says why, in a few words."""


def expanded(path: str | Path) -> Path:
    """The path with a leading `~` or `~user` replaced; InputError for a user there is not."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{path} names a home folder that does not exist.", "Give the whole path."
        ) from error


def is_file(text: str | Path) -> bool:
    """Whether a text names a file; a text that can be no name, being too long, does not."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def check_regular(path: Path) -> None:
    """InputError for a path that is there but is no file: a folder, a pipe, a device."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return
    if not stat.S_ISREG(mode):
        raise _no_file(path, mode)


def _no_file(path: Path, mode: int) -> InputError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return InputError(f"{path} is no regular file but {kind}.", "Give a file.")


def read_bytes(path: Path, most: int = SMALL, *, kind: str = "", unpack: bool = False) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Args:
        path: the file.
        most: of its bytes, after unpacking.
        kind: what messages call its content.
        unpack: whether it is gzipped.

    Raises:
        InputError: the file is missing or cannot be read, is no regular file (but a folder, a pipe,
            a device), or is larger.
    """
    try:
        # Without waiting: a pipe is opened although nobody writes into it, and refused below.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise _no_file(path, mode)
            content = (gzip.GzipFile(fileobj=file) if unpack else file).read(most + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"fails: {reason}"
        if isinstance(error, IsADirectoryError):
            raise _no_file(path, stat.S_IFDIR) from error
        raise InputError(
            f"{path} cannot be read as {kind}: it {why}." if kind else f"{path} {why}.",
            "Check the path, or give another file.",
        ) from error
    if len(content) > most:
        raise InputError(
            f"{path} has more than {most >> 20} MiB, too much for a file of this kind.",
            "Check that it is the right file.",
        )
    return content


def read_text(path: Path, most: int = SMALL, *, kind: str = "") -> str:
    """The text of a file without its byte-order mark, unpacked if the name ends in `.gz`.

    It is UTF-8 or, with a byte-order mark, UTF-16. InputError as for `read_bytes`, and for another
    encoding, with the number of the line.
    """
    content = read_bytes(path, most, kind=kind, unpack=path.name.lower().endswith(".gz"))
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        why = "it is cut" if wide else f"line {line} is not UTF-8"
        raise InputError(
            f"{path} cannot be read as {kind or 'text'} ({why}).", "Save it as UTF-8 text."
        ) from error
    if "\0" in text:
        raise InputError(
            f"{path} cannot be read as {kind or 'text'} (it holds NUL).", "Give a text file."
        )
    return text


def parse_json(text: str, *, finite: bool = True) -> Any:
    """What a JSON text holds.

    Args:
        text: not much longer than a small file.
        finite: whether NaN and infinities are refused, as JSON itself has none.

    Raises:
        ContentError: another text, or numbers or depths that no file of ours has.
    """

    def constant(name: str) -> float:
        if finite:
            raise ContentError(f"{name} is no JSON number")
        return float(name)

    def decimal(digits: str) -> float:
        value = float(digits)
        if finite and not math.isfinite(value):
            raise ContentError(f"{digits} is too large a number")
        return value

    try:
        content = json.loads(text, parse_constant=constant, parse_float=decimal, parse_int=_whole)
    except RecursionError:
        raise ContentError(f"it is more than {DEPTH} levels deep") from None
    except json.JSONDecodeError as error:
        raise ContentError(str(error)) from error
    if text.count("[") + text.count("{") > DEPTH:
        _check_depth(content)
    if re.search(r"\\u[dD][89abAB]", text):  # half of a character: UTF-8 cannot hold it
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ContentError("it holds half of a UTF-16 character") from None
    return content


def parse_yaml(text: str, *, finite: bool = True) -> Any:
    """What a YAML text holds: plain values only.

    Dates stay texts. Refused are tags; anchors, which can make a few lines into gigabytes; and
    names that are there twice, of which YAML would silently take the last.

    Raises:
        ContentError: as for `parse_json`, with the line.
    """
    try:
        text.encode()
        depth = 0
        for event in yaml.parse(text, Loader=_SIMPLE):
            if isinstance(event, yaml.AliasEvent):
                _refuse("anchors and aliases are not read", event.start_mark)
            tag = getattr(event, "tag", None)
            if tag not in (None, "!"):
                _refuse(f"tags such as {tag!r} are not read", event.start_mark)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                _refuse(f"it is more than {DEPTH} levels deep", event.start_mark)
        loader = _Loader(text)
        loader.finite = finite
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ContentError(f"{line}{error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise ContentError(" ".join(str(error).split())) from error


class _Loader(_SIMPLE):  # type: ignore[misc, valid-type]
    """YAML's safe loader without dates, and with limits for numbers."""

    finite = True
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def whole(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > DIGITS:
            _refuse(f"a number of {len(node.value):,} digits", node.start_mark)
        try:
            return int(self.construct_yaml_int(node))
        except (ValueError, IndexError):
            _refuse(f"{node.value!r} is no whole number", node.start_mark)

    def decimal(self, node: yaml.ScalarNode) -> float:
        try:
            value = float(self.construct_yaml_float(node))
        except (ValueError, IndexError):
            _refuse(f"{node.value[:DIGITS]!r} is no number", node.start_mark)
        if self.finite and not math.isfinite(value):
            _refuse(f"{node.value[:DIGITS]} is no finite number", node.start_mark)
        return value

    def mapping(self, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    _refuse(f"{key.value!r} is there twice", key.start_mark)
                names.add(key.value)
        yield from self.construct_yaml_map(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.decimal)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)


def _refuse(why: str, mark: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=why, problem_mark=mark)


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ContentError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level := [
        inner
        for item in level
        if isinstance(item, dict | list)
        for inner in (item.values() if isinstance(item, dict) else item)
    ]:
        depth += 1
        if depth > DEPTH:
            raise ContentError(f"it is more than {DEPTH} levels deep")


def fitted(content: Any, shape: type[Shape], where: str) -> Shape:
    """The content, if it has the shape; InputError names the key that has not.

    Args:
        content: of a file, as JSON or YAML hold it.
        shape: a TypedDict or another type of plain lists and mappings, which gives the content as
            it is, names that the shape lacks included; or a dataclass, which gives an object.
        where: the file, and the line if it has many, for the message.
    """
    import msgspec

    try:
        converted = msgspec.convert(content, shape)
    except msgspec.ValidationError as error:
        why, _, key = str(error).replace("`", "").partition(" - at ")
        key = key.removeprefix("$").strip(".")
        raise InputError(
            f"{where} is not what it should be: {key + ': ' if key else ''}{why}.",
            "Restore the file from what wrote it, or correct it.",
        ) from error
    plain = isinstance(converted, Mapping | list)
    return content if plain else converted
