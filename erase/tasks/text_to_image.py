"""Text-to-image denoisers (UNet Stable Diffusion): losses 13 and 14 over cached latents.

VAE latents and text states are computed once (`encode`), so that neither the VAE nor the text
encoder is in memory while training. No guidance is used in training.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import Module, Parameter

from erase.core.meta import Mode
from erase.core.objectives import mismatch_mse, noise_mse
from erase.core.params import FixedLoss
from erase.core.rng import batch_indices, derive_seed, generator
from erase.data.captioned import CaptionedImages, load_image
from erase.errors import InputError
from erase.record import write_bytes
from erase.tasks.protocol import StepLosses

ENCODE_BATCH = 16


@dataclass(frozen=True)
class EncodedImages:
    """Images as the VAE sees them, each with the row of its caption.

    `mean` and `std` are the posterior's moments, `[N, C, h, w]`, already scaled; `caption[N]`
    indexes `LatentCache.states`.
    """

    mean: Tensor
    std: Tensor
    caption: Tensor

    def __len__(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class LatentCache:
    """All that training reads: encoded forget and retain sets, and text states.

    `states` is `[P, L, D]`; `anchors[p]` lists the rows that may be shown instead of row p;
    `empty` is the row of the empty prompt.
    """

    forget: EncodedImages
    retain: EncodedImages
    states: Tensor
    anchors: Tensor
    empty: int

    def write(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {"states": self.states, "anchors": self.anchors}
        for name, images in (("forget", self.forget), ("retain", self.retain)):
            tensors[f"{name}.mean"] = images.mean
            tensors[f"{name}.std"] = images.std
            tensors[f"{name}.caption"] = images.caption
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_bytes(path, save(tensors, {"empty": str(self.empty)}))

    @classmethod
    def read(cls, path: Path) -> "LatentCache":
        """Read what `write` wrote; InputError for a broken file."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                empty = int(file.metadata()["empty"])
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(
                f"{path} is not a readable latent cache.", "Delete it; the run makes it anew."
            ) from error
        forget, retain = (
            EncodedImages(*(tensors[f"{name}.{part}"] for part in ("mean", "std", "caption")))
            for name in ("forget", "retain")
        )
        return cls(forget, retain, tensors["states"], tensors["anchors"], empty)


@torch.no_grad()
def encode(
    pipeline: DiffusionPipeline,
    forget: CaptionedImages,
    retain: CaptionedImages,
    anchors: Mapping[str, Sequence[str]],
    *,
    size: int,
    device: torch.device,
) -> LatentCache:
    """Encode both sets once with the pipeline's VAE and text encoder.

    Args:
        anchors: for each forget caption, the prompts to show instead; a caption that is not a key
            takes them from all anchors together.
        size: pixels a side.
    """
    every_anchor = tuple(dict.fromkeys(text for texts in anchors.values() for text in texts))
    instead = {text: tuple(anchors.get(text, every_anchor)) for text in set(forget.captions)}
    prompts = sorted({"", *forget.captions, *retain.captions, *every_anchor})
    row = {prompt: index for index, prompt in enumerate(prompts)}

    text_encoder = pipeline.text_encoder.to(device)
    states = torch.cat(
        [
            _text_states(pipeline.tokenizer, text_encoder, prompts[start : start + ENCODE_BATCH])
            for start in range(0, len(prompts), ENCODE_BATCH)
        ]
    )
    width = max(len(texts) for texts in instead.values())
    anchor_rows = torch.full((len(prompts), width), row[""])
    for prompt, texts in instead.items():
        cycled = [row[texts[k % len(texts)]] for k in range(width)]
        anchor_rows[row[prompt]] = torch.tensor(cycled)

    vae = pipeline.vae.to(device)
    encoded = []
    for images in (forget, retain):
        mean, std = _moments(vae, images.paths, size)
        caption = torch.tensor([row[text] for text in images.captions])
        encoded.append(EncodedImages(mean, std, caption))
    return LatentCache(encoded[0], encoded[1], states, anchor_rows, row[""])


def _text_states(tokenizer: Any, text_encoder: Module, prompts: list[str]) -> Tensor:
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    device = next(text_encoder.parameters()).device
    states: Tensor = text_encoder(tokens.input_ids.to(device))[0]
    return states.float().cpu()


def _moments(vae: Any, paths: Sequence[Path], size: int) -> tuple[Tensor, Tensor]:
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scale = vae.config.scaling_factor
    means, stds = [], []
    for start in range(0, len(paths), ENCODE_BATCH):
        images = torch.stack(
            [load_image(path, size) for path in paths[start : start + ENCODE_BATCH]]
        )
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
        means.append(((posterior.mean - shift) * scale).float().cpu())
        stds.append((posterior.std * scale).float().cpu())
    return torch.cat(means), torch.cat(stds)


