"""What mini-emoji is made to forget: objects, styles and colours, by the prompts of emoji.yaml."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.data.concepts import Concept, find_concept, rendered_suite
from erase.data.emoji import read_vocabulary, words_of
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.files import write_json
from erase.runs.record import RECORD

ROOT = prompts_root()
ALL = read_vocabulary()


def find(*words: str, anchor: str | None = None) -> Concept:
    return find_concept(words, ROOT, suite="emoji", anchor=anchor)


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


def test_other_models_do_not_know_these_words() -> None:
    assert find_concept("dog", ROOT).suite is None


def test_a_run_made_from_mini_emoji_renders_emoji_too(tmp_path: Path) -> None:
    write_json(tmp_path / RECORD, {"target": {"suite": "emoji", "concepts": ["cat"]}})
    assert rendered_suite(str(tmp_path)) == rendered_suite("mini-emoji") == "emoji"
    assert rendered_suite(str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["concept", "--concept", "cat"], "# forget prompts: 5, e.g. 'a cat'"),
        (["concept", "--concept", "flat style"], "# forget prompts: 45"),
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
    ],
)
def test_what_mini_emoji_cannot_draw_is_refused(
    tmp_path: Path, words: list[str], said: str
) -> None:
    command = [*words, "--model", "mini-emoji", "--dry-run", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    assert said in result.output
