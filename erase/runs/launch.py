"""What holds a run together: accelerator, run folder with its record, share of the batch."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from erase.config.base import LoopConfig
from erase.runs.checkpoint import find_checkpoint
from erase.runs.folder import (
    CONFIG,
    clear_run_folder,
    is_finished,
    lock_run_folder,
    open_run_folder,
)
from erase.runs.processes import Shard
from erase.runs.record import RunRecord


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


def shard_of(config: LoopConfig, accelerator: Accelerator) -> Shard:
    """This process's part of the global batch."""
    return Shard(
        config.train_batch_size or 1,
        config.gradient_accumulation_steps,
        accelerator.process_index,
        accelerator.num_processes,
    )


@dataclass(frozen=True)
class Start:
    """How a run begins in its folder."""

    continued: bool
    """Whether the folder holds this very run, begun earlier."""
    finished: bool
    """Whether it is finished too, so that nothing is left to do."""
    checkpoint: Path | None
    """Where to go on from."""


def start_run(
    output: Path,
    config: LoopConfig,
    accelerator: Accelerator,
    *,
    kind: str,
    overwrite: bool,
    resume: str | None,
    facts: Mapping[str, Any],
    inputs: Iterable[str | Path | None],
) -> Start:
    """Look at the run folder before anything is written; all processes enter.

    The arguments are those of `open_run_folder`, as are the errors, beside that of a checkpoint
    that is not there.
    """
    continued = open_run_folder(
        output,
        config,
        kind=kind,
        overwrite=overwrite,
        resume=resume,
        facts=facts,
        inputs=inputs,
    )
    checkpoint = find_checkpoint(output, resume) if resume and continued else None
    finished = continued and is_finished(output)
    accelerator.wait_for_everyone()  # all processes have looked before one writes
    return Start(continued, finished, checkpoint)


@contextlib.contextmanager
def recorded_run(
    output: Path,
    config: LoopConfig,
    accelerator: Accelerator,
    *,
    continued: bool,
    **provenance: Any,
) -> Iterator[dict[str, Any]]:
    """Hold the run folder while the run goes on, and keep its record; all processes enter.

    Yields a mapping: what is put there enters the record of a finished run. Whatever ends the run
    early is recorded as its failure.

    Args:
        output: the run folder.
        config: written into it.
        accelerator: the first process writes; trackers end with the run.
        continued: whether the folder holds this very run; another one's results are cleared.
        provenance: the record's own fields.
    """
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as held:
        record = None
        if accelerator.is_main_process:
            held.enter_context(lock_run_folder(output))
            if not continued:
                clear_run_folder(output)
            record = RunRecord(output, **provenance)
            config.write(output / CONFIG)
        accelerator.wait_for_everyone()
        try:
            yield found
        except BaseException as error:
            if record:
                record.fail(str(error) or type(error).__name__)
            raise
        if record:
            record.finish(**found, device_peak_memory_bytes=device_peak(accelerator.device))
    accelerator.end_training()
