"""From what was given, beside a `--config` file or not, to a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from erase.config.base import Config, MethodConfig
from erase.config.fields import shown
from erase.config.layers import Layer, merged
from erase.config.methods import canonical
from erase.config.replay import Replay, upgraded
from erase.config.values import parse_pairs
from erase.errors import InputError
from erase.files import read_yaml

Resolved = TypeVar("Resolved", bound=Config)
RunConfig = TypeVar("RunConfig", bound=MethodConfig)


def resolve(config: type[Resolved], given: Mapping[str, Any], file: Path | None) -> Resolved:
    """A configuration from the options that were given, over those of a `--config` file.

    Raises InputError for an unknown setting, or a value that its field cannot hold.
    """
    options = {name: value for name, value in given.items() if value not in (None, ())}
    options = config.renamed(options)
    config.check_names(options, config.__name__)
    layers = [Layer("given", options)]
    if file is not None:
        values = config.renamed(read_yaml(file))
        if issubclass(config, MethodConfig):
            values = upgraded(values, str(given.get("method") or "lur"))
        config.check_names(values, str(file))
        layers.append(Layer(str(file), values))
    return config(**merged(layers))


def given_settings(texts: tuple[str, ...], options: Mapping[str, str | None]) -> dict[str, str]:
    """The settings of `--set`, and those of options that say the same.

    Raises InputError for a text that is not NAME=VALUE, or a setting given two different values.
    """
    pairs = parse_pairs(texts)
    for name, value in options.items():
        if value is None:
            continue
        if shown(pairs.setdefault(name, value)) != shown(value):
            raise InputError(
                f"--{name.replace('_', '-')} and --set {name} differ.",
                "Give one of them, they mean the same.",
            )
    return pairs


def resolve_run(
    config: type[RunConfig],
    given: Mapping[str, Any],
    settings: Mapping[str, str],
    file: Path | None,
) -> tuple[RunConfig, Replay[RunConfig] | None]:
    """`resolve` with the method's settings that were given, as texts, over those of the file.

    They are typed when it is known what family of models the method is for. Where the user
    gave another method than the file's, the file's settings are not taken over; the second result
    then says what the file holds.
    """
    resolved = resolve(config, given, file)
    if file is not None and "method" in read_yaml(file):
        before = resolve(config, {}, file)
        before = before.replace(method=canonical(before.method))
        if canonical(resolved.method) != before.method:
            chosen = config.renamed({k: v for k, v in given.items() if v not in (None, ())})
            replay = Replay(file, before, frozenset({*chosen, *settings}))
            return resolved.replace(settings=settings), replay
    return resolved.replace(settings={**resolved.settings, **settings}), None
