"""The run folders of `erase train classifier` and `erase classifier`."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from erase.config.classifier import ClassifierConfig, TrainConfig, fill
from erase.config.fields import field_specs
from erase.config.replay import Replay
from erase.data.classification import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassificationData,
    load_dataset,
    validation_indices,
)
from erase.data.forget import forget_indices, is_class_wise
from erase.errors import InputError
from erase.files import fingerprint, hash_file, hash_files, read_json, write_json
from erase.judges.classifier_scores import ClassifierScores, accuracy, evaluate, predict
from erase.models.classifiers import (
    DESCRIPTION,
    WEIGHTS,
    Classifier,
    Description,
    build,
    import_weights,
    save_classifier,
)
from erase.runs.checks import check_memory
from erase.runs.device import choose_device, say_device
from erase.runs.run_folder import RunFolder
from erase.scoring.classifier_metric import load_classifier_metrics
from erase.training.classifier import (
    Original,
    describe_result,
    open_original,
    run_method,
    trained_indices,
    warn_of_other_data,
)
from erase.training.classifier_measures import (
    FORGET,
    METRICS,
    labels_of,
    measure_run,
    open_retrained,
)
from erase.training.distinct import bits, check_changed
from erase.training.worst import hardest


@dataclass(frozen=True)
class Measured:
    """What `METRICS` says of the scores."""

    scores: ClassifierScores


ARCHITECTURES = {
    "digits": "cnn",
    "cifar10": "resnet18",
    "cifar100": "resnet18",
    "celeba": "resnet34",
}


def train_original(
    config: TrainConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: str | None = None,
    device: str | None = None,
    show: bool = True,
) -> Path:
    """`erase train classifier`: train, or import, an original and save it in a run folder."""
    chosen_device = torch.device(choose_device(device))
    original = untrained_original(config, chosen_device)
    data, description = original.data, original.description
    config = config.replace(arch=description.arch)
    run = _plan_training(config, data.recipe)
    if config.weights:
        description = import_weights(original.model, description, Path(config.weights))
        original = replace(original, description=description)
        run = run.replace(epochs=0)
    folder = RunFolder(
        output,
        "train classifier",
        config,
        overwrite=overwrite,
        resume=resume,
        facts={
            "images": description.data_sha256,
            "weights": hash_file(Path(config.weights)) if config.weights else None,
        },
        inputs=(config.data_dir, config.weights),
    )
    state = folder.state()
    if state.finished:
        return output
    if show:
        say_device(str(chosen_device), device)
    with folder.hold(seed=config.seed, device=str(chosen_device), facts=folder.facts) as record:
        nothing = torch.zeros(0, dtype=torch.long)
        if run.epochs:
            outcome = run_method(
                original,
                nothing,
                run,
                folder=output,
                resume=state.checkpoint,
                run=folder.identity(),
                on_save=record.update if record else lambda: None,
                show=show,
            )
            model, seconds = outcome.model, outcome.seconds
        else:
            model, seconds = original.model.eval(), 0.0
        facts = {
            "train_accuracy": _accuracy(model, original, train=True, mixed=config.mixed_precision),
            "test_accuracy": _accuracy(model, original, train=False, mixed=config.mixed_precision),
            "pretrained": config.pretrained,
            "seed": config.seed,
        }
        save_classifier(output, *describe_result(original, model, **facts))
        if record:
            record.finish(seconds=round(seconds, 3), **facts)
    return output


def untrained_original(config: TrainConfig, device: torch.device) -> Original:
    """What `train_original` starts from: fresh weights, the data, and its split."""
    data = load_dataset(
        config.dataset,
        Path(config.data_dir) if config.data_dir else None,
        image_size=config.resolution,
        limit=config.limit,
        images_per_class=config.images_per_class,
        crop_padding=config.crop_padding,
        follow_links=config.follow_links,
    )
    config = config.replace(arch=config.arch or ARCHITECTURES[data.recipe])
    description = _describe(config, data)
    model = build(description, seed=config.seed, pretrained=config.pretrained)
    return Original(
        model.to(device), description, data.to(device), trained_indices(data, description)
    )


def _plan_training(config: TrainConfig, recipe: str) -> ClassifierConfig:
    shared = {
        name: getattr(config, name)
        for name in ClassifierConfig().to_dict()
        if hasattr(config, name)
    }
    shared.pop("data_dir")
    # `retrain` would reset ImageNet weights, so they are fine-tuned on D_r.
    method = "ft" if config.pretrained else "retrain"
    filled = fill(ClassifierConfig(**shared, method="retrain"), recipe, 0.0)
    return filled.replace(method=method)


def _describe(config: TrainConfig, data: ClassificationData) -> Description:
    share = 0.0 if config.weights else config.validation_share
    validation = validation_indices(data.train.labels, share, 0)
    imagenet = config.normalization == "imagenet"
    return Description(
        arch=config.arch or "",
        classes=data.classes,
        image_size=data.augmentation.size,
        mean=IMAGENET_MEAN if imagenet else data.mean,
        std=IMAGENET_STD if imagenet else data.std,
        dataset=config.dataset,
        data_dir=str(Path(config.data_dir).resolve()) if config.data_dir else None,
        limit=config.limit,
        images_per_class=config.images_per_class,
        crop_padding=config.crop_padding,
        follow_links=config.follow_links,
        data_sha256=data.sha256(),
        validation=tuple(validation.tolist()),
    )


def _accuracy(model: Classifier, original: Original, *, train: bool, mixed: str) -> float:
    images = original.data.train.subset(original.trained_on) if train else original.data.test
    cast = autocast(mixed, original.device)
    return accuracy(
        predict(model, images, original.data.augmentation, autocast=cast), images.labels
    )


def autocast(mixed: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """A function that makes the autocast context of a forward pass."""
    return (lambda: torch.autocast(device.type, torch.bfloat16)) if mixed == "bf16" else nullcontext


def erase_classifier(
    config: ClassifierConfig,
    output: Path,
    *,
    replay: Replay[ClassifierConfig] | None = None,
    overwrite: bool = False,
    resume: str | None = None,
    device: str | None = None,
    show: bool = True,
) -> tuple[Path, ClassifierScores]:
    """`erase classifier`: forget, measure, and save the result in a run folder.

    `replay` is the configuration file, if it is of another method.
    """
    for name in ("model", "forget"):
        if not getattr(config, name):
            raise InputError(f"--{name} is missing.", f"Give --{name}, or a --config that has it.")
    where = torch.device(choose_device(device))
    original = open_original(Path(config.model), where, config.data_dir)
    warn_of_other_data(original, config.model)
    forget = choose_forget(original, config)
    share = len(forget) / len(original.trained_on)

    def resolve_settings(config: ClassifierConfig) -> ClassifierConfig:
        return fill(config, original.data.recipe, share)

    if replay is None:
        config = resolve_settings(config)
    else:
        config = resolve_settings(replay.without_defaults(config, resolve_settings))
        if note := replay.left_out(config):
            click.echo(f"Warning: {note}.", err=True)
    for metric in load_classifier_metrics(config.metrics):
        metric.check(labels_of(original.data, forget))
    retrained = open_retrained(original, forget, config)
    batch, spec = config.train_batch_size, field_specs(ClassifierConfig)["train_batch_size"]
    image = original.data.train.images[0].numel()
    check_memory(spec, batch, 2 * 4 * image * (batch or 1), str(original.device))
    folder = RunFolder(
        output,
        "classifier",
        config,
        overwrite=overwrite,
        resume=resume,
        facts={
            "original": hash_files(
                [Path(config.model) / name for name in (WEIGHTS, DESCRIPTION)], Path(config.model)
            ),
            "images": original.data.sha256(),
            "forget": fingerprint(forget.tolist()),
        },
        inputs=(config.model, config.data_dir, config.retrained, _indices_file(config.forget)),
    )
    state = folder.state()
    if state.finished:
        return output, read_json(output / METRICS, Measured).scores
    if show:
        say_device(str(original.device), device)
    with folder.hold(
        method=config.method,
        base_model=config.model,
        base_sha256=hash_file(Path(config.model) / WEIGHTS),
        seed=config.seed,
        device=str(original.device),
        facts=folder.facts,
    ) as record:
        write_json(output / FORGET, {"spec": config.forget, "indices": forget.tolist()})
        before = bits(original.model.state_dict().values())
        outcome = run_method(
            original,
            forget,
            config,
            folder=output,
            resume=state.checkpoint,
            run=folder.identity(),
            on_save=record.update if record else lambda: None,
            show=show,
        )
        losses = [row["forget_loss"] for row in outcome.rows if "forget_loss" in row]
        check_changed(before, outcome.model.state_dict().values(), losses)
        start = time.perf_counter()
        scores = score(original, outcome.model, forget, config)
        facts = {"method": config.method, "forget": config.forget}
        save_classifier(output, *describe_result(original, outcome.model, **facts))
        protocol = {"attack": "SVC(C=3, rbf, gamma auto) on true-class confidence"}
        content = {
            "scores": scores.to_dict(),
            "rte_s": round(outcome.seconds, 3),
            "protocol": protocol,
        }
        cast = autocast(config.mixed_precision, original.device)
        measured = measure_run(original, outcome.model, forget, config, retrained, cast)
        content |= {"measured": measured} if measured else {}
        write_json(output / METRICS, content)
        if record:
            scoring = round(time.perf_counter() - start, 3)
            record.finish(rte_s=round(outcome.seconds, 3), scoring_s=scoring)
    return output, scores


def _indices_file(forget: str) -> str | None:
    kind, _, path = forget.partition(":")
    return path if kind == "indices" else None


def choose_forget(original: Original, config: ClassifierConfig) -> Tensor:
    """The forget set of a configuration."""
    seed = config.seed if config.forget_seed is None else config.forget_seed
    return forget_indices(
        config.forget,
        original.data.train.labels,
        original.data.classes,
        trained_on=original.trained_on,
        seed=seed,
        hardest=lambda count: hardest(original, count, seed=seed),
    )


def score(
    original: Original,
    model: Classifier,
    forget: Tensor,
    config: ClassifierConfig,
    *,
    validation: bool = False,
) -> ClassifierScores:
    """Scores of a model; with `validation`, held-out training images replace the test images."""
    train = original.data.train
    retain = original.trained_on[~torch.isin(original.trained_on, forget)]
    without = train.labels.cpu()[forget].unique() if is_class_wise(config.forget) else None
    return evaluate(
        model,
        train.subset(forget),
        train.subset(retain),
        original.held_out() if validation else original.data.test,
        original.data.augmentation,
        seed=config.seed,
        without=without,
        attacks=config.mia_attacks and not validation,
        autocast=autocast(config.mixed_precision, original.device),
    )
