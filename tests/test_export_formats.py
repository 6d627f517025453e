"""What other programs ask of an export: parts alone, narrow types, marks, whole layers, notes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from erase.cli.main import main
from erase.export.export import export
from erase.files import read_json, write_json
from erase.models.loading import ModelSource, load_pipeline
from tests.test_export import as_run, changed_run, parts, read_back


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return changed_run(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize(("world", "dtype"), [("sd1", "bf16"), ("sdxl", "fp8")], indirect=["world"])
def test_narrow_weights_come_back_as_they_were_rounded(
    world: Any, tmp_path: Path, dtype: str
) -> None:
    """fp8 narrows the UNet's matrices alone; diffusers reads both back without another loss."""
    family, run, _ = world
    written = export(run, tmp_path / "narrow.safetensors", kind="single-file", dtype=dtype)
    found = read_back(family, written.path, run)
    for name, part in parts(load_pipeline(ModelSource(str(run), run))).items():
        got = getattr(found, name).state_dict()
        for key, tensor in part.state_dict().items():
            narrow = torch.float8_e4m3fn if name == "unet" and tensor.ndim > 1 else torch.float16
            kind = torch.bfloat16 if dtype == "bf16" else narrow
            wanted = tensor.to(kind).float() if tensor.is_floating_point() else tensor
            assert torch.equal(got[key], wanted), f"{name}.{key}"


def test_a_unet_and_a_vae_alone_come_back_bit_for_bit(world: Any, tmp_path: Path) -> None:
    _, run, _ = world
    expected = load_pipeline(ModelSource(str(run), run))
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        path = export(run, tmp_path / f"{part}.safetensors", kind=part, dtype="fp32").path
        found = kind.from_single_file(
            str(path), config=str(run), subfolder=part, local_files_only=True
        )
        want, got = getattr(expected, part).state_dict(), found.state_dict()
        assert set(want) == set(got)
        assert all(torch.equal(want[key], got[key]) for key in want), part
        names = set(load_file(path))
        prefix = "model.diffusion_model." if part == "unet" else ("encoder.", "decoder.")
        marks = {"v_pred", "ztsnr", "quant_conv", "post_quant_conv"}
        assert all(n.startswith(prefix) or n.partition(".")[0] in marks for n in names)


@pytest.mark.parametrize(
    ("changes", "marks"),
    [
        ({"prediction_type": "v_prediction"}, {"v_pred"}),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {"v_pred", "ztsnr"}),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, set()),
    ],
)
def test_a_v_prediction_marks_its_files(
    world: Any, tmp_path: Path, changes: dict[str, Any], marks: set[str]
) -> None:
    """ComfyUI looks for empty tensors of these names, in a UNet alone behind its prefix."""
    _, run, _ = world
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "scheduler" / "scheduler_config.json"
    write_json(path, read_json(path) | changes)
    for kind in ("single-file", "unet"):
        tensors = load_file(export(copy, tmp_path / f"{kind}.safetensors", kind=kind).path)
        found = {name for name in tensors if name in ("v_pred", "ztsnr")}
        assert found == marks
        assert all(len(tensors[name]) == 0 for name in found)
        behind = {f"model.diffusion_model.{name}" for name in marks if kind == "unet"}
        assert behind == {name for name in tensors if name.endswith(("v_pred", "ztsnr"))} - found


def test_a_bias_that_changed_alone_has_a_weight_beside_it(world: Any, tmp_path: Path) -> None:
    """Clients look for a layer's weight first: a bias alone is dropped, or the file refused."""
    family, _, base = world
    pipeline = load_pipeline(ModelSource(str(base), base))
    biases = {
        name: p
        for name, p in pipeline.unet.named_parameters()
        if name.endswith(("proj_in.bias", "norm1.bias", "conv_norm_out.bias"))
    }
    with torch.no_grad():
        for p in biases.values():
            p.add_(0.5)
    run = as_run(pipeline, tmp_path / "run", base)
    change = load_file(export(run, tmp_path / "d.safetensors", kind="diff").path)
    weights = {n: t for n, t in change.items() if n.endswith((".diff", ".w_norm"))}
    assert len(weights) == len(biases) + (family != "sdxl")
    assert len(change) == 2 * len(weights)
    assert not any(tensor.any() for tensor in weights.values())
    shapes = {tuple(t.shape) for n, t in weights.items() if n.endswith(".diff")}
    assert shapes == {
        tuple(p.shape) for n, p in pipeline.unet.named_parameters() if n.endswith("proj_in.weight")
    }


def test_layers_that_not_every_client_knows_are_named_or_left_out(
    world: Any, tmp_path: Path
) -> None:
    family, run, _ = world
    file = tmp_path / "all.safetensors"
    whole = export(run, file, kind="lora", rank=2)
    common = export(run, tmp_path / "few.safetensors", kind="lora", rank=2, common_layers=True)
    gone = {name.partition(".")[0] for name in {*load_file(file)} - {*load_file(common.path)}}
    outside = {"conv_in", "conv_out", "time_embedding_linear_1", "time_embedding_linear_2"}
    if family == "sdxl":
        outside = {"input_blocks_0_0", "out_2", "time_embed_0", "time_embed_2"}
        outside |= {"label_emb_0_0", "label_emb_0_2"}
    assert gone == {f"lora_unet_{name}" for name in outside}
    assert any("--common-layers" in note and "conv_out" in note for note in whole.notes)
    assert not any("--common-layers" in note for note in common.notes)
    assert whole.residual is not None
    assert common.residual is not None
    assert common.residual > whole.residual


def test_it_says_that_no_other_program_knows_a_model_of_this_size(
    world: Any, tmp_path: Path
) -> None:
    _, run, _ = world
    result = CliRunner().invoke(
        main, ["export", str(run), "--format", "vae", "--output", str(tmp_path / "v.SafeTensors")]
    )
    assert result.exit_code == 0, result.output
    assert "Note: A1111, ComfyUI and others know only the sizes of the released" in result.output
