"""How well `mini-emoji` draws what captions ask for, as its classifiers and the border say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from erase.core.rng import derive_seed, generator
from erase.data.emoji import Vocabulary, Words
from erase.judges.emoji import border_levels, colour_probabilities
from erase.judges.icon_classifier import IconClassifier

STEPS = 25
GUIDANCE = 3.0
SHARE = 1 / 3  # of all pairs of object and style, drawn by seed
BATCH = 100


@dataclass(frozen=True)
class Judges:
    """The classifiers of objects and of styles."""

    objects: IconClassifier
    styles: IconClassifier

    @classmethod
    def load(cls, objects: Path, styles: Path, device: str = "cpu") -> Judges:
        """Load both; InputError when one is missing."""
        return cls(IconClassifier.load(objects, device), IconClassifier.load(styles, device))


@dataclass(frozen=True)
class Quality:
    """Shares, in [0, 1], of the pictures that show what their caption asks for.

    Attributes:
        pairs: number of pairs of object and style that were asked for.
        images: pictures of each pair.
        object, style, both, colour: over all of them; `colour` over those whose caption names one,
            None with a single picture a pair, when no caption does.
        by_object, by_style: the share recognised as the object, and as the style, of each.
        paraphrases: the share recognised as the object where captions call it by `synonyms`,
            `descriptions` or `held_out` words.
    """

    pairs: int
    images: int
    object: float
    style: float
    both: float
    colour: float | None
    by_object: Mapping[str, float]
    by_style: Mapping[str, float]
    paraphrases: Mapping[str, float]


def measure_quality(
    model: Path | StableDiffusionPipeline,
    judges: Judges,
    vocabulary: Vocabulary,
    *,
    images: int = 20,
    share: float = SHARE,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = True,
) -> Quality:
    """Render pairs of object and style from captions that no training uses, and judge them.

    Args:
        model: the pipeline or its folder.
        judges: the classifiers.
        vocabulary: objects, styles, colours and captions.
        images: pictures of each pair; every second caption names a colour too.
        share: of all pairs, drawn by `seed`.
        steps, guidance: of rendering.
        seed: of the pairs and of the pictures.
        device: where it renders.
        quiet: show no progress bar.
    """
    pipeline = model if isinstance(model, StableDiffusionPipeline) else load(model, device)
    pairs = choose_pairs(vocabulary, share, seed)
    rows, prompts = [], []
    for place, (thing, style) in enumerate(pairs):
        for number in range(images):
            labels = {"object": thing, "style": style}
            colour = -1
            if number % 2:
                colour = (place + number // 2) % len(vocabulary.colours)
                labels["colour"] = colour
            texts = vocabulary.captions("evaluate", labels)
            prompts.append(texts[(number // 2) % len(texts)])
            rows.append((thing, style, colour))
    wanted = torch.tensor(rows)
    seen = _see(pipeline, prompts, judges, vocabulary, seed, steps, guidance, quiet)
    right = seen == wanted
    asked = wanted[:, 2] >= 0
    return Quality(
        pairs=len(pairs),
        images=images,
        object=_share(right[:, 0]),
        style=_share(right[:, 1]),
        both=_share(right[:, 0] & right[:, 1]),
        colour=_share(right[asked, 2]) if asked.any() else None,
        by_object=_by_label(right[:, 0], wanted[:, 0], vocabulary.names("object")),
        by_style=_by_label(right[:, 1], wanted[:, 1], vocabulary.names("style")),
        paraphrases={
            words: _paraphrased(words, pipeline, judges, vocabulary, seed, steps, guidance, quiet)
            for words in ("synonyms", "descriptions", "held_out")
        },
    )


def load(folder: Path, device: str) -> StableDiffusionPipeline:
    """Load a saved pipeline in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return pipeline.to(device)


def choose_pairs(vocabulary: Vocabulary, share: float, seed: int) -> list[tuple[int, int]]:
    """A share of all pairs (object, style), at least one, drawn by seed."""
    pairs = list(itertools.product(range(len(vocabulary.objects)), range(len(vocabulary.styles))))
    order = torch.randperm(len(pairs), generator=generator("mini-emoji", "pairs", seed)).tolist()
    return sorted(pairs[place] for place in order[: max(1, round(share * len(pairs)))])


def render(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    quiet: bool = True,
) -> Tensor:
    """Pictures `[N, 3, H, W]` in [-1, 1] on the CPU; each prompt's noise follows from its place."""
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    starts = range(0, len(prompts), BATCH)
    for start in tqdm(starts, desc="rendering", disable=quiet, unit="batch"):
        batch = list(prompts[start : start + BATCH])
        noise = [
            torch.Generator().manual_seed(derive_seed("mini-emoji", "render", seed, start + place))
            for place in range(len(batch))
        ]
        drawn = pipeline(
            batch,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
            output_type="pt",
        ).images
        parts.append(drawn.float().cpu() * 2.0 - 1.0)
    return torch.cat(parts)


def _see(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    judges: Judges,
    vocabulary: Vocabulary,
    seed: int,
    steps: int,
    guidance: float,
    quiet: bool,
) -> Tensor:
    """Labels `[N, 3]` of object, style and colour that the judges see in the pictures."""
    images = render(pipeline, prompts, seed=seed, steps=steps, guidance=guidance, quiet=quiet)
    device = next(judges.objects.parameters()).device
    labels = [judge.predict(images.to(device)).cpu() for judge in (judges.objects, judges.styles)]
    levels = (border_levels(images) + 1.0) * 127.5
    return torch.stack([*labels, colour_probabilities(levels, vocabulary).argmax(1)], 1)


def _paraphrased(
    words: Words,
    pipeline: StableDiffusionPipeline,
    judges: Judges,
    vocabulary: Vocabulary,
    seed: int,
    steps: int,
    guidance: float,
    quiet: bool,
) -> float:
    """The share of pictures recognised as the object that a caption of other words asks for."""
    prompts, wanted = [], []
    for thing in range(len(vocabulary.objects)):
        texts = vocabulary.captions("evaluate", {"object": thing}, {"object": words})
        prompts += texts
        wanted += [thing] * len(texts)
    if not prompts:
        return 0.0
    seen = _see(pipeline, prompts, judges, vocabulary, seed + 1, steps, guidance, quiet)
    return _share(seen[:, 0] == torch.tensor(wanted))


def _share(right: Tensor) -> float:
    return float(right.double().mean()) if len(right) else 0.0


def _by_label(right: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float]:
    return {
        name: _share(right[labels == label])
        for label, name in enumerate(names)
        if bool((labels == label).any())
    }
