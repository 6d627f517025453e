"""Concepts, their prompts and what the user may replace."""

from pathlib import Path

import pytest

from erase.data.concepts import find_concept
from erase.data.prompts import prompts_hash, prompts_root, read_class_list
from erase.data.texts import read_prompts
from erase.errors import InputError

ROOT = prompts_root()


@pytest.mark.parametrize("word", ["three", "3", " Three "])
def test_a_digit_by_any_spelling(word: str) -> None:
    concept = find_concept(word, ROOT)
    assert (concept.name, concept.suite) == ("three", "digits")
    assert all("three" in prompt or "3" in prompt for prompt in concept.forget)
    assert all("four" in shown or "4" in shown for (shown,) in concept.anchors)
    assert not any("three" in prompt or "3" in prompt for prompt in concept.retain)
    assert len(concept.anchors) == len(concept.forget)


def test_anchor_next_wraps_around() -> None:
    assert find_concept("nine", ROOT).anchors == find_concept("eight", ROOT, anchor="0").anchors


def test_anchor_random_is_every_other_class() -> None:
    concept = find_concept("three", ROOT, anchor="random")
    assert all(len(shown) == 9 for shown in concept.anchors)
    assert not any("three" in text or "3" in text for shown in concept.anchors for text in shown)


def test_anchor_literal_and_itself() -> None:
    literal = find_concept("three", ROOT, anchor="a blank page")
    assert set(literal.anchors) == {("a blank page",)}
    with pytest.raises(InputError, match="concept itself"):
        find_concept("three", ROOT, anchor="3")


def test_unknown_word_names_the_known() -> None:
    with pytest.raises(InputError, match="no concept 'thre'") as caught:
        find_concept("thre", ROOT)
    assert "'three'" in caught.value.remedy


def test_any_word_with_own_prompts() -> None:
    concept = find_concept("cat", ROOT, forget=("a cat",), retain=("a dog", "a tree"))
    assert concept.suite is None
    assert concept.anchors == (("",),)


def test_own_forget_prompts_keep_the_anchor_class() -> None:
    concept = find_concept("three", ROOT, forget=("trois",))
    assert concept.forget == ("trois",)
    assert all("four" in text or "4" in text for text in concept.anchors[0])


def test_prompt_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n  two \n")
    assert read_prompts(file) == ("one", "two")
    file.write_text("\n \n")
    with pytest.raises(InputError, match="holds no prompt"):
        read_prompts(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "absent.txt")


def test_prompt_folder_is_checked_and_hashed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a prompt folder"):
        prompts_root(tmp_path)
    (tmp_path / "x.yaml").write_text("classes: []\n")
    before = prompts_hash(prompts_root(tmp_path))
    (tmp_path / "x.yaml").write_text("classes: [a]\n")
    assert prompts_hash(tmp_path) != before


CLASSES = "classes: [{name: one, numeral: 1}, {name: 1.5}, {name: three, numeral: '3'}]\n"
LISTS = "  forget: ['a {name}']\n  retain: ['{name}', 7]\n  evaluate: ['{name}!']\n"


def test_bare_numbers_are_text(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(CLASSES + "templates:\n" + LISTS)
    found = read_class_list(file)
    assert found.names == ("one", "1.5", "three")
    assert found.label("1") == 0
    assert found.captions("retain", 1) == ["1.5", "7"]
    assert find_concept("1", tmp_path).name == "one"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  forget: ['a {name}']\n", "", "lacks forget"),
        ("  retain: ['{name}', 7]\n", "  retain: []\n", "lacks retain"),
        ("  evaluate: ['{name}!']\n", "", "lacks evaluate"),
        ("['a {name}']", "a photo", "`forget` are no list"),
        ("a {name}", "a {nam}", "'a {nam}' does not fit 'one', which has {name}, {numeral}"),
        ("a {name}", "a {numeral}", "does not fit '1.5'"),
        ("a {name}", "a {name", "'a {name' does not fit"),
        ("a {name}", "a {}", "'a {}' does not fit"),
        ("a {name}", "a {name.x}", "'a {name.x}' does not fit"),
        ("'{name}', 7", "'{name}', [7]", "`retain` has [7]"),
        ("name: one", "name: no", "class 1 has False"),
        ("name: one", "named: one", "class 1 has no `name`"),
        ("{name: 1.5}", "two", "class 2 has no `name`"),
        (CLASSES, "classes: three\n", "needs `classes` and `templates`"),
        ("templates:\n" + LISTS, "templates: [a]\n", "needs `classes` and `templates`"),
    ],
)
def test_broken_class_list_is_one_clear_error(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = CLASSES + "templates:\n" + LISTS
    assert old in text
    (tmp_path / "x.yaml").write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        find_concept("three", tmp_path)
    assert said in caught.value.message
    assert "x.yaml" in caught.value.message
    assert "\n" not in caught.value.message
