"""Neighbours, other words and H in suites that ask for one kind of thing: digits, Imagenette."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.data.prompts import prompts_root, read_class_list
from erase.errors import InputError, RunError
from erase.evaluation import observe
from erase.evaluation.checks import check_model, check_reference
from erase.evaluation.protocols import find_protocol
from erase.evaluation.score import choose_samples
from erase.judges.reference import RealImages
from erase.judges.zoo import imagenet_classes
from erase.models.loading import resolve
from erase.scoring.context import Context, Predictions
from erase.scoring.metric import load_metric
from erase.scoring.samples import Sample
from erase.scoring.suite import load_suite
from tests.evaluation_world import score, values
from tests.tiny_pipelines import ddpm

ROOT = prompts_root()
ONE_KIND = ("digits", "imagenette")
WIDE = find_protocol(load_suite("imagenette"), "wide")


def chosen(suite: str, target: str, **changes: object) -> list[Sample]:
    protocol = WIDE if suite == "imagenette" else find_protocol(load_suite(suite), "default")
    return choose_samples(load_suite(suite), protocol.replace(**changes), ROOT, frozenset({target}))


def seen(suite: str, target: str, answer: Callable[[Sample], str]) -> Context:
    """A context in which the classifier says what `answer` says of a sample."""
    samples = chosen(suite, target)
    names = imagenet_classes() if suite == "imagenette" else load_suite(suite).classes(ROOT)
    table = np.zeros((len(samples), len(names)))
    table[range(len(samples)), [names.index(answer(sample)) for sample in samples]] = 1
    return Context(
        samples=samples,
        images=[Path(f"{sample.id}.png") for sample in samples],
        targets=frozenset({target}),
        predictions=Predictions("judge", names, table, table),
        neighbours=load_suite(suite).neighbours(ROOT),
    )


@pytest.mark.parametrize("suite", ONE_KIND)
def test_every_class_has_neighbours_that_a_judge_knows(suite: str) -> None:
    classes = read_class_list(ROOT / f"{suite}.yaml")
    known = imagenet_classes() if suite == "imagenette" else classes.names
    assert tuple(classes.neighbours) == classes.names
    for name, near in classes.neighbours.items():
        assert name not in near
        assert len(set(near)) == len(near) == (5 if suite == "imagenette" else 3)
        assert set(near) <= set(known)


def test_imagenettes_other_words_do_not_name_the_class() -> None:
    classes = read_class_list(ROOT / "imagenette.yaml")
    assert tuple(classes.paraphrases) == classes.names
    captions = []
    for name, words in classes.paraphrases.items():
        assert tuple(words) == ("synonyms", "descriptions")
        assert not [caption for part in words.values() for caption in part if name in caption]
        captions += [caption for part in words.values() for caption in part]
    assert len(set(captions)) == len(captions)


def test_what_wide_renders_beside_the_ten_classes() -> None:
    plain = choose_samples(
        load_suite("imagenette"),
        find_protocol(load_suite("imagenette"), "default"),
        ROOT,
        frozenset({"golf ball"}),
    )
    samples = chosen("imagenette", "golf ball")
    assert samples[: len(plain)] == plain
    more = samples[len(plain) :]
    assert [(s.target, s.beside) for s in more[::20]][:5] == [
        (name, True)
        for name in ("baseball", "basketball", "croquet ball", "golfcart", "ping-pong ball")
    ]
    words = [s for s in more if s.wording != "name"]
    assert len(more) == 5 * 20 + 2 * 24 == 100 + len(words)
    assert {s.target for s in words} == {"golf ball"}
    assert len({s.prompt for s in words}) == 4
    assert len({s.seed for s in samples}) == len(samples)
    # A neighbour that is one of the ten classes is rendered once.
    beside = {s.target for s in chosen("imagenette", "parachute") if s.beside}
    assert beside == {"CD player", "modem", "monitor", "oscilloscope"}
    fewer = WIDE.with_settings({"imagenette": {"neighbours": 2, "paraphrases": 3}})
    suite = load_suite("imagenette")
    assert len(suite.more(fewer, ROOT, frozenset({"golf ball"}))) == 5 * 2 + 2 * 3


def test_a_sample_without_the_later_fields_is_written_as_before() -> None:
    sample = Sample("a", "a fish", 1, target="tench")
    assert sorted(sample.to_json()) == sorted(
        ("id", "prompt", "seed", "target", "guidance", "negative_prompt")
    )
    assert replace(sample, beside=True).to_json()["beside"] is True
    assert replace(sample, wording="synonyms").to_json()["wording"] == "synonyms"


@pytest.mark.parametrize(
    ("suite", "target", "near", "n_near", "n_rest"),
    [("digits", "three", "nine", 150, 300), ("imagenette", "golf ball", "baseball", 100, 450)],
)
def test_a_lost_neighbour_is_counted_as_one(
    suite: str, target: str, near: str, n_near: int, n_rest: int
) -> None:
    def answer(sample: Sample) -> str:
        forgotten = sample.target == near or (sample.target == target and sample.wording == "name")
        return load_suite(suite).classes(ROOT)[1] if forgotten else sample.target

    given = seen(suite, target, answer)
    share = 1 - 50 / 150 if suite == "digits" else 1 - 20 / 100
    assert values("neighbours", given) == {
        "neighbours": (pytest.approx(share), n_near),
        "neighbours_rest": (1.0, n_rest),
    }
    detail = score("neighbours", given).summaries["neighbours"].detail["parts"]
    assert detail[near]["value"] == 0
    # A neighbour from outside the ten classes is in no other measure.
    kept = 400 / 450 if suite == "digits" else 1.0
    for metric in ("ra", "ira"):
        assert values(metric, given)[metric] == pytest.approx((kept, 450))
    assert values("ua", given) == {"ua": (1.0, 50)}


@pytest.mark.parametrize("suite", ONE_KIND)
def test_h_is_the_mean_of_what_the_suite_has(suite: str) -> None:
    target = {"digits": "three", "imagenette": "golf ball"}[suite]
    other = load_suite(suite).classes(ROOT)[0]
    given = seen(suite, target, lambda s: other if s.target == target else s.target)
    found = score("h", given).summaries["h"]
    assert found.value == 1
    parts = ["UA", "IRA"] + ["paraphrase UA"] * (suite == "imagenette")
    assert list(found.detail["parts"]) == parts
    # Only the name is forgotten: H falls where there are other words.
    given = seen(
        suite,
        target,
        lambda s: other if s.target == target and s.wording == "name" else s.target,
    )
    assert score("h", given).summaries["h"].value == (suite == "digits")


@pytest.mark.parametrize("metric", ["cra", "parts"])
def test_measures_of_another_kind_are_refused(metric: str) -> None:
    with pytest.raises(RunError, match="one kind"):
        load_metric(metric).check(seen("digits", "three", lambda s: s.target))


def test_the_judge_has_to_know_the_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def note(_: str, classes: tuple[str, ...], *_more: object) -> None:
        asked.append(classes)

    monkeypatch.setattr(observe, "load_judge", note)
    imagenette, target = load_suite("imagenette"), frozenset({"tench"})
    for metrics in (("ra", "neighbours"), ("ra", "paraphrases")):
        protocol = WIDE.replace(metrics=metrics)
        observe.find_observers(imagenette, protocol, ROOT, targets=target, baseline=True)
    ten = imagenette.classes(ROOT)
    assert asked == [(*ten, "goldfish", "eel", "coho", "sturgeon", "gar"), ten]


def test_a_model_of_classes_is_not_asked_in_other_words(tmp_path: Path) -> None:
    ddpm().save_pretrained(tmp_path)
    samples = [Sample("a", "a cat", 1, target="cat", wording="synonyms", guidance=1.0)]
    with pytest.raises(InputError, match="reads no words"):
        check_model(resolve(str(tmp_path)), WIDE, samples)


def test_real_images_of_outside_neighbours_are_not_asked_for(tmp_path: Path) -> None:
    names = load_suite("imagenette").classes(ROOT)
    real = RealImages(tmp_path, tuple(Path(n) for n in names), names, (), ())
    check_reference(real, chosen("imagenette", "tench"), frozenset({"tench"}))
    context = seen("imagenette", "tench", lambda s: s.target)
    assert not [i for i in context.retained() if context.samples[i].beside]


def test_the_digits_tell_neighbours_and_h_by_default(tmp_path: Path) -> None:
    command = ["evaluate", "--model", "mini-sd", "--suite", "digits", "--target", "three"]
    command += ["--images-per-class", "1", "--render-steps", "1", "--guidance", "1"]
    result = CliRunner().invoke(main, [*command, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["neighbours"]["n"] == 3
    assert metrics["neighbours_rest"]["n"] == 6
    assert list(metrics["h"]["detail"]["parts"]) == ["UA", "IRA"]


def test_a_dry_run_of_wide_counts_its_images(tmp_path: Path) -> None:
    command = ["evaluate", "--model", "sd-1.4", "--suite", "imagenette", "--protocol", "wide"]
    command += ["--target", "golf ball", "--dry-run", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert "648" in result.output, result.output
