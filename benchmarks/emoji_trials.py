"""Trains several designs of mini-emoji at once and says how good each is.

    python -m benchmarks.emoji_trials --data-dir ICONS --output OUT --device cuda --minutes 5

The designs with the same autoencoder share one training of it and of its judges, which comes
first. Then every design trains its denoiser for the minutes given, all at the same time, each in a
process of its own. When a trial ends, `OUT` gets `NAME.tar.0`, `NAME.tar.1`, …, parts of an archive
(`cat NAME.tar.* | tar x`) with the pipeline and its card, the judges, `quality.json`, `log.txt` and
`pictures.png` (from captions: the six styles of three objects a row). `trials.json` holds the
numbers of all. A trial that fails does not end the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from erase.data.emoji import Vocabulary, read_vocabulary
from erase.embedded.mini_emoji import train_mini_emoji
from erase.embedded.mini_emoji_model import Design
from erase.embedded.mini_emoji_quality import Judges, load, measure_quality, render
from erase.embedded.mini_emoji_stages import Recipe

PART = 15 * 2**20  # bytes of a part of an archive
FIRST = ("autoencoder", "judges")


@dataclass(frozen=True)
class Trial:
    """One design with its recipe; trials with the same `first` share autoencoder and judges."""

    first: str
    design: Design = field(default_factory=Design)
    recipe: Recipe = field(default_factory=Recipe)


GPU = Recipe(
    vae_steps=50_000,
    vae_batch=96,
    vae_rate=1e-3,
    judge_steps=50_000,
    judge_batch=256,
    steps=200_000,
    batch=512,
    rate=1e-3,
    falling=0.4,
    ema=0.999,
    copies=12,
    bf16=True,
)
F8 = Design(size=64, vae_widths=(32, 48, 64, 96), latent_channels=12)
F4 = Design()  # the shipped one
TRIALS = {
    "f8-96-160": Trial("f8", replace(F8, unet_widths=(96, 160)), GPU),
    "f8-64-128": Trial("f8", replace(F8, unet_widths=(64, 128)), GPU),
    "f4-64-128": Trial("f4", replace(F4, unet_widths=(64, 128)), GPU),
    "f8-96-160-slow": Trial("f8", replace(F8, unet_widths=(96, 160)), replace(GPU, rate=5e-4)),
    "f8-96-160-eps": Trial("f8", replace(F8, unet_widths=(96, 160), prediction="epsilon"), GPU),
    "f8-deep": Trial("f8", replace(F8, unet_widths=(64, 128), unet_layers=2), GPU),
    "32-96-160": Trial(
        "32",
        Design(size=32, vae_widths=(32, 64, 96), latent_channels=4, unet_widths=(96, 160)),
        GPU,
    ),
}
DEFAULT = ("f8-96-160", "f8-64-128", "f4-64-128")


def train(name: str, arguments: argparse.Namespace, *, first: bool) -> None:
    """Train one trial; `first`: only its autoencoder and judges, with one step of the denoiser."""
    trial = TRIALS[name]
    work = Path(arguments.work)
    folder = work / (f"first-{trial.first}" if first else name)
    recipe = replace(
        trial.recipe,
        vae_steps=arguments.vae_steps or trial.recipe.vae_steps,
        judge_steps=arguments.judge_steps or trial.recipe.judge_steps,
        batch=arguments.batch or trial.recipe.batch,
        minutes=None if first else arguments.minutes,
        vae_minutes=None if arguments.vae_steps else arguments.vae_minutes,
        judge_minutes=None if arguments.judge_steps else arguments.judge_minutes,
    )
    if arguments.device == "cpu":
        recipe = replace(recipe, bf16=False)
    if arguments.steps:
        recipe = replace(recipe, steps=arguments.steps, minutes=None)
    if arguments.copies:
        recipe = replace(recipe, copies=arguments.copies)
    if first:
        recipe = replace(recipe, steps=1, copies=1)
    else:
        for stage in FIRST:
            source = work / f"first-{trial.first}" / "states" / stage
            shutil.copytree(source, folder / "states" / stage)
    train_mini_emoji(
        folder / "model" / "mini-emoji",
        Path(arguments.data_dir),
        judges_output=folder / "model",
        seed=arguments.seed,
        recipe=recipe,
        design=trial.design,
        vocabulary=vocabulary(arguments),
        images_a_pair=0,
        device=arguments.device,
        checkpoints=folder / "states",
        checkpointing_steps=10**9,
    )
    if not first:
        _judge(name, folder / "model", arguments)


def vocabulary(arguments: argparse.Namespace) -> Vocabulary:
    """The words of the trials: the project's, or few of them for a test of this script."""
    words = read_vocabulary()
    return words.first(*map(int, arguments.few.split(","))) if arguments.few else words


