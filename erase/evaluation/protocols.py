"""From a suite's named protocol and what the user changes to the settings that are used."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from erase import registry
from erase.config.values import parse_owned, read_value
from erase.errors import InputError
from erase.judges.classifier import SETTINGS as CLASSIFIER_SETTINGS
from erase.scoring.judge import judge_class
from erase.scoring.metric import IN_THIS_PACKAGE, load_metric
from erase.scoring.samples import Protocol
from erase.scoring.suite import Suite

Settings = dict[str, dict[str, Any]]


def find_protocol(suite: Suite, name: str) -> Protocol:
    """A suite's settings by name, completed with the defaults of what it uses.

    InputError, naming the known ones, if it has none such.
    """
    known = suite.protocols()
    if name not in known:
        raise InputError(f"There is no protocol {name!r}.", f"Known: {', '.join(known)}.")
    return complete(suite, known[name])


def complete(suite: Suite, protocol: Protocol) -> Protocol:
    """The protocol with the settings of its metrics and suite, and of nothing else, all of them.

    InputError for an unknown metric, or a setting that is unknown or out of range.
    """
    sections = _sections(suite, protocol)
    settings: Settings = {}
    for name, allowed in sections.items():
        given = protocol.settings.get(name, {})
        defaults = {key: _default(value) for key, value in allowed.items()}
        checked = {key: _checked(name, key, value, allowed) for key, value in given.items()}
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
    """A named protocol with changes; what is None stays.

    Args:
        suite: the protocol's suite.
        named: what `find_protocol` gave.
        metrics: names that replace the protocol's.
        settings: `SECTION.NAME=VALUE`, the section being a metric, the suite or `classifier`, the
            value YAML.
        options: the same from options of their own, already taken apart.
        changes: other fields of `Protocol`.

    Raises InputError for whatever cannot be used.
    """
    protocol = named.replace(metrics=tuple(dict.fromkeys(metrics)) or None, **changes)
    for name in protocol.metrics:
        registry.check("metrics", name)
    given = parse(settings)
    sections = _sections(suite, protocol)
    for name in given:
        if name not in sections:
            raise InputError(
                f"--set {name}.…: this evaluation has no {name!r} to set.",
                f"It has {', '.join(key for key, value in sections.items() if value)}.",
            )
    return complete(suite, protocol.with_settings(options or {}).with_settings(given))


def parse(settings: Sequence[str]) -> Settings:
    """`["clip.model=vit-b-32"]` as `{"clip": {"model": "vit-b-32"}}`; values are YAML."""
    given = parse_owned(settings, owner="METRIC", example="fid.features=inception-64")
    return {
        section: {name: _read(f"{section}.{name}", text) for name, text in values.items()}
        for section, values in given.items()
    }


def _read(name: str, text: str) -> Any:
    try:
        return read_value(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {name}={text} has no readable value.", "Quote it.") from error


def _sections(suite: Suite, protocol: Protocol) -> dict[str, Mapping[str, Any]]:
    """What may be set, by section: names with defaults, or a tuple of possible values."""
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
    """The value as its default's type; InputError for another name, type or choice."""
    if key not in allowed:
        raise InputError(
            f"{section} has no setting {key!r}.", f"It has {', '.join(allowed) or 'none'}."
        )
    want = allowed[key]
    if isinstance(want, tuple):
        if value not in want:
            raise InputError(
                f"{section}.{key} is {value!r}.", f"Possible: {', '.join(map(str, want))}."
            )
        return value
    if isinstance(want, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(want):
        raise InputError(f"{section}.{key} is {value!r}.", f"Give a value such as {want!r}.")
    return value
