"""The settings of an evaluation: a suite's named protocol with the user's changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from erase import registry
from erase.config.values import parse_owned, read_value
from erase.errors import InputError
from erase.judges.classifier import SETTINGS as CLASSIFIER_SETTINGS
from erase.reading import ContentError
from erase.scoring.judge import judge_class
from erase.scoring.metric import IN_THIS_PACKAGE, load_metric
from erase.scoring.samples import Protocol
from erase.scoring.suite import Suite

Settings = dict[str, dict[str, Any]]


def find_protocol(suite: Suite, name: str) -> Protocol:
    """A suite's protocol by name, completed with the defaults of its metrics and judges.

    Raises InputError, with the known names, if there is none of this name.
    """
    protocols = suite.protocols()
    if name not in protocols:
        raise InputError(f"There is no protocol {name!r}.", f"Known: {', '.join(protocols)}.")
    return complete(suite, protocols[name])


def complete(suite: Suite, protocol: Protocol) -> Protocol:
    """The protocol with every setting of its metrics and its suite, and no others.

    Raises InputError for an unknown metric, or a setting that is unknown or out of range.
    """
    sections = _sections(suite, protocol)
    settings: Settings = {}
    for name, allowed in sections.items():
        stated = protocol.settings.get(name, {})
        defaults = {key: _default(value) for key, value in allowed.items()}
        checked = {key: _checked(name, key, value, allowed) for key, value in stated.items()}
        if values := {**defaults, **checked}:
            settings[name] = values
    return Protocol(**{**vars(protocol), "settings": settings})


def change(
    suite: Suite,
    named: Protocol,
    *,
    metrics: Sequence[str] = (),
    settings: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **changes: Any,
) -> Protocol:
    """A named protocol with changes; a value of None changes nothing.

    Args:
        suite: the protocol's suite.
        named: as `find_protocol` returns it.
        metrics: names that replace the protocol's.
        settings: `SECTION.NAME=VALUE`, the section being a metric, the suite or `classifier`, the
            value YAML.
        options: settings from command-line options of their own, by section and name.
        changes: other fields of `Protocol`.

    Raises InputError for anything that cannot be used.
    """
    protocol = named.replace(metrics=tuple(dict.fromkeys(metrics)) or None, **changes)
    for name in protocol.metrics:
        registry.check("metrics", name)
    changed_settings = parse(settings)
    sections = _sections(suite, protocol)
    for name in changed_settings:
        if name not in sections:
            raise InputError(
                f"--set {name}.…: this evaluation has no {name!r} to set.",
                f"It has {', '.join(key for key, value in sections.items() if value)}.",
            )
    return complete(suite, protocol.with_settings(options or {}).with_settings(changed_settings))


def parse(settings: Sequence[str]) -> Settings:
    """`["clip.model=vit-b-32"]` as `{"clip": {"model": "vit-b-32"}}`; values are YAML."""
    texts = parse_owned(settings, owner="METRIC", example="fid.features=inception-64")
    return {
        section: {name: _read(f"{section}.{name}", text) for name, text in values.items()}
        for section, values in texts.items()
    }


def _read(name: str, text: str) -> Any:
    try:
        return read_value(text)
    except ContentError as error:
        raise InputError(f"--set {name}={text} has no readable value.", "Quote it.") from error


def _sections(suite: Suite, protocol: Protocol) -> dict[str, Mapping[str, Any]]:
    """The settings by section: each name with its default, or a tuple of possible values."""
    metrics = [load_metric(name) for name in protocol.metrics]
    sections: dict[str, Mapping[str, Any]] = {metric.name: metric.settings for metric in metrics}
    sections[protocol.suite] = suite.settings
    if protocol.classifier is not None:
        sections["classifier"] = CLASSIFIER_SETTINGS
    for name in sorted({need for metric in metrics for need in metric.requires - IN_THIS_PACKAGE}):
        sections[name] = judge_class(name).settings
    return sections


def _default(allowed: Any) -> Any:
    return allowed[0] if isinstance(allowed, tuple) else allowed


def _checked(section: str, key: str, value: Any, allowed: Mapping[str, Any]) -> Any:
    """The value in the type of its default; InputError for an unknown name, type or choice."""
    if key not in allowed:
        raise InputError(
            f"{section} has no setting {key!r}.", f"It has {', '.join(allowed) or 'none'}."
        )
    default = allowed[key]
    if isinstance(default, tuple):
        if value not in default:
            raise InputError(
                f"{section}.{key} is {value!r}.", f"Possible: {', '.join(map(str, default))}."
            )
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise InputError(f"{section}.{key} is {value!r}.", f"Give a value such as {default!r}.")
    return value
