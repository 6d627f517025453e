"""Plug-ins by file name and by entry point; describing them needs no torch, and imports none."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from erase import registry
from erase.cli.main import main
from erase.errors import InputError
from erase.scoring.classifier_metric import load_classifier_metric
from erase.scoring.metric import load_metric
from erase.scoring.suite import load_suite
from tests.evaluation_world import make_models
from tests.throwaway import ENTRY_POINTS, FILES, PACKAGE, install

BROKEN = {
    "absent": ("throwaway_broken.absent", "ModuleNotFoundError: No module named"),
    "raising": ("throwaway_broken.raising", "RuntimeError: on the way"),
    "object": ("throwaway_broken.raising:Metric", "cannot be loaded"),
    "empty": ("throwaway_broken.empty", "defines 0 classes of the kind Metric"),
    "open": ("throwaway_broken.unfinished", "lacks __call__, requires in Unfinished"),
    "misnamed": ("throwaway_broken.misnamed", "calls it 'my-sharpness'"),
}
BROKEN_FILES = {
    "raising": '"""Raises when it is imported."""\n\nraise RuntimeError("on the way")\n',
    "empty": '"""Defines nothing."""\n',
    "unfinished": '"""Leaves open."""\n\nfrom erase.scoring.metric import Metric\n\n\n'
    'class Unfinished(Metric):\n    name = "open"\n',
    "misnamed": FILES["sharpness"],
}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of `sys.path` with another package's plug-ins."""
    site = install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    return site


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_plugin_loads_and_has_a_summary(kind: str) -> None:
    assert registry.names(kind)
    for name in registry.names(kind):
        assert registry.summary(kind, name).endswith("."), name
        assert registry.load(kind, name).__name__.startswith(f"erase.{kind}.")


def test_names_are_those_of_the_classes() -> None:
    assert [load_suite(name).name for name in registry.names("suites")] == registry.names("suites")
    assert [load_metric(n).name for n in registry.names("metrics")] == registry.names("metrics")
    names = registry.names("classifier_metrics")
    assert [load_classifier_metric(name).name for name in names] == names


def test_unknown_name_suggests() -> None:
    with pytest.raises(InputError, match="no method named 'lurr'") as caught:
        registry.load("methods", "lurr")
    assert "'lur'" in caught.value.remedy


def test_listing_imports_no_torch_and_no_plugin(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    code = (
        "import sys; from erase import registry;"
        "[print(registry.summary(k, n)) for k in registry.KINDS for n in registry.names(k)];"
        "from click.testing import CliRunner; from erase.cli.main import main;"
        "print(CliRunner().invoke(main, ['evaluate', '--help']).output);"
        "print(CliRunner().invoke(main, ['--help']).output);"
        "from erase.config.families import methods_for;"
        "print([name for name in methods_for('classifier') if name.startswith('my-')]);"
        "assert not {'torch', 'my_package'} & set(sys.modules)"
    )
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for text in ("Sharpness: how much", "Gradient surgery:", "['my-surgery']"):
        assert text in run.stdout
    unwrapped = "".join(run.stdout.split())
    assert "my-digits-seen" in unwrapped
    assert "my-sharpness" in unwrapped


def test_other_packages_plugins_are_listed_described_and_loaded(outside: Path) -> None:
    for kind, name in (
        ("suites", "my-digits-seen"),
        ("metrics", "my-sharpness"),
        ("classifier_metrics", "my-drift"),
        ("judges", "laplacian"),
        ("methods", "my-surgery"),
    ):
        assert name in registry.names(kind)
        assert registry.summary(kind, name).endswith(".")
        registry.check(kind, name)
        assert registry.load(kind, name).__name__.startswith("my_package.")
    assert load_suite("my-digits-seen").protocols()["default"].suite == "my-digits-seen"
    assert registry.load("methods", "my-surgery").Method.families
    body = registry.source("methods", "my-surgery").body
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    assert classes == ["Settings", "Method"]


def test_names_keep_to_dashes_however_the_entry_point_is_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"methods": {"two_words": "my_package.surgery"}}
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", entry_points=points)))
    assert "two-words" in registry.names("methods")


def test_other_packages_suite_metrics_and_judge_run(outside: Path, tmp_path: Path) -> None:
    models, output = make_models(tmp_path / "models"), tmp_path / "out"
    arguments = ["evaluate", "--suite", "my-digits-seen", "--model", str(models / "run")]
    arguments += ["--output", str(output), "--cache-dir", str(models / "cache")]
    arguments += [
        "--metrics",
        "my-sharpness,my-confidence",
        "--steps",
        "1",
        "--images-per-class",
        "1",
    ]
    arguments += ["--set", "my-digits-seen.captions=retain", "--set", "laplacian.size=16"]
    arguments += ["--set", "my-sharpness.over=all", "--target", "three"]
    outcome = invoke(*arguments)
    assert outcome.exit_code == 0, outcome.output
    metrics = json.loads((output / "metrics.json").read_text())
    used = metrics["protocol"]["settings"]
    assert used["my-sharpness"] == {"over": "all"}
    assert used["laplacian"] == {"size": 16}
    assert used["my-digits-seen"] == {"captions": "retain"}
    counts = {name: summary["n"] for name, summary in metrics["metrics"].items()}
    assert counts == {"sharpness": 10, "confidence": 9}
    assert set(metrics["differences"]) == set(counts)
    rows = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    for name, n in counts.items():
        values = [row[name] for row in rows if name in row]
        assert metrics["metrics"][name]["value"] == pytest.approx(sum(values) / n)
    record = json.loads((output / "record.json").read_text())
    assert record["observers_sha256"]["laplacian"] == "laplacian of 16 pixels"
    refused = invoke(*arguments, "--set", "laplacian.sise=1")
    assert refused.exit_code == 2
    assert "laplacian has no setting 'sise'" in refused.output
    refused = invoke(*arguments, "--set", "my-sharpness.over=some")
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("kind", "name"), [("methods", "lur"), ("suites", "my-digits-seen"), ("judges", "clip")]
)
def test_a_duplicate_name_is_refused_naming_both_owners(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    points = {kind: {name: "throwaway_rival.nothing"}}
    monkeypatch.syspath_prepend(str(install(tmp_path / "rival", "throwaway-rival", {}, points)))
    owner = PACKAGE if name in ENTRY_POINTS[kind] else "erase"
    for refused in (registry.check, registry.load):
        with pytest.raises(InputError, match="more than once") as caught:
            refused(kind, name)
        assert owner in caught.value.message
        assert "throwaway-rival" in caught.value.message
        assert caught.value.remedy.startswith("Uninstall ")
    assert registry.names(kind).count(name) == 1
    assert registry.summary(kind, name).startswith("Not usable:")  # help still works


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_entry_point_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    points = {"metrics": {key: value for key, (value, _) in BROKEN.items()}}
    site = install(tmp_path / "site", "throwaway-broken", BROKEN_FILES, points)
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(InputError) as caught:
        load_metric(name)
    assert BROKEN[name][1] in caught.value.message
    assert f"The metric {name!r} of the package throwaway-broken" in caught.value.message
    assert "\n" not in caught.value.message
    assert registry.summary("metrics", name).endswith(".")
    assert isinstance(registry.source("metrics", name), ast.Module)  # help can always read it
    output = invoke("evaluate", "--model", "mini-sd", "--metrics", name, "--target", "three").output
    assert "throwaway-broken" in output
    assert "Traceback" not in output
    assert "not expected" not in output
    for module in [key for key in sys.modules if key.startswith("throwaway_broken")]:
        del sys.modules[module]
