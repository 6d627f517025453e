"""Estimate a run's memory by phase and its disk space, without running it.

The code of the run itself (training step, denoiser of the renders, VAE) is called on tensors
without content (`erase.training.live_bytes`). So the estimate depends on the settings as the run
does: method, mode of the meta step, selection or adapter, batch, precision, checkpointing, moving
average.
"""

import math
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKL
from torch.nn import Parameter
from torch.optim import Optimizer

from erase.config.concept import ConceptConfig
from erase.config.fields import field_specs
from erase.config.methods import build_method
from erase.errors import InputError
from erase.models.configs import network_of, part_network
from erase.render.sizes import png_bytes, readable_bytes
from erase.runs.checks import check_memory, check_space, device_memory
from erase.runs.device import choose_device
from erase.runs.processes import Shard
from erase.tasks.denoiser import DenoiserTask
from erase.tasks.encoding import encode_batch
from erase.tasks.family import setting
from erase.tasks.latents import EncodedImages, LatentCache
from erase.tasks.live_text import LiveText
from erase.tasks.protocol import Noised
from erase.training.live_bytes import EightBitAdam, LiveBytes, peak_of, simulate
from erase.training.loop import UnlearningStep, build_optimizer
from erase.training.plan import ConceptPlan
from erase.training.sizes import (
    cache_bytes,
    disk_space,
    image_counts,
    latent_shape,
    rendered_images,
    weight_count,
)
from erase.training.trained import TEXT, denoiser_task, trained_parameters, trained_text

UNSEEN = 59 * 2**20
"""Bytes for modules that a run on a CPU imports after the dry run has measured its process."""
SLACK = {"else": 0.48, "checkpointing": 2.0, "adapters": 0.96}
"""What glibc's heap holds on a CPU, as a share of `LiveBytes.churn`. Each is fitted to
runs on mini-sd (glibc 2.36, `hvp`): batches of 256; with checkpointing of 256 and 512."""
SMALL_WORK = 2e8
"""Weights times images at once; mini-sd's recipe has 6e7."""
CLOSE = 100
"""From this share of the memory on, tensors of a batch say that the whole run may not fit."""
ROWS = 4
"""Conditions in the simulated cache; the run's own number is counted by `cache_bytes`."""


@dataclass(frozen=True)
class Estimate:
    """Bytes. `phases` holds the most that tensors take in each phase, on the run's device.

    On a CPU, `base` is the rest of the process (interpreter and libraries); on a GPU it is 0, since
    the memory of the CUDA context is not PyTorch's. `slack` is memory that the allocator holds.
    """

    phases: dict[str, int]
    base: int
    disk: dict[str, int]
    slack: int = 0

    @property
    def memory(self) -> int:
        """The most that the run needs at once."""
        return self.base + max(self.phases.values()) + self.slack

    @property
    def space(self) -> int:
        """Disk space that the run's folder takes at the most."""
        return sum(self.disk.values())

    def lines(self) -> list[str]:
        """The estimate as text for the user."""
        size = readable_bytes
        memory = ", ".join(f"{name} {size(value)}" for name, value in self.phases.items())
        if self.base:
            memory += f"; libraries {size(self.base)}; allocator {size(self.slack)}"
        disk = ", ".join(f"{name} {size(value)}" for name, value in self.disk.items() if value)
        return [
            f"memory: about {size(self.memory)} ({memory})",
            f"disk: about {size(self.space)} ({disk})",
        ]


def estimate(planned: ConceptPlan, *, device: str | None = None) -> Estimate:
    """Estimate what a planned run needs; writes nothing.

    Args:
        planned: the run.
        device: as `--device`; None is a GPU if there is one.

    Raises:
        InputError: the model's family or the method cannot be simulated.
    """
    on_cpu = choose_device(device) == "cpu"
    before = psutil.Process().memory_info().rss if on_cpu else 0
    schedule = dict(planned.family.stored_schedule(planned.source).config)
    # Selective amnesia passes over all timesteps; one batch of them has the whole's peak.
    schedule["num_train_timesteps"] = planned.config.train_batch_size or 1
    try:
        with simulate(real=_is_small(planned)) as counted:
            phases, trained = _phases(planned, counted, schedule)
    except (NotImplementedError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"The memory of this run cannot be estimated ({type(error).__name__}: {error}).",
            "Run a few steps and read peak_memory_bytes in record.json.",
        ) from error
    base = before + UNSEEN if on_cpu else 0
    slack = round(_heap_share(planned) * counted.churn) if on_cpu else 0
    return Estimate(phases, base, disk_space(planned, trained), slack)


