"""The classifiers that judge images: by name, as a folder, or as a weight file.

A judge is loaded by name, so that suites and metrics stay free of models. Weights are looked for
when it is made, before anything is rendered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from erase.data.digits import digit_captions
from erase.errors import InputError
from erase.judges.base import ClassifierJudge
from erase.judges.digit_classifier import DigitClassifier
from erase.judges.digits import DigitJudge
from erase.judges.emoji import EMOJI_JUDGES, emoji_judge
from erase.judges.icon_classifier import IconClassifier
from erase.judges.images import batches, halving
from erase.judges.zoo import Network, network_from
from erase.scoring.context import Predictions
from erase.scoring.names import plain

BATCH = 64
SETTINGS = {"among": ("all", "suite")}
DIGITS = "digits-classifier"


class NetworkJudge(ClassifierJudge):
    """Any network that ends in class scores.

    Args:
        network: the network with its classes, input and weights' hash.
        wanted: names of classes as the suite spells them; they replace the network's own spelling.
        aliases: other names of those classes, which the network may use.
        among: `all` lets the network choose among all of its classes, `suite` among `wanted`.
        device: where it runs.
    """

    def __init__(
        self,
        network: Network,
        wanted: Sequence[str],
        among: str = "all",
        device: str = "cpu",
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.network, self.device = network, device
        self.name = re.sub(r"\W+", "_", network.name).strip("_").lower()
        spelled = {plain(name): name for name in wanted}
        own = {plain(name) for name in network.classes}
        for alias, name in (aliases or {}).items():
            if name in wanted and plain(name) not in own:
                spelled.setdefault(plain(alias), name)
        self.classes = tuple(spelled.get(plain(n), n) for n in network.classes)
        if lacking := [name for name in wanted if name not in self.classes]:
            raise InputError(
                f"The classifier {network.name} has no class {lacking[0]!r}.",
                f"It has {len(self.classes)}: {', '.join(self.classes[:12])}, ….",
            )
        self.chosen = list(range(len(self.classes)))
        if among == "suite" and wanted:
            self.chosen = [self.classes.index(name) for name in wanted]
        self.description = f"{network.description}, last hidden layer"

    def fingerprint(self) -> str:
        """SHA-256 of its weights."""
        return self.network.sha256

    @torch.no_grad()
    def predict(self, images: Sequence[Path]) -> Predictions:
        """Probabilities and features of image files, in their order."""
        net = self.network.net.eval().to(self.device)
        hidden: list[Tensor] = []
        features, logits = [], []

        def keep(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            hidden.append(inputs[0].detach().flatten(1).cpu())

        handle = _head(net).register_forward_pre_hook(keep)
        count = _head(net).out_features

        def both(batch: Tensor) -> Tensor:
            hidden.clear()
            scores = net(batch).cpu()
            return torch.cat([scores, hidden.pop()], dim=1)

        try:
            for batch in batches(images, self.network.prepare, BATCH, self.device):
                values = halving(both, batch).double()
                logits.append(values[:, :count][:, self.chosen])
                features.append(values[:, count:])
        finally:
            handle.remove()
        classes = tuple(self.classes[index] for index in self.chosen)
        if not logits:
            return Predictions(self.name, classes, np.zeros((0, len(classes))), np.zeros((0, 0)))
        probabilities = torch.cat(logits).softmax(dim=1).numpy()
        return Predictions(self.name, classes, probabilities, torch.cat(features).numpy())


def _head(net: nn.Module) -> nn.Linear:
    """The last linear layer, whose input are the features; InputError when there is none."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError("This classifier has no linear layer.", "Choose another --classifier.")
    return layers[-1]


def load_judge(
    name: str,
    classes: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    aliases: Mapping[str, str] | None = None,
) -> ClassifierJudge:
    """The judge of that name, for a suite's classes.

    Args:
        name: `digits-classifier`, `emoji-objects`, `emoji-styles`, or a folder of another such one
            (`erase train mini-sd`, `mini-emoji`); `emoji-colours`; a folder that `erase train
            classifier` wrote; a weight file `ARCH-….pth`; `efficientnet-lite0`; a torchvision or
            timm model.
        classes: names that targets may take.
        settings: `among`, as for `NetworkJudge`.
        device: where it runs; the digit classifier always runs on the CPU.
        aliases: other names of the classes, by which a classifier may know them.

    Raises InputError for an unknown name, missing weights, or classes that the judge lacks.
    """
    among = (settings or {}).get("among", "all")
    return _load(name, tuple(classes), among, device, tuple((aliases or {}).items()))


@lru_cache(maxsize=4)
def _load(
    name: str,
    classes: tuple[str, ...],
    among: str,
    device: str,
    aliases: tuple[tuple[str, str], ...],
) -> ClassifierJudge:
    if name == DIGITS or DigitClassifier.is_here(Path(name)):
        ordered = _in_digit_order(classes, dict(aliases))
        return DigitJudge(ordered, None if name == DIGITS else Path(name))
    if name in EMOJI_JUDGES or IconClassifier.is_here(Path(name)):
        return emoji_judge(name, classes)
    return NetworkJudge(network_from(name, classes), classes, among, device, dict(aliases))


def _in_digit_order(classes: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """The ten classes from zero to nine, by their numerals or words; InputError for others."""
    known = {plain(alias): name for alias, name in aliases.items()}
    known |= {plain(name): name for name in classes}
    ordered = [
        known.get(str(label)) or known.get(plain(word))
        for label, word in enumerate(digit_captions().names)
    ]
    digits = [name for name in ordered if name is not None]
    if len(classes) != 10 or set(digits) != set(classes):
        raise InputError(
            "The digit classifier judges suites of the ten digits (0 to 9, or zero to nine).",
            "Choose another --classifier.",
        )
    return digits
