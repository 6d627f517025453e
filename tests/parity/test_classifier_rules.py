"""Each classifier method against its source's published formula, written out as numbers here."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from erase.core.trim import trim
from erase.judges.classifier_scores import attack_features, mia_efficacy
from erase.methods import be, iu, salun, scrub, sfr_on, shs
from erase.training.dualoptim import DualOptim
from tests.classifier_world import BATCH, task


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def test_iu_leaves_k_and_o_alone_for_the_first_sample_and_keeps_n() -> None:
    random = torch.Generator().manual_seed(0)
    g = torch.randn((3, 4), generator=random, dtype=torch.float64)
    v = torch.randn(4, generator=random, dtype=torch.float64)
    n, k, o = 1000, v.clone(), g[0].clone()
    for sample in g[1:]:
        overlap = o @ sample
        k = k - (k @ sample) / (n + overlap) * o
        o = o - overlap / (n + overlap) * o
    torch.testing.assert_close(iu.source_recursion(v, g, n), k)


def test_iu_takes_two_samples_more_than_it_counts() -> None:
    world, drawn = task(), []
    draw = world.draw
    world.draw = lambda subset, count, name: drawn.append(count) or draw(subset, count, name)  # type: ignore[func-returns-value,method-assign]
    iu.Method(iu.Settings(samples=5)).prepare(world)
    iu.Method(iu.Settings(samples=5, solver="exact")).prepare(world)
    assert drawn == [7, 5]


def test_bes_extra_class_is_a_fresh_row_with_a_fresh_bias() -> None:
    world = task()
    be.Method(be.Settings()).prepare(world)
    bound = world.head.in_features**-0.5
    row, bias = world.head.weight[-1].detach(), float(world.head.bias[-1].detach())
    assert 0 < abs(bias) <= bound
    assert 0.8 * bound < float(row.abs().max()) <= bound


def test_scrubs_batches_are_those_of_its_runs() -> None:
    assert scrub.Settings().forget_batch_size == 512


def test_dualoptims_forget_optimizer_is_adamw() -> None:
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    dual = DualOptim([ours], lr=0.1, forget_lr=0.01, forget_weight_decay=0.05)
    adamw = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.05)
    for seed in range(4):
        g = torch.randn(5, generator=torch.Generator().manual_seed(seed))
        dual.forget_gradients, theirs.grad = [g.clone()], g.clone()
        dual.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# SHs


def test_shs_trims_by_the_whole_networks_quantile_within_one_over_root_fan_in() -> None:
    model = task().model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    gradients = {n: torch.rand(p.shape) for n, p in before.items()}
    saliency = {n: (gradients[n] * p).abs() for n, p in before.items()}
    total = flat(saliency.values())
    threshold = total.sort(descending=True).values[round(0.1 * total.numel()) - 1]
    random = torch.Generator().manual_seed(0)
    count = trim(model, gradients, layers="fc", sparsity=0.9, slope=math.sqrt(5), generator=random)
    now = dict(model.named_parameters())
    weight = next(n for n in before if "fc" in n and n.endswith("weight"))
    salient = saliency[weight] >= threshold
    assert torch.equal(now[weight] != before[weight], salient)
    bias = weight.replace("weight", "bias")
    assert count == int(salient.sum() + (saliency[bias] >= threshold).sum())
    fresh = now[weight].detach()[salient].abs()
    bound = now[weight].shape[1] ** -0.5
    assert 0.8 * bound < float(fresh.max()) <= bound
    for name in set(before) - {weight, bias}:
        assert torch.equal(now[name], before[name]), name


def test_shs_projection_of_one_row_in_closed_form() -> None:
    random = torch.Generator().manual_seed(1)
    g, m = (torch.randn(6, generator=random, dtype=torch.float64) for _ in range(2))
    for gradient in (g, -g):
        dot = float(m @ gradient)
        found = shs.project(gradient, m[None], margin=0.5)
        if dot >= 0:
            assert torch.equal(found, gradient)
        else:
            dual = max(0.5, -dot / (float(m @ m) + 1e-3))
            torch.testing.assert_close(found, gradient + dual * m, rtol=1e-6, atol=1e-8)


def test_shs_projection_of_several_rows_meets_the_optimality_conditions() -> None:
    random = torch.Generator().manual_seed(2)
    memory = torch.randn((3, 8), generator=random, dtype=torch.float64)
    gradient = -memory.sum(0)
    moved = shs.project(gradient, memory, margin=0.5) - gradient
    dual = torch.linalg.lstsq(memory.T, moved[:, None]).solution[:, 0]
    slope = (memory @ memory.T + 1e-3 * torch.eye(3)) @ dual + memory @ gradient
    assert bool((dual >= 0.5 - 1e-6).all())
    assert bool((slope >= -1e-5).all())
    assert float((slope * (dual - 0.5)).abs().max()) < 1e-4


def test_shs_epoch_has_a_joint_step_for_each_forget_batch_and_then_retains() -> None:
    world = task(epochs=2)
    method = shs.Method(shs.Settings(layers="layer3|fc", project_every=2))
    method.prepare(world)
    joint = math.ceil(world.size("forget") / BATCH)
    per_epoch = method.steps_per_epoch(world)
    assert 0 < joint < per_epoch
    memories = []
    for step in range(2 * per_epoch):
        parts = method.split(world, step)
        assert (parts.forget is None) == (step % per_epoch >= joint)
        assert method._memory is not None
        if step % per_epoch == 0:
            memories.append(method._memory.clone())
            with torch.no_grad():
                for p in world.parameters.values():
                    p.add_(0.01)
    assert not torch.equal(*memories)  # of the model as it is at the start of each epoch
    chosen = [p for n, p in world.parameters.items() if "layer3" in n or "fc" in n]
    assert memories[0].shape == (1, sum(p.numel() for p in chosen))
    again = shs.Method(shs.Settings())
    again.load_state(method.state())
    assert torch.equal(again.state()["memory"], memories[1])


# SalUn


def test_saluns_cifar10_epoch_is_a_pass_over_each_set() -> None:
    world = task(epochs=2)
    method = salun.Method(salun.Settings(order="passes", mask=1.0))
    n_f, n_r = (math.ceil(world.size(name) / BATCH) for name in ("forget", "retain"))
    assert method.total_steps(world) == 2 * (n_f + n_r)
    method.prepare(world)
    for step in range(2 * (n_f + n_r)):
        forgets = step % (n_f + n_r) < n_f
        parts = method.split(world, step)
        assert (parts.forget is not None) == forgets
        assert (parts.retain is None) == forgets
    batch = world.batch("forget", 0)
    labels = salun.random_labels(world, batch.labels, 0)
    parts = method.split(world, 0)
    loss = F.cross_entropy(world.logits(batch.images), labels)
    expected = torch.autograd.grad(loss, list(world.parameters.values()))
    torch.testing.assert_close(flat(parts.forget), flat(expected), rtol=1e-4, atol=1e-6)


def test_saluns_ascent_is_masked_gradient_ascent_on_the_forget_set() -> None:
    world = task(epochs=1)
    method = salun.Method(salun.Settings(form="ascent", mask=0.3))
    method.prepare(world)
    assert method.total_steps(world) == math.ceil(world.size("forget") / BATCH)
    parts = method.split(world, 0)
    batch = world.batch("forget", 0)
    loss = -F.cross_entropy(world.logits(batch.images), batch.labels)
    expected = flat(torch.autograd.grad(loss, list(world.parameters.values())))
    moves = flat(method._mask._moves)  # type: ignore[union-attr]
    torch.testing.assert_close(flat(parts.forget), expected * moves, rtol=1e-4, atol=1e-6)


# SFR-on


def test_sfr_ons_adaptive_weights_are_inverse_powers_of_the_losses() -> None:
    losses = torch.tensor([1.0, 4.0, 0.25], requires_grad=True)
    mean = sfr_on.adaptive_mean(losses, 0.5)
    weights = np.array([1.0, 0.5, 2.0]) / 3.5
    assert float(mean.detach()) == pytest.approx(float(weights @ [1.0, 4.0, 0.25]))
    mean.backward()
    torch.testing.assert_close(losses.grad, torch.tensor(weights, dtype=torch.float32))


def test_sfr_on_ascends_every_fifth_iteration_with_a_cosine_and_a_clip() -> None:
    world = task(epochs=3)
    method = sfr_on.Method(sfr_on.Settings(forget_weight=25.0, max_norm=0.5))
    method.prepare(world)
    retain = 3 * method.steps_per_epoch(world)
    assert method.total_steps(world) == retain + math.ceil(retain / 5)
    kinds = [method.split(world, step).forget is not None for step in range(12)]
    assert kinds == [True, *[False] * 5] * 2
    parts = method.split(world, 0)
    assert float(flat(parts.forget).norm()) <= 0.5 + 1e-4


# MIA


def test_the_attacks_five_features() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    features = attack_features(logits, torch.tensor([0, 1]))
    assert set(features) == {
        *("confidence", "correctness", "entropy", "modified entropy", "probabilities")
    }
    np.testing.assert_allclose(features["confidence"][:, 0], [0.7, 0.25])
    np.testing.assert_allclose(features["correctness"][:, 0], [1, 0])
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    np.testing.assert_allclose(features["entropy"][0, 0], entropy)
    modified = -(0.3 * np.log(0.7)) - 0.2 * np.log(0.8) - 0.1 * np.log(0.9)
    np.testing.assert_allclose(features["modified entropy"][0, 0], modified, rtol=1e-6)
    np.testing.assert_allclose(features["probabilities"], [[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    apart = mia_efficacy(np.zeros((4, 3)), np.ones((9, 3)), np.zeros((9, 3)))
    assert apart == 100.0
