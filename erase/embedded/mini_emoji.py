"""`erase train mini-emoji`: the embedded model of icons in several styles, from scratch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from diffusers import AutoencoderKL

from erase.data.emoji import Vocabulary, read_vocabulary
from erase.data.icons import Icons, read_icons
from erase.embedded.folders import (
    CARD,
    ClassifierFolder,
    PipelineFolder,
    check_apart,
    machine,
    name_suite,
    timed,
)
from erase.embedded.mini_emoji_card import Training, model_card
from erase.embedded.mini_emoji_model import Design, build_pipeline
from erase.embedded.mini_emoji_quality import Judges, Quality, measure_quality
from erase.embedded.mini_emoji_stages import (
    Pictures,
    Recipe,
    disturbed,
    train_autoencoder,
    train_denoiser,
    train_judges,
)
from erase.embedded.stages import Checkpoints
from erase.files import atomic_directory, fingerprint
from erase.judges.icon_classifier import (
    ICON_CLASSIFIERS,
    IconClassifier,
    IconReference,
    accuracy,
)
from erase.models.loading import save_pipeline
from erase.runs.device import choose_device, say_device
from erase.runs.folder import locked

HELD_OUT, HELD_OUT_BATCH = 10, 100  # pictures that the judges are measured on, in batches


def train_mini_emoji(
    output: Path,
    data: Path,
    *,
    judges_output: Path | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    design: Design | None = None,
    vocabulary: Vocabulary | None = None,
    images_a_pair: int = 20,
    device: str | None = None,
    checkpoints: Path | None = None,
    checkpointing_steps: int = 500,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Train `mini-emoji` on the icons of a folder and write it as a diffusers folder.

    The same seed on the same machine gives the same weights, on a GPU mostly. Nothing appears at
    `output` before training has finished.

    Args:
        output: folder to write: fp16 safetensors and a model card.
        data: folder of the icons (`erase.data.icons`).
        judges_output: folder for the two judges, `emoji-objects` and `emoji-styles`, which are
            trained too; default: those that ship measure the quality.
        seed: seed of initial weights, pictures, captions and noise.
        recipe: steps, batches and rates; default: the shipped model's.
        design: the shape of the network; default: the shipped model's.
        vocabulary: objects, styles, colours and captions; default: the project's.
        images_a_pair: pictures rendered of each of a third of all pairs of object and style, to
            measure the quality for the card; 0: do not.
        device: a device of torch; default: what accelerate finds.
        checkpoints: folder of the stages' states; a training that was interrupted goes on from
            there; default: none are kept.
        checkpointing_steps: steps between two checkpoints.
        overwrite: replace a pipeline at `output` and judges at `judges_output`.
        quiet: show no progress bars.

    Returns:
        `output`, absolute and without symbolic links.

    Raises:
        InputError: before training, when the device or icons are missing, a folder is not to be
            replaced, folders lie in one another, or the checkpoints belong to another training.
    """
    asked, device = device, choose_device(device)
    recipe, design = recipe or Recipe(), design or Design()
    vocabulary = vocabulary or read_vocabulary()
    output = output.resolve()
    folders = [PipelineFolder(output, "mini-emoji", overwrite=overwrite)]
    targets = dict(ICON_CLASSIFIERS)
    if judges_output is not None:
        targets = {k: judges_output.resolve() / folder.name for k, folder in targets.items()}
        folders += [
            ClassifierFolder(path, "classifier", overwrite=overwrite, option="--judges-output")
            for path in targets.values()
        ]
    check_apart(*folders)
    judges: dict[str, IconClassifier] = {}
    if images_a_pair and judges_output is None:
        judges = {k: IconClassifier.load(folder, device) for k, folder in targets.items()}
    icons = read_icons(data, vocabulary)
    if not quiet:
        say_device(device, asked)
    kept = _checkpoints(checkpoints, checkpointing_steps, seed, recipe, design, vocabulary, icons)
    pictures = Pictures(icons.to(device, design.size), vocabulary, seed)
    pipeline = build_pipeline(seed, design, vocabulary).to(device)
    seconds: dict[str, tuple[float, float]] = {}
    taken: dict[str, Any] = {}
    with _repeatable(device), locked(checkpoints) if checkpoints else contextlib.nullcontext():
        first, error = timed(
            seconds,
            "autoencoder",
            lambda: train_autoencoder(
                pipeline.vae, pictures, recipe, checkpoints=kept, quiet=quiet
            ),
        )
        if judges_output is not None:
            judges = build_judges(seed, design, vocabulary, device)
            second = timed(
                seconds,
                "judges",
                lambda: train_judges(
                    dict(judges), pipeline.vae, pictures, recipe, checkpoints=kept, quiet=quiet
                ),
            )
            taken["judge_steps"] = second.steps
        result = timed(
            seconds,
            "denoiser",
            lambda: train_denoiser(pipeline, pictures, recipe, checkpoints=kept, quiet=quiet),
        )
        held_out = {}
        if judges_output is not None:
            held_out = held_out_accuracy(judges, pipeline.vae, pictures)
    with atomic_directory(output) as folder:
        save_pipeline(pipeline, folder, torch.float16)
        name_suite(folder, "mini-emoji")
        quality: Quality | None = None
        if images_a_pair:
            quality = measure_quality(
                folder,
                Judges(judges["object"], judges["style"]),
                vocabulary,
                images=images_a_pair,
                device=device,
                quiet=quiet,
            )
        training = Training(
            seed=seed,
            recipe=replace(recipe, vae_steps=first.steps, steps=result.steps, **taken),
            design=design,
            seconds=seconds,
            machine=machine(device),
            reconstruction_error=error,
            loss=result.loss,
            held_out=held_out,
        )
        card = model_card(training, quality, vocabulary)
        (folder / CARD).write_text(card, encoding="utf-8")
        if judges_output is not None:
            save_judges(judges, targets, pictures, held_out)
    return output


