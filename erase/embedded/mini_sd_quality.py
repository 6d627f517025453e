"""How good a digit-drawing pipeline is: recognised share, Fréchet distance to real digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from erase.core.rng import derive_seed
from erase.data.digits import CLASSES, digit_captions, split_digits
from erase.errors import InputError
from erase.judges.digit_classifier import DigitClassifier
from erase.scoring.frechet import frechet_distance
from erase.scoring.statistics import Floats

STEPS = 25
GUIDANCE = 3.0
BATCH = 50


@dataclass(frozen=True)
class Quality:
    """Quality of renders from the captions that no training uses.

    Attributes:
        recognised: Share of each digit's images recognised as it, between 0 and 1, by label.
        images_a_class: Images rendered of each digit.
        frechet_distance: Fréchet distance between the classifier's features of all renders and of
            the held-out real digits; not comparable with distances on Inception features.
        real_frechet_distance: The same between the real training images and the held-out ones:
            what sampling alone gives.
    """

    recognised: tuple[float, ...]
    images_a_class: int
    frechet_distance: float
    real_frechet_distance: float


def render(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    quiet: bool = True,
) -> torch.Tensor:
    """Render one image for each prompt from its own seed.

    Returns:
        `[N, 3, 32, 32]` in [-1, 1], on the CPU.
    """
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in tqdm(range(0, len(prompts), BATCH), desc="rendering", disable=quiet):
        part = slice(start, start + BATCH)
        result = pipeline(
            list(prompts[part]),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            output_type="pt",
        )
        images.append(result.images.cpu().float().mul(2.0).sub(1.0))
    return torch.cat(images)


def evaluation_renders(
    pipeline: StableDiffusionPipeline, images_a_class: int, *, quiet: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render every digit from the `evaluate` captions, a fixed seed for each image.

    Returns:
        Images `[10 * images_a_class, 3, 32, 32]` in [-1, 1] and their labels, digit after digit.
    """
    captions = digit_captions()
    prompts: list[str] = []
    seeds: list[int] = []
    for label in range(CLASSES):
        texts = captions.captions("evaluate", label)
        prompts += [texts[index % len(texts)] for index in range(images_a_class)]
        seeds += [derive_seed("mini-sd", "quality", label, i) for i in range(images_a_class)]
    labels = torch.arange(CLASSES).repeat_interleave(images_a_class)
    return render(pipeline, prompts, seeds, quiet=quiet), labels


def measure_quality(
    pipeline_dir: Path,
    classifier: DigitClassifier,
    *,
    images_a_class: int = 50,
    device: str = "cpu",
    quiet: bool = True,
) -> Quality:
    """Measure a saved pipeline: 25 steps, guidance 3, captions that no training uses.

    Raises:
        InputError: When no images are asked for.
    """
    if images_a_class < 1:
        raise InputError("no images to measure", "ask for at least one image a class")
    pipeline = StableDiffusionPipeline.from_pretrained(
        pipeline_dir,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
    ).to(device)
    images, labels = evaluation_renders(pipeline, images_a_class, quiet=quiet)
    hits = (classifier.predict(images) == labels).float().reshape(CLASSES, images_a_class)
    split = split_digits()
    real = _features(classifier, split.held_out.images)
    return Quality(
        recognised=tuple(hits.mean(1).tolist()),
        images_a_class=images_a_class,
        frechet_distance=frechet_distance(_features(classifier, images), real),
        real_frechet_distance=frechet_distance(_features(classifier, split.train.images), real),
    )


@torch.no_grad()
def _features(classifier: DigitClassifier, images: torch.Tensor) -> Floats:
    """Return the classifier's features `[N, 64]` in float64."""
    parts = [classifier.features(part) for part in torch.split(images, 256)]
    return torch.cat(parts).double().cpu().numpy()
