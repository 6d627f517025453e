"""Single-file checkpoints as `--model`: told apart, unpacked once, refused with a reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from erase.config.concept import ConceptConfig
from erase.errors import InputError
from erase.export.export import export
from erase.models.file_layout import KINDS
from erase.models.loading import load_pipeline, resolve, save_pipeline
from erase.training.plan import plan
from tests.test_export import as_run, build, parts

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(family, its checkpoint, a folder with its configurations)."""
    folder = tmp_path_factory.mktemp(request.param)
    save_pipeline(build(request.param), folder / "base", torch.float32)
    run = as_run(build(request.param), folder / "run", folder / "base")
    written = export(run, folder / "model.safetensors", kind="single-file", dtype="fp32")
    return request.param, written.path, folder / "base"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_it_is_unpacked_once_to_the_very_weights(world: Any) -> None:
    family, file, base = world
    source = resolve(str(file), config_from=str(base))
    assert source.pipeline_class() == KINDS[family].pipeline
    assert source.name == str(file)
    loaded, expected = load_pipeline(source), build(family)
    assert loaded.scheduler.config.prediction_type == expected.scheduler.config.prediction_type
    for name, part in parts(expected).items():
        found = getattr(loaded, name).state_dict()
        for key, tensor in part.state_dict().items():
            assert torch.equal(found[key], tensor), f"{name}.{key}"
    weights = next(source.path.glob("unet/*.safetensors"))
    before = weights.stat().st_mtime_ns
    again = resolve(str(file))  # needs no configuration any more
    assert (again.path, weights.stat().st_mtime_ns) == (source.path, before)


def test_without_configurations_it_says_which_and_how(world: Any) -> None:
    family, file, _ = world
    with pytest.raises(InputError, match=KINDS[family].title) as refused:
        resolve(str(file))
    assert "--config-from FOLDER" in refused.value.remedy
    assert KINDS[family].hub_id in refused.value.remedy


def test_a_plan_is_made_of_it(world: Any) -> None:
    family, file, base = world
    config = ConceptConfig(model=str(file), config_from=str(base), concept=("cat",))
    made = plan(config)
    assert made.family.title.startswith(KINDS[family].title[:16])
    assert made.config.resolution == made.source.resolution() == 64


def test_finetunes_that_say_they_predict_v(world: Any, tmp_path: Path) -> None:
    family, file, base = world
    marked = tmp_path / "marked.safetensors"
    # ComfyUI and `erase export` write them empty, others with a value.
    marks = {"v_pred": torch.empty(0), "ztsnr": torch.ones(1)}
    save_file(load_file(file) | marks, marked)
    scheduler = load_pipeline(resolve(str(marked), config_from=str(base))).scheduler
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.rescale_betas_zero_snr
    if family == "sdxl":
        assert isinstance(scheduler, EulerDiscreteScheduler)


@pytest.mark.fault("damaged single file")
def test_a_text_encoder_with_a_tensor_missing_is_refused(world: Any, tmp_path: Path) -> None:
    _, file, base = world
    content = load_file(file)
    name = next(n for n in content if "final_layer_norm.bias" in n or "ln_final.bias" in n)
    del content[name]
    save_file(content, tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match=r"lacks cond.*(final_layer_norm|ln_final).bias"):
        resolve(str(tmp_path / "cut.safetensors"), config_from=str(base))
    assert not list((tmp_path / "cache").glob("unpacked/*"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    def stored(name: str, **tensors: list[int]) -> str:
        path = tmp_path / name
        save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, path)
        return str(path)

    unet = "model.diffusion_model.input_blocks.0.0.weight"
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"x")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    cases = {
        str(pickle): "can run code",
        str(broken): "not a readable safetensors file",
        stored("lora.safetensors", **{"lora_unet_x.lora_down.weight": [4, 4]}): "holds no UNet",
        stored("inpaint.safetensors", **{unet: [8, 9, 3, 3]}): "takes 9 channels",
        stored("unet.safetensors", **{unet: [8, 4, 3, 3]}): "holds no VAE",
        str(tmp_path / "missing.safetensors"): "There is no file",
    }
    for model, said in cases.items():
        with pytest.raises(InputError, match=said):
            resolve(model)


def test_configurations_of_another_architecture_are_refused(world: Any, tmp_path: Path) -> None:
    family, file, _ = world
    save_pipeline(build("sdxl" if family == "sd1" else "sd1"), tmp_path / "other", torch.float32)
    with pytest.raises(InputError, match="does not fit"):
        resolve(str(file), config_from=str(tmp_path / "other"))
    with pytest.raises(InputError, match="not a diffusers folder"):
        resolve(str(file), config_from=str(tmp_path))
