"""What a run changed, as files that are added to the base: LyCORIS' differences, kohya's LoRA."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from erase.errors import InputError
from erase.export.run import FinishedRun
from erase.models.loading import resolve
from erase.models.lora import FOLDER
from erase.models.weights import read_weights

EXACT_SVD = 512
"""Up to this many rows or columns the decomposition is exact; beyond, a randomised one."""
ENDS = {"weight": "diff", "bias": "diff_b"}
NORM_ENDS = {"weight": "w_norm", "bias": "b_norm"}
BLOCKS = ("down_blocks", "mid_block", "up_blocks")


@dataclass(frozen=True)
class Lora:
    """An adapter in kohya's names.

    `outside` names its layers outside the UNet's blocks, which not every client knows. `residuals`
    has, for an adapter taken from a difference, what each layer lost: ‖ΔW − BA‖ / ‖ΔW‖; `residual`
    is the same over all weights together, those that the file does not hold included. None: the
    file holds the whole change.
    """

    tensors: dict[str, Tensor]
    outside: tuple[str, ...]
    residuals: Mapping[str, float]
    residual: float | None


def outside_blocks(layer: str) -> bool:
    """Whether a UNet layer is outside its blocks: conv_in, conv_out, embeddings of time and size.

    Kohya's scripts train no such layer and leave it out when they load an adapter; diffusers 0.32
    does not know their names in kohya's files.
    """
    return layer.partition(".")[0] not in BLOCKS


def trained_lora(run: FinishedRun, *, common_layers: bool = False) -> Lora:
    """The adapter that a run trained; with `common_layers` without those `outside_blocks`."""
    saved = {
        name.removeprefix("unet."): tensor
        for name, tensor in read_weights(run.folder / FOLDER).items()
    }
    tensors: dict[str, Tensor] = {}
    outside = []
    lost = total = 0.0
    for name, down in saved.items():
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removesuffix(".lora_A.weight")
        up = saved[f"{layer}.lora_B.weight"]
        a, b = down.flatten(1).double(), up.flatten(1).double()
        size = float(((b.T @ b) * (a @ a.T)).sum())  # ‖BA‖²
        total += size
        if outside_blocks(layer):
            if common_layers:
                lost += size
                continue
            outside.append(layer)
        tensors |= _pair(run.layer(layer), down, up)
    _check_not_empty(tensors)
    return Lora(tensors, tuple(outside), {}, (lost / total) ** 0.5 if lost else None)


def extracted_lora(
    run: FinishedRun, base: str | None, rank: int, *, common_layers: bool = False
) -> Lora:
    """The best adapter of this rank for a run that trained the weights themselves."""
    if rank < 1:
        raise InputError(f"--rank is {rank}.", "Give at least 1.")
    tensors: dict[str, Tensor] = {}
    residuals: dict[str, float] = {}
    outside = []
    lost = total = 0.0
    for name, change in _changes(run, base)[0].items():
        size = float(change.double().square().sum())
        total += size
        layer, _, kind = name.rpartition(".")
        is_matrix = kind == "weight" and change.ndim in (2, 4)  # not a bias or norm
        if not is_matrix or (common_layers and outside_blocks(layer)):
            lost += size
            continue
        down, up = low_rank(change, rank)
        rest = change.flatten(1) - up.flatten(1) @ down.flatten(1)
        left = float(rest.double().square().sum())
        lost += left
        residuals[layer] = (left / size) ** 0.5
        if outside_blocks(layer):
            outside.append(layer)
        tensors |= _pair(run.layer(layer), down, up)
    _check_not_empty(tensors)
    return Lora(tensors, tuple(outside), residuals, (lost / total) ** 0.5)


def _check_not_empty(tensors: Mapping[str, Tensor]) -> None:
    if not tensors:
        raise InputError(
            "The run changed nothing that such a LoRA can hold.",
            "Use --format diff, or leave --common-layers out.",
        )


def difference(run: FinishedRun, base: str | None) -> dict[str, Tensor]:
    """The run's weights minus the base's in LyCORIS' names, float32, changed layers only.

    A layer is written whole: where only its bias changed, with a weight of zeros beside, for the
    clients look for the weight first. A1111 knows conv_norm_out by its original name alone.
    """
    changes, shapes = _changes(run, base)
    tensors: dict[str, Tensor] = {}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in changes):
        is_norm = len(shapes[f"{layer}.weight"]) == 1
        names = [run.layer(layer)]
        if layer == "conv_norm_out" and run.family != "sdxl":
            names.append("lora_unet_out_0")
        for kind, end in (NORM_ENDS if is_norm else ENDS).items():
            weight = f"{layer}.{kind}"
            if weight in changes:
                change = changes[weight]
            elif weight in shapes and (kind == "weight" or is_norm):
                change = torch.zeros(shapes[weight])
            else:
                continue
            tensors |= {f"{name}.{end}": change for name in names}
    return tensors


def _changes(run: FinishedRun, base: str | None) -> tuple[dict[str, Tensor], dict[str, torch.Size]]:
    """What the run changed in the UNet, in float32, by name, and the shapes of all weights.

    Unchanged tensors are left out. `base` is where the base lies; None: where the record says.
    """
    name = base or run.base
    revision = None if base else run.record.get("base_revision")
    try:
        source = resolve(name, revision, fetch=False)
    except InputError as error:
        raise InputError(
            f"The base model is needed for the difference, but: {error.message}",
            "Give the folder where it lies with --baseline.",
        ) from error
    if source.fingerprint() != run.record.get("base_fingerprint"):
        raise InputError(
            f"{name} is not the base that the run started from: its files differ.",
            "Give the original folder or hub id with --baseline.",
        )
    before = read_weights(source.path / "unet")
    after = read_weights(run.folder / "unet")
    shapes = {name: tensor.shape for name, tensor in after.items()}
    if {name: tensor.shape for name, tensor in before.items()} != shapes:
        raise InputError("The base's UNet has other weights than the run's.", "Check --baseline.")
    changed = {
        key: change
        for key, tensor in after.items()
        if bool((change := tensor.float() - before[key].float()).any())
    }
    if not changed:
        raise InputError("The run changed nothing.", "There is nothing to export.")
    return changed, shapes


def _pair(layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """An adapter in kohya's names; alpha is the rank, for its scale is in `up` already."""
    return {
        f"{layer}.lora_down.weight": down,
        f"{layer}.lora_up.weight": up,
        f"{layer}.alpha": torch.tensor(float(len(down))),
    }


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
