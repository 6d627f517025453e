"""Concepts, their prompts and what the user may replace."""

from pathlib import Path

import pytest

from erase.data.prompts import find_concept, prompts_hash, prompts_root, read_prompts
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
