"""In what two evaluations differ, in words, from what their records hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from erase.render.render import LIBRARIES

Facts = Mapping[str, Any]


def differences(before: Facts, now: Facts) -> list[str]:
    """What is different now, a phrase for each thing: `steps 25, not 2` (now first).

    Args:
        before: content of the record of the evaluation that the folder holds.
        now: the same of the evaluation that was asked for.
    """
    found = [
        *_named("model", (now.get("model"), now.get("model_sha256")), _model(before)),
        *_settings(before.get("protocol") or {}, now.get("protocol") or {}),
        *_value("concepts", _concepts(now), _concepts(before)),
        *_named("baseline", _baseline(now), _baseline(before)),
        *_value("device", _device(now), _device(before)),
        *_value("dtype", now.get("dtype"), before.get("dtype")),
    ]
    for key, text in (
        ("prompts_sha256", "the prompts have other content"),
        ("reference", "the reference images are other ones"),
    ):
        if key in before and before[key] != now.get(key):
            found.append(text)
    found += [
        f"{name} judges with other weights"
        for name in sorted(_judges(before).keys() & _judges(now).keys())
        if _judges(before)[name] != _judges(now)[name]
    ]
    versions, others = before.get("versions") or {}, now.get("versions") or {}
    found += [
        f"{name} {others.get(name)}, not {versions.get(name)}"
        for name in LIBRARIES
        if versions and versions.get(name) != others.get(name)
    ]
    return found


def _value(name: str, now: Any, before: Any) -> list[str]:
    return [] if now == before else [f"{name} {_shown(now)}, not {_shown(before)}"]


def _named(name: str, now: tuple[Any, Any], before: tuple[Any, Any]) -> list[str]:
    """Of a model: by its name, or by its files where the name is the same."""
    if now[0] != before[0]:
        return [f"the {name} {_shown(now[0])}, not {_shown(before[0])}"]
    if None not in (now[1], before[1]) and now[1] != before[1]:
        return [f"the files of the {name} {now[0]} have changed since"]
    return []


def _settings(before: Facts, now: Facts) -> list[str]:
    """Of the protocol, its nested settings by their whole names: `nudenet.threshold`."""
    old, new = _flat(before), _flat(now)
    return [
        found
        for name in {**new, **old}
        if name not in ("source", "version")
        for found in _value(name, new.get(name), old.get(name))
    ]


def _flat(protocol: Facts) -> dict[str, Any]:
    flat = {name: value for name, value in protocol.items() if name != "settings"}
    for section, values in (protocol.get("settings") or {}).items():
        flat |= {f"{section}.{name}": value for name, value in values.items()}
    return flat


def _model(record: Facts) -> tuple[Any, Any]:
    return record.get("model"), record.get("model_sha256")


def _baseline(record: Facts) -> tuple[Any, Any]:
    baseline = record.get("baseline") or {}
    return baseline.get("model"), baseline.get("model_sha256")


def _concepts(record: Facts) -> list[str]:
    return list((record.get("target") or {}).get("concepts") or ())


def _device(record: Facts) -> str | None:
    """The type alone: images do not depend on which GPU of one kind rendered them."""
    device = record.get("device")
    return None if device is None else torch.device(str(device)).type


def _judges(record: Facts) -> Facts:
    judges: Facts = record.get("observers_sha256") or {}
    return judges


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
