"""Concept files, the template for any word, several concepts at once, and filtered renders."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from click.testing import CliRunner
from PIL import Image

from erase.artifacts.packaged import EMBEDDED
from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.config.methods import find_method
from erase.data import concept_files
from erase.data.captioned import CaptionedImages
from erase.data.concept_files import read_concept_files
from erase.data.concepts import Concept, find_classes, find_concept
from erase.data.prompts import class_lists, prompts_root, read_class_list
from erase.errors import InputError, RunError
from erase.files import read_jsonl, write_json
from erase.render.render import HASHED, STATE
from erase.runs.manifest import note_files
from erase.training import sets
from erase.training.filters import check_filters, nudenet_filter
from erase.training.plan import by_own_formula

ROOT = prompts_root()
NAMES = [str(content["name"]) for content in read_concept_files(ROOT)]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_concept_is_whole(name: str) -> None:
    concept = find_concept(name, ROOT)
    assert concept.names == (name,)
    assert not concept.notes
    assert len(concept.anchors) == len(concept.forget)
    assert len(concept.retain) >= 1
    assert not set(concept.retain) & set(concept.forget)
    shown = {text for texts in concept.anchors for text in texts}
    assert not shown & set(concept.forget)


def test_shipped_concepts_are_those_promised() -> None:
    assert {"nudity", "violence", "van gogh", "monet"} <= set(NAMES)
    assert find_concept("Vincent van Gogh", ROOT).names == ("van gogh",)


def test_nudity_is_the_sources_recipe() -> None:
    concept = find_concept("nudity", ROOT)
    assert concept.forget == ("a photo of a nude person",)
    assert concept.retain == ("a photo of a person wearing clothes",)
    assert concept.suite == "i2p"
    assert concept.recipe["num_forget_images"] == concept.recipe["num_retain_images"] == 800
    assert concept.kind == "nudity"


def test_a_style_keeps_the_other_styles() -> None:
    concept = find_concept("monet", ROOT)
    assert "a painting by Vincent van Gogh" in concept.retain
    assert not any("monet" in text.casefold() for text in concept.retain)


def test_any_word_takes_the_template_and_says_so() -> None:
    concept = find_concept("dog", ROOT)
    assert "an image of dog" in concept.forget
    assert {text for texts in concept.anchors for text in texts} == {""}
    assert concept.suite is None
    assert len(concept.retain) > 20
    assert not any("dog" in text for text in concept.retain)
    assert "knows 'dog'" in concept.notes[0]
    assert find_concept("dog", ROOT, anchor="a cat").anchors[0] == ("a cat",)


def test_esd_has_a_formula_of_its_own_for_a_pair_of_any_words() -> None:
    config = ConceptConfig(model="m", concept=("hat",), erase_from="snowman")
    pair = find_concept("hat", ROOT, erase_from="snowman")
    for name, own in (("esd", True), ("lur", False)):
        run, concept = by_own_formula(config, pair, find_method(name, "text-to-image"))
        assert ("erase_from" in run.settings) == own
        assert all("snowman" not in text for text in concept.forget) == own
        assert concept.target() == pair.target()
        assert {"snowman", "a photo of a cat by a window"} <= set(concept.retain)
        assert not set(concept.forget) & set(concept.retain)
    esd = find_method("esd", "text-to-image")
    emoji = find_concept("cat", ROOT, suite="emoji", erase_from="flat")
    of_emoji = config.replace(concept=("cat",), erase_from="flat")
    assert by_own_formula(of_emoji, emoji, esd) == (of_emoji, emoji)
    with pytest.raises(InputError, match="setting erase_from is 'scarecrow'"):
        by_own_formula(config.replace(settings={"erase_from": "scarecrow"}), pair, esd)


def test_plurals_count_as_mentions_and_parts_of_words_do_not() -> None:
    assert "a photo of birds on a wire" not in find_concept("bird", ROOT).retain
    assert "a photo of a cat by a window" in find_concept("wind", ROOT).retain


@pytest.mark.parametrize("word", ["nudty", "golf bal", "thre"])
def test_a_misspelt_name_is_not_taken_for_a_new_word(word: str) -> None:
    with pytest.raises(InputError, match="There is no concept") as caught:
        find_concept(word, ROOT)
    assert "Did you mean" in caught.value.remedy


def test_several_classes_retain_none_of_them_and_anchors_are_kept_classes() -> None:
    concept = find_concept(("three", "4"), ROOT)
    assert concept.names == ("three", "four")
    gone = ("three", "3", "four", "4")
    assert not any(word in text.split() for text in concept.retain for word in gone)
    assert any("five" in text for text in concept.retain)
    for shown in concept.anchors:  # four, the next of three, is forgotten too
        assert all("five" in text or "5" in text for text in shown)
    by_anchor = dict(zip(concept.forget, concept.anchors, strict=True))
    assert by_anchor["the digit three"] == ("the digit five",)
    random = find_concept(("three", "4"), ROOT, anchor="random")
    assert all(len(shown) == 8 for shown in random.anchors)
    with pytest.raises(InputError, match="to be forgotten too"):
        find_concept(("three", "four"), ROOT, anchor="four")
    with pytest.raises(InputError, match="given twice"):
        find_concept(("three", "3"), ROOT)


def test_several_concepts_have_equal_shares_of_the_forget_set() -> None:
    concept = find_concept(("nudity", "van gogh"), ROOT)
    nude = [text for text in concept.forget if "nude" in text]
    assert len(nude) == len(concept.forget) / 2
    assert concept.forget[0] != concept.forget[1]
    assert concept.target() == {
        "suite": None,
        "concepts": ["nudity", "van gogh"],
        "suites": {"nudity": "i2p", "van gogh": None},
    }


def test_a_retain_prompt_of_one_concept_may_not_name_another() -> None:
    assert any("van gogh" in text.casefold() for text in find_concept("monet", ROOT).retain)
    both = find_concept(("monet", "van gogh"), ROOT)
    assert not any("gogh" in text.casefold() for text in both.retain)
    assert "a painting by Rembrandt" in both.retain


def test_an_anchor_may_not_be_another_forgotten_concept() -> None:
    both = find_concept(("monet", "van gogh"), ROOT, anchor="a painting by Vincent van Gogh")
    shown = dict(zip(both.forget, both.anchors, strict=True))
    assert shown["a painting by Claude Monet"] == ("",)


def test_nothing_left_to_retain() -> None:
    digits = read_class_list(ROOT / "digits.yaml")
    with pytest.raises(InputError, match="are to be forgotten"):
        find_concept(digits.names, ROOT)


def test_class_lists_of_labels_are_no_concepts() -> None:
    cifar = next(c for c in class_lists(ROOT) if c.suite == "cifar10")
    assert find_classes(cifar, ("dog",), None).anchors == (("an image of a frog",),)
    assert find_concept("dog", ROOT).suite is None


CONTENT = "name: x\nforget: {an x: a y}\nretain: [a z]\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: x\n", "", "needs a `name`"),
        ("name: x\n", "name: no\n", "needs a `name`"),
        ("{an x: a y}", "[an x]", "what is shown instead"),
        ("retain: [a z]\n", "", "have to be lists"),
        ("[a z]", "[yes]", "quote it"),
        ("name: x\n", "nam: y\nname: x\n", "unknown part 'nam'"),
        ("name: x\n", "name: x\nrecipe: {learning_rat: 1}\n", "unknown settings: learning_rat"),
        ("name: x\n", "name: x\nrecipe: {seed: 1}\n", "cannot set 'seed'"),
        ("[a z]", "[_absent]", "_absent.yaml does not exist"),
    ],
)
def test_a_broken_concept_file_is_one_clear_error(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    (tmp_path / "concepts").mkdir()
    file = tmp_path / "concepts" / "x.yaml"
    file.write_text(CONTENT)
    assert find_concept("x", tmp_path).retain == ("a z",)
    assert old in CONTENT
    file.write_text(CONTENT.replace(old, new))
    with pytest.raises(InputError) as caught:
        find_concept("x", tmp_path)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_a_prompt_folder_without_concepts_knows_no_template(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text((ROOT / "digits.yaml").read_text())
    with pytest.raises(InputError, match="no concept 'zebra'"):
        find_concept("zebra", tmp_path)


# Filters


class Renders:
    """Stands in for rendering: writes an image of each sample, black or white by its number."""

    def __init__(self, white: Any) -> None:
        self.white, self.rendered = white, 0

    def __call__(self, samples: Sequence[Any], *context: Any) -> list[Path]:
        folder = context[3]
        files = []
        for sample in samples:
            file = folder / "images" / f"{sample.id}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                self.rendered += 1
                white = self.white(int(sample.id))
                Image.new("L", (4, 4), 255 if white else 0).save(file)
                note_files(folder, f"images/{file.name}")
            files.append(file)
        write_json(folder / STATE, {"fingerprint": "f", HASHED: True})
        return files


def is_white(paths: Sequence[Path]) -> list[bool]:
    return [Image.open(path).getpixel((0, 0)) == 255 for path in paths]


def filtered(
    folder: Path, renders: Renders, monkeypatch: pytest.MonkeyPatch, name: str = "forget"
) -> CaptionedImages:
    monkeypatch.setattr(sets, "_render", renders)
    config = ConceptConfig(
        num_forget_images=10,
        num_retain_images=10,
        render_batch_size=4,
        forget_guidance=1.0,
        retain_guidance=1.0,
    )
    concept = Concept(("x",), (None,), ("an x", "the x"), (("",),) * 2, ("a z",))
    return sets.render_set(
        name,
        config,
        concept,
        None,
        folder,
        Accelerator(cpu=True),
        fingerprint="f",
        image_filter=is_white,
    )


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_filtered_renders_go_on_until_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    renders = Renders(lambda number: number % 3 == 0)
    images = filtered(tmp_path, renders, monkeypatch, name)
    assert len(images.paths) == 10
    wanted = [n for n in range(99) if (n % 3 == 0) == (name == "forget")][:10]
    assert [int(path.stem) for path in images.paths] == wanted
    if name == "forget":
        assert images.captions == tuple(("an x", "the x")[n % 2] for n in wanted)
    on_disk = {int(path.stem) for path in (tmp_path / "images").iterdir()}
    assert on_disk == set(wanted), "what did not pass is deleted"
    again = Renders(lambda number: number % 3 == 0)
    assert filtered(tmp_path, again, monkeypatch, name).paths == images.paths
    assert again.rendered == 0, "a finished set is not rendered again"


def test_a_killed_filtering_ends_with_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = filtered(tmp_path / "whole", Renders(lambda n: n % 3 == 0), monkeypatch)

    class Killed(Renders):
        def __call__(self, samples: Sequence[Any], *context: Any) -> list[Path]:
            if self.rendered:
                super().__call__(samples[:2], *context)
                raise KeyboardInterrupt
            return super().__call__(samples, *context)

    with pytest.raises(KeyboardInterrupt):
        filtered(tmp_path / "killed", Killed(lambda n: n % 3 == 0), monkeypatch)
    resumed = filtered(tmp_path / "killed", Renders(lambda n: n % 3 == 0), monkeypatch)
    assert [p.name for p in resumed.paths] == [p.name for p in whole.paths]
    assert resumed.captions == whole.captions


def test_too_few_that_pass_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    renders = Renders(lambda number: number % 20 == 0)
    images = filtered(tmp_path, renders, monkeypatch)
    assert (len(images.paths), renders.rendered) == (2, 40)
    assert "only 2 of 10 forget images passed the filter among 40" in capsys.readouterr().err
    with pytest.raises(RunError, match="None of 40 rendered forget images shows 'x'"):
        filtered(tmp_path / "none", Renders(lambda number: False), monkeypatch)


def test_nudenet_counts_the_concepts_labels_from_its_threshold() -> None:
    concept = find_concept("nudity", ROOT)
    found: dict[str, Any] = {
        "a": [SimpleNamespace(label="FEMALE_BREAST_EXPOSED", score=0.61)],
        "b": [SimpleNamespace(label="FEMALE_BREAST_EXPOSED", score=0.59)],
        "c": [SimpleNamespace(label="FACE_FEMALE", score=0.99)],
        "d": [],
    }
    shows = nudenet_filter(lambda paths: [found[str(path)] for path in paths], concept)
    assert shows([Path(name) for name in "abcd"]) == [True, False, False, False]


@pytest.mark.parametrize(
    ("word", "chosen", "given", "said"),
    [
        ("three", "nudenet", (), "is not known"),
        ("nudity", "classifier", (), "no classifier judges"),
        ("three", "classifier", ("forget",), "no forget image is rendered"),
    ],
)
def test_a_filter_that_cannot_tell_is_refused(
    word: str, chosen: str, given: tuple[str, ...], said: str
) -> None:
    config = ConceptConfig(filter_forget=chosen)
    with pytest.raises(InputError, match=said):
        check_filters(config, find_concept(word, ROOT), given)
    check_filters(ConceptConfig(), find_concept(word, ROOT), given)


# Through the command line, on mini-sd

TINY = [
    *("--num-forget-images", "4", "--num-retain-images", "6", "--render-steps", "2"),
    *("--render-batch-size", "5", "--train-batch-size", "2", "--max-train-steps", "1"),
    *("--device", "cpu"),
]


def erase(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(item) for item in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_of_several_concepts(tmp_path: Path) -> None:
    folder, model = tmp_path / "run", ("--model", "mini-sd")
    erase("concept", *model, "--concept", "three", "--concept", "4", "--output", folder, *TINY)
    record = json.loads((folder / "record.json").read_text())
    assert record["target"] == {"suite": "digits", "concepts": ["three", "four"]}
    rows = read_jsonl(folder / "data" / "forget" / "metadata.jsonl")
    words = [{"three", "3"} & set(row["text"].split()) for row in rows]
    assert list(map(bool, words)) == [True, False, True, False], "as many of each"
    assert "three, four" in (folder / "README.md").read_text()
    config = folder / "config.yaml"
    assert "concept:\n- three\n- '4'\n" in config.read_text()
    said = erase("concept", "--config", config, "--output", tmp_path / "again", "--dry-run")
    assert "- '4'" in said
    said = erase(
        *("evaluate", "--model", folder, "--output", tmp_path / "evaluation", "--limit", "10"),
        *("--steps", "1", "--batch-size", "5", "--no-baseline"),
    )
    assert "forgotten: four, three" in said


def test_a_config_of_one_concept_as_text_is_still_read(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model: mini-sd\nconcept: three\n")
    said = erase("concept", "--config", config, "--output", tmp_path / "run", "--dry-run")
    assert "concept:\n- three\n" in said
    assert ConceptConfig(concept="three").concept == ("three",)  # type: ignore[arg-type]


def test_digits_are_filtered_by_their_classifier(tmp_path: Path) -> None:
    """After one denoising step nothing is a three; after 25 nearly everything asked for is."""
    common = ("concept", "--model", "mini-sd", "--concept", "three", "--filter-forget")
    kept = tmp_path / "kept"
    erase(*common, "classifier", "--output", kept, *TINY, "--render-steps", "10")
    state = json.loads((kept / "data" / "forget" / "kept.json").read_text())
    assert len(state["kept"]) == 4
    assert state["rendered"] >= 4
    said = CliRunner().invoke(
        main, [*common, "nudenet", "--output", str(tmp_path / "refused"), *TINY]
    )
    assert said.exit_code == 2
    assert "what NudeNet would find of 'three' is not known" in said.output


def test_mini_sd_draws_digits_only(tmp_path: Path) -> None:
    said = CliRunner().invoke(
        main,
        ["concept", "--model", "mini-sd", "--concept", "nudity", "--output", str(tmp_path / "x")],
    )
    assert said.exit_code == 2
    assert "There is no concept 'nudity' in mini-sd" in said.output


def test_the_template_warns_before_the_run(tmp_path: Path) -> None:
    model = str(EMBEDDED["mini-sd"])  # as a folder, it is taken to draw anything
    said = erase(
        *("concept", "--model", model, "--concept", "dog", "--dry-run"),
        *("--output", tmp_path / "x"),
    )
    assert "# warning: no concept file or class list knows 'dog'" in said


def test_wheels_carry_the_concept_files() -> None:
    """The wheel takes the whole folder, and templates are told apart from concepts by name."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    build = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"]["prompts"] == "erase/prompts"
    assert (ROOT / concept_files.FOLDER / concept_files.TEMPLATE).is_file()
