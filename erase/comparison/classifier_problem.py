"""One original and one forget specification: forget sets, configurations, runs and scores.

A comparison and its search of hyper-parameters both stand on this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.comparison.entries import Entry, entry
from erase.comparison.scratch import LIBRARIES, ScratchModels, deciding
from erase.comparison.store import library_versions
from erase.config.classifier import ClassifierConfig, TrainConfig, fill, method_module
from erase.config.compare import CompareConfig
from erase.core.rng import derive_seed, generator
from erase.data.forget import forget_indices
from erase.errors import InputError
from erase.files import fingerprint, hash_file
from erase.models.classifiers import WEIGHTS, Classifier
from erase.scoring.classifier_metric import ClassifierMetric, load_classifier_metrics
from erase.training.classifier import (
    Original,
    Outcome,
    classifier_method,
    open_original,
    run_method,
    warn_of_other_data,
)
from erase.training.classifier_measures import Measures, labels_of
from erase.training.classifier_runs import (
    autocast,
    choose_forget,
    score,
    train_original,
    untrained_original,
)


def metric_names(config: CompareConfig) -> list[str]:
    """The metrics beyond UA, RA, TA and MIA that a comparison measures, each once."""
    return list(dict.fromkeys([*config.metrics, *(["rmia"] if config.shadow_models else [])]))


def fixed_settings(config: CompareConfig, item: Entry) -> dict[str, Any]:
    """What `--set` fixes for an entry: for its method, then for this variant of it."""
    variant = item.label.partition("@")[0]
    return {**config.settings.get(item.method, {}), **config.settings.get(variant, {})}


def entry_configuration(
    config: CompareConfig,
    item: Entry,
    *,
    spec: str,
    recipe: str,
    share: float,
    seed: int,
    searched: Mapping[str, float],
) -> ClassifierConfig:
    """The whole configuration of an entry's run, with the settings that the search chose.

    `spec` says what to forget, `share` how much of the training set that is, in (0, 1); `recipe` is
    the name of the data set's.

    Raises:
        InputError: a setting or value that the method cannot use.
    """
    retrain = item.method == "retrain"
    run: dict[str, Any] = {
        "epochs": config.retrain_epochs if retrain else config.epochs,
        "learning_rate": None if retrain else config.learning_rate,
        **item.start,
        **searched,
        **fixed_settings(config, item),
        **item.changes,
    }
    names = set(method_module(item.method).Settings.__dataclass_fields__)
    own = {name: run.pop(name) for name in names & set(run)}
    given = ClassifierConfig(
        method=item.method,
        forget=spec,
        seed=seed,
        mixed_precision=config.mixed_precision,
        retain_limit=None if retrain else config.retain_limit,
        settings=own | item.settings,
        **run,
    )
    return fill(given, recipe, share)


def check_entries(
    config: CompareConfig,
    specs: Sequence[str],
    entries: Sequence[Entry],
    *,
    read_data: bool = True,
) -> None:
    """Resolve every entry's configuration and build its method, before anything is trained.

    With `read_data` the forget sets of all trials are drawn too, from the data.

    Raises:
        InputError: a setting or value that a method cannot use, a forget specification that
            fits no forget set of the data, or a metric that cannot be measured.
    """
    metrics = load_classifier_metrics(metric_names(config), references=config.shadow_models > 0)
    if read_data:
        _check_specs(config, specs, metrics)
    for spec in specs:
        for item in (entry("retrain"), *entries):
            resolved = entry_configuration(
                config,
                item,
                spec=spec,
                recipe=config.dataset,
                share=0.1,  # values are in range or not whatever the share is
                seed=config.seed,
                searched={},
            )
            classifier_method(resolved)


def _check_specs(
    config: CompareConfig, specs: Sequence[str], metrics: Sequence[ClassifierMetric]
) -> None:
    if config.model:
        for name in ("resolution", "images_per_class", "crop_padding"):
            if getattr(config, name) is not None:
                option = name.replace("_", "-")
                raise InputError(f"--{option} is that of the original in --model.", "Leave it out.")
    original = before_training(config, torch.device("cpu"))
    if config.model:
        warn_of_other_data(original, config.model)
    data, trained_on = original.data, original.trained_on
    for spec in specs:
        for trial in range(config.trials):
            forget = forget_indices(
                spec,
                data.train.labels,
                data.classes,
                trained_on=trained_on,
                seed=config.seed + trial,
            )
            labels = labels_of(data, forget)
            for metric in metrics:
                metric.check(labels)


@dataclass(frozen=True)
class ClassifierProblem:
    """What is to be forgotten, by which original, and how the result is judged."""

    config: CompareConfig
    original: Original
    original_sha256: str
    spec: str
    scratch: ScratchModels
    _forget: dict[int, Tensor] = field(default_factory=dict)
    _measures: dict[int, Measures] = field(default_factory=dict)
    """What the further metrics need, by seed: the reference models are judged once."""

    def forget(self, seed: int) -> Tensor:
        """The forget set of a seed, the same for every method."""
        if seed not in self._forget:
            config = ClassifierConfig(forget=self.spec, seed=seed)
            self._forget[seed] = choose_forget(self.original, config)
        return self._forget[seed]

    def configuration(
        self, item: Entry, seed: int, forget: Tensor, searched: Mapping[str, float]
    ) -> ClassifierConfig:
        """The whole configuration of an entry, with the settings that a search chose."""
        return entry_configuration(
            self.config,
            item,
            spec=self.spec,
            recipe=self.original.data.recipe,
            share=len(forget) / len(self.original.trained_on),
            seed=seed,
            searched=searched,
        )

    def key(self, config: ClassifierConfig, forget: Tensor, **more: Any) -> str:
        """Fingerprint of everything that changes a result."""
        used = library_versions(LIBRARIES)
        return fingerprint([self.original_sha256, deciding(config), forget.tolist(), used, more])

    def run(self, forget: Tensor, config: ClassifierConfig) -> Outcome:
        """The result of a method; Retrain's is the one that was trained before, if it was."""
        if config.method == "retrain":
            return self.scratch.trained(forget, config)
        return run_method(self.original, forget, config)

    def retrain(self, seed: int, forget: Tensor) -> Outcome:
        """Retrain of a forget set."""
        return self.run(forget, self.configuration(entry("retrain"), seed, forget, {}))

    def judge(self, model: Classifier, forget: Tensor, config: ClassifierConfig) -> dict[str, Any]:
        """A model's `scores`, and the values `measured` by the other metrics if there are any."""
        judged: dict[str, Any] = {"scores": score(self.original, model, forget, config).to_dict()}
        if names := metric_names(self.config):
            judged["measured"] = self._measures_of(names, forget, config.seed).of(model)
        return judged

    def _measures_of(self, names: Sequence[str], forget: Tensor, seed: int) -> Measures:
        if seed not in self._measures:
            shadows = range(self.config.shadow_models)
            self._measures[seed] = Measures(
                names,
                self.original,
                forget,
                references=[self.shadow(forget, seed, number) for number in shadows],
                seed=seed,
                autocast=autocast(self.config.mixed_precision, self.original.device),
            )
        return self._measures[seed]

    def measuring(self) -> dict[str, Any]:
        """What of the metrics changes a result, for its fingerprint."""
        chosen = {"metrics": sorted(self.config.metrics)} if self.config.metrics else {}
        return {"shadows": self.config.shadow_models, **chosen}

    def shadow(self, forget: Tensor, seed: int, number: int) -> Classifier:
        """A reference model, trained on a random half of D_r: it saw neither D_f nor the test."""
        trained_on = self.original.trained_on
        retain = trained_on[~torch.isin(trained_on, forget)]
        random = generator(seed, "shadow", number)
        out = retain[torch.randperm(len(retain), generator=random)[: len(retain) // 2]]
        run_seed = derive_seed(seed, "shadow", number)
        config = self.configuration(entry("retrain"), run_seed, forget, {})
        return self.scratch.trained(torch.cat([forget, out]), config).model


def original_settings(config: CompareConfig) -> TrainConfig:
    """How the original is trained: as Retrain is."""
    train = TrainConfig(
        dataset=config.dataset,
        data_dir=config.data_dir,
        arch=config.arch,
        resolution=config.resolution,
        limit=config.limit,
        images_per_class=config.images_per_class,
        crop_padding=config.crop_padding,
        follow_links=config.follow_links,
        epochs=config.retrain_epochs,
        mixed_precision=config.mixed_precision,
        seed=config.seed,
    )
    likewise = {"epochs", "learning_rate", "train_batch_size", "momentum", "weight_decay"}
    likewise |= {"lr_scheduler", "max_grad_norm"}
    given = config.settings.get("retrain", {})
    return train.replace(**{k: v for k, v in given.items() if k in likewise})


def before_training(config: CompareConfig, device: torch.device) -> Original:
    """The original with its data; its weights are fresh ones unless it is given."""
    if config.model:
        return open_original(Path(config.model), device, config.data_dir)
    return untrained_original(original_settings(config), device)


def prepare_original(
    config: CompareConfig, output: Path, device: torch.device
) -> tuple[Original, str]:
    """The original that all methods start from, trained if need be, and its weights' SHA-256."""
    if config.model:
        folder = Path(config.model)
    else:
        folder = output / "original"
        if not (folder / WEIGHTS).is_file():
            train = original_settings(config)
            train_original(train, folder, overwrite=True, device=str(device), show=False)
    return open_original(folder, device, config.data_dir), hash_file(folder / WEIGHTS)
