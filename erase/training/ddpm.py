"""`erase train ddpm`: a class-conditional DDPM on labelled images, or its Retrain reference."""

import contextlib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn import Parameter

from erase.config.ddpm import DIGITS, SOURCES, DDPMConfig
from erase.config.fields import field_specs
from erase.config.layers import Layer, fill
from erase.config.methods import find_method
from erase.core.params import select_parameters
from erase.data.classification import LabelledSet, center, load_dataset
from erase.errors import InputError
from erase.files import fingerprint, write_text
from erase.models.class_conditional import ClassConditionalPipeline, build_pipeline
from erase.models.loading import save_pipeline
from erase.runs.checks import check_memory
from erase.runs.device import choose_device, say_device
from erase.runs.processes import Distributed, Shard, make_accelerator
from erase.runs.record import RunRecord, device_peak
from erase.runs.run_folder import RunFolder, replacing_parts
from erase.tasks.class_conditional import (
    ClassConditionalTask,
    class_names,
    encode_retained,
    split_by_class,
)
from erase.tasks.families import FAMILIES
from erase.training.loop import UnlearningLoop, build_optimizer

KIND = "train ddpm"
METHOD = "retrain"  # starts from new weights; the retain set holds all training images
MULTIPLES = 64
"""Largest multiple of the first level's channels."""


@dataclass(frozen=True)
class DDPMPlan:
    """A training with all settings resolved.

    `images` have the labels of `classes`. The model has the classes of `without` too, but is not
    trained on images of them.
    """

    config: DDPMConfig
    classes: tuple[str, ...]
    synonyms: dict[str, str]
    without: tuple[str, ...]
    images: LabelledSet

    def build(self) -> ClassConditionalPipeline:
        """The untrained model."""
        config = self.config
        return build_pipeline(
            self.classes,
            size=config.resolution or 0,
            channels=config.channels or 0,
            multipliers=_numbers(config.multipliers or ""),
            blocks=config.blocks or 0,
            attention=config.attention or 0,
            dropout=config.dropout or 0.0,
            seed=config.seed,
            synonyms=self.synonyms,
        )


def plan(config: DDPMConfig, device: str | None = None) -> DDPMPlan:
    """Fill in all defaults and read the data; writes nothing.

    Raises InputError for anything that cannot be used.
    """
    config = config.replace(method=METHOD)
    digits = config.dataset == "digits"
    config = fill(config, [Layer("digits", DIGITS) if digits else Layer("CIFAR-10", SOURCES)])
    choose_device(device)
    data = load_dataset(
        config.dataset,
        Path(config.data_dir) if config.data_dir else None,
        image_size=(config.resolution or 0) if config.dataset == "folder" else None,
        limit=config.limit,
        follow_links=config.follow_links,
    )
    names = class_names(data)
    synonyms = {other: n for other, n in zip(data.classes, names, strict=True) if other != n}
    images = replace(data.train, images=center(data.train.images, data.augmentation))
    if images.images.shape[-1] % (config.resolution or 1):
        raise InputError(
            f"--resolution is {config.resolution}; the images have {images.images.shape[-1]}.",
            "Give that, or a divisor of it.",
        )
    images, names = _select_classes(images, names, config.classes)
    without = _words(config.without)
    if without:
        images = split_by_class(images, names, without)["retain"]
    synonyms = {spelling: name for spelling, name in synonyms.items() if name in names}
    planned = DDPMPlan(config, names, synonyms, without, images)
    with torch.device("meta"), contextlib.suppress(NotImplementedError):
        planned.build()  # refuses a size that the levels cannot halve, before anything is written
    return planned


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in _words(text))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or max(numbers) > MULTIPLES:
        raise InputError(
            f"--multipliers is {text!r}.", f"Give whole numbers to {MULTIPLES}, such as 1,2,2,2."
        )
    return numbers


def _select_classes(
    images: LabelledSet, names: tuple[str, ...], option: str | None
) -> tuple[LabelledSet, tuple[str, ...]]:
    """The images of the classes in `--classes`, with labels in the order of that option."""
    if option is None:
        return images, names
    chosen = _words(option)
    unknown = next((name for name in chosen if name not in names), None)
    if unknown is not None or len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise InputError(
            f"--classes is {option!r}.", f"Give two or more of: {', '.join(names)}, each once."
        )
    table = torch.full((len(names),), -1)
    table[torch.tensor([names.index(name) for name in chosen])] = torch.arange(len(chosen))
    labels = table[images.labels.cpu()]
    indices = (labels >= 0).nonzero().flatten()
    return LabelledSet(images.images[indices], labels[indices]), chosen


