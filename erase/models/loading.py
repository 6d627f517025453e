"""From `--model` to a local diffusers folder, and from there to a pipeline.

`--model` is an alias (`mini-sd`, `sd-1.4`, …), a folder, a single-file checkpoint or a hub id.
Only safetensors are loaded, never pickle, and never code that came with the weights.
"""

import inspect
import os
import re
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from msgspec import Meta
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from erase.artifacts import hub
from erase.artifacts.models import (
    HUB,
    NETWORKS,
    OWN,
    REVISIONS,
    check_model,
    model_snapshot,
    own_model_folder,
    read_index,
)
from erase.artifacts.packaged import EMBEDDED
from erase.errors import EraseError, InputError, MissingError, first_line
from erase.files import hash_files, read_json, write_json
from erase.models.class_conditional import ClassConditionalPipeline
from erase.models.configs import drop_paths, read_config
from erase.models.parts import (
    THIRD,
    check_folder,
    check_tokenizers,
    load_networks,
    square_side,
)
from erase.models.single_file import unpack
from erase.models.weights import check_finite, write_weights
from erase.reading import expanded
from erase.runs.manifest import check_combined
from erase.runs.unfinished import check_finished

WEIGHTS = ("*.safetensors", "*.json", "*.txt")
_UNWANTED: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
_SAME_PARTS = {
    f"StableDiffusion{version}{use}Pipeline": f"StableDiffusion{version}Pipeline"
    for version in ("", "XL", "3")
    for use in ("Img2Img", "Inpaint")
}
"""Pipelines that are made of the parts of the text-to-image pipeline, by class."""


class Named(TypedDict):
    """What every `model_index.json` says."""

    _class_name: str


class Index(TypedDict, total=False):
    """What a `model_index.json` says of a class-conditional model."""

    id2label: dict[str, str] | None
    synonyms: dict[str, str] | None


class Levels(TypedDict):
    """What the configuration of a VAE says."""

    block_out_channels: Annotated[list[int], Meta(min_length=1, max_length=16)]


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine.

    `name` is the user's name for it (the whole path of a single file), `path` its diffusers folder,
    `revision` the hub commit, `is_folder` whether the user named a folder.
    """

    name: str
    path: Path
    revision: str | None = None
    is_folder: bool = False

    @property
    def full_name(self) -> str:
        """The name with the whole path of a folder, so that it is valid in other folders too."""
        return str(self.path.resolve()) if self.is_folder else self.name

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
        deciding = {index, *files}
        combined = hash_files(deciding, self.path)
        check_combined(self.path, deciding, combined)
        return combined

    def pipeline_class(self) -> str:
        """Name of the pipeline's class; an image-to-image model is its text-to-image pipeline."""
        kind = read_json(self.path / "model_index.json", Named)["_class_name"]
        return _SAME_PARTS.get(kind, kind)

    def classes(self) -> dict[str, str]:
        """Class by each of its names, in label order; empty if the model has no classes."""
        index = read_json(self.path / "model_index.json", Index)
        named = index.get("id2label") or {}
        if wrong := [label for label in named if not re.fullmatch(r"[0-9]{1,9}", label)]:
            raise InputError(
                f"{self.path / 'model_index.json'} has a class {wrong[0]!r} that is no number.",
                "Restore the file from what wrote it.",
            )
        names = [named[label] for label in sorted(named, key=int)]
        return {name: name for name in names} | dict(index.get("synonyms") or {})

    def latent_factor(self) -> int:
        """Pixels a side that one latent stands for; 1 for a model of pixels."""
        config = self.path / "vae" / "config.json"
        if not config.is_file():
            return 1
        return int(2 ** (len(read_json(config, Levels)["block_out_channels"]) - 1))

    def resolution(self) -> int:
        """Pixels a side of the images that the model was trained on.

        Raises InputError for images that are not square.
        """
        configs = [self.path / name / "config.json" for name in NETWORKS]
        config = next((config for config in configs if config.is_file()), configs[0])
        return square_side(read_config(config), config) * self.latent_factor()

    def check(self, *, weights: bool = True) -> None:
        """Check that the folder is complete and its parts fit; see `parts.check_folder`."""
        check_folder(self.path, _class_of(self.pipeline_class()), weights=weights)


def resolve(
    model: str,
    revision: str | None = None,
    *,
    fetch: bool = True,
    config_from: str | None = None,
    weights: bool = True,
) -> ModelSource:
    """Find a model: an alias, a local diffusers folder, a single-file checkpoint, or a hub id.

    A hub model that is not on this machine is downloaded, unless `fetch` is off. `config_from` is
    a diffusers folder with the configurations for a single file; see `single_file.unpack`. Without
    `weights` a single file is not unpacked, and the folder may lack them.

    Raises InputError when it is none of these, or cannot be downloaded.
    """
    check_finished(expanded(model))
    check_model(model)
    if config_from and not expanded(model).is_file():
        raise InputError(
            "--config-from is for a --model that is a single file.", "Leave --config-from out."
        )
    if model in EMBEDDED:
        return ModelSource(model, EMBEDDED[model])
    if model in OWN:
        return _own_model(model)
    folder = expanded(model)
    if folder.is_dir():
        return ModelSource(model, folder, is_folder=True)
    if folder.is_file():
        configs = expanded(config_from) if config_from else None
        return ModelSource(
            str(folder.resolve()), unpack(folder, configs, fetch=fetch, weights=weights)
        )
    return _from_hub(model, HUB.get(model, model), revision, fetch)


