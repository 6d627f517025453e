"""Runs that train the text encoder: what they change, resume, refuse, and leave for an export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from click.testing import CliRunner
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from erase.artifacts.packaged import EMBEDDED
from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.config.methods import build_method
from erase.errors import InputError
from erase.export.export import export
from erase.files import read_json
from erase.models.loading import save_pipeline
from erase.tasks import sd3
from erase.training.estimate import estimate
from erase.training.loop import UnlearningLoop, build_optimizer
from erase.training.plan import plan
from erase.training.trained import check_text, check_trained, trained_text
from tests import tiny_pipelines
from tests.denoiser_world import config, method
from tests.tiny import tiny_task

BASE = ["concept", "--model", "mini-sd", "--concept", "three", "--device", "cpu"]


def text_task() -> Any:
    task = tiny_task()
    task.parameters = trained_text({"text_encoder": task.text.encoders[0]}, task.model)
    return task


def test_the_layers_are_trained_and_neither_embeddings_nor_the_denoiser() -> None:
    task = text_task()
    names = set(task.parameters)
    assert any("encoder.layers.0.self_attn.q_proj.weight" in name for name in names)
    assert any("final_layer_norm.bias" in name for name in names)
    assert not any("embedding" in name for name in names)
    frozen = [p for p in task.text.encoders[0].parameters() if not p.requires_grad]
    assert len(frozen) == 2
    assert not any(p.requires_grad for p in task.model.parameters())


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    made = config(
        "text-to-image",
        "advunlearn",
        settings={"warmup": 1},
        max_train_steps=4,
        checkpointing_steps=2,
        checkpoints_total_limit=0,
        lr_scheduler="constant",
    )

    def run(resume: Path | None) -> dict[str, torch.Tensor]:
        task = text_task()
        unet = {name: p.clone() for name, p in task.model.named_parameters()}
        loop = UnlearningLoop(
            task,
            build_method(made, "text-to-image"),
            made,
            Accelerator(cpu=True),
            build_optimizer(made, list(task.parameters.values())),
            folder=tmp_path,
            show=False,
        )
        start = {name: p.detach().clone() for name, p in task.parameters.items()}
        loop.run(resume)
        assert all(torch.equal(unet[name], p) for name, p in task.model.named_parameters())
        assert all(not torch.equal(start[name], p) for name, p in task.parameters.items())
        return {name: p.detach().clone() for name, p in task.parameters.items()}

    whole, rest = run(None), run(tmp_path / "checkpoint-2")
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_a_run_leaves_a_pipeline_with_another_text_encoder(tmp_path: Path) -> None:
    options = [
        *("--method", "advunlearn", "--max-train-steps", "3", "--train-batch-size", "4"),
        *("--set", "samples=denoised", "--set", "sampling_steps=2", "--set", "warmup=2"),
        *("--set", "attack_steps=1", "--lr-warmup-steps", "0", "--output", str(tmp_path / "run")),
        *("--validation-prompts", "a handwritten three", "--render-steps", "2"),
    ]
    done = CliRunner().invoke(main, [*BASE, *options])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "run"
    assert not (folder / "data").exists()  # prompts alone: nothing is rendered
    for part, file in (
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ):
        before = load_file(EMBEDDED["mini-sd"] / part / file)
        after = load_file(folder / part / file)
        assert set(before) == set(after)
        changed = {k for k in before if not torch.equal(before[k].float(), after[k].float())}
        assert bool(changed) == (part == "text_encoder")
        assert not any("embedding" in name for name in changed)
    pipeline = DiffusionPipeline.from_pretrained(str(folder), use_safetensors=True)
    assert pipeline("a handwritten three", num_inference_steps=1, output_type="np").images.any()
    sheets = sorted((folder / "validation").glob("step-*/images/*.png"))
    assert len({file.read_bytes() for file in sheets}) == len(sheets) == 2
    assert read_json(folder / "record.json")["trained_parts"] == ["text_encoder"]
    for kind in ("unet", "lora", "diff"):
        with pytest.raises(InputError, match="trained text_encoder") as refused:
            export(folder, tmp_path / "out.safetensors", kind=kind)
        assert "single-file" in refused.value.remedy
    whole = export(folder, tmp_path / "whole.safetensors", kind="single-file", dtype="fp32")
    assert whole.tensors > 0


def test_what_cannot_be_trained_is_refused() -> None:
    from erase.tasks.text_to_image import FAMILY

    made = method("text-to-image", "advunlearn")
    text = ConceptConfig(method="advunlearn", trainable="text")
    check_text(made, FAMILY, text)
    with pytest.raises(InputError, match="esd trains the denoiser"):
        check_text(method("text-to-image", "esd"), FAMILY, text.replace(method="esd"))
    with pytest.raises(InputError, match="not possible for Stable Diffusion 3"):
        check_text(made, sd3.FAMILY, text.replace(trainable="xattn"))
    with pytest.raises(InputError, match="--lora-rank trains adapters on the denoiser"):
        check_trained(tiny_task().model, text.replace(lora_rank=4))
    refused = CliRunner().invoke(
        main, [*BASE, "--method", "lur", "--trainable", "text", "--output", "x", "--dry-run"]
    )
    assert refused.exit_code == 2
    assert "lur trains the denoiser" in refused.output


def test_a_dry_run_estimates_it(tmp_path: Path) -> None:
    save_pipeline(tiny_pipelines.sd(), tmp_path, torch.float32)
    settings: dict[str, Any] = {"model": str(tmp_path), "concept": ("car",), "max_train_steps": 4}
    found = {}
    for trainable in ("text", "full"):
        config = ConceptConfig(
            method="advunlearn", trainable=trainable, train_batch_size=8, **settings
        )
        found[trainable] = estimate(plan(config, device="cpu"), device="cpu").phases["train"]
    assert 0 < found["text"] < found["full"]
