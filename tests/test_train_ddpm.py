"""`erase train ddpm` and what is done with its folder: whole command-line runs on tiny models."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from erase.cli.main import main
from erase.config.ddpm import DDPMConfig
from erase.data.prompts import class_lists, prompts_root
from erase.errors import InputError
from erase.files import read_json, read_jsonl
from erase.models.class_conditional import build_pipeline
from erase.models.loading import load_pipeline, resolve, save_pipeline
from erase.training.classes import classes_of_model
from erase.training.ddpm import plan
from tests.tiny_pipelines import PIPELINES, SIZE

TINY = [
    *("--dataset", "digits", "--channels", "8", "--multipliers", "1,2", "--device", "cpu"),
    *("--train-batch-size", "4", "--max-train-steps", "4", "--checkpointing-steps", "2"),
]
NETWORK: dict[str, Any] = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": 4}
NUMERALS = {"9": "nine", "3": "three"}
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


def erase(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddpm") / "run"
    erase("train", "ddpm", *TINY, "--output", str(folder))
    return folder


def test_the_folder_renders_by_class_name(trained: Path) -> None:
    source = resolve(str(trained))
    pipeline = load_pipeline(source)
    assert (pipeline.classes[3], pipeline.null_class, source.resolution()) == ("three", 10, 8)
    images = pipeline(["a handwritten 3", "nine"], num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 8, 8, 3)
    record = read_json(trained / "record.json")
    assert (record["status"], record["kind"]) == ("finished", "train ddpm")
    assert [row["step"] for row in read_jsonl(trained / "log.jsonl")] == [1, 2, 3, 4]
    assert "Trained from scratch" in (trained / "README.md").read_text()


def test_it_resumes_to_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "checkpoint-4")
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "status": "running"}))
    erase(
        *("train", "ddpm", *TINY, "--output", str(folder)),
        *("--resume-from-checkpoint", "latest"),
    )
    assert (folder / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()


def test_the_weights_saved_are_the_moving_average(trained: Path) -> None:
    state = load_file(trained / "checkpoint-4" / "state.safetensors")
    saved = load_file(trained / WEIGHTS)
    assert torch.equal(saved["conv_in.weight"], state["ema.conv_in.weight"])
    assert not torch.equal(saved["conv_in.weight"], state["parameter.conv_in.weight"])


def config(**changes: Any) -> DDPMConfig:
    given: dict[str, Any] = {"dataset": "digits", "channels": 8}
    return DDPMConfig(**(given | changes))


def test_without_a_class_there_is_no_image_of_it_but_it_keeps_its_label() -> None:
    whole, less = plan(config()), plan(config(without="three, nine"))
    assert whole.classes == less.classes
    assert sorted(set(less.images.labels.tolist())) == [0, 1, 2, 4, 5, 6, 7, 8]
    kept = ~torch.isin(whole.images.labels, torch.tensor([3, 9]))
    assert torch.equal(less.images.images, whole.images.images[kept])


def test_only_some_classes_are_numbered_as_they_are_named() -> None:
    whole, some = plan(config()), plan(config(classes="nine,three"))
    assert some.classes == ("nine", "three")
    assert some.synonyms == {"9": "nine", "3": "three"}
    nines = whole.images.images[whole.images.labels == 9]
    assert torch.equal(some.images.images[some.images.labels == 0], nines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"without": "eleven"}, "There is no class 'eleven'"),
        ({"classes": "three"}, "--classes is 'three'"),
        ({"classes": "three,three"}, "each once|--classes is"),
        ({"classes": "three,nine", "without": "three,nine"}, "No image is left"),
        ({"multipliers": "1,x"}, "--multipliers is '1,x'"),
        ({"multipliers": "1,1,1,1,1"}, "cannot halve 8 pixels"),
        ({"resolution": 12}, "--resolution is 12"),
        ({"dropout": 1.0}, "^dropout is 1"),
        ({"label_dropout": -0.1}, "^label_dropout is -0.1"),
        ({"dataset": "cifar10", "data_dir": "nowhere"}, "cifar"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        plan(config(**changes))


def test_the_alias_says_that_nobody_publishes_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="No public weights") as refused:
        resolve("cifar10-ddpm")
    assert "erase train ddpm --dataset cifar10 --output" in refused.value.remedy
    shutil.copytree(trained, tmp_path / "models" / "cifar10-ddpm")
    assert resolve("cifar10-ddpm").pipeline_class() == "ClassConditionalPipeline"


SMALL = [
    *("--num-forget-images", "3", "--num-retain-images", "4", "--render-steps", "2"),
    *("--render-batch-size", "4", "--train-batch-size", "2", "--max-train-steps", "2"),
    *("--lr-warmup-steps", "0", "--learning-rate", "1e-2", "--device", "cpu"),
]


def changed(before: Path, after: Path) -> dict[str, bool]:
    """Whether the weights of each part differ."""
    found = {}
    parts = (path.parent for path in sorted(before.glob("*/config.json")))
    for file in (file for part in parts for file in part.glob("*.safetensors")):
        old, new = load_file(file), load_file(after / file.relative_to(before))
        assert set(old) == set(new)
        found[file.parent.name] = any(not torch.equal(old[name], new[name]) for name in old)
    return found


@pytest.mark.parametrize("method", ["lur", "lur-b"])
def test_a_digit_is_forgotten_end_to_end(trained: Path, tmp_path: Path, method: str) -> None:
    folder = tmp_path / "run"
    erase(
        *("class", "--model", str(trained), "--target", "three", "--method", method),
        *("--output", str(folder), *SMALL),
    )
    assert changed(trained, folder) == {"unet": True}
    pipeline = load_pipeline(resolve(str(folder)))
    assert pipeline.labels(["3"]).tolist() == [3]
    shown = {row["text"] for row in read_jsonl(folder / "data" / "forget" / "metadata.jsonl")}
    assert shown == {"three"}
    kept = {row["text"] for row in read_jsonl(folder / "data" / "retain" / "metadata.jsonl")}
    assert kept
    assert "three" not in kept


def test_a_model_of_some_classes_is_judged_by_those(tmp_path: Path) -> None:
    model, found = tmp_path / "model", tmp_path / "found"
    save_pipeline(
        build_pipeline(("nine", "three"), size=8, synonyms=NUMERALS, **NETWORK),
        model,
        torch.float32,
    )
    known = classes_of_model(resolve(str(model)), class_lists(prompts_root(None)))
    assert known is not None
    assert known.suite == "digits"  # so that a run's record says by what it is measured
    command = ["evaluate", "--suite", "digits", "--model", str(model), "--steps", "2"]
    command += ["--images-per-class", "2", "--no-baseline", "--device", "cpu"]
    said = erase(*command, "--target", "three", "--output", str(found))
    assert "8 of the suite's prompts cannot be used (number 0: the model does not know" in said
    rows = read_jsonl(found / "samples.jsonl")
    assert [row["target"] for row in rows] == ["three", "three", "nine", "nine"]
    listed = read_json(found / "record.json")["prompts_unusable"]
    assert listed["n"] == len(listed["rows"]) == 8
    save_pipeline(build_pipeline(("cat", "dog"), size=8, **NETWORK), model, torch.float32)
    said = erase(*command, "--target", "three", "--output", str(tmp_path / "none"), code=2)
    assert "knows no class of the suite 'digits'" in said
    assert "It knows: cat, dog." in said


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["sdxl", "sdxl-v", "sd3", "sd2-v"])
def test_a_concept_is_forgotten_end_to_end(name: str, tmp_path: Path) -> None:
    """The whole of `erase concept`, and diffusers alone opens what it leaves."""
    base, folder = tmp_path / "base", tmp_path / "run"
    save_pipeline(PIPELINES[name](), base, torch.float32)
    for kind, words in (("forget", "cat"), ("retain", "dog\na red car")):
        (tmp_path / f"{kind}.txt").write_text(words + "\n")
    erase(
        *("concept", "--model", str(base), "--concept", "cat", "--anchor", "dog"),
        *("--forget-prompts", str(tmp_path / "forget.txt")),
        *("--retain-prompts", str(tmp_path / "retain.txt")),
        *("--output", str(folder), *SMALL),
    )
    moved = changed(base, folder)
    trained = "transformer" if name == "sd3" else "unet"
    assert {part for part, differs in moved.items() if differs} == {trained}
    pipeline = load_pipeline(resolve(str(folder)))
    prediction = PIPELINES[name]().scheduler.config.get("prediction_type")
    assert pipeline.scheduler.config.get("prediction_type") == prediction
    pixels = pipeline("a dog", num_inference_steps=2, output_type="np").images[0]
    assert pixels.shape == (SIZE, SIZE, 3)
    rendered = sorted((folder / "data" / "forget" / "images").glob("*.png"))
    with Image.open(rendered[0]) as image:
        assert image.size == (SIZE, SIZE)
