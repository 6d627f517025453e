"""Every denoiser method on a tiny model of every family, for the tests of methods."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from erase.config.concept import ConceptConfig
from erase.config.layers import Layer, fill_run
from erase.config.methods import build_method, find_method, run_defaults
from erase.runs.processes import Shard
from erase.tasks.latents import LatentCache
from tests.tiny import tiny_cache, tiny_class_task, tiny_task

FAMILIES: dict[str, Callable[..., Any]] = {
    "text-to-image": tiny_task,
    "class-conditional": tiny_class_task,
}
FEW: dict[str, dict[str, Any]] = {
    "sa": {"fisher_samples": 3},
    "sfr-on": {"fisher_samples": 3, "threshold": 0.5},
    "advunlearn": {"warmup": 0, "attack_steps": 2},
    "shs": {"sparsity": 0.9, "forget_weight": 2.0},
}


def config(family: str, name: str, **changes: Any) -> ConceptConfig:
    given = ConceptConfig(
        method=name,
        settings={**FEW.get(name, {}), **changes.pop("settings", {})},
        learning_rate=3e-3,
        train_batch_size=4,
        weight_decay=0.1,
        **changes,
    )
    spec = find_method(name, family)
    return fill_run(given, spec, [Layer("method", run_defaults(spec, family, 4))])


def method(family: str, name: str, **settings: Any) -> Any:
    return build_method(config(family, name, settings=settings), family)


def train(task: Any, made: Any, steps: int) -> None:
    made.prepare(task)
    chosen = list(task.parameters.values())
    optimizer = torch.optim.AdamW(chosen, lr=3e-3, weight_decay=0.1)
    for step in range(0 if made.closed_form else steps):
        made.step(task, step, None)
        assert all(p.grad is not None for p in chosen)
        optimizer.step()
        made.after_step(task)
    made.finish(task)


def weights(task: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in task.model.named_parameters()}


def in_double(cache: LatentCache) -> LatentCache:
    sets = {
        name: replace(images, mean=images.mean.double(), std=images.std.double())
        for name, images in cache.sets.items()
    }
    states = cache.conditions["states"].double()
    return replace(cache, sets=sets, conditions={**cache.conditions, "states": states})


def in_float64(family: str, shard: Shard) -> Any:
    task = FAMILIES[family](cache=in_double(tiny_cache()), shard=shard)
    task.model.double()
    for encoder in task.text.encoders if task.text else ():
        encoder.double()
    return task
