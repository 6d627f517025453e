"""What an evaluation could refuse after hours of rendering, it refuses before the first image."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.errors import InputError, RunError
from erase.evaluation import plan as planning
from erase.evaluation.run import evaluate
from erase.report.data import load_evaluation
from erase.report.side_by_side import disagreements
from erase.training.plan import plan
from tests.evaluation_world import config, make_models, pictures
from tests.tiny_pipelines import ddpm, sd3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of other families, and one that lacks a part."""
    root = tmp_path_factory.mktemp("others")
    for name, make in (("ddpm", ddpm), ("sd3", sd3)):
        make().save_pretrained(root / name)
    return root


@pytest.fixture
def nothing_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was to be rendered")

    monkeypatch.setattr(planning, "render_together", render)


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def reference_without_nine(folder: Path) -> str:
    for name in set(DIGITS) - {"three", "nine"}:
        pictures(folder / name, 2)
    return str(folder)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "threshold above 1": ({"metrics": ("nudenet",), "threshold": 2.0}, "threshold is 2"),
    "threshold below what is there": ({"metrics": ("nudenet",), "threshold": 0.1}, "threshold"),
    "threshold by --set": (
        {"metrics": ("nudenet",), "settings": ("nudenet.threshold=7",)},
        "threshold is 7",
    ),
    "unknown colour": ({"metrics": ("nudenet",), "settings": ("nudenet.colour=bgr",)}, "colour"),
    "unknown CLIP": ({"metrics": ("clip",), "settings": ("clip.model=vit-x",)}, "vit-x"),
    "unknown LPIPS": ({"metrics": ("lpips",), "settings": ("lpips.net=res",)}, "alex"),
    "unknown features": ({"settings": ("kid.features=12",), "metrics": ("kid",)}, "inception"),
    "unknown among": ({"settings": ("classifier.among=some",)}, "suite"),
    "LPIPS without a baseline": ({"metrics": ("lpips",), "no_baseline": True}, "baseline"),
    "size not divisible": ({"resolution": 33}, "multiples of 8"),
    "size of half a block": ({"resolution": 12}, "Give 8 or 16"),
    "more steps than there are": ({"render_steps": 1001}, "cannot take 1001 steps"),
    "nothing retained": ({"limit": 1, "metrics": ("ra",), "target": ("zero",)}, "any other"),
    "one image for FID": ({"limit": 2, "target": ("zero",)}, "FID needs two"),
    "one image for KID": (
        {
            "limit": 2,
            "target": ("zero",),
            "metrics": ("kid",),
            "settings": ("kid.features=classifier",),
        },
        "KID needs two",
    ),
    "everything forgotten": (
        {"target": DIGITS},
        "any other",
    ),
    "a reference that lacks a class": ({"reference": reference_without_nine}, "'nine'"),
    "a scheduler that is none": ({"scheduler": "DDPMPipeline"}, "DDPMPipeline"),
    "no GPU of that number": ({"device": "cuda:77"}, "cuda:77"),
}


@pytest.mark.fault("refused before rendering")
@pytest.mark.usefixtures("nothing_rendered")
@pytest.mark.parametrize("case", SETTINGS)
def test_settings_are_refused_before_the_first_image(
    models: Path, tmp_path: Path, case: str
) -> None:
    changes, said = SETTINGS[case]
    for name, value in changes.items():
        if isinstance(value, Callable):  # type: ignore[arg-type]
            changes = {**changes, name: value(tmp_path / "made")}
    with pytest.raises(InputError) as caught:
        evaluate(config(models, tmp_path / "out", **changes))
    assert said in f"{caught.value.message} {caught.value.remedy}"
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("refused before rendering")
@pytest.mark.usefixtures("nothing_rendered")
@pytest.mark.parametrize("which", ["model", "baseline"])
@pytest.mark.parametrize(
    ("lost", "said"),
    [("unet", "unet"), ("vae/*.safetensors", "vae/*.safetensors"), ("tokenizer", "tokenizer")],
)
def test_a_model_that_lacks_a_part_is_refused(
    models: Path, tmp_path: Path, which: str, lost: str, said: str
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(models / "base", cut)
    for path in cut.glob(lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError) as caught:
        evaluate(config(models, tmp_path / "out", target=("three",), **{which: str(cut)}))
    assert said in caught.value.message
    assert str(cut) in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("refused before rendering")
@pytest.mark.usefixtures("nothing_rendered")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "ddpm", "resolution": 24, "suite": "custom"}, "16 pixels a side only"),
        ({"model": "ddpm", "suite": "digits"}, "knows no class of the suite"),
        ({"baseline": "ddpm", "suite": "digits"}, "knows no class 'zero'"),
        ({"model": "sd3", "resolution": 18}, "multiples of 4"),
        ({"baseline": "sd3", "resolution": 18}, "multiples of"),
    ],
)
def test_other_families_are_checked_too(
    models: Path, others: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    named = {k: str(others / v) if k in ("model", "baseline") else v for k, v in changes.items()}
    if changes.get("suite") == "custom":
        (tmp_path / "captions.csv").write_text("prompt,target\ncat,cat\ndog,dog\n")
        named |= {"prompts": str(tmp_path / "captions.csv"), "metrics": ("clip",)}
        named |= {"target": ("cat",)}
    with pytest.raises(InputError) as caught:
        evaluate(config(models, tmp_path / "out", **{"target": ("three",), **named}))
    assert said in caught.value.message


@pytest.mark.fault("refused before rendering")
@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        ("mini-sd", {"resolution": 36}, "--resolution is 36, and mini-sd renders multiples of 8"),
        ("sd3", {"resolution": 18}, "multiples of 4"),
        ("ddpm", {"resolution": 24}, "16 pixels a side only"),
        ("mini-sd", {"learning_rate": 0.0}, "learning_rate is 0"),
    ],
)
def test_a_run_is_refused_before_its_sets_are_rendered(
    others: Path, model: str, changes: dict[str, Any], said: str
) -> None:
    name = model if model == "mini-sd" else str(others / model)
    concept = "cat" if model == "ddpm" else "nudity" if model == "sd3" else "three"
    with pytest.raises(InputError) as caught:
        plan(ConceptConfig(model=name, concept=(concept,), **changes))
    assert said in caught.value.message


