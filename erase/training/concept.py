"""`erase concept`: forget and retain sets, cached latents, the loop, and a complete pipeline."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from accelerate import Accelerator

from erase.config.methods import build_method
from erase.config.replay import Replay
from erase.data.prompts import prompts_hash, prompts_root
from erase.errors import RunError
from erase.files import fingerprint
from erase.models.base_card import licence_header
from erase.models.loading import load_pipeline, save_pipeline
from erase.models.lora import FOLDER as LORA
from erase.models.lora import fuse_lora, lora_weights, save_lora
from erase.models.modelspec import provenance
from erase.report.card import model_card
from erase.runs.checkpoint import remove_checkpoints
from erase.runs.device import say_device
from erase.runs.manifest import check, note_files
from erase.runs.processes import Distributed, Shard, make_accelerator
from erase.runs.record import RunRecord, device_peak
from erase.runs.run_folder import RunFolder, deciding, replacing_parts
from erase.tasks.latents import LatentCache
from erase.training.distinct import bits, check_changed, check_encoded
from erase.training.estimate import check_fits
from erase.training.filters import load_filter
from erase.training.loop import UnlearningLoop, build_optimizer
from erase.training.plan import ConceptPlan, Run, plan
from erase.training.sets import Images, render_set
from erase.training.trained import (
    TEXT,
    denoiser_task,
    live_text,
    trained_parameters,
    trained_parts,
    trained_text,
)
from erase.training.validation import Validation

KIND = "concept"
CACHE = "latents.safetensors"


def erase_concept(
    config: Run,
    output: Path,
    *,
    replay: Replay[Run] | None = None,
    overwrite: bool = False,
    resume: str | None = None,
    device: str | None = None,
) -> Path:
    """Run the whole unlearning of a concept and return the run folder.

    `replay` is the configuration file, if it is of another method. With `resume` (`latest` or a
    checkpoint), a run that was interrupted at any point continues, and ends with the weights of an
    undisturbed run.
    """
    planned = plan(config, replay, device=device)
    check_fits(planned, output, device)
    accelerator = make_accelerator(planned.config, output, device)
    say_device(str(accelerator.device), device)
    _print_warnings(planned.notes)
    facts = {**planned.facts, "processes": accelerator.num_processes}
    folder = RunFolder(
        output,
        KIND,
        planned.config,
        overwrite=overwrite,
        resume=resume,
        facts=facts,
        inputs=planned.inputs,
    )
    distributed = Distributed.of(accelerator)
    state = distributed.on_main(folder.state)
    if state.finished:
        accelerator.print(f"The run in {output} is finished; there is nothing to resume.")
        return output
    with folder.hold(distributed, **_provenance(planned, accelerator), facts=facts) as record:
        seconds = _run(planned, folder, accelerator, state.checkpoint, record)
        if record:
            peak = device_peak(accelerator.device)
            record.finish(train_seconds=round(seconds, 3), device_peak_memory_bytes=peak)
    accelerator.end_training()
    return output


def _provenance(planned: ConceptPlan, accelerator: Accelerator) -> dict[str, Any]:
    config, source, concept = planned.config, planned.source, planned.concept
    return {
        "method": config.method,
        "trained_parts": list(trained_parts(config, planned.family)),
        "base_model": source.full_name,
        "base_revision": source.revision,
        "base_fingerprint": planned.facts["base"],
        "target": concept.target(),
        **planned.carried,
        "seed": config.seed,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "prompts_hash": prompts_hash(prompts_root(config.prompts)),
    }


def _print_warnings(notes: Sequence[str]) -> None:
    for note in notes if Distributed.launched().is_main else ():
        click.echo(f"Warning: {note}.", err=True)


def _run(
    planned: ConceptPlan,
    folder: RunFolder,
    accelerator: Accelerator,
    checkpoint: Path | None,
    record: RunRecord | None,
) -> float:
    """Run everything; returns the seconds of the method, with its preparation."""
    config, source, output = planned.config, planned.source, folder.path
    cache = _latents(planned, output, accelerator)
    family = planned.family
    method = build_method(config, family.task.family)
    pipeline = load_pipeline(source, **family.unloaded(text=method.reads_text))
    unet = getattr(pipeline, family.component).to(accelerator.device)
    unet.train()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    text = None
    if method.reads_text:
        text = live_text(pipeline, family, config.resolution or 0, accelerator.device)
    parts = {name: getattr(pipeline, name) for name in trained_parts(config, family)}
    if config.trainable == TEXT:
        parameters = trained_text(parts, unet)
    else:
        parameters = trained_parameters(unet, config)
    task = denoiser_task(
        config,
        family,
        unet,
        parameters,
        scheduler=family.training_scheduler(pipeline),
        cache=cache,
        shard=Shard.of(config, accelerator),
        device=accelerator.device,
        autocast=accelerator.autocast,
        text=text,
    )
    if config.report_to:
        # TensorBoard takes single values only.
        settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in config.to_dict().items()
            if value is not None
        }
        accelerator.init_trackers("erase", config=settings)
    validation = Validation(config, source, parts, parameters, accelerator, output)

    def on_step(done: int, row: Mapping[str, Any]) -> None:
        accelerator.log(dict(row), step=done)
        if validation.due(done):
            validation(done, loop.ema.shadow_params if loop.ema else None)

    loop = UnlearningLoop(
        task,
        method,
        config,
        accelerator,
        build_optimizer(config, list(parameters.values())),
        folder=output,
        on_step=on_step,
        run=folder.identity(),
        # What does not fit into fp16 is noticed when the model is saved: the state must outlive it.
        keep_last=config.save_dtype == "fp16",
        on_save=record.update if record else lambda: None,
    )
    validation.start()
    before = bits(parameters.values())
    start = time.perf_counter()
    loop.run(checkpoint)
    seconds = loop.seconds_before + time.perf_counter() - start
    check_changed(before, parameters.values(), loop.forget_losses)
    validation(config.max_train_steps or 0)
    Distributed.of(accelerator).on_main(lambda: _save(planned, parts, output))
    if config.save_dtype == "fp16" and not config.checkpointing_steps:
        Distributed.of(accelerator).on_main(lambda: remove_checkpoints(output))
    return seconds


def _latents(planned: ConceptPlan, output: Path, accelerator: Accelerator) -> LatentCache:
    """The cache in the run folder; the first use renders or reads the sets and encodes them."""
    config, source, concept = planned.config, planned.source, planned.concept
    path = output / CACHE
    distributed = Distributed.of(accelerator)
    if not distributed.on_main(path.is_file):
        pipeline = load_pipeline(source)
        pipeline.to(accelerator.device)
        method = build_method(config, planned.family.task.family)
        sets: dict[str, Any] = {
            name: _images(planned, name, pipeline, output, accelerator) for name in method.sets
        }

        def write_cache() -> None:
            planned.family.encode(
                pipeline,
                sets,
                dict(zip(concept.forget, concept.anchors, strict=True)),
                size=config.resolution or source.resolution(),
                device=accelerator.device,
                prompts=method.prompts,
            ).write(path)
            note_files(output, CACHE)

        distributed.on_main(write_cache)
    else:
        distributed.on_main(lambda: check(output, CACHE))
    cache = LatentCache.read(path)
    check_encoded(cache)
    return cache


def _images(
    planned: ConceptPlan, name: str, pipeline: Any, output: Path, accelerator: Accelerator
) -> Images:
    """The images of a set: the user's, or else rendered into the run folder."""
    if name in planned.sets:
        return planned.sets[name]
    config, concept = planned.config, planned.concept
    chosen = getattr(config, f"filter_{name}", None)
    return render_set(
        name,
        config,
        concept,
        pipeline,
        output / "data" / name,
        accelerator,
        fingerprint=fingerprint([deciding(config), planned.facts, name]),
        image_filter=load_filter(chosen, config, concept) if chosen else None,
    )


