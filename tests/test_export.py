"""`erase export`: single files that diffusers reads back bit for bit, LoRAs, differences."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from erase.cli.main import main
from erase.errors import InputError
from erase.export.delta import low_rank
from erase.export.export import FORMATS, export
from erase.files import write_json
from erase.models.loading import ModelSource, load_pipeline, save_pipeline
from erase.models.lora import add_lora, fuse_lora, lora_weights, save_lora
from tests import tiny_pipelines

FOUR = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "layers_per_block": 2,
}
THREE = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
}


def shaken(module: torch.nn.Module, seed: int) -> None:
    """Give every weight a value of its own: zeros and ones would hide a mix-up."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=source))


def build(family: str) -> Any:
    """A pipeline with the family's real topology, a few channels wide."""
    torch.manual_seed(0)
    if family == "sdxl":
        pipeline = tiny_pipelines.sdxl()
        text = tiny_pipelines.text_config(pipeline.tokenizer)
        text.update({"hidden_size": 24, "projection_dim": 12})  # the two are told apart by width
        pipeline.text_encoder_2 = CLIPTextModelWithProjection(text)
        pipeline.unet = tiny_pipelines.unet(
            **THREE,
            cross_attention_dim=tiny_pipelines.WIDTH + 24,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2, 3),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 12,
        )
    else:
        pipeline = tiny_pipelines.sd("v_prediction" if family == "sd2" else "epsilon")
        pipeline.unet = tiny_pipelines.unet(**FOUR, use_linear_projection=family == "sd2")
    pipeline.vae = type(pipeline.vae)(
        sample_size=32,
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=4,
    )
    for index, part in enumerate(parts(pipeline).values()):
        shaken(part, index)
    return pipeline


def parts(pipeline: Any) -> dict[str, torch.nn.Module]:
    return {n: p for n, p in pipeline.components.items() if isinstance(p, torch.nn.Module)}


def as_run(pipeline: Any, folder: Path, base: Path) -> Path:
    """A finished run's folder, as far as an export asks for it."""
    save_pipeline(pipeline, folder, torch.float32)
    source = ModelSource(str(base), base)
    record = {
        "status": "finished",
        "finished": "2026-01-01T00:00:00+00:00",
        "kind": "concept",
        "method": "lur",
        "base_model": str(base),
        "base_revision": None,
        "base_fingerprint": source.fingerprint(),
        "target": {"suite": None, "concepts": ["red car"]},
    }
    write_json(folder / "record.json", record)
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n# a card\n")
    return folder


def changed_run(family: str, folder: Path) -> tuple[str, Path, Path]:
    """(family, the run's folder, the base's folder); the run changed the whole UNet."""
    pipeline = build(family)
    save_pipeline(pipeline, folder / "base", torch.float32)
    shaken(pipeline.unet, 99)
    return family, as_run(pipeline, folder / "run", folder / "base"), folder / "base"


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return changed_run(request.param, tmp_path_factory.mktemp(request.param))


def read_back(family: str, file: Path, config: Path) -> Any:
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    more: dict[str, Any] = {} if family == "sdxl" else {"safety_checker": None}
    return kind.from_single_file(str(file), config=str(config), local_files_only=True, **more)


def test_a_single_file_comes_back_bit_for_bit(world: Any, tmp_path: Path) -> None:
    family, run, _ = world
    written = export(run, tmp_path / "model.safetensors", kind="single-file", dtype="fp32")
    expected = load_pipeline(ModelSource(str(run), run))
    found = read_back(family, written.path, run)
    assert set(parts(found)) >= {"unet", "vae", "text_encoder"}
    for name, part in parts(expected).items():
        want, got = part.state_dict(), getattr(found, name).state_dict()
        assert set(want) == set(got), name
        for key in want:
            assert torch.equal(want[key], got[key]), f"{name}.{key}"


def test_half_precision_is_the_nearest_half(world: Any, tmp_path: Path) -> None:
    _, run, _ = world
    full = export(run, tmp_path / "full.safetensors", kind="single-file", dtype="fp32")
    half = export(run, tmp_path / "half.safetensors", kind="single-file")
    wide, narrow = load_file(full.path), load_file(half.path)
    assert half.bytes < 0.6 * full.bytes
    for key, tensor in wide.items():
        floating = tensor.is_floating_point()
        assert torch.equal(narrow[key], tensor.half() if floating else tensor), key


