"""The training stages of `mini-emoji`: autoencoder, judges, then denoiser and text encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor, nn

from erase.core.rng import derive_seed
from erase.data.emoji import Vocabulary
from erase.data.icons import Icons, background_colours
from erase.embedded.mini_emoji_captions import CaptionDrawer
from erase.embedded.stages import Checkpoints, Result, Stage, decode, encode, run_stage

KL_WEIGHT = 3e-4  # of the mean over latent elements, against a mean over pixels
EDGE_WEIGHT = 0.5  # of the differences between neighbouring pixels
ODD_COLOURS = 0.1  # share of the autoencoder's and the judges' backgrounds of any other colour
SAMPLED = 256  # pictures that the scales of the latents are measured on


@dataclass(frozen=True)
class Recipe:
    """Steps, batches and learning rates of autoencoder, judges and denoiser.

    Attributes:
        falling: share of a stage's steps over which its learning rate falls.
        ema: decay of the denoiser's moving average.
        copies: pictures of each icon on each background, encoded once for the denoiser.
        minutes, vae_minutes, judge_minutes: if given, the steps are only the most: as many are
            taken as fit.
        bf16: compute in 16 bits where that is safe, on a GPU.
    """

    vae_steps: int = 1378
    vae_batch: int = 96
    vae_rate: float = 1e-3
    judge_steps: int = 488
    judge_batch: int = 256
    judge_rate: float = 3e-3
    steps: int = 2493
    batch: int = 512
    rate: float = 1e-3
    falling: float = 0.4
    ema: float = 0.999
    copies: int = 12
    minutes: float | None = None
    vae_minutes: float | None = None
    judge_minutes: float | None = None
    bf16: bool = False


@dataclass(frozen=True)
class Pictures:
    """Makes pictures of icons on backgrounds, by (stage, seed, step) alone.

    Attributes:
        icons: on the device, at twice the pictures' resolution.
        colours: the backgrounds `[colours, 3]` in [-1, 1].
        seed: of the whole training.
    """

    icons: Icons
    vocabulary: Vocabulary
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the icons lie."""
        return self.icons.tiles.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of objects, styles and colours."""
        objects, styles = self.icons.tiles.shape[:2]
        return objects, styles, len(self.vocabulary.colours)

    def generator(self, *parts: int | str) -> torch.Generator:
        """A generator on the device for a stage and a step."""
        seed = derive_seed("mini-emoji", self.seed, *parts)
        return torch.Generator(self.device).manual_seed(seed)

    def labels(self, count: int, draws: torch.Generator) -> list[Tensor]:
        """Random objects, styles and colours, `[count]` each."""
        return [
            torch.randint(most, (count,), generator=draws, device=self.device)
            for most in self.shape
        ]

    def draw(
        self, count: int, draws: torch.Generator, *, degrees: float = 0.0, shift: float = 0.04
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Random pictures `[count, 3, H, W]` with their objects and styles, some on odd colours."""
        objects, styles, colours = self.labels(count, draws)
        paper = background_colours(self.vocabulary, self.device)[colours]
        other = torch.rand(count, 3, generator=draws, device=self.device) * 2.0 - 1.0
        odd = torch.rand(count, 1, generator=draws, device=self.device) < ODD_COLOURS
        paper = torch.where(odd, other, paper)
        changes = {"degrees": degrees, "shift": shift, "scale": 0.06 if not degrees else 0.1}
        return self.icons.compose(objects, styles, paper, draws, **changes), objects, styles

    def all_labels(self) -> list[Tensor]:
        """Objects, styles and colours of `all_once`, `[objects * styles * colours]` each."""
        places = [torch.arange(most, device=self.device) for most in self.shape]
        return [grid.flatten() for grid in torch.meshgrid(*places, indexing="ij")]

    def all_once(self, *parts: int | str) -> Tensor:
        """Every icon on every background: `[objects * styles * colours, 3, H, W]`, in this order.

        Each is moved and resized a little, as `parts` say.
        """
        objects, styles, colours = self.all_labels()
        paper = background_colours(self.vocabulary, self.device)[colours]
        draws = self.generator("all", *parts)
        return torch.cat(
            [
                self.icons.compose(*part, draws)
                for part in zip(
                    objects.split(512), styles.split(512), paper.split(512), strict=True
                )
            ]
        )


def train_autoencoder(
    vae: AutoencoderKL,
    pictures: Pictures,
    recipe: Recipe,
    *,
    checkpoints: Checkpoints | None = None,
    quiet: bool = False,
) -> tuple[Result, float]:
    """Train the autoencoder, then scale its latents: mean 0, deviation 1 in every channel.

    The scales become part of the layers beside the latents, so that the scaling factor is 1.

    Returns:
        The stage's result, and the mean absolute error of pictures, in units of [-1, 1].
    """

    def loss(step: int) -> Tensor:
        draws = pictures.generator("autoencoder", step)
        batch, *_ = pictures.draw(recipe.vae_batch, draws)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=recipe.bf16):
            posterior = vae.encode(batch).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draws, device=batch.device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean**2 + logvar.exp() - 1.0 - logvar).mean()
        edges = sum(F.l1_loss(decoded.diff(dim=side), batch.diff(dim=side)) for side in (2, 3))
        error: Tensor = F.l1_loss(decoded, batch) + EDGE_WEIGHT * edges + KL_WEIGHT * divergence
        return error

    stage = Stage(
        "autoencoder",
        recipe.vae_steps,
        recipe.vae_rate,
        falling=recipe.falling,
        ema=0.995,
        minutes=recipe.vae_minutes,
    )
    result = run_stage(stage, {"vae": vae.train()}, loss, checkpoints=checkpoints, quiet=quiet)
    vae.eval()
    images, *_ = pictures.draw(SAMPLED, pictures.generator("scales"))
    _standardise(vae, encode(vae, images, scaled=False))
    vae.register_to_config(scaling_factor=1.0)
    return result, float(F.l1_loss(decode(vae, encode(vae, images)), images))


