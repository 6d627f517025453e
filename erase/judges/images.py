"""Image files as tensors, a batch at a time, so that memory stays bounded whatever their number."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from erase.data.pictures import read_picture
from erase.errors import InputError, RunError, is_memory_error

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


def halving(look: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """`look(*inputs)`, `[B, …]`; where memory does not suffice, in halves of the batch.

    RunError when a single image does not fit.
    """
    try:
        return look(*inputs)
    except Exception as error:
        if not is_memory_error(error):
            raise
    from accelerate.utils.memory import clear_device_cache

    # After the handler, because its traceback holds the batch's tensors.
    if len(inputs[0]) == 1:
        raise RunError(
            "A single image does not fit into the memory of the judge's device.",
            "Free memory that others hold, or give another --device.",
        )
    clear_device_cache(garbage_collection=True)
    halves = zip(*(tensor.tensor_split(2) for tensor in inputs), strict=True)
    return torch.cat([halving(look, *half) for half in halves])


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