def test_the_layouts_have_their_own_names(world: Any, tmp_path: Path) -> None:
    family, run, _ = world
    path = export(run, tmp_path / "model.safetensors", kind="single-file").path
    names = set(load_file(path))
    marks = {
        "sd1": {"cond_stage_model.transformer.text_model.embeddings.position_ids"},
        "sd2": {"cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"},
        "sdxl": {
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
            "conditioner.embedders.1.model.text_projection",
            "model.diffusion_model.label_emb.0.2.weight",
        },
    }
    assert marks[family] <= names
    assert "first_stage_model.encoder.mid.attn_1.q.weight" in names
    assert "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight" in names


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def content_hash(path: Path) -> str:
    content = path.read_bytes()
    return "0x" + sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def test_the_header_says_what_it_is(world: Any, tmp_path: Path) -> None:
    family, run, base = world
    architecture = {
        "sd1": "stable-diffusion-v1",
        "sd2": "stable-diffusion-v2-768-v",
        "sdxl": "stable-diffusion-xl-v1-base",
    }[family]
    for kind in FORMATS:
        path = export(run, tmp_path / f"{kind}.safetensors", kind=kind, rank=None).path
        header = header_of(path)
        assert header["erase.erased"] == "red car"
        assert header["erase.method"] == "lur"
        assert header["erase.base"] == "base"
        assert header["erase.base_fingerprint"] == ModelSource("", base).fingerprint()
        assert str(tmp_path.parent) not in json.dumps(header)  # no path of this machine
        assert header["modelspec.title"].startswith("base without red car")
        end = {"lora": "/lora", "diff": "/lora", "vae": "/vae"}.get(kind, "")
        assert header["modelspec.architecture"] == architecture + end
        diffusers_names = kind in ("lora", "diff") and family != "sdxl"
        assert (header["modelspec.implementation"] == "diffusers") is diffusers_names
        assert (header["modelspec.prediction_type"] == "v") is (family == "sd2")
        assert header["modelspec.hash_sha256"] == content_hash(path)
        assert header["modelspec.license"] == "openrail++"  # the card's
        adds = kind in ("lora", "diff")  # these A1111 sorts by what kohya's scripts write
        sdxl = header.get("ss_base_model_version", "").startswith("sdxl_")
        assert sdxl is (adds and family == "sdxl")
        assert (header.get("ss_v2") == "True") is (adds and family == "sd2")
        assert isinstance(json.loads(header["ss_network_args"]), dict) if adds else True
    again = export(run, tmp_path / "again.safetensors", kind="lora").path
    assert again.read_bytes() == (tmp_path / "lora.safetensors").read_bytes()


def unet_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_the_difference_added_to_the_base_is_the_run(world: Any, tmp_path: Path) -> None:
    family, run, base = world
    change = load_file(export(run, tmp_path / "d.safetensors", kind="diff").path)
    assert sum(name.endswith((".diff", ".w_norm")) for name in change) > 50
    if family != "sdxl":  # A1111 knows this layer by its original name alone
        for end in ("w_norm", "b_norm"):
            again = change.pop(f"lora_unet_out_0.{end}")
            assert torch.equal(again, change[f"lora_unet_conv_norm_out.{end}"])
    before, after = unet_of(base), unet_of(run)
    total = sum(float((after[k] - before[k]).double().square().sum()) for k in after)
    assert sum(float(t.double().square().sum()) for t in change.values()) == pytest.approx(total)
    if family == "sdxl":
        key, name = "lora_unet_input_blocks_4_1_proj_in", "down_blocks.1.attentions.0.proj_in"
    else:
        key = "lora_unet_down_blocks_1_attentions_0_proj_in"
        name = "down_blocks.1.attentions.0.proj_in"
    added = before[f"{name}.weight"] + change[f"{key}.diff"]
    assert torch.allclose(added, after[f"{name}.weight"], atol=1e-7)
    bias = before[f"{name}.bias"] + change[f"{key}.diff_b"]
    assert torch.allclose(bias, after[f"{name}.bias"], atol=1e-7)


def noise(pipeline: Any, family: str) -> Tensor:
    """What the UNet says to a fixed input."""
    source = torch.Generator().manual_seed(5)
    width = pipeline.unet.config.cross_attention_dim
    more: dict[str, Any] = {}
    if family == "sdxl":
        pooled = torch.randn(1, 12, generator=source)
        times = torch.ones(1, 6)
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": times}
    x = torch.randn(1, 4, 16, 16, generator=source)
    states = torch.randn(1, 5, width, generator=source)
    with torch.no_grad():
        result: Tensor = pipeline.unet.eval()(x, torch.tensor([40]), states, **more).sample
    return result


@pytest.mark.parametrize("spec", ["full", "xattn"])
def test_a_trained_adapter_in_kohyas_names_acts_the_same(
    world: Any, tmp_path: Path, spec: str
) -> None:
    family, _, base = world
    pipeline = load_pipeline(ModelSource(str(base), base))
    add_lora(pipeline.unet, spec, rank=2, alpha=4.0)
    with torch.no_grad():
        for name, p in pipeline.unet.named_parameters():
            if ".lora_B" in name:
                p.normal_(std=0.1)
    adapters = lora_weights(pipeline.unet)
    fuse_lora(pipeline.unet)
    run = as_run(pipeline, tmp_path / "run", base)
    save_lora(run / "lora", adapters, {})
    wanted = noise(pipeline, family)
    file = export(run, tmp_path / "adapter.safetensors", kind="lora", dtype="fp32").path
    for place in (run / "lora", file):
        fresh = load_pipeline(ModelSource(str(base), base))
        before = noise(fresh, family)
        fresh.load_lora_weights(str(place))
        assert (before - wanted).abs().max() > 1e-2
        assert (noise(fresh, family) - wanted).abs().max() < 1e-4, place
    names = list(load_file(file))
    assert all(name.startswith("lora_unet_") for name in names)
    assert any(("input_blocks" in name) is (family == "sdxl") for name in names)


