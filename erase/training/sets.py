"""The image sets of a diffusion run: the user's own, and how the others are rendered.

Rendered images can be filtered: candidates are rendered in rounds, each from new seeds, until
enough of them show the concept (forget set) or do not show it (retain set). A round's candidates
depend only on the images selected before, so that a resumed run selects the same images.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

import click
from accelerate import Accelerator
from msgspec import Meta
from tqdm import tqdm

from erase.config.concept import ConceptConfig
from erase.core.rng import derive_seed
from erase.data.captioned import (
    METADATA,
    CaptionedImages,
    check_readable,
    read_folder,
    write_captions,
)
from erase.data.classification import LabelledSet
from erase.data.concepts import Concept
from erase.errors import RunError
from erase.files import read_json, write_json
from erase.render.render import IMAGES, STATE, render, rendered
from erase.runs.manifest import entries, is_sound, note_files, write_manifest
from erase.runs.processes import Distributed
from erase.scoring.samples import Sample

ImageFilter = Callable[[Sequence[Path]], list[bool]]
"""Whether each of some images shows the concept."""
Images = CaptionedImages | LabelledSet
"""The user's images: files with captions, or labelled images in memory."""
SELECTION = "kept.json"


class Selection(TypedDict):
    """What `SELECTION` says."""

    fingerprint: str
    kept: list[Annotated[int, Meta(ge=0)]]


CANDIDATES = 4
"""A filtered set renders at most this many candidates for each image."""
GOLDEN = (math.sqrt(5) - 1) / 2


def prompts_of(concept: Concept, name: str) -> tuple[str, ...]:
    """The prompts of a set: `forget`, `retain`, or `anchor` (the prompts to show instead)."""
    if name == "anchor":
        return tuple(dict.fromkeys(text for texts in concept.anchors for text in texts))
    prompts: tuple[str, ...] = getattr(concept, name)
    return prompts


def order_of(count: int) -> list[int]:
    """All places of a list, so that those from the first on are spread over it, wherever one stops.

    Retain prompts stand by class and by concept: the first 192 of 225 would lack most of the last.
    """
    return sorted(range(count), key=lambda place: place * GOLDEN % 1.0)


def given_sets(config: ConceptConfig, concept: Concept) -> dict[str, Images]:
    """The sets that the user gives as folders of images; every image is decoded once as a check."""
    sets: dict[str, Images] = {}
    for name in ("forget", "retain", "anchor"):
        folder = getattr(config, f"{name}_images")
        if folder:
            prompts = prompts_of(concept, name)
            images = read_folder(Path(folder), prompts, follow_links=config.follow_links)
            check_readable(images)
            sets[name] = images
    return sets


