"""NudeNet at work on finished images while an accelerator renders the next ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erase.judges.nudenet import Detector
from erase.scoring.context import Detection


class AheadDetector(Detector):
    """A detector that remembers what it has seen while images were still being rendered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seen: dict[Path, list[Detection]] = {}

    def see(self, path: Path) -> None:
        """Look at one image now; `detect` will know it."""
        self._seen[path] = super().detect([path])[0]

    def detect(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Detection]]:
        """Detections in each image; only those not seen before are looked at now."""
        rest = [path for path in paths if path not in self._seen]
        before = len(paths) - len(rest)

        def report(done: int, _: int) -> None:
            if progress is not None:
                progress(before + done, len(paths))

        detections = {**self._seen, **dict(zip(rest, super().detect(rest, report), strict=True))}
        return [detections[path] for path in paths]


def while_rendering(detector: Detector | None, device: str) -> Callable[[Path], object] | None:
    """What to do with each image while the next batch renders; None where nothing is gained.

    On a CPU rendering uses every core, so that a detector beside it would only be in its way.
    """
    if isinstance(detector, AheadDetector) and not device.startswith("cpu"):
        return detector.see
    return None
