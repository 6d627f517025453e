"""Images of the same prompts and seeds while training: one row of a growing sheet each time.

Rendering uses its own generators and changes no weights, modes or random state, so a run ends with
the same weights with or without it. If the run has a moving average of the weights, the average
renders, because the run saves the average.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Module

from erase.config.concept import ConceptConfig
from erase.core.params import as_list, restore, snapshot
from erase.core.rng import derive_seed
from erase.data.pictures import read_picture
from erase.data.texts import read_prompts
from erase.errors import InputError
from erase.files import fingerprint, read_json, write_bytes, write_json
from erase.models.loading import ModelSource, load_pipeline
from erase.reading import is_file
from erase.render.render import render
from erase.report.contact_sheet import headed_sheet, png
from erase.runs.processes import Distributed
from erase.scoring.samples import Sample

FOLDER, SHEET, STATE = "validation", "sheet.png", "state.json"


def validation_prompts(config: ConceptConfig) -> tuple[str, ...]:
    """The prompts of `--validation-prompts`: separated by `;`, or a file with one a line.

    InputError when they are empty, or when `--validation-steps` is given without them.
    """
    option = config.validation_prompts
    if option is None:
        if config.validation_steps:
            raise InputError(
                "--validation-steps is given without --validation-prompts.",
                "Say what to render: --validation-prompts 'a red car; a dog'.",
            )
        return ()
    if is_file(option):
        return tuple(read_prompts(option))
    prompts = tuple(text for part in option.split(";") if (text := part.strip()))
    if not prompts:
        raise InputError(
            "--validation-prompts is empty.", "Give prompts separated by ';', or a file."
        )
    return prompts


class Validation:
    """Renders the validation prompts with the current model, into the run's folder.

    Args:
        config: resolved; without validation prompts nothing is done.
        source: the base model, for the parts that are not trained.
        parts: the trained parts, by their names in the pipeline.
        parameters: their trained parameters.
        accelerator: only the main process renders; trackers get the images.
        folder: the run's folder.
    """

    def __init__(
        self,
        config: ConceptConfig,
        source: ModelSource,
        parts: Mapping[str, Module],
        parameters: Mapping[str, Tensor],
        accelerator: Accelerator,
        folder: Path,
    ) -> None:
        self.config = config
        self.source = source
        self.parts: dict[str, Any] = dict(parts)
        self.parameters = as_list(parameters)
        self.accelerator = accelerator
        self.distributed = Distributed.of(accelerator)
        self.folder = folder / FOLDER
        self.samples = [
            Sample(
                id=f"{index:03d}",
                prompt=prompt,
                seed=derive_seed(config.seed, "validation", index),
                guidance=config.forget_guidance or 1.0,
            )
            for index, prompt in enumerate(validation_prompts(config))
        ]

    def due(self, done: int) -> bool:
        """Whether the prompts are rendered after `done` steps; not after the last step."""
        every = self.config.validation_steps
        return bool(every) and done % every == 0 and done < (self.config.max_train_steps or 0)

    def start(self) -> None:
        """Prepare the folder, and render the model before the first step.

        Call it before a resumed run too. A sheet of other prompts, from before the run was resumed,
        is deleted.
        """
        if self.samples and self.distributed.is_main:
            samples = fingerprint([sample.to_json() for sample in self.samples])
            state = self.folder / STATE
            if state.is_file() and read_json(state).get("samples") != samples:
                shutil.rmtree(self.folder)
            write_json(state, {"samples": samples})
        self(0)

    def __call__(self, done: int, average: Sequence[Tensor] | None = None) -> None:
        """Render after `done` steps, with the moving `average` of the parameters if there is one.

        All processes call it; the main one renders, and the others wait.
        """
        if self.samples:
            self.distributed.on_main(lambda: self._add_row(done, average))

    def _add_row(self, done: int, average: Sequence[Tensor] | None) -> None:
        with _evaluation_state(self.parts.values(), self.parameters, average):
            files = self._render(done)
        contact_sheet(self.folder, [sample.prompt for sample in self.samples])
        self._report(done, files)

    def _render(self, done: int) -> list[Path]:
        # VAE and text encoders are loaded for this call only, and freed after it.
        pipeline = load_pipeline(self.source, **self.parts)
        size = min(self.config.render_batch_size or 1, len(self.samples))
        return render(
            pipeline,
            self.samples,
            self.folder / f"step-{done:06d}",
            steps=self.config.render_steps or 1,
            batch_size=size,
            size=self.config.resolution,
            device=str(self.accelerator.device),
            fingerprint=fingerprint([done, [sample.to_json() for sample in self.samples]]),
            overwrite=True,
        )

    def _report(self, done: int, files: Sequence[Path]) -> None:
        for tracker in self.accelerator.trackers:
            images = [read_picture(file) for file in files]
            if tracker.name == "tensorboard":
                stacked = np.stack([np.asarray(image) for image in images])
                tracker.log_images({"validation": stacked}, step=done, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"validation": images}, step=done)


@contextmanager
def _evaluation_state(
    parts: Iterable[Module], parameters: Sequence[Tensor], average: Sequence[Tensor] | None
) -> Iterator[None]:
    """Inside, the parts are in evaluation mode, and their parameters hold the average."""
    training = [(part, part.training) for part in parts]
    saved = None if average is None else snapshot(parameters)
    device = parameters[0].device
    devices = [device] if device.type == "cuda" else []
    for part, _ in training:
        part.eval()
    try:
        if average is not None:
            restore(parameters, [tensor.to(device) for tensor in average])
        with torch.random.fork_rng(devices):
            yield
    finally:
        if saved is not None:
            restore(parameters, saved)
        for part, mode in training:
            part.train(mode)


def contact_sheet(folder: Path, prompts: Sequence[str]) -> Path:
    """Draw the sheet of all rows in the folder: a row for each step, a column for each prompt.

    Args:
        folder: holds a folder `step-N` of images for each row.
        prompts: the titles of the columns.
    """
    steps = [
        (int(path.name.removeprefix("step-")), sorted((path / "images").glob("*.png")))
        for path in sorted(folder.glob("step-*"))
    ]
    steps = [(step, files) for step, files in steps if len(files) == len(prompts)]
    rows = [[read_picture(file) for file in files] for _, files in steps]
    sheet = headed_sheet(rows, [f"step {step}" for step, _ in steps], prompts)
    write_bytes(folder / SHEET, png(sheet))
    return folder / SHEET
