"""Configurations of classifier training and unlearning, and how their gaps are filled."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from erase import registry
from erase.config.base import DATASETS, FORMER_SIDE, NO_FP16, PRECISIONS, Config, MethodConfig
from erase.config.families import CLASSIFIER
from erase.config.fields import option, settings_field
from erase.config.layers import Layer, fill_run
from erase.config.limits import BATCHES, EPOCHS, PIXELS, SEEDS
from erase.config.methods import MethodSpec, find_method, recipe_for

LARGE_SHARE = 0.3  # from this share of the training set on, the sources' 50% settings apply
BATCH = {"cifar10": 256, "cifar100": 256, "celeba": 8, "digits": 64}
RESOLUTION_HELP = (
    "Pixels a side to train at: of a folder's images any (default: 224); of CIFAR's up to 32, their"
    " own, averaged over areas."
)
PER_CLASS_HELP = "Use only the first N training images of each class, and N / 5 test images."
PADDING_HELP = (
    "Pixels added on each side before a random crop; default: an eighth of the side of CIFAR's."
)
SCHEDULES = ("constant", "multistep", "cosine")


@dataclass(frozen=True)
class RunSettings(Config):
    """How an optimizer goes over the data, whatever is trained."""

    recipe_help: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("epochs", "learning_rate", "train_batch_size", "lr_scheduler"),
        "recipe: by method and data set; see the run's config.yaml",
    )

    epochs: int | None = option(None, "Epochs.", least=0, most=EPOCHS)
    learning_rate: float | None = option(None, "Learning rate of SGD.", least=0)
    train_batch_size: int | None = option(
        None,
        "Images of each set in a step.",
        least=2,  # batch statistics of one image are no statistics
        most=BATCHES,
    )
    momentum: float = option(0.9, "Momentum of SGD.", least=0, most=1)
    weight_decay: float = option(5e-4, "Weight decay of SGD.", least=0)
    lr_scheduler: str | None = option(
        None,
        "Learning-rate schedule: constant, multistep (×0.1 at 1/2 and 3/4) or cosine.",
        SCHEDULES,
        former=("schedule",),
    )
    max_grad_norm: float = option(0.0, "Gradient clipping norm; 0 turns clipping off.", least=0)
    mixed_precision: str = option("no", "no or bf16 (autocast).", PRECISIONS, advice=NO_FP16)
    seed: int = option(0, "Seed of weights, batches and augmentation.", least=0, most=SEEDS)
    checkpointing_steps: int = option(0, "Checkpoint every N steps; 0 = never.", least=0)
    checkpoints_total_limit: int = option(2, "Checkpoints kept.", least=0)


@dataclass(frozen=True)
class TrainConfig(RunSettings):
    """`erase train classifier`: train an original, or a Retrain reference with `forget`."""

    dataset: str = option(
        "digits", "digits, cifar10, cifar100 or folder (one folder a class).", DATASETS
    )
    data_dir: str | None = option(None, "Folder that holds the data.", path=True)
    follow_links: bool | None = option(None, "Follow links that lead out of --data-dir.")
    arch: str | None = option(
        None,
        "cnn, cnn-gelu, resnet20, resnet56 or any torchvision classifier; default: by data set.",
    )
    resolution: int | None = option(None, RESOLUTION_HELP, least=1, most=PIXELS, former=FORMER_SIDE)
    limit: int | None = option(None, "Use only N training images, to try things out.", least=1)
    images_per_class: int | None = option(None, PER_CLASS_HELP, least=1)
    crop_padding: int | None = option(None, PADDING_HELP, least=0, most=PIXELS)
    validation_share: float = option(
        0.1, "Share of each class held out from training, for --search.", least=0, below=1
    )
    pretrained: bool = option(False, "Start from torchvision's ImageNet weights.")
    weights: str | None = option(None, "Import this state dict instead of training.", path=True)
    normalization: str = option(
        "data",
        "Mean and deviation of pixels: data (the data set's own) or imagenet, as imported weights"
        " were trained with.",
        ("data", "imagenet"),
    )


@dataclass(frozen=True)
class ClassifierConfig(RunSettings, MethodConfig):
    """`erase classifier`: make a classifier forget samples or classes."""

    model: str = option(
        "", "Folder of the original, from `erase train classifier`.", required=True, path=True
    )
    forget: str = option(
        "",
        "What to forget: random:10%, random:N, class:NAME[,NAME], classes:10%, worst:10%,"
        " indices:FILE.",
        required=True,
    )
    method: str = option("lur", "Unlearning method.")
    data_dir: str | None = option(None, "Folder that holds the data, if it has moved.", path=True)
    forget_seed: int | None = option(
        None, "Seed of a random forget set; default: --seed.", least=0, most=SEEDS
    )
    dual_optim: bool = option(
        False,
        "DualOptim: two optimizers, AdamW on the forget gradient, SGD on the retain gradient.",
    )
    forget_learning_rate: float = option(1e-4, "Learning rate of DualOptim's AdamW.", least=0)
    forget_weight_decay: float = option(0.05, "Weight decay of DualOptim's AdamW.", least=0)
    mia_attacks: bool = option(
        False,
        "Report the attack on five features: confidence, correctness, entropy, modified entropy,"
        " all probabilities; default: confidence alone.",
    )
    metrics: tuple[str, ...] = option(
        (),
        "Metrics beyond UA, RA, TA and MIA, with commas, of:"
        f" {', '.join(registry.names('classifier_metrics'))}.",
    )
    retrained: str | None = option(
        None,
        "A run of --method retrain with the same forget set, for metrics that compare with one"
        " (idi).",
    )
    retain_limit: int | None = option(
        None,
        "Unlearn with only N samples of the retain set D_r, drawn by --seed; default: all of them.",
        least=1,
    )
    settings: Mapping[str, Any] = settings_field("The method's own settings, NAME=VALUE.")


def method_module(name: str) -> ModuleType:
    """The plug-in; InputError when there is none, or it is not for classifiers."""
    return find_method(name, CLASSIFIER).module


def recipe_of(spec: MethodSpec, recipe: str, share: float) -> dict[str, Any]:
    """The method's settings for a data set, and for the share of it that is forgotten."""
    usual = recipe_for(spec, recipe) or recipe_for(spec, "cifar10")
    found = (recipe_for(spec, f"{recipe}:50") or usual) if share >= LARGE_SHARE else usual
    return ClassifierConfig.renamed(found.values) if found else {}


def fill(config: ClassifierConfig, recipe: str, share: float) -> ClassifierConfig:
    """A copy with all defaults filled in, the method's settings included.

    Args:
        config: with what the user gave.
        recipe: name of the data set's recipe.
        share: of the training set that is forgotten, in (0, 1).

    Raises:
        InputError: unknown method or setting, or a value out of range.
    """
    spec = find_method(config.method, CLASSIFIER)
    layers = [
        Layer(f"{spec.name} on {recipe}", recipe_of(spec, recipe, share)),
        Layer(recipe, {"train_batch_size": BATCH.get(recipe, 256)}),
        Layer("any", {"epochs": 1, "learning_rate": 0.01, "lr_scheduler": "constant"}),
    ]
    return fill_run(config, spec, layers)
