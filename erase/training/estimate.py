"""What a run will need: memory by phase and disk space, found without running it.

The training step, the denoiser of the renders and the VAE are carried out on tensors without
content (`erase.training.live_bytes`), in the code that a run uses, so the estimate follows the
settings as the run does: method, mode of the meta step, selection or adapter, batch, precision,
checkpointing, moving average.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from erase.config.concept import ConceptConfig
from erase.config.methods import build_method
from erase.data.captioned import CaptionedImages
from erase.errors import InputError
from erase.files import read_json
from erase.runs.processes import Shard
from erase.tasks.denoiser import DenoiserTask, EncodedImages, LatentCache
from erase.tasks.encoding import encode_batch
from erase.tasks.protocol import Noised
from erase.training.live_bytes import EightBitAdam, LiveBytes, peak_of, simulate
from erase.training.loop import UnlearningStep, build_optimizer
from erase.training.plan import ConceptPlan
from erase.training.sets import Images
from erase.training.trained import denoiser_task, trained_parameters
from erase.training.validation import validation_prompts

UNSEEN = 59 * 2**20
"""What a run on a CPU takes for modules that are imported after the dry run has looked."""
SLACK = {"else": 0.48, "checkpointing": 2.0, "adapters": 0.96}
"""What glibc's heap keeps on a CPU, as a share of `LiveBytes.churn`. Each is fitted to
runs on mini-sd (glibc 2.36, `hvp`): batches of 256; with checkpointing of 256 and 512."""
SMALL = 64
PNG = {True: 2.0, False: 2.5}
"""Bytes a pixel of a PNG, up to `SMALL` pixels a side and beyond. Measured: 2.0 on mini-sd's
renders of two steps; 1.9 and 3.0 on two photographs of scikit-image."""
ROWS = 4
"""Conditions in the simulated cache; their number in the run is added apart."""


@dataclass(frozen=True)
class Estimate:
    """Bytes. `phases` are the most that tensors take in each phase, on the device of the run.

    On a CPU `base` is what the process holds beside them (the interpreter and the libraries); on a
    GPU it is 0, for the context there is not PyTorch's. `slack` is what the allocator keeps.
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
        """For people."""
        memory = ", ".join(f"{name} {_size(value)}" for name, value in self.phases.items())
        if self.base:
            memory += f"; libraries {_size(self.base)}; allocator {_size(self.slack)}"
        disk = ", ".join(f"{name} {_size(value)}" for name, value in self.disk.items() if value)
        return [
            f"memory: about {_size(self.memory)} ({memory})",
            f"disk: about {_size(self.space)} ({disk})",
        ]


def _size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def estimate(planned: ConceptPlan, *, device: str | None = None) -> Estimate:
    """Find out what a planned run needs; touches nothing.

    Args:
        planned: the run.
        device: as `--device`; None is taken for a GPU where there is one.

    Raises:
        InputError: the model's family or the method cannot be simulated.
    """
    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    before = psutil.Process().memory_info().rss if on_cpu else 0
    try:
        with simulate() as counted:
            phases, trained = _phases(planned, counted)
    except (NotImplementedError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"The memory of this run cannot be estimated ({type(error).__name__}: {error}).",
            "Run a few steps and read peak_memory_bytes in record.json.",
        ) from error
    base = before + UNSEEN if on_cpu else 0
    slack = round(_share(planned) * counted.churn) if on_cpu else 0
    return Estimate(phases, base, _disk(planned, trained), slack)


def _share(planned: ConceptPlan) -> float:
    """What the C library's heap keeps, as a share of the tensors that come and go."""
    if planned.config.gradient_checkpointing:
        return SLACK["checkpointing"]
    return SLACK["adapters" if planned.config.lora_rank else "else"]


def _phases(planned: ConceptPlan, counted: LiveBytes) -> tuple[dict[str, int], int]:
    """Peaks by phase, and how many parameters are trained."""
    config, source, family = planned.config, planned.source, planned.family
    model = family.model.from_config(family.model.load_config(str(source.path / family.component)))
    phases = _sets(planned, model, counted)
    model.train()
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    parameters = trained_parameters(model, config)
    task = _task(planned, model, parameters)
    trained = sum(p.numel() for p in parameters.values())
    cached = _cache_bytes(planned)
    phases["train"] = _train(planned, task, counted) + cached
    # The other parts come back for the complete pipeline, beside what training still holds.
    others = sum(4 * _parameters(source.path / name) for name in family.frozen)
    phases["save"] = counted.live + cached + others
    return phases, trained


def _sets(planned: ConceptPlan, model: Any, counted: LiveBytes) -> dict[str, int]:
    """Peaks while the sets are rendered and encoded, with the whole pipeline in memory."""
    config, source, family = planned.config, planned.source, planned.family
    task = _task(planned, model, dict(model.named_parameters()))
    others = sum(4 * _parameters(source.path / name) for name in family.frozen if name != "vae")
    vae: Any = None
    if "vae" in family.frozen:
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(str(source.path / "vae")))
    phases = {}
    with torch.no_grad():
        if _renders(planned):
            batch = config.render_batch_size or 1
            guided = max(config.forget_guidance or 1.0, config.retain_guidance or 1.0) > 1.0
            shown = _noised(task, 2 * batch if guided else batch)
            peak = peak_of(counted, lambda: task.predict(shown))
            if vae is not None:
                latents = shown.clean[:batch]
                peak = max(peak, peak_of(counted, lambda: vae.decode(latents)))
            phases["render"] = peak + others
        size = config.resolution or source.resolution()
        count = min(encode_batch(size), max(_images(planned).values()))
        if vae is not None and count:  # a method of captions alone has no images
            images = torch.empty(count, 3, size, size)
            phases["encode"] = peak_of(counted, lambda: vae.encode(images)) + others
    return phases


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


