"""The data of a denoiser's training: sets of images and all conditions, encoded once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from erase.errors import InputError
from erase.files import write_bytes
from erase.reading import fitted, parse_json

_PARTS = ("mean", "std", "condition")


@dataclass(frozen=True)
class EncodedImages:
    """Images as the denoiser sees them, each with the row of its condition.

    `mean` and `std` are `[N, C, h, w]`: the moments of the VAE's posterior, already scaled, or
    pixels with a `std` of 0. `condition[N]` indexes the rows of `LatentCache.conditions`.
    """

    mean: Tensor
    std: Tensor
    condition: Tensor

    def __len__(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class LatentCache:
    """The data of training: encoded sets of images, and all conditions.

    `sets` has `forget` and `retain`, and others that a method asks for. `conditions` are
    tensors `[P, …]`, one row a condition, by the name that the family's `arguments` uses
    (`states [P, L, D]`). `anchors [P, A]` lists the rows that may be shown instead of row p;
    `empty` is the row of the empty prompt or the null class, `prompts` the row of each prompt.
    """

    sets: Mapping[str, EncodedImages]
    conditions: Mapping[str, Tensor]
    anchors: Tensor
    empty: int
    prompts: Mapping[str, int] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {f"condition.{name}": tensor for name, tensor in self.conditions.items()}
        tensors["anchors"] = self.anchors
        for name, images in self.sets.items():
            tensors |= {f"set.{name}.{part}": getattr(images, part) for part in _PARTS}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        rows = {"empty": str(self.empty), "prompts": json.dumps(dict(self.prompts))}
        write_bytes(path, save(tensors, rows))

    @classmethod
    def read(cls, path: Path) -> "LatentCache":
        """Read what `write` wrote; InputError for a broken file."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                rows = file.metadata()
                empty, prompts = int(rows["empty"]), parse_json(rows.get("prompts", "{}"))
            sets = sorted({name.split(".")[1] for name in tensors if name.startswith("set.")})
            return cls(
                sets={
                    name: EncodedImages(*(tensors[f"set.{name}.{part}"] for part in _PARTS))
                    for name in sets
                },
                conditions={
                    name.removeprefix("condition."): tensor
                    for name, tensor in tensors.items()
                    if name.startswith("condition.")
                },
                anchors=tensors["anchors"],
                empty=empty,
                prompts=fitted(prompts, dict[str, int], str(path)),
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is not a readable latent cache.", "Delete it; the run makes it anew."
            ) from error
