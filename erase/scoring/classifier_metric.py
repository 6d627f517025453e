"""What a metric of classifier unlearning beyond UA, RA, TA and MIA is: one class a file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from erase import registry
from erase.errors import InputError
from erase.scoring.statistics import Floats

Subset = Literal["forget", "unseen"]
"""D_f, and the images that no model was trained on: the test images, of all classes."""
Numbers = Mapping[str, float | None]
"""Values by name; None where there is none within the metric's limit."""
Labels = Mapping[Subset, NDArray[np.int64]]
"""Classes of the samples of both sets, `[N]` each."""
KIND = "classifier_metrics"


@dataclass(frozen=True)
class Column:
    """How a table shows one value of a metric."""

    title: str
    digits: int = 2
    beyond: str = "–"
    """What it shows for a trial without a number: `not within 500`."""

    def text(self, value: float | None, deviation: float | None = None) -> str:
        """A number, with its deviation if it has one, as the table shows it."""
        if value is None:
            return self.beyond
        spread = "" if deviation is None else f" ± {deviation:.{self.digits}f}"
        return f"{value:.{self.digits}f}{spread}"


class ModelView(Protocol):
    """One classifier, as a metric sees it. Its weights do not change."""

    def features(self, subset: Subset) -> Floats:
        """What the last linear layer is given, `[N, F]`, in evaluation mode."""

    def confidence(self, subset: Subset) -> Floats:
        """Probability of the true class, `[N]` in [0, 1]."""

    def forget_loss(self) -> float:
        """Mean cross-entropy on D_f, in nats, of images that are not augmented."""

    def relearn(
        self,
        until: float,
        *,
        learning_rate: float,
        momentum: float,
        batch_size: int,
        checks: Sequence[int],
    ) -> int | None:
        """Fine-tune a copy on D_f until its loss on D_f is at most `until`.

        Args:
            until: the loss to reach, as `forget_loss` measures it.
            learning_rate: of SGD without weight decay.
            momentum: of SGD.
            batch_size: images of D_f in a step; all of D_f where it has fewer.
            checks: numbers of steps after which the loss is looked at, rising; 0 is before the
                first step. After the last one fine-tuning ends.

        Returns:
            The first of the checks at which the loss is reached, or None.
        """


@dataclass(frozen=True)
class ClassifierContext:
    """All that a metric of classifiers may look at."""

    model: ModelView
    """The model that is measured: an unlearned one, Retrain, or the original itself."""
    original: ModelView
    labels: Labels
    """In the order of `features` and `confidence`."""
    references: Sequence[ModelView] = ()
    """Models that were trained on halves of D_r, for metrics that require `references`."""
    seed: int = 0
    """Seed of whatever is drawn."""


class ClassifierMetric(ABC):
    """A metric; a file of `erase/classifier_metrics/`, or a module of another package, defines one.

    The docstring of that file begins with one sentence that describes the metric.
    """

    name: ClassVar[str]
    """The plug-in's name."""
    columns: ClassVar[Mapping[str, Column]]
    """The columns of a table by the names of the values they show. Tests hold that every value that
    is shown comes from `measure` or `relate`."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """`references` where the metric needs them: `--shadow-models` says how many."""

    def check(self, labels: Labels) -> None:  # noqa: B027 - most have nothing to refuse
        """InputError, before anything is trained, for sets that this metric could not measure."""

    @abstractmethod
    def measure(self, context: ClassifierContext) -> Numbers:
        """Values of one model. Equal contexts give equal values: what is drawn is seeded.

        A value that cannot be measured (too few samples, for example) is left out.
        """

    def relate(self, mine: Numbers, original: Numbers, retrain: Numbers) -> Numbers:  # noqa: ARG002
        """Values that need what `measure` gave of the original and of Retrain, too.

        Empty where there are none, or where they are not defined.
        """
        return {}


def load_classifier_metrics(
    names: Sequence[str], *, references: bool = False
) -> list[ClassifierMetric]:
    """The metrics of those names.

    InputError when there is no such metric, or when one needs reference models and there are none.
    """
    metrics = [load_classifier_metric(name) for name in names]
    for metric in metrics:
        if "references" in metric.requires and not references:
            raise InputError(
                f"The metric {metric.name} needs reference models.",
                "Use `erase compare classifier` with --shadow-models 4, or leave it out.",
            )
    return metrics


def load_classifier_metric(name: str) -> ClassifierMetric:
    """The metric of that name; InputError when there is none, or when it cannot be loaded."""
    return registry.load_class(KIND, name, ClassifierMetric)()  # type: ignore[type-abstract]
