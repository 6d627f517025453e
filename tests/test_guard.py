"""The guarded gradient against double backward through the attacker's steps, in float64."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from erase.core.attacker import Attacker
from erase.core.guard import GuardMode, guarded_gradient
from erase.core.meta import meta_gradient
from erase.core.params import restore, snapshot
from erase.core.phases import NonFiniteLossError
from erase.errors import InputError
from tests.meta_problems import Problem, error, flat, problem, truth_of

WEIGHT = 0.7
ATTACKS = ((1, 5), (0, 6), (1, 7))
"""Batch and dropout seed of each of the attacker's steps."""


def guarded(case: Problem, steps: int, *, mode: GuardMode = "hvp", **options: Any) -> Tensor:
    guarded_gradient(
        case.params,
        *case.losses(),
        [case.closure(*attack) for attack in ATTACKS[:steps]],
        forget_weight=WEIGHT,
        mode=mode,
        **options,
    )
    return flat(case.params)


@pytest.mark.parametrize(
    ("kind", "steps", "alpha"),
    [("mlp", 1, 0.0), ("mlp", 3, 0.05), ("conv", 1, 0.05), ("conv", 2, 0.0), ("unet", 2, 0.05)],
)
def test_agrees_with_double_backward(kind: str, steps: int, alpha: float) -> None:
    case = problem(kind, 0)
    moves = [(0, 0, alpha)] if alpha else []
    moves += [(*attack, 0.1) for attack in ATTACKS[:steps]]
    expected, correction = truth_of(case, moves, WEIGHT)
    assert float(correction.norm() / expected.norm()) > 0.01
    options: dict[str, Any] = {"alpha": alpha, "beta": 0.1}
    assert error(guarded(case, steps, mode="exact", **options), expected) < 1e-9
    plain = guarded(case, steps, mode="first-order", **options)
    assert error(plain, expected - correction) < 1e-9
    assert error(guarded(case, steps, **options) - plain, correction) < 1e-4
    case.to(torch.float32)
    single = guarded(case, steps, **options)
    plain = guarded(case, steps, mode="first-order", **options)
    assert error(single - plain, correction) < 0.05


