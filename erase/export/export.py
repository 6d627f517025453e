"""From a run's folder to the files that other tools open: one checkpoint, a LoRA, a difference.

The layouts are those that A1111 and ComfyUI read: the original Stable Diffusion names for a whole
model, kohya's names (`lora_unet_…`) for adapters, LyCORIS' full differences (`.diff`) for a delta.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.errors import InputError
from erase.export import original_layout as layout
from erase.files import read_json
from erase.models.loading import ModelSource, resolve
from erase.models.lora import FILE, FOLDER
from erase.models.modelspec import modelspec
from erase.models.weights import read_weights, write_weights
from erase.runs.record import RECORD

FORMATS = ("single-file", "lora", "diff")
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
DEFAULT_DTYPE = {"single-file": "fp16", "lora": "fp16", "diff": "fp32"}
DEFAULT_RANK = 16
EXACT_SVD = 512
"""Up to this many rows or columns the decomposition is exact; beyond, a randomised one."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    `residuals` has, for a LoRA taken from a difference, what each layer lost: ‖ΔW − BA‖ / ‖ΔW‖;
    `residual` is the same over all weights together, those that a LoRA cannot hold included.
    """

    path: Path
    tensors: int
    bytes: int
    residuals: Mapping[str, float] = field(default_factory=dict)
    residual: float | None = None


@dataclass(frozen=True)
class _Run:
    folder: Path
    record: Mapping[str, Any]
    family: str
    config: Mapping[str, Any]
    """Of the UNet."""

    def metadata(self, kind: str = "") -> dict[str, str]:
        source = ModelSource(str(self.folder), self.folder)
        scheduler = read_json(self.folder / "scheduler" / "scheduler_config.json")
        return modelspec(
            self.family,
            self.record,
            kind=kind,
            resolution=source.resolution(),
            prediction=str(scheduler.get("prediction_type", "epsilon")),
        )

    def layer(self, name: str) -> str:
        """Kohya's name of a UNet layer: diffusers' own for SD 1.x and 2.x, original for SDXL."""
        if self.family == "sdxl":
            name = layout.unet_name(name, layout.unet_blocks(self.config))
        return "lora_unet_" + name.replace(".", "_")


def export(
    run: Path,
    output: Path,
    *,
    kind: str,
    dtype: str | None = None,
    rank: int | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a finished run's model, adapter or difference as one safetensors file.

    Args:
        run: a run's folder.
        output: the file; its name ends in `.safetensors`.
        kind: one of `FORMATS`.
        dtype: `fp16` or `fp32`; default: fp32 for a difference, fp16 otherwise.
        rank: of a LoRA that is taken from the difference of a run that trained the weights
            themselves; default 16.
        base: where the base model lies now; default: what the run's record says.
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: no finished run, a family without such a layout, a base that is missing or not
            the one that the run started from, or an option that does not fit.
    """
    if kind not in FORMATS:
        raise InputError(f"--format is {kind!r}.", f"Possible: {', '.join(FORMATS)}.")
    dtype = dtype or DEFAULT_DTYPE[kind]
    if dtype not in DTYPES:
        raise InputError(f"--dtype is {dtype!r}.", f"Possible: {', '.join(DTYPES)}.")
    if output.suffix != ".safetensors":
        raise InputError(
            f"{output} does not end in .safetensors.", "Other formats are not written."
        )
    if output.is_dir() or (output.exists() and not overwrite):
        raise InputError(f"{output} exists.", "Give another --output, or --overwrite.")
    if rank is not None and kind != "lora":
        raise InputError("--rank is for --format lora.", "Leave it out.")
    opened = _open(run)
    residuals: dict[str, float] = {}
    residual = None
    if kind == "single-file":
        tensors, metadata = _single_file(opened), opened.metadata()
    elif kind == "diff":
        tensors, metadata = _difference_file(opened, base), opened.metadata("diff")
    else:
        metadata = opened.metadata("lora")
        if (run / FOLDER / FILE).is_file():
            if rank is not None:
                raise InputError(
                    "The run trained an adapter, whose rank is given.", "Leave --rank out."
                )
            tensors = _adapter_file(opened)
        else:
            tensors, residuals, residual = _extracted(
                opened, base, DEFAULT_RANK if rank is None else rank
            )
            metadata["erase.residual"] = f"{residual:.6g}"
            metadata["erase.residuals"] = json.dumps(
                {name: float(f"{value:.4g}") for name, value in residuals.items()}
            )
        metadata |= _network(tensors)
    write_weights(output, tensors, metadata, DTYPES[dtype])
    return Exported(output, len(tensors), output.stat().st_size, residuals, residual)


def _open(run: Path) -> _Run:
    remedy = "Give the --output folder of a finished erase concept or erase class run."
    record = read_json(run / RECORD) if (run / RECORD).is_file() else {}
    if not (run / "model_index.json").is_file() or not record.get("base_model"):
        raise InputError(f"{run} holds no finished diffusion run.", remedy)
    if record.get("status") != "finished":
        raise InputError(f"The run in {run} is not finished.", remedy)
    source = ModelSource(str(run), run)
    kind = source.pipeline_class()
    if kind not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        raise InputError(
            f"The run's model is a {kind}, for which there is no such file.",
            "Stable Diffusion 1.x, 2.x and XL can be exported; others stay diffusers folders.",
        )
    config = read_json(run / "unet" / "config.json")
    layout.unet_blocks(config)  # refuses blocks that the layouts do not know
    family = "sd2" if config.get("use_linear_projection") else "sd1"
    if kind == "StableDiffusionXLPipeline":
        family = "sdxl"
    return _Run(run, record, family, config)


