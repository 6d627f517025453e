"""Relearn time: steps of fine-tuning on D_f until the original's loss on it is back."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from erase.scoring.classifier_metric import ClassifierContext, ClassifierMetric, Column, Numbers

LEARNING_RATE, MOMENTUM, BATCH_SIZE = 0.01, 0.9, 64
CAP = 500
"""Steps after which the loss does not count as back."""


def checks(cap: int) -> Sequence[int]:
    """Numbers of steps at which the loss is looked at: 0 to 10, then a tenth more each."""
    numbers = list(range(min(cap, 10) + 1))
    while numbers[-1] < cap:
        numbers.append(min(cap, numbers[-1] + max(1, numbers[-1] // 10)))
    return numbers


class Relearn(ClassifierMetric):
    """How little it takes to bring D_f back, whatever the outputs say now.

    A copy of the model is fine-tuned on D_f by plain SGD: learning rate 0.01, momentum 0.9, batches
    of 64 (all of D_f where it has fewer), no weight decay, no augmentation, batch statistics kept
    as they are. After some steps its loss on all of D_f is compared with the original's: from the
    tenth step on, each time a tenth more steps were taken, so larger numbers are right to a tenth.
    A model that suppresses D_f is back after few steps; Retrain, which has to learn it anew, says
    how many it takes without any memory of D_f. Values that are close to Retrain's are the best.

    The original takes 0 steps. A model that is not back after 500 has no number.
    """

    name = "relearn"
    columns: ClassVar[Mapping[str, Column]] = {
        "relearn_steps": Column("relearn (steps)", 0, f"not within {CAP}")
    }

    def measure(self, context: ClassifierContext) -> Numbers:
        """`relearn_steps`, from 0 to 500, or None for more."""
        steps = context.model.relearn(
            context.original.forget_loss(),
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
            batch_size=BATCH_SIZE,
            checks=checks(CAP),
        )
        return {"relearn_steps": steps}
