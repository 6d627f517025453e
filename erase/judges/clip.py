"""Cosine of images and their captions under a CLIP model.

Written on transformers' `CLIPModel`: torchmetrics 1.9's CLIPScore does not run on transformers 5.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erase.artifacts.weights import CLIP, find_clip
from erase.errors import InputError
from erase.files import hash_files
from erase.judges.images import halving, read_rgb
from erase.reading import expanded
from erase.scoring.context import PerImage
from erase.scoring.judge import Judge, View

BATCH = 32
FILES = ("*.safetensors", "*.json", "*.txt")


class Clip(Judge[PerImage]):
    """A CLIP model from a folder, or by a short name (`vit-l-14`, `vit-b-32`).

    InputError when it is not on this machine.
    """

    def __init__(self, model: str = "vit-l-14", device: str = "cpu") -> None:
        self.device = device
        if model in CLIP:
            self.folder, name, self.description = find_clip(model), model, CLIP[model]
        else:
            self.folder = expanded(model)
            name = self.description = Path(model).name
            if not (self.folder / "config.json").is_file():
                raise InputError(
                    f"{model} is no CLIP model.", f"Known: {', '.join(CLIP)}; or a local folder."
                )
        self.network = re.sub(r"\W+", "_", name).strip("_").lower()

    def fingerprint(self) -> str:
        """SHA-256 over the model's files."""
        return hash_files({f for kind in FILES for f in self.folder.glob(kind)}, self.folder)

    @torch.no_grad()
    def look(self, view: View) -> PerImage:
        """Cosine of each image and its sample's caption, from -1 to 1.

        Captions are cut at the model's 77 tokens; `detail` counts how many were.
        """
        model, processor = self._load()
        limit = int(model.config.text_config.max_position_embeddings)
        captions = [sample.prompt for sample in view.samples]
        cut = sum(len(ids) > limit for ids in processor.tokenizer(captions)["input_ids"])
        values = [np.zeros(0)]
        for start in range(0, len(view.files), BATCH):
            images = [read_rgb(file) for file in view.files[start : start + BATCH]]
            inputs = processor(
                text=captions[start : start + BATCH],
                images=images,
                return_tensors="pt",
                padding="max_length",
                max_length=limit,
                truncation=True,
            ).to(self.device)
            names = list(inputs)

            def similarity(*given: torch.Tensor, names: list[str] = names) -> torch.Tensor:
                output = model(**dict(zip(names, given, strict=True)))
                # Both are of length 1.
                pairs: torch.Tensor = output.image_embeds * output.text_embeds
                return pairs.sum(dim=-1)

            values.append(halving(similarity, *inputs.values()).double().cpu().numpy())
        detail = {"captions_cut_at_tokens": limit, "captions_cut": cut}
        return PerImage(self.network, self.description, np.concatenate(values), detail)

    def _load(self) -> tuple[Any, Any]:
        from transformers import CLIPModel, CLIPProcessor

        try:
            model = CLIPModel.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            processor = CLIPProcessor.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.folder} cannot be loaded as a CLIP model: {str(error).splitlines()[0]}",
                "Give a folder with model.safetensors, tokenizer and preprocessor_config.json.",
            ) from error
        return model.eval().to(self.device), processor
