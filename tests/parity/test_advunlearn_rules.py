"""AdvUnlearn against its paper's two levels and the steps of its code, as numbers in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from erase.core.rng import generator
from erase.runs.processes import Shard
from erase.tasks.protocol import Noised
from erase.training.trained import trained_text
from tests.denoiser_world import in_float64, method

BATCH, RATE, GUIDANCE, WEIGHT = 3, 0.05, 1.5, 0.7


def world(trained: str) -> Any:
    """A task whose conditions are what its own text encoder says, and the part that is trained."""
    task = in_float64("text-to-image", Shard(batch_size=BATCH))
    with torch.no_grad():
        said = task.text.conditions([task.captions[row] for row in range(len(task.captions))])
    task.conditions = {**task.conditions, **said}
    if trained == "text":
        task.parameters = trained_text({"text_encoder": task.text.encoders[0]}, task.model)
    return task


def states(task: Any, prompts: list[str], vectors: Tensor | None = None) -> Tensor:
    """`[B, L, D]` of prompts; with `[B, D]`, after a word whose vector stands in the table."""
    (encoder,), tokenizer = task.text.encoders, task.text.pipeline.tokenizer
    word = "dog"  # in none of the forget prompts
    found = []
    for number, prompt in enumerate(prompts):
        text = prompt if vectors is None else f"{word} {prompt}"
        ids = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        changed = {}
        if vectors is not None:
            (token,) = tokenizer(word, add_special_tokens=False).input_ids
            table = encoder.get_input_embeddings().weight.detach()
            row = torch.arange(len(table))[:, None] == token
            name = next(
                n for n, _ in encoder.named_parameters() if n.endswith("token_embedding.weight")
            )
            changed = {name: torch.where(row, vectors[number], table)}
        found.append(functional_call(encoder, changed, (ids,))[0])
    return torch.cat(found)


def error(task: Any, batch: Any, shown: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, under text states."""
    found = task.model(batch.noisy, batch.timesteps, shown).sample
    return (found - target).square().mean((1, 2, 3))


def original(task: Any, batch: Any, prompts: list[str]) -> Tensor:
    with torch.no_grad():
        return task.original(batch.noisy, batch.timesteps, states(task, prompts)).sample


def adam(start: Tensor, gradients: Any, count: int) -> Tensor:
    value, first, second = start, torch.zeros_like(start), torch.zeros_like(start)
    for number in range(count):
        gradient = gradients(value, number)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9 ** (number + 1)), second / (1 - 0.999 ** (number + 1))
        value = value - RATE * mean / (square.sqrt() + 1e-8)
    return value


def made(**settings: Any) -> Any:
    values = {"guidance": GUIDANCE, "retain_weight": WEIGHT, "attack_rate": RATE, "warmup": 0}
    return method("text-to-image", "advunlearn", **{**values, "attack_steps": 3, **settings})


@pytest.mark.parametrize("attack", ["pgd", "fast-at"])
@pytest.mark.parametrize("trained", ["text", "unet"])
def test_the_step_is_the_two_levels_of_the_paper(trained: str, attack: str) -> None:
    task, found = world(trained), made(attack=attack)
    found.prepare(task)
    assert (task.original is task.model) == (trained == "text")
    prompts = ["a cat"] * BATCH
    # The lower level: min over δ of MSE(ε_θ(x_t|[δ, c]), ε_0(x_t|c)), from random words.
    source = generator(task.seed, 0, "attacker's words")
    words = torch.randint(len(task.text.pipeline.tokenizer), (BATCH, 1), generator=source)[:, 0]
    start = task.text.encoders[0].get_input_embeddings().weight.detach()[words]

    def gradient(value: Tensor, number: int) -> Tensor:
        (batch,) = task.batches("forget", 0, noise=f"attack-{number}")
        value = value.detach().requires_grad_()
        target = original(task, batch, prompts)
        loss = error(task, batch, states(task, prompts, value), target).sum()
        slope = torch.autograd.grad(loss, value)[0]
        return slope.sign() if attack == "fast-at" else slope

    ((prefix,),) = found.attacked(task, 0)
    expected = adam(start, gradient, 3)
    assert prefix.shape == (BATCH, 1, start.shape[1])
    torch.testing.assert_close(prefix[:, 0], expected, rtol=1e-6, atol=1e-9)
    assert float((expected - start).abs().max()) > RATE
    # The upper level: ESD's loss under these words, and γ times the retain loss.
    (forget,), (retain,) = task.batches("forget", 0), task.batches("retain", 0)
    kept = [task.captions[row] for row in retain.condition.tolist()]
    empty, concept = original(task, forget, [""] * BATCH), original(task, forget, prompts)
    target = empty - GUIDANCE * (concept - empty)
    shown = states(task, prompts, expected)
    if trained == "text":
        # `states` detaches the table alone: all other weights are live.
        assert shown.requires_grad
    forget_loss = error(task, forget, shown, target).mean()
    retain_loss = error(task, retain, states(task, kept), original(task, retain, kept)).mean()
    parameters = list(task.parameters.values())
    slopes = torch.autograd.grad(
        forget_loss + WEIGHT * retain_loss, parameters, allow_unused=True, materialize_grads=True
    )
    stats = found.step(task, 0, None)
    assert stats.forget_loss == pytest.approx(forget_loss.item(), rel=1e-6)
    assert stats.retain_loss == pytest.approx(retain_loss.item(), rel=1e-6, abs=1e-12)
    assert any(float(slope.abs().max()) > 0 for slope in slopes)
    for parameter, slope in zip(parameters, slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-5, atol=1e-9)


def test_the_warm_up_is_esd_with_the_plain_prompts() -> None:
    task = world("unet")
    esd = method("text-to-image", "esd", guidance=1.0, start="empty")
    plain = made(warmup=1, guidance=1.0, retain_weight=0.0)
    plain.prepare(task)
    esd.prepare(task)
    assert plain.attacked(task, 0) == [()]
    (batch,) = task.batches("forget", 0)
    torch.testing.assert_close(plain.target(task, batch), esd.target(task, batch))
    assert plain.step(task, 0, None).forget_loss == pytest.approx(
        esd.step(task, 0, None).forget_loss, rel=1e-9
    )
    assert plain.attacked(task, 1) != [()]


def test_the_attack_sees_the_same_prompts_at_other_noise_and_needs_no_images() -> None:
    task, found = world("text"), made(samples="denoised", sampling_steps=4, retain_batches=3)
    assert not found.images
    assert made().images
    plain, noisier = (
        task.denoised(0, steps=4, guidance=3.0, subset="retain", noise=noise)[0]
        for noise in ("", "attack-0")
    )
    (other,) = task.denoised(0, steps=4, guidance=3.0, subset="retain", name="part-1")
    assert torch.equal(plain.condition, noisier.condition)
    assert not torch.equal(plain.noise, noisier.noise)
    assert set(plain.condition.tolist()) <= {3, 4}
    assert not torch.equal(plain.noise, other.noise)
    found.prepare(task)
    read: list[int] = []
    predict = task.predict_reading

    def counted(batch: Noised, *rest: Any) -> Tensor:
        read.append(len(batch.noisy))
        prediction: Tensor = predict(batch, *rest)
        return prediction

    task.predict_reading = counted
    found.step(task, 0, None)
    # Three steps of the attack, the concept, and three batches that are kept.
    assert read == [BATCH] * 7
