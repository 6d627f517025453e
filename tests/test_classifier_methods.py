"""What is particular to single classifier methods, each against an independent computation."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from erase.config.classifier import ClassifierConfig, fill
from erase.core.params import FixedLoss
from erase.core.trim import Mask, top_share
from erase.errors import InputError
from erase.methods import be, bs, iu, l1_sparse, lur, lur_b, salun, scrub, shs, ssd
from erase.training.classifier import _task, run_method
from erase.training.dualoptim import DualOptim
from tests.classifier_world import BATCH, forget_class, original, task


def config(name: str, **changes: object) -> ClassifierConfig:
    given = {"train_batch_size": BATCH, "epochs": 1, **changes}
    return fill(ClassifierConfig(method=name, **given), "digits", 0.25)  # type: ignore[arg-type]


def test_ius_exact_solver_solves_the_fisher_system() -> None:
    random = torch.Generator().manual_seed(0)
    g = torch.randn((7, 5), generator=random, dtype=torch.float64)
    v = torch.randn(5, generator=random, dtype=torch.float64)
    fisher = torch.eye(5, dtype=torch.float64) + g.T @ g / 7
    torch.testing.assert_close(iu.woodbury(v, g), torch.linalg.solve(fisher, v))


def test_ius_direction_is_the_change_of_the_mean_gradient_when_the_forget_set_goes() -> None:
    world = task()
    before = [p.detach().clone() for p in world.parameters.values()]
    with world.evaluating():
        sums = [iu._gradient_sum(world, name).double() for name in ("forget", "retain")]
    n_f, n_r = world.size("forget"), world.size("retain")
    gone = sums[0].add(sums[1]) / (n_f + n_r) - sums[1] / n_r
    iu.Method(iu.Settings(alpha=2.0, samples=1, solver="exact")).prepare(world)
    moved = torch.cat(
        [(p - b).flatten() for p, b in zip(world.parameters.values(), before, strict=True)]
    )
    cosine = F.cosine_similarity(moved.detach().double(), gone, dim=0)
    assert float(cosine) > 0.5  # one sample's curvature turns it, and no more


def test_iu_refuses_an_unknown_solver() -> None:
    with pytest.raises(InputError, match="solver"):
        iu.Method(iu.Settings(solver="newton"))


def test_bs_takes_what_a_frozen_copy_says_at_the_fgsm_point() -> None:
    world = task()
    method = bs.Method(bs.Settings(bound=0.1))
    method.prepare(world)
    batch = world.batch("forget", 0)
    labels = method.boundary_labels(world, batch)
    model = original().model.eval()
    images = batch.images.clone().requires_grad_()
    F.cross_entropy(model(images), batch.labels).backward()
    point = (batch.images + 0.1 * images.grad.sign()).clamp(0, 1)
    assert torch.equal(labels, model(point).argmax(1))
    with torch.no_grad():  # the copy does not follow the model
        for p in world.model.parameters():
            p.zero_()
    assert torch.equal(labels, method.boundary_labels(world, batch))


def test_l1_penalty_falls_linearly_by_epochs_from_alpha() -> None:
    world = task(epochs=4)
    method = l1_sparse.Method(l1_sparse.Settings(alpha=0.2))
    per_epoch = method.steps_per_epoch(world)
    weights = [method.weight(world, step) for step in range(4 * per_epoch)]
    expected = [0.2 * (1 - e / 4) for e in range(4) for _ in range(per_epoch)]
    assert weights == pytest.approx(expected)


def test_be_trains_towards_class_k_and_gives_the_head_back() -> None:
    world = task()
    old = world.head.weight.detach().clone()
    method = be.Method(be.Settings())
    method.prepare(world)
    assert world.head.weight.shape == (5, 64)
    assert torch.equal(world.head.weight[:4], old)
    assert set(world.parameters) == set(dict(world.model.named_parameters()))
    method.step(world, 0, None)
    slope: Any = world.head.bias.grad
    assert float(slope[4]) < 0  # descending raises the new class
    kept = world.head.weight[:4].detach().clone()
    method.finish(world)
    assert torch.equal(world.head.weight, kept)
    assert world.logits(world.batch("retain", 0).images).shape == (BATCH, 4)


def test_saluns_random_labels_are_never_the_true_ones_and_reach_all_others() -> None:
    world = task()
    labels = torch.zeros(300, dtype=torch.long)
    drawn = salun.random_labels(world, labels, 3)
    assert set(drawn.tolist()) == {1, 2, 3}
    assert torch.equal(drawn, salun.random_labels(world, labels, 3))
    assert not torch.equal(drawn, salun.random_labels(world, labels, 4))


def test_saluns_mask_holds_bit_for_bit_under_momentum_and_weight_decay() -> None:
    world = task()
    method = salun.Method(salun.Settings(mask=0.3))
    method.prepare(world)
    assert method._mask is not None
    assert method._mask.share == pytest.approx(0.3, abs=1e-4)
    settings = {"mask": 0.3}
    out = run_method(
        original(),
        forget_class(),
        config("salun", settings=settings, momentum=0.9, weight_decay=0.5, learning_rate=0.1),
    )
    moved = 0
    pairs = zip(out.model.parameters(), original().model.parameters(), strict=True)
    for (new, old), moves in zip(pairs, method._mask._moves, strict=True):
        assert torch.equal(new[~moves], old[~moves])
        moved += int((new[moves] != old[moves]).sum())
    assert moved > 0


def test_mask_marks_the_globally_largest() -> None:
    marks = top_share([torch.tensor([3.0, 1.0]), torch.tensor([[2.0], [0.0]])], 0.5)
    assert [m.flatten().tolist() for m in marks] == [[True, False], [True, False]]
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    mask = Mask([p], [torch.tensor([True, False])])
    with torch.no_grad():
        p.add_(1)
    mask.put_back()
    assert p.tolist() == [2.0, 2.0]
    with pytest.raises(InputError):
        top_share([torch.zeros(2)], 1.5)


@pytest.mark.parametrize("module", [lur, lur_b])
def test_trimming_is_off_by_default(module: Any) -> None:
    world = task()
    before = [p.detach().clone() for p in world.parameters.values()]
    module.Method(module.Settings()).prepare(world)
    assert all(torch.equal(a, b) for a, b in zip(before, world.parameters.values(), strict=True))
    module.Method(module.Settings(trim=0.9)).prepare(world)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, world.parameters.values(), strict=True)
    )


def test_lur_lur_b_and_shs_trim_the_same_weights_to_the_same_values() -> None:
    trimmed = []
    for method in (
        lur.Method(lur.Settings(trim=0.9)),
        lur_b.Method(lur_b.Settings(trim=0.9)),
        shs.Method(shs.Settings(sparsity=0.9)),
    ):
        world = task()
        method.prepare(world)
        trimmed.append([p.detach().clone() for p in world.parameters.values()])
    for other in trimmed[1:]:
        assert all(torch.equal(a, b) for a, b in zip(trimmed[0], other, strict=True))


def test_a_limited_retain_set_is_drawn_by_seed_and_never_for_retrain() -> None:
    sizes: dict[str, int] = {}
    for name in ("ft", "retrain"):
        limited = config(name, retain_limit=20, seed=3)
        made = _task(original(), forget_class(), limited)
        sizes[name] = made.size("retain")
    assert sizes["ft"] == 20
    assert sizes["retrain"] > 20
    draws = [
        _task(original(), forget_class(), config("ft", retain_limit=20, seed=seed)).retain.images
        for seed in (3, 3, 4)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_lur_with_alpha_0_is_lur_b() -> None:
    changes = {"learning_rate": 0.02}
    a = run_method(original(), forget_class(), config("lur", settings={"alpha": 0.0}, **changes))
    b = run_method(original(), forget_class(), config("lur-b", **changes))
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)


def test_scrub_alternates_passes_over_the_forget_and_the_retain_set() -> None:
    world = task(epochs=3)
    method = scrub.Method(scrub.Settings(ascent_epochs=2, forget_batch_size=10))
    n_f, n_r = -(-world.size("forget") // 10), -(-world.size("retain") // BATCH)
    total = method.total_steps(world)
    places = [method.place(world, step) for step in range(total)]
    kinds = [kind for kind, _ in places]
    both = ["forget"] * n_f + ["retain"] * n_r
    assert kinds == both + both + ["retain"] * n_r
    for kind in ("forget", "retain"):
        indices = [index for k, index in places if k == kind]
        assert indices == list(range(len(indices)))


def test_scrub_ascends_away_from_the_teacher() -> None:
    world = task()
    method = scrub.Method(scrub.Settings())
    method.prepare(world)
    batch = world.batch("retain", 0)
    distance, logits = method._distance(world, batch)
    teacher = original().model.eval()(batch.images).div(4).softmax(1)
    student = logits.div(4).softmax(1)
    expected = 16 * (teacher * (teacher / student).log()).sum(1).mean()
    torch.testing.assert_close(distance, expected, rtol=1e-3, atol=1e-5)


def test_ssd_dampens_by_the_formula() -> None:
    weight = torch.tensor([1.0, 1.0, 1.0, -2.0])
    forget = torch.tensor([10.0, 30.0, 0.0, 40.0])
    everything = torch.tensor([1.0, 1.0, 1.0, 2.0])
    ssd.dampen(weight, forget, everything, ssd.Settings(selection=10.0, dampening=1.5))
    torch.testing.assert_close(weight, torch.tensor([1.0, 1.5 / 30, 1.0, -2.0 * 3 / 40]))


def test_ssd_never_enlarges_a_weight() -> None:
    weight = torch.ones(1)
    ssd.dampen(
        weight, torch.tensor([12.0]), torch.ones(1), ssd.Settings(selection=10.0, dampening=50.0)
    )
    assert weight.tolist() == [1.0]


def test_dualoptim_is_sgd_on_one_gradient_and_adam_on_the_other() -> None:
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    retain = [torch.randn(5, generator=torch.Generator().manual_seed(k)) for k in range(1, 5)]
    a, b, c = (torch.nn.Parameter(start.clone()) for _ in range(3))
    dual_r = DualOptim([a], lr=0.1, forget_lr=0.01, momentum=0.9, weight_decay=0.1)
    sgd = torch.optim.SGD([b], lr=0.1, momentum=0.9, weight_decay=0.1)
    for g in retain:
        a.grad, b.grad = g.clone(), g.clone()
        dual_r.step()
        sgd.step()
    torch.testing.assert_close(a, b)
    d = torch.nn.Parameter(start.clone())
    dual_f = DualOptim([d], lr=0.1, forget_lr=0.01)
    adam = torch.optim.Adam([c], lr=0.01)
    for g in retain:
        c.grad = g.clone()
        dual_f.forget_gradients = [g.clone()]
        dual_f.step()
        adam.step()
    torch.testing.assert_close(c, d)


def test_dual_optim_is_refused_for_one_loss() -> None:
    with pytest.raises(InputError, match="one loss"):
        run_method(original(), forget_class(), config("ft", dual_optim=True))


def test_both_of_lurs_losses_are_fixed_and_only_retain_moves_statistics() -> None:
    world = task()
    losses = world.losses(0)
    assert isinstance(losses.retain[0], FixedLoss)
    buffers = {n: b.clone() for n, b in world.model.named_buffers()}
    first = losses.forget[0]()
    assert torch.equal(first, losses.forget[0]())
    assert all(torch.equal(b, buffers[n]) for n, b in world.model.named_buffers())
    assert torch.equal(losses.retain[0](), losses.retain[0]())
    assert any(not torch.equal(b, buffers[n]) for n, b in world.model.named_buffers())