@dataclass(frozen=True)
class Shard:
    """Which part of the global batch this process takes, in which micro-batches."""

    batch_size: int
    micro_batches: int = 1
    process_index: int = 0
    num_processes: int = 1

    @property
    def total(self) -> int:
        """Samples of each set in one optimizer step, over all processes."""
        return self.batch_size * self.micro_batches * self.num_processes

    def slices(self) -> list[slice]:
        """This process's micro-batches as slices of the global batch."""
        first = self.process_index * self.micro_batches
        starts = [(first + index) * self.batch_size for index in range(self.micro_batches)]
        return [slice(start, start + self.batch_size) for start in starts]


@dataclass
class TextToImageTask:
    """A UNet under unlearning.

    Forget loss (eq. 13): ‖ε_θ(x_t|c') − ε_θ(x_t|c)‖² on forget images with caption c and anchor
    c'. The anchor's prediction is detached unless `target_grad`; with `frozen_anchor` it comes
    from the original model. Retain loss (eqs. 12, 14): the denoising loss on retain images, for
    epsilon, v or sample prediction as the scheduler says.

    The whole global batch of a step is drawn from (seed, step) by every process, which then takes
    its own slice: N processes see what one process with N micro-batches sees.
    """

    unet: Module
    scheduler: Any
    cache: LatentCache
    parameters: Mapping[str, Parameter]
    shard: Shard
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    caption_dropout: float = 0.1
    target_grad: bool = False
    frozen_anchor: bool = False
    precision: Literal["bf16"] | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    family: ClassVar[str] = "text-to-image"
    meta_mode: ClassVar[Mode] = "hvp"

    def __post_init__(self) -> None:
        self._anchor_model = self.unet
        if self.frozen_anchor:
            self._anchor_model = deepcopy(self.unet).requires_grad_(False)
        self._states = self.cache.states.to(self.device)

    def losses(self, step: int) -> StepLosses:
        """This process's micro-batches of optimizer step `step`."""
        retain = self._draw("retain", self.cache.retain, step)
        forget = self._draw("forget", self.cache.forget, step)
        drop = torch.rand(self.shard.total, generator=generator(self.seed, step, "dropout"))
        retain.caption[drop < self.caption_dropout] = self.cache.empty
        choice = torch.randint(
            self.cache.anchors.shape[1],
            (self.shard.total,),
            generator=generator(self.seed, step, "anchor"),
        )
        anchor = self.cache.anchors[forget.caption, choice]
        slices = self.shard.slices()
        return StepLosses(
            retain=[self._retain_loss(retain.part(part, self.device), step) for part in slices],
            forget=[
                self._forget_loss(
                    forget.part(part, self.device), anchor[part].to(self.device), step
                )
                for part in slices
            ],
        )

    def _draw(self, name: str, images: EncodedImages, step: int) -> "_Noised":
        total = self.shard.total
        index = batch_indices(len(images), total, step, self.seed, name)
        source = generator(self.seed, step, name)
        shape = (total, *images.mean.shape[1:])
        latents = images.mean[index] + images.std[index] * torch.randn(shape, generator=source)
        noise = torch.randn(shape, generator=source)
        timesteps = torch.randint(
            self.scheduler.config.num_train_timesteps, (total,), generator=source
        )
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        return _Noised(latents, noise, noisy, timesteps, images.caption[index].clone())

    def _predict(self, model: Module, batch: "_Noised", caption: Tensor) -> Tensor:
        with self.autocast():
            prediction: Tensor = model(
                batch.noisy, batch.timesteps, self._states[caption], return_dict=False
            )[0]
        return prediction

    def _retain_loss(self, batch: "_Noised", step: int) -> FixedLoss:
        target = self._target(batch)

        def loss() -> Tensor:
            return noise_mse(self._predict(self.unet, batch, batch.caption), target).mean()

        return FixedLoss(self.unet, loss, derive_seed(self.seed, step, "retain-dropout"))

    def _forget_loss(self, batch: "_Noised", anchor: Tensor, step: int) -> FixedLoss:
        def loss() -> Tensor:
            with torch.set_grad_enabled(self.target_grad and not self.frozen_anchor):
                shown = self._predict(self._anchor_model, batch, anchor)
            prediction = self._predict(self.unet, batch, batch.caption)
            return mismatch_mse(prediction, shown, detach=not self.target_grad).mean()

        seed = derive_seed(self.seed, step, "forget-dropout")
        return FixedLoss(self.unet, loss, seed, moves_buffers=False)

    def _target(self, batch: "_Noised") -> Tensor:
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return batch.noise
        if kind == "v_prediction":
            target: Tensor = self.scheduler.get_velocity(
                batch.latents, batch.noise, batch.timesteps
            )
            return target
        if kind == "sample":
            return batch.latents
        raise InputError(
            f"The scheduler predicts {kind!r}, which is not known.",
            "Known: epsilon, v_prediction, sample.",
        )


@dataclass(frozen=True)
class _Noised:
    """A batch at its timesteps: tensors `[B, C, h, w]`, timesteps and caption rows `[B]`."""

    latents: Tensor
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    caption: Tensor

    def part(self, rows: slice, device: torch.device) -> "_Noised":
        """Some rows of the batch, on the device."""
        return _Noised(
            *(
                tensor[rows].to(device)
                for tensor in (self.latents, self.noise, self.noisy, self.timesteps, self.caption)
            )
        )