def _single_file(run: _Run) -> dict[str, Tensor]:
    tensors = layout.convert_unet(read_weights(run.folder / "unet"), run.config)
    vae = read_json(run.folder / "vae" / "config.json")
    tensors |= layout.convert_vae(read_weights(run.folder / "vae"), vae)
    text = read_weights(run.folder / "text_encoder")
    if run.family == "sd1":
        tensors |= layout.convert_clip(text, "cond_stage_model.transformer.")
    elif run.family == "sd2":
        tensors |= layout.convert_open_clip(text, "cond_stage_model.model.")
    else:
        tensors |= layout.convert_clip(text, "conditioner.embedders.0.transformer.")
        second = read_weights(run.folder / "text_encoder_2")
        tensors |= layout.convert_open_clip(second, "conditioner.embedders.1.model.")
    return tensors


def _adapter_file(run: _Run) -> dict[str, Tensor]:
    saved = {
        name.removeprefix("unet."): tensor
        for name, tensor in read_weights(run.folder / FOLDER).items()
    }
    tensors: dict[str, Tensor] = {}
    for name, down in saved.items():
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removesuffix(".lora_A.weight")
        tensors |= _pair(run.layer(layer), down, saved[f"{layer}.lora_B.weight"])
    return tensors


def _pair(layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """An adapter in kohya's names; alpha is the rank, for its scale is in `up` already."""
    return {
        f"{layer}.lora_down.weight": down,
        f"{layer}.lora_up.weight": up,
        f"{layer}.alpha": torch.tensor(float(len(down))),
    }


def _network(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What kohya's own files say of their adapters."""
    ranks = {len(t) for name, t in tensors.items() if name.endswith("lora_down.weight")}
    rank = str(max(ranks, default=0))
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
    }


def _differences(run: _Run, base: str | None) -> dict[str, Tensor]:
    """What the run changed in the UNet, in float32, by name; unchanged tensors are left out."""
    name = base or str(run.record["base_model"])
    revision = None if base else run.record.get("base_revision")
    try:
        source = resolve(name, revision, fetch=False)
    except InputError as error:
        raise InputError(
            f"The base model is needed for the difference, but: {error.message}",
            "Give the folder where it lies with --base.",
        ) from error
    if source.fingerprint() != run.record.get("base_fingerprint"):
        raise InputError(
            f"{name} is not the base that the run started from: its files differ.",
            "Give the original folder or hub id with --base.",
        )
    before = read_weights(source.path / "unet")
    after = read_weights(run.folder / "unet")
    if {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in after.items()}:
        raise InputError("The base's UNet has other weights than the run's.", "Check --base.")
    changed = {
        key: change
        for key, tensor in after.items()
        if bool((change := tensor.float() - before[key].float()).any())
    }
    if not changed:
        raise InputError("The run changed nothing.", "There is nothing to export.")
    return changed


def _difference_file(run: _Run, base: str | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, change in _differences(run, base).items():
        layer, _, kind = name.rpartition(".")
        norm = ".norm" in f".{layer}" or "conv_norm_out" in layer
        ending = {"weight": "w_norm" if norm else "diff", "bias": "b_norm" if norm else "diff_b"}
        tensors[f"{run.layer(layer)}.{ending[kind]}"] = change
    return tensors


def _extracted(
    run: _Run, base: str | None, rank: int
) -> tuple[dict[str, Tensor], dict[str, float], float]:
    """A LoRA of this rank from the difference, with what it loses by layer and in all."""
    if rank < 1:
        raise InputError(f"--rank is {rank}.", "Give at least 1.")
    tensors: dict[str, Tensor] = {}
    residuals: dict[str, float] = {}
    lost = total = 0.0
    for name, change in _differences(run, base).items():
        size = float(change.double().square().sum())
        total += size
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or change.ndim not in (2, 4):
            lost += size  # biases and norms
            continue
        down, up = low_rank(change, rank)
        rest = change.flatten(1) - up.flatten(1) @ down.flatten(1)
        left = float(rest.double().square().sum())
        lost += left
        residuals[layer] = (left / size) ** 0.5
        tensors |= _pair(run.layer(layer), down, up)
    if not tensors:
        raise InputError(
            "The run changed only biases or norms, which a LoRA cannot hold.",
            "Use --format diff.",
        )
    return tensors, residuals, (lost / total) ** 0.5


def low_rank(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best product of this rank: A `[r, in(, h, w)]` and B `[out, r(, 1, 1)]`, B A ≈ change.

    `change` is `[out, in]` or `[out, in, h, w]`, float32. The rank is at most that of the matrix.
    Exact up to `EXACT_SVD` rows or columns; a seeded randomised decomposition beyond.
    """
    matrix = change.flatten(1)
    count = min(rank, *matrix.shape)
    if min(matrix.shape) <= EXACT_SVD or count > min(matrix.shape) // 4:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            left, values, vectors = torch.svd_lowrank(matrix, q=count + 16, niter=6)
        right = vectors.T
    root = values[:count].sqrt()
    up, down = left[:, :count] * root, root[:, None] * right[:count]
    if change.ndim == 4:
        return down.reshape(count, *change.shape[1:]), up[:, :, None, None]
    return down, up
