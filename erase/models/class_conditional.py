"""A class-conditional DDPM in pixels with classifier-free guidance, as a diffusers-style folder.

`model_index.json` names the classes (`id2label`, as in DiT). The UNet has one class embedding more
than there are classes. The last is the null class, which training uses in place of some labels. The
pipeline takes the arguments of `StableDiffusionPipeline`, with class names as prompts, so that code
that renders from prompts can use it.
"""

import inspect
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from erase.core.rng import derive_seed
from erase.errors import InputError

TRAIN_TIMESTEPS = 1000


def class_labels(names: Sequence[str], classes: Mapping[str, str]) -> list[int]:
    """Labels of classes by their names, as `ClassConditionalPipeline.labels` describes it.

    `classes` has the class by each of its names, in label order, as `ModelSource.classes` gives it.
    """
    order = list(dict.fromkeys(classes.values()))
    labels = {_composed(name): order.index(own) for name, own in classes.items()}
    labels[""] = len(order)
    texts = [_composed(name) for name in names]
    return [labels[n] if n in labels else _find_label(n, labels, order) for n in texts]


def _composed(text: str) -> str:
    """A text whose accents are characters of their own, whoever wrote it."""
    return unicodedata.normalize("NFC", text)


def _find_label(sentence: str, labels: Mapping[str, int], classes: Sequence[str]) -> int:
    matches = {
        label
        for name, label in labels.items()
        if name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sentence)
    }
    if len(matches) != 1:
        how = "names several classes" if matches else "names no class of the model"
        raise InputError(f"{sentence!r} {how}.", f"Known: {', '.join(classes)}.")
    return matches.pop()


class ClassConditionalPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Renders images of named classes.

    Args:
        unet: takes `[B, C, H, W]` in [-1, 1], timesteps `[B]` and labels `[B]` from 0 to K, where
            K is the null class.
        scheduler: any of diffusers' for noise, v or sample prediction (DDIM, DDPM, DPM-Solver…).
        id2label: names of the K classes by label.
        synonyms: other names of classes.
    """

    model_cpu_offload_seq = "unet"

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: Any,
        id2label: dict[str, str] | None = None,
        synonyms: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        named = dict(id2label or {})
        self.register_to_config(id2label=named, synonyms=dict(synonyms or {}))
        count = (unet.config.num_class_embeds or 0) - 1
        if sorted(named, key=int) != [str(label) for label in range(count)] or not named:
            raise InputError(
                f"The UNet has {count + 1} class embeddings, and {len(named)} classes are named.",
                "id2label in model_index.json names each but the last, which is the null class.",
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        named = self.config.id2label
        return tuple(named[str(label)] for label in range(len(named)))

    @property
    def null_class(self) -> int:
        """Label of the null class."""
        return len(self.config.id2label)

    def labels(self, names: Sequence[str]) -> Tensor:
        """Labels `[N]` of classes; an empty name is the null class.

        A name may also be a sentence that contains the name of exactly one class ("a photo of a
        dog"), so that prompts for text-to-image models work here too.

        Raises InputError for a text that names no class, or several.
        """
        named = {name: name for name in self.classes} | dict(self.config.synonyms)
        return torch.tensor(class_labels(names, named))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        negative_prompt: str | Sequence[str] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        height: int | None = None,
        width: int | None = None,
    ) -> ImagePipelineOutput:
        """Render one image for each class name.

        Guidance is ε_∅ + s(ε_c − ε_∅) with s = `guidance_scale`, as in all of diffusers and in eq.
        11 of the LUR paper, (1 − w)ε_∅ + wε_c, with w = s. The published DDPM code writes
        (1 + w)ε_c − wε_∅, so its w = 2 is s = 3 here. A scale of 1 means no guidance.

        Args:
            prompt: class names; an empty name is the null class.
            num_inference_steps: denoising steps.
            guidance_scale: s, 1 or more.
            negative_prompt: classes to steer away from; default: the null class.
            generator: one generator for each image, so that an image does not depend on its batch.
            output_type: `pil`, `np` (`[N, H, W, C]` in [0, 1]) or `pt` (`[N, C, H, W]` in [0, 1]).
            height, width: only the model's own size is possible.

        Raises InputError for an unknown class or another size.
        """
        names = [prompt] if isinstance(prompt, str) else list(prompt)
        size = int(self.unet.config.sample_size)
        if (height or size, width or size) != (size, size):
            raise InputError(f"This model renders {size} pixels a side.", "Leave the size out.")
        device, dtype = self.unet.device, self.unet.dtype
        labels = self.labels(names).to(device)
        guided = guidance_scale > 1.0
        if guided:
            negative = (
                [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or [""]
            )
            negative = list(negative) * len(names) if len(negative) == 1 else negative
            labels = torch.cat([self.labels(negative).to(device), labels])
        shape = (len(names), self.unet.config.in_channels, size, size)
        image = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        image = image * self.scheduler.init_noise_sigma
        takes = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator} if "generator" in takes else {}
        for timestep in self.progress_bar(self.scheduler.timesteps):
            inputs = torch.cat([image, image]) if guided else image
            inputs = self.scheduler.scale_model_input(inputs, timestep)
            prediction = self.unet(inputs, timestep, class_labels=labels).sample
            if guided:
                without, with_class = prediction.chunk(2)
                prediction = without + guidance_scale * (with_class - without)
            image = self.scheduler.step(prediction, timestep, image, **options).prev_sample
        pixels = (image.float() / 2 + 0.5).clamp(0, 1).cpu()
        return ImagePipelineOutput(images=_output(self, pixels, output_type))


def _output(pipeline: DiffusionPipeline, pixels: Tensor, output_type: str) -> Any:
    if output_type == "pt":
        return pixels
    array = pixels.permute(0, 2, 3, 1).numpy()
    return array if output_type == "np" else pipeline.numpy_to_pil(array)


def build_pipeline(
    classes: Sequence[str],
    *,
    size: int,
    channels: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 2,
    attention: int = 16,
    dropout: float = 0.1,
    seed: int = 0,
    synonyms: Mapping[str, str] | None = None,
) -> ClassConditionalPipeline:
    """Build an untrained model in float32 on the CPU; the global random state does not change.

    The defaults are the CIFAR-10 UNet of DDPM (Ho et al. 2020, appendix B) with a class embedding,
    35.7 M parameters (27.4 M with 112 channels). β is linear from 1e-4 to 0.02, T = 1000. The
    sampler is DDIM, which needs few steps and starts at the noisiest one; use DDPMScheduler with
    1000 steps for the published protocol.

    Args:
        classes: names of the classes, by label.
        size: pixels a side.
        channels: of the first level.
        multipliers: of the channels at each level, each level halving the size.
        blocks: residual blocks a level.
        attention: pixels a side of the level with self-attention, besides the lowest level.
        dropout: of the residual blocks, from 0 to below 1.
        seed: of the weights.
        synonyms: other names of classes.

    Raises InputError for a size that the levels cannot halve.
    """
    levels = len(multipliers)
    if size % 2 ** (levels - 1):
        raise InputError(
            f"{levels} levels cannot halve {size} pixels.",
            "Give fewer multipliers or another size.",
        )
    attends = [size >> level == attention for level in range(levels)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("class-conditional", "weights", seed))
        unet = UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            block_out_channels=tuple(channels * factor for factor in multipliers),
            layers_per_block=blocks,
            dropout=dropout,
            norm_num_groups=math.gcd(channels, 32),
            attention_head_dim=channels,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            num_class_embeds=len(classes) + 1,
        )
    scheduler = DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    named = {str(label): name for label, name in enumerate(classes)}
    return ClassConditionalPipeline(unet, scheduler, named, dict(synonyms or {}))
