"""The forget and retain sets of a diffusion run: which are given, and how the others are rendered.

Rendering can be filtered: candidates are rendered in rounds, from further seeds each, until enough
show the concept (forget set) or do not show it (retain set). Which candidates a round has depends
on what was kept before alone, so that a resumed run keeps the same images.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from accelerate import Accelerator
from tqdm import tqdm

from erase.config.concept import ConceptConfig
from erase.core.rng import derive_seed
from erase.data.captioned import CaptionedImages, check_readable, read_folder, write_captions
from erase.data.classification import LabelledSet
from erase.data.concepts import Concept
from erase.errors import InputError, RunError
from erase.files import read_json, write_json
from erase.models.loading import ModelSource
from erase.render.render import IMAGES, readable, render
from erase.scoring.samples import Sample

Shows = Callable[[Sequence[Path]], list[bool]]
"""Whether each of some images shows the concept."""
Images = CaptionedImages | LabelledSet
"""Images that are given: files with captions, or labelled ones in memory."""
KEPT = "kept.json"
CANDIDATES = 4  # at most so many times the images wanted are rendered when they are filtered


DRAWN = {"mini-sd": "digits"}  # models that render the classes of one list only


def check_drawn(source: ModelSource, concept: Concept, config: ConceptConfig) -> None:
    """Raise InputError for a concept that the model never learned to render.

    The user's own prompts are taken as they are.
    """
    only = None if config.forget_prompts else DRAWN.get(source.name)
    for name, suite in zip(concept.names, concept.suites, strict=True):
        if only and suite != only:
            raise InputError(
                f"There is no concept {name!r} in {source.name}, which renders {only} only.",
                f"Give one of its {only} ('three'), another --model, or your own prompts.",
            )


def prompts_of(concept: Concept, name: str) -> tuple[str, ...]:
    """The prompts of a set: `forget`, `retain`, or `anchor`, what is shown instead."""
    if name == "anchor":
        return tuple(dict.fromkeys(text for texts in concept.anchors for text in texts))
    prompts: tuple[str, ...] = getattr(concept, name)
    return prompts


def given_sets(config: ConceptConfig, concept: Concept) -> dict[str, Images]:
    """The sets that the user gives as folders of images, every image decoded once."""
    sets: dict[str, Images] = {}
    for name in ("forget", "retain", "anchor"):
        folder = getattr(config, f"{name}_images")
        if folder:
            found = read_folder(Path(folder), prompts_of(concept, name))
            check_readable(found)
            sets[name] = found
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
    shows: Shows | None = None,
) -> CaptionedImages:
    """Render the images of a set into `folder`, with `metadata.jsonl` of their captions.

    Args:
        name: `forget`, `retain` or `anchor`.
        config: how many, with which steps, guidance and batch size.
        concept: whose prompts are taken in turn.
        pipeline: renders them.
        folder: of the images; a run that was interrupted goes on in it.
        accelerator: the processes share the batches.
        fingerprint: of all that decides the images.
        shows: keep only images that show the concept, or for the retain set that do not.

    Raises:
        RunError: no image passes the filter.
    """
    wanted = int(getattr(config, f"num_{name}_images"))
    if shows is None:
        samples = _samples(name, config, concept, range(wanted))
        files = _render(samples, name, config, pipeline, folder, accelerator, fingerprint)
        return _captioned(folder, dict(zip(files, samples, strict=True)), accelerator)
    done = read_json(folder / KEPT) if (folder / KEPT).is_file() else {}
    if done.get("fingerprint") == fingerprint:
        samples = _samples(name, config, concept, done["kept"])
        files = [folder / IMAGES / f"{sample.id}.png" for sample in samples]
        if all(map(readable, files)):
            return _captioned(folder, dict(zip(files, samples, strict=True)), accelerator)
    batch, most = config.render_batch_size or 1, CANDIDATES * wanted
    kept: dict[Path, Sample] = {}
    count, number = 0, wanted
    while len(kept) < wanted and count < most:
        samples = _samples(name, config, concept, range(count, count + number))
        files = _render(samples, name, config, pipeline, folder, accelerator, fingerprint)
        verdicts = shows(files)
        for file, sample, shown in zip(files, samples, verdicts, strict=True):
            if shown == (name == "forget"):
                kept[file] = sample
        count += number
        # As many more as the share kept so far asks for, in whole batches.
        missing = (wanted - len(kept)) * count / max(len(kept), 1)
        number = min(max(math.ceil(missing / batch), 1) * batch, most - count)
    kept = dict(list(kept.items())[:wanted])
    if not kept:
        passed = "shows" if name == "forget" else "is free of"
        raise RunError(
            f"None of {count} rendered {name} images {passed} {concept.name!r}.",
            f"Render without --filter-{name}, with other prompts, or give --{name}-images.",
        )
    if len(kept) < wanted and accelerator.is_main_process:
        click.echo(
            f"Warning: only {len(kept)} of {wanted} {name} images passed the filter among {count}"
            " rendered; the run goes on with those.",
            err=True,
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        identity = {"fingerprint": fingerprint, "rendered": count}
        write_json(folder / KEPT, {**identity, "kept": [int(s.id) for s in kept.values()]})
    return _captioned(folder, kept, accelerator)


def _samples(
    name: str, config: ConceptConfig, concept: Concept, numbers: Sequence[int]
) -> list[Sample]:
    prompts = prompts_of(concept, name)
    return [
        Sample(
            id=f"{number:05d}",
            prompt=prompts[number % len(prompts)],
            seed=derive_seed(config.seed, "render", name, number),
            # What is shown instead stays, so it is rendered as the retain set is.
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
    """Render samples together with the other processes; all files are there when it returns."""
    with tqdm(
        desc=f"render the {name} set",
        unit="image",
        total=len(samples),
        disable=not accelerator.is_main_process,
    ) as bar:
        files = render(
            pipeline,
            samples,
            folder,
            steps=config.render_steps or 1,
            batch_size=config.render_batch_size or 1,
            size=config.resolution,
            device=str(accelerator.device),
            fingerprint=fingerprint,
            progress=lambda done, _: bar.update(done - bar.n),
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
    accelerator.wait_for_everyone()
    return files


def _captioned(
    folder: Path, samples: dict[Path, Sample], accelerator: Accelerator
) -> CaptionedImages:
    """Write the captions of the images that were kept, and delete the others."""
    if accelerator.is_main_process:
        for file in set((folder / IMAGES).glob("*.png")) - set(samples):
            file.unlink()
        named = {str(file.relative_to(folder)): s.prompt for file, s in samples.items()}
        write_captions(folder, named)
    accelerator.wait_for_everyone()
    return read_folder(folder)
