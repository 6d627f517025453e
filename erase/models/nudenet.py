"""NudeNet 3.4's detector on our own inference session."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from erase.core.scoring import Detection

Colour = Literal["rgb", "library"]


class Detector:
    """What NudeNet finds in images.

    Args:
        threads: images that are worked on at the same time, each on one core.
        providers: onnxruntime execution providers, the first that is there wins; None is the CPU.
        colour: `rgb` feeds the network RGB, as it was trained; `library` feeds BGR, as the nudenet
            package does when it is given a path.
    """

    def __init__(
        self,
        threads: int = 1,
        providers: Sequence[str] | None = None,
        colour: Colour = "rgb",
    ) -> None:
        raise NotImplementedError

    def detect(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Detection]]:
        """Detections in each image, in the order of `paths`, best score first.

        `progress` is called with (images done, images in all). InputError names an image that
        cannot be read.
        """
        raise NotImplementedError

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the detections: weights, colour, versions."""
        raise NotImplementedError
