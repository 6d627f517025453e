"""Where the values of a run come from: layers in order, the strongest first.

    given      options, `--set`, or the arguments of a Python object
    file       `--config FILE`
    method     what the method's source uses for this task, family and size, then for its variant
    concept    the recipe of what is forgotten
    size       the recipe of the images' size, or of the data set

A layer leaves open what is None in it; the next one that has a value decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from erase.config.base import Config, MethodConfig
from erase.config.methods import MethodSpec

AnyConfig = TypeVar("AnyConfig", bound=Config)
Run = TypeVar("Run", bound=MethodConfig)


@dataclass(frozen=True)
class Layer:
    """Values by name, and the name of where they come from."""

    name: str
    values: Mapping[str, Any]


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """The value of each name in the first layer that has one."""
    return {name: value for name, (value, _) in _decided(layers).items()}


def origins(layers: Iterable[Layer]) -> dict[str, str]:
    """The name of the layer that decides each name."""
    return {name: layer for name, (_, layer) in _decided(layers).items()}


def _decided(layers: Iterable[Layer]) -> dict[str, tuple[Any, str]]:
    decided: dict[str, tuple[Any, str]] = {}
    for layer in layers:
        for name, value in layer.values.items():
            if value is not None:
                decided.setdefault(name, (value, layer.name))
    return decided


def fill(config: AnyConfig, layers: Iterable[Layer]) -> AnyConfig:
    """A copy whose unset (None) fields come from the layers."""
    unset = {name: value for name, value in merged(layers).items() if getattr(config, name) is None}
    return config.replace(**unset)


def fill_run(config: Run, spec: MethodSpec, layers: Sequence[Layer]) -> Run:
    """A copy of a run's configuration with nothing left open, its method's settings included.

    Args:
        config: with what was given, texts among the settings as `--set` has them.
        spec: the method.
        layers: the first one is the method's: it holds settings of the method and of the run.

    Raises:
        InputError: a setting that the method does not have, or a value that it cannot have.
    """
    settings = settings_of(config, spec, layers)
    return fill(config.replace(settings=settings), run_layers(config, spec, layers))


def settings_of(config: MethodConfig, spec: MethodSpec, layers: Sequence[Layer]) -> dict[str, Any]:
    """All settings of the method: given, of its variant, its own for this task, its own."""
    method = {name: value for name, value in layers[0].values.items() if name in spec.names}
    given = spec.typed(config.settings)
    variant = asdict(spec.settings(**{**method, **given})).get("variant")
    changed = {n: v for n, v in _variant(spec, variant).items() if n in spec.names}
    return asdict(spec.settings(**{**method, **changed, **given}))


def run_layers(config: MethodConfig, spec: MethodSpec, layers: Sequence[Layer]) -> list[Layer]:
    """The layers behind the run's own values: the variant's, the method's without its settings."""
    method, *others = layers
    values = {name: value for name, value in method.values.items() if name not in spec.names}
    variant = settings_of(config, spec, layers).get("variant")
    changed = {n: v for n, v in _variant(spec, variant).items() if n not in spec.names}
    return [
        Layer(f"{spec.name}, variant {variant}", changed),
        Layer(method.name, values),
        *others,
    ]


def _variant(spec: MethodSpec, variant: Any) -> Mapping[str, Any]:
    """What a variant changes: settings of the method and of the run."""
    variants: Mapping[Any, Mapping[str, Any]] = getattr(spec.module, "VARIANTS", {})
    return variants.get(variant, {})
