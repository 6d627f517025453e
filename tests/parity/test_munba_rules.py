"""MUNBa against the bargaining problem of its paper and the closed form of its code, as numbers."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from erase.methods import munba
from tests.classifier_world import BATCH, forget_class, task
from tests.denoiser_world import method
from tests.tiny import tiny_task


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def pair(cosine: float, sizes: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    second = torch.tensor([cosine, math.sqrt(1 - cosine**2), 0.0], dtype=torch.float64)
    return sizes[0] * first, sizes[1] * second


@pytest.mark.parametrize("cosine", [-0.9, -0.3, 0.0, 0.4, 0.99])
@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1e-3, 7.0)])
def test_the_weights_are_nashs_and_those_of_the_source(
    cosine: float, sizes: tuple[float, float]
) -> None:
    retain, forget = pair(cosine, sizes)
    found = munba.bargain([retain], [forget])
    assert found is not None
    alpha = torch.tensor(found, dtype=torch.float64)
    both = torch.stack([retain, forget])
    torch.testing.assert_close(both @ both.T @ alpha, 1 / alpha)  # GᵀG α = 1/α
    # The source, without its 1e-8: g1 = ‖g_r‖², g2 = ⟨g_r, g_f⟩, g3 = ‖g_f‖².
    g1, g2, g3 = float(retain @ retain), float(retain @ forget), float(forget @ forget)
    first = math.sqrt((g1 * g3 - g2 * math.sqrt(g1 * g3)) / (g1 * g1 * g3 - g1 * g2 * g2))
    assert found[0] == pytest.approx(first)
    if g2:
        assert found[1] == pytest.approx((1 - g1 * first**2) / (g2 * first))
    joint = found[0] * retain + found[1] * forget
    assert float(joint.norm()) == pytest.approx(math.sqrt(2))

    def gain(weights: torch.Tensor) -> float:
        unit = (weights @ both) / (weights @ both).norm()
        return float((both @ unit).log().sum()) if bool((both @ unit > 0).all()) else -math.inf

    assert all(gain(alpha * torch.tensor([r, 1.0])) < gain(alpha) for r in (0.8, 1.25))


def test_opposite_or_vanishing_gradients_find_no_agreement() -> None:
    retain, forget = pair(-1.0, (1.0, 2.0))
    assert munba.bargain([retain], [forget]) is None
    assert munba.bargain([retain], [torch.zeros(3)]) is None
    assert munba.bargain([torch.zeros(3)], [forget]) is None


def test_an_epoch_is_joint_for_each_forget_batch_and_then_retains() -> None:
    world = task(epochs=2)
    made = munba.Method(munba.Settings())
    joint, whole = (math.ceil(world.size(name) / BATCH) for name in ("forget", "retain"))
    assert made.total_steps(world) == 2 * whole
    kinds = [made.split(world, step).forget is not None for step in range(2 * whole)]
    assert kinds == 2 * ([True] * joint + [False] * (whole - joint))
    swapped = task(torch.arange(12, 100))
    assert made.steps_per_epoch(swapped) == math.ceil(88 / BATCH) > swapped.size("retain") / BATCH


def test_a_joint_step_is_the_clipped_sum_of_both_unit_gradients() -> None:
    world = task(forget_class(1))
    parts = munba.Method(munba.Settings()).split(world, 0)
    batch = world.batch("retain", 0)
    loss = F.cross_entropy(world.logits(batch.images), batch.labels)
    gradient = flat(torch.autograd.grad(loss, list(world.parameters.values())))
    retain, forget = flat(parts.retain), flat(parts.forget)
    assert float(F.cosine_similarity(retain, gradient, 0)) == pytest.approx(1, abs=1e-4)
    assert float((retain + forget).norm()) == pytest.approx(1, abs=1e-4)  # √2, clipped to 1
    assert float(retain.norm()) == pytest.approx(float(forget.norm()), rel=1e-4)
    assert parts.stats.cosine == pytest.approx(
        float(F.cosine_similarity(retain, forget, 0)), abs=1e-4
    )


def test_the_drawn_labels_are_even_over_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    world, seen = task(), []

    def record(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return F.cross_entropy(logits, labels, reduction="none")

    monkeypatch.setattr(munba, "cross_entropy", record)
    for number in range(12):
        munba.Method(munba.Settings())._gradient(world, "forget", number)
    counts = torch.cat(seen).bincount(minlength=4)
    assert counts.sum() == 12 * BATCH
    assert bool((counts > 30).all())  # 48 each on average, the true class 0 among them


def test_on_denoisers_the_penalty_joins_after_the_bargain_and_falls_by_epochs() -> None:
    world = tiny_task(steps=4)
    plain, penal = (method("text-to-image", "munba", l1=l1) for l1 in (0.0, 0.02))
    gradients = []
    for made in (plain, penal):
        made.prepare(world)
        made.step(world, 0, None)
        gradients.append([p.grad for p in world.parameters.values()])
    assert float(flat(gradients[0]).norm()) == pytest.approx(math.sqrt(2), rel=1e-4)
    signs = flat([p.detach().sign() for p in world.parameters.values()])
    torch.testing.assert_close(flat(gradients[1]), flat(gradients[0]) + 0.02 * signs)
    falling = method("text-to-image", "munba", l1=0.02, l1_decay=True)
    one_pass = math.ceil(world.size("forget") / world.batch_size)
    epochs = math.ceil(4 / one_pass)
    expected = [0.02 * (1 - step // one_pass / epochs) for step in range(4)]
    assert [falling.penalty(world, step) for step in range(4)] == pytest.approx(expected)


def test_a_factor_of_the_forget_loss_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = tiny_task(steps=2)
    gradients = []
    for beta in (1.0, 100.0):
        mismatch = world.mismatch
        with monkeypatch.context() as patch:
            patch.setattr(world, "mismatch", lambda b, m=mismatch, k=beta: k * m(b))
            method("text-to-image", "munba").step(world, 0, None)
        gradients.append(flat([p.grad for p in world.parameters.values()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
