"""A comparison's jobs wait for what they read and for nothing else; models are trained once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from erase.comparison.classifier_comparison import ComparePlan
from erase.comparison.classifier_problem import ClassifierProblem
from erase.comparison.entries import entries
from erase.comparison.jobs import Job, graph
from erase.comparison.scratch import ScratchModels
from erase.config.compare import CompareConfig
from erase.errors import InputError
from erase.models.classifiers import build
from tests.classifier_world import original

SPECS = ("random:10%", "class:3")


def plan(**changes: object) -> ComparePlan:
    config = CompareConfig(trials=2, shadow_models=1, **changes)  # type: ignore[arg-type]
    return ComparePlan(config, Path("runs"), "cpu", SPECS, entries("ft,lur,lur+fixed", "0.1"))


def test_what_is_trained_from_scratch_waits_for_nothing() -> None:
    jobs = graph(plan(search=5))
    free = [job for job, needs in jobs.items() if not needs]
    assert {job.kind for job in free} == {"original", "retrain", "search retrain", "shadow"}
    # Each forget set: two Retrains of trials, two of the search, two reference models.
    assert len(free) == 1 + len(SPECS) * 6
    assert list(jobs)[: len(free)] == free
    assert set().union(*jobs.values()) <= set(jobs)


def test_a_search_needs_its_references_and_a_run_its_search() -> None:
    jobs = graph(plan(search=5))
    references = {Job("references", "class:3", trial=n) for n in (0, 1)}
    assert jobs[Job("search", "class:3", "lur+fixed")] == references
    assert Job("search", "class:3", "lur@alpha=0.1") not in jobs  # it has the settings of lur
    for label, searched in (("lur@alpha=0.1", "lur"), ("lur+fixed", "lur+fixed"), ("ft", "ft")):
        needs = jobs[Job("run", "class:3", label, 1)]
        assert Job("search", "class:3", searched) in needs
        assert Job("shadow", "class:3", trial=1, number=0) in needs
    assert not any(job.kind in ("search", "references") for job in graph(plan()))


def test_the_dearest_searches_begin_first() -> None:
    labels = [job.label for job in graph(plan(search=5)) if job.kind == "search"]
    assert labels == ["lur"] * 2 + ["lur+fixed"] * 2 + ["ft"] * 2


def problem(folder: Path, seed: int) -> ClassifierProblem:
    """With an original of its own weights, which Retrain must not depend on."""
    start = original()
    start = replace(start, model=build(start.description, seed=seed))
    config = CompareConfig(trials=1, retrain_epochs=1)
    return ClassifierProblem(config, start, "", "random:10%", ScratchModels(start, folder))


def test_a_model_from_scratch_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = problem(tmp_path, 1)
    forget = first.forget(0)
    made = first.retrain(0, forget)
    monkeypatch.setattr("erase.comparison.scratch.run_method", lambda *_: pytest.fail("again"))
    again = problem(tmp_path, 2).retrain(0, forget)
    assert (again.seconds, again.rows) == (made.seconds, made.rows)
    for name, tensor in made.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="was changed after it was written"):
        first.retrain(0, forget)
