"""ESD against its source's published formula, written out as numbers here."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from erase.core.params import name_matcher
from erase.errors import InputError
from erase.methods import esd
from tests.denoiser_world import method
from tests.parity.by_hand import flat, gradient, left
from tests.tiny import tiny_cache, tiny_task


@pytest.mark.parametrize(
    ("settings", "weights_of"),
    [
        ({}, (2.0, -1.0)),  # the current release: ε_c − 2 (ε_c − ε_∅) = 2ε_∅ − ε_c
        ({"variant": "first-u"}, (2.0, -1.0)),  # the first: ε_∅ − (ε_c − ε_∅), the same
        ({"variant": "sdxl"}, (1.0, 0.0)),  # the script for SDXL: ε_c − (ε_c − ε_∅) = ε_∅
    ],
)
def test_esds_target_in_each_release(settings: Any, weights_of: tuple[float, float]) -> None:
    task, made = tiny_task(), method("text-to-image", "esd", **settings)
    made.prepare(task)
    batch = task.batches("forget", 0)[0]
    with torch.no_grad():
        concept = task.predict(batch)
        empty = task.predict(batch, torch.zeros_like(batch.condition))
    expected = weights_of[0] * empty + weights_of[1] * concept
    torch.testing.assert_close(made.target(task, batch), expected)


def test_esd_trains_the_layers_of_its_scripts() -> None:
    names = [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.norm2.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight",
        "down_blocks.0.resnets.0.conv1.weight",
        "conv_norm_out.weight",
        "conv_out.weight",
        "time_embedding.linear_1.weight",
    ]
    chosen = {
        variant: [n for n in names if name_matcher(values["trainable"])(n)]
        for variant, values in esd.VARIANTS.items()
    }
    assert chosen["x"] == chosen["sdxl"] == names[:2]
    assert chosen["x-strict"] == names[:1]
    assert chosen["u"] == [names[3], names[4], names[6], names[7]]  # no norms
    assert chosen["first-u"] == names[2:5]  # no `out.`, no `time_embed`


def test_esd_denoises_as_far_as_drawn_and_needs_no_images() -> None:
    settings = {"samples": "denoised", "sampling_steps": 6, "sampling_guidance": 3.0}
    made = method("text-to-image", "esd", **settings)
    assert not made.images
    task = tiny_task()
    made.prepare(task)
    for step in range(4):
        batch = task.denoised(step, steps=6, guidance=3.0, model=task.original)[0]
        scheduler = DDIMScheduler.from_config(task.scheduler.config)
        scheduler.set_timesteps(6)
        reached = scheduler.timesteps.tolist().index(int(batch.timesteps[0]))
        x = batch.noise
        with torch.no_grad():
            for t in scheduler.timesteps[:reached]:
                at = replace(batch, noisy=x, timesteps=t.expand(len(x)))
                concept, empty = task.predict(at), task.predict(at, torch.zeros_like(at.condition))
                x = scheduler.step(empty + 3.0 * (concept - empty), t, x).prev_sample
        torch.testing.assert_close(batch.noisy, x)
    reaches = {int(task.denoised(step, steps=6, guidance=1.0)[0].timesteps[0]) for step in range(9)}
    assert len(reaches) > 2


def test_esd_erases_a_concept_from_another_prompt_only() -> None:
    cache = replace(tiny_cache(), prompts={"": 0, "snowman": 3})
    task = tiny_task(cache=cache)
    made = method("text-to-image", "esd", erase_from="snowman", guidance=2.0)
    assert made.prompts == ("snowman",)
    made.prepare(task)
    batch = task.batches("forget", 0)[0]
    with torch.no_grad():
        concept = task.predict(batch)
        empty = task.predict(batch, torch.zeros_like(batch.condition))
        shown = task.predict(batch, torch.full_like(batch.condition, 3))
    torch.testing.assert_close(made.target(task, batch), shown - 2.0 * (concept - empty))
    made.step(task, 0, None)
    loss = task.predict(batch, torch.full_like(batch.condition, 3)) - made.target(task, batch)
    expected = flat(gradient(task, loss.square().mean()))
    torch.testing.assert_close(left(task), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="not among those"):
        task.row("hat")
