"""LUR's look-ahead that sets itself: on quadratics with a known Hessian, and in real steps."""

import math
from typing import Any

import pytest
import torch

from erase.config.methods import find_method
from erase.core.lookahead import AUTO, LookAhead
from erase.core.meta import Stats, meta_gradient
from erase.errors import InputError
from erase.methods import lur
from tests.classifier_world import task
from tests.denoiser_world import in_float64, method
from tests.meta_problems import error, problem
from tests.test_denoiser_contracts import in_two_processes


def quadratic(scale: float = 1.0) -> tuple[Any, Any, Any, torch.Tensor, torch.Tensor]:
    """Parameters, L_r = s/2 θᵀHθ, L_f = bᵀθ (so v = b whatever the look-ahead), H and b."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn((6, 6), generator=random, dtype=torch.float64)
    hessian = root @ root.T
    b = torch.randn(6, generator=random, dtype=torch.float64)
    theta = torch.nn.Parameter(torch.randn(6, generator=random, dtype=torch.float64))
    return (
        [theta],
        lambda: 0.5 * scale * theta @ hessian @ theta,
        lambda: b @ theta,
        scale * hessian,
        b,
    )


@pytest.mark.parametrize("mode", ["hvp", "exact"])
@pytest.mark.parametrize("alpha", [0.0, 1e-12, 0.05])
def test_alpha_is_the_analytic_one_on_a_quadratic(mode: Any, alpha: float) -> None:
    params, retain, forget, hessian, b = quadratic()
    stats = meta_gradient(params, retain, forget, alpha=alpha, mode=mode, measure_curvature=True)
    product = hessian @ b
    assert stats.curvature == pytest.approx(float(b @ product), rel=1e-4)
    assert stats.curvature_size == pytest.approx(float(product.norm() / b.norm()), rel=1e-4)
    expected = float(b @ product) / float(product @ product)
    assert stats.damping_alpha == pytest.approx(expected, rel=1e-4)
    # Nothing else changes: g = ∇L_r + b − α H b.
    wanted = hessian @ params[0].detach() + b - alpha * product
    torch.testing.assert_close(params[0].grad, wanted, rtol=1e-4, atol=1e-6)


def test_no_alpha_damps_more_than_the_analytic_one() -> None:
    *_, hessian, b = quadratic()
    product = hessian @ b
    best = float(b @ product) / float(product @ product)
    left = [float((b - a * product).norm()) for a in (best, 0.5 * best, 1.5 * best, 0.0)]
    assert left[0] == min(left)


@pytest.mark.parametrize("mode", ["hvp", "exact"])
def test_scaling_the_retain_loss_scales_alpha_the_other_way(mode: Any) -> None:
    found = []
    for scale in (1.0, 7.0):
        params, retain, forget, *_ = quadratic(scale)
        stats = meta_gradient(params, retain, forget, alpha=0.0, mode=mode, measure_curvature=True)
        found.append(stats.damping_alpha or 0.0)
    assert found[0] / found[1] == pytest.approx(7.0, rel=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "conv", "unet"])
@pytest.mark.parametrize("mode", ["hvp", "exact"])
def test_measuring_leaves_the_gradient_as_it_is(kind: str, mode: Any) -> None:
    plain = problem(kind, 0).gradient(alpha=0.05, mode=mode)
    measured = problem(kind, 0).gradient(alpha=0.05, mode=mode, measure_curvature=True)
    assert error(measured, plain) < (1e-6 if mode == "exact" else 5e-4)  # of float32


def test_measuring_takes_no_further_evaluation() -> None:
    for mode, retains in (("hvp", 2), ("exact", 1)):
        case = problem("mlp", 0)
        calls = {"retain": 0, "forget": 0}
        retain, forget = case.losses()

        def counted(name: str, loss: Any, calls: dict[str, int] = calls) -> Any:
            def call() -> torch.Tensor:
                calls[name] += 1
                return loss()  # type: ignore[no-any-return]

            return call

        meta_gradient(
            case.params,
            counted("retain", retain),
            counted("forget", forget),
            alpha=0.05,
            mode=mode,  # type: ignore[arg-type]
            measure_curvature=True,
        )
        assert calls == {"retain": retains, "forget": 1}


def seen(curvature: float, size: float = 1.0) -> Stats:
    return Stats(0.0, 0.0, 1.0, forget_grad_norm=1.0, curvature=curvature, curvature_size=size)


def test_the_average_is_geometric_and_downward_curvature_looks_ahead_by_nothing() -> None:
    look = LookAhead()
    assert look.alpha == 0.0
    look.see(seen(0.5))
    assert look.alpha == pytest.approx(0.5)
    look.see(seen(0.02))
    assert look.alpha == pytest.approx(math.exp(0.8 * math.log(0.5) + 0.2 * math.log(0.02)))
    before = look.alpha
    look.see(seen(-1.0))
    assert look.alpha == 0.0
    again = LookAhead.of(look.state())
    assert again.alpha == 0.0
    for one in (look, again):
        one.see(seen(before))
    assert look.alpha == again.alpha == pytest.approx(before)
    look.see(Stats(0.0, 0.0, 1.0))  # a step without a product
    assert look.alpha == again.alpha


def test_auto_is_refused_where_no_product_is_made() -> None:
    with pytest.raises(InputError, match="makes no curvature product"):
        lur.Method(lur.Settings(alpha=AUTO, meta_mode="first-order"))
    params, retain, forget, *_ = quadratic()
    with pytest.raises(InputError, match="makes no curvature product"):
        meta_gradient(params, retain, forget, alpha=0.1, mode="first-order", measure_curvature=True)


def test_alpha_is_a_number_or_the_word() -> None:
    spec = find_method("lur", "classifier")
    assert spec.typed({"alpha": "auto"}) == {"alpha": "auto"}
    assert spec.typed({"alpha": "0.1"}) == {"alpha": 0.1}
    for wrong in ("automatic", "-1", "nan"):
        with pytest.raises(InputError, match="alpha is"):
            spec.typed({"alpha": wrong})


@pytest.mark.parametrize("family", ["text-to-image", "class-conditional"])
def test_micro_batches_and_processes_set_the_same_alpha(family: str) -> None:
    from erase.runs.processes import Shard

    def prepared(shard: Shard) -> tuple[Any, Any]:
        return in_float64(family, shard), method(family, "lur", alpha=AUTO)

    def alphas(world: Any, made: Any, reduce: Any = None) -> list[float]:
        return [made.step(world, step, reduce).alpha for step in range(3)]

    joint = alphas(*prepared(Shard(batch_size=4)))
    assert joint[0] == 0.0
    assert joint[2] > 0
    cut = alphas(*prepared(Shard(batch_size=2, micro_batches=2)))
    pairs = [prepared(Shard(2, 1, k, 2)) for k in range(2)]
    both = in_two_processes(lambda k, reduce: alphas(*pairs[k], reduce))
    for other in (cut, *both):
        assert other == pytest.approx(joint, rel=1e-5)


def test_a_rate_at_which_a_fixed_alpha_breaks_stays_finite() -> None:
    """α = 0.1 lies beyond 2 / λ_max = 0.02: it grows the forget gradient nine-fold and turns it."""
    hessian = torch.diag(torch.tensor([100.0, 80.0], dtype=torch.float64))
    reached = {}
    for alpha in (0.1, None):
        theta = torch.nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
        look = LookAhead()
        for _ in range(300):
            stats = meta_gradient(
                [theta],
                lambda theta=theta: 0.5 * theta @ hessian @ theta,  # type: ignore[misc]
                lambda theta=theta: -(theta @ theta),  # type: ignore[misc]
                alpha=look.alpha if alpha is None else alpha,
                mode="exact",
                measure_curvature=True,
            )
            look.see(stats)
            with torch.no_grad():
                theta.sub_(theta.grad, alpha=0.005)  # type: ignore[arg-type]
        reached[alpha] = float(theta.detach().norm())
    assert reached[0.1] > 1e6 or not math.isfinite(reached[0.1])
    assert reached[None] < 1.0


def test_a_classifier_logs_its_alpha() -> None:
    world = task()
    made = lur.Method(lur.Settings(alpha=AUTO))
    made.prepare(world)
    stats = [made.step(world, step, None) for step in range(3)]
    assert stats[0].alpha == 0.0
    assert all(s.curvature is not None for s in stats)
