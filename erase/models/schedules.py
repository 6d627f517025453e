"""One noise schedule in another scheduler of diffusers: for training, and to render with it."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch

from erase.errors import InputError
from erase.models.configs import made, read_config

SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "shift",
)  # fmt: skip
"""Settings that make the noise schedule."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a model of a β schedule may predict."""
_DEFAULTS = "_use_default_values"
"""Where diffusers lists the settings that the configuration file leaves out."""


def scheduler_class(name: str) -> Any:
    """A diffusers scheduler by class name; InputError for a name that diffusers does not have."""
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if kind is None:
        raise InputError(f"diffusers has no scheduler {name!r}.", "Try DDIMScheduler.")
    return kind


def stored_scheduler(folder: Path) -> Any:
    """The scheduler of a diffusers folder; InputError for a class that diffusers does not have."""
    file = folder / "scheduler" / "scheduler_config.json"
    content = read_config(file)
    try:
        kind = scheduler_class(str(content.get("_class_name")))
    except InputError as error:
        raise InputError(f"{file}: {error.message}", "Restore the file.") from None
    return made(lambda: kind.from_config(content), kind.__name__, file)


def convert(scheduler: Any, kind: Any) -> Any:
    """A scheduler of another class with the same noise schedule.

    What the model's configuration leaves out has the default of the model's own class: diffusers
    itself would take the default of the new class, whose β may be others.

    Args:
        scheduler: the model's own.
        kind: class of the new one.

    Raises:
        InputError: the model's own has a schedule that the class cannot have, like EDM's σ or those
            of flow matching where β are expected.
    """
    config = dict(scheduler.config)
    if _DEFAULTS in config:
        config[_DEFAULTS] = [name for name in config[_DEFAULTS] if name not in SCHEDULE]
    converted = kind.from_config(config)
    if _is_flow(scheduler) == _is_flow(converted) and _predicts(converted):
        before, after = _levels(scheduler), _levels(converted)
        if before.shape == after.shape and torch.allclose(before, after, rtol=0, atol=1e-6):
            return converted
    raise InputError(
        f"The model's noise schedule ({type(scheduler).__name__}) cannot be had with"
        f" {kind.__name__}.",
        f"erase knows this kind of model with the schedules of {kind.__name__}; give a model, or a"
        " scheduler folder, with one.",
    )


def _is_flow(scheduler: Any) -> bool:
    config = scheduler.config
    asked = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    takes = inspect.signature(type(scheduler).__init__).parameters
    return "FlowMatch" in type(scheduler).__name__ or bool(asked and "use_flow_sigmas" in takes)


def _predicts(scheduler: Any) -> bool:
    return _is_flow(scheduler) or scheduler.config.get("prediction_type") in PREDICTIONS


def _levels(scheduler: Any) -> torch.Tensor:
    """ᾱ of DDPM at each timestep, else σ; empty for a scheduler that has neither before it runs."""
    name = "sigmas" if _is_flow(scheduler) else "alphas_cumprod"
    return torch.as_tensor(getattr(scheduler, name, ())).float().cpu()
