"""The meta gradient against double backward in float64 (`tests.meta_problems.truth`)."""

import math
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from erase.core.meta import Mode, NonFiniteLossError, Stats, meta_gradient
from erase.core.params import FixedLoss, select_parameters, snapshot
from erase.errors import InputError
from tests.meta_problems import error, flat, problem, truth

MODES: tuple[Mode, ...] = ("hvp", "exact", "first-order", "joint")
NETS = ("mlp", "conv", "unet")
ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", NETS)
def test_agrees_with_double_backward(kind: str, seed: int) -> None:
    # The denoiser takes seconds an alpha: its seeds share the alphas out.
    shared = ((1e-4, 1e-1), (1e-3,), (1e-2,))[seed]
    for alpha in shared if kind == "unet" else ALPHAS:
        case = problem(kind, seed)
        expected, correction = truth(case, alpha, weight=0.7)
        options = {"alpha": alpha, "forget_weight": 0.7}
        exact = case.gradient(mode="exact", **options)
        assert error(exact, expected) < 1e-9
        first_order = case.gradient(mode="first-order", **options)
        assert error(first_order, expected - correction) < 1e-9
        hvp = case.gradient(mode="hvp", **options)
        assert error(hvp, expected) < (1e-3 if alpha == 0.1 else 1e-4)
        # The whole gradient hides the correction, so that is judged by itself: measured 2e-7.
        assert error(hvp - first_order, correction) < 1e-5
        case.to(torch.float32)
        single = case.gradient(mode="hvp", **options)
        if alpha <= 0.01:
            assert error(single, expected) < 1e-2
        if alpha >= 0.01:
            # Below, the correction is lost among the roundings of the gradient itself.
            plain = case.gradient(mode="first-order", **options)
            assert error(single - plain, correction) < 0.03


def test_the_correction_matters() -> None:
    """Otherwise the bounds above would pass a mode that leaves it out."""
    expected, correction = truth(problem("unet", 0), 0.1)
    assert float(correction.norm() / expected.norm()) > 0.05


def test_both_branches_of_hvp_are_reached() -> None:
    case = problem("mlp", 0).to(torch.float32)
    for alpha, shift in ((1e-6, True), (1e-1, False)):
        stats = meta_gradient(case.params, *case.losses(), alpha=alpha)
        assert stats.rho is not None
        assert (stats.rho < 1e-5) == shift


def test_relu_is_why_exact_is_there() -> None:
    """Finite differences see ReLU's kinks, autograd's Hessian does not; on SiLU they agree."""
    errors: dict[type[nn.Module], list[float]] = {nn.ReLU: [], nn.SiLU: []}
    for activation, found in errors.items():
        for seed in range(8):
            case = problem("mlp", seed, activation, n=512)
            expected, correction = truth(case, 0.01)
            assert error(case.gradient(alpha=0.01, mode="exact"), expected) < 1e-9
            case.to(torch.float32)
            hvp = case.gradient(alpha=0.01)
            plain = case.gradient(alpha=0.01, mode="first-order")
            found.append(error(hvp - plain, correction))
    # A step that happens to cross no kink is right; the first that crosses one is wholly wrong.
    assert max(errors[nn.SiLU]) < 0.03
    assert sum(e > 0.3 for e in errors[nn.ReLU]) >= 2


def test_check_curvature_warns_on_relu_only() -> None:
    case = problem("conv", 1).to(torch.float32)
    stats = meta_gradient(case.params, *case.losses(), alpha=0.1, check_curvature=True)
    assert stats.curvature_error is not None
    assert stats.curvature_error < 0.03
    checked = flat(case.params)
    meta_gradient(case.params, *case.losses(), alpha=0.1)
    assert torch.equal(flat(case.params), checked)
    case = problem("mlp", 0, nn.ReLU, n=512).to(torch.float32)
    with pytest.warns(RuntimeWarning, match="finite-difference correction"):
        meta_gradient(case.params, *case.losses(), alpha=0.1, check_curvature=True)


