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
from erase.record import write_text


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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file; InputError when it is missing, broken or no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}", "Correct the file."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings.", "Write it as `name: value` lines.")
    return content


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


FILTERS = ("nudenet", "classifier")


@dataclass(frozen=True)
class ConceptConfig(LoopConfig):
    """`erase concept`: make a text-to-image model forget a concept."""

    model: str = option("", "Alias, folder or hub id.")
    revision: str | None = option(None, "Commit, branch or tag of a hub model.")
    config_from: str | None = option(
        None, "Diffusers folder with the configurations of a single-file --model."
    )
    concept: tuple[str, ...] = option((), "What to forget; may be given several times.")
    anchor: str | None = option(None, "What to show instead: a class of the same list or a prompt.")
    forget_prompts: str | None = option(None, "File of forget prompts, one a line.")
    retain_prompts: str | None = option(None, "File of retain prompts, one a line.")
    forget_images: str | None = option(None, "Folder of forget images instead of rendering.")
    retain_images: str | None = option(None, "Folder of retain images instead of rendering.")
    anchor_images: str | None = option(None, "Folder of anchor images instead of rendering.")
    prompts: str | None = option(None, "Folder that replaces the built-in prompts.")
    filter_forget: str | None = option(
        None, "Keep only forget renders that show the concept, by this judge.", FILTERS
    )
    filter_retain: str | None = option(
        None, "Drop retain renders that show the concept, by this judge.", FILTERS
    )
    num_forget_images: int | None = option(None, "Images to render for the forget set.")
    num_retain_images: int | None = option(None, "Images to render for the retain set.")
    num_anchor_images: int | None = option(
        None, "Images to render of what is shown instead, for methods that look at them."
    )
    render_steps: int | None = option(None, "Sampling steps of those renders.")
    forget_guidance: float | None = option(None, "Guidance scale of the forget renders.")
    retain_guidance: float | None = option(None, "Guidance scale of the retain renders.")
    render_batch_size: int | None = option(None, "Images rendered at once.")
    resolution: int | None = option(None, "Pixels a side; default: the model's own.")
    caption_dropout: float = option(0.1, "Share of retain captions replaced by the empty prompt.")
    trainable: str | None = option(
        None,
        "full, xattn, noxattn, selfattn, or a regular expression; default: the method's, mostly"
        " full.",
    )
    target_grad: bool = option(False, "Let the gradient flow into the anchor's prediction too.")
    frozen_anchor: bool = option(False, "Take the anchor's prediction from the original model.")
    save_dtype: str = option("fp32", "Precision of the saved weights.", ("fp32", "fp16"))
    lora_rank: int | None = option(None, "Train an adapter of this rank on the chosen layers only.")
    lora_alpha: float | None = option(
        None, "The adapter's scale times its rank; default: the rank."
    )
    validation_prompts: str | None = option(
        None, "Prompts to render while training: 'one; two', or a file with one a line."
    )
    validation_steps: int = option(0, "Render them every N steps; 0 = before and after only.")

    def __post_init__(self) -> None:
        given: Any = self.concept
        if isinstance(given, str):  # one concept, as earlier configurations hold it
            object.__setattr__(self, "concept", (given,) if given else ())


@dataclass(frozen=True)
class ClassConfig(ConceptConfig):
    """`erase class`: make a diffusion model forget a class of images."""

    model: str = option("sd-1.4", "Alias, folder or hub id.")
    target: tuple[str, ...] = option((), "Class to forget; may be given several times.")
    anchor: str | None = option(
        None, "Class to show instead: next (the default), random, a class's name, or a prompt."
    )
    data: str = option(
        "render",
        "Images of the classes: imagenette, cifar10, digits, a folder with one folder of images a"
        " class, or render, which has the model make them.",
    )
    data_dir: str | None = option(None, "Where imagenette or cifar10 lies.")
    num_forget_images: int | None = option(
        None, "Images of the class; default: all, or the recipe's when they are rendered."
    )
    num_retain_images: int | None = option(
        None, "Images of the other classes; default: all, or the recipe's when they are rendered."
    )
