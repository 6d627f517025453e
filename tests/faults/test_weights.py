"""Weights that are not finite as they would be stored: no saver writes them, nothing is lost."""

from pathlib import Path

import pytest
import torch

from erase.errors import RunError
from erase.files import read_json
from erase.judges.digit_classifier import DigitClassifier
from erase.models.classifiers import WEIGHTS, build, save_classifier
from erase.models.loading import save_pipeline
from erase.models.lora import save_lora
from erase.models.weights import write_weights
from tests import classifier_world, tiny_pipelines
from tests.faults.damage import concept

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.fault("weights that are not finite")
@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (7e4, torch.float16, r"b is not finite in float16 \(up to 7e\+04\)"),
        (float("inf"), torch.float16, "b is not finite"),
        (float("nan"), None, "b is not finite"),
    ],
)
def test_a_file_of_weights_is_not_written(
    tmp_path: Path, value: float, dtype: torch.dtype | None, said: str
) -> None:
    tensors = {"a": torch.ones(2), "b": torch.tensor([0.0, value])}
    with pytest.raises(RunError, match=said):
        write_weights(tmp_path / "x.safetensors", tensors, {}, dtype)
    assert not list(tmp_path.iterdir())
    write_weights(tmp_path / "x.safetensors", {"b": torch.tensor([7e4])}, {}, torch.bfloat16)


@pytest.mark.fault("weights that are not finite")
def test_a_pipeline_is_not_written(tmp_path: Path) -> None:
    pipeline = tiny_pipelines.sd()
    with torch.no_grad():
        pipeline.vae.decoder.conv_in.weight[0, 0, 0, 0] = -1e6
    with pytest.raises(RunError, match=r"vae: decoder\.conv_in\.weight is not finite in float16"):
        save_pipeline(pipeline, tmp_path / "out", torch.float16)
    assert not (tmp_path / "out").exists()
    save_pipeline(pipeline, tmp_path / "out", torch.float32)


@pytest.mark.fault("weights that are not finite")
def test_classifiers_and_adapters_are_not_written(tmp_path: Path) -> None:
    description = classifier_world.original().description
    model = build(description)
    save_classifier(tmp_path / "c", model, description)
    before = (tmp_path / "c" / WEIGHTS).read_bytes()
    with torch.no_grad():
        model.net.get_parameter("fc.bias")[0] = torch.nan
    with pytest.raises(RunError, match=r"net\.fc\.bias is not finite"):
        save_classifier(tmp_path / "c", model, description)
    assert (tmp_path / "c" / WEIGHTS).read_bytes() == before
    digits = DigitClassifier()
    with torch.no_grad():
        next(digits.parameters()).fill_(1e6)
    with pytest.raises(RunError, match="is not finite in float16"):
        digits.save(tmp_path / "d")
    adapter = {"conv": (torch.ones(1, 2), torch.full((2, 1), torch.inf))}
    with pytest.raises(RunError, match=r"unet\.conv\.lora_B\.weight is not finite"):
        save_lora(tmp_path / "lora", adapter, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


@pytest.mark.slow
@pytest.mark.fault("weights that are not finite")
def test_a_run_that_overflows_in_fp16_is_saved_in_fp32_without_training_again(
    tmp_path: Path,
) -> None:
    changes = {"max_train_steps": 1, "checkpointing_steps": 0, "learning_rate": 1e5}
    given = {**changes, "lr_scheduler": "constant", "save_dtype": "fp16"}
    result = concept(tmp_path / "run", **given)
    assert result.exit_code == 1, result.output
    assert "is not finite in float16" in result.output
    assert "--save-dtype fp32 --resume-from-checkpoint latest" in result.output
    assert not (tmp_path / "run" / "unet").exists()
    record = read_json(tmp_path / "run" / "record.json")
    assert (record["status"], record["error"][:5]) == ("failed", "unet:")
    resume = ("--resume-from-checkpoint", "latest")
    result = concept(tmp_path / "run", *resume, **given | {"save_dtype": "fp32"})
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / UNET).is_file()
