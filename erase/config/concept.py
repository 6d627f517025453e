"""Configurations of `erase concept` and `erase class`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from erase.config.base import LoopConfig
from erase.config.fields import option
from erase.config.limits import BATCHES, GUIDANCE, IMAGES, PIXELS, RANK, STEPS
from erase.config.recipes import recipe_help

FILTERS = ("nudenet", "classifier")


@dataclass(frozen=True)
class ConceptConfig(LoopConfig):
    """`erase concept`: make a text-to-image model forget a concept."""

    recipe_help: ClassVar[Mapping[str, str]] = recipe_help()

    model: str = option("", "Alias, folder or hub id.", required=True, path=True)
    revision: str | None = option(None, "Commit, branch or tag of a hub model.")
    config_from: str | None = option(
        None, "Diffusers folder with the configurations of a single-file --model.", path=True
    )
    concept: tuple[str, ...] = option(
        (), "What to forget; may be given several times.", former=("target",), required=True
    )
    anchor: str | None = option(None, "What to show instead: a class of the same list or a prompt.")
    erase_from: str | None = option(
        None,
        "Forget the concept only where it comes with this, and keep each of the two alone: hat from"
        " snowman; with mini-emoji, cat from 'flat style'.",
    )
    forget_prompts: str | None = option(
        None,
        "File of forget prompts: one a line, or a CSV; its column anchor, if any, pairs them.",
        path=True,
    )
    retain_prompts: str | None = option(
        None, "File of retain prompts: one a line, or a CSV.", path=True
    )
    forget_images: str | None = option(
        None, "Folder of forget images instead of rendering.", path=True
    )
    retain_images: str | None = option(
        None, "Folder of retain images instead of rendering.", path=True
    )
    anchor_images: str | None = option(
        None, "Folder of anchor images instead of rendering.", path=True
    )
    follow_links: bool | None = option(None, "Follow links that lead out of a folder of images.")
    prompts: str | None = option(None, "Folder that replaces the built-in prompts.", path=True)
    filter_forget: str | None = option(
        None, "Keep only forget renders that show the concept, by this judge.", FILTERS
    )
    filter_retain: str | None = option(
        None, "Drop retain renders that show the concept, by this judge.", FILTERS
    )
    num_forget_images: int | None = option(
        None, "Images to render for the forget set.", least=1, most=IMAGES
    )
    num_retain_images: int | None = option(
        None, "Images to render for the retain set.", least=1, most=IMAGES
    )
    num_anchor_images: int | None = option(
        None,
        "Images to render of what is shown instead, for methods that look at them.",
        least=1,
        most=IMAGES,
    )
    render_steps: int | None = option(None, "Sampling steps of those renders.", least=1, most=STEPS)
    forget_guidance: float | None = option(
        None, "Guidance scale of the forget renders.", least=1, most=GUIDANCE
    )
    retain_guidance: float | None = option(
        None, "Guidance scale of the retain renders.", least=1, most=GUIDANCE
    )
    render_batch_size: int | None = option(None, "Images rendered at once.", least=1, most=BATCHES)
    resolution: int | None = option(
        None, "Pixels a side; default: the model's own.", least=1, most=PIXELS
    )
    caption_dropout: float | None = option(
        None, "Share of retain captions replaced by the empty prompt.", least=0, below=1
    )
    flip: bool | None = option(
        None, "Class-conditional models: mirror a random half of the images in training."
    )
    trainable: str | None = option(
        None,
        "What is trained: full (everything), xattn (the cross-attention), noxattn (all but the"
        " cross-attention, the embedding of the timestep and the output layer), selfattn (the"
        " self-attention), or a regular expression of names; with advunlearn"
        " also text (the text encoder instead).",
    )
    target_grad: bool = option(False, "Let the gradient flow into the anchor's prediction too.")
    frozen_anchor: bool | None = option(
        None, "Take the anchor's prediction from the original model."
    )
    save_dtype: str = option("fp32", "Precision of the saved weights.", ("fp32", "fp16"))
    lora_rank: int | None = option(
        None, "Train an adapter of this rank on the chosen layers only.", least=1, most=RANK
    )
    lora_alpha: float | None = option(
        None, "The adapter's scale times its rank; default: the rank.", above=0
    )
    validation_prompts: str | None = option(
        None, "Prompts to render while training: 'one; two', or a file with one a line."
    )
    validation_steps: int = option(
        0, "Render them every N steps; 0 = before and after only.", least=0
    )


@dataclass(frozen=True)
class ClassConfig(ConceptConfig):
    """`erase class`: make a diffusion model forget a class of images."""

    recipe_help: ClassVar[Mapping[str, str]] = {
        name: text
        for name, text in ConceptConfig.recipe_help.items()
        if name not in ("num_forget_images", "num_retain_images")
    } | {"max_train_steps": "recipe: five passes over real images; see --dry-run"}

    model: str = option("sd-1.4", "Alias, folder or hub id.", path=True)
    target: tuple[str, ...] = option(
        (), "Class to forget; may be given several times.", former=("concept",), required=True
    )
    anchor: str | None = option(
        None, "Class to show instead: next (the default), random, a class's name, or a prompt."
    )
    data: str = option(
        "render",
        "Images of the classes: imagenette, cifar10, digits, a folder with one folder of images a"
        " class, or render, which has the model make them.",
        path=True,
    )
    data_dir: str | None = option(None, "Where imagenette or cifar10 lies.", path=True)
    num_forget_images: int | None = option(
        None,
        "Images of the class; default: all, or the recipe's when they are rendered.",
        least=1,
        most=IMAGES,
    )
    num_retain_images: int | None = option(
        None,
        "Images of the other classes; default: all, or the recipe's when they are rendered.",
        least=1,
        most=IMAGES,
    )
