"""Train a classifier, or run an unlearning method on one, in the unlearning loop."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from erase.config.base import LoopConfig
from erase.config.classifier import ClassifierConfig, method_module
from erase.core.meta import Stats
from erase.core.rng import generator
from erase.data.classification import ClassificationData, LabelledSet, load_dataset
from erase.errors import InputError
from erase.models.classifiers import Classifier, Description, build, load_classifier
from erase.tasks.classifier import ImageClassifierTask
from erase.tasks.method import TwoLossMethod
from erase.tasks.protocol import Reduce
from erase.training.dualoptim import DualOptim
from erase.training.loop import UnlearningLoop
from erase.training.watch import GradientWatch

CHANNELS_LAST_FROM = 32
"""Pixels a side from which the channels-last format is used on a CPU. On one CPU core a ResNet-20
trains 1.35 to 1.5 times as fast with it. Smaller images keep the usual format and their results."""


@dataclass(frozen=True)
class Original:
    """A trained classifier with its data on one device, in the split of its training."""

    model: Classifier
    description: Description
    data: ClassificationData
    trained_on: Tensor
    """Indices of the training set."""

    @property
    def device(self) -> torch.device:
        """The device of model and data."""
        return self.data.train.labels.device

    def held_out(self) -> LabelledSet:
        """The validation images; InputError when there are none."""
        if not self.description.validation:
            raise InputError(
                "The original was trained without a validation split.",
                "Train it with --validation-share above 0.",
            )
        return self.data.train.subset(torch.tensor(self.description.validation))


def open_original(folder: Path, device: torch.device, data_dir: str | None = None) -> Original:
    """Load a classifier and the data it was trained on.

    Raises:
        InputError: the folder holds no classifier, or its data is missing or of other classes.
    """
    model, description = load_classifier(folder)
    folder_of_data = data_dir or description.data_dir
    data = load_dataset(
        description.dataset,
        Path(folder_of_data) if folder_of_data else None,
        image_size=description.image_size,
        limit=description.limit,
        images_per_class=description.images_per_class,
        crop_padding=description.crop_padding,
        follow_links=description.follow_links,
    )
    if data.classes != description.classes:
        raise InputError(
            f"The model in {folder} knows {len(description.classes)} classes, the data has"
            f" {len(data.classes)}: {', '.join(data.classes[:5])}, …",
            "Give --data-dir with the data that the model was trained on.",
        )
    if any(index >= len(data.train) for index in description.validation):
        raise InputError(
            "The data has fewer training images than the model was trained with.",
            "Give --data-dir with the data that the model was trained on.",
        )
    return Original(
        model.to(device), description, data.to(device), trained_indices(data, description)
    )


def trained_indices(data: ClassificationData, description: Description) -> Tensor:
    """Indices of the training set without those of validation, `[M]`."""
    trained = torch.ones(len(data.train), dtype=torch.bool)
    trained[torch.tensor(description.validation, dtype=torch.long)] = False
    return trained.nonzero().flatten()


def warn_of_other_data(original: Original, folder: str) -> None:
    """Warn where the data is not what the classifier was trained on, as far as it says so.

    Accuracy on retained images and membership inference suppose that it is.
    """
    known, found = original.description.data_sha256, original.data.sha256()
    if known not in (None, found):
        click.echo(
            f"Warning: {folder} was trained on data of SHA-256 {known}, and this data has {found}:"
            " its images or labels differ. Give --data-dir with the data that it was trained on.",
            err=True,
        )


@dataclass(frozen=True)
class Outcome:
    """The result of a method: the model in evaluation mode, its cost, and a log row per step."""

    model: Classifier
    seconds: float
    """Run time of all phases, with masks and trimming, without loading."""
    rows: list[dict[str, Any]]


def classifier_method(config: ClassifierConfig) -> Any:
    """The method of a filled configuration; InputError for settings that do not belong together."""
    module = method_module(config.method)
    method = module.Method(module.Settings(**config.settings))
    if not config.dual_optim:
        return method
    if not isinstance(method, TwoLossMethod):
        raise InputError(
            f"{config.method} has one loss, so --dual-optim does not apply.",
            "Leave the option out, or choose lur, lur-b, munba, salun, shs or scrub.",
        )
    return _DualMethod(method)


def run_method(
    original: Original,
    forget: Tensor,
    config: ClassifierConfig,
    *,
    folder: Path | None = None,
    resume: Path | None = None,
    run: str = "",
    on_save: Callable[[], object] = lambda: None,
    show: bool = False,
) -> Outcome:
    """Run one method with a filled configuration on a copy of the original.

    Args:
        original: not changed.
        forget: indices into the training set, `[M]`; empty for plain training.
        config: as `fill` returns it.
        folder: for the log and checkpoints; None writes nothing.
        resume: a checkpoint to go on from.
        run: fingerprint of the run, for its checkpoints.
        on_save: called after a checkpoint was written.
        show: whether to show a progress bar.

    Raises:
        InputError: the settings do not fit together.
        RunError: a loss is not finite.
    """
    method = classifier_method(config)
    if original.device.type == "cpu":
        keep_freed_memory()
    task = _task(original, forget, config)
    rows: list[dict[str, Any]] = []
    _synchronise(original.device)
    start = time.perf_counter()
    method.prepare(task)
    total = method.total_steps(task)
    before = 0.0
    if total:
        loop = _loop(task, method, config, total, rows, folder, show)
        loop.run_fingerprint, loop.on_save = run, on_save
        loop.run(resume)
        before = loop.seconds_before
    _synchronise(original.device)
    seconds = before + time.perf_counter() - start
    return Outcome(task.model.eval(), seconds, rows)


def keep_freed_memory() -> None:
    """Have the C library keep up to 62 MiB of freed memory instead of giving it back each step.

    glibc gives the end of its heap back when twice the largest block that was ever freed is unused;
    a step of a small network then begins with thousands of page faults. One large block that is
    freed raises that limit.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _task(original: Original, forget: Tensor, config: ClassifierConfig) -> ImageClassifierTask:
    train = original.data.train
    forgotten = torch.zeros(len(train), dtype=torch.bool)
    forgotten[forget.cpu()] = True
    retain = original.trained_on[~forgotten[original.trained_on]]
    if config.retain_limit is not None and config.method != "retrain":
        order = torch.randperm(len(retain), generator=generator(config.seed, "retain limit"))
        retain = retain[order[: config.retain_limit].sort().values]
    description, device = original.description, original.device
    bf16 = config.mixed_precision == "bf16"
    return ImageClassifierTask(
        model=in_preferred_format(deepcopy(original.model), original),
        forget=train.subset(forget),
        retain=train.subset(retain),
        augmentation=original.data.augmentation,
        classes=len(description.classes),
        epochs=config.epochs or 0,
        batch_size=config.train_batch_size or 1,
        seed=config.seed,
        fresh=lambda seed: build(
            description, seed=seed, pretrained=bool(description.facts.get("pretrained"))
        ),
        autocast=(lambda: torch.autocast(device.type, torch.bfloat16)) if bf16 else nullcontext,
        channels_last=_channels_last(original),
    )


