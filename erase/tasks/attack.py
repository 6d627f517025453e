"""What an attack is, and what it is given: a model, prompts, images of the concept, a budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from erase import registry
from erase.config.base import Config
from erase.config.families import TEXT_TO_IMAGE
from erase.config.fields import typed_values
from erase.config.recipes import Recipe
from erase.core.params import select_parameters
from erase.core.rng import derive_seed
from erase.data.captioned import CaptionedImages
from erase.errors import InputError
from erase.models.lora import add_lora
from erase.runs.processes import Shard
from erase.scoring.samples import Sample
from erase.tasks.denoiser import DenoiserTask
from erase.tasks.family import Family
from erase.tasks.latents import LatentCache

CONCEPT, HARMLESS, RENDERS = "concept", "harmless", "renders"
"""Sets of images that an attack may need: of the concept, of anything else, and the base model's
own rendering of each prompt."""
SIZES = ("small", "large")
"""Keys of an attack's `RECIPES`: models up to 64 pixels a side, and larger ones."""
Inputs = Callable[[Sequence[Sample]], Mapping[str, Any]]
"""Further arguments of the pipeline for a batch of samples, such as `latents`."""
Found = Mapping[str, Any]
"""What a search found for one prompt, as JSON holds it; `prompt` is the text to render."""


@dataclass(frozen=True)
class Stage:
    """One rendering of the prompts under an attack."""

    name: str
    """Unique in the attack; names a folder."""
    group: str = ""
    """Part of the attack with rates of its own; a prompt counts as attacked when any stage of the
    group shows the concept. Empty for an attack of one part."""
    step: int | None = None
    """For an attack whose stages are a curve: the training step. The last one counts."""


@dataclass(frozen=True)
class Rendering:
    """How a stage is rendered, where it differs from the plain rendering."""

    samples: Sequence[Sample]
    """With the ids of the plain samples, and what the attack makes of the rest."""
    inputs: Inputs | None = None
    scheduler: Any = None
    """Replaces the pipeline's."""
    texts: Mapping[str, str] | None = None
    """By sample id: what a report says of the prompt, where its text alone says too little."""


