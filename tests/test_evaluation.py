import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from erase.cli.main import main
from erase.config.evaluate import default_output
from erase.data.prompts import prompts_root
from erase.errors import InputError, RunError
from erase.evaluation import plan, run
from erase.evaluation.run import EvaluationResult, evaluate
from erase.evaluation.score import score_pipeline
from erase.models.loading import ModelSource, load_pipeline, resolve
from erase.report.data import number
from tests.evaluation_world import config, make_models
from tests.report_world import Page


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def result(models: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    found = evaluate(config(models, tmp_path_factory.mktemp("evaluation") / "out"))
    assert found is not None
    return found


def test_folder_holds_what_the_contract_says(models: Path, result: EvaluationResult) -> None:
    folder = result.folder
    metrics = json.loads((folder / "metrics.json").read_text())
    keys = {"suite", "model", "protocol", "metrics", "baseline", "differences", "images"}
    assert set(metrics) == keys
    assert metrics["images"] == {"n": 20, "unreadable": []}
    assert metrics["suite"] == "digits"
    assert metrics["model"] == str(models / "run")
    assert metrics["protocol"]["steps"] == 1
    names = {"ua", "ra", "neighbours", "neighbours_rest", "h", "fid_digits_classifier"}
    assert set(metrics["metrics"]) == set(metrics["baseline"]) == names
    for found in (*metrics["metrics"].values(), *metrics["baseline"].values()):
        assert {"value", "n", "ci95", "higher_is_better"} <= set(found)
        assert found["ci95"][0] <= found["value"] <= found["ci95"][1]
    assert metrics["metrics"]["ua"]["n"] == 2
    assert metrics["metrics"]["ra"]["n"] == 18
    assert set(metrics["differences"]) == names
    for name, found in metrics["differences"].items():
        ours, base = metrics["metrics"][name], metrics["baseline"][name]
        assert found["value"] == pytest.approx(ours["value"] - base["value"])
        assert found["n"] == ours["n"]
        assert found["ci95"][0] <= found["value"] <= found["ci95"][1]
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    for row in rows:
        assert (folder / row["image"]).is_file()
        assert {"id", "prompt", "seed", "target", "predicted", "probability"} <= set(row)
        assert "predicted" in row["baseline"]
        assert row["forget"] == (row["target"] == "three")
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["target"] == {"suite": "digits", "concepts": ["three"]}
    assert record["deviations"] == {"steps": [25, 1], "images": [50, 2]}
    assert record["baseline"]["model"] == str(models / "base")


def test_lost_images_are_made_up_for(
    models: Path, result: EvaluationResult, tmp_path: Path
) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(result.folder, folder)
    before = {file.name: file.read_bytes() for file in (folder / "images").iterdir()}
    for name in ("3-0000.png", "9-0001.png"):
        (folder / "images" / name).unlink()
    for name in ("metrics.json", "samples.jsonl", "report.html"):
        (folder / name).unlink()
    evaluate(config(models, folder))
    assert {file.name: file.read_bytes() for file in (folder / "images").iterdir()} == before
    for name in ("metrics.json", "samples.jsonl"):
        assert (folder / name).read_bytes() == (result.folder / name).read_bytes()
    assert json.loads((folder / "record.json").read_text())["resumed"] == 1


def test_other_settings_need_overwrite(
    models: Path, result: EvaluationResult, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(result.folder, folder)
    kept = (folder / "metrics.json").read_bytes()
    for changes in ({"render_steps": 2}, {"target": ("four",)}, {"model": str(models / "base")}):
        with pytest.raises(InputError) as caught:
            evaluate(config(models, folder, **{"target": ("three",), **changes}))
        assert "--overwrite" in caught.value.remedy
    assert (folder / "metrics.json").read_bytes() == kept
    limited = evaluate(config(models, folder, limit=10, overwrite=True, no_baseline=True))
    assert limited.metrics["baseline"] is None
    assert len(list((folder / "images").iterdir())) == 10
    assert "no baseline" in limited.report.read_text()


def test_a_folder_with_something_else_is_left_alone(models: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        evaluate(config(models, tmp_path, overwrite=True))
    with pytest.raises(InputError, match="is a file"):
        evaluate(config(models, tmp_path / "thesis.txt"))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "base"}, "--target"),
        ({"target": ("llama",)}, "llama"),
        ({"protocol": "paper"}, "default"),
        ({"suite": "digit"}, "digits"),
        ({"baseline": "no-such-model"}, "no-such-model"),
        ({"render_steps": 0}, "render_steps is 0"),
        ({"render_batch_size": 0}, "render_batch_size is 0"),
        ({"render_batch_size": -1}, "render_batch_size is -1"),
        ({"cache_dir": f"{__file__}/renders"}, "--cache-dir"),
        ({"output": f"{__file__}/out"}, "is a file"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"prompts": "no-such-folder"}, "no-such-folder"),
        ({"prompts": "no-such-table.csv"}, "no-such-table.csv"),
        ({"suite": "coco"}, "--prompt-table FILE"),
        ({"scheduler": "NoScheduler"}, "NoScheduler"),
        ({"metrics": ("uaa",)}, "ua"),
        ({"settings": ("fid.features=x",)}, "inception-2048"),
        ({"classifier": "no-such-net"}, "no-such-net"),
        ({"categories": "sexual"}, "i2p"),
        ({"reference": "no-such-folder"}, "--reference"),
    ],
)
def test_bad_input_is_one_clear_error(
    models: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    if changes.get("model") == "base":
        changes = {"model": str(models / "base")}
    with pytest.raises(InputError) as caught:
        evaluate(config(models, **{"output": tmp_path / "out", **changes}))
    assert said in f"{caught.value.message} {caught.value.remedy}"
    assert not (tmp_path / "out").exists()


def test_another_baseline_needs_overwrite(
    models: Path, result: EvaluationResult, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(result.folder, folder)
    kept = (folder / "metrics.json").read_bytes()
    for changes in ({"no_baseline": True}, {"baseline": str(models / "run")}):
        with pytest.raises(InputError, match="another baseline"):
            evaluate(config(models, folder, **changes))
    assert (folder / "metrics.json").read_bytes() == kept
    # Images and metrics of the model itself stay what they were.
    images = {file.name: file.stat().st_mtime_ns for file in (folder / "images").iterdir()}
    found = evaluate(config(models, folder, baseline=str(models / "run"), overwrite=True))
    assert found.metrics["baseline"] == found.metrics["metrics"]
    assert (
        json.loads(kept)["metrics"] == json.loads((folder / "metrics.json").read_text())["metrics"]
    )
    assert images == {file.name: file.stat().st_mtime_ns for file in (folder / "images").iterdir()}


def test_a_base_with_other_weights_is_no_baseline(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "run"
    shutil.copytree(models / "run", model)
    record = json.loads((model / "record.json").read_text())
    record["base_fingerprint"] = resolve(str(models / "base")).fingerprint()
    (model / "record.json").write_text(json.dumps(record))
    settings = {"model": str(model), "images_per_class": 1}
    same = evaluate(config(models, tmp_path / "same", **settings))
    assert same.baseline is not None
    assert capsys.readouterr().err == ""
    record["base_fingerprint"] = "0" * 64
    (model / "record.json").write_text(json.dumps(record))
    without = evaluate(config(models, tmp_path / "without", **settings))
    assert without.baseline is None
    reason = json.loads((without.folder / "record.json").read_text())["baseline"]["reason"]
    assert "its files differ" in reason
    assert reason in without.report.read_text()
    said = capsys.readouterr().err
    assert said.startswith("Warning:")
    assert "--baseline" in said
    chosen = str(models / "base")
    asked = evaluate(config(models, tmp_path / "asked", baseline=chosen, **settings))
    assert asked.metrics["baseline"] == same.metrics["baseline"]


def test_the_recorded_revision_of_the_base_is_the_baseline(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def find(model: str, revision: str | None = None) -> ModelSource:
        asked.append((model, revision))
        return resolve(str(models / "base") if model == "someone/base" else model)

    model = tmp_path / "run"
    shutil.copytree(models / "run", model)
    record = json.loads((model / "record.json").read_text())
    record |= {"base_model": "someone/base", "base_revision": "abc"}
    (model / "record.json").write_text(json.dumps(record))
    monkeypatch.setattr(run, "resolve", find)
    monkeypatch.setattr(plan, "resolve", find)
    evaluate(config(models, tmp_path / "out", model=str(model), images_per_class=1))
    assert asked == [(str(model), None), ("someone/base", "abc")]


def test_a_kill_while_clearing_leaves_a_folder_that_is_accepted(
    models: Path, result: EvaluationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(result.folder, folder)
    changed = config(models, folder, images_per_class=1, no_baseline=True, overwrite=True)
    unlink, replace = Path.unlink, Path.replace

    def kill_at(step: int) -> None:
        """Stop at the step-th change of a file or the record."""
        left = iter(range(step))

        def patched(original: Any) -> Any:
            def call(path: Path, *arguments: Any, **options: Any) -> Any:
                if path.is_relative_to(folder) and next(left, None) is None:
                    raise KeyboardInterrupt
                return original(path, *arguments, **options)

            return call

        monkeypatch.setattr(Path, "unlink", patched(unlink))
        monkeypatch.setattr(Path, "replace", patched(replace))

    for step in range(6):
        kill_at(step)
        with pytest.raises(KeyboardInterrupt):
            evaluate(changed)
        monkeypatch.undo()
        with pytest.raises(InputError, match="another baseline"):
            evaluate(config(models, folder, images_per_class=1, seed=5))
    finished = evaluate(changed)
    assert json.loads((folder / "record.json").read_text())["status"] == "finished"
    assert finished.metrics["metrics"]["ua"]["n"] == 1


def test_what_a_killed_write_left_is_no_content(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".record.json.partial-123").write_text("{")
    evaluate(config(models, folder, images_per_class=1, no_baseline=True))
    assert (folder / "metrics.json").is_file()


def test_a_failure_is_recorded(models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models / "run", broken)
    weights = next((broken / "vae").glob("*.safetensors"))
    save_file({n: t * float("nan") for n, t in load_file(weights).items()}, weights)
    with pytest.raises(RunError, match="rendered NaN"):
        evaluate(config(models, tmp_path / "out", model=str(broken), images_per_class=1))
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["status"] == "failed"


def test_pipeline_in_memory_scores_the_same(models: Path, result: EvaluationResult) -> None:
    pipeline = load_pipeline(resolve(str(models / "run")))
    summaries = score_pipeline(pipeline, ["three"], images=2, steps=1, batch_size=10)
    found = {name: summary.to_json() for name, summary in summaries.items()}
    assert (
        json.loads(json.dumps(found))
        == json.loads((result.folder / "metrics.json").read_text())["metrics"]
    )


def test_report_is_self_contained(result: EvaluationResult) -> None:
    text = result.report.read_text()
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "url(" not in text
    assert all("seed" in alt for alt in page.alts)
    for words in ("unlearning accuracy", "95% interval", "higher is better", "three", "torch"):
        assert words in text


def test_report_escapes_captions(models: Path, tmp_path: Path) -> None:
    text = (prompts_root(None) / "digits.yaml").read_text()
    (tmp_path / "digits.yaml").write_text(
        text.replace("a photo of the digit {name}", "<script>alert('{name} & \"x\"')</script>")
    )
    outcome = evaluate(config(models, tmp_path / "out", prompts=str(tmp_path), images_per_class=1))
    text = outcome.report.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "script" not in Page(text).tags


def test_numbers_for_people() -> None:
    assert number(0.9512, "share") == "95.1%"
    assert [number(x, "distance") for x in (0.0, 0.01234, 1.234, 123.4)] == [
        "0.00",
        "0.0123",
        "1.23",
        "123",
    ]


def test_command_line(models: Path, result: EvaluationResult) -> None:
    arguments = ["evaluate", "--model", str(models / "run"), "--output", str(result.folder)]
    arguments += ["--steps", "1", "--images-per-class", "2", "--batch-size", "10"]
    arguments += ["--cache-dir", str(models / "cache")]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "unlearning accuracy" in outcome.output
    assert "report.html" in outcome.output
    outcome = CliRunner().invoke(main, [*arguments, "--seed", "1"])
    assert outcome.exit_code == 2
    assert "--overwrite" in outcome.output


def test_command_line_help_is_complete() -> None:
    command = main.get_command(main.make_context("erase", ["evaluate"]), "evaluate")  # type: ignore[attr-defined]
    assert command is not None
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


def test_default_output(models: Path) -> None:
    assert default_output(str(models / "run"), "digits") == str(
        models / "run" / "evaluation-digits"
    )
    assert default_output("mini-sd", "digits") == "evaluation-digits-mini-sd"
    assert default_output("a/b", "digits") == "evaluation-digits-a--b"
