"""The two training stages of `mini-sd`: the autoencoder, then denoiser and text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline

from erase.core.rng import batch_indices, generator
from erase.data.digits import CLASSES, LabelledImages, jitter
from erase.data.prompts import ClassList
from erase.embedded.stages import Stage, decode, encode, run_stage

VAE_STEPS = 700
VAE_BATCH = 16
VAE_LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-4  # of the mean over latent elements, against a mean over pixels
DENOISER_BATCH = 64
DENOISER_LEARNING_RATE = 2e-3
EMA_DECAY = 0.998
JITTERED_COPIES = 7  # of each training image, encoded once beside the image itself
DROPPED_CAPTIONS = 0.1  # share of empty captions, for classifier-free guidance
GENERIC_CAPTIONS = 0.05  # share of captions that name no digit


def train_vae(
    vae: AutoencoderKL,
    images: torch.Tensor,
    *,
    seed: int,
    steps: int,
    quiet: bool = False,
) -> float:
    """Train the autoencoder on jittered images and set its scaling factor from the latents.

    Args:
        vae: Trained in place; left in evaluation mode.
        images: `[N, 3, 32, 32]` in [-1, 1], on the device of `vae`.
        seed: Seed of batches and noise.
        steps: Optimizer steps.
        quiet: Show no progress bar.

    Returns:
        Mean squared reconstruction error over `images`, in units of [-1, 1] squared.
    """

    def loss(step: int) -> torch.Tensor:
        draws = generator("mini-sd", "vae", seed, step)
        chosen = batch_indices(len(images), VAE_BATCH, step, "mini-sd", "vae", seed)
        batch = jitter(images[chosen.to(images.device)], draws)
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draws).to(batch.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
        total: torch.Tensor = F.mse_loss(decoded, batch) + KL_WEIGHT * divergence
        return total

    vae.train()
    run_stage(Stage("autoencoder", steps, VAE_LEARNING_RATE), {"vae": vae}, loss, quiet=quiet)
    vae.eval()
    latents = encode(vae, images, scaled=False)
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))
    return float(F.mse_loss(decode(vae, latents, scaled=False), images))


def train_denoiser(
    pipeline: StableDiffusionPipeline,
    data: LabelledImages,
    captions: ClassList,
    *,
    seed: int,
    steps: int,
    quiet: bool = False,
) -> float:
    """Train U-Net and text encoder together to predict the noise, and leave their moving averages.

    The loss is the plain mean squared error, without weights over timesteps: the base model is then
    (nearly) stationary under the retain loss that unlearning starts from.

    Args:
        pipeline: Its `unet` and `text_encoder` are trained in place; its autoencoder is already
            trained.
        data: Training images and labels, on the pipeline's device.
        captions: The captions to draw from.
        seed: Seed of batches, captions and noise.
        steps: Optimizer steps.
        quiet: Show no progress bar.

    Returns:
        Mean loss of the last tenth of the steps.
    """
    unet, text_encoder, scheduler = (
        pipeline.unet,
        pipeline.text_encoder,
        pipeline.scheduler,
    )
    device = data.images.device
    latents = _jittered_latents(pipeline.vae, data.images, seed)
    drawer = CaptionDrawer(pipeline.tokenizer, captions)

    def loss(step: int) -> torch.Tensor:
        draws = generator("mini-sd", "denoiser", seed, step)
        chosen = batch_indices(len(data), DENOISER_BATCH, step, "mini-sd", "denoiser", seed)
        copies = torch.randint(len(latents), (DENOISER_BATCH,), generator=draws)
        clean = latents[copies, chosen].to(device)
        tokens = drawer.draw(data.labels[chosen.to(device)].tolist(), draws).to(device)
        noise = torch.randn(clean.shape, generator=draws).to(device)
        last = scheduler.config.num_train_timesteps
        timesteps = torch.randint(last, (DENOISER_BATCH,), generator=draws).to(device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        states = text_encoder(tokens).last_hidden_state
        return F.mse_loss(unet(noisy, timesteps, states).sample, noise)

    modules = {"unet": unet.train(), "text_encoder": text_encoder.train()}
    stage = Stage("denoiser", steps, DENOISER_LEARNING_RATE, ema=EMA_DECAY)
    result = run_stage(stage, modules, loss, quiet=quiet)
    unet.eval()
    text_encoder.eval()
    return result.loss


class CaptionDrawer:
    """Draws tokenised training captions for labels."""

    def __init__(self, tokenizer: Any, captions: ClassList) -> None:
        def tokens(texts: Sequence[str]) -> torch.Tensor:
            encoded = tokenizer(
                list(texts),
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            )
            return torch.as_tensor(encoded.input_ids)

        self._classes = [tokens(captions.captions("train", label)) for label in range(CLASSES)]
        self._generic = tokens(captions.templates["generic"])
        self._empty = tokens(("",))

    def draw(self, labels: list[int], draws: torch.Generator) -> torch.Tensor:
        """Draw one caption for each label; return tokens `[B, length]`."""
        rows = []
        kinds, picks = torch.rand(2, len(labels), generator=draws).tolist()
        for label, kind, pick in zip(labels, kinds, picks, strict=True):
            pool = self._classes[label]
            if kind < DROPPED_CAPTIONS:
                pool = self._empty
            elif kind < DROPPED_CAPTIONS + GENERIC_CAPTIONS:
                pool = self._generic
            rows.append(pool[int(pick * len(pool))])
        return torch.stack(rows)


def _jittered_latents(vae: AutoencoderKL, images: torch.Tensor, seed: int) -> torch.Tensor:
    """Encode the images and jittered copies of them: `[1 + copies, N, 4, 8, 8]`, on the CPU."""
    sets = [encode(vae, images).cpu()]
    for copy in range(JITTERED_COPIES):
        draws = generator("mini-sd", "copies", seed, copy)
        sets.append(encode(vae, jitter(images, draws)).cpu())
    return torch.stack(sets)
