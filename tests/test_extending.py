"""The examples of docs/extending.md hold every contract, from inside of erase and from outside."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from erase import registry
from erase.cli.main import main
from erase.comparison.entries import diffusion_entries, entries
from erase.comparison.search import search_ranges
from erase.config.classifier import ClassifierConfig, fill
from erase.config.families import CLASSIFIER, DENOISERS, TEXT_TO_IMAGE, methods_for
from erase.config.methods import find_method, run_defaults
from erase.errors import InputError
from tests.throwaway import DOCUMENTED, EXAMPLES, FILES, IN_ERASE, install

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "docs", "erase", "examples", "prompts", "tests")
NAMES = {kind: next(iter(points)) for kind, points in DOCUMENTED.items()}
"""The first example of each kind."""
WHOLE = ("layers", "registry", "suites", "docs", "docstrings", "config")
BY_NAME = (
    *("methods", "denoiser_contracts", "denoiser_methods", "metrics", "classifier_measures"),
    *("fetch", "protocols"),
)


def test_the_page_holds_an_example_of_each_kind() -> None:
    kinds = [Path(name).parent.name for name in EXAMPLES]
    assert sorted(kinds) == [
        *("classifier_metrics", "methods", "metrics", "my_package", "my_package", "suites", "tasks")
    ]
    assert all(15 <= len(text.splitlines()) <= 80 for text in EXAMPLES.values())
    assert {*DOCUMENTED} == {*registry.KINDS}
    modules = {value for points in DOCUMENTED.values() for value in points.values()}
    assert modules == {f"my_package.{stem}" for stem in FILES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_in_the_projects_style(name: str) -> None:
    for check in (("check",), ("format", "--diff")):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--stdin-filename", ROOT / name, "-"],
            input=EXAMPLES[name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"


def copy_with_examples(folder: Path) -> Path:
    """A copy of the project with the examples as files of `erase`, and no other file touched."""
    for item in ROOT.iterdir():
        if item.is_file() and not item.name.startswith(".git"):
            shutil.copy2(item, folder / item.name)
        elif item.name in FOLDERS:
            shutil.copytree(item, folder / item.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in IN_ERASE.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run_tests(folder: Path, *arguments: str) -> int:
    """How many tests of a copy pass; all that run must, and every group has to select some."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout.splitlines()[-1]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed, run.stdout[-2000:]
    return int(passed[1])


def files(names: Sequence[str]) -> list[str]:
    return [f"tests/test_{name}.py" for name in names]


@pytest.mark.timeout(900)
def test_a_method_a_suite_and_a_metric_of_one_file_each_hold_every_contract(tmp_path: Path) -> None:
    folder = copy_with_examples(tmp_path)
    assert run_tests(folder, *files(WHOLE)) > 500
    chosen = " or ".join(
        [
            *(NAMES["methods"], NAMES["metrics"], NAMES["classifier_metrics"]),
            *("each_suite_is_told", "every_protocol"),
        ]
    )
    assert run_tests(folder, *files(BY_NAME), "-k", chosen) > 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_default_tests_pass_with_the_examples_in_place(tmp_path: Path) -> None:
    folder = copy_with_examples(tmp_path)
    assert run_tests(folder, "tests", "--deselect", "tests/test_extending.py") > 1500


def install_method(site: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method `other` of a package of its own."""
    points = {"methods": {"other": "other_package.other"}}
    monkeypatch.syspath_prepend(str(install(site, "other-package", {"other": text}, points)))
    monkeypatch.delitem(sys.modules, "other_package.other", raising=False)
    monkeypatch.delitem(sys.modules, "other_package", raising=False)


def test_a_method_without_tables_runs_with_the_recipes_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = r"^(RECIPES|SEARCH): .*?}\n(?=[A-Z#\n])"
    text, count = re.subn(tables, "", FILES["surgery"], flags=re.MULTILINE | re.DOTALL)
    assert count == 2
    install_method(tmp_path, text, monkeypatch)
    filled = fill(ClassifierConfig(method="other"), "digits", 0.1)
    assert (filled.epochs, filled.learning_rate) == (1, 0.01)
    assert filled.settings == {"forget_weight": 1.0}
    spec = find_method("other", TEXT_TO_IMAGE)
    assert run_defaults(spec, TEXT_TO_IMAGE, 32) == {}
    assert search_ranges(spec.module, dual=False) == {"learning_rate": (0.0, 0.0)}


def test_a_comparison_of_all_methods_imports_none_of_another_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = 'families = frozenset({"text-to-image"})'
    text = f"raise RuntimeError\n\n\nclass Method:\n    {families}\n"
    install_method(tmp_path, text, monkeypatch)
    assert "other" in methods_for(TEXT_TO_IMAGE)
    assert "lur" in {line.method for line in entries("all")}
    with pytest.raises(InputError, match="other-package cannot be loaded"):
        diffusion_entries("all", ())


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site")))


def erase(*arguments: str | Path) -> str:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_method_from_outside_serves_classifiers(outside: None, tmp_path: Path) -> None:
    assert "my-surgery" in methods_for(CLASSIFIER)
    original, once, again = (tmp_path / name for name in ("original", "once", "again"))
    erase("train", "classifier", "--epochs", "1", "--limit", "200", "--output", original)
    erase(
        *("classifier", "--model", original, "--forget", "class:3", "--method", "my-surgery"),
        *("--set", "forget_weight=0.5", "--epochs", "1", "--output", once),
    )
    erase("classifier", "--config", once / "config.yaml", "--output", again)
    record = json.loads((once / "record.json").read_text())
    assert record["status"] == "finished"
    before, first, second = (
        load_file(folder / "model.safetensors") for folder in (original, once, again)
    )
    assert all((first[name] == second[name]).all() for name in first)
    assert any((first[name] != before[name]).any() for name in first)


def test_a_method_from_outside_serves_denoisers(outside: None, tmp_path: Path) -> None:
    assert all("my-surgery" in methods_for(family) for family in DENOISERS)
    run, command = tmp_path / "run", ("concept", "--model", "mini-sd", "--concept", "three")
    arguments: tuple[str | Path, ...] = (*command, "--method", "my-surgery", "--output", run)
    arguments += ("--max-train-steps", "2", "--train-batch-size", "2", "--render-steps", "1")
    arguments += ("--num-forget-images", "2", "--num-retain-images", "9")
    assert "forget_weight: 1.0" in erase(*arguments, "--dry-run")
    erase(*arguments)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert (run / "unet").is_dir()
    assert "my-surgery" in (run / "README.md").read_text()
