"""From a run's folder to one file for other tools: a checkpoint, a part, a LoRA, a difference.

The layouts are those that A1111 and ComfyUI read: the original Stable Diffusion names for a whole
model and its parts, kohya's names (`lora_unet_…`) for adapters, LyCORIS' for differences (`.diff`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from erase.errors import InputError
from erase.export.delta import Lora, difference, extracted_lora, trained_lora
from erase.export.run import FinishedRun, open_run
from erase.export.whole import unet_alone, vae_alone, whole_model
from erase.models.lora import FILE, FOLDER
from erase.models.modelspec import kohya
from erase.models.original_layout import UNET
from erase.models.single_file import SUFFIX
from erase.models.weights import hash_weights, write_weights

FORMATS = ("single-file", "unet", "vae", "lora", "diff")
DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8": torch.float8_e4m3fn,
}
DEFAULT_RANK = 16


@dataclass(frozen=True)
class Exported:
    """What was written.

    `residuals` and `residual` are what a LoRA lost, see `Lora`; `notes` what the user should know
    of programs that cannot open the file.
    """

    path: Path
    tensors: int
    bytes: int
    residuals: Mapping[str, float] = field(default_factory=dict)
    residual: float | None = None
    notes: tuple[str, ...] = ()


def export(
    run: Path,
    output: Path,
    *,
    kind: str,
    dtype: str | None = None,
    rank: int | None = None,
    common_layers: bool = False,
    base: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a finished run's model, a part of it, its adapter or its difference as one file.

    Args:
        run: a run's folder.
        output: the file; its name ends in `.safetensors`.
        kind: one of `FORMATS`.
        dtype: a key of `DTYPES`; default: fp32 for a difference, fp16 otherwise. `fp8` is for whole
            models and UNets: matrices of the UNet in float8 (e4m3), all else in fp16.
        rank: of a LoRA that is taken from the difference of a run that trained the weights
            themselves; default 16.
        common_layers: leave out the adapters of layers that not every client knows.
        base: where the base model lies now; default: what the run's record says.
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: no finished run, a family without such a layout, a base that is missing or not
            the one that the run started from, an option that does not fit, or weights that the
            precision cannot hold.
    """
    dtype = dtype or ("fp32" if kind == "diff" else "fp16")
    _check(output, kind, dtype, rank, common_layers, overwrite)
    opened = open_run(run)
    _check_part(opened, kind)
    lora = None
    if kind == "lora":
        lora = _lora(opened, base, rank, common_layers=common_layers)
        tensors = lora.tensors
    elif kind == "diff":
        tensors = difference(opened, base)
    else:
        tensors = {"single-file": whole_model, "unet": unet_alone, "vae": vae_alone}[kind](opened)
    metadata = opened.metadata("" if kind == "single-file" else kind)
    if kind in ("lora", "diff"):
        metadata |= kohya(opened.family, opened.prediction, opened.base, tensors)
    if lora and lora.residual is not None:
        metadata["erase.residual"] = f"{lora.residual:.6g}"
        metadata["erase.residuals"] = json.dumps(
            {name: float(f"{value:.4g}") for name, value in lora.residuals.items()}
        )
    for name in list(tensors):  # one at a time, so that the wide ones do not stay in memory
        tensors[name] = _stored(name, tensors[name], dtype)
    metadata["modelspec.hash_sha256"] = f"0x{hash_weights(tensors)}"
    write_weights(output, tensors, metadata)
    return Exported(
        output,
        len(tensors),
        output.stat().st_size,
        lora.residuals if lora else {},
        lora.residual if lora else None,
        _notes(opened, lora),
    )


def _check(
    output: Path,
    kind: str,
    dtype: str,
    rank: int | None,
    common_layers: bool,
    overwrite: bool,
) -> None:
    if kind not in FORMATS:
        raise InputError(f"--format is {kind!r}.", f"Possible: {', '.join(FORMATS)}.")
    if dtype not in DTYPES:
        raise InputError(f"--dtype is {dtype!r}.", f"Possible: {', '.join(DTYPES)}.")
    if dtype == "fp8" and kind not in ("single-file", "unet"):
        raise InputError(
            f"--dtype fp8 is for the weights of a UNet, not for --format {kind}.",
            "Use fp16, bf16 or fp32.",
        )
    if output.suffix.lower() != SUFFIX:
        raise InputError(
            f"{output} does not end in .safetensors.", "Other formats are not written."
        )
    if output.is_dir() or (output.exists() and not overwrite):
        raise InputError(f"{output} exists.", "Give another --output, or --overwrite.")
    if rank is not None and kind != "lora":
        raise InputError("--rank is for --format lora.", "Leave it out.")
    if common_layers and kind != "lora":
        raise InputError("--common-layers is for --format lora.", "Leave it out.")


def _check_part(run: FinishedRun, kind: str) -> None:
    """Refuse a file of the UNet, or of what changed in it, where another part was trained."""
    trained = run.record.get("trained_parts", ["unet"])
    if kind in ("unet", "lora", "diff") and "unet" not in trained:
        raise InputError(
            f"The run trained {' and '.join(trained)}; --format {kind} holds the UNet alone.",
            "Use --format single-file, or the diffusers folder.",
        )


def _lora(run: FinishedRun, base: str | None, rank: int | None, *, common_layers: bool) -> Lora:
    if not (run.folder / FOLDER / FILE).is_file():
        wanted = DEFAULT_RANK if rank is None else rank
        return extracted_lora(run, base, wanted, common_layers=common_layers)
    if rank is not None:
        raise InputError("The run trained an adapter, whose rank is given.", "Leave --rank out.")
    return trained_lora(run, common_layers=common_layers)


def _stored(name: str, tensor: Tensor, dtype: str) -> Tensor:
    """A weight as it is stored; alphas stay in float32, for their ratio to the rank is exact."""
    if not tensor.is_floating_point() or tensor.ndim == 0:
        return tensor
    kind = DTYPES[dtype]
    if dtype == "fp8" and not (name.startswith(UNET) and tensor.ndim > 1):
        kind = torch.float16
    largest = float(tensor.float().abs().max()) if tensor.numel() else 0.0
    if not largest <= torch.finfo(kind).max:  # NaN too
        raise InputError(
            f"{name} holds {largest:g}, which {str(kind).removeprefix('torch.')} cannot store.",
            "Give --dtype fp32, or bf16." if largest < float("inf") else "The run is broken.",
        )
    return tensor.to(kind)


def _notes(run: FinishedRun, lora: Lora | None) -> tuple[str, ...]:
    notes = []
    if not run.has_released_size():
        notes.append(
            "A1111, ComfyUI and others know only the sizes of the released models: they do not"
            " open this one. diffusers does, with the run's folder as its config."
        )
    if lora and lora.outside:
        notes.append(
            f"{len(lora.outside)} of its layers lie outside the UNet's blocks"
            f" ({', '.join(lora.outside)}). ComfyUI and A1111 know them; kohya's scripts and"
            " diffusers 0.32 do not. --common-layers leaves them out."
        )
    return tuple(notes)
