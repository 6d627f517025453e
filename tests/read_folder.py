"""Read a diffusers folder with whatever diffusers and transformers are installed; print what came.

Prints one line of JSON: versions, tensors of each text encoder with the values of the file and all
that it has, the tokens of a prompt, and the mean of each corner of a picture. It imports nothing
of this project, so that any environment can run it: python read_folder.py FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file

PROMPT = "a photo of a Red car, the digit three"


def encoders(pipeline: Any, folder: Path) -> dict[str, list[int]]:
    """For each text encoder: tensors that are the file's, and all tensors."""
    counts = {}
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(pipeline, name, None) is not None:
            stored = load_file(folder / name / "model.safetensors")
            stored = {key.removeprefix("text_model."): t for key, t in stored.items()}
            state = getattr(pipeline, name).state_dict()
            same = [
                torch.equal(tensor.float(), stored[key.removeprefix("text_model.")].float())
                for key, tensor in state.items()
                if key.removeprefix("text_model.") in stored
            ]
            counts[name] = [sum(same), len(state)]
    return counts


def read(folder: Path) -> dict[str, Any]:
    """What this environment makes of the folder."""
    index = json.loads((folder / "model_index.json").read_text())
    third = ("text_encoder_3", "tokenizer_3") if "transformer" in index else ()
    # diffusers has to be told that Stable Diffusion 3 is meant without T5.
    absent = {name: None for name in third if not any(index.get(name) or ())}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(folder), **absent)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        PROMPT,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    half = len(image) // 2
    rows = (image[:half], image[half:])
    slow = transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    return {
        "transformers": transformers.__version__,
        "diffusers": diffusers.__version__,
        "encoders": encoders(pipeline, folder),
        "tokens": [list(t(PROMPT).input_ids) for t in (pipeline.tokenizer, slow)],
        "corners": [float(part.mean()) for row in rows for part in (row[:, :half], row[:, half:])],
    }


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]))))  # noqa: T201