def in_preferred_format(model: Classifier, original: Original) -> Classifier:
    """A model of the original's kind, in the memory format that it is trained in."""
    return model.to(memory_format=torch.channels_last) if _channels_last(original) else model


def _channels_last(original: Original) -> bool:
    large = original.description.image_size >= CHANNELS_LAST_FROM
    return original.device.type == "cuda" or large


def _loop(
    task: ImageClassifierTask,
    method: Any,
    config: ClassifierConfig,
    total: int,
    rows: list[dict[str, Any]],
    folder: Path | None,
    show: bool,
) -> UnlearningLoop:
    optimizer = _optimizer(task, config)
    if isinstance(method, _DualMethod):
        method.optimizer = optimizer
    weight = task.model.penultimate()
    watch = GradientWatch(weight) if weight is not None and weight.requires_grad else None

    def diagnostics() -> Mapping[str, float]:
        if watch is None:
            return {}
        cosine = watch.cosine()
        watch.start()
        return {} if cosine is None else {"cosine_penultimate": float(f"{cosine:.6g}")}

    loop = LoopConfig(
        method=config.method,
        max_train_steps=total,
        train_batch_size=config.train_batch_size,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        checkpointing_steps=config.checkpointing_steps,
        checkpoints_total_limit=config.checkpoints_total_limit,
    )
    return UnlearningLoop(
        task,
        method,
        loop,
        Accelerator(cpu=next(task.model.parameters()).device.type == "cpu"),
        optimizer,
        buffers=dict(task.model.named_buffers()),
        folder=folder,
        on_step=lambda _, row: rows.append(dict(row)),
        schedule=LambdaLR(optimizer, schedule(config.lr_scheduler or "constant", total)),
        prepared=True,
        extra=diagnostics,
        show=show,
    )


def _optimizer(task: ImageClassifierTask, config: ClassifierConfig) -> Optimizer:
    parameters = list(task.parameters.values())
    rate = config.learning_rate or 0.0
    if config.dual_optim:
        return DualOptim(
            parameters,
            lr=rate,
            forget_lr=config.forget_learning_rate,
            forget_weight_decay=config.forget_weight_decay,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
    return SGD(parameters, lr=rate, momentum=config.momentum, weight_decay=config.weight_decay)


def schedule(name: str, total: int) -> Callable[[int], float]:
    """Factor of the learning rate before step `step` of `total`, by the schedule's name."""
    if name == "multistep":
        return lambda step: 0.1 ** ((2 * step >= total) + (4 * step >= 3 * total))
    if name == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))
    return lambda step: 1.0  # noqa: ARG005


class _DualMethod:
    """A method whose two gradients go to DualOptim separately."""

    def __init__(self, method: TwoLossMethod) -> None:
        self.method = method
        self.optimizer: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def step(self, task: ImageClassifierTask, step: int, reduce: Reduce | None) -> Stats:  # noqa: ARG002
        """Leave the retain part in `.grad` and the forget part with the optimizer."""
        parts = self.method.split(task, step)
        retain: Sequence[Tensor | None] = parts.retain or [None] * len(task.parameters)
        for p, gradient in zip(task.parameters.values(), retain, strict=True):
            p.grad = gradient
        self.optimizer.forget_gradients = parts.forget
        return parts.stats


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_result(
    original: Original, model: Classifier, **facts: Any
) -> tuple[Classifier, Description]:
    """A model made from an original, with the original's description and further facts."""
    description = original.description
    return model, replace(description, facts={**description.facts, **facts})
