"""Validation renders: a growing sheet, the same weights with it and without, the average shown."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.errors import InputError
from erase.report.contact_sheet import HEADED_GAP, HEADER, LABEL
from erase.training import validation
from erase.training.validation import contact_sheet, validation_prompts

RUN = [
    *("concept", "--model", "mini-sd", "--concept", "three", "--device", "cpu"),
    *("--num-forget-images", "4", "--num-retain-images", "6", "--render-steps", "2"),
    *("--render-batch-size", "4", "--train-batch-size", "3", "--checkpointing-steps", "2"),
    *("--max-train-steps", "4", "--ema-decay", "0.5", "--learning-rate", "1e-2"),
]
SHOWN = ("--validation-prompts", "a handwritten three; a handwritten one", "--validation-steps")


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    invoke(*RUN, "--output", str(folder))
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a row every second step, and TensorBoard."""
    folder = tmp_path_factory.mktemp("shown") / "run"
    invoke(*RUN, *SHOWN, "2", "--report-to", "tensorboard", "--output", str(folder))
    return folder


def unet(folder: Path) -> bytes:
    return (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


def row(folder: Path, step: int) -> list[bytes]:
    images = sorted((folder / "validation" / f"step-{step:06d}" / "images").glob("*.png"))
    return [image.read_bytes() for image in images]


def test_rendering_does_not_disturb_training(plain: Path, shown: Path) -> None:
    assert unet(plain) == unet(shown)
    assert not (plain / "validation").exists()


def test_a_row_before_one_every_n_steps_and_one_at_the_end(shown: Path) -> None:
    rows = sorted(path.name for path in (shown / "validation").glob("step-*"))
    assert rows == ["step-000000", "step-000002", "step-000004"]
    assert all(len(row(shown, step)) == 2 for step in (0, 2, 4))
    assert row(shown, 0) != row(shown, 2) != row(shown, 4)
    with Image.open(shown / "validation" / "sheet.png") as sheet:
        size = 256 + HEADED_GAP
        assert sheet.size == (LABEL + 2 * size, HEADER + 3 * size)
        pixels = np.asarray(sheet.convert("L"))
    for index in range(3):  # every row has its label
        top = HEADER + index * size
        assert pixels[top : top + 30, :LABEL].min() < 100


def test_the_first_row_is_the_base_and_the_last_what_was_saved(shown: Path) -> None:
    from erase.core.rng import derive_seed
    from erase.models.loading import load_pipeline, resolve

    for source, step in (("mini-sd", 0), (str(shown), 4)):
        pipeline = load_pipeline(resolve(source))
        image = pipeline(
            ["a handwritten three", "a handwritten one"],
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=[
                torch.Generator().manual_seed(derive_seed(0, "validation", index))
                for index in range(2)
            ],
            output_type="np",
        ).images[0]
        name = shown / "validation" / f"step-{step:06d}" / "images" / "000.png"
        stored = np.asarray(Image.open(name)).astype(float)
        assert np.abs(stored - (image * 255).round()).max() <= 2


def test_the_average_is_shown_while_training(shown: Path, tmp_path: Path) -> None:
    """The row of step 2 is that of a run whose EMA ends there, not of the raw weights."""
    checkpoint = load_file(shown / "checkpoint-2" / "state.safetensors")
    from erase.models.loading import load_pipeline, resolve

    images = {}
    for kind in ("ema", "parameter"):
        pipeline = load_pipeline(resolve("mini-sd"))
        weights = {
            name.removeprefix(f"{kind}."): tensor
            for name, tensor in checkpoint.items()
            if name.startswith(f"{kind}.")
        }
        pipeline.unet.load_state_dict(weights)
        config = ConceptConfig(
            render_steps=2,
            render_batch_size=4,
            forget_guidance=1.0,
            max_train_steps=4,
            validation_prompts=SHOWN[1],
        )
        from accelerate import Accelerator

        watch = validation.Validation(
            config,
            resolve("mini-sd"),
            {"unet": pipeline.unet},
            dict(pipeline.unet.named_parameters()),
            Accelerator(cpu=True),
            tmp_path / kind,
        )
        watch(2)
        images[kind] = row(tmp_path / kind, 2)
    assert images["ema"] == row(shown, 2)
    assert images["parameter"] != row(shown, 2)


def test_tensorboard_has_the_images(shown: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = list((shown / "tensorboard").rglob("events.out.tfevents.*"))
    steps = set()
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"images": 0})
        events.Reload()
        for tag in events.Tags()["images"]:
            steps |= {event.step for event in events.Images(tag)}
    assert steps == {0, 2, 4}


def test_a_resumed_run_continues_the_sheet(shown: Path, plain: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(shown, folder)
    shutil.rmtree(folder / "checkpoint-4")
    shutil.rmtree(folder / "validation" / "step-000004")
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"status": "running"}))
    first = (folder / "validation" / "step-000000" / "images" / "000.png").stat().st_mtime_ns
    invoke(*RUN, *SHOWN, "2", "--output", str(folder), "--resume-from-checkpoint", "latest")
    assert unet(folder) == unet(plain)
    assert [row(folder, step) for step in (0, 2, 4)] == [row(shown, step) for step in (0, 2, 4)]
    again = (folder / "validation" / "step-000000" / "images" / "000.png").stat().st_mtime_ns
    assert again == first
    sheet = (folder / "validation" / "sheet.png").read_bytes()
    assert sheet == (shown / "validation" / "sheet.png").read_bytes()


def test_prompts_from_text_and_from_a_file(tmp_path: Path) -> None:
    assert validation_prompts(ConceptConfig()) == ()
    assert validation_prompts(ConceptConfig(validation_prompts="a; b c ;")) == ("a", "b c")
    (tmp_path / "prompts.txt").write_text("one\ntwo; three\n")
    config = ConceptConfig(validation_prompts=str(tmp_path / "prompts.txt"))
    assert validation_prompts(config) == ("one", "two; three")
    with pytest.raises(InputError, match="is empty"):
        validation_prompts(ConceptConfig(validation_prompts=" ; "))
    with pytest.raises(InputError, match="without --validation-prompts"):
        validation_prompts(ConceptConfig(validation_steps=5))


def test_a_long_prompt_stays_in_its_column(tmp_path: Path) -> None:
    def draw(prompts: list[str]) -> Any:
        folder = tmp_path / str(len(prompts[0]))
        images = folder / "step-000000" / "images"
        images.mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (64, 32)).save(images / f"{index:03d}.png")
        return np.asarray(Image.open(contact_sheet(folder, prompts)).convert("L"))

    long = draw(["word " * 60, ""])
    second = LABEL + 256 + HEADED_GAP
    assert long.shape == (HEADER + 128 + HEADED_GAP, second + 256 + HEADED_GAP)
    assert long[:HEADER, :second].min() < 100
    assert long[:HEADER, second:].min() == 255
