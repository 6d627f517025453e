"""Image files as tensors, a batch at a time, so that memory stays bounded whatever their number."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from erase.data.pictures import read_picture
from erase.errors import InputError, RunError

Prepare = Callable[[Image.Image], torch.Tensor]


def read_rgb(file: Path) -> Image.Image:
    """The image as a viewer shows it, in RGB; RunError, naming the file, when it cannot be read."""
    try:
        return read_picture(file)
    except InputError as error:
        raise RunError(error.message, "Delete or replace it, and run the command again.") from error


def to_bytes(image: Image.Image) -> torch.Tensor:
    """The pixels, `[3, H, W]` uint8 from 0 to 255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_unit(image: Image.Image) -> torch.Tensor:
    """The pixels, `[3, H, W]` float32 from 0 to 1."""
    return to_bytes(image).float() / 255


def square(image: Image.Image) -> Image.Image:
    """The largest centred square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def batches(
    files: Sequence[Path], prepare: Prepare, size: int, device: str = "cpu"
) -> Iterator[torch.Tensor]:
    """Prepared images `[B, …]` on the device, in order, B ≤ `size`.

    Neighbours of different shapes go into different batches. RunError for an unreadable file.
    """
    waiting: list[torch.Tensor] = []
    for file in files:
        prepared = prepare(read_rgb(file))
        if waiting and (len(waiting) == size or waiting[0].shape != prepared.shape):
            yield torch.stack(waiting).to(device)
            waiting = []
        waiting.append(prepared)
    if waiting:
        yield torch.stack(waiting).to(device)