def test_a_lora_of_full_rank_holds_the_whole_change(world: Any, tmp_path: Path) -> None:
    """Only what it cannot hold, biases and norms, is missing; a lower rank loses more."""
    _, run, base = world
    whole = export(run, tmp_path / "whole.safetensors", kind="lora", dtype="fp32", rank=1000)
    part = export(run, tmp_path / "part.safetensors", kind="lora", dtype="fp32", rank=1)
    assert max(whole.residuals.values()) < 1e-5
    before, after = unet_of(base), unet_of(run)
    held = {f"{layer}.weight" for layer in whole.residuals}
    squares = {k: float((after[k] - before[k]).double().square().sum()) for k in after}
    missing = sum(v for k, v in squares.items() if k not in held) / sum(squares.values())
    assert whole.residual == pytest.approx(missing**0.5, rel=1e-3)
    assert part.residual is not None
    assert whole.residual is not None
    assert part.residual > 2 * whole.residual
    with safe_open(part.path, framework="pt") as file:
        stated = json.loads(file.metadata()["erase.residuals"])
    assert stated == pytest.approx(part.residuals, rel=1e-3)


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (10, 6, 3, 3), (600, 700)])
def test_the_product_is_the_best_of_its_rank(shape: tuple[int, ...]) -> None:
    """Against the singular values (Eckart and Young), the randomised form included."""
    source = torch.Generator().manual_seed(0)
    rows, columns = shape[0], int(torch.tensor(shape[1:]).prod())
    left = torch.randn(rows, min(rows, columns), generator=source)
    decay = 0.8 ** torch.arange(min(rows, columns))
    change = ((left * decay) @ torch.randn(len(decay), columns, generator=source)).reshape(shape)
    down, up = low_rank(change, 4)
    assert down.shape == (4, *shape[1:])
    rest = change.flatten(1) - up.flatten(1) @ down.flatten(1)
    values = torch.linalg.svdvals(change.flatten(1))
    assert float(rest.norm()) == pytest.approx(float(values[4:].norm()), rel=1e-3)


def test_what_cannot_be_exported_is_refused(world: Any, tmp_path: Path) -> None:
    _, run, base = world
    file = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="holds no finished diffusion run"):
        export(base, file, kind="single-file")
    with pytest.raises(InputError, match="does not end in"):
        export(run, tmp_path / "x.ckpt", kind="single-file")
    with pytest.raises(InputError, match="--rank is for"):
        export(run, file, kind="diff", rank=4)
    with pytest.raises(InputError, match="--rank is 0"):
        export(run, file, kind="lora", rank=0)
    with pytest.raises(InputError, match="not the base that the run started from"):
        export(run, file, kind="diff", base=str(run))
    with pytest.raises(InputError, match="fp8 is for the weights of a UNet"):
        export(run, file, kind="lora", dtype="fp8")
    with pytest.raises(InputError, match="--common-layers is for"):
        export(run, file, kind="unet", common_layers=True)
    with pytest.raises(InputError, match="base model is needed"):
        export(run, file, kind="lora", base=str(tmp_path / "gone"))
    assert not file.exists()
    file.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        export(run, file, kind="diff")
    assert file.read_text() == "mine"


def test_a_family_without_such_a_layout_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_pipelines.ddpm()
    run = as_run(pipeline, tmp_path / "run", tmp_path / "run")
    with pytest.raises(InputError, match="ClassConditionalPipeline"):
        export(run, tmp_path / "x.safetensors", kind="single-file")


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    run = as_run(tiny_pipelines.sd(), tmp_path / "run", tmp_path / "run")
    record = json.loads((run / "record.json").read_text()) | {"status": "running"}
    write_json(run / "record.json", record)
    with pytest.raises(InputError, match="not finished"):
        export(run, tmp_path / "x.safetensors", kind="diff")


def test_the_command_writes_and_reports(world: Any, tmp_path: Path) -> None:
    _, run, _ = world
    file = tmp_path / "lora.safetensors"
    result = CliRunner().invoke(
        main, ["export", str(run), "--format", "lora", "--rank", "2", "--output", str(file)]
    )
    assert result.exit_code == 0, result.output
    assert file.is_file()
    assert "leaves out" in result.output
    shown = CliRunner().invoke(
        main, ["export", str(run), "--format", "diff", "--output", str(file)]
    )
    assert shown.exit_code == 2
    assert "exists" in shown.output
