"""Finding a method for a family of models, its settings, and building it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

from erase import registry
from erase.config.base import MethodConfig
from erase.config.families import CLASS_CONDITIONAL, methods_for
from erase.config.fields import typed_values
from erase.config.recipes import Recipe
from erase.errors import InputError

SMALL = 64
"""Largest side, in pixels, of the models that the settings `small` are for."""
CIFAR = 32
"""Pixels a side of the models that the settings of a family are for."""
LENGTH = (
    *("max_train_steps", "train_batch_size", "learning_rate"),
    *("lr_scheduler", "lr_warmup_steps", "ema_decay", "flip"),
)
"""Settings of the sources' long runs, which a model below `CIFAR` pixels does not need."""


@dataclass(frozen=True)
class MethodSpec:
    """A method as it is defined for one family."""

    name: str
    module: ModuleType
    method: Any
    settings: Any
    """The dataclass of its settings."""

    @property
    def names(self) -> list[str]:
        """Names of its settings."""
        return [item.name for item in fields(self.settings)]

    def typed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings, texts among them, as the method has them.

        InputError for a setting that the method does not have, or a value that it cannot have.
        """
        if unknown := sorted(set(given) - set(self.names)):
            raise InputError(
                f"{self.name} has no setting {unknown[0]!r}.",
                f"Its settings: {', '.join(self.names) or 'none'}.",
            )
        return typed_values(self.settings, given)

    def build(self, settings: Mapping[str, Any]) -> Any:
        """The method; InputError as for `typed`, and for settings that do not go together."""
        return self.method(self.settings(**self.typed(settings)))


def canonical(name: str) -> str:
    """The name of a method that may be called by another one."""
    return {"joint": "lur-b"}.get(name, name)


def find_method(name: str, family: str) -> MethodSpec:
    """A method for a family; InputError, naming those there are, when it is not defined for it."""
    classes = _classes(name, family)
    if classes is None:
        raise undefined(name, family)
    return MethodSpec(name, registry.load("methods", name), *classes)


def undefined(name: str, family: str) -> InputError:
    """The refusal of a method that is not defined for a family."""
    return InputError(
        f"The method {name!r} is not defined for {family} models.",
        f"Defined there: {', '.join(methods_for(family))}.",
    )


def _classes(name: str, family: str) -> tuple[Any, Any] | None:
    module = registry.load("methods", name)
    if family in module.Method.families:
        return module.Method, module.Settings
    other = getattr(module, "DenoiserMethod", None)
    if other is not None and family in other.families:
        return other, getattr(module, "DenoiserSettings", module.Settings)
    return None


def recipe_for(spec: MethodSpec, task: str) -> Recipe | None:
    """The method's settings on a task, with their source; None where it has none."""
    table: Mapping[str, Recipe] = getattr(spec.module, "RECIPES", {})
    return table.get(task)


def denoiser_task(family: str, resolution: int, kind: str) -> str:
    """The task (`erase.config.recipes.TASKS`) of a run on a denoiser.

    Args:
        family: of the model.
        resolution: pixels a side.
        kind: of the concept: nudity, class or style.
    """
    if family == CLASS_CONDITIONAL:
        return family if resolution >= CIFAR else f"{family}-small"
    return "small" if resolution <= SMALL else kind


def run_defaults(
    spec: MethodSpec, family: str, resolution: int, kind: str = "class"
) -> dict[str, Any]:
    """What the method's source uses in a run on a denoiser of this family and size.

    Below 32 pixels a class-conditional model is trained for as long as the recipe of small models
    says, in the form that the source has at 32 pixels, unless the method has settings of its own.
    """
    task = denoiser_task(family, resolution, kind)
    found = recipe_for(spec, task)
    if found is None and task.endswith("-small"):
        found = recipe_for(spec, CLASS_CONDITIONAL)
        values = found.values if found else {}
        return {name: value for name, value in values.items() if name not in LENGTH}
    return dict(found.values) if found else {}


def build_method(config: MethodConfig, family: str) -> Any:
    """The method of a run's configuration; InputError when it is not defined for the family."""
    return find_method(config.method, family).build(config.settings)
