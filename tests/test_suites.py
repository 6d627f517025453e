import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from erase import registry
from erase.core.scoring import subset
from erase.data.prompts import prompts_root
from erase.errors import InputError

PROMPTS = prompts_root(None)


@pytest.fixture(params=registry.names("suites"))
def suite(request: pytest.FixtureRequest) -> ModuleType:
    return registry.load("suites", request.param)


def test_suite_contract(suite: ModuleType) -> None:
    name = suite.__name__.rpartition(".")[2].replace("_", "-")
    assert registry.summary("suites", name).endswith(".")
    assert isinstance(suite.VERSION, int)
    protocols = suite.protocols()
    assert "default" in protocols
    for key, protocol in protocols.items():
        assert (protocol.name, protocol.suite, protocol.version) == (key, name, suite.VERSION)
        assert protocol.metrics
        for metric in protocol.metrics:
            registry.check("metrics", metric)
        json.dumps(protocol.to_json(), allow_nan=False)


def test_samples_are_distinct_and_the_same_each_time(suite: ModuleType) -> None:
    protocol = suite.protocols()["default"]
    samples = suite.samples(protocol, PROMPTS)
    assert samples == suite.samples(protocol, PROMPTS)
    assert len({s.id for s in samples}) == len({s.seed for s in samples}) == len(samples)
    classes = suite.classes(PROMPTS)
    assert not classes or {s.target for s in samples} == set(classes)
    other = suite.samples(protocol.replace(seed=1), PROMPTS)
    assert not {s.seed for s in samples} & {s.seed for s in other}


def test_digits_use_each_evaluation_caption_equally() -> None:
    digits = registry.load("suites", "digits")
    samples = digits.samples(digits.protocols()["default"], PROMPTS)
    assert len(samples) == 500
    content = yaml.safe_load((PROMPTS / "digits.yaml").read_text())
    templates = content["templates"]
    for item in content["classes"]:
        mine = [s.prompt for s in samples if s.target == item["name"]]
        assert len(mine) == 50
        expected = {text.format(**item) for text in templates["evaluate"]}
        assert {prompt: mine.count(prompt) for prompt in mine} == dict.fromkeys(expected, 5)
        for use in ("train", "forget", "retain"):
            assert not expected & {text.format(**item) for text in templates[use]}


def test_more_images_keep_the_first_ones() -> None:
    digits = registry.load("suites", "digits")
    protocol = digits.protocols()["default"]
    few = digits.samples(protocol.replace(images=3), PROMPTS)
    assert set(few) <= set(digits.samples(protocol, PROMPTS))
    assert {s.target for s in subset(few, 10, 0)} == set(digits.classes(PROMPTS))


@pytest.mark.parametrize("content", ["classes: []", "- a", "classes: [{name: one}]", "a: ["])
def test_broken_prompts_are_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "digits.yaml").write_text(content)
    digits = registry.load("suites", "digits")
    with pytest.raises(InputError, match=r"digits\.yaml"):
        digits.samples(digits.protocols()["default"], tmp_path)
