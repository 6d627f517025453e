"""Read and write weights as safetensors, with a header in a fixed order.

The safetensors library writes the text fields of its header in an order that changes from run to
run. Here the same weights always give the same file.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from erase.errors import InputError, RunError
from erase.files import read_json

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def not_finite(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str | None:
    """Name of the first tensor with a NaN or an infinity, after conversion to `dtype` if given."""
    for name, tensor in tensors.items():
        stored = tensor if dtype is None else tensor.to(dtype)
        if stored.element_size() == 1:
            stored = stored.float()  # float8 has no isfinite
        if tensor.is_floating_point() and not bool(torch.isfinite(stored).all()):
            return name
    return None


def check_finite(
    tensors: Mapping[str, Tensor], what: object, dtype: torch.dtype | None = None
) -> None:
    """RunError, naming `what` and the tensor, when a value is not finite as it will be stored."""
    name = not_finite(tensors, dtype)
    if name is None:
        return
    stored = dtype or tensors[name].dtype
    largest = float(tensors[name].detach().abs().max())
    fits = math.isfinite(largest) and stored != tensors[name].dtype
    raise RunError(
        f"{what}: {name} is not finite"
        + (f" in {str(stored).removeprefix('torch.')} (up to {largest:.3g})." if fits else "."),
        "Store the weights in fp32." if fits else "Nothing was written; the weights are broken.",
    )


def write_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> None:
    """Write a safetensors file, atomically, tensor by tensor; the same input gives the same bytes.

    Args:
        path: its folder is made if it is missing.
        tensors: of the dtypes in `DTYPES`, on any device; copied one at a time.
        metadata: text for the header.
        dtype: in which floating-point weights are stored; default: their own.

    Raises:
        RunError: a value is not finite once it is converted; then nothing is written.
    """
    check_finite(tensors, path.name, dtype)
    header: dict[str, object] = {"__metadata__": dict(sorted({"format": "pt", **metadata}.items()))}
    start = 0
    for name in _in_order(tensors, dtype):
        tensor = tensors[name]
        kind = _stored_dtype(tensor, dtype)
        end = start + tensor.numel() * kind.itemsize
        header[name] = {
            "dtype": DTYPES[kind],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for content in _contents(tensors, dtype):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def hash_weights(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """SHA-256 (hex) over all that `write_weights` writes after the header."""
    digest = hashlib.sha256()
    for content in _contents(tensors, dtype):
        digest.update(content)
    return digest.hexdigest()


def _stored_dtype(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype


def _in_order(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> list[str]:
    """Wide types first, as the library does, so that every tensor is aligned."""
    return sorted(tensors, key=lambda n: (-_stored_dtype(tensors[n], dtype).itemsize, n))


def _contents(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> Iterator[memoryview]:
    """The bytes of the tensors in the file's order, one tensor at a time."""
    for name in _in_order(tensors, dtype):
        tensor = tensors[name]
        plain = tensor.detach().to("cpu", _stored_dtype(tensor, dtype)).contiguous().reshape(-1)
        yield plain.view(torch.uint8).numpy().data


def read_weights(folder: Path, variant: str | None = None) -> dict[str, Tensor]:
    """All weights of one part of a diffusers folder, sharded or not, by name.

    Args:
        folder: of the part.
        variant: `ModelSource.variant()`, if the file names contain one.

    Raises:
        InputError: there are no safetensors weights, or they are broken.
    """
    files = _files(folder, f".{variant}" if variant else "")
    if not files:
        raise InputError(
            f"{folder} holds no safetensors weights.", "Give a complete diffusers folder."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{file} is broken ({type(error).__name__}).", "Restore it, or run again."
            ) from error
    return tensors


def _files(folder: Path, mark: str) -> list[Path]:
    for stem in ("diffusion_pytorch_model", "model", "pytorch_lora_weights"):
        if (folder / f"{stem}{mark}.safetensors").is_file():
            return [folder / f"{stem}{mark}.safetensors"]
        for name in (
            f"{stem}.safetensors.index{mark}.json",
            f"{stem}{mark}.safetensors.index.json",
        ):
            if (folder / name).is_file():
                parts: Iterable[str] = read_json(folder / name)["weight_map"].values()
                return [folder / part for part in sorted(set(parts))]
    return []