def test_bf16_rule_takes_central_differences() -> None:
    case = problem("unet", 0)
    expected, correction = truth(case, 0.1)
    calls = 0
    retain, forget = case.losses()

    def counted() -> Tensor:
        nonlocal calls
        calls += 1
        return retain()

    meta_gradient(case.params, counted, forget, alpha=0.1, precision="bf16")
    assert calls == 3
    # Without autocast only the truncation of the long step c = 3e-4 is left. Of second order it is
    # 1e-3 here (1.3e-4 at a third of c); one-sided it would be about 100 c = 3e-2.
    assert error(flat(case.params) - (expected - correction), correction) < 3e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", NETS)
def test_leaves_no_trace_but_the_gradient(kind: str, mode: Mode) -> None:
    case = problem(kind, 0).to(torch.float32)
    reference = problem(kind, 0).to(torch.float32)
    for loss in reference.losses():
        loss()
    before = snapshot(case.params)
    fresh = case.gradient(alpha=0.05, mode=mode)
    assert all(torch.equal(p, b) for p, b in zip(case.params, before, strict=True))
    # The statistics followed each loss exactly once.
    for name, buffer in case.net.named_buffers():
        once = reference.net.get_buffer(name)
        assert torch.allclose(buffer, once, rtol=1e-2, atol=1e-3)
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == 2
    for p in case.params:
        p.grad = torch.full_like(p, 1e3)
    assert torch.equal(case.gradient(alpha=0.05, mode=mode), fresh)
    assert error(case.gradient(alpha=0.05, mode=mode, diagnose=False), fresh) < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_dropout_draws_the_same_mask_in_every_phase(mode: Mode) -> None:
    net, masks = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)), []
    net[1].register_forward_hook(lambda _m, _i, out: masks.append(out.detach() == 0))
    x = torch.randn(20, 6)
    retain = FixedLoss(net, lambda: net(x).square().sum(), 0)
    forget = FixedLoss(net, lambda: net(x).exp().sum(), 1)
    meta_gradient(list(net.parameters()), retain, forget, alpha=1e-2, mode=mode)
    assert len(masks) == {"hvp": 3}.get(mode, 2)
    first, other, *again = masks
    assert not torch.equal(first, other)
    retain()  # once more, so that there is one to compare in every mode
    assert all(torch.equal(mask, first) for mask in (*again, masks[-1]))