def _own_model(model: str) -> ModelSource:
    folder = own_model_folder(model)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{model} is not in {folder}. No public weights of this model exist.",
            f"Train it (hours on a GPU): erase train ddpm --dataset cifar10 --output {folder}",
        )
    return ModelSource(model, folder)


def _from_hub(model: str, hub_id: str, revision: str | None, fetch: bool) -> ModelSource:
    pinned = revision or REVISIONS.get(hub_id)
    attempts = ((pinned, True), (revision, True), (pinned, False))
    try:
        path = hub.first_of(
            partial(model_snapshot, hub_id, commit, local=local)
            for commit, local in (attempts if fetch else attempts[:2])
        )
    except hub.HubError as error:
        raise MissingError(
            (f"There is no folder {model} here, and the" if model == hub_id else "The")
            + f" hub model {hub_id} is not on this machine"
            + (f" and could not be fetched ({error.reason})." if fetch else "."),
            f"With network: erase fetch --model {model}; or give a folder that holds it as"
            " --model.",
        ) from error
    return ModelSource(model, path, revision=path.name)


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
    source.check()
    kind = _class_of(source.pipeline_class()) or DiffusionPipeline
    takes = inspect.signature(kind.__init__).parameters
    options = {name: value for name, value in _UNWANTED.items() if name in takes}
    options |= {name: None for name in THIRD if name in takes and not _named(source, name)}
    options |= components
    try:
        networks = load_networks(source.path, options)
        pipeline = kind.from_pretrained(
            str(source.path), local_files_only=True, use_safetensors=True, **networks, **options
        )
    except (EraseError, MemoryError):
        raise
    except Exception as error:  # the libraries raise any kind for a configuration that is wrong
        raise InputError(
            f"{source.path} cannot be loaded ({type(error).__name__}): {first_line(error)}",
            "A complete diffusers folder with safetensors weights is needed.",
        ) from error
    check_tokenizers(pipeline, source.path)
    for part in pipeline.components.values():
        # The argument of from_pretrained changed its name with diffusers, and transformers loads
        # the stored dtype where diffusers loads float32.
        if isinstance(part, torch.nn.Module) and part.dtype != dtype:
            torch.nn.Module.to(part, dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _class_of(kind: str) -> type[DiffusionPipeline] | None:
    if kind == ClassConditionalPipeline.__name__:
        return ClassConditionalPipeline
    found = getattr(diffusers, kind, None)
    return found if isinstance(found, type) and issubclass(found, DiffusionPipeline) else None


def _named(source: ModelSource, part: str) -> bool:
    return any(read_index(source.path).get(part, ()))


def save_pipeline(pipeline: DiffusionPipeline, folder: Path, dtype: torch.dtype) -> None:
    """Write a complete diffusers folder: safetensors only, readable by all users.

    Every version of transformers since 4.54, and programs that read the files themselves, find the
    text encoder's tensors and the vocabulary. The weights are stored in `dtype`; the pipeline's
    parts are converted in place. RunError, before anything is written, when a weight is not finite
    in it.
    """
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            check_finite(part.state_dict(), name, dtype)
            torch.nn.Module.to(part, "cpu", dtype)  # diffusers' own `to` warns that CPUs lack fp16
            part.eval()
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name, part in pipeline.components.items():
        if isinstance(part, CLIPTextModel | CLIPTextModelWithProjection):
            _name_like_clip(folder / name / "model.safetensors")
        elif isinstance(part, PreTrainedTokenizerBase):
            _write_vocabulary(part, folder / name)
    drop_paths(folder)
    for config in folder.glob("text_encoder*/config.json"):
        # transformers loads the dtype in its config, diffusers float32: make both load float32.
        write_json(config, {**read_json(config), "dtype": "float32"})
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner only


def _name_like_clip(file: Path) -> None:
    """Give a text encoder's tensors CLIP's own names, `text_model.…`, which every reader knows.

    transformers leaves the prefix out from 5.6 on; before that it does not know the bare names.
    """
    tensors = {
        name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": t
        for name, t in load_file(file).items()
    }
    write_weights(file, tensors, {})


def _write_vocabulary(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the files of transformers 4's slow CLIP tokenizer beside `tokenizer.json`."""
    if "merges_file" not in tokenizer.vocab_files_names or not tokenizer.is_fast:
        return
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    write_json(folder / "special_tokens_map.json", dict(tokenizer.special_tokens_map))
