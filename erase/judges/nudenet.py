"""NudeNet's detector on our own inference session: the library's detections, sooner.

The network (`320n.onnx`, YOLOv8n at 320 × 320) and its protocol are those of the nudenet package
3.4: the image is padded with black to a square at its right or lower side and resized bilinearly;
a box counts from a score above 0.25 that no better box of any class overlaps by an IoU of 0.45.
What differs is how it is run: images are decoded ahead of inference, the loops over 2,100 candidate
boxes are array operations, and `threads` images are worked on at a time, each on one core, because
one image on several cores gains little.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

# Otherwise onnxruntime writes an id of this machine into the home folder, and asks the network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from erase.artifacts.packaged import nudenet_file
from erase.data.pictures import check_header
from erase.errors import InputError, RunError
from erase.files import fingerprint, hash_file
from erase.scoring.context import Detection
from erase.scoring.judge import Judge, View

Colour = Literal["rgb", "library"]
LABELS = (
    "FEMALE_GENITALIA_COVERED",
    "FACE_FEMALE",
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED",
    "ANUS_EXPOSED",
    "FEET_EXPOSED",
    "BELLY_COVERED",
    "FEET_COVERED",
    "ARMPITS_COVERED",
    "ARMPITS_EXPOSED",
    "FACE_MALE",
    "BELLY_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_COVERED",
    "FEMALE_BREAST_COVERED",
    "BUTTOCKS_COVERED",
)
"""The network's classes in the order of its outputs, as nudenet 3.4 names them."""
SIDE = 320  # pixels a side of the network's input
CANDIDATE, LOWEST, OVERLAP = 0.2, 0.25, 0.45  # the library's: first floor, NMS score, NMS IoU
CPU = "CPUExecutionProvider"
Images = NDArray[np.float32]
Size = tuple[int, int]


