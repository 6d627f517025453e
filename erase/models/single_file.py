"""Single-file checkpoints (A1111, ComfyUI): unpacked once into a diffusers folder.

All other code reads that folder. Configuration and tokenizer files, which a single file lacks, come
from a diffusers folder of the same architecture: the user's, or the public model's from the hub.
The unpacked folder is stored in the cache folder under the path, size and time of the file, so a
second use costs nothing and needs no configuration.
"""

import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import diffusers
import torch

from erase.artifacts import hub
from erase.artifacts.cache import cache_folder
from erase.artifacts.models import CONFIG_PATTERNS
from erase.errors import InputError, first_line
from erase.files import atomic_directory, read_json, write_json
from erase.models.base_card import ORIGIN
from erase.models.configs import drop_paths
from erase.models.file_layout import FileLayout, Kind, check_layout, kind_of, read_layout
from erase.runs.manifest import write_manifest
from erase.runs.verify import check_file

SUFFIX = ".safetensors"


class Origin(TypedDict):
    """What `ORIGIN` says."""

    file: str
    config_from: str | None


def unpack(
    file: Path, config_from: Path | None = None, *, fetch: bool = True, weights: bool = True
) -> Path:
    """The diffusers folder of a single-file checkpoint, made on first use.

    Args:
        file: the checkpoint.
        config_from: a diffusers folder of the same architecture. Its configurations, tokenizers
            and scheduler are used (and with it the prediction type, unless the file itself holds
            `v_pred`), not its weights. Default: the folder that the file was unpacked with before,
            or the public model's.
        fetch: whether the public model's configurations may be downloaded.
        weights: whether the folder has to hold the file's weights. Without, a file that was not
            unpacked yet stays so, and the folder of its configurations is returned.

    Raises InputError for a file of another kind, or when the configurations are missing.
    """
    content = read_layout(file)
    kind = kind_of(content)
    stat = file.stat()
    key = "\x1f".join(map(str, (file.resolve(), stat.st_size, stat.st_mtime_ns)))
    root = cache_folder("unpacked")
    folder = root / f"{file.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    config_folder = str(config_from.resolve()) if config_from else None
    recorded = read_json(folder / ORIGIN, Origin)["config_from"] if folder.is_dir() else None
    if folder.is_dir() and config_folder in (None, recorded):
        return folder
    configs = config_from or _public_configs(file, kind, fetch)
    if not (configs / "model_index.json").is_file():
        raise InputError(
            f"{configs} is not a diffusers folder: it holds no model_index.json.",
            f"Give --config-from the folder of a {kind.title} model; its weights are not needed.",
        )
    check_layout(content, kind, configs)
    if not weights:
        return configs
    check_file(file)
    pipeline = _pipeline(content, kind, configs)
    root.mkdir(parents=True, exist_ok=True)
    with atomic_directory(folder) as unpacked:
        pipeline.save_pretrained(unpacked, safe_serialization=True)
        drop_paths(unpacked)
        origin = {
            "file": str(file.resolve()),
            "config_from": config_folder,
            "license": content.metadata.get("modelspec.license"),
        }
        write_json(unpacked / ORIGIN, origin)
        write_manifest(unpacked, unpacked.iterdir(), {})
    return folder


def _pipeline(content: FileLayout, kind: Kind, configs: Path) -> Any:
    """The pipeline with the file's weights, in float32, on the CPU."""
    file = content.file
    try:
        with tempfile.TemporaryDirectory() as folder:
            # diffusers tells the format by the name's ending, in lower case.
            link = Path(folder) / f"model{SUFFIX}"
            link.symlink_to(file.resolve())
            pipeline = getattr(diffusers, kind.pipeline).from_single_file(
                str(link), config=str(configs), local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{file} does not fit the configurations in {configs} ({first_line(error)}).",
            f"Give --config-from the folder of the {kind.title} model that it was made from.",
        ) from error
    if "v_pred" in content.tensors:  # the mark of SDXL finetunes with v-prediction
        changes: dict[str, Any] = {"prediction_type": "v_prediction"}
        if "ztsnr" in content.tensors:
            changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        scheduler = pipeline.scheduler
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, **changes)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline


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
