"""Victims, settings and folders that the tests of attacks share: small, and without a network."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from erase.data.digits import load_digit_images
from erase.embedded.mini_sd_model import build_pipeline
from erase.render.render import Renderer
from erase.scoring.samples import Sample
from erase.tasks.attack import CONCEPT, HARMLESS, RENDERS, Attack, Found, Rendering, Victim
from erase.tasks.attack import find_attack as find
from erase.tasks.families import FAMILIES
from tests.tiny_pipelines import PIPELINES, SIZE, image_set

QUICK = {
    "relearn": {"steps": "0,1,2", "batch_size": "2"},
    "textual-inversion": {"steps": "2", "batch_size": "2"},
    "ring-a-bell": {"generations": "2", "population": "4", "length": "2"},
    "unlearndiffatk": {"iterations": "2", "length": "2", "restarts": "2"},
    "p4d": {"iterations": "2", "length": "2", "restarts": "1"},
    "null-text": {"refinements": "1"},
    "completion": {"shares": "0.25,0.5"},
    "noise-probe": {"noise": "0.5,1.6"},
}
"""Settings with which each attack takes a moment."""
STEPS = 4
SAMPLES = tuple(
    Sample(id=f"s{number}", prompt=prompt, seed=number, target="cat", guidance=2.0)
    for number, prompt in enumerate(("a photo of a cat", "a red cat"))
)


class Memory:
    """A store that forgets with the test."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def once(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if name not in self.kept:
            self.kept[name] = compute()
        return self.kept[name]

    def shared(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return compute()

    def each(
        self,
        name: str,
        samples: Sequence[Sample],
        search: Callable[[Sequence[Sample]], Sequence[Found]],
        size: int,
    ) -> dict[str, Found]:
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        return {
            sample.id: found
            for batch in batches
            for sample, found in zip(batch, search(batch), strict=True)
        }


def quick_attack(name: str, **more: str) -> Attack:
    return find(name, small=True, given={**QUICK.get(name, {}), **more}).build()


def victim(kind: str, folder: Path) -> Victim:
    """A tiny random pipeline under attack; the base model is another with the same weights."""
    pipeline, base = PIPELINES[kind](), PIPELINES[kind]()
    for item in (pipeline, base):
        item.set_progress_bar_config(disable=True)
        for part in item.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
    cats = ("a photo of a cat", "a cat", "a red cat")
    sets = {
        CONCEPT: image_set(folder / CONCEPT, cats, 1),
        HARMLESS: image_set(folder / HARMLESS, ("a photo of a dog", "a dog"), 2),
        RENDERS: image_set(folder / RENDERS, tuple(s.prompt for s in SAMPLES), 3),
    }
    return Victim(
        pipeline=pipeline,
        family=FAMILIES[type(pipeline).__name__],
        device=torch.device("cpu"),
        size=SIZE,
        steps=STEPS,
        seed=0,
        samples=SAMPLES,
        sets=sets,
        pairs=[("a photo of a cat", "a photo of a dog"), ("a cat", "a dog")],
        original=lambda: base,
        store=Memory(),
        batch_size=2,
    )


def rendered(attacked: Victim, rendering: Rendering) -> np.ndarray:
    """The images of a rendering, `[N, h, w, 3]` bytes."""
    own = attacked.pipeline.scheduler
    attacked.pipeline.scheduler = rendering.scheduler or own
    count = len(rendering.samples)
    renderer = Renderer(attacked.pipeline, STEPS, SIZE, count, rendering.inputs)
    try:
        return np.stack([np.asarray(image) for image in renderer(rendering.samples)])
    finally:
        attacked.pipeline.scheduler = own


def make_world(root: Path) -> Path:
    """An "unlearned" run and its base, untrained mini-sds; images of threes and of fours."""
    for seed, name in enumerate(("base", "run")):
        build_pipeline(seed).save_pretrained(root / name)
    record = {
        "target": {"suite": "digits", "concepts": ["three"]},
        "base_model": str(root / "base"),
    }
    (root / "run" / "record.json").write_text(json.dumps(record))
    digits = load_digit_images()
    for name, label in (("threes", 3), ("fours", 4)):
        (root / name).mkdir()
        rows = (digits.labels == label).nonzero().flatten()[:4]
        for number, image in enumerate(digits.images[rows]):
            pixels = ((image.permute(1, 2, 0) / 2 + 0.5) * 255).round().to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / name / f"{number}.png")
            caption = f"a handwritten {name[:-1]}"
            (root / name / f"{number}.txt").write_text(caption)
    return root


def arguments(world: Path, output: Path, *attacks: str) -> list[str]:
    """A command line of two prompts and two steps."""
    words = ["attack", "--model", str(world / "run"), "--output", str(output)]
    words += ["--cache-dir", str(world / "cache"), "--limit", "2", "--render-steps", "2"]
    words += ["--concept-images", str(world / "threes"), "--harmless-images", str(world / "fours")]
    for name in attacks:
        words += ["--attack", name]
        for key, value in QUICK[name].items():
            words += ["--set", f"{name}.{key}={value}"]
    return words
