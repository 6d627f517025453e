"""mini-emoji's objects in its styles, judged by kind: what is forgotten, kept, near, reworded.

After UnlearnCanvas (Zhang et al. 2024, NeurIPS Datasets and Benchmarks). Every pair of object and
style is a cell of `protocol.images` images; every second caption names a background too. Cells of
something forgotten get more, and it is also asked for in other words. So does a pair, such as the
cat in the flat style. All captions are of the templates `evaluate`, which no training uses.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from erase.core.rng import derive_seed
from erase.data.emoji import KINDS, Vocabulary, Words, read_vocabulary
from erase.data.emoji_pairs import Cell, cell_names, find_cell
from erase.data.prompt_table import built_in
from erase.scoring.samples import Protocol, Sample
from erase.scoring.suite import Kind, Suite, by_name

OTHER_WORDS: tuple[Words, ...] = ("synonyms", "descriptions", "held_out")


class Emoji(Suite):
    """Objects, styles and background colours of mini-emoji."""

    name = "emoji"
    version = 2  # 1 had the forgotten style's, colour's or pair's icons among FID's real images
    settings: ClassVar = {"forgotten": 48, "paraphrases": 12}
    """Images of each forgotten object, style or pair by name, and by each kind of other words."""

    def protocols(self) -> dict[str, Protocol]:
        """The named settings of this suite."""
        default = self.protocol(
            (
                *("ua", "ra", "ira", "cra", "neighbours", "composition", "parts", "paraphrases"),
                *("h", "fid", "drift"),
            ),
            steps=25,
            guidance=3.0,
            images=3,
            settings={"fid": {"features": "classifier"}},
            classifier="emoji-objects",
            source="erase, after UnlearnCanvas (Zhang et al. 2024)",
        )
        return by_name(default)

    def classes(self, prompts: Path) -> tuple[str, ...]:
        """Names of all objects, styles and colours."""
        words = _words(prompts)
        return tuple(name for kind in KINDS for name in words.names(kind))

    def kinds(self, prompts: Path) -> Mapping[str, Kind]:
        """Objects, styles and colours, each with the classifier that ships with mini-emoji."""
        words = _words(prompts)
        return {kind: Kind(words.names(kind), f"emoji-{kind}s") for kind in KINDS}

    def asks(self, concept: str, prompts: Path) -> Mapping[str, str]:
        """By kind, the names of the thing or of the pair that a text means; empty for another."""
        words = _words(prompts)
        return cell_names(words, find_cell(words, concept))

    def neighbours(self, prompts: Path) -> Mapping[str, Sequence[str]]:
        """The five objects nearest to each object."""
        return _words(prompts).neighbours

    def samples(self, protocol: Protocol, prompts: Path) -> list[Sample]:
        """All samples that some evaluation renders; `select` chooses those of one.

        Raises InputError when `emoji.yaml` under `prompts` is missing or cannot be used.
        """
        words = _words(prompts)
        cells = itertools.product(range(len(words.objects)), range(len(words.styles)))
        more = _per_cell(protocol, len(words.objects), len(words.styles))
        most = max(protocol.images, *more.values())
        named = [
            self._in_cell(words, protocol, cell, number) for cell in cells for number in range(most)
        ]
        return named + [
            sample
            for kind in KINDS
            for label in range(len(words.things(kind)))
            for wording in OTHER_WORDS
            for sample in self._reworded(words, protocol, kind, label, wording)
        ]

    def select(
        self, samples: Sequence[Sample], protocol: Protocol, targets: frozenset[str]
    ) -> list[Sample]:
        """The images of every cell, more of cells of what is forgotten, and its other words."""
        objects, styles = (
            len({s.asks[kind] for s in samples if kind in s.asks}) for kind in KINDS[:2]
        )
        more = _per_cell(protocol, objects, styles)

        def wanted(sample: Sample) -> bool:
            if sample.wording != "name":
                return sample.target in targets
            forgotten = [kind for kind, name in sample.asks.items() if name in targets]
            limit = max([protocol.images, *(more.get(kind, 0) for kind in forgotten)])
            return int(sample.id.rsplit("-", 1)[1]) < limit

        return [sample for sample in samples if wanted(sample)]

    def more(self, protocol: Protocol, prompts: Path, targets: frozenset[str]) -> list[Sample]:
        """The images of forgotten pairs, by their names and by other words."""
        words = _words(prompts)
        cells = [cell for name in sorted(targets) if len(cell := find_cell(words, name)) > 1]
        return [
            sample
            for cell in cells
            for sample in (
                *self._of_pair(words, protocol, cell),
                *self._pair_reworded(words, protocol, cell),
            )
        ]

    def _of_pair(self, words: Vocabulary, protocol: Protocol, cell: Cell) -> list[Sample]:
        """Images of a pair by its names; those of an object in a style are its cell's."""
        numbers = range(Emoji.settings_of(protocol)["forgotten"])
        if tuple(cell) == KINDS[:2]:
            place = (cell["object"], cell["style"])
            return [self._in_cell(words, protocol, place, number) for number in numbers]
        return [self._sample(words, protocol, cell, "pair", number, {}) for number in numbers]

    def _pair_reworded(self, words: Vocabulary, protocol: Protocol, cell: Cell) -> list[Sample]:
        """Images of a pair of which one thing, the other, or both are called by other words."""
        samples = []
        for wording in OTHER_WORDS:
            able = [k for k, label in cell.items() if words.things(k)[label].words(wording)]
            called = (kinds for n in (1, 2) for kinds in itertools.combinations(able, n))
            ways = [dict.fromkeys(kinds, wording) for kinds in called]
            for number in range(Emoji.settings_of(protocol)["paraphrases"] if ways else 0):
                how = ways[number % len(ways)]
                samples.append(self._sample(words, protocol, cell, wording, number, how))
        return samples

    def _sample(
        self,
        words: Vocabulary,
        protocol: Protocol,
        cell: Cell,
        name: str,
        number: int,
        how: Mapping[str, Words],
    ) -> Sample:
        """An image of a pair, every second time also of some thing of the third kind."""
        place = [part for item in cell.items() for part in item]
        key = (self.name, protocol.seed, *place, name, number)
        labels = dict(cell)
        if number // 3 % 2:
            third = next(kind for kind in KINDS if kind not in cell)
            labels[third] = derive_seed("third", *place, name, number) % len(words.things(third))
        labels = {kind: labels[kind] for kind in KINDS if kind in labels}
        texts = words.captions("evaluate", labels, how)
        asks = cell_names(words, labels)
        return Sample(
            id=f"{'-'.join(cell_names(words, cell).values())}-{name}-{number:03d}",
            prompt=texts[number % len(texts)],
            seed=derive_seed("evaluate", *key),
            target=next(iter(asks.values())),
            guidance=protocol.guidance,
            asks=asks,
            wording=next(iter(how.values()), "name"),
        )

    def _in_cell(
        self, words: Vocabulary, protocol: Protocol, cell: tuple[int, int], number: int
    ) -> Sample:
        """An image of an object in a style, on a named background every second time."""
        labels = dict(zip(KINDS, cell, strict=False))
        turn = sum(cell) + number
        if turn % 2:
            draw = derive_seed("background", self.name, *cell, number)
            labels["colour"] = draw % len(words.colours)
        texts = words.captions("evaluate", labels)
        asks = {kind: words.names(kind)[label] for kind, label in labels.items()}
        return Sample(
            id=f"{asks['style']}-{asks['object']}-{number:03d}",
            prompt=texts[turn // 2 % len(texts)],
            seed=derive_seed("evaluate", self.name, protocol.seed, *cell, number),
            target=asks["object"],
            guidance=protocol.guidance,
            asks=asks,
        )

    def _reworded(
        self, words: Vocabulary, protocol: Protocol, kind: str, label: int, wording: Words
    ) -> list[Sample]:
        """Images of a thing called by other words; a style or a colour is that of some object."""
        if not words.things(kind)[label].words(wording):
            return []
        samples = []
        for number in range(Emoji.settings_of(protocol)["paraphrases"]):
            labels = {kind: label}
            if kind != "object":
                labels["object"] = derive_seed(kind, label, wording, number) % len(words.objects)
            texts = words.captions("evaluate", labels, {kind: wording})
            asks = {k: words.names(k)[labels[k]] for k in KINDS if k in labels}
            key = (self.name, protocol.seed, kind, label, wording, number)
            samples.append(
                Sample(
                    id=f"{asks[kind]}-{wording}-{number:03d}",
                    prompt=texts[number % len(texts)],
                    seed=derive_seed("evaluate", *key),
                    target=asks[kind],
                    guidance=protocol.guidance,
                    asks=asks,
                    wording=wording,
                )
            )
        return samples


def _per_cell(protocol: Protocol, objects: int, styles: int) -> dict[str, int]:
    """By kind, the images of each cell of a forgotten thing."""
    images = Emoji.settings_of(protocol)["forgotten"]
    cells = {"object": styles, "style": objects}
    return {kind: math.ceil(images / count) for kind, count in cells.items()}


def _words(prompts: Path) -> Vocabulary:
    return read_vocabulary(built_in(prompts))
