"""Prints the list `neighbours` of `prompts/emoji.yaml`: the objects whose icons look most alike.

    python -m benchmarks.emoji_neighbours --data-dir ICONS

Two icons are compared by the object classifier's last feature map, of icons of the same style and
without what all icons of the style have in common: the cosine, averaged over styles. (Behind it, in
the 64 features that the classifier decides on, look-alikes are pushed apart by its training.)
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import normalize

from erase.data.emoji import read_vocabulary
from erase.data.icons import read_icons
from erase.embedded.mini_emoji_stages import Pictures
from erase.judges.icon_classifier import ICON_CLASSIFIERS, IconClassifier

COUNT = 5


def main() -> None:
    """Read the icons and print the list as YAML."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the icons")
    given = parser.parse_args()
    vocabulary, judge = read_vocabulary(), IconClassifier.load(ICON_CLASSIFIERS["object"])
    blocks = [part for part in judge.trunk if isinstance(part, nn.Sequential)]
    icons = read_icons(given.data_dir, vocabulary).to("cpu", judge.size)
    pictures = Pictures(icons, vocabulary, 0)
    with torch.no_grad():
        maps = [nn.Sequential(*blocks)(part) for part in pictures.all_once("alike").split(256)]
    seen = torch.cat(maps).flatten(1).unflatten(0, pictures.shape).mean(2)  # [objects, styles, F]
    seen = normalize(seen - seen.mean(0), dim=-1)
    alike = torch.einsum("asf,bsf->ab", seen, seen).fill_diagonal_(-torch.inf)
    names = vocabulary.names("object")
    print("neighbours:")
    for name, row in zip(names, alike, strict=True):
        print(f"  {name}: [{', '.join(names[place] for place in row.topk(COUNT).indices)}]")


if __name__ == "__main__":
    main()
