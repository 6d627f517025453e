"""What a comparison shows: tables in a terminal of 80 columns, a page, and where they lie."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erase.comparison import classifier_report, diffusion_report
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.judges.classifier import load_judge
from erase.models.classifiers import Description, build, save_classifier
from erase.scoring.suite import load_suite
from tests.report_world import Page, row

HOSTILE = "<script>alert(1)</script>"


def trial(value: float) -> dict[str, Any]:
    scores = dict.fromkeys(("ua", "ra", "ta", "mia"), value)
    return {"scores": scores, "rte_s": 1.5}


def content(trials: int) -> dict[str, Any]:
    results = {
        name: [trial(base + number) for number in range(trials)]
        for name, base in (
            *(("original", 60.0), ("retrain", 70.0), ("ft", 71.0), ("lur", 70.5)),
            *(("lur@alpha=0.01", 70.2), ("lur@alpha=0.1", 70.1)),
        )
    }
    return {"forget": HOSTILE, "results": results, "search": {}}


@pytest.mark.parametrize("trials", [1, 3])
def test_the_table_fits_80_columns_and_one_trial_has_no_deviation(
    tmp_path: Path, trials: int
) -> None:
    table = classifier_report.write_report(tmp_path, content(trials), {"config": {"trials": 1}})
    console = Console(width=80, record=True)
    console.print(classifier_report.terminal(table, "digits"))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert "70.50" in text or trials > 1
    assert (tmp_path / "alpha.png").stat().st_size > 1000
    markdown = (tmp_path / "table.md").read_text()
    assert ("±" in markdown) is ("±" in text) is (trials > 1)
    header, first = (tmp_path / "table.csv").read_text().splitlines()[:2]
    deviation = first.split(",")[header.split(",").index("ua_std")]
    assert (deviation == "") is (trials == 1)


def test_both_comparisons_leave_a_page_that_escapes_names(tmp_path: Path) -> None:
    classifier_report.write_report(tmp_path / "a", content(2), {"config": {"dataset": HOSTILE}})
    rows = [row("lur", HOSTILE), row("esd", HOSTILE, ua=0.5)]
    rows.append({"concept": HOSTILE, "trial": 0, "method": HOSTILE, "failed": HOSTILE})
    diffusion_report.write_report(tmp_path / "b", rows, {"config": {"concept": [HOSTILE]}})
    for name in ("a", "b"):
        text = (tmp_path / name / "report.html").read_text()
        page = Page(text)
        assert page.open == []
        assert "script" not in page.tags
        assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
        assert "lur" in text
        assert "(best)" in text


def test_a_classifier_of_numerals_judges_the_digits_suite(tmp_path: Path) -> None:
    """Its classes are 0 to 9, the suite's zero to nine."""
    numerals = tuple(map(str, range(10)))
    description = Description("cnn", numerals, 32, (0.5,) * 3, (0.2,) * 3, "digits")
    save_classifier(tmp_path / "model", build(description, seed=3), description)
    suite, root = load_suite("digits"), prompts_root()
    words = suite.classes(root)
    judge = load_judge(str(tmp_path / "model"), words, aliases=suite.aliases(root))
    assert judge.classes == words
    with pytest.raises(InputError, match="no class 'zero'"):
        load_judge(str(tmp_path / "model"), words)


def test_the_digit_classifier_knows_digits_in_any_order_and_nothing_else() -> None:
    words = load_suite("digits").classes(prompts_root())
    numerals = tuple(map(str, range(10)))
    assert load_judge("digits-classifier", words[::-1]).classes == words
    assert load_judge("digits-classifier", numerals[::-1]).classes == numerals
    renamed = tuple(f"number {word}" for word in words)
    aliases = dict(zip(numerals, renamed, strict=True))
    assert load_judge("digits-classifier", renamed, aliases=aliases).classes == renamed
    for wrong in (renamed, words[:9], (*words[:9], "ten")):
        with pytest.raises(InputError, match="ten digits"):
            load_judge("digits-classifier", wrong)
