"""Contracts of every classifier method: a new file in erase/methods is tested by existing."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from erase import registry
from erase.config.classifier import ClassifierConfig, fill, method_module
from erase.core.objectives import cross_entropy
from erase.judges.classifier_scores import accuracy, predict
from erase.models.classifiers import Classifier
from erase.tasks.method import TwoLossMethod
from erase.training.classifier import run_method
from erase.training.loop import LOG
from tests.classifier_world import BATCH, forget_class, original, task

METHODS = [
    name
    for name in registry.names("methods")
    if "classifier" in registry.load("methods", name).Method.families
]
STEPPING = [name for name in METHODS if not method_module(name).Method.closed_form]
# Strong enough to be seen on a tiny model within two epochs; others take their own defaults.
STRONG: dict[str, dict[str, Any]] = {
    "ga": {"learning_rate": 0.02, "epochs": 3},
    "be": {"learning_rate": 0.02, "epochs": 3},
    "bs": {"learning_rate": 0.02, "epochs": 3},
    "ft": {"learning_rate": 0.1, "epochs": 4},
    "l1-sparse": {"learning_rate": 0.1, "epochs": 4},
    "salun": {"learning_rate": 0.05, "epochs": 3},
    "scrub": {"learning_rate": 0.01, "epochs": 3},
    "munba": {"learning_rate": 0.05, "epochs": 3},
    "head": {"learning_rate": 0.05, "epochs": 3},
    "shs": {"learning_rate": 0.02, "epochs": 3},
    "sfr-on": {"learning_rate": 0.02, "epochs": 4},
    "lur": {"learning_rate": 0.02, "epochs": 3},
    "lur-b": {"learning_rate": 0.02, "epochs": 3},
    "retrain": {"epochs": 8},
    "iu": {"settings": {"alpha": 1.0, "samples": 20}},
    "ssd": {"settings": {"selection": 1.5}},
}
# These move the forget set by its own loss alone: nothing of theirs keeps the rest.
NO_RETAIN_TERM = {"ga", "be", "bs", "iu", "ssd"}


def config(name: str, **changes: object) -> ClassifierConfig:
    given = {"train_batch_size": BATCH, "epochs": 1, **changes}
    return fill(ClassifierConfig(method=name, **given), "digits", 0.25)  # type: ignore[arg-type]


def forget_loss(model: Classifier) -> float:
    world = original()
    images = world.data.train.subset(forget_class())
    return float(
        cross_entropy(predict(model, images, world.data.augmentation), images.labels).mean()
    )


@pytest.mark.parametrize("name", METHODS)
def test_forgetting_moves_the_right_way(name: str) -> None:
    world = original()
    out = run_method(world, forget_class(), config(name, **STRONG.get(name, {"epochs": 3})))
    assert forget_loss(out.model) > forget_loss(world.model)
    if name not in NO_RETAIN_TERM:
        kept = world.trained_on[~torch.isin(world.trained_on, forget_class())]
        images = world.data.train.subset(kept)
        logits = predict(out.model, images, world.data.augmentation)
        assert accuracy(logits, images.labels) > 60


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_weights_and_the_original_stays(name: str) -> None:
    world = original()
    before = deepcopy(world.model.state_dict())
    first, again = (run_method(world, forget_class(), config(name)).model for _ in range(2))
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
        assert value.shape == before[key].shape
        assert torch.equal(before[key], world.model.state_dict()[key]), key


@pytest.mark.parametrize("name", STEPPING)
def test_another_seed_gives_other_weights(name: str) -> None:
    a, b = (run_method(original(), forget_class(), config(name, seed=s)).model for s in (0, 1))
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_batch_statistics_move_once_a_step_and_never_without_one(name: str) -> None:
    out = run_method(original(), forget_class(), config(name))
    counts = {int(v) for k, v in out.model.state_dict().items() if k.endswith("batches_tracked")}
    start = {
        int(v) for k, v in original().model.state_dict().items() if k.endswith("batches_tracked")
    }
    begin = 0 if name == "retrain" else start.pop()
    # Features that are frozen keep their statistics, too.
    assert counts == {begin + (0 if name == "head" else len(out.rows))}


@pytest.mark.parametrize("name", STEPPING)
def test_a_step_leaves_every_gradient_and_no_step_is_lost(name: str) -> None:
    module = method_module(name)
    method, world = module.Method(module.Settings()), task(epochs=2)
    method.prepare(world)
    total = method.total_steps(world)
    assert total >= 2
    stats = method.step(world, 0, None)
    assert all(p.grad is not None for p in world.parameters.values())
    # A method that takes one loss alone says nan of the other.
    assert math.isfinite(stats.retain_loss) or math.isfinite(stats.forget_loss)


@pytest.mark.parametrize("name", STEPPING)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    settings = config(name, epochs=1, checkpointing_steps=1, checkpoints_total_limit=0)
    whole = run_method(original(), forget_class(), settings, folder=tmp_path)
    assert (tmp_path / LOG).is_file()
    first = tmp_path / "checkpoint-1"
    rest = run_method(original(), forget_class(), settings, folder=tmp_path, resume=first)
    assert len(rest.rows) == len(whole.rows) - 1
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[key]), key


TWO_LOSSES = [n for n in STEPPING if issubclass(method_module(n).Method, TwoLossMethod)]


@pytest.mark.parametrize("name", TWO_LOSSES)
def test_the_two_parts_add_up_to_the_step(name: str) -> None:
    module = method_module(name)
    gradients = []
    for kind in ("step", "split"):
        method, world = module.Method(module.Settings()), task()
        method.prepare(world)
        if kind == "step":
            method.step(world, 0, None)
            gradients.append([p.grad for p in world.parameters.values()])
        else:
            parts = method.split(world, 0)
            given = [part for part in (parts.retain, parts.forget) if part is not None]
            gradients.append([sum(pair) for pair in zip(*given, strict=True)])
        assert {int(b) for n, b in world.model.named_buffers() if n.endswith("tracked")} == {
            1 + int(dict(original().model.named_buffers())["net.layer1.1.num_batches_tracked"])
        }
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", TWO_LOSSES)
def test_dualoptim_runs_with_every_two_loss_method(name: str) -> None:
    out = run_method(original(), forget_class(), config(name, dual_optim=True))
    assert all(torch.isfinite(p).all() for p in out.model.parameters())
    assert forget_loss(out.model) != forget_loss(original().model)
