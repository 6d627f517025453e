"""What metrics on samples of several kinds of things share: objects in styles, on colours.

After UnlearnCanvas (Zhang et al. 2024): when an object was forgotten, the other objects are its
own domain, and styles the other domain; when a style was forgotten, the other way round. Of a pair
(the cat in the flat style) the first thing's kind is the domain, and the second's the other domain.
Where samples ask for classes alone, these are the one kind, and there is no other domain.
"""

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from erase.errors import RunError
from erase.scoring.context import Context
from erase.scoring.metric import Metric
from erase.scoring.results import Scores, rate, rate_difference
from erase.scoring.samples import things


@dataclass(frozen=True)
class Group:
    """Images that are counted, and how one of them counts.

    `kinds` are the kinds that an image has to show as asked for. Without kinds, an image counts
    that shows none of the forgotten things that it was asked for; a pair is shown where both of its
    things are.
    """

    title: str
    indices: Sequence[int]
    kinds: frozenset[str] = frozenset()
    own: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Of images that have to show others than `kinds`, these."""

    def counted(self, context: Context) -> list[bool]:
        """Whether each image counts."""
        return [self._counts(context, index) for index in self.indices]

    def _counts(self, context: Context, index: int) -> bool:
        sample = context.samples[index]
        if kinds := self.own.get(index, self.kinds):
            return all(shown(context, index, kind) for kind in kinds & sample.kinds().keys())
        asked = things(sample.target, sample.kinds())
        forgotten = [kinds for name, kinds in asked.items() if name in context.targets and kinds]
        return not any(all(shown(context, index, kind) for kind in kinds) for kinds in forgotten)


def shown(context: Context, index: int, kind: str) -> bool:
    """Whether an image shows the thing of a kind that its prompt asks for; RunError unjudged."""
    predictions = context.kinds.get(kind) if context.kinds else context.classified()
    if predictions is None or len(predictions.probabilities) != len(context.samples):
        raise RunError(
            "This metric needs a verdict on every image from a classifier of each kind of thing.",
            "Evaluate with --suite emoji.",
        )
    return predictions.seen(index) == context.samples[index].kinds()[kind]


def unlearned(context: Context, *, wordings: bool) -> Group:
    """The images of forgotten things: called by other words (`wordings`), or by their names."""
    chosen = [
        index
        for index in _indices(context, forget=True)
        if (context.samples[index].wording != "name") == wordings
    ]
    return _some(Group("paraphrase UA" if wordings else "UA", chosen))


def in_domain(context: Context) -> Group:
    """The kept things of the kind that was forgotten."""
    domain, _ = _kinds(context)
    return _kept(context, "in-domain retained accuracy (IRA)", domain)


def several_kinds(context: Context) -> bool:
    """Whether samples ask for things of more than one kind at once."""
    return any(len(sample.asks) > 1 for sample in context.samples)


def cross_domain(context: Context) -> Group | None:
    """The first other kind in the same images; None where something of every kind is forgotten.

    RunError where samples ask for one kind of thing.
    """
    _need_several(context)
    _, others = _kinds(context)
    other = next(iter(others), None)
    if other is None:
        return None
    return _kept(context, f"cross-domain retained accuracy (CRA), of the {other}", {other})


def composed(context: Context) -> Group:
    """Kept images, which count where they show everything that their prompt names.

    RunError where samples ask for one kind of thing.
    """
    _need_several(context)
    every = {kind for sample in context.samples for kind in sample.asks}
    return _kept(context, "retained accuracy of all that the prompt names", every)


def near_and_far(context: Context) -> dict[str, Group]:
    """In-domain images of the neighbours of what was forgotten, and the rest; empty without any.

    RunError where the suite knows no neighbours of anything.
    """
    if not context.neighbours:
        raise RunError(
            "No neighbours are listed.", "Evaluate with --suite digits, emoji or imagenette."
        )
    near = {name for target in context.targets for name in context.neighbours.get(target, ())}
    kept = in_domain(context)
    if not near:
        return {}
    outside = [i for i in _indices(context, forget=False) if context.samples[i].beside]
    names = [sample.kinds().values() for sample in context.samples]
    beside = [i for i in (*kept.indices, *outside) if near & set(names[i])]
    rest = sorted(set(kept.indices) - set(beside))
    groups = {
        "neighbours": Group("retained accuracy of the nearest neighbours", beside, kept.kinds),
        "neighbours_rest": Group("retained accuracy of the rest", rest, kept.kinds),
    }
    return {name: group for name, group in groups.items() if group.indices}


def parts_of_pairs(context: Context) -> dict[str, Group]:
    """Kept images of one thing of a forgotten pair, by its kind: the cat in the other styles.

    They count where they show it and the other kind's thing as asked, of several pairs those of
    each that the image is of. Empty where no pair was forgotten.
    """
    _need_several(context)
    kept = [i for i in _indices(context, forget=False) if context.samples[i].ordinary]
    groups: dict[str, Group] = {}
    for pair in _forgotten(context):
        for kind, other in itertools.permutations(pair, 2):
            asked = ((i, context.samples[i].asks) for i in kept)
            indices = {i for i, a in asked if a.get(kind) == pair[kind] and other in a}
            title = f"{pair[kind]} with another {other}"
            before = groups.get(f"parts_{kind}", Group("retained accuracy of", []))
            both = frozenset({kind, other})
            groups[f"parts_{kind}"] = Group(
                f"{before.title}{',' if before.indices else ''} {title}",
                sorted({*before.indices, *indices}),
                before.kinds | both,
                {**before.own, **{i: before.own.get(i, both) | both for i in indices}},
            )
    return {name: group for name, group in groups.items() if group.indices}


def _indices(context: Context, *, forget: bool) -> list[int]:
    """As `Context.indices`, of samples that say what they ask for in every kind."""
    several = several_kinds(context)
    return [i for i in context.indices(forget=forget) if context.samples[i].asks or not several]


def _need_several(context: Context) -> None:
    if not several_kinds(context):
        raise RunError(
            "Samples ask for things of one kind: there is no other kind to measure.",
            "Evaluate with --suite emoji, or choose other --metrics.",
        )


def _forgotten(context: Context) -> list[dict[str, str]]:
    """By kind, the things of each forgotten thing or pair that samples ask for."""
    found = {
        name: {kind: sample.kinds()[kind] for kind in kinds}
        for sample in context.samples
        for name, kinds in things(sample.target, sample.kinds()).items()
        if name in context.targets and kinds
    }
    return list(found.values())


def _kinds(context: Context) -> tuple[set[str], list[str]]:
    """The domain: the kinds of what was forgotten, of pairs the first one; and the other kinds.

    Those of pairs come first among the others.
    """
    every = dict.fromkeys(kind for sample in context.samples for kind in sample.kinds())
    forgotten = [list(kinds) for kinds in _forgotten(context)]
    domain = {kinds[0] for kinds in forgotten}
    within = [kind for kinds in forgotten for kind in kinds[1:]]
    return domain, [kind for kind in dict.fromkeys((*within, *every)) if kind not in domain]


def _kept(context: Context, title: str, kinds: set[str]) -> Group:
    chosen = [
        index
        for index in _indices(context, forget=False)
        if kinds & context.samples[index].kinds().keys() and context.samples[index].ordinary
    ]
    return _some(Group(title, chosen, frozenset(kinds)))


def _some(group: Group) -> Group:
    if not group.indices:
        raise RunError(
            f"There is no image for the {group.title}: there is nothing to measure.",
            "Check --target, or evaluate more images.",
        )
    return group


class KindRate(Metric):
    """Shares of groups of images that show what they should, or no longer show it."""

    requires: ClassVar[frozenset[str]] = frozenset({"targets", "kinds"})

    @abstractmethod
    def groups(self, context: Context) -> Mapping[str, Group]:
        """The groups by the name of their summary; RunError when there is no image."""

    def parts(self, context: Context, group: Group) -> Mapping[str, list[int]]:
        """Places in the group by what its detail tells apart; by default by the target."""
        parts: dict[str, list[int]] = {}
        for place, index in enumerate(group.indices):
            sample = context.samples[index]
            kinds = [kind for kind in group.kinds if kind in sample.kinds()]
            name = sample.kinds()[kinds[0]] if len(kinds) == 1 else sample.target
            parts.setdefault(name, []).append(place)
        return parts

    def check(self, context: Context) -> None:
        """Refuse samples among which there is nothing to measure."""
        self.groups(context)

    def __call__(self, context: Context) -> Scores:
        """A rate for each group, with the rates of its parts in its detail."""
        summaries, rows, differences = {}, {}, {}
        for name, group in self.groups(context).items():
            ours = group.counted(context)
            parts = {
                part: {"n": len(places), "value": sum(ours[p] for p in places) / len(places)}
                for part, places in self.parts(context, group).items()
            }
            detail = {"parts": parts}
            summaries[name] = rate(
                group.title, sum(ours), len(ours), higher_is_better=True, detail=detail
            )
            for index, value in zip(group.indices, ours, strict=True):
                rows[context.samples[index].id] = {self.name: value}
            if context.baseline is not None:
                before = group.counted(context.baseline)
                differences[name] = rate_difference(ours, before)
        return Scores(summaries, rows, differences)
