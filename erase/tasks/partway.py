"""DDIM that begins or ends between pure noise and the image, and that may add noise on the way."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from erase.models.schedules import convert


class PartwayDDIM(DDIMScheduler):  # type: ignore[misc]
    """DDIM over a part of its steps.

    A pipeline takes it as any other scheduler. With `first` above 0 it has to be given latents of
    that step; with `last` below the number of steps its result is no image yet.
    """

    first: int = 0
    """Steps that are left out at the noisy end."""
    last: int | None = None
    """The step before which it ends; None is the image."""
    noise: float = 0.0
    """η: standard deviation of the noise of each step, as a multiple of DDPM's; 0 is none. Above 1
    noise is added that the model does not expect."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """The timesteps of the chosen part."""
        super().set_timesteps(num_inference_steps, device=device)
        self.timesteps: Tensor = self.timesteps[self.first : self.last]

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,  # noqa: ARG002 - pipelines pass their own, 0
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """One step; above η = 1 the noise beyond DDPM's is added to its result."""
        result = super().step(
            model_output, timestep, sample, eta=min(self.noise, 1.0), generator=generator
        )
        previous = result.prev_sample
        if self.noise > 1.0:
            before = timestep - self.config.num_train_timesteps // self.num_inference_steps
            deviation = self._get_variance(timestep, before) ** 0.5
            more = randn_tensor(
                sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
            )
            previous = previous + deviation * (self.noise**2 - 1.0) ** 0.5 * more
        if not return_dict:
            return (previous, result.pred_original_sample)
        result.prev_sample = previous
        return result


def partway(
    scheduler: Any, *, first: int = 0, last: int | None = None, noise: float = 0.0
) -> PartwayDDIM:
    """DDIM with the noise schedule of a pipeline's own scheduler; see `PartwayDDIM`.

    Raises InputError for a schedule of another kind, such as flow matching.
    """
    part: PartwayDDIM = convert(scheduler, PartwayDDIM)
    part.first, part.last, part.noise = first, last, noise
    return part


@torch.no_grad()
def inverted(
    predict: Any, scheduler: Any, latents: Tensor, *, steps: int, refinements: int
) -> Tensor:
    """The noise from which DDIM comes to these latents: its steps taken backwards.

    A step from t to the noisier t' has to satisfy x_t = DDIM(x_t', ε(x_t', t')). It is found by
    fixed-point iteration: ε is first taken at x_t, then at the last estimate of x_t'.

    Args:
        predict: `(x [B, …], timestep) → ε [B, …]`.
        scheduler: with the model's noise schedule; predicts ε, v or the sample.
        latents: `[B, …]` of images.
        steps: of the sampler.
        refinements: further iterations a step; 0 is plain DDIM inversion.
    """
    sampler = partway(scheduler)
    sampler.set_timesteps(steps, device=latents.device)
    alphas = sampler.alphas_cumprod.to(latents.device)
    stride = sampler.config.num_train_timesteps // steps
    x = latents
    for timestep in reversed(sampler.timesteps.tolist()):
        below = timestep - stride
        a_below = alphas[below] if below >= 0 else sampler.final_alpha_cumprod.to(x.device)
        a = alphas[timestep]
        estimate = x
        for _ in range(refinements + 1):
            noise = _epsilon(sampler, predict(estimate, timestep), estimate, a)
            clean = (x - (1 - a_below).sqrt() * noise) / a_below.sqrt()
            estimate = a.sqrt() * clean + (1 - a).sqrt() * noise
        x = estimate
    return x


def _epsilon(sampler: Any, output: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    kind = sampler.config.prediction_type
    if kind == "v_prediction":
        return alpha.sqrt() * output + (1 - alpha).sqrt() * x
    if kind == "sample":
        return (x - alpha.sqrt() * output) / (1 - alpha).sqrt()
    return output
