"""Dry runs plan what is not there yet, touch nothing; what is missing is called what it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.errors import InputError
from erase.models.known import known_source
from erase.models.loading import load_pipeline, resolve
from erase.report.data import load_evaluation
from erase.training.plan import plan
from erase.training.sizes import weight_count
from tests.evaluation_world import make_models

PARAMETERS = {
    "sd-1.4": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd-2.1": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}
"""As the published weights have them."""


def erase(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(
    "name", [*list(PARAMETERS)[:2], pytest.param("sdxl", marks=pytest.mark.slow)]
)
def test_a_known_model_has_the_published_number_of_parameters(name: str) -> None:
    source = known_source(name)
    assert source is not None
    found = {file.parent.name: file.parent for file in source.path.glob("*/config.json")}
    assert {part: weight_count(folder) for part, folder in found.items()} == PARAMETERS[name]


@pytest.mark.fault("planned before the download")
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("sd-1.4", "lur"),
        ("sd-2.1", "uce"),
        pytest.param("sd-1.5", "lur", marks=pytest.mark.slow),
        pytest.param("sdxl", "lur", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_is_not_here_is_planned(home: Path, name: str, method: str) -> None:
    config = ConceptConfig(model=name, concept=("nudity",), method=method)
    planned = plan(config, fetch=False)
    assert any("are to be fetched" in note for note in planned.notes)
    assert planned.config.resolution == {"sd-2.1": 768, "sdxl": 1024}.get(name, 512)
    with pytest.raises(InputError):
        plan(config.replace(model="someone/unknown"), fetch=False)
    with pytest.raises(InputError):  # a run itself needs the weights
        plan(config)
    assert not (home / "cache").exists()


def test_the_dry_run_of_an_evaluation_says_what_it_takes(models: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    given = ["evaluate", "--model", models / "run", "--output", output, "--batch-size", 5]
    given += ["--images-per-class", 1, "--metrics", "ra", "--cache-dir", tmp_path / "cache"]
    planned = erase(*given, "--dry-run")
    assert planned.exit_code == 0, planned.output
    for line in (
        "# images of the model: 10, of which 10 are to be rendered",
        "# images of the baseline: 10, of which 10 are to be rendered",
        "(4 batches of 5 images, 25 steps each, ",
        "s each, measured)",
        "# missing: nothing",
    ):
        assert line in planned.stdout
    assert not output.exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.fault("planned before the download")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "sd-1.4", "--suite", "i2p", "--no-baseline"), "erase fetch --suite i2p"),
        (("--model", "sd-1.4", "--suite", "imagenette", "--target", "tench"), "GB are to be"),
        (("--model", "mini-sd", "--target", "three", "--metrics", "clip"), "--weights clip"),
    ],
)
def test_what_is_missing_is_named_and_no_error(
    home: Path, arguments: tuple[str, ...], said: str
) -> None:
    planned = erase("evaluate", *arguments, "--output", home / "out", "--dry-run")
    assert planned.exit_code == 0, planned.output
    missing = [line for line in planned.stdout.splitlines() if line.startswith("# missing: ")]
    assert any(said in line for line in missing)
    assert "not known before everything is there" in planned.stdout
    assert not (home / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metrics", "nudenet", "--threshold", "2"), "threshold is 2"),
        (("--size", "33"), "multiples of 8"),
        (("--target", "llama"), "llama"),
    ],
)
def test_a_dry_run_refuses_what_the_evaluation_would_refuse(
    models: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    given = ("evaluate", "--model", models / "run", "--output", tmp_path / "out", "--dry-run")
    refused = erase(*given, *arguments)
    assert refused.exit_code == 2
    assert said in refused.output


def test_dry_runs_of_comparisons(home: Path) -> None:
    classifier = ("compare", "classifier", "--output", home / "out", "--dry-run", "--methods")
    planned = erase(
        *classifier, "ft,lur", "--forget", "random:10%", "--forget", "class:3", "--trials", 2
    )
    assert planned.exit_code == 0, planned.output
    assert "# runs: 12 (2 forget sets, 2 trials, 3 lines), of which 0 are there" in planned.stdout
    assert "trained first" in planned.stdout
    assert "# kept" not in planned.stdout
    assert "# missing: nothing" in planned.stdout
    absent = erase(*classifier, "ft", "--forget", "class:cat", "--dataset", "cifar10")
    assert absent.exit_code == 0, absent.output
    assert "# missing: CIFAR-10" in absent.stdout
    diffusion = ("compare", "diffusion", "--output", home / "out", "--dry-run", "--methods")
    planned = erase(*diffusion, "lur,uce", "--model", "mini-sd", "--concept", "three")
    assert planned.exit_code == 0, planned.output
    assert "# runs: 2 (1 concepts, 1 trials, 2 lines), of which 0 are there" in planned.stdout
    assert "# images to judge by: 500 a run, and 500 of the original" in planned.stdout
    assert not (home / "out").exists()


@pytest.mark.fault("refused before training")
@pytest.mark.parametrize("spec", ["class:99", "random:0%", "classes:10", "indices:nowhere.json"])
def test_a_forget_set_that_cannot_be_is_refused_before_the_original_is_trained(
    tmp_path: Path, spec: str
) -> None:
    given = ("compare", "classifier", "--methods", "ft", "--output", tmp_path / "out")
    refused = erase(*given, "--forget", spec)
    assert refused.exit_code == 2, refused.output
    assert not (tmp_path / "out").exists()


def unfinished(folder: Path, **record: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"kind": "concept", **record}))
    (folder / "config.yaml").write_text("model: mini-sd\nconcept: [three]\n")
    (folder / "checkpoint-4").mkdir()
    return folder


@pytest.mark.fault("an unfinished run is named")
@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("interrupted", "it was interrupted"),
        ("running", "it was interrupted, or still goes on"),
        ("failed", "it failed"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "export", "report", "compare", "concept"])
def test_an_unfinished_run_is_named_with_its_resume_command(
    tmp_path: Path, command: str, status: str, said: str
) -> None:
    run = unfinished(tmp_path / "runs" / "three", status=status)
    out = tmp_path / "out"
    arguments = {
        "evaluate": ("--model", run, "--output", out),
        "export": (run, "--format", "single-file", "--output", f"{out}.safetensors"),
        "report": (run,),
        "compare": ("diffusion", "--model", run, "--concept", "three", "--output", out),
        "concept": ("--model", run, "--concept", "three", "--output", out),
    }[command]
    refused = erase(command, *arguments)
    assert refused.exit_code == 2, refused.output
    text = " ".join(refused.output.split())
    assert said in text
    assert f"--output {run} --resume-from-checkpoint latest" in text
    assert not out.exists()


@pytest.mark.fault("an unfinished run is named")
def test_an_unfinished_baseline_classifier_and_class_run(models: Path, tmp_path: Path) -> None:
    run = unfinished(tmp_path / "class", status="interrupted")
    (run / "config.yaml").write_text("model: mini-sd\ntarget: [three]\n")
    with pytest.raises(InputError) as caught:
        resolve(str(run))
    assert caught.value.remedy.startswith("Go on with it: erase class --config ")
    (run / "record.json").write_text(json.dumps({"kind": "train classifier", "status": "running"}))
    refused = erase(
        "evaluate", "--model", models / "run", "--classifier", run, "--output", tmp_path / "out"
    )
    assert refused.exit_code == 2
    assert "erase train classifier --config" in " ".join(refused.output.split())


@pytest.mark.fault("a missing folder is named")
@pytest.mark.parametrize(
    "model", ["runs/thre", "runs/deep/three", "./three", "/nowhere/three", "runs/x.safetensors"]
)
def test_a_missing_run_is_no_hub_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "three").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        resolve(model)
    assert f"There is no {'file' if 'x.' in model else 'folder'} {model}." in caught.value.message
    assert "hub" not in f"{caught.value.message} {caught.value.remedy}"
    if model == "runs/thre":
        assert "three" in caught.value.remedy


def test_a_finished_run_without_evaluation_says_how_to_get_one(
    models: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(models / "run", run)
    load_pipeline(resolve(str(run)))
    (run / "record.json").write_text(json.dumps({"kind": "concept", "status": "finished"}))
    with pytest.raises(InputError) as caught:
        load_evaluation(run)
    assert f"erase evaluate --model {run}" in caught.value.remedy
    (run / "evaluation-digits").mkdir()
    (run / "evaluation-digits" / "metrics.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        load_evaluation(run)
    assert str(run / "evaluation-digits") in caught.value.remedy
