"""Sizes of a planned run: shapes of its tensors, numbers of its images, and disk space."""

import math
from functools import lru_cache
from pathlib import Path

import torch

from erase.config.methods import build_method
from erase.data.captioned import CaptionedImages
from erase.files import hash_file
from erase.models.configs import part_skeleton
from erase.render.sizes import png_bytes
from erase.tasks.family import setting
from erase.training.plan import ConceptPlan
from erase.training.sets import Images
from erase.training.validation import validation_prompts


def latent_shape(planned: ConceptPlan) -> tuple[int, int, int]:
    """Channels, height and width of the denoiser's input."""
    source = planned.source
    size = (planned.config.resolution or source.resolution()) // source.latent_factor()
    return setting(source.path, planned.family.component, "in_channels"), size, size


def image_counts(planned: ConceptPlan) -> dict[str, int]:
    """How many images each set has."""
    counts = {}
    for name in build_method(planned.config, planned.family.task.family).sets:
        images = planned.sets.get(name)
        counts[name] = (
            _length(images)
            if images is not None
            else getattr(planned.config, f"num_{name}_images") or 1
        )
    return counts


def _length(images: Images) -> int:
    return len(images.paths) if isinstance(images, CaptionedImages) else len(images)


def rendered_images(planned: ConceptPlan) -> int:
    """How many images the run renders for its sets."""
    return sum(count for name, count in image_counts(planned).items() if name not in planned.sets)


def cache_bytes(planned: ConceptPlan) -> int:
    """Size of the cached sets and conditions."""
    channels, height, width = latent_shape(planned)
    moments = 1 if planned.source.latent_factor() == 1 else 2
    images = sum(image_counts(planned).values()) * moments * channels * height * width * 4
    concept = planned.concept
    anchors = {text for texts in concept.anchors for text in texts}
    prompts = len({"", *concept.forget, *concept.retain, *anchors})
    with torch.device("meta"):
        row = planned.family.conditions(planned.source.path, 1)
    return images + prompts * sum(t.numel() * t.element_size() for t in row.values())


def weight_count(folder: Path) -> int:
    """Number of values in a part's weight files, or of its network while there are none."""
    from safetensors import safe_open

    count = 0
    files = sorted(folder.glob("*.safetensors"))
    config = folder / "config.json"
    if not files and config.is_file() and (known := _network_size(folder, hash_file(config))):
        return known
    marked = [file for file in files if ".fp16." in file.name]
    for file in marked if len(marked) == len(files) else sorted({*files} - {*marked}):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                count += math.prod(opened.get_slice(name).get_shape())
    return count


@lru_cache(maxsize=16)
def _network_size(folder: Path, _config: str) -> int:
    """Number of weights of the network that a configuration, of this hash, describes; else 0."""
    network = part_skeleton(folder)
    return 0 if network is None else sum(p.numel() for p in network.parameters())


def disk_space(planned: ConceptPlan, trained: int) -> dict[str, int]:
    """The most bytes that the run's folder holds, by kind of content."""
    config, path = planned.config, planned.source.path
    side = config.resolution or planned.source.resolution()
    image = png_bytes(side)
    steps, every = config.max_train_steps or 0, config.checkpointing_steps
    checkpoints = 0
    if every:
        checkpoints = math.ceil(steps / every)
        if config.checkpoints_total_limit:
            # A new checkpoint is written before the oldest one is deleted.
            checkpoints = min(checkpoints, config.checkpoints_total_limit + 1)
    state = 4 + (2.03 if config.use_8bit_adam else 8) + (4 if config.ema_decay else 0)
    parts = [part for part in path.iterdir() if (part / "config.json").is_file()]
    values = sum(weight_count(part) for part in parts)
    rows = len(validation_prompts(config))
    every = config.validation_steps
    rows *= 2 + (math.ceil(steps / every) - 1 if every else 0)
    return {
        "images": round(image * rendered_images(planned)),
        "latents": cache_bytes(planned),
        "checkpoints": round(checkpoints * state * trained),
        "model": values * (2 if config.save_dtype == "fp16" else 4),
        "adapter": 4 * trained if config.lora_rank else 0,
        "validation": round(2 * image * rows),  # single images, and the sheet
    }
