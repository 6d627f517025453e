"""Configurations of classifier training and unlearning, and how their gaps are filled."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from erase.config.base import Config, MethodConfig, check_least, option
from erase.config.methods import by_method, find_method, parse_settings, read_value
from erase.errors import InputError

LARGE_SHARE = 0.3  # from this share of the training set on, the sources' 50% settings apply
BATCH = {"cifar10": 256, "cifar100": 256, "celeba": 8, "digits": 64}
SCHEDULES = ("constant", "multistep", "cosine")


@dataclass(frozen=True)
class RunSettings(Config):
    """How an optimizer goes over the data, whatever is trained."""

    epochs: int | None = option(None, "Epochs; default: the source's for the data set.")
    learning_rate: float | None = option(None, "Learning rate of SGD; default: the source's.")
    train_batch_size: int | None = option(None, "Images of each set in a step.")
    momentum: float = option(0.9, "Momentum of SGD.")
    weight_decay: float = option(5e-4, "Weight decay of SGD.")
    schedule: str | None = option(
        None, "constant, multistep (×0.1 at 1/2 and 3/4) or cosine; default: the source's."
    )
    max_grad_norm: float = option(0.0, "Gradient clipping norm; 0 turns clipping off.")
    mixed_precision: str = option("no", "no or bf16 (autocast).")
    seed: int = option(0, "Seed of weights, batches and augmentation.")
    checkpointing_steps: int = option(0, "Checkpoint every N steps; 0 = never.")
    checkpoints_total_limit: int = option(2, "Checkpoints kept.")


RUN_SETTINGS = frozenset(
    {
        *("epochs", "learning_rate", "train_batch_size", "momentum", "weight_decay", "schedule"),
        *("max_grad_norm", "forget_learning_rate"),
    }
)
"""What a comparison may set of a method's run; the rest is the same for all."""


@dataclass(frozen=True)
class TrainConfig(RunSettings):
    """`erase train classifier`: train an original, or a Retrain reference with `forget`."""

    dataset: str = option("digits", "digits, cifar10, cifar100 or folder (one folder a class).")
    data_dir: str | None = option(None, "Folder that holds the data.")
    arch: str | None = option(
        None, "cnn, resnet20, resnet56 or any torchvision classifier; default: by data set."
    )
    image_size: int = option(224, "Pixels a side that a folder's images are trained at.")
    limit: int | None = option(None, "Use only the first N training images, to try things out.")
    validation_share: float = option(
        0.1, "Share of each class held out from training, for --search."
    )
    pretrained: bool = option(False, "Start from torchvision's ImageNet weights.")
    weights: str | None = option(None, "Import this state dict instead of training.")
    normalization: str = option(
        "data",
        "Mean and deviation of pixels: data (the data set's own) or imagenet, as imported weights"
        " were trained with.",
        ("data", "imagenet"),
    )


@dataclass(frozen=True)
class ClassifierConfig(RunSettings, MethodConfig):
    """`erase classifier`: make a classifier forget samples or classes."""

    model: str = option("", "Folder of the original, from `erase train classifier`.")
    forget: str = option(
        "", "What to forget: random:10%, random:N, class:NAME[,NAME], classes:10%, indices:FILE."
    )
    method: str = option("lur", "Unlearning method.")
    data_dir: str | None = option(None, "Folder that holds the data, if it has moved.")
    forget_seed: int | None = option(None, "Seed of a random forget set; default: --seed.")
    dual_optim: bool = option(
        False, "DualOptim: Adam on the forget gradient, SGD on the retain gradient."
    )
    forget_learning_rate: float = option(1e-4, "Learning rate of DualOptim's Adam.")
    retain_limit: int | None = option(
        None, "Unlearn with only N samples of D_r, drawn by --seed; default: all of them."
    )
    settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "The method's own settings, NAME=VALUE."}
    )


