"""The search gives every method trials where its steps matter, and the same number of them."""

import json
import math
from pathlib import Path

import pytest
import torch

from erase.comparison.classifier_problem import ClassifierProblem
from erase.comparison.entries import Entry, entry
from erase.comparison.scratch import ScratchModels
from erase.comparison.search import FAILED, RUNG, State, bracket, search, state
from erase.config.compare import CompareConfig, settings_by_line
from erase.errors import InputError
from erase.methods.lur import RECIPES
from tests.classifier_world import original

GOLD = {"ua": 2.0, "ra": 100.0, "ta": 95.0, "mia": 5.0}


def window(low: float, high: float, below: State = "still") -> tuple[list[float], object]:
    """Outcomes of a method that moves between two learning rates; the rates that are asked for."""
    asked: list[float] = []

    def outcome(rate: float) -> State:
        asked.append(rate)
        return below if rate < low else "broken" if rate >= high else "moved"

    return asked, outcome


@pytest.mark.parametrize("start", [1e-5, 1e-3, 0.03, 1.0, 30.0])
@pytest.mark.parametrize("below", ["still", "broken"])
def test_the_walk_ends_on_both_sides_of_where_steps_matter(start: float, below: State) -> None:
    asked, outcome = window(0.01, 0.2, below)
    low, high = bracket(start, outcome, 20)  # type: ignore[arg-type]
    assert 0.01 / RUNG <= low < 0.01
    assert 0.2 <= high < 0.2 * RUNG
    assert asked[0] == start
    assert len(asked) == len({round(math.log(rate), 6) for rate in asked})  # none twice


def test_the_walk_keeps_to_its_budget() -> None:
    asked, outcome = window(1e3, 1e4)
    low, high = bracket(0.01, outcome, 4)  # type: ignore[arg-type]
    assert len(asked) == 4
    assert low < max(asked) < high == pytest.approx(max(asked) * RUNG)
    asked, outcome = window(1e3, 1e4, "broken")
    low, high = bracket(0.01, outcome, 3)  # type: ignore[arg-type]
    assert len(asked) == 3
    assert low < high


def test_states() -> None:
    assert state(None, GOLD) == "broken"
    assert state({**GOLD, "ra": 89.0}, GOLD) == "broken"
    assert state({**GOLD, "ua": 3.0}, GOLD) == "still"
    assert state({**GOLD, "ua": 6.0}, GOLD) == "moved"


def problem(folder: Path, budget: int, **more: object) -> ClassifierProblem:
    settings = settings_by_line(["retrain.epochs=2", *more.pop("fixed", ())])  # type: ignore[misc]
    config = CompareConfig(search=budget, epochs=1, trials=1, settings=settings, **more)  # type: ignore[arg-type]
    scratch = ScratchModels(original(), folder / "from-scratch")
    return ClassifierProblem(config, scratch.original, "base", "random:10%", scratch)


def searched(made: ClassifierProblem, item: Entry, path: Path) -> dict[str, float]:
    return search(made, item, path, lambda _: None)


@pytest.mark.parametrize("label", ["ga", "lur-b", "iu", "lur-b+trim"])
def test_every_method_has_the_same_budget(tmp_path: Path, label: str) -> None:
    item = entry(label)
    path = tmp_path / "found.json"
    found = searched(problem(tmp_path, 10), item, path)
    kept = json.loads(path.read_text())
    assert len(kept["trials"]) == kept["budget"] == 10
    assert [row["repeat"] for row in kept["trials"]] == [0] * 8 + [1] * 2
    assert found in [row["settings"] for row in kept["trials"]]
    first = kept["trials"][0]["settings"]
    assert all(first[name] == value for name, value in item.start.items())
    again = searched(problem(tmp_path, 10), item, path)
    assert again == found
    assert json.loads(path.read_text()) == kept


def test_a_smaller_forget_weight_goes_with_a_higher_learning_rate(tmp_path: Path) -> None:
    item = entry("lur-b")
    path = tmp_path / "found.json"
    searched(problem(tmp_path, 15), item, path)
    kept = json.loads(path.read_text())
    low, high = kept["ranges"]["learning_rate"]
    drawn = [r["settings"] for r in kept["trials"] if r["settings"]["forget_weight"] != 1.0]
    assert drawn
    assert all(
        low * (1 - 1e-9) <= s["learning_rate"] * s["forget_weight"] <= high * (1 + 1e-9)
        for s in drawn
    )


