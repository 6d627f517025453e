"""What metrics of classifiers see of a model, and all of their values for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from erase.config.classifier import ClassifierConfig
from erase.core.rng import batch_indices
from erase.data.classification import ClassificationData, LabelledSet, center
from erase.errors import InputError
from erase.files import read_json
from erase.judges.classifier_scores import confidence, predict
from erase.models.classifiers import Classifier, load_classifier
from erase.scoring.classifier_metric import (
    ClassifierContext,
    ClassifierMetric,
    Labels,
    Numbers,
    Subset,
    load_classifier_metrics,
)
from erase.scoring.statistics import Floats
from erase.training.classifier import Original

FORGET, METRICS = "forget.json", "metrics.json"


@dataclass(frozen=True)
class _Forgotten:
    """What `FORGET` says of the samples."""

    indices: list[int]


@dataclass(frozen=True)
class _Measured:
    """What `METRICS` says of the metrics."""

    measured: dict[str, dict[str, float | None]]


class ObservedClassifier:
    """A classifier with D_f and the unseen images of its original, as `ModelView` describes."""

    def __init__(
        self,
        model: Classifier,
        original: Original,
        forget: Tensor,
        *,
        seed: int,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model, self.seed, self.autocast = model, seed, autocast
        self.how = original.data.augmentation
        self.sets: Mapping[Subset, LabelledSet] = {
            "forget": original.data.train.subset(forget),
            "unseen": original.data.test,
        }
        self._seen: dict[Subset, tuple[Tensor, Tensor]] = {}

    def features(self, subset: Subset) -> Floats:
        """What the last linear layer is given, `[N, F]`."""
        result: Floats = self._look(subset)[0].double().numpy()
        return result

    def confidence(self, subset: Subset) -> Floats:
        """Probability of the true class, `[N]`."""
        return confidence(self._look(subset)[1], self.sets[subset].labels)

    def forget_loss(self) -> float:
        """Mean cross-entropy on D_f, in nats."""
        return self._loss(self._look("forget")[1])

    def relearn(
        self,
        until: float,
        *,
        learning_rate: float,
        momentum: float,
        max_grad_norm: float,
        batch_size: int,
        checks: Sequence[int],
    ) -> int | None:
        """The first check at which a copy that is fine-tuned on D_f has the loss `until`."""
        if 0 in checks and self.forget_loss() <= until:
            return 0
        model = deepcopy(self.model).eval().requires_grad_(True)
        optimizer = SGD(model.parameters(), lr=learning_rate, momentum=momentum)
        for step in range(checks[-1]):
            pixels, labels = self._batch(step, batch_size)
            with self.autocast():
                logits = model(pixels)
            optimizer.zero_grad()
            cross_entropy(logits.float(), labels).backward()
            clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            if step + 1 in checks and self._loss(self._predict(model)) <= until:
                return step + 1
        return None

    def _batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        forget = self.sets["forget"]
        size = min(size, len(forget))
        samples = forget.subset(batch_indices(len(forget), size, step, self.seed, "relearn"))
        return center(samples.images.float() / 255, self.how), samples.labels

    def _predict(self, model: Classifier) -> Tensor:
        return predict(model, self.sets["forget"], self.how, autocast=self.autocast)

    def _loss(self, logits: Tensor) -> float:
        return float(cross_entropy(logits.double(), self.sets["forget"].labels.cpu()))

    def _look(self, subset: Subset) -> tuple[Tensor, Tensor]:
        """Features and logits of a set, both on the CPU; looked at once."""
        if subset not in self._seen:
            features: list[Tensor] = []
            head = self.model.get_submodule(self.model.head_name())
            hook = head.register_forward_pre_hook(
                lambda _, inputs: features.append(inputs[0].detach().flatten(1).float().cpu())
            )
            try:
                logits = predict(self.model, self.sets[subset], self.how, autocast=self.autocast)
            finally:
                hook.remove()
            self._seen[subset] = torch.cat(features), logits
        return self._seen[subset]


class Measures:
    """The metrics that were asked for, on one original with one forget set.

    Args:
        names: of the metrics.
        original: the model that was to forget.
        forget: indices into the training set, `[M]`.
        references: models that saw neither D_f nor the unseen images, for metrics that need them.
        seed: of what is drawn.
        autocast: entered around each forward pass.

    Raises:
        InputError: there is no such metric, or one needs references.
    """

    def __init__(
        self,
        names: Sequence[str],
        original: Original,
        forget: Tensor,
        *,
        references: Sequence[Classifier] = (),
        seed: int,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.metrics = load_classifier_metrics(names, references=bool(references))
        self.original, self.forget, self.seed = original, forget, seed
        self.references, self.autocast = references, autocast

    def of(self, model: Classifier) -> dict[str, float | None]:
        """Every value of a model; None where there is none within a metric's limit."""
        view = self._view(model)
        context = ClassifierContext(
            view,
            self._original,
            labels_of(self.original.data, self.forget),
            self._references,
            self.seed,
        )
        values: dict[str, float | None] = {}
        for metric in self.metrics:
            values |= metric.measure(context)
        return values

    @cached_property
    def _references(self) -> list[ObservedClassifier]:
        return [self._view(reference) for reference in self.references]

    @cached_property
    def _original(self) -> ObservedClassifier:
        return self._view(self.original.model)

    def _view(self, model: Classifier) -> ObservedClassifier:
        return ObservedClassifier(
            model, self.original, self.forget, seed=self.seed, autocast=self.autocast
        )


