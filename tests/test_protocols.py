"""From a named protocol and the user's changes to what is used, and what is refused."""

from typing import Any

import pytest

from erase import registry
from erase.errors import InputError
from erase.evaluation.protocols import change, find_protocol, parse
from erase.scoring.samples import Protocol
from erase.scoring.suite import Suite, load_suite


@pytest.fixture
def imagenette() -> Suite:
    return load_suite("imagenette")


def changed(suite: Suite, name: str = "default", **changes: Any) -> Protocol:
    return change(suite, find_protocol(suite, name), **changes)


def test_settings_are_yaml_by_section() -> None:
    found = parse(["fid.features=inception-64", "nudenet.threshold=0.5", "i2p.row_guidance=true"])
    assert found == {
        "fid": {"features": "inception-64"},
        "nudenet": {"threshold": 0.5},
        "i2p": {"row_guidance": True},
    }
    for bad in ("threshold=0.5", "nudenet.threshold", ".x=1", "a.=1", "a.b={"):
        with pytest.raises(InputError, match="--set"):
            parse([bad])


def test_deviations_name_what_was_changed(imagenette: Suite) -> None:
    named = find_protocol(imagenette, "salun")
    used = change(
        imagenette, named, steps=50, settings=["fid.features=inception-2048"], classifier="vgg16"
    )
    found = used.deviations(named)
    assert set(found) == {"steps", "settings", "classifier"}
    assert found["steps"] == [100, 50]
    assert changed(imagenette, "salun").deviations(named) == {}


def test_other_metrics_bring_their_own_settings(imagenette: Suite) -> None:
    used = changed(imagenette, metrics=["clip", "kid", "clip"])
    assert used.metrics == ("clip", "kid")
    assert used.settings["clip"] == {"model": "vit-l-14"}
    assert used.settings["kid"] == {"features": "inception-2048"}
    assert "fid" not in used.settings
    assert changed(imagenette, metrics=["clip"], settings=["clip.model=x"]).settings["clip"] == {
        "model": "x"
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": ["fidd"]}, "fid"),
        ({"settings": ["nudenet.threshold=0.5"]}, "nudenet"),  # no such metric in this protocol
        ({"settings": ["fid.feature=classifier"]}, "features"),
        ({"settings": ["fid.features=inception-192"]}, "inception-2048"),
        ({"settings": ["classifier.among=some"]}, "suite"),
        ({"metrics": ["clip"], "settings": ["clip.model=3"]}, "vit-l-14"),
        ({"steps": 0}, "steps"),
        ({"size": 0}, "size"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error(
    imagenette: Suite, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        changed(imagenette, **changes)
    assert said in f"{caught.value.message} {caught.value.remedy}"


def test_numbers_keep_their_type() -> None:
    i2p = load_suite("i2p")
    used = changed(i2p, settings=["nudenet.threshold=1", "i2p.min_nudity=50"])
    assert repr(used.settings["nudenet"]["threshold"]) == "1.0"
    for bad in ("nudenet.threshold=high", "nudenet.threshold=true", "i2p.row_guidance=1"):
        with pytest.raises(InputError, match=" is "):
            changed(i2p, settings=[bad])


def test_every_protocol_names_known_settings() -> None:
    for name in registry.names("suites"):
        suite = load_suite(name)
        for protocol in suite.protocols():
            used = find_protocol(suite, protocol)
            allowed = {*used.metrics, name, "classifier"}
            assert set(used.settings) <= allowed