def render_set(
    name: str,
    config: ConceptConfig,
    concept: Concept,
    pipeline: Any,
    folder: Path,
    accelerator: Accelerator,
    *,
    fingerprint: str,
    image_filter: ImageFilter | None = None,
) -> CaptionedImages:
    """Render the images of a set into `folder`, with `metadata.jsonl` of their captions.

    Args:
        name: `forget`, `retain` or `anchor`.
        config: number of images, steps, guidance and batch size.
        concept: its prompts are used in turn. Where there are more retain prompts than images, they
            are chosen from the whole list.
        pipeline: renders the images.
        folder: for the images; an interrupted run continues in it.
        accelerator: its processes share the batches.
        fingerprint: of everything that the images depend on.
        image_filter: select only images that show the concept; for the retain set, only images
            that do not.

    Raises:
        RunError: no image passes the filter.
    """
    distributed = Distributed.of(accelerator)
    size = int(getattr(config, f"num_{name}_images"))
    if image_filter is None:
        samples = _samples(name, config, concept, range(size))
        files = _render(samples, name, config, pipeline, folder, accelerator, fingerprint)
        return _captioned(folder, dict(zip(files, samples, strict=True)), distributed)
    intact = is_sound(folder, SELECTION, entries(folder))
    record = read_json(folder / SELECTION, Selection) if intact else None
    if record and record["fingerprint"] == fingerprint:
        samples = _samples(name, config, concept, record["kept"])
        files = [folder / IMAGES / f"{sample.id}.png" for sample in samples]
        if rendered(folder, samples, fingerprint):
            return _captioned(folder, dict(zip(files, samples, strict=True)), distributed)
    batch, limit = config.render_batch_size or 1, CANDIDATES * size
    selected: dict[Path, Sample] = {}
    count, number = 0, size
    while len(selected) < size and count < limit:
        samples = _samples(name, config, concept, range(count, count + number))
        files = _render(samples, name, config, pipeline, folder, accelerator, fingerprint)
        # Every process judges all images; nothing is deleted until all have done so.
        verdicts = distributed.on_all(partial(image_filter, files))
        for file, sample, shows_concept in zip(files, samples, verdicts, strict=True):
            if shows_concept == (name == "forget"):
                selected[file] = sample
        count += number
        # The next round's size follows from the share selected so far, in whole batches.
        missing = (size - len(selected)) * count / max(len(selected), 1)
        number = min(max(math.ceil(missing / batch), 1) * batch, limit - count)
    selected = dict(list(selected.items())[:size])
    if not selected:
        criterion = "shows" if name == "forget" else "is free of"
        raise RunError(
            f"None of {count} rendered {name} images {criterion} {concept.name!r}.",
            f"Render without --filter-{name}, with other prompts, or give --{name}-images.",
        )
    if len(selected) < size and distributed.is_main:
        click.echo(
            f"Warning: only {len(selected)} of {size} {name} images passed the filter among {count}"
            " rendered; the run goes on with those.",
            err=True,
        )
    numbers = [int(sample.id) for sample in selected.values()]
    selection = {"fingerprint": fingerprint, "rendered": count, "kept": numbers}

    def write_selection() -> None:
        write_json(folder / SELECTION, selection)
        note_files(folder, SELECTION)

    distributed.on_main(write_selection)
    return _captioned(folder, selected, distributed)


def _samples(
    name: str, config: ConceptConfig, concept: Concept, numbers: Sequence[int]
) -> list[Sample]:
    prompts = prompts_of(concept, name)
    if name == "retain" and int(config.num_retain_images or 0) < len(prompts):
        prompts = tuple(prompts[place] for place in order_of(len(prompts)))
    return [
        Sample(
            id=f"{number:05d}",
            prompt=prompts[number % len(prompts)],
            seed=derive_seed(config.seed, "render", name, number),
            # Anchors are not forgotten, so they are rendered like the retain set.
            guidance=getattr(config, f"{'forget' if name == 'forget' else 'retain'}_guidance"),
        )
        for number in numbers
    ]


def _render(
    samples: Sequence[Sample],
    name: str,
    config: ConceptConfig,
    pipeline: Any,
    folder: Path,
    accelerator: Accelerator,
    fingerprint: str,
) -> list[Path]:
    """Render samples together with the other processes; returns when all files are written."""
    distributed = Distributed.of(accelerator)
    with tqdm(
        desc=f"render the {name} set",
        unit="image",
        total=len(samples),
        disable=not distributed.is_main,
    ) as bar:
        return distributed.on_all(
            lambda: render(
                pipeline,
                samples,
                folder,
                steps=config.render_steps or 1,
                batch_size=config.render_batch_size or 1,
                size=config.resolution,
                device=str(accelerator.device),
                fingerprint=fingerprint,
                progress=lambda done, _: bar.update(done - bar.n),
                process_index=distributed.index,
                num_processes=distributed.count,
            )
        )


def _captioned(
    folder: Path, samples: dict[Path, Sample], distributed: Distributed
) -> CaptionedImages:
    """Write the captions of the selected images, and delete the other images."""

    def write() -> None:
        for file in set((folder / IMAGES).glob("*.png")) - set(samples):
            file.unlink()
        captions = {str(file.relative_to(folder)): s.prompt for file, s in samples.items()}
        write_captions(folder, captions)
        images = [folder / name for name in (IMAGES, SELECTION, STATE)]
        write_manifest(folder, [*images, folder / METADATA], {})

    distributed.on_main(write)
    return read_folder(folder)
