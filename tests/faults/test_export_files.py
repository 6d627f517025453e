"""Single files that are cut or of another kind, weights beyond a precision, pipes that close."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

from erase.cli.main import main
from erase.errors import InputError
from erase.export.export import export
from erase.files import read_json, write_json
from erase.models.loading import resolve, save_pipeline
from erase.training.plan import ConceptPlan
from erase.training.sizes import disk_space
from tests.test_export import as_run, build

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
Tensors = dict[str, Tensor]


MADE: dict[str, tuple[str, Path, Tensors]] = {}


@pytest.fixture(scope="module", params=["sd1"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(family, a finished run, the tensors of its checkpoint)."""
    family = request.param
    if family not in MADE:
        folder = tmp_path_factory.mktemp(family)
        save_pipeline(build(family), folder / "base", torch.float32)
        run = as_run(build(family), folder / "run", folder / "base")
        written = export(run, folder / "model.safetensors", kind="single-file", dtype="fp32")
        MADE[family] = family, run, load_file(written.path)
    return MADE[family]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def refusal(path: Path, configs: Path) -> str:
    with pytest.raises(InputError) as refused:
        resolve(str(path), config_from=str(configs))
    assert "\n" not in refused.value.message
    assert refused.value.remedy
    return refused.value.message


def text_prefix(family: str) -> str:
    return {
        "sd1": "cond_stage_model.transformer.",
        "sd2": "cond_stage_model.model.",
        "sdxl": "conditioner.embedders.1.model.",
    }[family]


@pytest.mark.fault("single file with a tensor missing or of another shape")
@pytest.mark.parametrize(
    ("world", "part", "harm"),
    [
        *(("sd1", part, harm) for part in ("unet", "vae", "text") for harm in ("lacks", "shape")),
        *(("sd2", part, "lacks") for part in ("unet", "text")),
        *(("sdxl", part, "lacks") for part in ("unet", "text")),
    ],
    indirect=["world"],
)
def test_a_tensor_that_is_missing_or_does_not_fit_is_named(
    world: Any, tmp_path: Path, cache: Path, part: str, harm: str
) -> None:
    family, run, tensors = world
    prefix = {"unet": UNET, "vae": VAE, "text": text_prefix(family)}[part]
    name = [n for n in sorted(tensors) if n.startswith(prefix) and tensors[n].ndim > 1][-1]
    broken = dict(tensors)
    if harm == "lacks":
        del broken[name]
    else:
        broken[name] = torch.zeros(3, 5)
    save_file(broken, tmp_path / "broken.safetensors")
    message = refusal(tmp_path / "broken.safetensors", run)
    assert name in message
    assert ("it lacks" in message) is (harm == "lacks")
    assert not list(cache.glob("unpacked/*"))


def without(*prefixes: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(prefixes)}


def only(prefix: str, new: str = "") -> Callable[[Tensors], Tensors]:
    return lambda ts: {n.replace(prefix, new, 1): t for n, t in ts.items() if n.startswith(prefix)}


def plus(**more: Any) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name.replace("__", "."): t for name, t in more.items()}


one = torch.ones(1)
UNKNOWN: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "nothing": (lambda _: {}, "no tensors at all"),
    "LoRA": (lambda _: {"lora_unet_conv_in.lora_down.weight": one}, "is of a LoRA"),
    "peft LoRA": (lambda _: {"unet.conv_in.lora_A.weight": one}, "is of a LoRA"),
    "LyCORIS": (lambda _: {"lora_unet_conv_in.diff": one}, "is of a LoRA"),
    "Flux": (lambda _: {f"{UNET}double_blocks.0.img_attn.qkv.weight": one}, "is of Flux"),
    "SD3": (lambda _: {f"{UNET}joint_blocks.0.x_block.mlp.fc1.weight": one}, "Diffusion 3"),
    "ControlNet": (lambda _: {"control_model.zero_convs.0.0.weight": one}, "is of a ControlNet"),
    "UNet without prefix": (only(UNET), "is of a UNet alone"),
    "VAE alone": (only(VAE), "is of a VAE alone"),
    "text encoder": (lambda _: {"text_model.final_layer_norm.bias": one}, "a text encoder alone"),
    "diffusers part": (lambda _: {"down_blocks.0.resnets.0.conv1.bias": one}, "diffusers folder"),
    "textual inversion": (lambda _: {"emb_params": one}, "a textual inversion"),
    "something else": (lambda _: {"layers.0.mlp.weight": one}, "is layers.0.mlp.weight"),
    "no UNet": (without(UNET), f"no {CONV_IN}"),
    "no VAE": (without(VAE), f"no name begins with {VAE}decoder."),
    "no text encoder": (without("cond"), "no text encoder that is known"),
    "inpainting": (plus(**{CONV_IN: torch.zeros(8, 9, 3, 3)}), "takes 9 channels"),
    "conv_in of no shape": (plus(**{CONV_IN: one}), "(1,)"),
    "CosXL": (plus(edm_vpred__sigma_max=one), "holds edm_vpred.sigma_max"),
    "Playground": (plus(edm_mean=one, edm_std=torch.zeros(1)), "holds edm_mean"),
    "scaled fp8": (plus(**{f"{UNET}out.2.scale_weight": one}), "out.2.scale_weight"),
    "int8": (plus(**{CONV_IN: torch.zeros(8, 4, 3, 3, dtype=torch.int8)}), f"{CONV_IN} (I8)"),
    "motion module": (plus(**{f"{UNET}middle_block.9.weight": one}), "middle_block.9.weight"),
}