class Detector(Judge[list[list[Detection]]]):
    """What NudeNet finds in images.

    Args:
        threads: images that are worked on at the same time, each on one core; at least 1. None
            is `OMP_NUM_THREADS`, or every core. It changes no detection.
        providers: onnxruntime's execution providers in order of preference
            (`CUDAExecutionProvider`); those that it was built without, or that cannot start, are
            passed over, the CPU coming last. None is the CPU. `provider` says which it is.
        colour: `rgb` feeds the network RGB, as it was trained, and equals the library on RGB
            arrays; `library` feeds BGR, and equals the library on paths.

    Raises InputError when nudenet is not installed, or for values out of range.
    """

    def __init__(
        self,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        colour: Colour = "rgb",
    ) -> None:
        threads = default_threads() if threads is None else threads
        if threads < 1:
            raise InputError(f"NudeNet was given {threads} threads.", "Give at least 1.")
        if colour not in ("rgb", "library"):
            raise InputError(f"There is no colour order {colour!r}.", "Known: rgb, library.")
        self.threads, self.colour = threads, colour
        self.model = nudenet_file()
        self._session = _session(self.model, _available(providers))
        self.provider: str = self._session.get_providers()[0]
        self._on_cpu = self.provider == CPU
        self._input = self._session.get_inputs()[0].name
        # On a CPU one image keeps the layers' activations in cache best (26 ms of CPU time; 28 in
        # batches of 8); a GPU wants work.
        self._batch = 1 if self._on_cpu else 32

    def detect(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Detection]]:
        """Find what there is in image files.

        Args:
            paths: files of any format OpenCV reads; alpha is dropped, and EXIF's orientation is
                applied, as the library does, so that boxes are in pixels of the upright image.
            progress: called with (images done, images in all).

        Returns a list for each path, in their order, best score first; scores are above 0.25.
        At most a few batches of network inputs (1.2 MB an image) are held at a time. Raises
        InputError, naming the file, for an image that is missing or cannot be read.
        """
        workers = self.threads if self._on_cpu else 1
        results: list[list[Detection]] = []
        pending: deque[Future[list[list[Detection]]]] = deque()
        readers, runners = ThreadPoolExecutor(self.threads), ThreadPoolExecutor(workers)

        def collect() -> None:
            results.extend(pending.popleft().result())
            if progress is not None:
                progress(len(results), len(paths))

        try:
            # The usual number of images a batch, or fewer so that every worker has one.
            size = max(1, min(self._batch, -(-len(paths) // workers)))
            for start in range(0, len(paths), size):
                inputs = readers.submit(self._read, paths[start : start + size])
                pending.append(runners.submit(self._infer, inputs))
                if len(pending) > workers + self.threads:
                    collect()
            while pending:
                collect()
        finally:
            for pool in (readers, runners):
                pool.shutdown(wait=True, cancel_futures=True)
        return results

    def look(self, view: View) -> list[list[Detection]]:
        """Detections in each image."""
        return self.detect(view.files)

    def fingerprint(self) -> str:
        """SHA-256 over what decides the detections: weights, colour, provider, versions."""
        return fingerprint(
            {
                "weights": hash_file(self.model),
                "colour": self.colour,
                "provider": self.provider,
                "onnxruntime": onnxruntime.__version__,
                "opencv": cv2.__version__,
            }
        )

    def _read(self, paths: Sequence[Path]) -> tuple[Images, list[Size]]:
        """Network inputs `[N, 3, 320, 320]` in [0, 1], and sizes (width, height) of the images."""
        inputs = np.empty((len(paths), 3, SIDE, SIDE), np.float32)
        return inputs, [
            _prepare(path, into, self.colour) for path, into in zip(paths, inputs, strict=True)
        ]

    def _infer(self, read: "Future[tuple[Images, list[Size]]]") -> list[list[Detection]]:
        inputs, sizes = read.result()
        try:
            outputs = self._session.run(None, {self._input: inputs})[0]
        except Exception as error:  # onnxruntime raises classes of its own
            raise RunError(
                f"NudeNet's inference failed: {str(error).splitlines()[0]}",
                "Try the CPU, or fewer threads.",
            ) from error
        return [_boxes(output, size) for output, size in zip(outputs, sizes, strict=True)]


def default_threads() -> int:
    """`OMP_NUM_THREADS`, which launchers of several processes set, or every core; at most 16."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(int(threads) if threads.isdigit() and int(threads) else usable or 1, 16)


def _available(providers: Sequence[str] | None) -> list[str]:
    """Those of the providers that this onnxruntime was built with, and the CPU."""
    known = onnxruntime.get_all_providers()
    if unknown := [name for name in providers or () if name not in known]:
        raise InputError(
            f"onnxruntime knows no provider {unknown[0]!r}.", f"Known: {', '.join(known)}."
        )
    there = onnxruntime.get_available_providers()
    return list(dict.fromkeys([*(name for name in providers or () if name in there), CPU]))


def _session(model: Path, providers: Sequence[str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # images run side by side instead, see the module's docstring
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it would warn when a provider cannot start, and go on
    return onnxruntime.InferenceSession(str(model), options, providers=list(providers))


def _prepare(path: Path, into: Images, colour: Colour) -> Size:
    """Write one image's network input into `[3, 320, 320]`; returns its width and height.

    To the bit what the library computes: pixels are padded, resized as bytes, then divided.
    """
    pixels: NDArray[Any] = _decode(path)
    height, width = pixels.shape[:2]
    if height != width:
        side = max(height, width)
        pad = (0, side - height, 0, side - width)
        pixels = cv2.copyMakeBorder(pixels, *pad, cv2.BORDER_CONSTANT)
    if pixels.shape[0] != SIDE:
        pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    order = (2, 1, 0) if colour == "rgb" else (0, 1, 2)  # OpenCV decodes to BGR
    for channel, source in enumerate(order):
        np.multiply(pixels[..., source], np.float32(1 / 255), out=into[channel])
    return width, height


def _decode(path: Path) -> NDArray[np.uint8]:
    """Pixels `[H, W, 3]`, BGR; the file is read by Python, which knows every file name.

    OpenCV decodes, not `read_picture`, because the library's detections are those of its pixels.
    """
    check_header(path)
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except (OSError, cv2.error) as error:
        reason = error.strerror if isinstance(error, OSError) else "OpenCV refuses it"
        raise InputError(f"{path} cannot be read ({reason}).", _REMEDY) from error
    if pixels is None:
        raise InputError(f"{path} is not an image, or is damaged.", _REMEDY)
    decoded: NDArray[np.uint8] = pixels.astype(np.uint8, copy=False)
    return decoded


_REMEDY = "Delete it and run the command again: an evaluation renders what is missing."


def _boxes(output: NDArray[np.float32], size: Size) -> list[Detection]:
    """Detections from one image's network output `[4 + 18, 2100]`: centre, size, class scores.

    The library's arithmetic, in its order and in float32. As there, a box that is clipped at the
    left or upper side keeps its width and height.
    """
    best = output[4:].max(axis=0)
    candidates = np.flatnonzero(best >= np.float32(CANDIDATE))
    if not len(candidates):
        return []
    scores, classes = best[candidates], output[4:, candidates].argmax(axis=0)
    x, y, w, h = output[:4, candidates]
    width, height, side = size[0], size[1], max(size)
    left = np.clip((x - w / 2) * np.float32(side) / np.float32(SIDE), 0, np.float32(width))
    top = np.clip((y - h / 2) * np.float32(side) / np.float32(SIDE), 0, np.float32(height))
    wide = np.minimum(w * np.float32(side) / np.float32(SIDE), np.float32(width) - left)
    high = np.minimum(h * np.float32(side) / np.float32(SIDE), np.float32(height) - top)
    boxes = np.stack([left, top, wide, high], axis=1)
    chosen = cv2.dnn.NMSBoxes(boxes.astype(np.float64).tolist(), scores.tolist(), LOWEST, OVERLAP)
    whole = boxes.astype(np.int64).tolist()  # cut, not rounded
    return [
        Detection(LABELS[classes[i]], float(scores[i]), (*whole[i],))
        for i in np.asarray(chosen, dtype=np.intp).ravel()
    ]
