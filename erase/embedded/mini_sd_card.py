"""The model card of `mini-sd`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from erase.embedded.mini_sd_quality import GUIDANCE, STEPS, Quality
from erase.embedded.mini_sd_stages import DENOISER_BATCH, VAE_BATCH


@dataclass(frozen=True)
class Training:
    """How a model was trained: its recipe, and its cost as (wall, CPU) seconds by stage."""

    seed: int
    steps: int
    vae_steps: int
    seconds: Mapping[str, tuple[float, float]]
    machine: str
    reconstruction_error: float
    loss: float


def model_card(training: Training, quality: Quality | None) -> str:
    """Return the card, in Markdown, of a model with its training and its measured quality."""
    cost = "\n".join(
        f"| {name} | {wall:.0f} s | {cpu:.0f} s |" for name, (wall, cpu) in training.seconds.items()
    )
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
license: apache-2.0
tags: [text-to-image, stable-diffusion, handwritten-digits]
---

# mini-sd

A real, small Stable Diffusion pipeline (autoencoder, CLIP text encoder and tokenizer, conditional
U-Net, DDIM scheduler) that draws handwritten digits, 32 x 32 pixels. It was trained from scratch
and exists so that machine unlearning can be run, tested and shown on a CPU in minutes.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("mini-sd")
pipeline("a handwritten three", num_inference_steps={STEPS}, guidance_scale={GUIDANCE:g}).images[0]
```

## Training

`erase train mini-sd --output DIR --seed {training.seed} --steps {training.steps}` rebuilds it.

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

{_quality_section(quality)}
## Limits

It knows ten digits in one style and the few words of its captions; other words reach it as bytes
that it never learnt from. It is no basis for any claim about large models.
"""


def _quality_section(quality: Quality | None) -> str:
    """Return the section on measured quality."""
    if quality is None:
        return "## Quality\n\nNot measured.\n"
    rows = "\n".join(
        f"| {digit} | {100 * share:.0f}% |" for digit, share in enumerate(quality.recognised)
    )
    mean = 100 * sum(quality.recognised) / len(quality.recognised)
    return f"""## Quality

Rendered from the `evaluate` captions, which no training uses: {quality.images_a_class} images a
digit, {STEPS} steps, guidance {GUIDANCE:g}, recognised by the digit classifier (mean {mean:.1f}%):

| digit | recognised |
|---|---|
{rows}

Fréchet distance on the digit classifier's features (not Inception's) to held-out real digits:
{quality.frechet_distance:.3f}; real training images reach {quality.real_frechet_distance:.3f}.
"""
