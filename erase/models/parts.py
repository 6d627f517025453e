"""The parts of a diffusers folder: each is loaded whole, or the folder is refused.

The libraries load a network whose file lacks tensors and fill the gap with random numbers, and a
tokenizer without its vocabulary. A model like that renders, and seems to have forgotten everything.
"""

import inspect
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from msgspec import Meta
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from erase.artifacts.models import NETWORKS, missing_parts, read_index
from erase.config.limits import PIXELS
from erase.errors import InputError
from erase.files import read_json
from erase.models.configs import read_config
from erase.models.weights import part_variant

THIRD = ("text_encoder_3", "tokenizer_3")
"""Parts that Stable Diffusion 3 works without, if both are left out."""
SUFFIX = ".safetensors"
NEEDED = (
    *NETWORKS, "vae", "scheduler", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2",
)  # fmt: skip
"""Parts that no pipeline works without, if its class takes them; diffusers loads some as None."""
_OTHER_PARTS = re.compile(
    r"(.*\.)?position_ids|vision_model\..*|(visual|text)_projection\.weight|logit_scale"
)
"""Tensors of a whole CLIP model, and of old versions, that a text encoder has no place for."""


class TextSizes(TypedDict, total=False):
    """What the configuration of a text encoder may say."""

    vocab_size: Annotated[int, Meta(ge=1)] | None
    max_position_embeddings: Annotated[int, Meta(ge=1)] | None


def check_folder(
    folder: Path, kind: type[DiffusionPipeline] | None, *, weights: bool = True
) -> None:
    """Check from the configurations alone that a diffusers folder is complete and its parts fit.

    Args:
        folder: the diffusers folder.
        kind: class of its pipeline; None if diffusers has no such class.
        weights: whether the weights have to be there, and not the configurations alone.

    Raises:
        InputError: a part is missing or has no safetensors weights, a tokenizer has no vocabulary,
            or the networks take other inputs than the pipeline gives them.
    """
    for pattern in ("*/config.json", "*/*_config.json"):  # the libraries read them with no limit
        for file in sorted(folder.glob(pattern)):
            read_config(file)
    present = read_index(folder)
    takes = inspect.signature(kind.__init__).parameters if kind else {}
    missing = [name for name in NEEDED if name in takes and name not in present]
    missing += [name for name in THIRD if name not in present and present.keys() & THIRD]
    absent = [name for name in missing_parts(folder) if weights or not name.endswith(SUFFIX)]
    if missing := missing or absent:
        raise InputError(
            f"{folder} is not complete: {', '.join(missing)} is missing.",
            "A complete diffusers folder with safetensors weights is needed.",
        )
    for name in sorted(present):
        if name.startswith("tokenizer"):
            _check_vocabulary_files(folder / name, present[name][1])
    if kind is not None and kind.__name__.startswith("StableDiffusion"):
        _check_inputs(folder)


def _check_vocabulary_files(folder: Path, kind: str) -> None:
    """The files of a tokenizer: `tokenizer.json`, or all the others that its class reads."""
    wanted = dict(getattr(getattr(transformers, kind, None), "vocab_files_names", {}))
    whole = wanted.pop("tokenizer_file", "tokenizer.json")
    rest = [name for name in wanted.values() if not (folder / name).is_file()]
    if not (folder / whole).is_file() and (rest or not wanted):
        raise InputError(
            f"{folder} has no vocabulary: {' and '.join([whole, *rest])} is missing.",
            "Copy the tokenizer's files from the original model.",
        )


def _check_inputs(folder: Path) -> None:
    """Channels of the latents and width of the text, between the parts of Stable Diffusion."""

    def number(part: str, name: str) -> int | None:
        file = folder / part / "config.json"
        value = read_config(file).get(name) if file.is_file() else None
        return value if isinstance(value, int) else None

    denoiser = next(name for name in NETWORKS if (folder / name).is_dir())
    channels, latent = number(denoiser, "in_channels"), number("vae", "latent_channels")
    if channels is not None and latent is not None and channels != latent:
        raise InputError(
            f"{folder / denoiser} takes {channels} channels, as for inpainting or editing, and the"
            f" VAE gives {latent}.",
            "Give a text-to-image model.",
        )
    width = number(denoiser, "cross_attention_dim")
    texts = [number(part, "hidden_size") for part in ("text_encoder", "text_encoder_2")]
    given = sum(text or 0 for text in texts)
    if width is not None and texts[0] is not None and width != given:
        raise InputError(
            f"{folder / denoiser} reads texts of width {width}, the text encoders give {given}.",
            "Give the UNet and the text encoders of one model.",
        )


