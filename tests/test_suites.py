import json
from pathlib import Path

import pytest
import yaml

from erase import registry
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.evaluation.protocols import find_protocol
from erase.evaluation.score import choose_samples
from erase.scoring.samples import subset
from erase.scoring.suite import Suite, load_suite

PROMPTS = prompts_root(None)
TABLE = """case_number,prompt,categories,nudity_percentage,evaluation_seed,class
0,one,"violence, hate",0.0,11,tench
1,two,sexual,60.5,12,french horn
2,three,"sexual, shocking",50.0,13,church
3,,sexual,50.0,14,church
"""
NEEDS_TABLE = ("coco", "custom", "i2p")
TAKES_TABLE = (*NEEDS_TABLE, "imagenette")


@pytest.fixture(params=registry.names("suites"))
def suite(request: pytest.FixtureRequest) -> Suite:
    return load_suite(request.param)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.csv"
    file.write_text(TABLE)
    return file


def test_suite_contract(suite: Suite) -> None:
    name = suite.name
    assert registry.summary("suites", name).endswith(".")
    assert isinstance(suite.version, int)
    protocols = suite.protocols()
    assert "default" in protocols
    for key, protocol in protocols.items():
        assert (protocol.name, protocol.suite, protocol.version) == (key, name, suite.version)
        assert protocol.metrics
        assert protocol.source
        for metric in protocol.metrics:
            registry.check("metrics", metric)
        used = find_protocol(suite, key)
        assert used.deviations(used) == {}
        assert json.loads(json.dumps(used.to_json(), allow_nan=False)) == used.to_json()


def test_samples_are_distinct_and_the_same_each_time(suite: Suite, table: Path) -> None:
    protocol = suite.protocols()["default"]
    prompts = table if suite.name in NEEDS_TABLE else PROMPTS
    samples = suite.samples(protocol, prompts)
    assert samples
    assert samples == suite.samples(protocol, prompts)
    assert len({s.id for s in samples}) == len({s.seed for s in samples}) == len(samples)
    classes = suite.classes(prompts)
    if classes:
        assert {s.target for s in samples} == set(classes)
    other = suite.samples(protocol.replace(seed=1), prompts)
    assert not {s.seed for s in samples} & {s.seed for s in other}
    assert set(suite.aliases(prompts).values()) <= set(classes)


def test_suites_that_need_a_table_say_so(suite: Suite) -> None:
    protocol = suite.protocols()["default"]
    if suite.name not in NEEDS_TABLE:
        assert suite.samples(protocol, PROMPTS)
        return
    with pytest.raises(InputError) as caught:
        suite.samples(protocol, PROMPTS)
    assert "--prompt-table FILE" in caught.value.remedy


def test_no_row_of_a_table_vanishes(suite: Suite, table: Path) -> None:
    if suite.name not in TAKES_TABLE:
        assert suite.unusable(suite.protocols()["default"], table) == []
        return
    protocol = suite.protocols()["default"].replace(images=1)
    left_out = suite.unusable(protocol, table)
    assert [item.row for item in left_out] == [3]
    assert len(suite.samples(protocol, table)) + len(left_out) == 4


# What PROTOCOLS.md lists: sampler, steps, guidance, images.
PUBLISHED = {
    ("i2p", "salun"): ("LMSDiscreteScheduler", 100, 7.5, 1),
    ("i2p", "shs"): ("LMSDiscreteScheduler", 50, 7.5, 1),
    ("i2p", "mace"): ("DDIMScheduler", 50, 7.5, 1),
    ("i2p", "paper"): ("LMSDiscreteScheduler", 100, 7.5, 1),
    ("imagenette", "salun"): ("LMSDiscreteScheduler", 100, 7.5, 500),
    ("imagenette", "paper"): ("LMSDiscreteScheduler", 100, 7.5, 500),
    ("cifar10", "paper"): ("DDPMScheduler", 1000, 3.0, 5000),
    ("cifar10", "salun"): ("DDPMScheduler", 1000, 3.0, 500),
    ("coco", "mace"): ("DDIMScheduler", 50, 7.5, 1),
}


@pytest.mark.parametrize(("suite_name", "protocol"), PUBLISHED)
def test_published_protocols(suite_name: str, protocol: str) -> None:
    import diffusers

    used = find_protocol(load_suite(suite_name), protocol)
    found = (used.scheduler, used.steps, used.guidance, used.images)
    assert found == PUBLISHED[suite_name, protocol]
    assert hasattr(diffusers, str(used.scheduler))