def _task(planned: ConceptPlan, model: Any, parameters: Any) -> DenoiserTask:
    """The run's task on sets of two batches: their whole size is added apart."""
    config, family = planned.config, planned.family
    bf16 = config.mixed_precision == "bf16"
    shard = Shard(config.train_batch_size or 1, config.gradient_accumulation_steps)
    sets = build_method(config, family.task.family).sets
    count = min(2 * shard.total, max(_images(planned).values()))
    scheduler = read_json(planned.source.path / "scheduler" / "scheduler_config.json")
    task = denoiser_task(
        config,
        family,
        model,
        parameters,
        scheduler=family.scheduler.from_config(scheduler),
        cache=_cache(planned, dict.fromkeys(sets, count)),
        shard=shard,
        device=torch.device("cpu"),
        autocast=partial(torch.autocast, "cpu", torch.bfloat16) if bf16 else nullcontext,
    )
    # Which conditions stand for which depends on content, which there is none of.
    task.counterparts = torch.zeros(ROWS, 1, dtype=torch.long)
    return task


def _shape(planned: ConceptPlan) -> tuple[int, int, int]:
    """Channels, height and width of what the denoiser sees."""
    source = planned.source
    network = read_json(source.path / planned.family.component / "config.json")
    size = (planned.config.resolution or source.resolution()) // source.latent_factor()
    return int(network["in_channels"]), size, size


def _conditions(planned: ConceptPlan, rows: int) -> dict[str, Tensor]:
    """What the denoiser is shown, of the shapes that the family has, without content."""
    return planned.family.conditions(planned.source.path, rows)


def _cache(planned: ConceptPlan, counts: dict[str, int]) -> LatentCache:
    shape = _shape(planned)
    sets = {}
    for name, count in counts.items():
        rows = torch.zeros(count, dtype=torch.long)
        sets[name] = EncodedImages(torch.empty(count, *shape), torch.empty(count, *shape), rows)
    conditions = _conditions(planned, ROWS)
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


def _images(planned: ConceptPlan) -> dict[str, int]:
    """How many images each set has."""
    found = {}
    for name in build_method(planned.config, planned.family.task.family).sets:
        given = planned.sets.get(name)
        found[name] = (
            _length(given)
            if given is not None
            else getattr(planned.config, f"num_{name}_images") or 1
        )
    return found


def _length(images: Images) -> int:
    return len(images.paths) if isinstance(images, CaptionedImages) else len(images)


def _renders(planned: ConceptPlan) -> int:
    """How many images the run renders for its sets."""
    return sum(count for name, count in _images(planned).items() if name not in planned.sets)


def _cache_bytes(planned: ConceptPlan) -> int:
    """Size of the cached sets and conditions."""
    channels, height, width = _shape(planned)
    moments = 1 if planned.source.latent_factor() == 1 else 2
    images = sum(_images(planned).values()) * moments * channels * height * width * 4
    concept = planned.concept
    anchors = {text for texts in concept.anchors for text in texts}
    prompts = len({"", *concept.forget, *concept.retain, *anchors})
    with torch.device("meta"):
        one = _conditions(planned, 1)
    return images + prompts * sum(t.numel() * t.element_size() for t in one.values())


def _parameters(folder: Path) -> int:
    """Number of values in a part's weight files."""
    from safetensors import safe_open

    count = 0
    files = sorted(folder.glob("*.safetensors"))
    marked = [file for file in files if ".fp16." in file.name]
    for file in marked if len(marked) == len(files) else sorted({*files} - {*marked}):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                count += math.prod(opened.get_slice(name).get_shape())
    return count


def _disk(planned: ConceptPlan, trained: int) -> dict[str, int]:
    """What the run's folder holds at the most, by what it is."""
    config, path = planned.config, planned.source.path
    side = config.resolution or planned.source.resolution()
    image = PNG[side <= SMALL] * side**2
    steps, every = config.max_train_steps or 0, config.checkpointing_steps
    kept = 0
    if every:
        kept = math.ceil(steps / every)
        if config.checkpoints_total_limit:
            kept = min(kept, config.checkpoints_total_limit + 1)  # one more while it is written
    state = 4 + (2.03 if config.use_8bit_adam else 8) + (4 if config.ema_decay else 0)
    parts = [part for part in path.iterdir() if (part / "config.json").is_file()]
    values = sum(_parameters(part) for part in parts)
    rows = len(validation_prompts(config))
    every = config.validation_steps
    rows *= 2 + (math.ceil(steps / every) - 1 if every else 0)
    return {
        "images": round(image * _renders(planned)),
        "latents": _cache_bytes(planned),
        "checkpoints": round(kept * state * trained),
        "model": values * (2 if config.save_dtype == "fp16" else 4),
        "adapter": 4 * trained if config.lora_rank else 0,
        "validation": round(2 * image * rows),  # single images, and the sheet
    }