@pytest.mark.fault("single file of an unknown layout")
@pytest.mark.parametrize("case", UNKNOWN)
def test_a_layout_that_is_not_known_is_named(world: Any, tmp_path: Path, case: str) -> None:
    _, run, tensors = world
    change, said = UNKNOWN[case]
    save_file(change(tensors), tmp_path / "file.safetensors")
    assert said in refusal(tmp_path / "file.safetensors", run)


@pytest.mark.fault("single file of an unknown layout")
@pytest.mark.parametrize("world", ["sd2", "sdxl"], indirect=True)
def test_a_model_that_takes_images_too_is_refused(world: Any, tmp_path: Path) -> None:
    family, run, tensors = world
    if family == "sdxl":  # its label embedding takes sizes; the second text encoder is missing
        changed = without("conditioner.embedders.1.")(tensors)
    else:
        changed = tensors | {f"{UNET}label_emb.0.0.weight": one}
    save_file(changed, tmp_path / "file.safetensors")
    message = refusal(tmp_path / "file.safetensors", run)
    assert ("conditioner.embedders.0" if family == "sdxl" else "label_emb") in message


@pytest.mark.fault("single file cut or damaged")
@pytest.mark.parametrize("size", [0, 4, 200, -1000])
def test_a_cut_file_is_refused(world: Any, tmp_path: Path, size: int) -> None:
    _, run, tensors = world
    save_file(tensors, tmp_path / "file.safetensors")
    content = (tmp_path / "file.safetensors").read_bytes()
    (tmp_path / "file.safetensors").write_bytes(content[:size])
    assert "not a readable safetensors file" in refusal(tmp_path / "file.safetensors", run)


def test_the_ending_may_be_in_capitals(world: Any, tmp_path: Path) -> None:
    _, run, tensors = world
    save_file(tensors, tmp_path / "MODEL.SafeTensors")
    source = resolve(str(tmp_path / "MODEL.SafeTensors"), config_from=str(run))
    assert load_file(source.path / "unet" / "diffusion_pytorch_model.safetensors")
    assert "/" not in read_json(source.path / "model_index.json").get("_name_or_path", "")
    for config in source.path.glob("*/config.json"):
        assert str(tmp_path) not in config.read_text()


def test_a_dry_run_unpacks_nothing(
    world: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And knows the model's size, also where the configurations lie beside no weights."""
    _, run, tensors = world
    save_file(tensors, tmp_path / "model.safetensors")
    configs = tmp_path / "configs"
    shutil.copytree(run, configs, ignore=shutil.ignore_patterns("*.safetensors"))
    sizes = []

    def model_bytes(planned: ConceptPlan, **_: Any) -> Any:
        sizes.append(disk_space(planned, 0)["model"])
        raise InputError("Memory is not", "simulated here.")

    monkeypatch.setattr("erase.training.estimate.estimate", model_bytes)
    for folder in (run, configs):
        command = ["concept", "--model", str(tmp_path / "model.safetensors"), "--dry-run"]
        more = ["--config-from", str(folder), "--concept", "cat", "--output", str(tmp_path / "out")]
        result = CliRunner().invoke(main, [*command, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert sizes[0] == sizes[1] > 10_000
    assert not list(cache.rglob("*.safetensors"))
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("weights beyond the chosen precision")
@pytest.mark.parametrize(
    ("value", "dtype", "kind"),
    [
        (1e6, "fp16", "single-file"),
        (500.0, "fp8", "unet"),
        (float("inf"), "fp32", "single-file"),
        (float("nan"), "bf16", "unet"),
    ],
)
def test_a_weight_that_cannot_be_stored_is_named(
    world: Any, tmp_path: Path, value: float, dtype: str, kind: str
) -> None:
    _, run, _ = world
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"][0, 0, 0, 0] = value
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"input_blocks\.0\.0\.weight holds"):
        export(copy, tmp_path / "x.safetensors", kind=kind, dtype=dtype)
    assert not (tmp_path / "x.safetensors").exists()


def test_a_model_that_predicts_the_sample_is_refused(world: Any, tmp_path: Path) -> None:
    _, run, _ = world
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "scheduler" / "scheduler_config.json"
    write_json(path, read_json(path) | {"prediction_type": "sample"})
    with pytest.raises(InputError, match="predicts the sample"):
        export(copy, tmp_path / "x.safetensors", kind="unet")


@contextlib.contextmanager
def closed_pipe() -> Iterator[Any]:
    """A stream into a pipe that nobody reads any more, as after `| head`."""
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as stream:  # noqa: PTH123
        yield stream
        with Path(os.devnull).open("w") as sink:  # where what it still holds can be written
            os.dup2(sink.fileno(), writes)


@pytest.mark.fault("output pipe closed")
@pytest.mark.parametrize("command", ["export", "fetch", "version"])
def test_a_closed_pipe_ends_a_command_without_a_word(
    world: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
) -> None:
    _, run, _ = world
    output = str(tmp_path / "out.safetensors")
    arguments = {
        "export": ["export", str(run), "--format", "vae", "--output", output],
        "fetch": ["fetch", "--dry-run", "--model", "sd-1.4"],
        "version": ["--version"],
    }[command]
    with closed_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            main(arguments, prog_name="erase")
        monkeypatch.undo()
    assert ended.value.code == 1
    assert capfd.readouterr().err == ""
