"""What a single file holds, by the names and shapes of its tensors, before any of them is read.

A file is refused with the tensor or the prefix that is missing, unknown or of another shape.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from erase.artifacts.models import HUB
from erase.errors import InputError
from erase.files import read_json
from erase.models import original_layout as layout
from erase.models.configs import part_skeleton


@dataclass(frozen=True)
class Kind:
    """An architecture of single files: its family, pipeline class, and a public model of it."""

    family: str
    title: str
    pipeline: str
    hub_id: str


KINDS = {
    "sd1": Kind("sd1", "Stable Diffusion 1.x", "StableDiffusionPipeline", HUB["sd-1.5"]),
    "sd2": Kind("sd2", "Stable Diffusion 2.x", "StableDiffusionPipeline", HUB["sd-2.1"]),
    "sdxl": Kind("sdxl", "Stable Diffusion XL", "StableDiffusionXLPipeline", HUB["sdxl"]),
}
REMEDY = (
    f"Known: a whole checkpoint of {', '.join(k.title for k in KINDS.values())}, with UNet, VAE and"
    " text encoder in one file."
)
CONV_IN = layout.UNET + "input_blocks.0.0.weight"
LABELS = layout.UNET + "label_emb."
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
QUANTISED = re.compile(
    r"(scaled_fp8|\.(scale_weight|scale_input|weight_scale|absmax|quant_state.*))$"
)
OTHER_SAMPLING = ("edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
"""Tensors that mark a noise schedule which the pipelines here do not have (CosXL, Playground)."""
MARKS = ("v_pred", "ztsnr")
OTHERS = {
    r"lora_|.*[._](lora_(A|B|up|down)|hada_|lokr_|oft_)|.*\.(diff|diff_b|w_norm)$": "a LoRA or"
    " another file that is added to a model",
    r"(.*\.)?joint_blocks\.": "Stable Diffusion 3",
    r"(.*\.)?(double|single)_(transformer_)?blocks\.": "Flux",
    r"control_model\.|controlnet_|input_hint_block": "a ControlNet",
    r"(model\.diffusion_model\.)?(input_blocks|output_blocks|middle_block|time_embed)\.": "a UNet"
    " alone",
    r"(first_stage_model\.)?(encoder|decoder)\.(conv_|down|up|mid)": "a VAE alone",
    r"(unet\.)?(down_blocks|up_blocks|mid_block|conv_in)\.": "one part of a diffusers folder",
    r"(cond_stage_model|conditioner|text_model|transformer|encoder|shared)\.": "a text encoder"
    " alone",
    r"emb_params|clip_[lg]$|string_to_param": "a textual inversion",
}


@dataclass(frozen=True)
class FileLayout:
    """The names of a safetensors file with their dtypes and shapes, and its header's text."""

    file: Path
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    metadata: Mapping[str, str]

    def has(self, prefix: str) -> bool:
        """Whether a tensor's name begins so."""
        return any(name.startswith(prefix) for name in self.tensors)


