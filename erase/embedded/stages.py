"""What the trainings of the embedded models share: stages of optimizer steps, resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from erase.runs.checkpoint import (
    LATEST,
    copy_into,
    find_checkpoint,
    load_checkpoint,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
    with_prefix,
    without_prefix,
)

GRADIENT_NORM = 1.0
WARM_UP = 100  # steps in which the learning rate rises, or a tenth of them all
TIMED = 100  # steps over which the speed is measured, time and again, that fits steps into minutes


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: shown beside the progress bar, and the name of the folder of its checkpoints.
        steps: optimizer steps.
        rate: the learning rate, after a warm-up and before it falls linearly to zero.
        falling: share of the steps over which it falls; 1: from the end of the warm-up on.
        ema: decay of the moving average of the weights, which the stage leaves; None: no average.
        minutes: if given, `steps` is only the most: as many are taken as fit. The number follows
            the speed until the learning rate falls, so that the same number of steps without
            minutes does the same. Only with `falling` below 1.
    """

    name: str
    steps: int
    rate: float
    falling: float = 1.0
    ema: float | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Checkpoints:
    """Where the stages of a training leave their state, and how often.

    Attributes:
        folder: has one folder for each stage.
        runs: by stage, the fingerprint of all that it depends on.
        every: steps between two checkpoints.
    """

    folder: Path
    runs: Mapping[str, str]
    every: int


@dataclass
class Result:
    """What a stage did: its steps, their losses `[steps]`, and its speed."""

    steps: int = 0
    losses: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        tail = [float(loss) for loss in self.losses[-max(1, self.steps // 10) :]]
        return sum(tail) / len(tail)


def run_stage(
    stage: Stage,
    modules: Mapping[str, nn.Module],
    loss: Callable[[int], Tensor],
    *,
    checkpoints: Checkpoints | None = None,
    quiet: bool = False,
) -> Result:
    """Train modules in place on the loss of each step; go on from a checkpoint if there is one.

    Args:
        stage: what to do.
        modules: what is trained, by name, on one device, in training mode.
        loss: gives the loss of a step; it draws by (seed, step) alone, so that a resumed training
            takes the same steps.
        checkpoints: where the state is kept; None: nowhere.
        quiet: show no progress bar.
    """
    parameters = [p for module in modules.values() for p in module.parameters()]
    cuda = parameters[0].is_cuda
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=cuda or None
    )
    average = EMAModel(parameters, decay=stage.ema, foreach=cuda) if stage.ema else None
    state = _State(stage, modules, optimizer, average, checkpoints)
    steps, result = state.load()
    started, bar = time.monotonic(), tqdm(total=steps, desc=stage.name, disable=quiet, unit="step")
    bar.update(result.steps)
    fit = _Fit(stage, started)
    while result.steps < steps:
        step = result.steps
        steps = bar.total = fit.steps(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * _share(stage, step, steps)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        optimizer.step()
        if average is not None:
            average.step(parameters)
        result.losses.append(value.detach())
        result.steps += 1
        bar.update(1)
        if checkpoints and (result.steps == steps or result.steps % checkpoints.every == 0):
            state.save(result, steps)
    if cuda:
        torch.cuda.synchronize()
    bar.close()
    result.seconds = time.monotonic() - started
    if average is not None:
        average.copy_to(parameters)
    return result


def _share(stage: Stage, step: int, steps: int) -> float:
    """The learning rate of a step as a share of the stage's."""
    warm_up = min(WARM_UP, max(1, stage.steps // 10))
    falling = steps - warm_up if stage.falling >= 1.0 else round(stage.falling * steps)
    return min((step + 1) / warm_up, (steps - step) / max(1, falling), 1.0)


class _Fit:
    """Fits the number of steps into the minutes of a stage."""

    def __init__(self, stage: Stage, started: float) -> None:
        self.stage, self.started = stage, started
        self.before: tuple[int, float] | None = None

    def steps(self, step: int, steps: int) -> int:
        """How many steps fit, by the speed of the last `TIMED`; `steps` where that stays."""
        stage = self.stage
        level = 1.0 - stage.falling
        if stage.minutes is None or step % TIMED or step < TIMED or step >= level * steps:
            return steps
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now, before = time.monotonic(), self.before
        self.before = step, now
        if before is None:
            return steps
        speed = (step - before[0]) / (now - before[1])
        left = 60.0 * stage.minutes - (now - self.started)
        fitting = max(step + int(left * speed), math.ceil((step + 1) / level))
        return min(stage.steps, fitting)


class _State:
    """What a stage's checkpoint holds, and how it is written and read."""

    def __init__(
        self,
        stage: Stage,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        average: EMAModel | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.stage, self.modules, self.optimizer = stage, modules, optimizer
        self.average, self.checkpoints = average, checkpoints

    def save(self, result: Result, steps: int) -> None:
        """Write a checkpoint and remove the one before."""
        assert self.checkpoints is not None
        packed, meta = pack_optimizer(self.optimizer)
        tensors = with_prefix("weights", self._weights()) | with_prefix("optimizer", packed)
        if self.average is not None:
            tensors |= with_prefix("average", self._averages())
        tensors["losses"] = torch.stack(result.losses)
        meta = {"optimizer": meta, "steps": steps}
        folder = self.checkpoints.folder / self.stage.name
        save_checkpoint(
            folder, result.steps, tensors, meta, keep=1, run=self.checkpoints.runs[self.stage.name]
        )

    def load(self) -> tuple[int, Result]:
        """The stage's steps and what was done of them; nothing without a checkpoint."""
        if self.checkpoints is None:
            return self.stage.steps, Result()
        folder = self.checkpoints.folder / self.stage.name
        path = find_checkpoint(folder, LATEST, self.checkpoints.runs[self.stage.name])
        if path is None:
            return self.stage.steps, Result()
        found = load_checkpoint(path)
        copy_into(self._weights(), without_prefix("weights", found.tensors))
        packed = without_prefix("optimizer", found.tensors)
        unpack_optimizer(self.optimizer, packed, found.meta["optimizer"])
        if self.average is not None:
            copy_into(self._averages(), without_prefix("average", found.tensors))
            self.average.optimization_step = found.step
        device = next(iter(self._weights().values())).device
        losses = list(found.tensors["losses"].to(device))
        return int(found.meta["steps"]), Result(found.step, losses)

    def _weights(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return {
            f"{name}.{key}": tensor
            for name, module in self.modules.items()
            for key, tensor in module.state_dict().items()
        }

    def _averages(self) -> dict[str, Any]:
        assert self.average is not None
        return {str(number): p for number, p in enumerate(self.average.shadow_params)}


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, *, scaled: bool = True, batch: int = 64) -> Tensor:
    """Encode images `[N, 3, H, W]` in [-1, 1] to the means of their latents `[N, C, h, w]`."""
    parts = [vae.encode(part).latent_dist.mean for part in torch.split(images, batch)]
    return torch.cat(parts) * (vae.config.scaling_factor if scaled else 1.0)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, *, scaled: bool = True, batch: int = 64) -> Tensor:
    """Decode latents `[N, C, h, w]` to images `[N, 3, H, W]` in [-1, 1]."""
    latents = latents / (vae.config.scaling_factor if scaled else 1.0)
    return torch.cat([vae.decode(part).sample for part in torch.split(latents, batch)]).clamp(
        -1.0, 1.0
    )
