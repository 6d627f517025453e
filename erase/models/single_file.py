"""Single-file checkpoints (A1111, ComfyUI): unpacked once into a diffusers folder.

All other code reads that folder. Configuration and tokenizer files, which a single file lacks, come
from a diffusers folder of the same architecture: the user's, or the public model's from the hub.
The unpacked folder is stored in the cache folder under the path, size and time of the file, so a
second use costs nothing and needs no configuration.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError, safe_open

from erase.artifacts import hub
from erase.artifacts.cache import cache_folder
from erase.artifacts.models import CONFIG_PATTERNS, HUB
from erase.errors import InputError
from erase.files import atomic_directory, read_json, write_json
from erase.models.parts import check_filled

SUFFIX = ".safetensors"
ORIGIN = "unpacked.json"


@dataclass(frozen=True)
class Kind:
    """An architecture of single files: its pipeline class, and a public model of it."""

    title: str
    pipeline: str
    hub_id: str


KINDS = {
    "sd1": Kind("Stable Diffusion 1.x", "StableDiffusionPipeline", HUB["sd-1.5"]),
    "sd2": Kind("Stable Diffusion 2.x", "StableDiffusionPipeline", HUB["sd-2.1"]),
    "sdxl": Kind("Stable Diffusion XL", "StableDiffusionXLPipeline", HUB["sdxl"]),
}
UNET = "model.diffusion_model.input_blocks.0.0.weight"


def _shapes(file: Path) -> dict[str, list[int]]:
    try:
        with safe_open(file, framework="pt") as content:
            names = list(content.keys())
            return {name: content.get_slice(name).get_shape() for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is not a readable safetensors file ({type(error).__name__}).",
            "Download it again.",
        ) from error


def _kind_of(file: Path, shapes: Mapping[str, list[int]]) -> str:
    def has_weights(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in shapes)

    remedy = (
        f"Known: a whole checkpoint of {', '.join(k.title for k in KINDS.values())}, with UNet,"
        " VAE and text encoder in one file."
    )
    if UNET not in shapes:
        raise InputError(f"{file} holds no UNet of a Stable Diffusion checkpoint.", remedy)
    if shapes[UNET][1] != 4:
        raise InputError(
            f"{file} takes {shapes[UNET][1]} channels, as for inpainting, not 4.", remedy
        )
    if not has_weights("first_stage_model.decoder."):
        raise InputError(f"{file} holds no VAE.", remedy)
    if has_weights("conditioner.embedders.1.model."):
        return "sdxl"
    if has_weights("cond_stage_model.model."):
        return "sd2"
    if has_weights("cond_stage_model.transformer."):
        return "sd1"
    raise InputError(f"{file} holds no text encoder that is known.", remedy)


def unpack(file: Path, config_from: Path | None = None, *, fetch: bool = True) -> Path:
    """The diffusers folder of a single-file checkpoint, made on first use.

    Args:
        file: the checkpoint.
        config_from: a diffusers folder of the same architecture. Its configurations, tokenizers
            and scheduler are used (and with it the prediction type, unless the file itself holds
            `v_pred`), not its weights. Default: the folder that the file was unpacked with before,
            or the public model's.
        fetch: whether the public model's configurations may be downloaded.

    Raises InputError for a file of another kind, or when the configurations are missing.
    """
    stat = file.stat()
    key = "\x1f".join(map(str, (file.resolve(), stat.st_size, stat.st_mtime_ns)))
    root = cache_folder("unpacked")
    folder = root / f"{file.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    config_folder = str(config_from.resolve()) if config_from else None
    recorded = read_json(folder / ORIGIN)["config_from"] if folder.is_dir() else None
    if folder.is_dir() and config_folder in (None, recorded):
        return folder
    shapes = _shapes(file)
    kind = KINDS[_kind_of(file, shapes)]
    configs = config_from or _public_configs(file, kind, fetch)
    if not (configs / "model_index.json").is_file():
        raise InputError(
            f"{configs} is not a diffusers folder: it holds no model_index.json.",
            f"Give --config-from the folder of a {kind.title} model; its weights are not needed.",
        )
    try:
        pipeline = getattr(diffusers, kind.pipeline).from_single_file(
            str(file), config=str(configs), local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{file} does not fit the configurations in {configs}"
            f" ({(str(error).splitlines() or [type(error).__name__])[0]}).",
            f"Give --config-from the folder of the {kind.title} model that it was made from.",
        ) from error
    check_filled(pipeline, file)
    if "v_pred" in shapes:  # the mark of SDXL finetunes with v-prediction
        changes: dict[str, Any] = {"prediction_type": "v_prediction"}
        if "ztsnr" in shapes:
            changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        scheduler = pipeline.scheduler
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, **changes)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    root.mkdir(parents=True, exist_ok=True)
    with atomic_directory(folder) as unpacked:
        pipeline.save_pretrained(unpacked, safe_serialization=True)
        write_json(unpacked / ORIGIN, {"file": str(file.resolve()), "config_from": config_folder})
    return folder


def _public_configs(file: Path, kind: Kind, fetch: bool) -> Path:
    """Configurations of the public model of this architecture, from the hub's cache or the hub."""
    try:
        return hub.first_of(
            partial(hub.snapshot, kind.hub_id, patterns=CONFIG_PATTERNS, local=local)
            for local in ((True, False) if fetch else (True,))
        )
    except hub.HubError as error:
        raise InputError(
            f"{file} is a {kind.title} checkpoint; its configuration and tokenizer files are not on"
            " this machine" + (f" and cannot be fetched ({error.reason})." if fetch else "."),
            f"Give --config-from FOLDER, any diffusers folder of a {kind.title} model (its weights"
            f" are not needed), or on a machine with network: hf download {kind.hub_id} "
            + " ".join(f"--include '{pattern}'" for pattern in CONFIG_PATTERNS)
            + ".",
        ) from error