def test_without_an_attacker_it_is_lur() -> None:
    case = problem("unet", 0).to(torch.float64)
    lur = case.gradient(alpha=0.05, forget_weight=WEIGHT, mode="exact")
    assert error(guarded(case, 0, mode="exact", alpha=0.05, beta=0.1), lur) < 1e-12
    assert error(guarded(case, 2, mode="exact", alpha=0.05, beta=0.0), lur) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_one_attacker_step_costs_one_gradient_more_than_lur(alpha: float) -> None:
    case = problem("mlp", 0).to(torch.float32)
    calls: list[str] = []

    def counted(name: str, batch: int, seed: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            calls.append(name)
            return case.closure(batch, seed)()

        return loss

    retain, forget = counted("retain", 0, 0), counted("forget", 1, 1)
    meta_gradient(case.params, retain, forget, alpha=0.05)
    lur = len(calls)
    calls.clear()
    relearn = counted("relearn", 1, 5)
    guarded_gradient(case.params, retain, forget, [relearn], beta=0.1, alpha=alpha)
    assert len(calls) == lur + (1 if alpha == 0 else 2)
    assert calls.count("relearn") == 2


def test_bf16_rule_takes_central_differences() -> None:
    case = problem("unet", 0)
    expected, correction = truth_of(case, [(1, 5, 0.1)], WEIGHT)
    value = guarded(case, 1, beta=0.1, precision="bf16")
    assert error(value - (expected - correction), correction) < 1e-2


def test_processes_agree_with_one_on_everything() -> None:
    """Two shards, averaged after each phase, are the whole batch."""
    whole = problem("mlp", 0).to(torch.float64)
    expected = guarded(whole, 2, alpha=0.05, beta=0.1)
    case = problem("mlp", 0).to(torch.float64)
    halves = slice(0, 8), slice(8, 16)
    parts = [[case.closure(b, s, half) for half in halves] for b, s in ((0, 0), (1, 1), *ATTACKS)]
    guarded_gradient(
        case.params, parts[0], parts[1], parts[2:4], alpha=0.05, beta=0.1, forget_weight=WEIGHT
    )
    assert error(flat(case.params), expected) < 1e-7


@pytest.mark.parametrize("mode", ["hvp", "exact", "first-order"])
def test_leaves_no_trace_but_the_gradient(mode: GuardMode) -> None:
    case = problem("conv", 0).to(torch.float32)
    before = snapshot(case.params)
    first = guarded(case, 2, mode=mode, alpha=0.05, beta=0.1)
    assert all(torch.equal(p, b) for p, b in zip(case.params, before, strict=True))
    assert torch.equal(guarded(case, 2, mode=mode, alpha=0.05, beta=0.1), first)
    with pytest.raises(NonFiniteLossError, match="relearn loss"):
        guarded_gradient(
            case.params, *case.losses(), [lambda: case.params[0].sum() * math.nan], beta=0.1
        )
    assert all(p.grad is None for p in case.params)
    assert all(torch.equal(p, b) for p, b in zip(case.params, before, strict=True))


def test_refuses_what_it_cannot_use() -> None:
    case = problem("mlp", 0)
    for options in ({"beta": -1.0}, {"beta": 0.1, "mode": "joint"}, {"beta": 0.1, "alpha": -1.0}):
        with pytest.raises(InputError):
            guarded_gradient(case.params, *case.losses(), [], **options)  # type: ignore[arg-type]


def add(case: Problem, way: Sequence[Tensor], length: float = 1.0) -> None:
    with torch.no_grad():
        for p, part in zip(case.params, way, strict=True):
            p.add_(part, alpha=length)


def gradient(case: Problem, batch: int, seed: int) -> list[Tensor]:
    return list(torch.autograd.grad(case.closure(batch, seed)(), case.params))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_attacker_goes_on_from_step_to_step(optimizer: str) -> None:
    """His way is that of torch's own optimizer, on weights that training moves underneath."""
    case = problem("mlp", 0).to(torch.float64)
    rate = {"adam": 0.01, "sgd": 0.1}[optimizer]
    attacker = Attacker(restart=3, adaptive=optimizer == "adam")
    theirs = [torch.zeros_like(p).requires_grad_() for p in case.params]
    chosen = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](theirs, lr=rate)
    for step in range(3):
        attacker.begin(step, case.params)
        theta = snapshot(case.params)
        found = guarded(case, 1, mode="first-order", beta=rate, attacker=attacker)
        assert all(torch.equal(p, before) for p, before in zip(case.params, theta, strict=True))
        retain = gradient(case, 0, 0)
        add(case, theirs)
        for way, slope in zip(theirs, gradient(case, *ATTACKS[0]), strict=True):
            way.grad = slope
        chosen.step()
        torch.testing.assert_close(attacker.displacement, [way.detach() for way in theirs])
        restore(case.params, theta)
        add(case, theirs)
        forget = gradient(case, 1, 1)
        restore(case.params, theta)
        pairs = zip(retain, forget, strict=True)
        torch.testing.assert_close(found, torch.cat([(r + WEIGHT * f).flatten() for r, f in pairs]))
        add(case, [p.grad for p in case.params if p.grad is not None], -0.05)
    attacker.begin(3, case.params)
    assert all(not way.any() for way in attacker.displacement)


def test_a_step_is_differentiated_through_from_where_the_attacker_is() -> None:
    case = problem("mlp", 0).to(torch.float64)
    attacker = Attacker(restart=9, adaptive=False)
    for step in range(2):
        attacker.begin(step, case.params)
        theta, way = snapshot(case.params), [d.clone() for d in attacker.displacement]
        found = guarded(case, 1, mode="exact", beta=0.1, attacker=attacker)
        retain = torch.cat([g.flatten() for g in gradient(case, 0, 0)])
        add(case, way)
        there, _ = truth_of(case, [(*ATTACKS[0], 0.1)], WEIGHT)
        there -= torch.cat([g.flatten() for g in gradient(case, 0, 0)])
        restore(case.params, theta)
        assert error(found, retain + there) < 1e-9


def test_an_attacker_resumes_where_he_was() -> None:
    cases = [problem("mlp", 0).to(torch.float32) for _ in range(2)]
    attackers = [Attacker(restart=9, adaptive=True) for _ in range(2)]
    assert attackers[0].state() == {}
    for step in range(4):
        if step == 2:
            attackers[1] = Attacker(restart=9, adaptive=True)
            attackers[1].load_state({n: t.clone() for n, t in attackers[0].state().items()})
        found = []
        for case, attacker in zip(cases, attackers, strict=True):
            attacker.begin(step, case.params)
            found.append(guarded(case, 1, beta=0.01, attacker=attacker))
        assert torch.equal(*found)