def test_half_a_step_on_both_sides_of_the_best_of_the_walk_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    searched(problem(tmp_path, 15), entry("lur-b"), path)
    rows = json.loads(path.read_text())["trials"]
    rungs = [2 * math.log(row["settings"]["learning_rate"] / 1e-3, RUNG) for row in rows]
    half = next(i for i, rung in enumerate(rungs) if round(rung) % 2)
    walked, (up, down) = rows[:half], rungs[half : half + 2]
    best = min(range(half), key=lambda i: walked[i]["gap"])
    assert [up, down] == pytest.approx([rungs[best] + 1, rungs[best] - 1])
    assert {row["settings"]["forget_weight"] for row in rows[: half + 2]} == {1.0}


def test_what_is_fixed_is_not_searched(tmp_path: Path) -> None:
    item = entry("lur")
    fixed = ("lur.alpha=0.02", "lur.learning_rate=1e-3")
    path = tmp_path / "found.json"
    made = problem(tmp_path, 3, fixed=fixed)
    assert set(searched(made, item, path)) == {"forget_weight"}
    config = made.configuration(item, 0, torch.arange(12, 20), {})
    assert (config.learning_rate, config.settings["alpha"]) == (1e-3, 0.02)
    made = problem(tmp_path, 3, fixed=(*fixed, "lur.forget_weight=0.5"))
    assert searched(made, item, path) == {}


def test_a_common_learning_rate_is_where_searches_begin(tmp_path: Path) -> None:
    made = problem(tmp_path, 1, learning_rate=0.02, fixed=("ft.learning_rate=0.5",))
    path = tmp_path / "found.json"
    searched(made, entry("lur-b"), path)
    assert json.loads(path.read_text())["trials"][0]["settings"]["learning_rate"] == 0.02
    forget = torch.arange(12, 20)
    rates = {
        label: made.configuration(entry(label), 0, forget, {}).learning_rate
        for label in ("lur-b", "iu", "ft", "lur-b+trim", "retrain")
    }
    own = problem(tmp_path, 0).configuration(entry("retrain"), 0, forget, {}).learning_rate
    assert rates == {"lur-b": 0.02, "iu": 0.02, "ft": 0.5, "lur-b+trim": 5e-3, "retrain": own}
    assert made.configuration(entry("lur-b"), 0, forget, {"learning_rate": 1.0}).learning_rate == 1


def test_a_trial_that_diverges_is_broken_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erase.comparison import classifier_problem
    from erase.comparison import search as module
    from erase.errors import RunError

    def diverge(*_: object) -> None:
        raise RunError("no")

    item = entry("ga")
    made = problem(tmp_path, 4)
    module.reference_scores(made, tmp_path)
    monkeypatch.setattr(classifier_problem, "run_method", diverge)
    path = tmp_path / "found.json"
    searched(made, item, path)
    rows = json.loads(path.read_text())["trials"]
    assert {row["gap"] for row in rows} == {FAILED}
    assert {row["state"] for row in rows} == {"broken"}


def test_a_variant_has_its_methods_settings_and_its_own(tmp_path: Path) -> None:
    forget = torch.arange(12, 20)
    fixed = ("lur.epochs=3", "lur+trim.learning_rate=0.5", "lur.train_batch_size=8")
    made = problem(tmp_path, 0, fixed=fixed)
    plain, trimmed = (made.configuration(entry(e), 0, forget, {}) for e in ("lur", "lur+trim"))
    rate = RECIPES["digits"].values["learning_rate"]
    assert (plain.epochs, plain.train_batch_size, plain.learning_rate) == (3, 8, rate)
    assert (trimmed.epochs, trimmed.train_batch_size, trimmed.learning_rate) == (3, 8, 0.5)
    assert (trimmed.settings["trim"], trimmed.settings["forget_weight"]) == (0.97, 0.05)
    retrain = made.configuration(entry("retrain"), 0, forget, {})
    assert retrain.epochs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ft", "not METHOD.NAME=VALUE"),
        ("ft.learning_rate", "not METHOD.NAME=VALUE"),
        ("learning_rate=1", "not METHOD.NAME=VALUE"),
        ("luur.alpha=1", "no method named"),
        ("ft.alpha=1", "no setting 'alpha'"),
        ("ft.seed=1", "no setting 'seed'"),
    ],
)
def test_settings_that_no_method_has(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings_by_line([text])