def read_layout(file: Path) -> FileLayout:
    """Read a file's header; InputError when it is no safetensors file."""
    try:
        with safe_open(file, framework="pt") as content:
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            tensors = {n: (str(s.get_dtype()), tuple(s.get_shape())) for n, s in slices.items()}
            return FileLayout(file, tensors, dict(content.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is not a readable safetensors file ({type(error).__name__}).",
            "Download it again.",
        ) from error


def kind_of(content: FileLayout) -> Kind:
    """The architecture of a whole checkpoint; InputError for any other file."""
    file = content.file
    if CONV_IN not in content.tensors:
        raise InputError(
            f"{file} holds no UNet of a Stable Diffusion checkpoint: it has no {CONV_IN}"
            f" ({_described(content)}).",
            REMEDY,
        )
    shape = content.tensors[CONV_IN][1]
    if len(shape) != 4 or shape[1] != 4:
        inputs = f"{shape[1]} channels, as for inpainting," if len(shape) == 4 else f"{shape}"
        raise InputError(f"{file} takes {inputs} not 4 ({CONV_IN}).", REMEDY)
    _check_sampling_and_storage(content)
    if not content.has(f"{layout.VAE}decoder."):
        raise InputError(f"{file} holds no VAE: no name begins with {layout.VAE}decoder.", REMEDY)
    family = next(
        (name for name, prefixes in layout.TEXT.items() if all(map(content.has, prefixes))), None
    )
    if family is None:
        prefixes = ", ".join(prefix for row in layout.TEXT.values() for prefix in row)
        found = next((n for n in content.tensors if n.startswith("cond")), "none at all")
        raise InputError(
            f"{file} holds no text encoder that is known: no name begins with {prefixes} or SDXL's"
            f" second one is missing (found: {found}).",
            REMEDY,
        )
    if family != "sdxl" and content.has(LABELS):
        raise InputError(f"{file} takes images or labels as input, as unCLIP: {LABELS}", REMEDY)
    return KINDS[family]


def _described(content: FileLayout) -> str:
    for pattern, what in OTHERS.items():
        for name in content.tensors:
            if re.match(pattern, name):
                return f"{name} is of {what}"
    first = next(iter(content.tensors), None)
    return f"the first of its tensors is {first}" if first else "it has no tensors at all"


def _check_sampling_and_storage(content: FileLayout) -> None:
    for name in OTHER_SAMPLING:
        if name in content.tensors:
            raise InputError(
                f"{content.file} was made for another noise schedule: it holds {name}.",
                "EDM models (CosXL, Playground) are not supported; take an epsilon or v-prediction"
                " model.",
            )
    for name, (dtype, _) in content.tensors.items():
        used = name.startswith((layout.UNET, layout.VAE, "cond", "scaled_fp8"))
        counts = name.endswith("position_ids")
        if used and not counts and (QUANTISED.search(name) or dtype not in FLOATS):
            raise InputError(
                f"{content.file} is quantised: {name} ({dtype}).",
                "Give the same model in fp32, fp16, bf16 or plain fp8.",
            )


def check_layout(content: FileLayout, kind: Kind, configs: Path) -> None:
    """Refuse a file that lacks a tensor, has one of another shape, or a UNet with others.

    Args:
        content: the file.
        kind: its architecture.
        configs: a diffusers folder with the configurations that it is to be read with.
    """
    remedy = f"Give --config-from the folder of the {kind.title} model that it was made from."
    where = f"the configurations in {configs}"
    index = read_json(configs / "model_index.json")
    if index.get("_class_name") != kind.pipeline:
        raise InputError(
            f"{content.file} does not fit {where}: it is {kind.title}, they are of a"
            f" {index.get('_class_name')}.",
            remedy,
        )
    expected = _expected(kind, configs)
    for name, shape in expected.items():
        if name not in content.tensors:
            raise InputError(
                f"{content.file} does not fit {where}: it lacks {name}.",
                f"{remedy} If that is the one, download the file again.",
            )
        found = content.tensors[name][1]
        if [n for n in found if n != 1] != [n for n in shape if n != 1]:
            raise InputError(
                f"{content.file} does not fit {where}: {name} is {list(found)} there, not"
                f" {list(shape)}.",
                remedy,
            )
    marks = {layout.UNET + mark for mark in MARKS}
    for name in content.tensors:
        if name.startswith(layout.UNET) and name not in expected and name not in marks:
            raise InputError(
                f"{content.file} does not fit {where}: they have no {name}.",
                remedy,
            )


def _expected(kind: Kind, configs: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the configurations ask for."""
    folders = ["unet", "vae", *layout.ENCODERS[: len(layout.TEXT[kind.family])]]
    parts = {}
    for folder in folders:
        network = part_skeleton(configs / folder)
        if network is None:
            raise InputError(
                f"{configs / folder / 'config.json'} names a class that is not known.",
                "Give --config-from another folder.",
            )
        parts[folder] = network.state_dict()
    unet = read_json(configs / "unet" / "config.json", layout.UNetConfig, finite=False)
    vae = read_json(configs / "vae" / "config.json", layout.VaeConfig, finite=False)
    tensors = layout.convert_model(kind.family, parts, unet, vae)
    return {n: tuple(t.shape) for n, t in tensors.items() if not n.endswith("position_ids")}
