"""Configurations of `erase compare`, and what `--set` may say of one method's runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erase import registry
from erase.config.base import DATASETS, FORMER_SIDE, NO_FP16, PRECISIONS, Config
from erase.config.classifier import PADDING_HELP, PER_CLASS_HELP, RESOLUTION_HELP, ClassifierConfig
from erase.config.concept import ConceptConfig
from erase.config.families import CLASSIFIER, TEXT_TO_IMAGE
from erase.config.fields import option, settings_field, typed_values
from erase.config.limits import BATCHES, EPOCHS, IMAGES, PIXELS, SEEDS, STEPS
from erase.config.methods import MethodSpec, find_method
from erase.config.values import parse_owned
from erase.errors import InputError

CLASSIFIER_RUN = frozenset(
    {
        *("epochs", "learning_rate", "train_batch_size", "momentum", "weight_decay"),
        *("lr_scheduler", "max_grad_norm", "forget_learning_rate"),
    }
)
"""What a comparison may set of a classifier method's run; the rest is the same for all."""
DIFFUSION_RUN = frozenset(ConceptConfig.__dataclass_fields__) - {
    *("model", "concept", "method", "settings", "seed"),
}
"""What a comparison may set of an `erase concept` run."""
ALL = "all"
"""Instead of names: every attack that fits the model."""


@dataclass(frozen=True)
class CompareConfig(Config):
    """`erase compare classifier`."""

    dataset: str = option("digits", "digits, cifar10, cifar100 or folder.", DATASETS)
    data_dir: str | None = option(None, "Folder that holds the data.", path=True)
    follow_links: bool | None = option(None, "Follow links that lead out of --data-dir.")
    arch: str | None = option(None, "Architecture; default: by data set.")
    model: str | None = option(
        None, "An original to start from; default: one is trained.", path=True
    )
    resolution: int | None = option(None, RESOLUTION_HELP, least=1, most=PIXELS, former=FORMER_SIDE)
    limit: int | None = option(None, "Use only N training images.", least=1)
    images_per_class: int | None = option(None, PER_CLASS_HELP, least=1)
    crop_padding: int | None = option(None, PADDING_HELP, least=0, most=PIXELS)
    trials: int = option(
        3, "Seeds; each draws its own forget set and trains its own Retrain.", least=1
    )
    epochs: int | None = option(
        None, "Epochs of every method but Retrain; default: its own.", least=0, most=EPOCHS
    )
    learning_rate: float | None = option(
        None,
        "Learning rate of every method but Retrain, or where its search begins; default: its own.",
        least=0,
    )
    retrain_epochs: int | None = option(
        None, "Epochs of originals and Retrain; default: its own.", least=0, most=EPOCHS
    )
    search: int = option(
        0,
        "Hyper-parameter trials for every method, on the validation split; 0 = its defaults.",
        least=0,
        most=100_000,
    )
    shadow_models: int = option(
        0, "Reference models of the RMIA attack; 0 = no such attack.", least=0, most=STEPS
    )
    metrics: tuple[str, ...] = option(
        (),
        "Metrics beyond UA, RA, TA and MIA, with commas, of:"
        f" {', '.join(registry.names('classifier_metrics'))}; rmia comes with --shadow-models.",
    )
    mixed_precision: str = option("no", "no or bf16.", PRECISIONS, advice=NO_FP16)
    jobs: int = option(
        1, "Runs at the same time, each in a process of its own.", least=1, most=1024
    )
    retain_limit: int | None = option(
        None,
        "Samples of the retain set D_r that every method but Retrain may use; default: all.",
        least=1,
    )
    seed: int = option(0, "First seed.", least=0, most=SEEDS)
    settings: Mapping[str, Mapping[str, Any]] = settings_field(
        "Settings of single methods, METHOD.NAME=VALUE; they are not searched."
    )


