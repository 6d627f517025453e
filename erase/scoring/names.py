"""Names of classes and concepts as people write them: how a word finds the one that is meant."""

import difflib
import unicodedata
from collections.abc import Mapping, Sequence

from erase.errors import InputError

PAIR = " from "
"""Between the two names of a pair: `cat from flat` is the cat in the flat style alone."""


def plain(name: str) -> str:
    """A name without what does not tell names apart: case, spare spaces, forms of accents.

    An accent is one character or a letter with a mark, as the system that wrote it prefers.
    """
    folded = unicodedata.normalize("NFC", name).casefold()
    spaced = " ".join(unicodedata.normalize("NFC", folded).split())
    return spaced.replace(", ", ",").replace(" ,", ",")


def pair_name(thing: str, within: str) -> str:
    """The name of a pair: a thing, within another one."""
    return f"{thing}{PAIR}{within}"


def find_name(word: str, names: Sequence[str]) -> int | None:
    """Place of the name that `word` means: the very same, else the first that is plainly equal."""
    if word in names:
        return list(names).index(word)
    same = (place for place, name in enumerate(names) if plain(name) == plain(word))
    return next(same, None)


def find_names(words: str, names: Sequence[str]) -> list[int]:
    """Places of the names in a text that has commas between them; names may have commas, too.

    Where a text can be read in two ways, the longer name is meant. Raises InputError for a text
    that is no list of the names.
    """
    pieces = words.split(",")
    longest = 1 + max(name.count(",") for name in names)
    # From the end: what the rest of the text means, from each piece on; None if it means nothing.
    rest: list[list[int] | None] = [None] * len(pieces) + [[]]
    for start in reversed(range(len(pieces))):
        for end in range(min(start + longest, len(pieces)), start, -1):
            place, after = find_name(",".join(pieces[start:end]), names), rest[end]
            if place is not None and after is not None:
                rest[start] = [place, *after]
                break
    if rest[0] is None:
        wrong = next((p for p in pieces if find_name(p, names) is None), words)
        raise unknown_name(wrong.strip(), names)
    return rest[0]


def unknown_name(
    word: str, names: Sequence[str], spellings: Mapping[str, str] | None = None
) -> InputError:
    """The error for a word that names no class, with the closest one.

    `spellings` are further spellings, with the name that each stands for.
    """
    others = {**(spellings or {}), **{name: name for name in names}}
    spelled = {plain(spelling): name for spelling, name in others.items()}
    close = difflib.get_close_matches(plain(word), spelled, n=1, cutoff=0.5)
    hint = f"Did you mean {spelled[close[0]]!r}? " if close else ""
    known = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return InputError(f"There is no class {word!r}.", f"{hint}Known: {known}.")
