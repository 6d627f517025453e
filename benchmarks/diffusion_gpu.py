"""Diffusion on a GPU: forgetting in a CIFAR-10 DDPM, and what a step on SD-1.4 costs.

    python -m benchmarks.diffusion_gpu --part ddpm --data-dir DATA --weights resnet56-4bfd9763.th
    python -m benchmarks.diffusion_gpu --part sd14
    python -m benchmarks.diffusion_gpu --slice --device cpu      # both, tiny: to see that they work

`ddpm`: the sources' UNet at 112 channels (27.4 M parameters) is trained for so many minutes, then
each of two classes is forgotten by each method, and 250 images a class are rendered (DDIM, 50
steps, guidance 3: the published w = 2) and judged by a CIFAR-10 ResNet-56. UA is the share of the
forgotten class's images that are not recognised as it, RA the accuracy on the others, FD the
Fréchet distance of the others' features (those of the classifier) to the real test images'.
All is done through the command line, and what is finished is not done again.

`sd14`: SD-1.4's architecture at random weights, 512 px, batch 8, bf16, gradient checkpointing;
every case in a process of its own, LUR-b first and last, so that drift shows. Bars: LUR at most
1.6 times LUR-b's time, and at most its memory plus two copies of the trained parameters.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from erase.core.params import select_parameters
from erase.core.rng import derive_seed
from erase.data.classification import load_dataset
from erase.files import read_json, read_jsonl, write_json
from erase.models.class_conditional import ClassConditionalPipeline
from erase.models.classifiers import Classifier, load_classifier
from erase.models.loading import load_pipeline, resolve
from erase.scoring.frechet import frechet_distance
from erase.tasks.class_conditional import class_names

METHODS = ("lur", "lur-b", "salun", "esd")
FORGOTTEN = ("dog", "airplane")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lur-b": ("lur-b", {}),
    "lur hvp": ("lur", {"meta_mode": "hvp"}),
    "lur hvp (shift)": ("lur", {"meta_mode": "hvp", "alpha": 1e-9}),
    "lur first-order": ("lur", {"meta_mode": "first-order"}),
    "lur exact": ("lur", {"meta_mode": "exact"}),
    "salun": ("salun", {}),
    "esd": ("esd", {}),
    "lur-b again": ("lur-b", {}),
}


def erase(*arguments: str) -> None:
    """A command of erase in a process of its own."""
    print("erase", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "erase", *arguments], check=True)


def finished(folder: Path) -> bool:
    """Whether the run in the folder is complete."""
    record = folder / "record.json"
    return record.is_file() and read_json(record).get("status") == "finished"


def ddpm(given: argparse.Namespace) -> dict[str, Any]:
    """Train, forget, judge; the table as a dictionary."""
    root: Path = given.output
    data = ["--dataset", "digits" if given.slice else "cifar10"]
    where = ["--data-dir", str(given.data_dir)] if given.data_dir else []
    device = ["--device", given.device]
    training = [*data, *where, *device, "--checkpointing-steps", "5000"]
    if given.slice:
        training += ["--channels", "16", "--train-batch-size", "32"]
        forgotten: Sequence[str] = ("three", "nine")
        steps, images, sampling = 30, 4, 4
        few = ["--max-train-steps", "3", "--train-batch-size", "8", "--num-retain-images", "64"]
    else:
        training += ["--channels", "112", "--mixed-precision", "bf16"]
        forgotten, few = FORGOTTEN, ["--mixed-precision", "bf16"]
        steps, images, sampling = _affordable(training, root, given.minutes), 250, 50
    original, judge = root / "original", root / "judge"
    if not finished(original):
        arguments = [*training, "--max-train-steps", str(steps)]
        erase("train", "ddpm", *arguments, *_resume(original))
    if not finished(judge):
        how = ["--arch", "cnn", "--epochs", "3"] if given.slice else ["--arch", "resnet56"]
        how += ["--weights", str(given.weights)] if given.weights else []
        erase("train", "classifier", *data, *where, *how, *device, "--output", str(judge))
    table: dict[str, Any] = {"steps": steps, "images_per_class": images}
    table["original"] = {
        name: _judged(given, original, name, images, sampling) for name in forgotten
    }
    for name in forgotten:
        for method in METHODS:
            folder = root / f"{method}-{name}"
            if not finished(folder):
                erase(
                    *("class", "--model", str(original), "--target", name, "--data", data[1]),
                    *(*where, *device, *few, "--method", method, *_resume(folder)),
                )
            scores = _judged(given, folder, name, images, sampling)
            table.setdefault(method, {})[name] = scores
            print(f"{method:8} {name:10}", json.dumps(scores), flush=True)
    return table


def _resume(folder: Path) -> list[str]:
    return ["--output", str(folder), "--resume-from-checkpoint", "latest"]


def _affordable(training: list[str], root: Path, minutes: float) -> int:
    """Steps that fit into the minutes, by timing the last 100 of 150."""
    trial = root / "trial"
    if not finished(trial):
        erase("train", "ddpm", *training, "--max-train-steps", "150", *_resume(trial))
    config = read_json(trial / "record.json")
    batch = 128 * config["processes"]
    rates = [row["images_per_s"] for row in read_jsonl(trial / "log.jsonl")[50:]]
    return int(minutes * 60 * float(np.median(rates)) / batch)


@torch.no_grad()
def _judged(
    given: argparse.Namespace, folder: Path, forgotten: str, images: int, steps: int
) -> dict[str, float]:
    """UA and RA in percent, and the Fréchet distance of the other classes."""
    path = folder / f"scores-{forgotten}.json"
    if path.is_file():
        return dict(read_json(path))
    pipeline: ClassConditionalPipeline = load_pipeline(resolve(str(folder))).to(given.device)
    judge, description = load_classifier(given.output / "judge")
    judge, size = judge.to(given.device).eval(), description.image_size
    data = load_dataset(description.dataset, given.data_dir)
    label_of = {name: label for label, name in enumerate(class_names(data))}
    right, found = {}, []
    for name in pipeline.classes:
        parts = []
        for start in range(0, images, 125):
            seeds = range(start, min(start + 125, images))
            generators = [
                torch.Generator().manual_seed(derive_seed("bench", name, seed)) for seed in seeds
            ]
            parts.append(
                pipeline(
                    prompt=[name] * len(generators),
                    generator=generators,
                    num_inference_steps=steps,
                    output_type="pt",
                ).images
            )
        features, predicted = _features(judge, torch.cat(parts), size, given.device)
        right[name] = float((predicted == label_of[name]).float().mean())
        if name != forgotten:
            found.append(features)
    real = data.test.images[data.test.labels != label_of[forgotten]].float() / 255
    others = [share for name, share in right.items() if name != forgotten]
    scores = {
        "ua": round(100 * (1 - right[forgotten]), 2),
        "ra": round(100 * sum(others) / len(others), 2),
        "fd": round(
            frechet_distance(np.concatenate(found), _features(judge, real, size, given.device)[0]),
            3,
        ),
    }
    write_json(path, scores)
    return scores


def _features(
    judge: Classifier, images: torch.Tensor, size: int, device: str
) -> tuple[np.ndarray[Any, Any], torch.Tensor]:
    """What the last layer sees, and what it decides, of images in [0, 1]."""
    seen: list[torch.Tensor] = []
    head = judge.get_submodule(judge.head_name())
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0].double().cpu()))
    logits = [judge(F.interpolate(p.to(device), size, mode="bilinear")) for p in images.split(500)]
    hook.remove()
    return torch.cat(seen).numpy(), torch.cat(logits).argmax(1).cpu()


def sd14_case(given: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of one method's steps, in this process."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, UNet2DConditionModel

    from erase.config.base import LoopConfig
    from erase.config.methods import find_method
    from erase.runs.processes import Shard
    from erase.tasks.latents import EncodedImages, LatentCache
    from erase.tasks.text_to_image import TextToImageTask
    from erase.training.loop import build_optimizer

    method, settings = CASES[given.case]
    on_gpu = given.device != "cpu"
    accelerator = Accelerator(cpu=not on_gpu, mixed_precision="bf16" if on_gpu else "no")
    torch.manual_seed(0)
    small: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64)} if given.slice else {}
    side, batch, tokens = (8, 2, 7) if given.slice else (64, given.batch, 77)
    with torch.device(accelerator.device):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8, **small
        )
    unet.train()
    unet.enable_gradient_checkpointing()
    parameters = select_parameters(unet, given.trainable)
    anchors = torch.tensor([[0], [2], [0]])
    images = EncodedImages(
        torch.randn(2 * batch, 4, side, side),
        torch.zeros(2 * batch, 1, 1, 1),
        torch.ones(2 * batch, dtype=torch.long),
    )
    task = TextToImageTask(
        model=unet,
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        cache=LatentCache(
            dict.fromkeys(("forget", "retain", "anchor"), images),
            {"states": torch.randn(3, tokens, 768)},
            anchors,
            0,
        ),
        parameters=parameters,
        shard=Shard(batch),
        seed=0,
        steps=given.steps,
        device=accelerator.device,
        precision="bf16" if on_gpu else None,
        autocast=accelerator.autocast,
    )
    config = LoopConfig(learning_rate=1e-5, use_8bit_adam=given.use_8bit_adam)
    optimizer = build_optimizer(config, list(parameters.values()))
    chosen = find_method(method, task.family).build(settings)
    began = time.perf_counter()
    chosen.prepare(task)
    prepared = time.perf_counter() - began
    seconds = []
    for step in range(given.steps):
        began = time.perf_counter()
        chosen.step(task, step, None)
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        chosen.after_step(task)
        optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        if step == 0 and on_gpu:
            torch.cuda.reset_peak_memory_stats()  # steps count, and what they keep
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return {
        "seconds": float(np.median(seconds[1:])),
        "prepare_seconds": prepared,
        "peak_bytes": peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "copy_bytes": sum(p.numel() * 4 for p in parameters.values()),
    }


def sd14(given: argparse.Namespace) -> dict[str, Any]:
    """Every case in a process of its own; the table as a dictionary."""
    table: dict[str, Any] = {}
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.diffusion_gpu", "--case", case]
        command += ["--device", given.device, "--steps", str(given.steps)]
        command += ["--batch", str(given.batch), "--trainable", given.trainable]
        command += ["--slice"] * given.slice + ["--use-8bit-adam"] * given.use_8bit_adam
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            table[case] = {"failed": (done.stderr.strip().splitlines() or ["?"])[-1]}
        else:
            table[case] = json.loads(done.stdout.strip().splitlines()[-1])
        _show(case, table[case], table.get("lur-b", {}))
    return table


def _show(case: str, row: dict[str, Any], base: dict[str, Any]) -> None:
    if "failed" in row or "failed" in base:
        print(f"{case:18} {row.get('failed', 'LUR-b failed')[:80]}", flush=True)
        return
    copies = (row["peak_bytes"] - base["peak_bytes"]) / row["copy_bytes"]
    print(
        f"{case:18} {1 / row['seconds']:8.3f} steps/s   {row['seconds'] / base['seconds']:5.2f} ×"
        f"   peak {row['peak_bytes'] / 2**30:6.2f} GiB ({copies:+.2f} copies)"
        f"   prepare {row['prepare_seconds']:.1f} s",
        flush=True,
    )


def main() -> None:
    """Both parts, or one; the tables go to OUTPUT/PART.json too."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=["ddpm", "sd14"], action="append")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-diffusion"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--slice", action="store_true", help="everything tiny, to see it work")
    parser.add_argument("--data-dir", type=Path, help="ddpm: holds cifar-10-batches-bin")
    parser.add_argument("--weights", type=Path, help="ddpm: ResNet-56 for CIFAR-10, a state dict")
    parser.add_argument("--minutes", type=float, default=60, help="ddpm: of training")
    parser.add_argument("--steps", type=int, default=6, help="sd14: steps a case; one warms up")
    parser.add_argument("--batch", type=int, default=8, help="sd14: images of each set")
    parser.add_argument("--trainable", default="full", help="sd14")
    parser.add_argument("--use-8bit-adam", action="store_true", help="sd14")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(sd14_case(given)))
        return
    given.output.mkdir(parents=True, exist_ok=True)
    for part in given.part or ("sd14", "ddpm"):
        table = {"sd14": sd14, "ddpm": ddpm}[part](given)
        device = torch.cuda.get_device_name() if given.device != "cpu" else "cpu"
        write_json(given.output / f"{part}.json", {"device": device, "table": table})


if __name__ == "__main__":
    main()
