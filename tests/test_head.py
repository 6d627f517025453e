"""The head-only baseline: what it trains, and that its features stay the original's."""

import torch
from torch.nn import functional as F

from erase.config.classifier import ClassifierConfig, fill
from erase.methods import head
from erase.training.classifier import run_method
from tests.classifier_world import BATCH, forget_class, original, task


def test_only_the_head_moves_and_its_gradient_is_lur_bs_there() -> None:
    world = task()
    method = head.Method(head.Settings(forget_weight=0.5))
    method.prepare(world)
    method.step(world, 0, None)
    assert set(world.parameters) == {"net.fc.weight", "net.fc.bias"}
    parts = []
    with world.evaluating():
        for name in ("retain", "forget"):
            batch = world.batch(name, 0)  # type: ignore[arg-type]
            parts.append(F.cross_entropy(world.logits(batch.images), batch.labels))
    expected = torch.autograd.grad(parts[0] - 0.5 * parts[1], list(world.parameters.values()))
    for found, gradient in zip(world.parameters.values(), expected, strict=True):
        torch.testing.assert_close(found.grad, gradient, rtol=1e-4, atol=1e-6)
    config = fill(ClassifierConfig(method="head", epochs=1, train_batch_size=BATCH), "digits", 0.25)
    out = run_method(original(), forget_class(), config)
    before = original().model.state_dict()
    moved = {k for k, v in out.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"net.fc.weight", "net.fc.bias"}
