"""Low-rank adapters on a denoiser: add, fuse, and save them in a format that others load.

An adapter adds ``(alpha / rank) B A`` to a layer's weight. B starts at zero, so that the model
equals the base until the first step. A starts random (Kaiming uniform, as in peft), from the seed.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Conv2d, Linear, Module, Parameter

from erase.core.params import TRAINABLE, name_matcher
from erase.errors import InputError
from erase.models.weights import write_weights

ADAPTER = "default"
FOLDER = "lora"
FILE = "pytorch_lora_weights.safetensors"


def lora_targets(model: Module, trainable: str, rank: int) -> list[str]:
    """Names of the layers that get an adapter: those chosen among linear and convolution layers.

    Args:
        model: the denoiser; names and shapes are enough (`meta` device).
        trainable: a choice as in `select_parameters`, applied to each layer's ``NAME.weight``.
        rank: at least 1.

    Raises:
        InputError: no such layer is chosen, or the rank is out of range.
    """
    if rank < 1:
        raise InputError(f"--lora-rank is {rank}.", "Give at least 1, or leave it out.")
    chosen = name_matcher(trainable)
    targets = [
        name
        for name, layer in model.named_modules()
        if type(layer) in (Linear, Conv2d) and getattr(layer, "groups", 1) == 1
        if chosen(f"{name}.weight")
    ]
    if not targets:
        raise InputError(
            f"'{trainable}' matches no linear or convolution layer for --lora-rank to adapt.",
            f"Use one of {', '.join(TRAINABLE)}, or an expression that matches weights such as"
            " 'attn2.to_k.weight'.",
        )
    return targets


def add_lora(
    model: Module, trainable: str, *, rank: int, alpha: float | None = None, seed: int = 0
) -> dict[str, Parameter]:
    """Put adapters on the chosen layers, in place, and freeze everything else.

    Args:
        model: the denoiser, on any device.
        trainable: which layers, see `lora_targets`.
        rank: of each adapter, also on a layer with fewer rows or columns.
        alpha: the adapters' scale is alpha / rank; default: the rank, a scale of 1.
        seed: of the initial values of A.

    Returns:
        The adapters' parameters by name, in the layers' dtype and on their device.

    Raises:
        InputError: see `lora_targets`; or alpha is not positive.
    """
    from peft import LoraConfig, inject_adapter_in_model

    scale = rank if alpha is None else alpha
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"--lora-alpha is {alpha}.", "Give a number above 0.")
    targets = lora_targets(model, trainable, rank)
    model.requires_grad_(False)
    # peft matches a string as a regular expression over whole names, a list by their ends.
    pattern = "|".join(name.replace(".", r"\.") for name in targets)
    config = LoraConfig(r=rank, lora_alpha=scale, target_modules=f"(?:{pattern})")
    # The values are set below, so peft makes the adapters without content. When peft moves them to
    # a device, it swaps parameters, which fails in a dry run (FakeTensorMode refers to them).
    with torch.device("meta"):
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    source = torch.Generator().manual_seed(seed)
    for layer in _layers(model).values():
        base = layer.get_base_layer().weight
        down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        # Kaiming uniform with a = sqrt(5), as in peft, but drawn on the CPU from the seed.
        bound = 1 / math.sqrt(down.weight[0].numel())
        drawn = torch.empty(down.weight.shape).uniform_(-bound, bound, generator=source)
        down.weight = Parameter(drawn.to(base))
        up.weight = Parameter(base.new_zeros(up.weight.shape))
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def _layers(model: Module) -> dict[str, Any]:
    """The adapted layers by name."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def lora_weights(model: Module) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each adapted layer by its name in the base model, copied to the CPU in float32.

    B is multiplied by the scale alpha / rank, so that loading with a scale of 1 (the default for a
    file without one) gives the trained model.
    """
    weights = {}
    for name, layer in _layers(model).items():
        down = layer.lora_A[ADAPTER].weight.detach().float().cpu()
        up = layer.lora_B[ADAPTER].weight.detach().float().cpu()
        weights[name] = (down.clone(), up * layer.scaling[ADAPTER])
    return weights


def fuse_lora(model: Module) -> None:
    """Add the adapters to the weights and remove them, in place; names are the base's again."""
    for name, layer in _layers(model).items():
        layer.merge(adapter_names=[ADAPTER])
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def save_lora(
    folder: Path,
    weights: Mapping[str, tuple[Tensor, Tensor]],
    metadata: Mapping[str, str],
    component: str = "unet",
) -> Path:
    """Write adapters where `pipe.load_lora_weights(folder)` finds them; returns the file.

    Args:
        folder: made if it is missing.
        weights: what `lora_weights` returns.
        metadata: goes into the file's header.
        component: the adapted part's name in the pipeline.
    """
    tensors = {}
    for name, (down, up) in weights.items():
        tensors[f"{component}.{name}.lora_A.weight"] = down.contiguous()
        tensors[f"{component}.{name}.lora_B.weight"] = up.contiguous()
    path = folder / FILE
    write_weights(path, tensors, metadata)
    return path
