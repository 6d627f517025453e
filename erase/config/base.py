"""Resolved configurations: frozen dataclasses that travel as `config.yaml`.

Every field states its unit or range in its help; the command line, `config.yaml` and Python use
the same names, and values are typed and checked where an object is made (`erase.config.fields`).
`None` means "not set by the user": `erase.config.layers` fills it in.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from erase.config.fields import check_fields, option, settings_field
from erase.config.limits import BATCHES, SEEDS
from erase.errors import InputError
from erase.files import write_text

SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant"),
    *("constant_with_warmup", "piecewise_constant"),
)
"""Learning-rate schedules of diffusers."""
PRECISIONS = ("no", "bf16")
NO_FP16 = {
    "fp16": "In fp16 losses have to be scaled up, which LUR's three gradients a step do not do."
    " Give no (float32), or bf16 where the card has it."
}
DATASETS = ("digits", "cifar10", "cifar100", "folder")
"""Labelled images that classifiers and class-conditional models are trained on."""
FORMER_SIDE = ("size", "image_size")
"""Names that `resolution`, pixels a side, had in earlier versions."""
META_MODES = ("hvp", "exact", "first-order", "joint")


class Config:
    """What every dataclass of values can do; making one raises InputError for a bad value."""

    recipe_help: ClassVar[Mapping[str, str]] = {}
    """What `--help` says of the defaults that a recipe fills in, by field."""

    def __post_init__(self) -> None:
        check_fields(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, paths as strings, tuples as lists."""
        return {
            item.name: _plain(getattr(self, item.name))
            for item in fields(self)  # type: ignore[arg-type]
        }

    def write(self, path: Path) -> None:
        """Write as YAML, atomically."""
        write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    @classmethod
    def renamed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by today's names of their settings (`former` of `erase.config.fields.option`).

        InputError for a setting that two of its names give different values.
        """
        today = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
        names = {
            former: name
            for name, item in today.items()
            for former in item.metadata.get("former", ())
            if former not in today
        }
        current: dict[str, Any] = {}
        for name, value in values.items():
            now = names.get(name, name)
            if current.setdefault(now, value) != value:
                raise InputError(
                    f"{now} is given twice, also by its former name.", f"Give it once, as {now}."
                )
        return current

    @classmethod
    def check_names(cls, values: Mapping[str, Any], where: str) -> None:
        """Raise InputError for a name that this configuration does not have."""
        known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                f"{where} has unknown settings: {', '.join(unknown)}.",
                f"Known: {', '.join(sorted(known))}.",
            )

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


class MethodConfig(Config):
    """What the configurations of all unlearning runs have."""

    method: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class LoopConfig(MethodConfig):
    """The unlearning loop, whatever the model."""

    method: str = option("lur", "Unlearning method.")
    settings: Mapping[str, Any] = settings_field("The method's own settings, NAME=VALUE.")
    max_train_steps: int | None = option(None, "Optimizer steps.", least=0)
    train_batch_size: int | None = option(
        None, "Images of each set per micro-batch and process.", least=1, most=BATCHES
    )
    gradient_accumulation_steps: int = option(
        1, "Micro-batches per optimizer step.", least=1, most=BATCHES
    )
    learning_rate: float | None = option(None, "Peak learning rate.", least=0)
    lr_scheduler: str | None = option(
        None, "Learning-rate schedule, by its diffusers name.", SCHEDULERS
    )
    lr_warmup_steps: int | None = option(None, "Warm-up steps of the schedule.", least=0)
    weight_decay: float | None = option(None, "AdamW's weight decay.", least=0)
    max_grad_norm: float | None = option(
        None, "Gradient clipping norm; 0 turns clipping off.", least=0
    )
    ema_decay: float | None = option(
        None, "Decay of a moving average of the weights; 0 = none.", least=0, below=1
    )
    use_8bit_adam: bool = option(False, "8-bit AdamW (needs bitsandbytes and a GPU).")
    mixed_precision: str = option(
        "no", "Autocast to bf16, or not; trained weights stay fp32.", PRECISIONS, advice=NO_FP16
    )
    gradient_checkpointing: bool = option(False, "Recompute activations to save memory.")
    seed: int = option(0, "Seed of rendering, batches, noise and timesteps.", least=0, most=SEEDS)
    checkpointing_steps: int = option(0, "Checkpoint every N steps; 0 = never.", least=0)
    checkpoints_total_limit: int = option(
        2, "Checkpoints kept; the oldest goes after a new one.", least=0
    )
    report_to: str | None = option(None, "Also log to a tracker.", ("tensorboard", "wandb"))
