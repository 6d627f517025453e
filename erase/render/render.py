"""Render samples as PNG files: batched, resumable, sharded, and the same images every time.

Every sample has its own CPU generator. Batches depend on the list of samples alone and are filled
up to the full batch size, so that neither a resumed run nor the number of processes changes an
image by a bit. Another batch size, place in the batch (other samples) or device may change single
pixels by a few of 255 levels. So may a run that renders fewer images at once for lack of memory.
"""

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from diffusers import DiffusionPipeline
from PIL import Image

from erase.artifacts.cache import RENDER_STATE
from erase.data.pictures import unreadable
from erase.errors import InputError, RunError, is_memory_error
from erase.files import fingerprint as hash_content
from erase.files import read_json, write_bytes, write_json
from erase.models.schedules import convert, scheduler_class
from erase.runs.manifest import entries, is_sound, note, note_files
from erase.runs.record import versions
from erase.scoring.samples import Sample

STATE = RENDER_STATE
IMAGES = "images"
HASHED = "hashed"
"""A key of `render.json`: every image was noted in the manifest as it was written."""
LIBRARIES = ("torch", "diffusers", "transformers", "numpy")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Progress = Callable[[int, int], object]
Pixels = np.ndarray[Any, np.dtype[Any]]


def render_fingerprint(
    weights: str,
    samples: Sequence[Sample],
    *,
    steps: int,
    size: int | None = None,
    scheduler: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> str:
    """SHA-256 of everything that the images depend on.

    These are weights (`weights` is `ModelSource.fingerprint()`), samples, settings, device and
    libraries. Batch size and process count are not among them: see the module's docstring.
    """
    installed = versions()
    content = {
        "weights": weights,
        "samples": [sample.to_json() for sample in samples],
        "steps": steps,
        "size": size,
        "scheduler": scheduler,
        "device": torch.device(device).type,
        "dtype": str(dtype),
        "versions": {name: installed.get(name) for name in LIBRARIES},
    }
    return hash_content(content)


def use_scheduler(pipeline: DiffusionPipeline, name: str | None) -> None:
    """Give the pipeline a diffusers scheduler by class name, with its own noise schedule.

    With None, the model's own stays. InputError for a name that diffusers does not have, or one
    that cannot have the model's noise schedule.
    """
    if name is not None:
        pipeline.scheduler = convert(pipeline.scheduler, scheduler_class(name))


def render(
    pipeline: DiffusionPipeline,
    samples: Sequence[Sample],
    folder: Path,
    *,
    steps: int,
    fingerprint: str,
    batch_size: int = 50,
    size: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    each: Callable[[Path], object] | None = None,
    inputs: Callable[[Sequence[Sample]], Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Render every sample to `folder/images/<id>.png`, except those that are there already.

    Args:
        pipeline: a text-to-image pipeline; moved to `device`.
        samples: what to render; their ids differ.
        steps: denoising steps.
        fingerprint: `render_fingerprint` of this model and these samples; stored in
            `folder/render.json`.
        batch_size: images rendered at once; the last batch is filled up to this size.
        size: height and width in pixels; None is the model's own.
        overwrite: delete images of another fingerprint instead of refusing the folder.
        progress: called with (images done, images in all) of this process, as batches finish.
        process_index, num_processes: this process renders every `num_processes`-th batch, from
            its own index on.
        each: called with every file of this process's share, also those that were there already,
            in a thread of its own while the next batch renders. An error in it ends the rendering
            after the current batch.
        inputs: further arguments of the pipeline for some samples, such as `latents`.

    Returns the files of all samples, in order, also of those that other processes render. Raises
    InputError when the folder holds images of another fingerprint or a setting is out of range, and
    RunError when the model renders NaN or a single image does not fit into memory.
    """
    if batch_size < 1 or steps < 1:
        raise InputError("Batch size and steps must be at least 1.", "Give larger numbers.")
    if len({sample.id for sample in samples}) != len(samples):
        raise ValueError("sample ids are not unique")
    claim(folder, fingerprint, overwrite=overwrite)
    files = {sample.id: folder / IMAGES / f"{sample.id}.png" for sample in samples}
    own_batches = list(_batches(samples, batch_size))[process_index::num_processes]
    known = entries(folder)
    todo = []
    for batch in own_batches:
        missing = [s for s in batch if not is_sound(folder, f"{IMAGES}/{s.id}.png", known)]
        if missing:
            todo.append((batch, missing))
    _report_changed(folder, [sample for _, missing in todo for sample in missing], known)
    total = sum(map(len, own_batches))
    done = total - sum(len(missing) for _, missing in todo)
    if progress:
        progress(done, total)
    if todo:
        pipeline.to(device)
    renderer = Renderer(pipeline, steps, size, batch_size, inputs)
    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as observer:
        pending: list[Future[Any]] = []
        observations: list[Future[Any]] = []
        todo_ids = {sample.id for _, missing in todo for sample in missing}
        existing = [s for batch in own_batches for s in batch if s.id not in todo_ids]
        if each:
            observations += [observer.submit(each, files[sample.id]) for sample in existing]
        for batch, missing in todo:
            images = renderer(batch)
            _wait(pending)
            missing_ids = {sample.id for sample in missing}
            pairs = zip(batch, images, strict=True)
            for file, image in [(files[s.id], image) for s, image in pairs if s.id in missing_ids]:
                saved = writer.submit(_save, folder, file, image)
                pending.append(saved)
                if each:
                    observations.append(observer.submit(_observe, saved, each, file))
            _wait([item for item in observations if item.done()])
            observations = [item for item in observations if not item.done()]
            done += len(missing)
            if progress:
                progress(done, total)
        _wait(pending)
        _wait(observations)
    return list(files.values())


def _wait(futures: list[Future[Any]]) -> None:
    """Wait for all futures; raises the error of the first that failed."""
    for future in futures:
        future.result()
    futures.clear()


def _observe(saved: Future[Any], each: Callable[[Path], object], file: Path) -> None:
    saved.result()
    each(file)


def claim(folder: Path, fingerprint: str, *, overwrite: bool = False) -> None:
    """Prepare `folder` for images of this fingerprint.

    Raises InputError when it holds images of another fingerprint; `overwrite` deletes them instead.
    """
    state, images = folder / STATE, folder / IMAGES
    content = read_json(state) if state.exists() else {}
    stored = content.get("fingerprint")
    if stored == fingerprint:
        if HASHED not in content:  # an earlier version's: its images are taken as they are
            there = [file for file in sorted(images.glob("*.png")) if readable(file)]
            note_files(folder, *(f"{IMAGES}/{file.name}" for file in there))
            _write_state(folder, fingerprint)
        return
    if stored is not None or (images.is_dir() and any(images.iterdir())):
        if not overwrite:
            raise InputError(
                f"{folder} holds images of another model or other settings.",
                "Give another --output, or --overwrite to delete them.",
            )
        state.unlink(missing_ok=True)
        shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True, exist_ok=True)
    _write_state(folder, fingerprint)


def _write_state(folder: Path, fingerprint: str) -> None:
    write_json(folder / STATE, {"fingerprint": fingerprint, HASHED: True})
    note_files(folder, STATE)


def rendered(folder: Path, samples: Sequence[Sample], fingerprint: str) -> list[Path] | None:
    """The files of all samples; None if one is missing or changed, or of another fingerprint."""
    state = folder / STATE
    content = read_json(state) if state.exists() else {}
    if content.get("fingerprint") != fingerprint or HASHED not in content:
        return None
    known = entries(folder)
    names = [f"{IMAGES}/{sample.id}.png" for sample in samples]
    sound = all(is_sound(folder, name, known) for name in names)
    return [folder / name for name in names] if sound else None


def _report_changed(folder: Path, missing: Sequence[Sample], known: Mapping[str, str]) -> None:
    """Say which of the images that will be rendered are there, but not as they were written."""
    names = [f"{IMAGES}/{sample.id}.png" for sample in missing]
    changed = [name for name in names if name in known and (folder / name).is_file()]
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        click.echo(
            f"Warning: {folder / changed[0]}{more} changed after rendering: rendered again.",
            err=True,
        )


def readable(file: Path) -> bool:
    """Whether the file is a whole image."""
    return not unreadable(file)


def _batches(samples: Sequence[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Batches of one guidance scale each, with or without negative prompts.

    A pipeline takes one scale for all of its prompts, and some (SDXL) treat an empty negative
    prompt differently from none.
    """
    kinds = [(sample.guidance, bool(sample.negative_prompt)) for sample in samples]
    for kind in dict.fromkeys(kinds):
        group = [sample for sample, k in zip(samples, kinds, strict=True) if k == kind]
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


@dataclass
class Renderer:
    """Renders batches; when memory does not suffice, in smaller pieces from then on."""

    pipeline: DiffusionPipeline
    steps: int
    size: int | None
    batch_size: int
    inputs: Callable[[Sequence[Sample]], Mapping[str, Any]] | None = None
    """Further arguments of the pipeline for some samples."""

    def __post_init__(self) -> None:
        self.at_once = self.batch_size

    def __call__(self, batch: Sequence[Sample]) -> list[Image.Image]:
        """Images of a batch of one guidance scale; a shorter batch is filled up to the full size.

        RunError when a single image does not fit into memory, or one is not finite.
        """
        while True:
            try:
                filled = [batch[place % len(batch)] for place in range(self.batch_size)]
                parts = [
                    self._pixels(filled[start : start + self.at_once])
                    for start in range(0, len(batch), self.at_once)
                ]
                break
            except Exception as error:
                if not is_memory_error(error):
                    raise
            # After the handler, because its traceback holds the batch's tensors.
            clear_device_cache(garbage_collection=True)
            self._reduce()
        pixels = np.concatenate(parts)[: len(batch)]
        for sample, image in zip(batch, pixels, strict=True):
            if not np.isfinite(image).all():
                raise RunError(
                    f"The model rendered NaN for {sample.prompt!r} (seed {sample.seed}).",
                    "Its weights are broken, or too large for this precision: render in fp32.",
                )
        return [Image.fromarray(image) for image in (pixels * 255).round().astype(np.uint8)]

    def _pixels(self, samples: Sequence[Sample]) -> Pixels:
        """`[N, height, width, 3]` in [0, 1]; a shorter piece is filled up too."""
        filled = [samples[place % len(samples)] for place in range(self.at_once)]
        options: dict[str, Any] = {}
        if self.size is not None:
            options = {"height": self.size, "width": self.size}
        guidance = filled[0].guidance
        if guidance > 1.0 and filled[0].negative_prompt:
            options["negative_prompt"] = [sample.negative_prompt for sample in filled]
        if self.inputs is not None:
            options |= self.inputs(filled)
        output = self.pipeline(
            prompt=[sample.prompt for sample in filled],
            num_inference_steps=self.steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(sample.seed) for sample in filled],
            output_type="np",
            **options,
        )
        pixels: Pixels = output.images[: len(samples)]
        return pixels

    def _reduce(self) -> None:
        if self.at_once == 1:
            raise RunError(
                "A single image does not fit into the device's memory.",
                "Render in bf16 or on another device, or free memory that others hold.",
            )
        self.at_once = (self.at_once + 1) // 2
        click.echo(
            f"Warning: {self.batch_size} images at once do not fit into memory; going on with"
            f" {self.at_once}. Single pixels may differ from a run that had the memory.",
            err=True,
        )


def _save(folder: Path, file: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    content = buffer.getvalue()
    write_bytes(file, content)
    note(folder, f"{IMAGES}/{file.name}", hashlib.sha256(content).hexdigest())