@pytest.mark.parametrize("diagnose", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_micro_batches_equal_the_whole_batch(mode: Mode, diagnose: bool) -> None:
    for kind in ("mlp", "unet"):
        case = problem(kind, 0).to(torch.float64).without_dropout()
        options = {"alpha": 0.1, "mode": mode, "diagnose": diagnose}
        whole = case.gradient(**options)
        n = len(case.batches[0][0])
        shards = [case.losses(slice(i, i + n // 4)) for i in range(0, n, n // 4)]
        retain, forget = [s[0] for s in shards], [s[1] for s in shards]
        stats = meta_gradient(case.params, retain, forget, **options)  # type: ignore[arg-type]
        # hvp divides the roundings (1e-16) by its step: the two differ by that, not by the phases.
        assert error(flat(case.params), whole) < (2e-8 if mode == "hvp" else 1e-12)
        assert math.isclose(stats.retain_loss, float(case.losses()[0]().detach()), rel_tol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_equal_one_on_the_joint_batch(mode: Mode) -> None:
    """Two threads stand for two processes; `reduce` makes them meet and average."""
    joint = problem("mlp", 0).to(torch.float64)
    options = {"alpha": 0.1, "mode": mode}
    expected = joint.gradient(**options)
    barrier, slots = threading.Barrier(2, timeout=20), [torch.zeros(())] * 2
    results: dict[int, tuple[Tensor, Stats]] = {}

    def work(rank: int) -> None:
        def mean(tensor: Tensor) -> Tensor:
            slots[rank] = tensor.clone()
            barrier.wait()
            average = (slots[0] + slots[1]) / 2
            barrier.wait()
            return average

        stats = meta_gradient(cases[rank].params, *losses[rank], reduce=mean, **options)  # type: ignore[arg-type]
        results[rank] = flat(cases[rank].params), stats

    cases = [problem("mlp", 0).to(torch.float64) for _ in range(2)]
    losses = [case.losses(slice(8 * i, 8 * i + 8)) for i, case in enumerate(cases)]
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert error(results[0][0], expected) < (2e-8 if mode == "hvp" else 1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_at_alpha_zero_every_mode_is_joint(mode: Mode) -> None:
    case = problem("conv", 0).to(torch.float32)
    joint = case.gradient(alpha=0.3, mode="joint", forget_weight=0.5)
    assert torch.equal(case.gradient(alpha=0, mode=mode, forget_weight=0.5), joint)


@pytest.mark.parametrize("mode", MODES)
def test_at_weight_zero_only_the_retain_gradient_is_left(mode: Mode) -> None:
    case = problem("mlp", 0).to(torch.float32)
    retain, forget = case.losses()
    expected = torch.autograd.grad(retain(), case.params)
    meta_gradient(case.params, retain, forget, alpha=0.1, forget_weight=0.0, mode=mode)
    assert torch.equal(flat(case.params), torch.cat([g.double().flatten() for g in expected]))


@pytest.mark.parametrize("mode", ["hvp", "exact"])
def test_a_step_along_it_lowers_the_meta_objective_as_predicted(mode: Mode) -> None:
    case = problem("unet", 1).to(torch.float64)
    retain, forget = case.losses()
    alpha, rate = 0.1, 1e-5

    def objective() -> float:
        start = snapshot(case.params)
        value = retain()
        inner = torch.autograd.grad(value, case.params)
        with torch.no_grad():
            for p, g in zip(case.params, inner, strict=True):
                p.sub_(alpha * g)
            total = float(value + forget())
            for p, s in zip(case.params, start, strict=True):
                p.copy_(s)
        return total

    stats = meta_gradient(case.params, retain, forget, alpha=alpha, mode=mode)
    before = objective()
    with torch.no_grad():
        for p in case.params:
            assert p.grad is not None
            p.sub_(rate * p.grad)
    assert before - objective() == pytest.approx(rate * stats.grad_norm**2, rel=1e-2)


def test_stats_say_what_was_seen() -> None:
    case = problem("mlp", 0).to(torch.float64)
    retain, forget = case.losses()
    a = torch.cat([g.flatten() for g in torch.autograd.grad(retain(), case.params)])
    theta = torch.cat([p.detach().flatten() for p in case.params])
    b = torch.cat([g.flatten() for g in torch.autograd.grad(forget(), case.params)])
    stats = meta_gradient(case.params, retain, forget, alpha=0.1, mode="joint")
    assert stats.cosine == pytest.approx(float(a @ b / a.norm() / b.norm()), rel=1e-12)
    assert (stats.retain_grad_norm, stats.forget_grad_norm) == pytest.approx(
        (float(a.norm()), float(b.norm()))
    )
    assert stats.forget_loss == float(forget().detach())
    assert stats.grad_norm == pytest.approx(float((a + b).norm()))
    stats = meta_gradient(case.params, retain, forget, alpha=0.1, forget_weight=2.0)
    assert stats.rho == pytest.approx(0.2 * (stats.forget_grad_norm or 0) / float(theta.norm()))
    quiet = meta_gradient(case.params, retain, forget, alpha=0.1, diagnose=False)
    assert quiet.cosine is None
    assert quiet.grad_norm == pytest.approx(
        meta_gradient(case.params, retain, forget, alpha=0.1).grad_norm
    )


@pytest.mark.parametrize("mode", MODES)
def test_parameters_that_a_loss_does_not_use_have_gradient_zero(mode: Mode) -> None:
    a, b, unused = (nn.Parameter(torch.rand(3, dtype=torch.float64) + 0.5) for _ in range(3))
    params = [a, b, unused]
    stats = meta_gradient(
        params, lambda: a.pow(3).sum(), lambda: b.pow(2).sum(), alpha=0.1, mode=mode
    )
    assert torch.allclose(a.grad, 3 * a.detach() ** 2)  # type: ignore[arg-type]
    assert torch.allclose(b.grad, 2 * b.detach())  # type: ignore[arg-type]
    assert unused.grad is not None
    assert not unused.grad.any()
    assert stats.cosine == 0.0


@pytest.mark.parametrize("mode", MODES)
def test_vanishing_gradients_and_zero_parameters_give_no_nan(mode: Mode) -> None:
    p = nn.Parameter(torch.zeros(3))
    stats = meta_gradient(
        [p], lambda: p.square().sum(), lambda: (p * 0).sum(), alpha=0.1, mode=mode
    )
    assert torch.equal(p.grad, torch.zeros(3))  # type: ignore[arg-type]
    assert stats.cosine == 0.0
    assert not stats.rho


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_an_error_in_a_closure_restores_the_parameters(mode: Mode, fail_at: int) -> None:
    case = problem("mlp", 0).to(torch.float32)
    before, calls = snapshot(case.params), 0

    def guarded(loss: FixedLoss) -> Callable[[], Tensor]:
        def run() -> Tensor:
            nonlocal calls
            calls += 1
            if calls > fail_at:
                raise KeyboardInterrupt
            return loss()

        return run

    retain, forget = map(guarded, case.losses())
    if fail_at == 2 and mode != "hvp":
        return  # the others evaluate twice only
    with pytest.raises(KeyboardInterrupt):
        meta_gradient(case.params, retain, forget, alpha=0.1, mode=mode)
    assert all(torch.equal(p, b) for p, b in zip(case.params, before, strict=True))
    assert all(p.grad is None for p in case.params)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["retain", "forget"])
def test_a_loss_that_is_not_finite_stops(mode: Mode, bad: float, which: str) -> None:
    case = problem("mlp", 0).to(torch.float32)
    before, (retain, forget) = snapshot(case.params), case.losses()
    broken = (lambda: retain() * bad) if which == "retain" else (lambda: forget() * bad)
    pair = (broken, forget) if which == "retain" else (retain, broken)
    with pytest.raises(NonFiniteLossError, match=f"{which} loss is") as caught:
        meta_gradient(case.params, *pair, alpha=0.1, mode=mode)
    assert caught.value.exit_code == 1
    assert caught.value.remedy
    assert all(torch.equal(p, b) for p, b in zip(case.params, before, strict=True))
    assert all(p.grad is None for p in case.params)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("diagnose", [True, False])
def test_a_gradient_that_is_not_finite_stops(mode: Mode, diagnose: bool) -> None:
    p = nn.Parameter(torch.zeros(2))
    with pytest.raises(NonFiniteLossError, match="gradient"):
        meta_gradient(
            [p],
            lambda: p.square().sum(),
            lambda: p.sqrt().sum(),
            alpha=0.1,
            mode=mode,
            diagnose=diagnose,
        )


P = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    ("params", "options", "says"),
    [
        ([], {}, "no parameters"),
        ([P, P], {}, "twice"),
        ([torch.ones(2)], {}, "does not require a gradient"),
        ([P * 1], {}, "not a leaf"),
        ([nn.Parameter(torch.ones(2).bfloat16())], {}, "bfloat16"),
        ([P], {"alpha": -0.1}, "alpha is -0.1"),
        ([P], {"alpha": math.nan}, "alpha is nan"),
        ([P], {"alpha": math.inf}, "alpha is inf"),
        ([P], {"forget_weight": -1.0}, "forget_weight is -1.0"),
        ([P], {"mode": "second"}, "unknown mode 'second'"),
        ([P], {"precision": "fp8"}, "unknown precision 'fp8'"),
        ([P], {"retain_loss": []}, "retain_loss has no micro-batch"),
        ([P], {"forget_loss": ()}, "forget_loss has no micro-batch"),
        ([P], {"retain_loss": lambda: P.square()}, "retain loss has shape"),
        ([P], {"forget_loss": lambda: P.detach().sum()}, "forget loss has no gradient"),
    ],
)
def test_bad_input_is_refused(params: list[Tensor], options: dict[str, object], says: str) -> None:
    given = {"alpha": 0.1, "retain_loss": lambda: P.sum(), "forget_loss": lambda: P.sum()}
    with pytest.raises(InputError, match=says) as caught:
        meta_gradient(params, **(given | options))  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    assert torch.equal(P, torch.ones(2))


def test_a_selection_leaves_the_frozen_rest_alone() -> None:
    case = problem("unet", 0).to(torch.float32)
    chosen = select_parameters(case.net, "xattn")
    meta_gradient(chosen, *case.losses(), alpha=0.1)
    for name, p in case.net.named_parameters():
        assert (p.grad is not None) == (name in chosen)