@torch.no_grad()
def _standardise(vae: AutoencoderKL, latents: Tensor) -> None:
    """Give latents like these mean 0 and deviation 1 in every channel, with the same pictures."""
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2.0 * deviation.log()  # the other half are logarithms of variances
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]


def train_judges(
    judges: dict[str, nn.Module],
    vae: AutoencoderKL,
    pictures: Pictures,
    recipe: Recipe,
    *,
    checkpoints: Checkpoints | None = None,
    quiet: bool = False,
) -> Result:
    """Train the classifiers of objects and of styles, on pictures and on reconstructions of them.

    Args:
        judges: by "object" and "style", trained in place; left in evaluation mode.
        vae: the trained autoencoder that reconstructs half of the pictures.
        pictures: of the real icons, moved, turned, blurred and with noise.
        recipe: steps, batch and learning rate.
        checkpoints: where the state is kept.
        quiet: show no progress bar.
    """

    def loss(step: int) -> Tensor:
        draws = pictures.generator("judges", step)
        images, objects, styles = disturbed(pictures, vae, recipe.judge_batch, draws)
        return F.cross_entropy(
            judges["object"](images), objects, label_smoothing=0.05
        ) + F.cross_entropy(judges["style"](images), styles, label_smoothing=0.05)

    modules = {name: judge.train() for name, judge in judges.items()}
    stage = Stage(
        "judges",
        recipe.judge_steps,
        recipe.judge_rate,
        falling=recipe.falling,
        minutes=recipe.judge_minutes,
    )
    result = run_stage(stage, modules, loss, checkpoints=checkpoints, quiet=quiet)
    for judge in judges.values():
        judge.eval()
    return result


def disturbed(
    pictures: Pictures, vae: AutoencoderKL | None, count: int, draws: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures `[count, 3, H, W]`, moved, turned, blurred, with noise; their objects and styles.

    With an autoencoder, the first half of them are its reconstructions.
    """
    images, objects, styles = pictures.draw(count, draws, degrees=8.0, shift=0.07)
    if vae is not None:
        half = count // 2
        with torch.no_grad():
            mean = vae.encode(images[:half]).latent_dist.mean
            noise = torch.randn(mean.shape, generator=draws, device=mean.device)
            rebuilt = vae.decode(mean + 0.1 * noise).sample
        images = torch.cat([rebuilt, images[half:]])
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(2, count, 1, 1, 1, generator=draws, device=images.device)
    noise = torch.randn(images.shape, generator=draws, device=images.device)
    images = torch.lerp(images, blurred, (share[0] - 0.5).clamp(min=0.0) * 1.2)
    return (images + 0.08 * share[1] * noise).clamp(-1.0, 1.0), objects, styles


def train_denoiser(
    pipeline: StableDiffusionPipeline,
    pictures: Pictures,
    recipe: Recipe,
    *,
    checkpoints: Checkpoints | None = None,
    quiet: bool = False,
) -> Result:
    """Train U-Net and text encoder together, and leave their moving averages.

    The loss is the plain mean squared error of what the scheduler says is predicted, without
    weights over timesteps: the base model is then (nearly) stationary under the retain loss that
    unlearning starts from.
    """
    unet, text_encoder, scheduler = pipeline.unet, pipeline.text_encoder, pipeline.scheduler
    latents = torch.stack(
        [
            encode(pipeline.vae, pictures.all_once("copies", copy), batch=256)
            for copy in range(recipe.copies)
        ]
    )
    latents = latents.unflatten(1, pictures.shape)
    device = pictures.device
    drawer = CaptionDrawer(pipeline.tokenizer, pictures.vocabulary, device)
    known = scheduler.alphas_cumprod.to(device)
    velocity = scheduler.config.prediction_type == "v_prediction"

    def loss(step: int) -> Tensor:
        draws = pictures.generator("denoiser", step)
        labels = pictures.labels(recipe.batch, draws)
        copies = torch.randint(recipe.copies, (recipe.batch,), generator=draws, device=device)
        clean = latents[copies, *labels]
        tokens = drawer.draw(labels, draws)
        noise = torch.randn(clean.shape, generator=draws, device=device)
        timesteps = torch.randint(len(known), (recipe.batch,), generator=draws, device=device)
        signal = known[timesteps].sqrt()[:, None, None, None]
        spread = (1.0 - known[timesteps]).sqrt()[:, None, None, None]
        noisy = signal * clean + spread * noise
        target = signal * noise - spread * clean if velocity else noise
        if device.type == "cuda":
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            states = text_encoder(tokens).last_hidden_state
            predicted = unet(noisy, timesteps, states).sample
        return F.mse_loss(predicted.float(), target)

    if device.type == "cuda":
        unet.to(memory_format=torch.channels_last)
    stage = Stage(
        "denoiser",
        recipe.steps,
        recipe.rate,
        falling=recipe.falling,
        ema=recipe.ema,
        minutes=recipe.minutes,
    )
    modules = {"unet": unet.train(), "text_encoder": text_encoder.train()}
    result = run_stage(stage, modules, loss, checkpoints=checkpoints, quiet=quiet)
    unet.to(memory_format=torch.contiguous_format).eval()
    text_encoder.eval()
    return result
