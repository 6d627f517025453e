"""The losses of equations 12 to 14 on cached latents, and how a batch is shared out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from erase.core.meta import meta_gradient
from erase.core.rng import batch_indices
from erase.errors import InputError
from erase.runs.processes import Shard
from erase.tasks.denoiser import DenoiserTask
from erase.tasks.latents import LatentCache
from tests.tiny import tiny_cache, tiny_task, tiny_unet


def gradient(task: DenoiserTask, step: int = 0, mode: str = "joint") -> list[torch.Tensor]:
    losses = task.losses(step)
    meta_gradient(task.parameters, losses.retain, losses.forget, alpha=0.01, mode=mode)  # type: ignore[arg-type]
    return [p.grad.clone() for p in task.parameters.values() if p.grad is not None]


def test_losses_repeat_bit_for_bit_and_differ_by_step_and_seed() -> None:
    task = tiny_task()
    first, again, later = task.losses(3), task.losses(3), task.losses(4)
    assert first.retain[0]() == first.retain[0]() == again.retain[0]()
    assert first.forget[0]() == again.forget[0]()
    assert first.retain[0]() != later.retain[0]()
    assert first.retain[0]() != tiny_task(seed=1).losses(3).retain[0]()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_retain_loss_is_the_denoising_loss_of_the_scheduler(kind: str) -> None:
    """Against a perfect denoiser: one that answers with the target itself has loss zero."""
    task = tiny_task(scheduler={"prediction_type": kind}, condition_dropout=0.0)
    batch = task.draw("retain", 0)
    alpha_bar = DDPMScheduler().alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    rebuilt = alpha_bar.sqrt() * batch.clean + (1 - alpha_bar).sqrt() * batch.noise
    torch.testing.assert_close(batch.noisy, rebuilt)
    answer = {
        "epsilon": batch.noise,
        "v_prediction": alpha_bar.sqrt() * batch.noise - (1 - alpha_bar).sqrt() * batch.clean,
        "sample": batch.clean,
    }[kind]
    torch.testing.assert_close(task.target(batch), answer)


def test_unknown_prediction_type_is_refused() -> None:
    task = tiny_task()
    task.scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(InputError, match="'flow'"):
        task.losses(0).retain[0]()


def test_forget_loss_is_zero_when_the_anchor_is_the_caption() -> None:
    cache = tiny_cache()
    cache.anchors[1] = 1
    assert tiny_task(cache=cache).losses(0).forget[0]() == 0
    assert tiny_task().losses(0).forget[0]() > 0


def test_detached_target_gradient() -> None:
    """Detached: d/dθ ‖a − sg(b)‖². With --target-grad the other half is there too."""
    unet = tiny_unet()
    detached = tiny_task(unet=unet)
    through = tiny_task(unet=unet, target_grad=True)
    loss = detached.losses(0).forget[0]()
    assert loss == through.losses(0).forget[0]()
    parameter = unet.conv_in.weight
    (short,) = torch.autograd.grad(loss, parameter)
    (whole,) = torch.autograd.grad(through.losses(0).forget[0](), parameter)
    assert (short - whole).norm() > 0.05 * whole.norm()


def test_frozen_anchor_stays_with_the_original_model() -> None:
    unet = tiny_unet()
    live, frozen = tiny_task(unet=unet), tiny_task(unet=unet, frozen_anchor=True)
    assert live.losses(0).forget[0]() == frozen.losses(0).forget[0]()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1.1)
    assert live.losses(0).forget[0]() != frozen.losses(0).forget[0]()


def test_micro_batches_and_processes_equal_the_joint_batch() -> None:
    unet = tiny_unet(dtype=torch.float64)

    def doubled(batch: Any) -> Any:
        values = {name: getattr(batch, name).double() for name in ("clean", "noise", "noisy")}
        return replace(batch, **values)

    def task(shard: Shard) -> DenoiserTask:
        made = tiny_task(unet=unet, shard=shard)
        made.conditions = {name: states.double() for name, states in made.conditions.items()}
        draw = made.draw
        made.draw = lambda *a: doubled(draw(*a))  # type: ignore[method-assign]
        return made

    whole = gradient(task(Shard(8)))
    pieces = gradient(task(Shard(2, micro_batches=4)))
    ranks = [gradient(task(Shard(4, process_index=rank, num_processes=2))) for rank in (0, 1)]
    for joint, piece, one, two in zip(whole, pieces, *ranks, strict=True):
        torch.testing.assert_close(piece, joint, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close((one + two) / 2, joint, rtol=1e-9, atol=1e-12)


def test_captions_are_dropped_at_the_stated_rate() -> None:
    task = tiny_task(shard=Shard(400), condition_dropout=0.25)
    share = (task.draw("retain", 0).condition == task.empty).float().mean()
    assert 0.18 < share < 0.32


def test_epochs_are_permutations_and_nothing_is_dropped() -> None:
    drawn = torch.cat([batch_indices(7, 3, step, 0, "x") for step in range(7)])
    for epoch in drawn.view(3, 7):
        assert sorted(epoch.tolist()) == list(range(7))
    assert not torch.equal(drawn[:7], drawn[7:14])


def test_cache_round_trip_and_broken_file(tmp_path: Path) -> None:
    cache, path = tiny_cache(), tmp_path / "latents.safetensors"
    cache.write(path)
    read = LatentCache.read(path)
    torch.testing.assert_close(read.sets["forget"].mean, cache.sets["forget"].mean, rtol=0, atol=0)
    torch.testing.assert_close(read.anchors, cache.anchors, rtol=0, atol=0)
    assert (len(read.sets["retain"]), read.empty) == (7, 0)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="not a readable latent cache"):
        LatentCache.read(path)
