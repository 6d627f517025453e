"""LPIPS distance between images of the same samples, pair by pair."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch

from erase.artifacts.weights import find_weights, load_weights
from erase.files import hash_file
from erase.judges.images import batches, halving, to_unit
from erase.scoring.context import PerImage
from erase.scoring.judge import Judge, View

BATCH = 16


class Lpips(Judge[PerImage]):
    """LPIPS 0.1 on AlexNet or VGG-16, with torchmetrics' copy of its linear layers.

    InputError when the backbone's weights are not on this machine.
    """

    def __init__(self, net: str = "alex", device: str = "cpu") -> None:
        self.network, self.device = net, device
        self.file = find_weights(f"lpips-{net}")
        self.description = f"LPIPS 0.1, {net}"

    def fingerprint(self) -> str:
        """SHA-256 of the backbone's weights; the linear layers come with torchmetrics."""
        return hash_file(self.file)

    @torch.no_grad()
    def look(self, view: View) -> PerImage:
        """Distance of each image from the baseline's, from 0 up; both have the same size."""
        net = self._net().to(self.device)
        values = [np.zeros(0)]
        pairs = zip(
            batches(view.files, to_unit, BATCH, self.device),
            batches(view.baseline or (), to_unit, BATCH, self.device),
            strict=True,
        )
        for first, second in pairs:
            distances = halving(partial(net, normalize=True), first, second).flatten()
            values.append(distances.double().cpu().numpy())
        return PerImage(self.network, self.description, np.concatenate(values))

    def _net(self) -> torch.nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what its dependencies deprecate
            from torchmetrics.functional.image.lpips import _LPIPS

            net: Any = _LPIPS(pretrained=True, net=self.network, pnet_rand=True)
        net.net.load_state_dict(_slices(net.net, load_weights(f"lpips-{self.network}")))
        ready: torch.nn.Module = net.eval()
        return ready


def _slices(net: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Torchvision's `features.N.weight` under the names of the slices that LPIPS cuts."""
    wanted = net.state_dict()
    return {name: tensors[f"features.{name.split('.', 1)[1]}"] for name in wanted}
