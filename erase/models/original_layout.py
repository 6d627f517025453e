"""Names of weights in the original Stable Diffusion layout, which A1111 and ComfyUI read.

The names follow from the configurations, so that other widths and depths map as well as the
released models. What diffusers calls a down block, the original calls a run of input blocks; its
middle and output blocks are numbered through likewise. `from_single_file` of diffusers maps back,
and the tests hold one against the other, every tensor bit for bit.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import torch
from msgspec import Meta
from torch import Tensor

from erase.errors import InputError

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
"""Prefixes of the text encoders, by family: CLIP's end in `transformer.`, OpenCLIP's in `model.`"""
ENCODERS = ("text_encoder", "text_encoder_2")
"""Their folders in diffusers, in the same order."""
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    # as diffusers before 0.15 named them
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
OPENCLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


class UNetConfig(TypedDict):
    """What the layout follows from in a UNet's `config.json`."""

    down_block_types: list[str]
    up_block_types: list[str]
    layers_per_block: Annotated[int, Meta(ge=1, le=64)] | list[Any]
    block_out_channels: Annotated[list[int], Meta(min_length=1)]


class VaeConfig(TypedDict):
    """What the layout follows from in a VAE's `config.json`."""

    up_block_types: list[str]


def unet_blocks(config: Mapping[str, Any]) -> dict[str, str]:
    """Prefixes of the UNet's blocks in diffusers → in the original, e.g. of `mid_block.resnets.0`.

    `config` is the UNet's `config.json`. InputError for blocks that the original does not have.
    """
    down, up = config["down_block_types"], config["up_block_types"]
    known = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
    layers = config["layers_per_block"]
    if not {*down, *up} <= known or not isinstance(layers, int):
        raise InputError(
            "This UNet has blocks that the original Stable Diffusion layout does not know.",
            "Use the diffusers folder, or export with --format diff.",
        )
    names = dict(UNET_FIXED)
    count = 1
    for index, kind in enumerate(down):
        for layer in range(layers):
            names[f"down_blocks.{index}.resnets.{layer}"] = f"input_blocks.{count}.0"
            if kind.startswith("CrossAttn"):
                names[f"down_blocks.{index}.attentions.{layer}"] = f"input_blocks.{count}.1"
            count += 1
        if index < len(down) - 1:
            names[f"down_blocks.{index}.downsamplers.0.conv"] = f"input_blocks.{count}.0.op"
            count += 1
    count = 0
    for index, kind in enumerate(up):
        attends = kind.startswith("CrossAttn")
        for layer in range(layers + 1):
            names[f"up_blocks.{index}.resnets.{layer}"] = f"output_blocks.{count}.0"
            if attends:
                names[f"up_blocks.{index}.attentions.{layer}"] = f"output_blocks.{count}.1"
            if layer == layers and index < len(up) - 1:
                place = f"output_blocks.{count}.{2 if attends else 1}"
                names[f"up_blocks.{index}.upsamplers.0.conv"] = f"{place}.conv"
            count += 1
    return names


def unet_name(name: str, blocks: Mapping[str, str]) -> str:
    """A UNet weight's or layer's name in the original layout, without the `UNET` prefix."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix not in blocks:
            continue
        rest = parts[length:]
        if ".resnets." in prefix and rest:
            if rest[0] not in RESNET:
                break
            rest = [RESNET[rest[0]], *rest[1:]]
        return ".".join([blocks[prefix], *rest])
    raise InputError(
        f"The UNet's {name} has no place in the original Stable Diffusion layout.",
        "Use the diffusers folder, or export with --format diff.",
    )


def convert_model(
    family: str,
    parts: Mapping[str, Mapping[str, Tensor]],
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
) -> dict[str, Tensor]:
    """A whole model's weights under their original names; `meta` tensors give names and shapes.

    Args:
        family: a key of `TEXT`.
        parts: weights by name, of each part by its folder: `unet`, `vae`, `text_encoder`, and
            `text_encoder_2` for SDXL.
        unet: the UNet's `config.json`.
        vae: the VAE's `config.json`.

    Raises:
        InputError: a weight or a block has no place in the layout.
    """
    tensors = convert_unet(parts["unet"], unet)
    tensors |= {VAE + name: tensor for name, tensor in convert_vae(parts["vae"], vae).items()}
    for prefix, part in zip(TEXT[family], ENCODERS, strict=False):
        convert = convert_clip if prefix.endswith("transformer.") else convert_open_clip
        tensors |= convert(parts[part], prefix)
    return tensors


def convert_unet(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The UNet's weights under their original names."""
    blocks = unet_blocks(config)
    return {UNET + unet_name(name, blocks): tensor for name, tensor in tensors.items()}


