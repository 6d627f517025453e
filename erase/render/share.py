"""One model's images in one folder: all processes together render those that are missing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from erase.models.loading import ModelSource, load_pipeline
from erase.render.render import DTYPES, Progress, claim, render, rendered, use_scheduler
from erase.runs.folder import locked
from erase.runs.processes import Distributed
from erase.scoring.samples import Protocol, Sample


def render_together(
    distributed: Distributed,
    source: ModelSource,
    samples: Sequence[Sample],
    protocol: Protocol,
    folder: Path,
    *,
    fingerprint: str,
    batch_size: int,
    device: str,
    dtype: str = "fp32",
    shared: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    each: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Render the missing images; every process renders its own batches.

    The model is not loaded if no image is missing. Other evaluations may write into a `shared`
    folder too; this one waits until they have finished. `each` is called as in `render`, by each
    process for its own share, but not if no image is missing. Returns the files of all samples, in
    order, when every process is done. Raises InputError for another model's images in the folder,
    RunError when rendering fails anywhere.
    """

    def is_complete() -> bool:
        return rendered(folder, samples, fingerprint) is not None

    def render_share() -> None:
        pipeline = load_pipeline(source, dtype=DTYPES[dtype])
        use_scheduler(pipeline, protocol.scheduler)
        if distributed.is_main:
            _report_truncated(pipeline, samples)
        render(
            pipeline,
            samples,
            folder,
            steps=protocol.steps,
            size=protocol.size,
            fingerprint=fingerprint,
            batch_size=batch_size,
            device=distributed.device(device),
            progress=progress,
            process_index=distributed.index,
            num_processes=distributed.count,
            each=each,
        )

    if not distributed.on_main(is_complete):
        with contextlib.ExitStack() as stack:
            if shared:  # the main process holds the lock for all
                distributed.on_main(lambda: stack.enter_context(locked(folder, wait=True)))
            distributed.on_main(lambda: claim(folder, fingerprint, overwrite=overwrite))
            distributed.on_all(render_share)  # renders nothing that another evaluation has rendered
    return [folder / "images" / f"{sample.id}.png" for sample in samples]


def _report_truncated(pipeline: Any, samples: Sequence[Sample]) -> None:
    """Print how many prompts the model truncates; the libraries would print every one of them."""
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    tokenizer = getattr(pipeline, "tokenizer", None)
    if tokenizer is None:
        return
    longest = tokenizer.model_max_length
    truncated = sum(
        len(ids) > longest for ids in tokenizer([s.prompt for s in samples])["input_ids"]
    )
    if truncated:
        click.echo(
            f"{truncated} of {len(samples)} prompts are cut at the {longest} tokens that the model"
            " reads.",
            err=True,
        )
