"""One model's images in one folder: found there, or rendered by all processes together."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from erase.models.loading import ModelSource, load_pipeline
from erase.render.render import DTYPES, Progress, claim, render, rendered, use_scheduler
from erase.runs.folder import LOCK, lock_run_folder
from erase.runs.world import World
from erase.scoring.samples import Protocol, Sample


def render_together(
    world: World,
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
    """Render what the folder lacks, every process its own batches; a whole folder needs no model.

    A `shared` folder is one that other evaluations fill as well: while one of them does, this one
    waits. `each` is called as in `render`, by each process for its own share; not at all when
    nothing has to be rendered. Returns the files of all samples, in order, when every process is
    done. Raises InputError for another model's images in the folder, RunError when rendering fails
    anywhere.
    """

    def whole() -> bool:
        return rendered(folder, samples, fingerprint) is not None

    def work() -> None:
        pipeline = load_pipeline(source, dtype=DTYPES[dtype])
        use_scheduler(pipeline, protocol.scheduler)
        if world.leads:
            _tell_cut(pipeline, samples)
        render(
            pipeline,
            samples,
            folder,
            steps=protocol.steps,
            size=protocol.size,
            fingerprint=fingerprint,
            batch_size=batch_size,
            device=world.device(device),
            progress=progress,
            process_index=world.index,
            num_processes=world.count,
            each=each,
        )

    if not world.first(whole):
        with _turn(folder, world) if shared else contextlib.nullcontext():
            world.first(lambda: claim(folder, fingerprint, overwrite=overwrite))
            world.all(work)  # finds nothing to do where another process has been faster
    return [folder / "images" / f"{sample.id}.png" for sample in samples]


def _tidy(folder: Path) -> None:
    """Remove what atomic writes of a killed process left; only for who holds the folder."""
    for parent in (folder, *(folder / name for name in ("images", "plots", "tables"))):
        for left in parent.glob(".*.partial-*"):
            if left.is_file():
                left.unlink()


def _tell_cut(pipeline: Any, samples: Sequence[Sample]) -> None:
    """Say how many prompts are longer than the model reads, once; the libraries print each."""
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    tokenizer = getattr(pipeline, "tokenizer", None)
    if tokenizer is None:
        return
    longest = tokenizer.model_max_length
    cut = sum(len(ids) > longest for ids in tokenizer([s.prompt for s in samples])["input_ids"])
    if cut:
        click.echo(
            f"{cut} of {len(samples)} prompts are cut at the {longest} tokens that the model"
            " reads.",
            err=True,
        )


@contextlib.contextmanager
def _turn(folder: Path, world: World) -> Iterator[None]:
    """Hold the folder, after waiting for whoever holds it; the first process does so for all."""

    def hold() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        handle = stack.enter_context((folder / LOCK).open("w"))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            click.echo(f"Waiting for another process that writes into {folder}.", err=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        _tidy(folder)

    with contextlib.ExitStack() as stack:
        world.first(hold)
        yield


@contextlib.contextmanager
def own_folder(
    folder: Path, world: World, check: Callable[[], object], claim: Callable[[], None]
) -> Iterator[None]:
    """Hold an evaluation's folder; InputError while another process does, or from `check`.

    The first process does so for all. `check` is called before anything is made, and must change
    nothing; `claim` is called when the folder is held, and checks again.
    """

    def hold() -> None:
        check()
        stack.enter_context(lock_run_folder(folder))
        _tidy(folder)
        claim()

    with contextlib.ExitStack() as stack:
        world.first(hold)
        yield
