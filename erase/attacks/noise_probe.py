"""Start the sampler from noised images of the concept, or add noise to it on the way; no training.

Images: the sampler begins at x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε with x_0 an image of the concept, and
ends under the plain prompt. Noise: DDIM adds η times the noise of DDPM in each step, above η = 1
more than the model expects, so that its path leaves the one that was unlearned (Lu et al., "When
Are Concepts Erased From Diffusion Models?", NeurIPS 2025, noise-based probing). The best of several
η counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.rng import generator
from erase.errors import InputError
from erase.scoring.samples import Sample
from erase.tasks.attack import CONCEPT, Attack, Facts, Rendering, Stage, Victim, counted
from erase.tasks.partway import partway

RECIPES: dict[str, Recipe] = {
    "large": published(
        "Lu et al. 2025: Noisy_attack/noisy_attack.py, its seven η without the scales; the strength"
        " of the images is ours",
        noise="1.3,1.5,1.7,1.75,1.8,1.85,1.9",
        strength=0.9,
    ),
    "small": ours("few of the source's η", noise="1,1.3,1.6", strength=0.9),
}
IMAGES, NOISE = "images", "noise"


@dataclass(frozen=True)
class Settings(Config):
    """Settings of the probe."""

    starts: str = option("both", "What is probed: images, noise, or both.", ("both", IMAGES, NOISE))
    restarts: int = option(1, "Images that each prompt is started from.", least=1)
    strength: float = option(
        0.9, "How far images are noised: the share of steps still to take.", above=0, most=1
    )
    noise: str = option("1,1.3,1.6", "Values of η, the noise of each step.")

    @property
    def levels(self) -> list[float]:
        """The values of η in rising order, each once; InputError for one that is none."""
        try:
            values = sorted({float(part) for part in self.noise.split(",")})
        except ValueError:
            values = [0.0]
        if not 0 < values[0] <= values[-1] <= 10:
            raise InputError(
                f"noise-probe.noise is {self.noise!r}.", "Give numbers above 0, such as 1,1.3,1.6."
            )
        return values


class NoiseProbe(Attack):
    """Other starts and other noise for the sampler."""

    name = "noise-probe"
    sets = (CONCEPT,)

    def stages(self) -> list[Stage]:
        """One stage a restart from images, and one a value of η."""
        stages = []
        if self.settings.starts != NOISE:
            stages += [Stage(f"{IMAGES}-{n}", IMAGES) for n in range(self.settings.restarts)]
        if self.settings.starts != IMAGES:
            stages += [Stage(f"{NOISE}-{level:g}", NOISE) for level in self.settings.levels]
        return stages

    def budget(self) -> str:
        """Starts and values of η."""
        parts = []
        if self.settings.starts != NOISE:
            images = counted(self.settings.restarts, "image", "images")
            parts.append(f"{images} noised to {self.settings.strength:g}")
        if self.settings.starts != IMAGES:
            parts.append(f"η of {self.settings.noise}")
        return f"{'; '.join(parts)}; DDIM"

    def check(self, facts: Facts) -> None:
        """InputError for a model without DDIM's schedule, or a strength that leaves no step."""
        partway(facts.scheduler).set_timesteps(facts.steps)
        if round(self.settings.strength * facts.steps) < 1:
            raise InputError(
                f"noise-probe.strength is {self.settings.strength:g}, which leaves no step of"
                f" {facts.steps}.",
                "Give a larger one.",
            )
        self.stages()

    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """Latents of noised images, or the sampler with more noise."""
        own = victim.pipeline.scheduler
        kind, _, value = stage.name.partition("-")
        if kind == NOISE:
            return Rendering(samples, scheduler=partway(own, noise=float(value)))
        first = victim.steps - max(round(self.settings.strength * victim.steps), 1)
        sampler = partway(own, first=first)
        timer = partway(own, first=first)
        timer.set_timesteps(victim.steps)
        latents = victim.latents(CONCEPT)
        place = {sample.id: number for number, sample in enumerate(victim.samples)}
        dtype = victim.denoiser.dtype

        def noised(batch: Sequence[Sample]) -> Mapping[str, Any]:
            rows = [(place[s.id] + int(value) * len(place)) % len(latents) for s in batch]
            clean = latents[rows]
            noise = torch.stack(
                [
                    torch.randn(clean.shape[1:], generator=generator(s.seed, stage.name))
                    for s in batch
                ]
            )
            at = torch.full((len(batch),), int(timer.timesteps[0]))
            return {"latents": timer.add_noise(clean, noise, at).to(victim.device, dtype)}

        return Rendering(samples, noised, sampler)
