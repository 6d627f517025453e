"""SD-1.4's exact architecture at random weights: load, train, save, render (slow, 12 GB).

Needs the configuration and tokenizer files of CompVis/stable-diffusion-v1-4 (a diffusers folder;
its weights are not read): `ERASE_SD14_CONFIGS=FOLDER make test-slow`.
"""

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from erase.cli.main import main
from erase.files import read_json, read_jsonl
from erase.models.loading import load_pipeline, resolve

CONFIGS = os.environ.get("ERASE_SD14_CONFIGS", "")
LIMIT = 12 * 2**30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(
        not Path(CONFIGS, "model_index.json").is_file(),
        reason="ERASE_SD14_CONFIGS does not name a folder with SD-1.4's configurations",
    ),
]


def random_weights(folder: Path) -> None:
    """The whole model in the folder, part by part, in half precision."""
    shutil.copytree(CONFIGS, folder, ignore=shutil.ignore_patterns("safety_checker"))
    index = read_json(folder / "model_index.json")
    index["safety_checker"] = index["feature_extractor"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    torch.manual_seed(0)
    for name, kind in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel)):
        part = kind.from_config(kind.load_config(str(folder / name)))
        part.half().save_pretrained(folder / name)
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    text.half().save_pretrained(folder / "text_encoder")


def test_sd14_whole(tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    random_weights(base)
    for name in ("forget", "retain"):
        (tmp_path / name).mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
        (tmp_path / f"{name}.txt").write_text(f"a photo of a {name}\n")
    arguments = [
        *("concept", "--model", str(base), "--concept", "cat", "--anchor", "a photo of a dog"),
        *("--forget-images", str(tmp_path / "forget"), "--retain-images", str(tmp_path / "retain")),
        *("--forget-prompts", str(tmp_path / "forget.txt")),
        *("--retain-prompts", str(tmp_path / "retain.txt")),
        *("--trainable", "xattn", "--gradient-checkpointing", "--train-batch-size", "1"),
        *("--max-train-steps", "2", "--save-dtype", "fp16", "--device", "cpu"),
        *("--output", str(run)),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = read_jsonl(run / "log.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["retain_loss"]) and row["forget_loss"] > 0 for row in rows)

    file = Path("unet") / "diffusion_pytorch_model.safetensors"
    before, after = load_file(base / file), load_file(run / file)
    assert sum(tensor.numel() for tensor in after.values()) == 859_520_964
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    del before, after
    assert moved
    assert all("attn2" in name for name in moved)

    pipeline = load_pipeline(resolve(str(run)))
    assert isinstance(pipeline, StableDiffusionPipeline)
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}
    image = pipeline("a photo of a dog", generator=generator, **options).images[0]
    assert image.shape == (512, 512, 3)
    assert np.isfinite(image).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < LIMIT