def _save(planned: ConceptPlan, parts: Mapping[str, Any], output: Path) -> None:
    """Write the complete pipeline into the run folder; each part is replaced by a rename.

    Adapters are added to the weights, and also written as files of their own.
    """
    config, source = planned.config, planned.source
    adapters = {}
    if config.lora_rank:  # on the denoiser, the only part that is trained then
        unet = parts[planned.family.component]
        adapters = lora_weights(unet)
        fuse_lora(unet)
    dtype = torch.float16 if config.save_dtype == "fp16" else torch.float32
    pipeline = load_pipeline(source, **{name: part.to("cpu") for name, part in parts.items()})
    with replacing_parts(output) as folder:
        try:
            save_pipeline(pipeline, folder, dtype)
        except RunError as error:
            if dtype == torch.float32:
                raise
            raise RunError(
                error.message,
                "The trained state is in the last checkpoint: give the same command with"
                " --save-dtype fp32 --resume-from-checkpoint latest.",
            ) from error
        if adapters and hasattr(pipeline, "load_lora_weights"):
            header = provenance(
                erased=planned.concept.names,
                method=config.method,
                base=source.full_name,
                revision=source.revision,
                fingerprint=planned.facts["base"],
            )
            header |= licence_header(source.path, source.full_name)
            save_lora(folder / LORA, adapters, header, planned.family.component)
    base = planned.facts["base"]
    model_card(output, config, source, planned.concept, base, planned.carried)
