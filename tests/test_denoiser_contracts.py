"""Contracts of every denoiser method on every family: a new file is tested by existing."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from erase.config.methods import build_method, defined_for, find_method
from erase.core.params import select_parameters
from erase.runs.processes import Shard
from erase.training.loop import UnlearningLoop, build_optimizer
from tests.denoiser_world import FAMILIES, config, in_float64, method, train, weights

CASES = [(family, name) for family in FAMILIES for name in defined_for(family)]
STEPPING = [case for case in CASES if not find_method(case[1], case[0]).method.closed_form]
cases = pytest.mark.parametrize(("family", "name"), CASES)
stepping = pytest.mark.parametrize(("family", "name"), STEPPING)
# What does not depend on the family: each method once.
ONCE = {name: family for family, name in reversed(STEPPING)}
once = pytest.mark.parametrize(("family", "name"), [(f, n) for n, f in sorted(ONCE.items())])


@stepping
def test_the_loss_that_is_to_go_down_goes_down(family: str, name: str) -> None:
    task, made = FAMILIES[family](), method(family, name)
    made.prepare(task)
    optimizer = torch.optim.AdamW(list(task.parameters.values()), lr=3e-3)
    first = made.step(task, 0, None)
    for _ in range(6):
        optimizer.step()
        made.after_step(task)
        last = made.step(task, 0, None)
    which = "retain_loss" if name == "retrain" else "forget_loss"
    assert getattr(last, which) < getattr(first, which)


@cases
def test_the_same_seed_gives_the_same_weights_and_frozen_ones_stay(family: str, name: str) -> None:
    found = []
    for _ in range(2):
        task = FAMILIES[family]()
        before = weights(task)
        task.parameters = select_parameters(task.model, r"attn|attentions")
        train(task, method(family, name), 3)
        found.append(weights(task))
    assert all(torch.equal(found[0][key], found[1][key]) for key in before)
    moved = {key for key in before if not torch.equal(before[key], found[0][key])}
    assert moved
    if name == "retrain":  # it gives all weights fresh values, whatever is trained then
        assert not moved <= set(task.parameters)
    else:
        assert moved <= set(task.parameters)


@stepping
def test_micro_batches_and_processes_equal_the_joint_batch(family: str, name: str) -> None:
    def prepared(shard: Shard) -> tuple[Any, Any]:
        task, made = in_float64(family, shard), method(family, name)
        made.prepare(task)
        return task, made

    def gradients(task: Any, made: Any, reduce: Any = None) -> list[torch.Tensor]:
        made.step(task, 1, reduce)
        return [p.grad for p in task.parameters.values()]

    joint = gradients(*prepared(Shard(batch_size=4)))
    cut = gradients(*prepared(Shard(batch_size=2, micro_batches=2)))
    # Threads share torch's random state, which processes do not: so nothing is drawn in them.
    pairs = [prepared(Shard(2, 1, k, 2)) for k in range(2)]
    both = in_two_processes(lambda k, reduce: gradients(*pairs[k], reduce))
    # Finite differences blow the last bits up.
    exact: dict[str, Any] = (
        {"rtol": 1e-5, "atol": 1e-8} if name == "lur" else {"rtol": 1e-7, "atol": 1e-12}
    )
    assert any(float(g.abs().max()) > 0 for g in joint)
    for one, *others in zip(joint, cut, *both, strict=True):
        for other in others:
            torch.testing.assert_close(other, one, **exact)


def in_two_processes(work: Callable[[int, Any], Any]) -> list[Any]:
    """The work of two processes as two threads that average at the same places."""
    barrier, shared, found = threading.Barrier(2, timeout=60), [None, None], [None, None]

    def run(k: int) -> None:
        def reduce(tensor: torch.Tensor) -> torch.Tensor:
            shared[k] = tensor  # type: ignore[call-overload]
            barrier.wait()
            mean = (shared[0] + shared[1]) / 2  # type: ignore[operator]
            barrier.wait()
            return mean

        found[k] = work(k, reduce)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@once
def test_a_resumed_run_ends_with_the_same_bits(family: str, name: str, tmp_path: Path) -> None:
    made = config(
        family,
        name,
        max_train_steps=4,
        checkpointing_steps=2,
        checkpoints_total_limit=0,
        lr_scheduler="constant",
        ema_decay=0.0,
    )

    def run(resume: Path | None) -> dict[str, torch.Tensor]:
        task = FAMILIES[family]()
        loop = UnlearningLoop(
            task,
            build_method(made, family),
            made,
            Accelerator(cpu=True),
            build_optimizer(made, list(task.parameters.values())),
            folder=tmp_path,
            show=False,
        )
        loop.run(resume)
        return weights(task)

    whole, rest = run(None), run(tmp_path / "checkpoint-2")
    assert all(torch.equal(whole[key], rest[key]) for key in whole)


@once
def test_gradient_checkpointing_changes_nothing(family: str, name: str) -> None:
    found = []
    for checkpointing in (False, True):
        task, made = FAMILIES[family](), method(family, name)
        if checkpointing:
            task.model.enable_gradient_checkpointing()
        made.prepare(task)
        made.step(task, 0, None)
        found.append([p.grad for p in task.parameters.values()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)


@once
def test_bf16_autocast_gives_about_the_same_losses(family: str, name: str) -> None:
    seen = []
    for precision in (None, "bf16"):
        options: dict[str, Any] = {"precision": precision} if precision else {}
        if precision:
            options["autocast"] = lambda: torch.autocast("cpu", torch.bfloat16)
        task, made = FAMILIES[family](**options), method(family, name)
        made.prepare(task)
        stats = made.step(task, 0, None)
        assert all(p.grad.dtype == torch.float32 for p in task.parameters.values())
        seen.append(stats.forget_loss if name != "retrain" else stats.retain_loss)
    assert seen[1] == pytest.approx(seen[0], rel=0.2, abs=2e-3)
