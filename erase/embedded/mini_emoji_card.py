"""Write the model card of a trained `mini-emoji`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from erase.data.emoji import Vocabulary
from erase.embedded.folders import cost_table
from erase.embedded.mini_emoji_model import Design
from erase.embedded.mini_emoji_quality import GUIDANCE, SHARE, STEPS, Quality
from erase.embedded.mini_emoji_stages import Recipe


@dataclass(frozen=True)
class Training:
    """How a model was trained: its recipe, and its cost as (wall, CPU) seconds by stage.

    `held_out` is the accuracy of each judge that was trained too, by what it recognises.
    """

    seed: int
    recipe: Recipe
    design: Design
    seconds: Mapping[str, tuple[float, float]]
    machine: str
    reconstruction_error: float
    loss: float
    held_out: Mapping[str, float]


def model_card(training: Training, quality: Quality | None, vocabulary: Vocabulary) -> str:
    """Return the card, in Markdown: sources and licences, recipe, cost, measured quality."""
    recipe, design = training.recipe, training.design
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
license: cc-by-4.0
tags: [text-to-image, stable-diffusion, emoji, icons]
---

# mini-emoji

A real, small Stable Diffusion pipeline (autoencoder, CLIP text encoder and tokenizer, conditional
U-Net, DDIM scheduler) that draws {len(vocabulary.objects)} objects in {len(vocabulary.styles)}
styles of icons on {len(vocabulary.colours)} background colours, {design.size} x {design.size}
pixels. It was trained from scratch and exists so that machine unlearning can be run, tested and
shown on a CPU: objects have neighbours that look alike, every object exists in every style, and
captions name either, both or none.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("mini-emoji")
prompt = "a flat picture of a cat on a blue background"
pipeline(prompt, num_inference_steps={STEPS}, guidance_scale={GUIDANCE:g}).images[0]
```

Objects: {", ".join(vocabulary.names("object"))}.

Styles: {", ".join(vocabulary.names("style"))}.

Backgrounds: {", ".join(vocabulary.names("colour"))}.

## Sources, makers and licences

The icons are not part of this model's files; it was trained on pictures of them:

| style | icon set | maker | licence | npm package |
|---|---|---|---|---|
{_sources(vocabulary)}

The icons were reduced to {design.size} pixels, moved and resized a little, and put on plain
backgrounds. CC BY 4.0 asks for this attribution wherever the model or its pictures are passed on:
"Twemoji" by Twitter and other contributors, and "Emoji One" by Emoji One, both under
https://creativecommons.org/licenses/by/4.0/. Fluent Emoji is copyright Microsoft Corporation (MIT),
Noto Emoji copyright Google Inc (Apache-2.0).

## Training

`{command(training)}` rebuilds it.

* Autoencoder: {recipe.vae_steps} steps of batch {recipe.vae_batch}; its mean absolute error on the
  pictures is {training.reconstruction_error:.4f} (pixels in [-1, 1]).
* U-Net and text encoder together: {recipe.steps} steps of batch {recipe.batch},
  {design.prediction}, plain mean squared error (at the end {training.loss:.4f}), AdamW at
  {recipe.rate:g}, moving average of the weights.
* Captions: the templates `train` of `prompts/emoji.yaml`; one in ten is empty, for classifier-free
  guidance; one in ten calls something by a synonym or a description, in the templates `paraphrase`.
  The templates `evaluate` and the `held_out` descriptions are in no caption.
* Seed {training.seed}; weights are stored in fp16.

Cost, measured on {training.machine}:

| stage | wall time | CPU time |
|---|---|---|
{cost_table(training.seconds)}

{_judges(training)}{_quality_section(quality)}
## Limits

It knows the objects, styles and colours above, one object a picture, and the few words of its
captions; other words reach it as pieces that it never learnt from. It has seen each icon of each
set many times and draws it from memory. It is no basis for any claim about large models.
"""


def command(training: Training) -> str:
    """The command that rebuilds a model: every setting that is not the default."""
    names = {"steps": "max-train-steps", "batch": "train-batch-size", "rate": "learning-rate"}
    given = [
        f"--{names.get(field.name, field.name.replace('_', '-'))} {value:g}"
        for field in fields(Recipe)
        if not field.name.endswith(("minutes", "bf16"))
        and (value := getattr(training.recipe, field.name)) != field.default
    ]
    if training.recipe.bf16:
        given.append("--mixed-precision bf16")
    start = f"erase train mini-emoji --data-dir ICONS --output DIR --seed {training.seed}"
    return " ".join([start, *given])


def _sources(vocabulary: Vocabulary) -> str:
    return "\n".join(
        f"| {style.name} | {style.title} | {style.maker} | {style.licence} |"
        f" {style.package} {style.version} |"
        for style in vocabulary.styles
    )


def _judges(training: Training) -> str:
    if not training.held_out:
        return ""
    shares = ", ".join(f"{100 * v:.1f}% ({k})" for k, v in training.held_out.items())
    return f"""## Judges

`emoji-objects` and `emoji-styles` were trained on the same icons, moved, turned, blurred and with
noise, and on the autoencoder's reconstructions of them, never on renders. On other such pictures
they are right in {shares}.

"""


def _quality_section(quality: Quality | None) -> str:
    """Return the section on measured quality."""
    if quality is None:
        return "## Quality\n\nNot measured.\n"
    words = {"held_out": "descriptions that no training saw"}
    paraphrases = ", ".join(
        f"{100 * share:.1f}% by {words.get(kind, kind)}"
        for kind, share in quality.paraphrases.items()
    )
    colour = "not measured" if quality.colour is None else f"{100 * quality.colour:.1f}%"
    return f"""## Quality

{quality.pairs} of all pairs of object and style (a share of {SHARE:.2f}, drawn by seed),
{quality.images} pictures of each, from the `evaluate` captions, which no training uses; {STEPS}
steps, guidance {GUIDANCE:g}; every second caption names a background too:

| recognised | share |
|---|---|
| object | {100 * quality.object:.1f}% |
| style | {100 * quality.style:.1f}% |
| object and style | {100 * quality.both:.1f}% |
| background, where named | {colour} |

By style: {_shares(quality.by_style)}.

Objects below 90%: {_shares({k: v for k, v in quality.by_object.items() if v < 0.9}) or "none"}.

Objects that captions call by other words: recognised in {paraphrases}.
"""


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares.items())