def convert_vae(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The VAE's weights under their original names, without the `VAE` prefix.

    Its attention becomes 1 × 1 convolutions.
    """
    last = len(config["up_block_types"]) - 1
    converted = {}
    for name, tensor in tensors.items():
        new = re.sub(r"\bup_blocks\.(\d+)\.", lambda match: f"up.{last - int(match[1])}.", name)
        new = re.sub(r"\bdown_blocks\.(\d+)\.", r"down.\1.", new)
        new = re.sub(r"\bmid_block\.resnets\.(\d+)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", new)
        new = re.sub(r"\bresnets\.(\d+)\.", r"block.\1.", new)
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        new = new.replace("downsamplers.0.conv", "downsample.conv")
        new = new.replace("upsamplers.0.conv", "upsample.conv")
        attention = re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)", new)
        if attention:
            if attention[2] not in VAE_ATTENTION:
                raise InputError(
                    f"The VAE's {name} has no place in the original Stable Diffusion layout.",
                    "Use the diffusers folder.",
                )
            part = VAE_ATTENTION[attention[2]]
            new = f"{attention[1]}mid.attn_1.{part}.{attention[3]}"
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        converted[new] = tensor
    return converted


def convert_clip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A CLIP text encoder's weights as the original keeps them, which is transformers' own way.

    `prefix` is `cond_stage_model.transformer.` (SD 1.x) or `conditioner.embedders.0.transformer.`
    (SDXL). The position numbers, which older readers ask for, are added.
    """
    plain = {f"{prefix}text_model.{_bare(name)}": tensor for name, tensor in tensors.items()}
    embedding = plain[f"{prefix}text_model.embeddings.position_embedding.weight"]
    positions = torch.arange(len(embedding))[None]
    plain.setdefault(f"{prefix}text_model.embeddings.position_ids", positions)
    return plain


def convert_open_clip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder's weights in OpenCLIP's layout, with the three projections in one.

    `prefix` is `cond_stage_model.model.` (SD 2.x) or `conditioner.embedders.1.model.` (SDXL).
    """
    bare = {_bare(name): tensor for name, tensor in tensors.items()}
    result = {
        "positional_embedding": bare.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": bare.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": bare.pop("final_layer_norm.weight"),
        "ln_final.bias": bare.pop("final_layer_norm.bias"),
    }
    bare.pop("embeddings.position_ids", None)
    if "text_projection.weight" in bare:
        result["text_projection"] = bare.pop("text_projection.weight").T.contiguous()
    for name, tensor in bare.items():
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if not match:
            raise InputError(
                f"The text encoder's {name} has no place in OpenCLIP's layout.",
                "Use the diffusers folder.",
            )
        block, part, kind = f"transformer.resblocks.{match[1]}.", match[2], match[3]
        if part in OPENCLIP:
            result[f"{block}{OPENCLIP[part]}.{kind}"] = tensor
        elif part == "self_attn.q_proj":
            layer = f"encoder.layers.{match[1]}.self_attn."
            parts = [bare[f"{layer}{letter}_proj.{kind}"] for letter in "qkv"]
            result[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
    return {prefix + name: tensor for name, tensor in result.items()}


def _bare(name: str) -> str:
    """A text encoder's name as transformers 5.6 writes it; earlier ones had a wrapper in front."""
    return name.removeprefix("text_model.")