def _is_small(planned: ConceptPlan) -> bool:
    """Whether a step is carried out sooner than it is simulated."""
    config = planned.config
    weights = weight_count(planned.source.path / planned.family.component)
    batch = max(config.train_batch_size or 1, config.render_batch_size or 1)
    return weights * batch <= SMALL_WORK


def check_fits(planned: ConceptPlan, output: Path, device: str | None) -> None:
    """Refuse batches and numbers of images that cannot fit, before anything is written.

    What a batch takes in any case is compared with the whole memory, and the files with the free
    disk space. Where that is not far apart, the estimate decides. Raises InputError.
    """
    config, fields = planned.config, field_specs(type(planned.config))
    side = config.resolution or planned.source.resolution()
    batch = 4 * 4 * math.prod(latent_shape(planned))  # sample, noise, their mixture, prediction
    needs = {"train_batch_size": batch * (config.train_batch_size or 1)}
    rendered = rendered_images(planned)
    if rendered:  # as float, and as numpy's copy
        needs["render_batch_size"] = 2 * 4 * 3 * side**2 * (config.render_batch_size or 1)
    for name, needed in needs.items():
        check_memory(fields[name], getattr(config, name), needed, device)
    counts = image_counts(planned)
    most = f"num_{max(counts, key=lambda name: counts[name])}_images" if counts else ""
    if most in fields:
        count = getattr(config, most)
        check_memory(fields[most], count, cache_bytes(planned), "cpu")
        check_space(fields[most], count, png_bytes(side) * rendered, output)
    memory = device_memory(device)
    if max(needs.values()) > memory / CLOSE:
        try:
            phases = estimate(planned, device=device).phases
        except InputError:
            return  # what cannot be estimated is tried
        phase = max(phases, key=lambda name: phases[name])
        if phases[phase] > memory:
            raise InputError(
                f"The phase {phase} of this run takes about {readable_bytes(phases[phase])}; there"
                f" are {readable_bytes(memory)} of memory.",
                "Give smaller batches; --dry-run shows the estimate.",
            )


def _heap_share(planned: ConceptPlan) -> float:
    """Memory that the C library's heap holds, as a share of `LiveBytes.churn`."""
    if planned.config.gradient_checkpointing:
        return SLACK["checkpointing"]
    return SLACK["adapters" if planned.config.lora_rank else "else"]


def _phases(
    planned: ConceptPlan, counted: LiveBytes, schedule: dict[str, Any]
) -> tuple[dict[str, int], int]:
    """Peaks by phase, and how many parameters are trained."""
    config, source, family = planned.config, planned.source, planned.family
    model = network_of(family.model, source.path / family.component)
    phases = _sets(planned, model, counted, schedule)
    model.train()
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    text = _text(planned)
    if config.trainable == TEXT and text is not None:
        encoders = dict(zip(family.encoders, text.encoders, strict=True))
        parameters = trained_text(encoders, model)
    else:
        parameters = trained_parameters(model, config)
    task = _task(planned, model, parameters, schedule, text)
    trained = sum(p.numel() for p in parameters.values())
    cached = cache_bytes(planned)
    phases["train"] = _train(planned, task, counted) + cached
    # The complete pipeline needs the other parts too, while training still holds its tensors.
    others = sum(4 * weight_count(source.path / name) for name in family.frozen)
    phases["save"] = peak_of(counted, lambda: None) + cached + others
    return phases, trained


def _sets(
    planned: ConceptPlan, model: Any, counted: LiveBytes, schedule: dict[str, Any]
) -> dict[str, int]:
    """Peaks while the sets are rendered and encoded, with the whole pipeline in memory."""
    config, source, family = planned.config, planned.source, planned.family
    task = _task(planned, model, dict(model.named_parameters()), schedule)
    others = sum(4 * weight_count(source.path / name) for name in family.frozen if name != "vae")
    vae: Any = None
    if "vae" in family.frozen:
        vae = network_of(AutoencoderKL, source.path / "vae")
    phases = {}
    with torch.no_grad():
        if rendered_images(planned):
            batch = config.render_batch_size or 1
            guided = max(config.forget_guidance or 1.0, config.retain_guidance or 1.0) > 1.0
            batch_input = _noised(task, 2 * batch if guided else batch)
            peak = peak_of(counted, lambda: task.predict(batch_input))
            if vae is not None:
                latents = batch_input.clean[:batch]
                peak = max(peak, peak_of(counted, lambda: vae.decode(latents)))
            phases["render"] = peak + others
        size = config.resolution or source.resolution()
        count = min(encode_batch(size), max(image_counts(planned).values()))
        if vae is not None and count:  # a method of captions alone has no images
            images = torch.empty(count, 3, size, size)
            phases["encode"] = peak_of(counted, lambda: vae.encode(images)) + others
    return phases