def train_ddpm(
    config: DDPMConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: str | None = None,
    device: str | None = None,
    show: bool = True,
) -> Path:
    """Train the model and save it as a diffusers-style folder; returns the run folder.

    The weights depend on the configuration and the data alone, also in a resumed run.
    """
    planned = plan(config, device)
    batch, spec = planned.config.train_batch_size, field_specs(DDPMConfig)["train_batch_size"]
    check_memory(spec, batch, 4 * 4 * planned.images.images[0].numel() * (batch or 1), device)
    accelerator = make_accelerator(planned.config, output, device)
    facts = {"images": _hash(planned.images), "processes": accelerator.num_processes}
    folder = RunFolder(
        output,
        KIND,
        planned.config,
        overwrite=overwrite,
        resume=resume,
        facts=facts,
        inputs=(planned.config.data_dir,),
    )
    say_device(str(accelerator.device), device)
    distributed = Distributed.of(accelerator)
    state = distributed.on_main(folder.state)
    if state.finished:
        return output
    with folder.hold(distributed, **_provenance(planned, accelerator), facts=facts) as record:
        _run(planned, folder, accelerator, state.checkpoint, record, show=show)
        if record:
            record.finish(device_peak_memory_bytes=device_peak(accelerator.device))
    accelerator.end_training()
    return output


def _hash(images: LabelledSet) -> str:
    tensors = (images.images.contiguous(), images.labels.contiguous())
    return fingerprint([hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in tensors])


def _provenance(planned: DDPMPlan, accelerator: Accelerator) -> dict[str, Any]:
    config = planned.config
    return {
        "dataset": config.dataset,
        "classes": list(planned.classes),
        "without": list(planned.without),
        "training_images": len(planned.images),
        "seed": config.seed,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
    }


def _run(
    planned: DDPMPlan,
    folder: RunFolder,
    accelerator: Accelerator,
    checkpoint: Path | None,
    record: RunRecord | None,
    *,
    show: bool,
) -> None:
    config, pipeline = planned.config, planned.build()
    unet = pipeline.unet.to(accelerator.device)
    unet.train()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    parameters: dict[str, Parameter] = select_parameters(unet, "full")
    family = FAMILIES[type(pipeline).__name__]
    task = ClassConditionalTask(
        model=unet,
        scheduler=family.training_scheduler(pipeline),
        cache=encode_retained(pipeline, planned.images),
        parameters=parameters,
        shard=Shard.of(config, accelerator),
        seed=config.seed,
        steps=config.max_train_steps or 0,
        device=accelerator.device,
        condition_dropout=config.label_dropout,
        precision="bf16" if config.mixed_precision == "bf16" else None,
        autocast=accelerator.autocast,
        flip=bool(config.flip),
    )
    if config.report_to:
        settings = {name: value for name, value in config.to_dict().items() if value}
        accelerator.init_trackers("erase", config=settings)
    loop = UnlearningLoop(
        task,
        find_method(METHOD, task.family).build({}),
        config,
        accelerator,
        build_optimizer(config, list(parameters.values())),
        folder=folder.path,
        run=folder.identity(),
        on_save=record.update if record else lambda: None,
        on_step=lambda step, row: accelerator.log(dict(row), step=step),
        show=show,
        sets=1,
    )
    loop.run(checkpoint)
    Distributed.of(accelerator).on_main(lambda: _save(planned, pipeline, folder.path))


def _save(planned: DDPMPlan, pipeline: ClassConditionalPipeline, output: Path) -> None:
    with replacing_parts(output) as folder:
        save_pipeline(pipeline, folder, torch.float32)
    parameters = sum(p.numel() for p in pipeline.unet.parameters())
    write_text(output / "README.md", _card(planned, parameters))


CARD = """---
library_name: diffusers
tags: [class-conditional, ddpm]
---
# A class-conditional DDPM of {dataset}{lacking}

Trained from scratch by `erase train ddpm` on {images} images of {size} × {size} pixels:
{steps} steps of {batch}, learning rate {rate}, moving average {ema}, seed {seed};
{parameters:.1f} M parameters. Classes: {classes}.

Not one of diffusers' own pipelines, so load it with erase, which takes only safetensors:

    from erase.models.loading import load_pipeline, resolve
    pipeline = load_pipeline(resolve("path/to/this/folder"))
    image = pipeline(prompt=["{first}"], num_inference_steps=50, guidance_scale=3.0).images[0]

The sampler is DDIM; the published protocol is 1000 steps of `DDPMScheduler`. Whatever terms the
training images come under hold for the model too.
"""


def _card(planned: DDPMPlan, parameters: int) -> str:
    config = planned.config
    lacking = f", made without any image of {', '.join(planned.without)}" if planned.without else ""
    return CARD.format(
        dataset=config.dataset,
        lacking=lacking,
        images=len(planned.images),
        size=config.resolution,
        steps=config.max_train_steps,
        batch=(config.train_batch_size or 1) * config.gradient_accumulation_steps,
        rate=config.learning_rate,
        ema=config.ema_decay,
        seed=config.seed,
        parameters=parameters / 1e6,
        classes=", ".join(planned.classes),
        first=planned.classes[0],
    )