class Store(Protocol):
    """Keeps what an attack finds, shared by the processes of a command."""

    def once(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `compute` returns: computed by the first process, kept, read by all."""

    def shared(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The same for what need not be kept."""

    def each(
        self,
        name: str,
        samples: Sequence[Sample],
        search: Callable[[Sequence[Sample]], Sequence[Found]],
        size: int,
    ) -> dict[str, Found]:
        """What `search` finds for each prompt, by sample id: kept prompt by prompt.

        Prompts are searched for in batches of `size`, which the processes share.
        """


@dataclass
class Victim:
    """A model under attack, with all that the attacker has."""

    pipeline: Any
    """On the device, in evaluation mode."""
    family: Family
    device: torch.device
    size: int
    """Pixels a side."""
    steps: int
    """Denoising steps of a rendering."""
    seed: int
    samples: Sequence[Sample]
    """The plain samples: the prompts that are attacked."""
    sets: Mapping[str, CaptionedImages]
    pairs: Sequence[tuple[str, str]]
    """Prompts with the concept, and the same without it."""
    original: Callable[[], Any]
    """The base model's pipeline, on the device; loaded when it is first asked for."""
    store: Store
    batch_size: int = 1
    """Images rendered at once."""
    _caches: dict[str, LatentCache] = field(default_factory=dict)

    @property
    def denoiser(self) -> Any:
        """The network that is trained or looked into."""
        return getattr(self.pipeline, self.family.component)

    @property
    def encoders(self) -> list[Any]:
        """The text encoders."""
        names = ("text_encoder", "text_encoder_2")
        parts = (getattr(self.pipeline, name, None) for name in names)
        return [part for part in parts if part is not None]

    def cache(self, name: str) -> LatentCache:
        """The images of a set, encoded by the model's own VAE and text encoders, as `forget`."""
        if name not in self._caches:
            images = self.sets[name]
            self._caches[name] = self.family.encode(
                self.pipeline,
                {"forget": images, "retain": images},
                dict.fromkeys(images.captions, ("",)),
                size=self.size,
                device=self.device,
            )
        return self._caches[name]

    def latents(self, name: str) -> Tensor:
        """The images of a set as the denoiser sees them, without noise, `[N, C, h, w]`, CPU."""
        return self.cache(name).sets["forget"].mean

    def task(
        self,
        name: str,
        *,
        batch_size: int = 1,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> DenoiserTask:
        """The denoiser with the images of a set as its forget set, and no caption dropout."""
        task = self.family.task(
            model=self.denoiser,
            scheduler=self.family.training_scheduler(self.pipeline),
            cache=self.cache(name),
            parameters=parameters or {},
            shard=Shard(batch_size),
            seed=self.seed,
            device=self.device,
            condition_dropout=0.0,
        )
        task.conditions = {
            key: tensor.to(self.denoiser.dtype) if tensor.is_floating_point() else tensor
            for key, tensor in task.conditions.items()
        }
        return task

    def conditions(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions of prompts on the device, differentiable in what the text encoders read."""
        assert self.family.texts is not None  # what `reads_text` promises
        found = self.family.texts(self.pipeline, list(prompts), self.size)
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def freeze(self) -> None:
        """No weight of the model takes part in gradients."""
        for part in (self.denoiser, *self.encoders):
            part.requires_grad_(False)

    def trainable(self, choice: str, lora_rank: int | None = None) -> dict[str, Parameter]:
        """The denoiser's parameters of a choice, or adapters on its layers; all else is frozen.

        Raises InputError for a choice that matches nothing.
        """
        if lora_rank is None:
            return select_parameters(self.denoiser, choice)
        seed = derive_seed(self.seed, "attack", "lora")
        return add_lora(self.denoiser, choice, rank=lora_rank, seed=seed)


@dataclass(frozen=True)
class Facts:
    """What is known of a model before it is loaded."""

    scheduler: Any
    """The model's own."""
    steps: int
    """Of a rendering."""
    tokenizer: Callable[[], Any]
    """The first text encoder's tokenizer, which is loaded when it is asked for."""


class Attack(ABC):
    """An attack; a file of `erase/attacks/`, or a module of another package, defines one.

    The docstring of that file begins with one sentence that describes the attack. The file also
    holds `Settings`, a dataclass of its settings, and `RECIPES`: their defaults by size of model
    (`SIZES`) with their sources. An object attacks one model, once.

    Args:
        settings: complete; an attack that draws at random has `restarts` among them: how often it
            is tried for each prompt.
    """

    name: ClassVar[str]
    """The plug-in's name."""
    families: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE})
    """Families of models that it is defined for (`erase.config.families`)."""
    sets: ClassVar[tuple[str, ...]] = ()
    """Sets of images that it needs."""
    reads_text: ClassVar[bool] = False
    """Whether it looks into the text encoders (`Victim.conditions`)."""
    gradients: ClassVar[bool] = False
    """Whether it trains or differentiates, which takes float32."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def stages(self) -> list[Stage]:
        """Its renderings in order: one a restart unless a file says otherwise."""
        count = getattr(self.settings, "restarts", 1)
        return [Stage(f"restart-{number}") for number in range(count)]

    @abstractmethod
    def budget(self) -> str:
        """What is spent on each prompt, or on the model, in words."""

    def check(self, facts: Facts) -> None:  # noqa: B027 - some refuse nothing
        """InputError, before anything is made, for settings that do not fit the model."""

    @abstractmethod
    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """Do what the stage needs, and say how its samples are rendered.

        Stages that are rendered already are left out; the others come in order.
        """


@dataclass(frozen=True)
class AttackSpec:
    """An attack with its settings resolved, and where they come from."""

    attack: type[Attack]
    settings: Any
    source: str
    """Of the defaults."""
    published: bool

    def build(self) -> Attack:
        """The attack on one model."""
        return self.attack(self.settings)


def find_attack(name: str, small: bool, given: Mapping[str, str]) -> AttackSpec:
    """An attack with the defaults for models of a size, and the settings that were given.

    Raises InputError for an unknown attack or setting, or a value that it cannot have.
    """
    kind = registry.load_class("attacks", name, Attack)  # type: ignore[type-abstract]
    module = registry.load("attacks", name)
    settings: type[Config] = module.Settings
    known = [item.name for item in fields(settings)]  # type: ignore[arg-type]
    if unknown := sorted(set(given) - set(known)):
        raise InputError(
            f"{name} has no setting {unknown[0]!r}.",
            f"Its settings: {', '.join(known) or 'none'}.",
        )
    recipe: Recipe = module.RECIPES[SIZES[0 if small else 1]]
    values = {**recipe.values, **typed_values(settings, given)}
    return AttackSpec(kind, settings(**values), recipe.source, recipe.published)


def words_budget(settings: Any) -> str:
    """What a gradient search for words spends: `restarts`, `iterations`, rate and `length`."""
    return (
        f"{counted(settings.restarts, 'search', 'searches')} of {settings.iterations} steps at"
        f" {settings.learning_rate:g}, {settings.length} words"
    )


def counted(count: int, one: str, more: str) -> str:
    """`1 search`, `2 searches`."""
    return f"{count} {one if count == 1 else more}"


def with_prompts(samples: Iterable[Sample], prompts: Mapping[str, str]) -> list[Sample]:
    """The samples with other prompts, by id."""
    return [replace(sample, prompt=prompts[sample.id]) for sample in samples]
