"""What an evaluation renders: samples, and the protocol that says how they are made and measured.

Numpy and scipy only: suites and metrics that are built on this need no torch.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from erase.errors import InputError, SettingError
from erase.scoring.names import pair_name

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
CLASS = "class"
"""What the one kind of thing is called where a suite's samples ask for no other."""
_LATER = {"asks": {}, "wording": "name", "beside": False}
"""Fields that were added later, with their defaults."""


@dataclass(frozen=True)
class Sample:
    """One image to render: everything that decides its pixels, apart from model and protocol."""

    id: str
    """Unique in its suite, and the stem of the image's file name."""
    prompt: str
    """Caption; may be empty."""
    seed: int
    """Seed of the image's own CPU generator, from 0 to 2⁶³ - 1; the same for every model."""
    target: str = ""
    """What the image should show, as the suite's classes are named; empty when it has none."""
    guidance: float = 7.5
    """Scale of classifier-free guidance; 1.0 renders without it."""
    negative_prompt: str = ""
    """Caption that guidance steers away from; unused at guidance 1.0."""
    asks: Mapping[str, str] = field(default_factory=dict, hash=False)
    """By kind, all that the image should show, where that is more than one thing:
    `{"object": "cat", "style": "flat"}`. `target` is then one of these names."""
    wording: str = "name"
    """How the prompt calls the target: by its `name`, or by other words, such as `synonyms`."""
    beside: bool = False
    """Whether it shows a neighbour of a forgotten class from outside the suite's classes, which is
    counted as a neighbour alone."""

    def __post_init__(self) -> None:
        """Refuse an id that cannot name a file (ValueError)."""
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} cannot name an image file")

    @property
    def ordinary(self) -> bool:
        """Whether it asks for one of the suite's own things by its name."""
        return self.wording == "name" and not self.beside

    def kinds(self) -> Mapping[str, str]:
        """By kind, all that the image should show; of the one kind `class` without `asks`."""
        return self.asks or ({CLASS: self.target} if self.target else {})

    def names(self) -> frozenset[str]:
        """Everything that the image should show; empty for a sample without a target."""
        return frozenset(things(self.target, self.asks))

    def to_json(self) -> dict[str, Any]:
        """Its fields, without those that were added later where they hold their defaults.

        Images that were rendered before keep their fingerprints.
        """
        fields = dataclasses.asdict(self)
        kept = {"asks", "wording"} if self.asks else set()
        return {k: v for k, v in fields.items() if k in kept or k not in _LATER or v != _LATER[k]}


def things(target: str, asks: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """All that an image should show, with its kinds: every thing, and every pair of two of them.

    A target that is none of these has no kinds. Of a pair, the thing comes first whose kind `asks`
    has first.
    """
    found: dict[str, tuple[str, ...]] = {target: ()} if target else {}
    found |= {name: (kind,) for kind, name in asks.items()}
    for (kind, name), (other, within) in itertools.combinations(asks.items(), 2):
        found[pair_name(name, within)] = (kind, other)
    return found


@dataclass(frozen=True)
class Unusable:
    """A row of a prompt table that is left out, and why."""

    row: int
    """Position among all rows of the file, from 0."""
    why: str
    prompt: str = ""


@dataclass(frozen=True)
class Protocol:
    """How a suite's images are generated and judged: data that is written into every result."""

    name: str
    """Name under which the suite offers these settings."""
    suite: str
    """The suite's name."""
    version: int
    """The suite's version; it grows whenever the same settings would give other numbers."""
    metrics: tuple[str, ...]
    """Names of the metrics, files of `erase/metrics/`."""
    steps: int
    """Denoising steps an image."""
    guidance: float
    """Scale of classifier-free guidance, for samples that bring none of their own; 1.0 is none."""
    images: int
    """Images a class, or a prompt where the suite has no classes."""
    seed: int = 0
    """Seed that the samples' own seeds derive from."""
    scheduler: str | None = None
    """Name of a diffusers scheduler class; None keeps the model's own."""
    size: int | None = None
    """Height and width in pixels; None is the model's own size."""
    limit: int | None = None
    """At most this many samples, a seeded subset spread evenly over the targets; None is all."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of metrics and suite, by their names: `{"nudenet": {"threshold": 0.6}}`."""
    classifier: str | None = None
    """What judges the images: a classifier's name, folder or file; None where nothing does."""
    source: str = ""
    """Whose settings these are: publication and section, or code."""

    def replace(self, **changes: Any) -> "Protocol":
        """A copy with the changes that are not None; InputError for values out of range."""
        given = {key: value for key, value in changes.items() if value is not None}
        changed = dataclasses.replace(self, **given)
        for key in ("steps", "images", "size", "limit"):
            value = getattr(changed, key)
            if value is not None and value < 1:
                raise InputError(f"{key} is {value}.", "Give a whole number of at least 1.")
        if not (changed.guidance >= 1.0 and np.isfinite(changed.guidance)):
            raise SettingError("guidance", f"is {changed.guidance}.", "Give 1.0 (none) or more.")
        if changed.seed < 0:
            raise SettingError("seed", f"is {changed.seed}.", "Give 0 or more.")
        if not changed.metrics:
            raise InputError("No metric is named.", "Give --metrics at least one name.")
        return changed

    def with_settings(self, settings: Mapping[str, Mapping[str, Any]]) -> "Protocol":
        """A copy with these settings of metrics and suite too; they win over the protocol's own."""
        names = [*self.settings, *(name for name in settings if name not in self.settings)]
        merged = {n: {**self.settings.get(n, {}), **settings.get(n, {})} for n in names}
        return dataclasses.replace(self, settings=merged)

    def deviations(self, published: "Protocol") -> dict[str, list[Any]]:
        """Settings that differ from the named protocol: `{setting: [named, used]}`."""
        return {
            key: [before, after]
            for key, after in self.to_json().items()
            if (before := published.to_json()[key]) != after
        }

    def to_json(self) -> dict[str, Any]:
        """Every setting, as JSON holds it."""
        return {**dataclasses.asdict(self), "metrics": list(self.metrics)}


def subset(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """At most `limit` samples, drawn by seed, spread evenly over the targets, in suite order."""
    if limit is None or limit >= len(samples):
        return list(samples)
    draw = np.random.default_rng(seed)
    ranked: list[tuple[int, int]] = []
    for target in dict.fromkeys(sample.target for sample in samples):
        members = [i for i, sample in enumerate(samples) if sample.target == target]
        ranked += [(rank, int(i)) for rank, i in enumerate(draw.permutation(members))]
    chosen = sorted(index for _, index in sorted(ranked)[:limit])
    return [samples[index] for index in chosen]
