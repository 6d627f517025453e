"""NudeNet on finished images while an accelerator renders the next ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erase.judges.nudenet import Detector
from erase.scoring.context import Detection


class AheadDetector(Detector):
    """A detector that can look at images while others render, and stores its detections."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._detections: dict[Path, list[Detection]] = {}

    def detect_ahead(self, path: Path) -> None:
        """Detect in one image now, for a later call of `detect`."""
        self._detections[path] = super().detect([path])[0]

    def detect(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Detection]]:
        """Detections in each image; computes those that `detect_ahead` has not computed."""
        new = [path for path in paths if path not in self._detections]
        stored = len(paths) - len(new)

        def report(done: int, _: int) -> None:
            if progress is not None:
                progress(stored + done, len(paths))

        detections = {
            **self._detections,
            **dict(zip(new, super().detect(new, report), strict=True)),
        }
        return [detections[path] for path in paths]


def while_rendering(detector: Detector | None, device: str) -> Callable[[Path], object] | None:
    """A function to call with each image while the next batch renders; None if that gains nothing.

    On a CPU, rendering uses every core, and a detector beside it would slow it down.
    """
    if isinstance(detector, AheadDetector) and not device.startswith("cpu"):
        return detector.detect_ahead
    return None