@dataclass(frozen=True)
class CompareConfig(Config):
    """`erase compare classifier`."""

    dataset: str = option("digits", "digits, cifar10, cifar100 or folder.")
    data_dir: str | None = option(None, "Folder that holds the data.")
    arch: str | None = option(None, "Architecture; default: by data set.")
    model: str | None = option(None, "An original to start from; default: one is trained.")
    limit: int | None = option(None, "Use only the first N training images.")
    trials: int = option(3, "Seeds; each draws its own forget set and trains its own Retrain.")
    epochs: int | None = option(None, "Epochs of every method but Retrain; default: its own.")
    retrain_epochs: int | None = option(None, "Epochs of originals and Retrain; default: its own.")
    search: int = option(
        0, "Hyper-parameter trials for every method, on the validation split; 0 = its defaults."
    )
    shadow_models: int = option(0, "Reference models of the RMIA attack; 0 = no such attack.")
    mixed_precision: str = option("no", "no or bf16.")
    jobs: int = option(1, "Runs at the same time, each in a process of its own.")
    retain_limit: int | None = option(
        None, "Samples of D_r that every method but Retrain may use; default: all of them."
    )
    seed: int = option(0, "First seed.")
    settings: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "Settings of single methods, METHOD.NAME=VALUE; they are not searched."},
    )


def method_module(name: str) -> ModuleType:
    """The plug-in; InputError when there is none, or it is not for classifiers."""
    return find_method(name, "classifier").module


def recipe_of(module: ModuleType, recipe: str, share: float) -> dict[str, Any]:
    """The source's settings for a data set, and for the share of it that is forgotten."""
    table: dict[str, dict[str, Any]] = module.DEFAULTS
    found: dict[str, Any] = table.get(recipe, table["cifar10"])
    return dict(table.get(f"{recipe}:50", found) if share >= LARGE_SHARE else found)


def fill(config: ClassifierConfig, recipe: str, share: float) -> ClassifierConfig:
    """A copy with all defaults filled in, the method's settings included.

    Args:
        config: with what the user gave.
        recipe: name of the data set's recipe.
        share: of the training set that is forgotten, in (0, 1).

    Raises:
        InputError: unknown method or setting, or a value out of range.
    """
    found = find_method(config.method, "classifier")
    defaults = {"epochs": 1, "learning_rate": 0.01, "schedule": "constant"}
    defaults |= {
        "train_batch_size": BATCH.get(recipe, 256),
        **recipe_of(found.module, recipe, share),
    }
    found.check(config.settings)
    texts = {name: text for name, text in config.settings.items() if isinstance(text, str)}
    given = {**config.settings, **parse_settings(found, texts)}
    own = {name: defaults.pop(name) for name in found.names if name in defaults}
    settings = dataclasses.asdict(found.settings(**{**own, **given}))
    config = config.with_defaults(defaults).replace(settings=settings)
    check_ranges(config)
    return config


def check_ranges(config: RunSettings) -> None:
    """Raise InputError for a value that no run can use."""
    least = {
        "epochs": 0,
        "train_batch_size": 2,  # batch statistics of one image are no statistics
        "learning_rate": 0,
        "momentum": 0,
        "weight_decay": 0,
        "max_grad_norm": 0,
        "seed": 0,
        "checkpointing_steps": 0,
        "retain_limit": 1,
    }
    check_least(config, {name: low for name, low in least.items() if hasattr(config, name)})
    if config.schedule not in (None, *SCHEDULES):
        raise InputError(
            f"There is no schedule {config.schedule!r}.", f"Known: {', '.join(SCHEDULES)}."
        )
    if config.mixed_precision not in ("no", "bf16"):
        raise InputError(f"--mixed-precision is {config.mixed_precision}.", "Use no or bf16.")


def parse_method_settings(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `METHOD.NAME=VALUE` says, by method; METHOD may be a variant such as lur+trim.

    NAME is a setting of the method or of its run (epochs, learning_rate, schedule, …).

    Raises:
        InputError: another form, an unknown method, or a setting that it has not.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for label, given in by_method(texts, example="ft.learning_rate=0.1").items():
        found = find_method(label.partition("+")[0], "classifier")
        known = {*found.names, *RUN_SETTINGS}
        if strange := sorted(set(given) - known):
            raise InputError(
                f"{label} has no setting {strange[0]!r}.",
                f"Its settings: {', '.join(sorted(known))}.",
            )
        own = {name: text for name, text in given.items() if name in found.names}
        run = {name: read_value(text) for name, text in given.items() if name not in own}
        parsed[label] = {**parse_settings(found, own), **run}
    return parsed