SMALL: dict[str, Any] = {"images_per_class": 1, "metrics": ("ra",), "no_baseline": True}


@pytest.fixture(scope="module")
def failed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that failed while it scored, with all its images rendered."""

    def score(*_: Any) -> None:
        raise RunError("the judge broke", "Try again.")

    folder = tmp_path_factory.mktemp("failed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning.EvaluationPlan, "score", score)
        with pytest.raises(RunError):
            evaluate(config(models, folder, **SMALL))
    assert json.loads((folder / "record.json").read_text())["status"] == "failed"
    return folder


@pytest.fixture(scope="module")
def finished(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    evaluate(config(models, folder, **SMALL))
    return folder


@pytest.mark.fault("evaluation folder")
@pytest.mark.parametrize("changes", [{}, {"metrics": ("ua",)}, {"render_steps": 2}, {"limit": 4}])
def test_a_failed_evaluation_is_taken_over(
    models: Path, failed: Path, finished: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(failed, folder)
    before = {file: file.stat().st_mtime_ns for file in (folder / "images").iterdir()}
    result = evaluate(config(models, folder, **{**SMALL, **changes}))
    assert result is not None
    assert json.loads((folder / "record.json").read_text())["status"] == "finished"
    after = {file: file.stat().st_mtime_ns for file in (folder / "images").iterdir()}
    assert (after == before) is (not {"render_steps", "limit"} & set(changes))
    assert len(after) == changes.get("limit", 10)
    if not changes:
        same = (folder / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
        assert same


@pytest.mark.fault("evaluation folder")
@pytest.mark.parametrize("status", ["finished", "running", "interrupted"])
def test_another_evaluation_is_refused_and_the_differences_are_named(
    models: Path, finished: Path, tmp_path: Path, status: str
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "status": status}))
    base = str(models / "base")
    asked: list[tuple[dict[str, Any], list[str]]] = [
        ({"render_steps": 2}, ["steps 2, not 1"]),
        ({"guidance": 2.0, "seed": 7}, ["guidance 2.0, not 3.0", "seed 7, not 0"]),
        ({"metrics": ("ua",)}, ["metrics ua, not ra"]),
        ({"target": ("four",)}, ["concepts four, not three"]),
        ({"no_baseline": False}, [f"the baseline {base}, not none"]),
        ({"model": base, "target": ("three",)}, [f"the model {base}, not {models / 'run'}"]),
        ({"dtype": "bf16"}, ["dtype bf16, not fp32"]),
        ({"settings": ("classifier.among=suite",)}, ["classifier.among suite, not all"]),
    ]
    for changes, said in asked:
        with pytest.raises(InputError) as caught:
            evaluate(config(models, folder, **{**SMALL, **changes}))
        message = caught.value.message
        for words in said:
            assert words in message
        assert ("unfinished" in message) is (status != "finished")
        assert "--overwrite" in caught.value.remedy


@pytest.mark.fault("evaluation folder")
def test_a_model_that_changed_under_its_name_is_not_the_same_name_twice(
    models: Path, tmp_path: Path
) -> None:
    model, folder = tmp_path / "run", tmp_path / "out"
    shutil.copytree(models / "run", model)
    changes = {**SMALL, "model": str(model), "baseline": str(model), "no_baseline": False}
    evaluate(config(models, folder, **changes))
    weights = next((model / "vae").glob("*.safetensors"))
    save_file({name: tensor * 0.5 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(InputError) as caught:
        evaluate(config(models, folder, **changes))
    assert f"the files of the model {model} have changed since" in caught.value.message
    assert f"the files of the baseline {model} have changed" in caught.value.message
    assert f"{model}, not {model}" not in caught.value.message
    first, second = load_evaluation(folder), load_evaluation(folder)
    cast(dict[str, Any], second.record["baseline"])["images_fingerprint"] = "other"
    said = disagreements([first, second], ["a", "b"])
    assert said == ["b: the baseline run has other files here, or was rendered in another way"]


@pytest.mark.fault("evaluation folder")
def test_the_command_line_says_the_device_first_and_the_difference(
    models: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    given = ["evaluate", "--model", str(models / "run"), "--output", str(folder), "--metrics", "ra"]
    given += ["--images-per-class", "1", "--batch-size", "10", "--no-baseline", "--steps"]
    done = CliRunner().invoke(main, [*given, "1"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Device: ")
    refused = CliRunner().invoke(main, [*given, "2"])
    assert refused.exit_code == 2
    assert "steps 2, not 1" in refused.output
