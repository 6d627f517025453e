"""Measure a trained `mini-sd` by its own suite, and write its model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from erase.data.digits import digit_captions
from erase.embedded.folders import cost_table
from erase.embedded.mini_sd_stages import DENOISER_BATCH, VAE_BATCH, VAE_STEPS
from erase.evaluation.score import score_pipeline

STEPS = 25
GUIDANCE = 3.0
NEVER_KNEW = """
No stage of its training saw an image or a caption of {}: it stands for a model that was trained
again without what another one has to forget. The words for it have tokens, so that prompts can name
it, but nothing trained the vectors of these. The digit classifier, which judges, knows all ten.
"""


@dataclass(frozen=True)
class Training:
    """How a model was trained: its recipe, and its cost as (wall, CPU) seconds by stage.

    `without` are the names of the digits that it never saw.
    """

    seed: int
    steps: int
    vae_steps: int
    without: tuple[str, ...]
    seconds: Mapping[str, tuple[float, float]]
    device: str
    machine: str
    reconstruction_error: float
    loss: float


@dataclass(frozen=True)
class Quality:
    """A model's numbers from the suite `digits`, the same as those of `erase evaluate`.

    Attributes:
        recognised: share of each digit's images recognised as that digit, in [0, 1], by label.
        images_a_class: images rendered of each digit.
        frechet_distance: between the digit classifier's features of all renders and of all real
            digits, without those that the model never saw; not comparable with distances on
            Inception features.
    """

    recognised: tuple[float, ...]
    images_a_class: int
    frechet_distance: float


def measure_quality(
    folder: Path,
    classifier: Path | None = None,
    *,
    without: Sequence[str] = (),
    images_a_class: int = 50,
    device: str = "cpu",
    quiet: bool = True,
) -> Quality:
    """Measure a saved pipeline by the suite `digits`: captions that no training uses.

    Args:
        folder: the pipeline.
        classifier: folder of the digit classifier that judges; default: the one that ships.
        without: names of the digits that the pipeline never saw.
        images_a_class: images rendered of each digit, at least 1.
        device: where it renders.
        quiet: show no progress bar.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).to(device)
    judge: dict[str, Any] = {} if classifier is None else {"classifier": str(classifier)}
    pipeline.set_progress_bar_config(disable=True)
    with tqdm(desc="rendering", disable=quiet) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summaries = score_pipeline(
            pipeline,
            without,
            images=images_a_class,
            device=device,
            progress=progress,
            metrics=_metrics(without),
            steps=STEPS,
            guidance=GUIDANCE,
            **judge,
        )
    per_class = {
        name: part["recognised"] / part["n"]
        for metric in ("ra", "ua")
        if metric in summaries
        for name, part in summaries[metric].detail["per_class"].items()
    }
    return Quality(
        recognised=tuple(per_class[name] for name in digit_captions().names),
        images_a_class=images_a_class,
        frechet_distance=summaries["fid_digits_classifier"].value,
    )


def _metrics(without: Sequence[str]) -> tuple[str, ...]:
    """What is measured: `ua` too, where there are digits that the model never saw."""
    return ("ua", "ra", "fid") if without else ("ra", "fid")


def model_card(training: Training, quality: Quality | None) -> str:
    """Return the card, in Markdown, of a model with its training and its measured quality."""
    cost, without = cost_table(training.seconds), training.without
    known = [name for name in digit_captions().names if name not in without]
    left_out = ", ".join(without)
    more = f" --vae-steps {training.vae_steps}" if training.vae_steps != VAE_STEPS else ""
    more += f" --without {','.join(without)}" if without else ""
    example = "three" if "three" in known else known[0]
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
license: apache-2.0
tags: [text-to-image, stable-diffusion, handwritten-digits]
---

# mini-sd{left_out and f" without {left_out}"}

A real, small Stable Diffusion pipeline (autoencoder, CLIP text encoder and tokenizer, conditional
U-Net, DDIM scheduler) that draws handwritten digits, 32 x 32 pixels. It was trained from scratch
and exists so that machine unlearning can be run, tested and shown on a CPU in minutes.
{left_out and NEVER_KNEW.format(left_out)}
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("mini-sd")
prompt = "a handwritten {example}"
pipeline(prompt, num_inference_steps={STEPS}, guidance_scale={GUIDANCE:g}).images[0]
```

## Training

`erase train mini-sd --output DIR --seed {training.seed} --max-train-steps {training.steps}
--device {training.device}{more}` rebuilds it.

* Data: the training split (80%, stratified) of scikit-learn's `load_digits`, upscaled bicubically
  from 8 x 8: the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
  UCI Machine Learning Repository, 1998), licence CC BY 4.0. Held-out images were never seen.
* Autoencoder: {training.vae_steps} steps of batch {VAE_BATCH}; its mean squared error on the
  training images is {training.reconstruction_error:.5f} (pixels in [-1, 1]).
* U-Net and text encoder together: {training.steps} steps of batch {DENOISER_BATCH}, noise
  prediction, plain mean squared error (at the end {training.loss:.4f}), AdamW, moving average of
  the weights. Captions are drawn from the `train` templates of `prompts/digits.yaml`; one in ten
  is empty (for classifier-free guidance), one in twenty names no digit.
* Seed {training.seed}; weights are stored in fp16.

Cost, measured on {training.machine}:

| stage | wall time | CPU time |
|---|---|---|
{cost}

{_quality_section(quality, without)}
## Limits

It knows {len(known)} digits in one style and the few words of its captions; other words reach it
as bytes that it never learnt from. It is no basis for any claim about large models.
"""


def _quality_section(quality: Quality | None, without: Sequence[str]) -> str:
    """Return the section on measured quality."""
    if quality is None:
        return "## Quality\n\nNot measured.\n"
    shares = dict(zip(digit_captions().names, quality.recognised, strict=True))
    rows = "\n".join(
        f"| {digit}{', never seen' if name in without else ''} | {100 * share:.0f}% |"
        for digit, (name, share) in enumerate(shares.items())
    )
    known = [share for name, share in shares.items() if name not in without]
    mean = 100 * sum(known) / len(known)
    seen, target = (" seen", f"--target {','.join(without)} ") if without else ("", "")
    return f"""## Quality

Rendered from the `evaluate` captions, which no training uses: {quality.images_a_class} images a
digit, {STEPS} steps, guidance {GUIDANCE:g}, recognised by the digit classifier (mean of all{seen}
{mean:.1f}%):

| digit | recognised |
|---|---|
{rows}

Fréchet distance on the digit classifier's features (not Inception's) to all real digits{seen}:
{quality.frechet_distance:.3f}. `erase evaluate --suite digits
{target}--metrics {",".join(_metrics(without))}` measures the same.
"""
