"""`erase concept`: forget and retain sets, cached latents, the loop, and a complete pipeline."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, UNet2DConditionModel
from tqdm import tqdm

from erase import registry
from erase.config import ConceptConfig
from erase.core.params import select_parameters
from erase.core.rng import derive_seed
from erase.core.scoring import Sample
from erase.data.captioned import CaptionedImages, check_readable, read_folder, write_captions
from erase.data.prompts import Concept, find_concept, prompts_hash, prompts_root, read_prompts
from erase.errors import EraseError, InputError
from erase.evaluation.render import render
from erase.models.loading import ModelSource, load_pipeline, resolve, save_pipeline
from erase.record import RunRecord, atomic_directory, fingerprint
from erase.tasks.protocol import Method
from erase.tasks.text_to_image import LatentCache, Shard, TextToImageTask, encode
from erase.training.card import model_card
from erase.training.checkpoint import find_checkpoint
from erase.training.folder import (
    CONFIG,
    clear_run_folder,
    deciding,
    is_finished,
    open_run_folder,
)
from erase.training.loop import UnlearningLoop, build_optimizer
from erase.training.recipes import recipe

ALIASES = {"joint": "lur-b"}
CACHE = "latents.safetensors"


def plan(config: ConceptConfig) -> tuple[ConceptConfig, ModelSource, Concept]:
    """Resolve the model, the concept and all defaults; touches nothing.

    Raises InputError for anything that cannot be used.
    """
    source = resolve(config.model, config.revision)
    root = prompts_root(config.prompts)
    concept = find_concept(
        config.concept,
        root,
        anchor=config.anchor,
        forget=read_prompts(config.forget_prompts) if config.forget_prompts else None,
        retain=read_prompts(config.retain_prompts) if config.retain_prompts else None,
    )
    for folder, prompts in (
        (config.forget_images, concept.forget),
        (config.retain_images, concept.retain),
    ):
        if folder:
            check_readable(read_folder(Path(folder), prompts))
    config = config.replace(method=ALIASES.get(config.method, config.method))
    resolution = config.resolution or source.resolution()
    config = config.replace(resolution=resolution).with_defaults(recipe(resolution))
    settings = registry.load("methods", config.method).Settings()
    config = config.with_defaults(
        {name: getattr(settings, name, None) for name in ("alpha", "forget_weight", "meta_mode")}
    )
    _check_ranges(config)
    with torch.device("meta"):
        # Names and shapes only: a selection that matches nothing shows before anything is rendered.
        settings = UNet2DConditionModel.load_config(str(source.path / "unet"))
        unet = UNet2DConditionModel.from_config(settings)
    select_parameters(unet, config.trainable)
    return config, source, concept


def _check_ranges(config: ConceptConfig) -> None:
    least: Mapping[str, float] = {
        "max_train_steps": 1,
        "train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_forget_images": 1,
        "num_retain_images": 1,
        "render_steps": 1,
        "render_batch_size": 1,
        "lr_warmup_steps": 0,
        "checkpointing_steps": 0,
        "checkpoints_total_limit": 0,
        "learning_rate": 0,
        "alpha": 0,
        "forget_weight": 0,
        "max_grad_norm": 0,
        "weight_decay": 0,
        "seed": 0,
        "forget_guidance": 1,
        "retain_guidance": 1,
    }
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and not value >= low:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is {value}.", f"Give a value of at least {low:g}.")
    for name in ("caption_dropout", "ema_decay"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is {value}.", "Give a value from 0 to below 1.")


def build_method(config: ConceptConfig, family: str) -> Method:
    """The method with its settings; InputError when it is not defined for the task's family."""
    module = registry.load("methods", config.method)
    if family not in module.Method.families:
        raise InputError(
            f"The method {config.method!r} is not defined for {family} models.",
            "Choose another --method.",
        )
    names = set(module.Settings.__dataclass_fields__)
    given = {
        name: getattr(config, name)
        for name in ("alpha", "forget_weight", "meta_mode")
        if name in names and getattr(config, name) is not None
    }
    method: Method = module.Method(module.Settings(**given))
    return method


def erase_concept(
    config: ConceptConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: str | None = None,
    device: str | None = None,
) -> Path:
    """Run the whole unlearning of a concept and return the run folder.

    With `resume` (`latest` or a checkpoint), a run that was interrupted at any point goes on and
    ends with the weights that it would have had undisturbed.
    """
    config, source, concept = plan(config)
    accelerator = _accelerator(config, device)
    continued = open_run_folder(output, config, overwrite=overwrite, resume=resume is not None)
    checkpoint = find_checkpoint(output, resume) if resume and continued else None
    accelerator.wait_for_everyone()
    if continued and is_finished(output):
        accelerator.print(f"The run in {output} is finished; there is nothing to resume.")
        return output
    record = None
    if accelerator.is_main_process:
        if not continued:
            clear_run_folder(output)
        config.write(output / CONFIG)
        record = RunRecord(output, **_provenance(config, source, concept, accelerator))
    accelerator.wait_for_everyone()
    try:
        _run(config, source, concept, output, accelerator, checkpoint)
    except (EraseError, KeyboardInterrupt) as error:
        if record:
            record.fail(str(error) or type(error).__name__)
        raise
    if record:
        record.finish(device_peak_memory_bytes=_device_peak(accelerator.device))
    accelerator.end_training()
    return output


