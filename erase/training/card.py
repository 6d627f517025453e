"""The model card that a run leaves in its folder."""

from pathlib import Path

from erase.config import ConceptConfig
from erase.data.concepts import Concept
from erase.models.loading import ModelSource
from erase.record import write_text

CARD = """---
library_name: diffusers
tags: [text-to-image, machine-unlearning]
---
# {model} without {concept}

`{model}`{revision} after unlearning **{concept}** with the method `{method}` of `erase`
(LUR: Patel & Qiu, "Learning to Unlearn while Retaining", ICCV 2025).

The folder is a complete diffusers pipeline:

    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained("path/to/this/folder")

| setting | value |
|---|---|
| optimizer steps × images of each set | {steps} × {batch} |
| learning rate | {learning_rate} |
| inner step size α | {alpha} |
| weight λ of the forget loss | {forget_weight} |
| trained parameters | {trainable} |
| forget set | {forget} |
| retain set | {retain} |
| shown instead | {anchors} |
| seed | {seed} |

How well it forgot and what else changed is not stated here but measured:
`erase evaluate --model path/to/this/folder{suite}`. `record.json` says how it was made.

Erasing a concept lowers the odds of rendering it; it is no guarantee. The licence and the limits
of the base model remain in force.
"""


def model_card(output: Path, config: ConceptConfig, source: ModelSource, concept: Concept) -> None:
    """Write README.md into the run folder."""
    anchors = list(dict.fromkeys(text for texts in concept.anchors for text in texts))
    shown = ", ".join(f"“{text}”" for text in anchors[:3]) + (" …" if len(anchors) > 3 else "")
    sets = {
        name: (
            "the user's images"
            if getattr(config, f"{name}_images")
            else f"{getattr(config, f'num_{name}_images')} images rendered by the base model,"
            f" guidance {getattr(config, f'{name}_guidance')}"
        )
        for name in ("forget", "retain")
    }
    batch = (config.train_batch_size or 1) * config.gradient_accumulation_steps
    content = CARD.format(
        model=source.name,
        revision=f" (revision {source.revision})" if source.revision else "",
        concept=concept.name,
        method=config.method,
        steps=config.max_train_steps,
        batch=batch,
        learning_rate=config.learning_rate,
        alpha=config.alpha if config.alpha is not None else "none",
        forget_weight=config.forget_weight,
        trainable=config.trainable,
        anchors=shown,
        seed=config.seed,
        suite=f" --suite {concept.suite}" if concept.suite else "",
        **sets,
    )
    write_text(output / "README.md", content)
