"""The loop: logged, checkpointed, and exact when it is resumed."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from erase.config.base import LoopConfig
from erase.config.methods import build_method
from erase.errors import InputError, RunError
from erase.files import read_jsonl
from erase.runs.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from erase.runs.processes import Shard
from erase.training.loop import UnlearningLoop, build_optimizer
from tests.tiny import tiny_task, tiny_unet

CONFIG = LoopConfig(
    settings={"alpha": 0.01, "forget_weight": 1.0},
    max_train_steps=6,
    train_batch_size=4,
    learning_rate=1e-3,
    lr_scheduler="cosine",
    lr_warmup_steps=2,
    ema_decay=0.9,
    checkpointing_steps=2,
)


def loop(
    folder: Path | None,
    config: LoopConfig = CONFIG,
    build: Callable[..., torch.optim.Optimizer] = build_optimizer,
    **options: Any,
) -> UnlearningLoop:
    task = tiny_task(unet=tiny_unet(dropout=0.1), shard=Shard(config.train_batch_size or 1))
    return UnlearningLoop(
        task,
        build_method(config, task.family),
        config,
        Accelerator(cpu=True),
        build(config, list(task.parameters.values())),
        folder=folder,
        **options,
    )


def weights(run: UnlearningLoop) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in run.parameters]


class Killed(BaseException):
    pass


def kill_after(step: int) -> Callable[[int, object], None]:
    def on_step(done: int, row: object) -> None:
        if done == step:
            raise Killed

    return on_step


@pytest.mark.parametrize("killed", [2, 3, 5])
def test_resumed_run_equals_the_undisturbed_one(tmp_path: Path, killed: int) -> None:
    whole = loop(tmp_path / "whole")
    whole.run()
    with pytest.raises(Killed):
        loop(tmp_path / "part", on_step=kill_after(killed)).run()
    resumed = loop(tmp_path / "part")
    resumed.run(find_checkpoint(tmp_path / "part", "latest"))
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(one, other)
    logs = [read_jsonl(tmp_path / name / "log.jsonl") for name in ("whole", "part")]
    for rows in logs:
        assert [row.pop("step") for row in rows] == [1, 2, 3, 4, 5, 6]
        for row in rows:
            assert row.pop("images_per_s") > 0
    assert logs[0] == logs[1]


def test_log_holds_what_figure_3a_needs(tmp_path: Path) -> None:
    loop(tmp_path).run()
    for row in read_jsonl(tmp_path / "log.jsonl"):
        assert row["retain_loss"] > 0
        assert row["forget_loss"] >= 0
        assert -1 <= row["cosine"] <= 1
        assert row["retain_grad_norm"] > 0
        assert math.isfinite(row["lr"])


def test_old_checkpoints_go_and_no_pickle_stays(tmp_path: Path) -> None:
    loop(tmp_path).run()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-6"]
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".jsonl"}


def test_broken_checkpoint_is_named(tmp_path: Path) -> None:
    loop(tmp_path).run()
    tensors = tmp_path / "checkpoint-6" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(InputError, match="checkpoint-6 is broken"):
        load_checkpoint(tmp_path / "checkpoint-6")
    with pytest.raises(InputError, match="is not a checkpoint"):
        find_checkpoint(tmp_path, "checkpoint-5")
    assert find_checkpoint(tmp_path / "nothing", "latest") is None


def test_nan_stops_the_run_with_the_last_good_weights(tmp_path: Path) -> None:
    run = loop(tmp_path)
    good: list[list[torch.Tensor]] = []

    def poison(done: int, row: object) -> None:
        good.append(weights(run))
        if done == 3:
            run.task.cache.sets["retain"].mean.fill_(math.nan)  # type: ignore[attr-defined]

    run.on_step = poison
    with pytest.raises(RunError, match="Step 4") as caught:
        run.run()
    assert "--learning-rate" in caught.value.remedy
    for one, other in zip(weights(run), good[-1], strict=True):
        assert torch.equal(one, other)
    assert len(read_jsonl(tmp_path / "log.jsonl")) == 3


def test_eight_bit_adam_without_bitsandbytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="bitsandbytes") as caught:
        build_optimizer(CONFIG.replace(use_8bit_adam=True), [torch.nn.Parameter(torch.ones(1))])
    assert "pip install bitsandbytes" in caught.value.remedy


class NestedAdam(torch.optim.AdamW):
    """Keeps its states in a dictionary of their own in `state_dict`, as bitsandbytes 0.50 does."""

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        nested = {i: {"__quant__": s} for i, s in state["state"].items()}
        return {**state, "state": nested}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        flat = {i: s["__quant__"] for i, s in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": flat})


def test_an_optimizer_with_nested_states_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    def nested(config: LoopConfig, parameters: list[torch.nn.Parameter]) -> NestedAdam:
        return NestedAdam(parameters, lr=config.learning_rate or 0)

    whole, part = loop(None, build=nested), tmp_path / "part"
    whole.run()
    with pytest.raises(Killed):
        loop(part, build=nested, on_step=kill_after(3)).run()
    resumed = loop(part, build=nested)
    resumed.run(find_checkpoint(part, "latest"))
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(one, other)


def test_frozen_parameters_do_not_move() -> None:
    run = loop(None)
    task = run.task
    kept = {k: p for k, p in task.parameters.items() if "attn2" in k}
    task.parameters = kept  # type: ignore[misc]
    for name, parameter in task.model.named_parameters():  # type: ignore[attr-defined]
        parameter.requires_grad_(name in kept)
    others = {
        n: p.detach().clone()
        for n, p in task.model.named_parameters()  # type: ignore[attr-defined]
        if n not in kept
    }
    before = {n: p.detach().clone() for n, p in kept.items()}
    UnlearningLoop(
        task, run.method, CONFIG, run.accelerator, build_optimizer(CONFIG, list(kept.values()))
    ).run()
    moved = dict(task.model.named_parameters())  # type: ignore[attr-defined]
    assert all(torch.equal(moved[n], value) for n, value in others.items())
    assert any(not torch.equal(moved[n], value) for n, value in before.items())
