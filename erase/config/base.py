"""Resolved configurations: frozen dataclasses that travel as `config.yaml`.

Every field states its unit or range in `metadata["help"]`; the command line and `config.yaml` use
the same names. `None` means "not set by the user": `with_defaults` fills it from the recipe.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import yaml

from erase.errors import InputError
from erase.files import write_text


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:  # noqa: A002
    """A dataclass field with its help text and, where there are few, its possible values."""
    return field(default=default, metadata={"help": help, "choices": choices})


class Config:
    """What every configuration dataclass can do."""

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

    def with_defaults(self, defaults: Mapping[str, Any]) -> Self:
        """A copy whose unset (`None`) fields come from `defaults`."""
        unset = {
            name: value
            for name, value in defaults.items()
            if getattr(self, name) is None and value is not None
        }
        return self.replace(**unset)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def check_least(config: Config, least: Mapping[str, float]) -> None:
    """Raise InputError for a setting below its least value, or not finite; None is not set."""
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value >= low):
            option = name.replace("_", "-")
            raise InputError(f"--{option} is {value}.", f"Give a value of at least {low:g}.")


class MethodConfig(Config):
    """What the configurations of all unlearning runs have."""

    method: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class LoopConfig(MethodConfig):
    """The unlearning loop, whatever the model."""

    method: str = option("lur", "Unlearning method.")
    alpha: float | None = option(None, "Inner step size of LUR, the α of eq. 2 (> 0).")
    forget_weight: float | None = option(None, "Weight λ of the forget loss (≥ 0).")
    meta_mode: str | None = option(
        None, "How LUR's gradient is computed.", ("hvp", "exact", "first-order", "joint")
    )
    settings: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"help": "The method's own settings, NAME=VALUE.", "option": False},
    )
    max_train_steps: int | None = option(None, "Optimizer steps.")
    train_batch_size: int | None = option(None, "Images of each set per micro-batch and process.")
    gradient_accumulation_steps: int = option(1, "Micro-batches per optimizer step.")
    learning_rate: float | None = option(None, "Peak learning rate.")
    lr_scheduler: str | None = option(None, "Learning-rate schedule, by its diffusers name.")
    lr_warmup_steps: int | None = option(None, "Warm-up steps of the schedule.")
    weight_decay: float = option(0.0, "AdamW's weight decay.")
    max_grad_norm: float = option(1.0, "Gradient clipping norm; 0 turns clipping off.")
    ema_decay: float | None = option(None, "Decay of a moving average of the weights; 0 = none.")
    use_8bit_adam: bool = option(False, "8-bit AdamW (needs bitsandbytes and a GPU).")
    mixed_precision: str = option(
        "no", "Autocast to bf16, or not; trained weights stay fp32.", ("no", "bf16")
    )
    gradient_checkpointing: bool = option(False, "Recompute activations to save memory.")
    seed: int = option(0, "Seed of rendering, batches, noise and timesteps.")
    checkpointing_steps: int = option(0, "Checkpoint every N steps; 0 = never.")
    checkpoints_total_limit: int = option(2, "Checkpoints kept; the oldest goes after a new one.")
    report_to: str | None = option(None, "Also log to a tracker.", ("tensorboard", "wandb"))