def load_networks(folder: Path, without: Collection[str]) -> dict[str, torch.nn.Module]:
    """Load the networks that `model_index.json` names, on the CPU, by the name of the part.

    Args:
        folder: the diffusers folder.
        without: names of parts to leave out.

    Raises:
        InputError: a file lacks a tensor, has one that the network has no place for, or one of
            another shape.
        OSError, ValueError, RuntimeError: from the libraries, for a file that cannot be read.
    """
    networks = {}
    for name, (library, kind_name) in read_index(folder).items():
        if name in without:
            continue
        module = {"diffusers": diffusers, "transformers": transformers}.get(library)
        kind = getattr(module, kind_name, None)
        if isinstance(kind, type) and issubclass(kind, ModelMixin | PreTrainedModel):
            networks[name] = _load_whole(kind, folder / name)
    return networks


def _load_whole(kind: Any, folder: Path) -> torch.nn.Module:
    options: dict[str, Any] = {}
    if issubclass(kind, PreTrainedModel):
        options = {"ignore_mismatched_sizes": True}
    elif isinstance(side := read_config(folder / "config.json").get("sample_size"), list):
        options = {"sample_size": side[0]} if len(set(side)) == 1 else {}
    network, report = kind.from_pretrained(
        str(folder),
        use_safetensors=True,
        local_files_only=True,
        variant=part_variant(folder),
        output_loading_info=True,
        **options,
    )
    unexpected = [name for name in report["unexpected_keys"] if not _OTHER_PARTS.fullmatch(name)]
    wrong = {
        "lacks": list(report["missing_keys"]),
        "has a tensor of another shape:": [row[0] for row in report["mismatched_keys"]],
        "holds what the network has no place for:": unexpected,
    }
    for what, names in wrong.items():
        if names:
            more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
            raise InputError(
                f"{folder} {what} {min(names)}{more}.",
                "Its weights and its config.json are not of one model, or of another version:"
                " restore them from the original.",
            )
    assert isinstance(network, torch.nn.Module)
    return network


def square_side(config: Mapping[str, Any], file: Path) -> int:
    """Pixels or latents a side from a network's configuration: `8`, or `[8, 8]`.

    Raises InputError when `sample_size` is missing or not square.
    """
    side = config.get("sample_size")
    first, *others = side if isinstance(side, list) and side else [side]
    if type(first) is not int or not 1 <= first <= PIXELS or any(s != first for s in others):
        raise InputError(
            f"{file}: sample_size is {side!r}.",
            "Write one whole number there: the height and width that the model was trained on.",
        )
    return first


def _tells_apart(tokenizer: PreTrainedTokenizerBase, *texts: str) -> bool:
    try:
        return len({tuple(tokenizer(text).input_ids) for text in texts}) == len(texts)
    except Exception:  # the tokenizers library raises no other kind
        return False


def check_tokenizers(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Refuse tokenizers that do not belong to their text encoder; complete their length.

    A tokenizer that states no length, or a longer one than its text encoder, gets the encoder's.
    Raises InputError for a vocabulary that is missing, cut, or another model's.
    """
    for name, tokenizer in pipeline.components.items():
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            continue
        encoder = folder / name.replace("tokenizer", "text_encoder") / "config.json"
        config = read_json(encoder, TextSizes, finite=False) if encoder.is_file() else TextSizes()
        known, rows = len(tokenizer), config.get("vocab_size") or len(tokenizer)
        if not 0.9 * rows <= known <= rows or not _tells_apart(tokenizer, "a", "b"):
            raise InputError(
                f"{folder / name} knows {known} tokens, and the text encoder {rows}.",
                "Copy the tokenizer's files from the original model.",
            )
        longest = config.get("max_position_embeddings")
        if longest and tokenizer.model_max_length > longest:
            tokenizer.model_max_length = longest
