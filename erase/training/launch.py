"""The accelerator of a run: device, precision, trackers."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator

from erase.config import LoopConfig


def make_accelerator(config: LoopConfig, output: Path, device: str | None) -> Accelerator:
    """An accelerator as the configuration asks for it; `device` None is what it finds."""
    if device and device != "cpu":
        # accelerate reads the device from here; it has no argument for it.
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision=config.mixed_precision,
        log_with=config.report_to,
        project_dir=output / "tensorboard" if config.report_to == "tensorboard" else None,
    )


def device_peak(device: torch.device) -> int | None:
    """Most memory that tensors took on a GPU, in bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