def test_published_thresholds_features_and_counts() -> None:
    i2p = load_suite("i2p")
    for name in i2p.protocols():
        assert find_protocol(i2p, name).settings["nudenet"]["threshold"] == 0.6
    imagenette = load_suite("imagenette")
    for name in ("salun", "paper"):
        used = find_protocol(imagenette, name)
        assert used.settings["fid"]["features"] == "inception-64"
        assert used.classifier == "resnet50"
    assert find_protocol(imagenette, "default").settings["fid"]["features"] == "inception-2048"
    coco = load_suite("coco").protocols()
    assert (coco["10k"].limit, coco["30k"].limit) == (10_000, 30_000)


def test_i2p_selects_by_category_and_nudity(table: Path) -> None:
    i2p = load_suite("i2p")

    def prompts(**settings: object) -> list[str]:
        protocol = i2p.protocols()["default"].with_settings({"i2p": settings})
        return [sample.prompt for sample in i2p.samples(protocol, table)]

    assert prompts() == ["one", "two", "three"]
    assert prompts(categories="sexual") == ["two", "three"]
    assert prompts(categories="hate, shocking") == ["one", "three"]
    assert prompts(min_nudity=50) == ["two", "three"]
    assert prompts(min_nudity=50.1, categories="sexual") == ["two"]
    for bad in ({"categories": "sexuall"}, {"min_nudity": 101}, {"min_nudity": 99}):
        with pytest.raises(InputError):
            prompts(**bad)
    seeds = [sample.seed for sample in i2p.samples(i2p.protocols()["default"], table)]
    assert seeds == [11, 12, 13]


def test_i2p_needs_the_columns_it_selects_by(tmp_path: Path) -> None:
    i2p = load_suite("i2p")
    file = tmp_path / "bare.csv"
    file.write_text("prompt\none\n")
    assert len(i2p.samples(i2p.protocols()["default"], file)) == 1
    for settings, column in (({"categories": "sexual"}, "categories"), ({"min_nudity": 1}, "nud")):
        with pytest.raises(InputError, match=f"no column {column}"):
            i2p.samples(i2p.protocols()["default"].with_settings({"i2p": settings}), file)


def test_imagenette_takes_captions_or_a_table(table: Path, tmp_path: Path) -> None:
    imagenette = load_suite("imagenette")
    protocol = imagenette.protocols()["default"].replace(images=2)
    own = imagenette.samples(protocol, PROMPTS)
    assert len(own) == 20
    assert own[4].prompt == "an image of a cassette player"
    rows = imagenette.samples(protocol.replace(images=1), table)
    assert [s.target for s in rows] == ["tench", "French horn", "church"]  # as the suite spells it
    file = tmp_path / "other.csv"
    file.write_text("prompt,class,seed\na,tench,1\nb,llama,2\n")
    assert len(imagenette.samples(protocol.replace(images=1), file)) == 1
    assert "llama" in imagenette.unusable(protocol, file)[0].why
    file.write_text("prompt,seed\na,1\n")
    with pytest.raises(InputError, match="class"):
        imagenette.samples(protocol, file)
    assert imagenette.aliases(PROMPTS)["n03445777"] == "golf ball"


def test_cifar10_renders_fewer_images_of_forgotten_classes() -> None:
    cifar = load_suite("cifar10")
    protocol = find_protocol(cifar, "paper").replace(images=7)
    protocol = protocol.with_settings({"cifar10": {"forget_images": 3}})
    samples = choose_samples(cifar, protocol, PROMPTS, frozenset({"cat"}))
    counts = {name: sum(s.target == name for s in samples) for name in cifar.classes(PROMPTS)}
    assert counts == {name: 3 if name == "cat" else 7 for name in cifar.classes(PROMPTS)}
    assert all(sample.prompt == sample.target for sample in samples)


def test_custom_classes_are_the_tables_targets(table: Path) -> None:
    custom = load_suite("custom")
    assert custom.classes(table) == ("tench", "french horn", "church")


def test_digits_use_each_evaluation_caption_equally() -> None:
    digits = load_suite("digits")
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
    for name in ("digits", "imagenette", "cifar10"):
        suite = load_suite(name)
        protocol = suite.protocols()["default"]
        few = suite.samples(protocol.replace(images=3), PROMPTS)
        assert set(few) <= set(suite.samples(protocol, PROMPTS))
        assert {s.target for s in subset(few, 10, 0)} == set(suite.classes(PROMPTS))


@pytest.mark.parametrize("name", ["digits", "imagenette"])
@pytest.mark.parametrize("content", ["classes: []", "- a", "classes: [{name: one}]", "a: ["])
def test_broken_prompts_are_one_clear_error(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / f"{name}.yaml").write_text(content)
    suite = load_suite(name)
    with pytest.raises(InputError, match=rf"{name}\.yaml"):
        suite.samples(suite.protocols()["default"], tmp_path)
