"""The forms that are not the default: micro-batches equal the joint batch, and runs resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from erase.config.methods import build_method
from erase.runs.processes import Shard
from erase.training.loop import UnlearningLoop, build_optimizer
from tests.classifier_world import BATCH, forget_class, original
from tests.denoiser_world import FAMILIES, config, in_float64, method, weights

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "esd denoised": ("esd", {"samples": "denoised", "sampling_steps": 4}),
    "esd by the student": (
        "esd",
        {"samples": "denoised", "sampled_by": "student", "sampling_steps": 3},
    ),
    "salun ascent": ("salun", {"form": "ascent"}),
    "salun proximal": ("salun", {"form": "proximal"}),
    "erasediff fixed": ("erasediff", {"rule": "fixed", "inner_passes": 1}),
    "sfr-on two-step": ("sfr-on", {"form": "two-step", "decay": "linear"}),
    "ca noise": ("ca", {"loss": "noise", "first_token": True}),
    "fmn pooler": ("fmn", {"pooler": True}),
}
forms = pytest.mark.parametrize("form", FORMS)


@forms
def test_micro_batches_equal_the_joint_batch(form: str) -> None:
    name, settings = FORMS[form]

    def gradients(shard: Shard) -> list[torch.Tensor]:
        task, made = in_float64("text-to-image", shard), method("text-to-image", name, **settings)
        made.prepare(task)
        made.step(task, 1, None)
        made.finish(task)
        return [p.grad for p in task.parameters.values()]

    joint = gradients(Shard(batch_size=4))
    cut = gradients(Shard(batch_size=2, micro_batches=2))
    assert any(float(g.abs().max()) > 0 for g in joint)
    for one, other in zip(joint, cut, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-12)


@forms
def test_a_resumed_run_ends_with_the_same_bits(form: str, tmp_path: Path) -> None:
    name, settings = FORMS[form]
    made = config(
        "text-to-image",
        name,
        settings=settings,
        max_train_steps=4,
        checkpointing_steps=1,
        checkpoints_total_limit=0,
        lr_scheduler="constant",
        ema_decay=0.0,
    )

    def run(resume: Path | None) -> dict[str, torch.Tensor]:
        task = FAMILIES["text-to-image"](steps=4)
        loop = UnlearningLoop(
            task,
            build_method(made, "text-to-image"),
            made,
            Accelerator(cpu=True),
            build_optimizer(made, list(task.parameters.values())),
            folder=tmp_path,
            show=False,
        )
        loop.run(resume)
        return weights(task)

    whole = run(None)
    for step in (1, 3):  # 1: between EraseDiff's inner steps
        rest = run(tmp_path / f"checkpoint-{step}")
        assert all(torch.equal(whole[key], rest[key]) for key in whole)


@pytest.mark.parametrize(
    ("name", "settings"), [("shs", {}), ("salun", {"order": "passes"}), ("sfr-on", {})]
)
def test_a_classifiers_run_resumes_in_the_middle_of_an_epoch(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    from erase.config.classifier import ClassifierConfig, fill
    from erase.training.classifier import run_method

    given = ClassifierConfig(
        method=name,
        settings=settings,
        train_batch_size=BATCH,
        epochs=2,
        checkpointing_steps=2,
        checkpoints_total_limit=0,
    )
    filled = fill(given, "digits", 0.25)
    whole = run_method(original(), forget_class(), filled, folder=tmp_path)
    assert whole.rows[-1]["step"] > 6
    rest = run_method(
        original(), forget_class(), filled, folder=tmp_path, resume=tmp_path / "checkpoint-4"
    )
    pairs = zip(whole.model.parameters(), rest.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
