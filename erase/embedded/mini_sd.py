"""`erase train mini-sd`: the embedded model, which draws handwritten digits, from scratch."""

from __future__ import annotations

from pathlib import Path

import torch

from erase.data.digits import LabelledImages, digit_captions, split_digits
from erase.data.prompts import ClassList
from erase.embedded.folders import (
    CARD,
    ClassifierFolder,
    PipelineFolder,
    check_apart,
    machine,
    name_suite,
    timed,
)
from erase.embedded.mini_sd_card import Training, measure_quality, model_card
from erase.embedded.mini_sd_model import build_pipeline
from erase.embedded.mini_sd_stages import VAE_STEPS, train_denoiser, train_vae
from erase.embedded.stages import decode, encode
from erase.errors import InputError
from erase.files import atomic_directory
from erase.judges.digit_classifier import DIGITS_CLASSIFIER, DigitClassifier, train_classifier
from erase.models.loading import save_pipeline
from erase.runs.device import choose_device, say_device
from erase.scoring.names import find_names

DENOISER_STEPS = 2000


def train_mini_sd(
    output: Path,
    *,
    seed: int = 0,
    steps: int = DENOISER_STEPS,
    vae_steps: int = VAE_STEPS,
    without: str | None = None,
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
        without: Digits by name, with commas between them, of which no stage sees an image or a
            caption. Their words keep their tokens, so that they can be typed; nothing trains the
            vectors of these. The digit classifier learns all ten all the same: it is the judge.
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
            replaced, one folder lies in the other, `without` names something else than digits, or
            no digit is left.
    """
    captions = digit_captions()
    left_out = _labels(without, captions)
    asked, device = device, choose_device(device)
    output = output.resolve()
    folders = [PipelineFolder(output, "mini-sd", overwrite=overwrite)]
    if classifier_output is not None:
        classifier_output = classifier_output.resolve()
        folders.append(
            ClassifierFolder(
                classifier_output, "classifier", overwrite=overwrite, option="--classifier-output"
            )
        )
    check_apart(*folders)
    if images_a_class and classifier_output is None:
        DigitClassifier.load(DIGITS_CLASSIFIER)  # refuses a missing classifier before training
    if not quiet:
        say_device(device, asked)
    train = split_digits().train
    seen = ~torch.isin(train.labels, torch.tensor(left_out, dtype=torch.long))
    data = LabelledImages(
        train.images[seen][:max_train_samples].to(device),
        train.labels[seen][:max_train_samples].to(device),
    )
    pipeline = build_pipeline(seed, captions).to(device)
    seconds: dict[str, tuple[float, float]] = {}
    reconstruction_error = timed(
        seconds,
        "autoencoder",
        lambda: train_vae(pipeline.vae, data.images, seed=seed, steps=vae_steps, quiet=quiet),
    )
    if classifier_output is not None:
        rebuilt = decode(pipeline.vae, encode(pipeline.vae, train.images.to(device)))
        timed(
            seconds,
            "digit classifier",
            lambda: train_classifier(
                classifier_output, seed=seed, reconstructions=rebuilt, device=device, quiet=quiet
            ),
        )
    loss = timed(
        seconds,
        "denoiser",
        lambda: train_denoiser(pipeline, data, captions, seed=seed, steps=steps, quiet=quiet),
    )
    names = tuple(captions.names[label] for label in left_out)
    with atomic_directory(output) as folder:
        save_pipeline(pipeline, folder, torch.float16)
        name_suite(folder, "mini-sd")
        quality = None
        if images_a_class:
            quality = measure_quality(
                folder,
                classifier_output,
                without=names,
                images_a_class=images_a_class,
                device=device,
                quiet=quiet,
            )
        training = Training(
            seed=seed,
            steps=steps,
            vae_steps=vae_steps,
            without=names,
            seconds=seconds,
            device=device,
            machine=machine(device),
            reconstruction_error=reconstruction_error,
            loss=loss,
        )
        (folder / CARD).write_text(model_card(training, quality), encoding="utf-8")
    return output


def _labels(without: str | None, captions: ClassList) -> list[int]:
    """The labels of the digits that are left out, in order; InputError unless some are left."""
    labels = sorted(set(find_names(without, captions.names))) if without is not None else []
    if len(labels) == len(captions.names):
        raise InputError(
            f"--without names all {len(labels)} digits: none is left to learn.", "Name fewer."
        )
    return labels
