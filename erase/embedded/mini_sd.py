"""`erase train mini-sd`: the embedded model, which draws handwritten digits, from scratch."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from erase.data.digits import LabelledImages, digit_captions, split_digits
from erase.embedded.mini_sd_card import Training, measure_quality, model_card
from erase.embedded.mini_sd_model import build_pipeline
from erase.embedded.mini_sd_stages import decode, encode, train_denoiser, train_vae
from erase.errors import InputError
from erase.files import atomic_directory, read_json
from erase.judges.digit_classifier import (
    DESCRIPTION,
    DIGITS_CLASSIFIER,
    WEIGHTS,
    DigitClassifier,
    train_classifier,
)
from erase.models.loading import save_pipeline
from erase.runs.checks import check_writable
from erase.runs.device import choose_device, say_device
from erase.runs.folder import ResultFolder

INDEX, CARD = "model_index.json", "README.md"
VAE_STEPS = 700
DENOISER_STEPS = 2000


def train_mini_sd(
    output: Path,
    *,
    seed: int = 0,
    steps: int = DENOISER_STEPS,
    vae_steps: int = VAE_STEPS,
    classifier_output: Path | None = None,
    images_a_class: int = 50,
    max_train_samples: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Train `mini-sd` on the digits' training images and write it as a diffusers folder.

    The same seed on the same machine gives the same weights. Nothing appears at `output` before
    training has finished.

    Args:
        output: Folder to write: fp16 safetensors and a model card.
        seed: Seed of the initial weights, batches, captions and noise.
        steps: Optimizer steps of the denoiser with its text encoder.
        vae_steps: Optimizer steps of the autoencoder.
        classifier_output: Folder for a digit classifier that is trained too; default: the
            shipped classifier measures the quality.
        images_a_class: Images of each digit rendered to measure the quality for the card; 0: do
            not measure.
        max_train_samples: Use only so many training images; default: all.
        device: of torch; None: what accelerate finds, as everywhere.
        overwrite: Replace a pipeline at `output` and a classifier at `classifier_output`.
        quiet: Show no progress bars.

    Returns:
        `output`, absolute and without symbolic links.

    Raises:
        InputError: Before training, when the device is missing, a folder is not empty and not to be
            replaced, or one folder lies in the other.
    """
    asked, device = device, choose_device(device)
    output = output.resolve()
    _PipelineFolder(output, "mini-sd", overwrite=overwrite).check()
    if classifier_output is not None:
        classifier_output = classifier_output.resolve()
        _ClassifierFolder(
            classifier_output, "classifier", overwrite=overwrite, option="--classifier-output"
        ).check()
        if output.is_relative_to(classifier_output) or classifier_output.is_relative_to(output):
            raise InputError(
                f"{output} and {classifier_output} lie in one another.",
                "Give two folders side by side.",
            )
    if images_a_class and classifier_output is None:
        DigitClassifier.load(DIGITS_CLASSIFIER)  # refuses a missing classifier before training
    if not quiet:
        say_device(device, asked)
    captions = digit_captions()
    train = split_digits().train
    data = LabelledImages(
        train.images[:max_train_samples].to(device), train.labels[:max_train_samples].to(device)
    )
    pipeline = build_pipeline(seed, captions).to(device)
    seconds: dict[str, tuple[float, float]] = {}
    reconstruction_error = _timed(
        seconds,
        "autoencoder",
        lambda: train_vae(pipeline.vae, data.images, seed=seed, steps=vae_steps, quiet=quiet),
    )
    if classifier_output is not None:
        rebuilt = decode(pipeline.vae, encode(pipeline.vae, train.images.to(device)))
        _timed(
            seconds,
            "digit classifier",
            lambda: train_classifier(
                classifier_output, seed=seed, reconstructions=rebuilt, device=device, quiet=quiet
            ),
        )
    loss = _timed(
        seconds,
        "denoiser",
        lambda: train_denoiser(pipeline, data, captions, seed=seed, steps=steps, quiet=quiet),
    )
    with atomic_directory(output) as folder:
        save_pipeline(pipeline, folder, torch.float16)
        quality = None
        if images_a_class:
            quality = measure_quality(
                folder,
                classifier_output,
                images_a_class=images_a_class,
                device=device,
                quiet=quiet,
            )
        training = Training(
            seed=seed,
            steps=steps,
            vae_steps=vae_steps,
            seconds=seconds,
            device=device,
            machine=f"{device}, {platform.machine()}, {torch.get_num_threads()} threads "
            f"of {os.cpu_count()} cores",
            reconstruction_error=reconstruction_error,
            loss=loss,
        )
        (folder / CARD).write_text(model_card(training, quality), encoding="utf-8")
    return output


class _PipelineFolder(ResultFolder):
    """A folder that appears whole, without a record: a pipeline, its card and nothing else."""

    def check(self) -> bool:
        """Check the folder, and that its parent is writable, where the folder is replaced."""
        continued = super().check()
        check_writable(self.path.parent, self.option)
        return continued

    def is_empty(self) -> bool:
        """Whether the folder is absent or has nothing in it."""
        return not self.path.exists() or not self._names()

    def is_ours(self) -> bool:
        """Whether the folder holds what `erase train mini-sd` writes, and nothing else."""
        index = self.path / INDEX
        parts = read_json(index) if index.is_file() else None
        return isinstance(parts, dict) and self._names() <= {INDEX, CARD, *parts}

    def _names(self) -> set[str]:
        return {item.name for item in self.path.iterdir()}


class _ClassifierFolder(_PipelineFolder):
    """A folder that appears whole: a digit classifier and nothing else."""

    def is_ours(self) -> bool:
        """Whether the folder holds a digit classifier, and nothing else."""
        return self._names() == {WEIGHTS, DESCRIPTION}


def _timed(seconds: dict[str, tuple[float, float]], name: str, work: Callable[[], float]) -> float:
    """Run one stage, record its wall and CPU time, and return its result."""
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    seconds[name] = (time.monotonic() - wall, time.process_time() - cpu)
    return result
