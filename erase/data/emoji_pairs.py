"""Pairs of mini-emoji's things, such as the cat in the flat style: how they are found and named.

`cat from flat` is the name of that pair, whichever of the two was named first: of a pair, the
object comes before the style, and the style before the colour.
"""

from collections.abc import Mapping, Sequence

from erase.data.emoji import KINDS, Vocabulary, thing_lists
from erase.errors import InputError
from erase.scoring.names import PAIR, unknown_name

Cell = Mapping[str, int]
"""Labels by kind: of one thing, or of the two of a pair."""


def find_cell(vocabulary: Vocabulary, text: str) -> dict[str, int]:
    """What a text names: a thing by any spelling, or a pair (`cat from flat style`); or nothing.

    Raises InputError for a pair of two things of one kind.
    """
    thing, between, within = text.partition(PAIR)
    if between:
        parts = [_find_thing(vocabulary, word) for word in (thing, within)]
        if not all(parts):
            return {}
        return _joined(thing, within, *parts)
    return _find_thing(vocabulary, text)


def find_pair(vocabulary: Vocabulary, thing: str, within: str) -> dict[str, int]:
    """The labels of a thing and of what it is to be forgotten from, by their kinds.

    Raises InputError where one of them is no thing of the vocabulary, or both are of one kind.
    """
    parts = []
    for word in (thing, within):
        parts.append(_find_thing(vocabulary, word))
        if not parts[-1]:
            raise unknown_name(word, [name for kind in KINDS for name in vocabulary.names(kind)])
    return _joined(thing, within, *parts)


def cell_names(vocabulary: Vocabulary, cell: Cell) -> dict[str, str]:
    """The names of things by kind."""
    return {kind: vocabulary.names(kind)[label] for kind, label in cell.items()}


def named_pair(vocabulary: Vocabulary, pair: Cell) -> tuple[str, str]:
    """The names of a pair's two things."""
    thing, within = cell_names(vocabulary, pair).values()
    return thing, within


def cell_name(vocabulary: Vocabulary, cell: Cell) -> str:
    """The name of a thing or of a pair."""
    return PAIR.join(cell_names(vocabulary, cell).values())


def pair_captions(vocabulary: Vocabulary, pair: Cell) -> list[str]:
    """The training captions that name both things of a pair and nothing else."""
    return vocabulary.captions("train", pair)


def kept_captions(vocabulary: Vocabulary, pair: Cell) -> list[str]:
    """Captions of all that a pair leaves, its parts first.

    Of a cat in the flat style: the cat in every other style, the cat alone, the flat style alone,
    and every other object twice, in the flat style and in another one in turn.
    """
    (first, label), (second, other_label) = pair.items()
    others = [n for n in range(len(vocabulary.things(second))) if n != other_label]
    texts = [t for n in others for t in vocabulary.captions("train", {first: label, second: n})]
    texts += vocabulary.captions("train", {first: label})
    texts += vocabulary.captions("train", {second: other_label})
    kept = [n for n in range(len(vocabulary.things(first))) if n != label]
    for turn, thing in enumerate(kept):
        for n in (other_label, others[turn % len(others)]):
            captions = vocabulary.captions("train", {first: thing, second: n})
            texts.append(captions[turn % len(captions)])
    return texts


def anchor_cells(
    vocabulary: Vocabulary, pair: Cell, anchor: str | None, forgotten: Sequence[Cell]
) -> list[dict[str, int]]:
    """The pairs that are shown instead of a pair, for an anchor that is no prompt of its own.

    Args:
        vocabulary: all things.
        pair: what is forgotten.
        anchor: `next` or None, the first thing with the next one of the second kind; `random`, with
            every other one; or a thing of one of the kinds, which takes the place of its like.
        forgotten: all that is forgotten, or was before; no anchor shows any of it.

    Returns nothing where the anchor names no thing of the two kinds: it is then a prompt. Raises
    InputError for an anchor that is to be forgotten, where none is left, and where one of the
    pair's things is forgotten by itself.
    """
    if whole := next((f for f in forgotten if f != pair and _shows(pair, f)), None):
        raise InputError(
            f"{cell_name(vocabulary, whole)!r} is to be forgotten too, or was before, and"
            f" {cell_name(vocabulary, pair)!r} with it.",
            "Leave out one of the two.",
        )
    _, second = pair
    count = len(vocabulary.things(second))
    if anchor in (None, "next", "random"):
        following = [(pair[second] + step) % count for step in range(1, count)]
        cells = [{**pair, second: label} for label in following]
        cells = [cell for cell in cells if not any(_shows(cell, f) for f in forgotten)]
        if not cells:
            raise InputError(
                f"Every {second} that {cell_name(vocabulary, pair)!r} could be shown with instead"
                " is to be forgotten, or was before.",
                "Give --anchor with a prompt.",
            )
        return cells if anchor == "random" else cells[:1]
    found = find_cell(vocabulary, str(anchor))
    if not found or not found.keys() <= pair.keys():
        return []
    cell = {**pair, **found}
    if cell == pair or any(_shows(cell, f) for f in forgotten):
        itself = "the concept itself" if cell == pair else "to be forgotten too"
        raise InputError(f"The anchor {anchor!r} is {itself}.", "Give another thing or a prompt.")
    return [cell]


def _shows(cell: Cell, other: Cell) -> bool:
    """Whether images of one cell show the other one."""
    return bool(other) and other.items() <= cell.items()


def _find_thing(vocabulary: Vocabulary, word: str) -> dict[str, int]:
    lists = (vocabulary.classes, *thing_lists(vocabulary))
    labels = {kind: classes.label(word) for kind, classes in zip(KINDS, lists, strict=True)}
    return next(({kind: n} for kind, n in labels.items() if n is not None), {})


def _joined(thing: str, within: str, one: Cell, other: Cell) -> dict[str, int]:
    if one.keys() == other.keys():
        (kind,) = one
        raise InputError(
            f"Both {thing!r} and {within!r} are of the kind {kind}, and an image shows one.",
            "Name things of two kinds, such as an object and a style.",
        )
    both = {**one, **other}
    return {kind: both[kind] for kind in KINDS if kind in both}