def _accelerator(config: ConceptConfig, device: str | None) -> Accelerator:
    if device and device != "cpu":
        # accelerate reads the device from here; it has no argument for it.
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    set_seed(config.seed)
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision=config.mixed_precision,
        log_with=config.report_to,
        project_dir=None,
    )


def _provenance(
    config: ConceptConfig, source: ModelSource, concept: Concept, accelerator: Accelerator
) -> dict[str, Any]:
    return {
        "kind": "concept",
        "method": config.method,
        "base_model": source.name,
        "base_revision": source.revision,
        "base_fingerprint": source.fingerprint(),
        "target": {"suite": concept.suite, "concepts": [concept.name]},
        "seed": config.seed,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "prompts_hash": prompts_hash(prompts_root(config.prompts)),
    }


def _device_peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _run(
    config: ConceptConfig,
    source: ModelSource,
    concept: Concept,
    output: Path,
    accelerator: Accelerator,
    checkpoint: Path | None,
) -> None:
    cache = _latents(config, source, concept, output, accelerator)
    pipeline = load_pipeline(source, vae=None, text_encoder=None)
    unet = pipeline.unet.to(accelerator.device)
    unet.train()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    parameters = select_parameters(unet, config.trainable)
    bf16 = config.mixed_precision == "bf16"
    task = TextToImageTask(
        unet=unet,
        scheduler=DDPMScheduler.from_config(pipeline.scheduler.config),
        cache=cache,
        parameters=parameters,
        shard=Shard(
            config.train_batch_size or 1,
            config.gradient_accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        ),
        seed=config.seed,
        device=accelerator.device,
        caption_dropout=config.caption_dropout,
        target_grad=config.target_grad,
        frozen_anchor=config.frozen_anchor,
        precision="bf16" if bf16 else None,
        autocast=accelerator.autocast,
    )
    if config.report_to:
        accelerator.init_trackers("erase", config=config.to_dict())
    loop = UnlearningLoop(
        task,
        build_method(config, task.family),
        config,
        accelerator,
        build_optimizer(config, list(parameters.values())),
        folder=output,
        on_step=lambda step, row: accelerator.log(dict(row), step=step),
    )
    loop.run(checkpoint)
    if accelerator.is_main_process:
        _save(config, source, concept, unet, output)
    accelerator.wait_for_everyone()


def _latents(
    config: ConceptConfig,
    source: ModelSource,
    concept: Concept,
    output: Path,
    accelerator: Accelerator,
) -> LatentCache:
    """The cache of the run folder, made on first use: render or read both sets, encode once."""
    path = output / CACHE
    if not path.is_file():
        pipeline = load_pipeline(source)
        pipeline.to(accelerator.device)
        forget = _images(config, concept, "forget", pipeline, output, accelerator)
        retain = _images(config, concept, "retain", pipeline, output, accelerator)
        if accelerator.is_main_process:
            encode(
                pipeline,
                forget,
                retain,
                dict(zip(concept.forget, concept.anchors, strict=True)),
                size=config.resolution or source.resolution(),
                device=accelerator.device,
            ).write(path)
        del pipeline
        accelerator.wait_for_everyone()
    return LatentCache.read(path)


def _images(
    config: ConceptConfig,
    concept: Concept,
    name: str,
    pipeline: Any,
    output: Path,
    accelerator: Accelerator,
) -> CaptionedImages:
    prompts: tuple[str, ...] = getattr(concept, name)
    folder = getattr(config, f"{name}_images")
    if folder:
        return read_folder(Path(folder), prompts)
    samples = [
        Sample(
            id=f"{index:05d}",
            prompt=prompts[index % len(prompts)],
            seed=derive_seed(config.seed, "render", name, index),
            guidance=getattr(config, f"{name}_guidance"),
        )
        for index in range(getattr(config, f"num_{name}_images"))
    ]
    rendered = output / "data" / name
    with tqdm(
        desc=f"render the {name} set",
        unit="image",
        total=len(samples),
        disable=not accelerator.is_main_process,
    ) as bar:
        files = render(
            pipeline,
            samples,
            rendered,
            steps=config.render_steps or 1,
            batch_size=config.render_batch_size or 1,
            size=config.resolution,
            device=str(accelerator.device),
            # The model cannot change within a run folder, and resuming checks the settings.
            fingerprint=fingerprint([deciding(config), name]),
            progress=lambda done, _: bar.update(done - bar.n),
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        names = [str(file.relative_to(rendered)) for file in files]
        write_captions(rendered, dict(zip(names, (s.prompt for s in samples), strict=True)))
    accelerator.wait_for_everyone()
    return read_folder(rendered, prompts)


def _save(
    config: ConceptConfig, source: ModelSource, concept: Concept, unet: Any, output: Path
) -> None:
    """Write the complete pipeline into the run folder, part by part, each by renaming."""
    dtype = torch.float16 if config.save_dtype == "fp16" else torch.float32
    pipeline = load_pipeline(source, unet=unet.to("cpu"))
    with atomic_directory(output / ".pipeline") as aside:
        save_pipeline(pipeline, aside, dtype)
    for part in sorted((output / ".pipeline").iterdir()):
        target = output / part.name
        if target.is_dir():
            shutil.rmtree(target)
        part.replace(target)
    (output / ".pipeline").rmdir()
    model_card(output, config, source, concept)