def _judge(name: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Measure a trained trial, draw its pictures and pack it."""
    words = vocabulary(arguments)
    pipeline = load(folder / "mini-emoji", arguments.device)
    judges = Judges.load(folder / "emoji-objects", folder / "emoji-styles", arguments.device)
    settings: dict[str, Any] = {"device": arguments.device, "images": arguments.images}
    settings["steps"] = arguments.sampling_steps
    prompts = [
        words.captions("evaluate", {"object": thing, "style": style})[0]
        for thing in range(len(words.objects))
        for style in range(len(words.styles))
    ]
    images = render(pipeline, prompts, steps=arguments.sampling_steps)
    sheet(images, 3 * len(words.styles)).save(folder / "pictures.png")
    quality = measure_quality(pipeline, judges, words, **settings)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    card = (folder / "mini-emoji" / "README.md").read_text(encoding="utf-8")
    result = {"megabytes": size / 1e6, **asdict(quality), "card": card}
    (folder / "quality.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    shutil.copy(Path(arguments.work) / f"{name}.log", folder / "log.txt")
    packed = folder.with_suffix(".tar")
    with tarfile.open(packed, "w") as archive:
        archive.add(folder, arcname=name)
    content = packed.read_bytes()
    for number, start in enumerate(range(0, len(content), PART)):
        part = Path(arguments.output) / f"{name}.tar.{number}"
        part.write_bytes(content[start : start + PART])


def sheet(images: Tensor, columns: int) -> Image.Image:
    """Pictures `[N, 3, H, W]` in [-1, 1] side by side, row by row, with a gap between them."""
    levels = ((images + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    height, width = levels.shape[1] + 2, levels.shape[2] + 2
    whole = Image.new("RGB", (columns * width, -(-len(levels) // columns) * height), "white")
    for place, picture in enumerate(levels):
        corner = (place % columns * width, place // columns * height)
        whole.paste(Image.fromarray(picture), corner)
    return whole


def run_all(names: list[str], arguments: argparse.Namespace) -> int:
    """Run the first stages, then all trials, each in a process; return how many failed."""
    started = time.monotonic()
    firsts = {TRIALS[name].first: name for name in names}
    failed = _processes([(f"first-{key}", name, True) for key, name in firsts.items()], arguments)
    print(f"first stages: {time.monotonic() - started:.0f} s", flush=True)
    left = [name for name in names if f"first-{TRIALS[name].first}" not in failed]
    failed |= _processes([(name, name, False) for name in left], arguments)
    print(f"trials: {time.monotonic() - started:.0f} s", flush=True)
    rows = {}
    for name in names:
        file = Path(arguments.work) / name / "model" / "quality.json"
        if file.is_file():
            rows[name] = json.loads(file.read_text(encoding="utf-8"))
            numbers = {k: round(v, 3) for k, v in rows[name].items() if isinstance(v, float)}
            print(name, numbers, rows[name]["paraphrases"], flush=True)
            print(rows[name]["card"].partition("## Training")[2].partition("## Limits")[0])
    (Path(arguments.output) / "trials.json").write_text(json.dumps(rows, indent=2))
    return len(failed)


def _processes(work: list[tuple[str, str, bool]], arguments: argparse.Namespace) -> set[str]:
    """Run trials at once, each with a log; return the logs' names of those that failed."""
    running = {}
    for log, name, first in work:
        command = [sys.executable, "-m", "benchmarks.emoji_trials", *sys.argv[1:], "--one", name]
        if first:
            command.append("--first")
        with (Path(arguments.work) / f"{log}.log").open("w", encoding="utf-8") as file:
            running[log] = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    failed = {log for log, process in running.items() if process.wait() != 0}
    for log in failed:
        text = (Path(arguments.work) / f"{log}.log").read_text(encoding="utf-8")
        print(f"{log} failed:\n{text[-3000:]}", flush=True)
    return failed


def main() -> None:
    """Read the options; run one trial, or all of those named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--work", help="folder for states and models; default: OUTPUT-work")
    parser.add_argument("--trials", default=",".join(DEFAULT), help=f"of {', '.join(TRIALS)}")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each denoiser")
    parser.add_argument("--vae-minutes", type=float, default=1.2)
    parser.add_argument("--judge-minutes", type=float, default=0.5)
    parser.add_argument("--steps", type=int, help="of each denoiser, instead of minutes")
    parser.add_argument("--vae-steps", type=int)
    parser.add_argument("--judge-steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--copies", type=int)
    parser.add_argument("--few", help="only so many objects,styles,colours")
    parser.add_argument("--images", type=int, default=20, help="of each pair, for the quality")
    parser.add_argument("--sampling-steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work = arguments.work or f"{arguments.output.rstrip('/')}-work"
    for folder in (arguments.output, arguments.work):
        Path(folder).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if arguments.one:
        train(arguments.one, arguments, first=arguments.first)
        return
    names = arguments.trials.split(",")
    if unknown := [name for name in names if name not in TRIALS]:
        parser.error(f"unknown trial {unknown[0]!r}")
    sys.exit(run_all(names, arguments))


if __name__ == "__main__":
    main()