def _text(planned: ConceptPlan) -> LiveText | None:
    """The text encoders of a run that reads them, and a tokenizer that makes tokens of one kind."""
    family, folder = planned.family, planned.source.path
    if not build_method(planned.config, family.task.family).reads_text:
        return None
    if len(family.encoders) != 1:
        raise NotImplementedError(f"the text encoders of {family.title}")
    encoder: Any = part_network(folder / family.encoders[0])
    encoder.requires_grad_(False).eval()
    length = setting(folder, family.encoders[0], "max_position_embeddings")

    def texts(_: Any, prompts: list[str], __: int) -> dict[str, torch.Tensor]:
        return {"states": encoder(torch.zeros(len(prompts), length, dtype=torch.long))[0]}

    tokenizer = range(setting(folder, family.encoders[0], "vocab_size"))
    return Unread(SimpleNamespace(tokenizer=tokenizer), texts, [encoder], 0)


class Unread(LiveText):
    """Text encoders whose prompts have no words."""

    _filler = ""


def _train(planned: ConceptPlan, task: DenoiserTask, counted: LiveBytes) -> int:
    """The most that preparing and one step take, with the optimizer's states in place."""
    config = planned.config
    parameters = list(task.parameters.values())
    method = build_method(config, task.family)
    step = UnlearningStep(task, method, config, _optimizer(config, parameters))
    peak = peak_of(counted, lambda: method.prepare(task))
    if getattr(method, "closed_form", False):
        return peak
    for parameter in parameters:  # the optimizer makes its states when it first sees gradients
        parameter.grad = torch.zeros_like(parameter)
    step.optimizer.step()
    step.optimizer.zero_grad(set_to_none=True)
    return max(peak, peak_of(counted, lambda: step(0)))


def _optimizer(config: ConceptConfig, parameters: list[Parameter]) -> Optimizer:
    if config.use_8bit_adam:
        return EightBitAdam(parameters)
    return build_optimizer(config, parameters)


def _task(
    planned: ConceptPlan,
    model: Any,
    parameters: Any,
    schedule: dict[str, Any],
    text: LiveText | None = None,
) -> DenoiserTask:
    """The run's task on sets of two batches; `cache_bytes` counts the whole sets."""
    config, family = planned.config, planned.family
    bf16 = config.mixed_precision == "bf16"
    shard = Shard(config.train_batch_size or 1, config.gradient_accumulation_steps)
    sets = build_method(config, family.task.family).sets
    # A method that looks at captions alone may make its samples itself.
    count = min(2 * shard.total, max(image_counts(planned).values()) or shard.total)
    task = denoiser_task(
        config,
        family,
        model,
        parameters,
        scheduler=family.scheduler.from_config(schedule),
        cache=_cache(planned, dict.fromkeys(sets, count)),
        shard=shard,
        device=torch.device("cpu"),
        autocast=partial(torch.autocast, "cpu", torch.bfloat16) if bf16 else nullcontext,
        text=text,
    )
    # Rows are numbers that simulated tensors lack, too.
    task.captions = defaultdict(str)
    # The real table depends on the content of the conditions, which simulated tensors lack.
    task.counterparts = torch.zeros(ROWS, 1, dtype=torch.long)
    # Denoising needs less than the step that follows, and its path depends on values.
    task.denoised = lambda step, **_: task.batches("forget", step)  # type: ignore[method-assign]
    return task


def _cache(planned: ConceptPlan, counts: dict[str, int]) -> LatentCache:
    shape = latent_shape(planned)
    sets = {}
    for name, count in counts.items():
        rows = torch.zeros(count, dtype=torch.long)
        sets[name] = EncodedImages(torch.empty(count, *shape), torch.empty(count, *shape), rows)
    conditions = planned.family.conditions(planned.source.path, ROWS)
    if "states" in conditions:
        words = conditions["states"].shape[:2]
        conditions["concept"] = torch.zeros(words, dtype=torch.bool)
        conditions["last"] = torch.zeros(ROWS, dtype=torch.long)
    return LatentCache(sets, conditions, torch.zeros(ROWS, 1, dtype=torch.long), 0)


def _noised(task: DenoiserTask, count: int) -> Noised:
    """A batch to predict, without content."""
    shape = next(iter(task.cache.sets.values())).mean.shape[1:]
    sample = torch.empty(count, *shape)
    rows = torch.zeros(count, dtype=torch.long)
    return Noised(sample, sample, sample, rows, rows, rows)