def build_judges(
    seed: int, design: Design, vocabulary: Vocabulary, device: str
) -> dict[str, IconClassifier]:
    """The two untrained judges, by what they recognise: "object" and "style"."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            thing: IconClassifier(thing, vocabulary.names(thing), design.size).to(device)
            for thing in ICON_CLASSIFIERS
        }


def save_judges(
    judges: dict[str, IconClassifier],
    folders: dict[str, Path],
    pictures: Pictures,
    held_out: dict[str, float],
) -> None:
    """Write the judges, with their held-out accuracies and what they see in the real icons."""
    objects, styles, _ = (labels.cpu() for labels in pictures.all_labels())
    for thing, judge in judges.items():
        with torch.no_grad():
            features = torch.cat(
                [judge.features(part) for part in pictures.all_once("reference").split(256)]
            )
        reference = IconReference(features, objects, styles)
        facts = {"seed": pictures.seed, "held_out_accuracy": round(held_out[thing], 5)}
        judge.save(folders[thing], reference.tensors(), **facts)


def held_out_accuracy(
    judges: dict[str, IconClassifier], vae: AutoencoderKL, pictures: Pictures
) -> dict[str, float]:
    """The share, between 0 and 1, of pictures that each judge recognises as it will be stored.

    They are changed as strongly as in training, but otherwise; half of them are reconstructions.
    """
    right: dict[str, list[float]] = {thing: [] for thing in judges}
    for judge in judges.values():
        judge.half().float()
    for batch in range(HELD_OUT):
        draws = pictures.generator("held out", batch)
        images, objects, styles = disturbed(pictures, vae, HELD_OUT_BATCH, draws)
        for thing, judge in judges.items():
            labels = objects if thing == "object" else styles
            right[thing].append(accuracy(judge, images, labels))
    return {thing: sum(shares) / len(shares) for thing, shares in right.items()}


def _checkpoints(
    folder: Path | None,
    every: int,
    seed: int,
    recipe: Recipe,
    design: Design,
    vocabulary: Vocabulary,
    icons: Icons,
) -> Checkpoints | None:
    """Where the states are kept, with the fingerprints of all that each stage depends on.

    So another training with the same autoencoder can start from copies of its first states.
    """
    if folder is None:
        return None
    settings = {"seed": seed, **asdict(recipe), **asdict(design), "torch": torch.__version__}
    settings |= {
        "colours": [colour.levels for colour in vocabulary.colours],
        "icons": float(icons.tiles.double().sum()),
    }
    later: tuple[str, ...] = ("steps", "batch", "rate", "ema", "copies", "minutes")
    later += ("unet_widths", "unet_layers", "heads", "text_width", "text_layers", "prediction")
    judges = {key: value for key, value in settings.items() if key not in later}
    first = {key: value for key, value in judges.items() if not key.startswith("judge_")}
    names = {thing: vocabulary.names(thing) for thing in ICON_CLASSIFIERS}
    runs = {
        "autoencoder": fingerprint(first),
        "judges": fingerprint([judges, names]),
        "denoiser": fingerprint([settings, vocabulary.texts()]),
    }
    return Checkpoints(folder.resolve(), runs, every)


@contextlib.contextmanager
def _repeatable(device: str) -> Iterator[None]:
    """Let a GPU take, where it can, algorithms that give the same result each time."""
    if not device.startswith("cuda"):
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.deterministic,
    )
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.deterministic = True
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # filling costs time only
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.deterministic = before[1]
        deterministic.fill_uninitialized_memory = True