def labels_of(data: ClassificationData, forget: Tensor) -> Labels:
    """The classes of D_f and of the unseen images; `forget` are indices `[M]`."""
    forgotten = data.train.labels[forget.to(data.train.labels.device)]
    return {"forget": forgotten.cpu().numpy(), "unseen": data.test.labels.cpu().numpy()}


def related(
    metrics: Sequence[ClassifierMetric], mine: Numbers, original: Numbers, retrain: Numbers
) -> dict[str, float | None]:
    """The values of a model, with those that need the original's and Retrain's."""
    values = dict(mine)
    for metric in metrics:
        values |= metric.relate(mine, original, retrain)
    return values


def open_retrained(
    original: Original, forget: Tensor, config: ClassifierConfig
) -> Classifier | None:
    """The Retrain that a run is compared with; None without one.

    InputError for a folder that holds no classifier, one of other classes, or one that was made
    with another method or another forget set.
    """
    if config.retrained is None:
        return None
    folder = Path(config.retrained)
    model, description = load_classifier(folder)
    if description.classes != original.description.classes:
        raise InputError(
            f"The model in {folder} knows other classes than the original.",
            "Give a run of --method retrain on the same original to --retrained.",
        )
    facts, path = description.facts, folder / FORGET
    forgotten = read_json(path, _Forgotten).indices if path.is_file() else None
    if facts.get("method") != "retrain" or forgotten != forget.tolist():
        raise InputError(
            f"{folder} is no run of --method retrain with the same forget set.",
            f"Make one: --method retrain --forget {config.forget} --forget-seed"
            f" {config.seed if config.forget_seed is None else config.forget_seed}.",
        )
    return model.to(original.device)


def measure_run(
    original: Original,
    model: Classifier,
    forget: Tensor,
    config: ClassifierConfig,
    retrained: Classifier | None,
    cast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, dict[str, float | None]]:
    """The values of the metrics that a run asks for: `model`, `original`, and `retrained` if given.

    What compares with Retrain (`idi`) is there only with one. Empty without metrics.
    """
    if not config.metrics:
        return {}
    measures = Measures(config.metrics, original, forget, seed=config.seed, autocast=cast)
    models = {"model": model, "original": original.model}
    models |= {"retrained": retrained} if retrained is not None else {}
    values = {name: measures.of(each) for name, each in models.items()}
    if retrained is None:
        return values
    before, gold = values["original"], values["retrained"]
    return {name: related(measures.metrics, mine, before, gold) for name, mine in values.items()}


def measured_lines(folder: Path, names: Sequence[str]) -> list[str]:
    """What a run's `metrics.json` says of those metrics, a line of text for each value."""
    if not names:
        return []
    values = read_json(folder / METRICS, _Measured).measured
    lines = []
    for metric in load_classifier_metrics(names):
        for key, column in metric.columns.items():
            parts = [
                f"{name} {column.text(row[key])}" for name, row in values.items() if key in row
            ]
            if parts:
                lines.append(f"{column.title}: {', '.join(parts)}")
    return lines
