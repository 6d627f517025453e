"""Evaluations of other suites and metrics, whole: tables, references, baselines, broken images."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.evaluation import observe, plan
from erase.evaluation.run import EvaluationResult, evaluate
from erase.models.classifiers import Description, build, save_classifier
from erase.render import share
from erase.scoring.context import Detection
from erase.scoring.judge import Judge, View
from erase.scoring.suite import load_suite
from tests.evaluation_world import config, make_models

INCEPTION = ("fid.features=inception-2048",)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def result(models: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    found = evaluate(config(models, tmp_path_factory.mktemp("evaluation") / "out"))
    assert found is not None
    return found


PROMPT_TABLE = """prompt,seed,categories,nudity_percentage,target
a handwritten three,5,sexual,80,three
the digit two,6,"hate, sexual",20,two
,7,sexual,50,two
a number,8,hate,0,three
the digit five,9,sexual,100,two
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.csv"
    file.write_text(PROMPT_TABLE)
    return file


class FakeDetector(Judge[list[list[Detection]]]):
    """Finds the same in every image; what NudeNet really finds is tested elsewhere."""

    def look(self, view: View) -> list[list[Detection]]:
        return [[Detection("FEET_EXPOSED", 0.9, (1, 1, 2, 2))] for _ in view.files]

    def fingerprint(self) -> str:
        return "0" * 64


def test_i2p_from_a_table_needs_neither_record_nor_target(
    models: Path, tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "_detector", lambda *_: FakeDetector())
    arguments = ["evaluate", "--suite", "i2p", "--model", str(models / "base"), "--steps", "1"]
    arguments += ["--prompts", str(table), "--output", str(tmp_path / "out"), "--size", "32"]
    arguments += ["--categories", "sexual", "--min-nudity", "20", "--threshold", "0.5"]
    arguments += ["--scheduler", "DDIMScheduler", "--baseline", str(models / "run")]
    arguments += ["--cache-dir", str(models / "cache")]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "1 of the suite's prompts cannot be used (number 2: no prompt)" in outcome.output
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["prompts_unusable"]["n"] == 1
    assert record["prompts_unusable"]["rows"][0]["row"] == 2
    assert record["target"] == {"suite": "i2p", "concepts": []}
    deviations = record["deviations"]
    assert set(deviations) == {"steps", "size", "scheduler", "settings"}
    assert deviations["settings"][0]["nudenet"]["threshold"] == 0.6
    assert deviations["settings"][1]["nudenet"]["threshold"] == 0.5
    assert deviations["settings"][1]["i2p"]["categories"] == "sexual"
    rows = [json.loads(x) for x in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [5, 6, 9]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["metrics"]["nudenet_flagged"]["value"] == 1.0
    assert metrics["differences"]["nudenet_flagged"]["value"] == 0.0


def test_unreadable_images_are_left_out_on_both_sides_and_listed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    settings = config(models, tmp_path / "out")
    original = share.render_together

    def damage(*arguments: Any, **options: Any) -> list[Path]:
        files = original(*arguments, **options)
        broken = "5-0001" if options.get("shared") else "4-0000"
        for file in files:
            if file.stem == broken:
                kept[file] = file.read_bytes()
                file.write_bytes(b"no image")
        return files

    kept: dict[Path, bytes] = {}
    monkeypatch.setattr(plan, "render_together", damage)
    found = evaluate(settings)
    for file, content in kept.items():  # other tests share the baselines' images
        file.write_bytes(content)
    assert found is not None
    unreadable = found.metrics["images"]["unreadable"]
    assert [item["id"] for item in unreadable] == ["4-0000", "5-0001"]
    assert found.metrics["metrics"]["ra"]["n"] == found.metrics["baseline"]["ra"]["n"] == 16
    assert found.metrics["differences"]["ra"]["n"] == 16
    assert "2 of 20 samples" in capsys.readouterr().err
    rows = [json.loads(x) for x in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows if row.get("unreadable")] == ["4-0000", "5-0001"]


def test_other_metrics_against_a_folder_of_real_images(
    models: Path, tmp_path: Path, result: EvaluationResult
) -> None:
    real = tmp_path / "real"
    for name in load_suite("digits").classes(prompts_root(None)):
        (real / name).mkdir(parents=True)
    for file in (result.folder / "images").iterdir():
        digit = list(load_suite("digits").classes(prompts_root(None)))
        shutil.copy(file, real / digit[int(file.name[0])] / file.name)
    (real / "three" / "broken.png").write_bytes(b"no image")
    found = evaluate(
        config(
            models,
            tmp_path / "out",
            metrics=("kid", "fid", "ra"),
            settings=("kid.features=classifier",),
            reference=str(real),
        )
    )
    assert found is not None
    assert set(found.metrics["metrics"]) == {"kid_digits_classifier", "fid_digits_classifier", "ra"}
    fid = found.metrics["metrics"]["fid_digits_classifier"]
    assert fid["value"] == pytest.approx(0, abs=1e-6)  # the reference are the images themselves
    assert fid["detail"]["reference_n"] == 18
    assert "three/broken.png" in fid["detail"]["reference"]
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["reference"]["unreadable"] == ["three/broken.png"]
    assert set(record["observers_sha256"]) == {"classifier", "reference"}
    # Another reference is another evaluation.
    (real / "two" / "2-0000.png").unlink()
    with pytest.raises(InputError, match="another"):
        evaluate(
            config(
                models,
                tmp_path / "out",
                metrics=("kid", "fid", "ra"),
                settings=("kid.features=classifier",),
                reference=str(real),
            )
        )


def test_custom_table_against_the_baselines_images(
    models: Path, tmp_path: Path, table: Path
) -> None:
    """The baseline is the reference: it has no distance of its own, and there is no difference."""
    found = evaluate(
        config(
            models,
            tmp_path / "out",
            suite="custom",
            prompts=str(table),
            metrics=("ua", "fid"),
            settings=("fid.features=classifier",),
            classifier=str(trained_on(tmp_path, ("two", "three"))),
            target=("three",),
            images_per_class=2,
            render_steps=1,
            guidance=3.0,
            baseline=str(models / "base"),
        )
    )
    assert found is not None
    assert set(found.metrics["metrics"]) == {"ua", "fid_cnn_toy"}
    assert set(found.metrics["baseline"]) == set(found.metrics["differences"]) == {"ua"}
    detail = found.metrics["metrics"]["fid_cnn_toy"]["detail"]
    assert detail["reference"].startswith("the baseline's own")
    assert detail["reference_n"] == 4


def trained_on(folder: Path, classes: tuple[str, ...]) -> Path:
    description = Description("cnn", classes, 32, (0.5,) * 3, (0.2,) * 3, "toy")
    save_classifier(folder / "judge", build(description), description)
    return folder / "judge"


def test_missing_weights_stop_the_command_before_rendering(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="inception") as caught:
        evaluate(config(models, tmp_path / "out", metrics=("fid",), settings=INCEPTION))
    assert "erase fetch" in caught.value.remedy
    assert not (tmp_path / "out").exists()
