"""What mini-emoji is made to forget: objects, styles and colours, by the prompts of emoji.yaml."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.data.concepts import Concept, find_concept
from erase.data.emoji import read_vocabulary, words_of
from erase.data.prompts import prompts_root
from erase.data.rendered import check_renderable, rendered_suite, suite_for
from erase.embedded.folders import name_suite
from erase.errors import InputError
from erase.files import read_json, write_json
from erase.judges.base import ClassifierJudge
from erase.runs.record import RECORD
from erase.runs.requests import Forgotten
from erase.scoring.context import Predictions
from erase.training.filters import classifier_filter
from erase.training.sets import order_of

ROOT = prompts_root()
ALL = read_vocabulary()


def find(*words: str, anchor: str | None = None, erase_from: str | None = None) -> Concept:
    return find_concept(words, ROOT, suite="emoji", anchor=anchor, erase_from=erase_from)


def shown(concept: Concept) -> set[str]:
    return {text for texts in concept.anchors for text in texts}


@pytest.mark.parametrize(
    ("word", "name", "instead", "kept"),
    [
        ("cat", "cat", "dog", ALL.names("object")),
        ("flat style", "flat", "mono", ALL.names("style")),
        ("Flat", "flat", "mono", ALL.names("style")),
        ("pink", "pink", "orange", ALL.names("colour")),
        ("pink background", "pink", "orange", ALL.names("colour")),
    ],
)
def test_an_object_a_style_and_a_colour_have_prompts(
    word: str, name: str, instead: str, kept: tuple[str, ...]
) -> None:
    concept = find(word)
    assert (concept.names, concept.suite) == ((name,), "emoji")
    assert concept.target() == {"suite": "emoji", "concepts": [name]}
    assert not concept.notes
    assert all(name in words_of(text) for text in concept.forget)
    assert all(instead in words_of(text) and name not in words_of(text) for text in shown(concept))
    kept_words = set().union(*map(words_of, concept.retain))
    assert name not in kept_words
    assert set(kept) - {name} <= kept_words


def test_captions_of_a_style_draw_every_object() -> None:
    concept = find("flat style")
    words = set().union(*map(words_of, concept.forget))
    assert set(ALL.names("object")) <= words
    assert concept.kind == "style"


def test_concepts_of_two_kinds_leave_each_others_prompts_out() -> None:
    concept = find("cat", "flat style")
    assert concept.names == ("cat", "flat")
    for text in (*concept.retain, *shown(concept)):
        assert not words_of(text) & {"cat", "flat"}, text


def test_two_styles_are_forgotten_together() -> None:
    concept = find("flat style", "mono style")
    assert all("noto" in words_of(text) for text in shown(concept))
    assert not set().union(*map(words_of, concept.retain)) & {"flat", "mono"}


def test_an_anchor_may_be_chosen() -> None:
    assert all("glossy" in words_of(text) for text in shown(find("flat", anchor="glossy")))
    with pytest.raises(InputError, match="the concept itself"):
        find("flat", anchor="flat style")


# Pairs


@pytest.mark.parametrize(
    ("word", "within", "name", "instead"),
    [
        ("cat", "flat style", "cat from flat", {"cat", "mono"}),
        ("Flat", "cat", "cat from flat", {"cat", "mono"}),
        ("cat", "pink background", "cat from pink", {"cat", "orange"}),
        ("mono style", "purple", "mono from purple", {"mono", "pink"}),
    ],
)
def test_a_pair_is_forgotten_and_its_parts_are_kept(
    word: str, within: str, name: str, instead: set[str]
) -> None:
    concept = find(word, erase_from=within)
    both = set(name.split(" from "))
    assert concept.target() == {
        "suite": "emoji",
        "concepts": [name],
        "pairs": {name: name.split(" from ")},
    }
    assert all(both <= words_of(text) for text in concept.forget)
    assert all(instead <= words_of(text) for text in shown(concept))
    kept = [words_of(text) for text in concept.retain]
    assert not any(both <= words for words in kept)
    for part in both:
        assert any(part in words for words in kept)
    kinds = {kind: ALL.names(kind) for kind in ("object", "style", "colour")}
    for names in kinds.values():
        if both & set(names):
            assert set(names) <= set().union(*kept)
    assert len(concept.retain) < 576, "not every retain prompt would be rendered"


def test_the_name_of_a_pair_says_it_too() -> None:
    assert find("cat from flat style") == find("cat", erase_from="flat")
    both = find("cat from flat", "dagger")
    assert both.names == ("cat from flat", "dagger")
    assert not any("dagger" in words_of(text) for text in both.retain)
    assert "a cat" in both.retain


@pytest.mark.parametrize(
    ("words", "images"),
    [(("flat style",), 192), (("pink",), 100), (("cat", "flat style"), 96), (("cat",), 192)],
)
def test_fewer_retain_images_than_prompts_are_of_all_that_is_kept(
    words: tuple[str, ...], images: int
) -> None:
    retain = find(*words).retain
    places = order_of(len(retain))
    assert sorted(places) == list(range(len(retain)))
    chosen = [words_of(retain[place]) for place in places[:images]]
    every = [words_of(text) for text in retain]
    for kind in ("object", "style", "colour"):
        for name in ALL.names(kind):
            share = sum(name in text for text in every) * images / len(every)
            assert sum(name in text for text in chosen) == pytest.approx(share, abs=3), name


@pytest.mark.parametrize(
    ("anchor", "instead"),
    [("dog", {"dog", "flat"}), ("glossy style", {"cat", "glossy"}), ("a blue sky", {"sky"})],
)
def test_the_anchor_of_a_pair(anchor: str, instead: set[str]) -> None:
    texts = shown(find("cat", erase_from="flat", anchor=anchor))
    assert all(instead <= words_of(text) for text in texts)


@pytest.mark.parametrize(
    ("words", "within", "anchor", "said"),
    [
        (("cat",), "dog", None, "Both 'cat' and 'dog' are of the kind object"),
        (("cat",), "zebra", None, "There is no class 'zebra'"),
        (("cat",), "flat", "flat style", "is the concept itself"),
        (("cat", "dog"), "flat", "dog", "is to be forgotten too"),
        (("cat from dog",), None, None, "Both 'cat' and 'dog'"),
        (("cat", "cat from flat"), None, None, "'cat' is to be forgotten too, .* with it"),
        (("cat from flat", "flat"), None, None, "'flat' is to be forgotten too, .* with it"),
    ],
)
def test_pairs_that_cannot_be(
    words: tuple[str, ...], within: str | None, anchor: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        find(*words, erase_from=within, anchor=anchor)


def test_any_words_make_a_pair_for_other_models() -> None:
    concept = find_concept("hat", ROOT, erase_from="snowman")
    assert concept.target()["pairs"] == {"hat from snowman": ["hat", "snowman"]}
    assert all({"hat", "snowman"} <= words_of(text) for text in concept.forget)
    assert all(words_of(text) & {"hat", "snowman"} == {"snowman"} for text in shown(concept))
    assert {"a photo of hat", "a photo of snowman"} <= set(concept.retain)
    with pytest.raises(InputError, match="cannot be forgotten within"):
        find_concept("hat", ROOT, erase_from=" Hat ")


def test_nothing_forgotten_before_is_retained_or_shown() -> None:
    before = [Forgotten("dog"), Forgotten("mono"), Forgotten("cat from noto", pair=("cat", "noto"))]
    concept = find_concept("cat from flat", ROOT, suite="emoji", before=before)
    assert all("twemoji" in words_of(text) for text in shown(concept))
    for text in concept.retain:
        assert not words_of(text) & {"dog", "mono"}, text
        assert not {"cat", "noto"} <= words_of(text), text
    assert "a picture of a cat" in concept.retain


def test_other_models_do_not_know_these_words() -> None:
    assert find_concept("dog", ROOT).suite is None


def test_a_run_made_from_mini_emoji_renders_emoji_too(tmp_path: Path) -> None:
    write_json(tmp_path / RECORD, {"target": {"suite": "emoji", "concepts": ["cat"]}})
    assert rendered_suite(str(tmp_path)) == rendered_suite("mini-emoji") == "emoji"
    assert suite_for(str(tmp_path)) == suite_for("mini-emoji") == "emoji"
    assert suite_for("mini-sd") == suite_for("sd-1.4") == "digits"
    write_json(tmp_path / RECORD, {"target": {"suite": "i2p", "concepts": ["nudity"]}})
    assert suite_for(str(tmp_path)) == "i2p"
    assert rendered_suite(str(tmp_path / "none")) is None


def test_a_model_trained_anew_renders_what_its_index_says(tmp_path: Path) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    write_json(model / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    assert rendered_suite(str(model)) is None
    name_suite(model, "mini-emoji")
    assert read_json(model / "model_index.json")["_class_name"] == "StableDiffusionPipeline"
    write_json(run / RECORD, {"base_model": str(model), "target": {"concepts": ["nudity"]}})
    for folder in (model, run):
        assert rendered_suite(str(folder)) == suite_for(str(folder)) == "emoji"
        with pytest.raises(InputError, match="which renders emoji only"):
            check_renderable(str(folder), find_concept("nudity", ROOT), own_prompts=False)
    write_json(model / "model_index.json", {"_renders": ["emoji"]})
    assert rendered_suite(str(model)) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["concept", "--concept", "cat"], "# forget prompts: 5, e.g. 'a cat'"),
        (["concept", "--concept", "cat", "--erase-from", "flat style"], "# retain prompts: 130"),
        (["class", "--target", "cat"], "# shown instead: e.g. 'a dog'"),
        (["class", "--target", "pink"], "# retain prompts: 215"),
    ],
)
def test_a_dry_run_shows_the_prompts(tmp_path: Path, words: list[str], said: str) -> None:
    command = [*words, "--model", "mini-emoji", "--dry-run", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert said in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["concept", "--concept", "three"], "which renders emoji only"),
        (["class", "--target", "zebra"], "There is no class 'zebra'"),
        (["concept", "--concept", "catt"], "Did you mean 'cat'"),
        (["concept", "--concept", "cat", "--erase-from", "dog"], "an image shows one"),
    ],
)
def test_what_mini_emoji_cannot_draw_is_refused(
    tmp_path: Path, words: list[str], said: str
) -> None:
    command = [*words, "--model", "mini-emoji", "--dry-run", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    assert said in result.output


@pytest.mark.parametrize("words", [["flat style"], ["pink"], ["cat", "--erase-from", "flat style"]])
def test_images_are_filtered_by_the_classifier_of_their_kind(
    tmp_path: Path, words: list[str]
) -> None:
    command = ["concept", "--model", "mini-emoji", "--concept", *words, "--device", "cpu"]
    command += ["--filter-forget", "classifier", "--filter-retain", "classifier"]
    command += ["--num-forget-images", "4", "--num-retain-images", "4", "--render-steps", "6"]
    command += ["--max-train-steps", "1", "--train-batch-size", "2"]
    result = CliRunner().invoke(main, [*command, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for name in ("forget", "retain"):
        chosen = read_json(tmp_path / "out" / "data" / name / "kept.json", dict)
        assert len(chosen["kept"]) == 4


def test_a_filter_looks_for_both_things_of_a_pair() -> None:
    class Says(ClassifierJudge):
        name = description = "says"

        def __init__(self, classes: tuple[str, ...], seen: list[int]) -> None:
            self.classes, self.seen = classes, seen

        def fingerprint(self) -> str:
            return ""

        def predict(self, images: Sequence[Path]) -> Predictions:
            rows = np.eye(len(self.classes))[self.seen[: len(images)]]
            return Predictions("says", self.classes, rows, rows)

    judges = {"object": Says(("cat", "dog"), [0, 0, 1]), "style": Says(("flat", "mono"), [0, 1, 0])}
    paths = [Path(str(number)) for number in range(3)]

    def passed(*wanted: dict[str, str]) -> list[bool]:
        return classifier_filter(judges, wanted)(paths)

    assert passed({"object": "cat", "style": "flat"}) == [True, False, False]
    assert passed({"object": "cat"}, {"style": "flat"}) == [True, True, True]
    assert passed({"object": "dog"}, {"style": "mono"}) == [False, True, True]
