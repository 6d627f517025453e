"""One original and one forget specification: forget sets, configurations, runs and scores.

A comparison and its search of hyper-parameters both stand on this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erase.comparison.entries import Entry, entry
from erase.comparison.store import library_versions
from erase.config.classifier import ClassifierConfig, TrainConfig, fill, method_module
from erase.config.compare import CompareConfig
from erase.core.rng import derive_seed, generator
from erase.data.classification import load_dataset, validation_indices
from erase.data.forget import forget_indices
from erase.files import fingerprint, hash_file
from erase.judges.classifier_scores import attack_auc, confidence, predict, rmia_scores
from erase.models.classifiers import WEIGHTS, Classifier
from erase.training.classifier import (
    Original,
    classifier_method,
    open_original,
    run_method,
    warn_of_other_data,
)
from erase.training.classifier_runs import score, train_original

LIBRARIES = ("erase", "torch", "scikit-learn")
NOT_DECIDING = ("model", "data_dir", "checkpointing_steps", "checkpoints_total_limit")
"""Settings that do not change a result."""


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
        InputError: a setting or value that a method cannot use, or a forget specification that
            fits no forget set of the data.
    """
    if read_data:
        _check_specs(config, specs)
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


def _check_specs(config: CompareConfig, specs: Sequence[str]) -> None:
    if config.model:
        original = open_original(Path(config.model), torch.device("cpu"), config.data_dir)
        warn_of_other_data(original, config.model)
        data, trained_on = original.data, original.trained_on
    else:
        data = load_dataset(
            config.dataset, Path(config.data_dir) if config.data_dir else None, limit=config.limit
        )
        share = TrainConfig().validation_share
        held_out = validation_indices(data.train.labels, share, 0)
        everything = torch.arange(len(data.train))
        trained_on = everything[~torch.isin(everything, held_out)]
    for spec in specs:
        for trial in range(config.trials):
            forget_indices(
                spec,
                data.train.labels,
                data.classes,
                trained_on=trained_on,
                seed=config.seed + trial,
            )


@dataclass(frozen=True)
class ClassifierProblem:
    """What is to be forgotten, by which original, and how the result is judged."""

    config: CompareConfig
    original: Original
    original_sha256: str
    spec: str
    _shadows: dict[tuple[int, int], Classifier] = field(default_factory=dict)

    def forget(self, seed: int) -> Tensor:
        """The forget set of a seed, the same for every method."""
        return forget_indices(
            self.spec,
            self.original.data.train.labels,
            self.original.data.classes,
            trained_on=self.original.trained_on,
            seed=seed,
        )

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
        deciding = {k: v for k, v in config.to_dict().items() if k not in NOT_DECIDING}
        used = library_versions(LIBRARIES)
        return fingerprint([self.original_sha256, deciding, forget.tolist(), used, more])

    def judge(self, model: Classifier, forget: Tensor, config: ClassifierConfig) -> dict[str, Any]:
        """A model's `scores` and, with shadow models, its `rmia_auc`."""
        judged: dict[str, Any] = {"scores": score(self.original, model, forget, config).to_dict()}
        if self.config.shadow_models:
            judged["rmia_auc"] = self._rmia(model, forget, config.seed)
        return judged

    def _rmia(self, model: Classifier, forget: Tensor, seed: int) -> float:
        """AUC of RMIA between D_f and one half of the test set; the other is the population."""
        data = self.original.data
        order = torch.randperm(len(data.test), generator=generator(seed, "rmia"))
        half = len(order) // 2
        sets = (
            data.train.subset(forget),
            data.test.subset(order[:half]),
            data.test.subset(order[half:]),
        )
        own, reference = [], []
        how = data.augmentation
        shadows = [self._shadow(forget, seed, k) for k in range(self.config.shadow_models)]
        for images in sets:
            own.append(confidence(predict(model, images, how), images.labels))
            reference.append(
                np.stack([confidence(predict(s, images, how), images.labels) for s in shadows])
            )
        scores = [rmia_scores(own[i], own[2], reference[i], reference[2]) for i in (0, 1)]
        return attack_auc(*scores)

    def _shadow(self, forget: Tensor, seed: int, number: int) -> Classifier:
        """A reference model, trained on a random half of D_r: it saw neither D_f nor the test."""
        if (seed, number) not in self._shadows:
            trained_on = self.original.trained_on
            retain = trained_on[~torch.isin(trained_on, forget)]
            random = generator(seed, "shadow", number)
            out = retain[torch.randperm(len(retain), generator=random)[: len(retain) // 2]]
            run_seed = derive_seed(seed, "shadow", number)
            config = self.configuration(entry("retrain"), run_seed, forget, {})
            left_out = torch.cat([forget, out])
            self._shadows[seed, number] = run_method(self.original, left_out, config).model
        return self._shadows[seed, number]


def prepare_original(
    config: CompareConfig, output: Path, device: torch.device
) -> tuple[Original, str]:
    """The original that all methods start from, trained if need be, and its weights' SHA-256."""
    if config.model:
        folder = Path(config.model)
    else:
        folder = output / "original"
        if not (folder / WEIGHTS).is_file():
            train = TrainConfig(
                dataset=config.dataset,
                data_dir=config.data_dir,
                arch=config.arch,
                limit=config.limit,
                follow_links=config.follow_links,
                epochs=config.retrain_epochs,
                mixed_precision=config.mixed_precision,
                seed=config.seed,
            )
            # As Retrain is trained, so is the original.
            likewise = {"epochs", "learning_rate", "train_batch_size", "momentum", "weight_decay"}
            likewise |= {"lr_scheduler", "max_grad_norm"}
            given = config.settings.get("retrain", {})
            train = train.replace(**{k: v for k, v in given.items() if k in likewise})
            train_original(train, folder, overwrite=True, device=str(device), show=False)
    return open_original(folder, device, config.data_dir), hash_file(folder / WEIGHTS)