@dataclass(frozen=True)
class CompareDiffusionConfig(Config):
    """`erase compare diffusion`: what is compared, and how it is judged."""

    model: str = option("", "Alias, folder or hub id of the original.", path=True)
    concept: tuple[str, ...] = option(
        (),
        "What to forget, one run a method each; several times. Concepts with commas between them"
        " are forgotten at once; 'cat from flat style' is a pair, without its parts.",
    )
    trials: int = option(
        1, "Seeds of batches, noise and timesteps; the images stay the same.", least=1
    )
    images_per_class: int | None = option(
        None, "Images a class that each model is judged by.", least=1, most=IMAGES
    )
    evaluation_steps: int | None = option(
        None,
        "Denoising steps of those; default: the protocol's.",
        least=1,
        most=STEPS,
        former=("steps",),
    )
    max_train_steps: int | None = option(
        None, "Steps of every method; default: each its own.", least=0
    )
    train_batch_size: int | None = option(
        None, "Images of each set in a step.", least=1, most=BATCHES
    )
    num_forget_images: int | None = option(
        None, "Images to render for the forget sets.", least=1, most=IMAGES
    )
    num_retain_images: int | None = option(
        None, "Images to render for the retain sets.", least=1, most=IMAGES
    )
    num_anchor_images: int | None = option(
        None, "Images to render of what is shown instead.", least=1, most=IMAGES
    )
    render_steps: int | None = option(None, "Sampling steps of those renders.", least=1, most=STEPS)
    mixed_precision: str = option("no", "Autocast to bf16, or not.", PRECISIONS, advice=NO_FP16)
    attacks: tuple[str, ...] = option(
        (),
        "Attack every model and the original, with commas, by: all (that fit), "
        f"{', '.join(registry.names('attacks'))}.",
    )
    attack_limit: int | None = option(
        None, "At most N prompts of each request to attack; default: all.", least=1
    )
    jobs: int = option(
        1, "Runs at the same time, each in a process of its own.", least=1, most=1024
    )
    seed: int = option(0, "First seed.", least=0, most=SEEDS)

    @property
    def attack_names(self) -> tuple[str, ...]:
        """As `erase attack` takes them: none for all that fit the model."""
        return () if self.attacks == (ALL,) else self.attacks


@dataclass(frozen=True)
class SetTexts:
    """The texts of `--set` of a diffusion comparison, by what they are for."""

    methods: tuple[str, ...] = ()
    """METHOD.NAME=VALUE."""
    attacks: tuple[str, ...] = ()
    """ATTACK.NAME=VALUE."""
    judging: tuple[str, ...] = ()
    """SUITE.NAME=VALUE or METRIC.NAME=VALUE."""


def sorted_settings(texts: Sequence[str], attacks: Sequence[str] = ()) -> SetTexts:
    """The texts of `--set` by their owner: an attack, a suite or metric, else a method.

    InputError for a setting of an attack that is not among `attacks`, unless these are all.
    """
    judges = {*registry.names("suites"), *registry.names("metrics")}
    kinds: dict[str, list[str]] = {"methods": [], "attacks": [], "judging": []}
    for text in texts:
        owner = text.partition(".")[0].strip()
        known = owner in registry.names("attacks")
        if known and owner not in attacks and tuple(attacks) != (ALL,):
            raise InputError(
                f"--set {owner}.… is for an attack that is not made.", f"Add --attacks {owner}."
            )
        kinds["attacks" if known else "judging" if owner in judges else "methods"].append(text)
    return SetTexts(**{name: tuple(owned) for name, owned in kinds.items()})


def settings_by_line(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `METHOD.NAME=VALUE` says of classifier methods; METHOD may be a variant: lur+trim.

    InputError for another form, an unknown method, a setting that it has not, or a bad value.
    """
    return {
        label: classifier_settings(label.partition("+")[0], given)
        for label, given in parse_owned(texts).items()
    }


def classifier_settings(method: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a classifier method or of its run (epochs, learning_rate, schedule, …).

    InputError for an unknown method, a setting that neither has, or a bad value.
    """
    spec = find_method(method, CLASSIFIER)
    given = ClassifierConfig.renamed(given)
    for name in given:
        if name not in spec.names and name not in CLASSIFIER_RUN:
            raise InputError(
                f"{method} has no setting {name!r}.",
                f"Its settings: {', '.join(sorted({*spec.names, *CLASSIFIER_RUN}))}.",
            )
    return _typed(spec, ClassifierConfig, given)


def diffusion_settings(method: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a method for text-to-image models or of its run, as `erase concept` has them.

    InputError for an unknown method, a setting that neither has, or a bad value.
    """
    spec = find_method(method, TEXT_TO_IMAGE)
    given = ConceptConfig.renamed(given)
    for name in given:
        if name not in spec.names and name not in DIFFUSION_RUN:
            raise InputError(
                f"{method} has no setting {name!r}, nor has a run.",
                f"Its settings: {', '.join(spec.names) or 'none'};"
                " a run's are `erase concept` options.",
            )
    return _typed(spec, ConceptConfig, given)


def _typed(spec: MethodSpec, run: type[Config], given: Mapping[str, str]) -> dict[str, Any]:
    """Values of a method's settings and of its run's, each as it is held there."""
    own = {name: text for name, text in given.items() if name in spec.names}
    others = {name: text for name, text in given.items() if name not in own}
    return {**spec.typed(own), **typed_values(run, others)}
