"""Features of the Inception v3 that FID and KID are defined on: 2048 of its last layer, or 64."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from erase.artifacts.weights import find_weights
from erase.files import fingerprint, hash_file
from erase.judges.images import batches, halving, square, to_bytes
from erase.scoring.context import Features
from erase.scoring.judge import Judge, View
from erase.scoring.statistics import Floats

BATCH = 32


class Inception(Judge[Features]):
    """TF's Inception v3 of 2015-12-05 as torchmetrics runs it.

    Images reach it as uint8, cut to their centred square and scaled to 299 px, bilinearly with
    antialiasing (torchmetrics' default, which differs a little from torch-fidelity's and the
    original's when images are larger than 299 px).

    Args:
        features: 2048, or 64 (after the first max-pooling).
        device: where it runs.

    InputError when the weights are not on this machine.
    """

    def __init__(self, features: int = 2048, device: str = "cpu") -> None:
        self.features, self.device = features, device
        self.file = find_weights("inception")
        self.network = str(features)
        self.description = (
            f"Inception v3 (2015-12-05), {features} values, uint8 images, centred squares,"
            " bilinear with antialiasing to 299 px"
        )

    def fingerprint(self) -> str:
        """SHA-256 of the weights and of how images reach them."""
        return fingerprint([hash_file(self.file), self.description])

    @torch.no_grad()
    def values(self, files: Sequence[Path]) -> Floats:
        """Features `[N, F]` of image files, float64, in their order."""
        net = self._net().to(self.device)
        features = [
            halving(net, batch).double().cpu()
            for batch in batches(files, lambda image: to_bytes(square(image)), BATCH, self.device)
        ]
        return torch.cat(features).numpy() if features else np.zeros((0, self.features))

    def look(self, view: View) -> Features:
        """Named features of the images."""
        return Features(self.network, self.description, self.values(view.files))

    def _net(self) -> torch.nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what its dependencies deprecate
            from torchmetrics.image.fid import NoTrainInceptionV3

            net: torch.nn.Module = NoTrainInceptionV3(
                name="inception-v3-compat",
                features_list=[self.network],
                feature_extractor_weights_path=str(self.file),
            )
        return net
