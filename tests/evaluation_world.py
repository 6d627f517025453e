"""Models and settings that the tests of evaluations share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from erase.config.evaluate import EvaluateConfig
from erase.embedded.mini_sd_model import build_pipeline
from erase.scoring.context import Context
from erase.scoring.metric import load_metric
from erase.scoring.results import Scores


def score(metric: str, given: Context) -> Scores:
    """What a metric makes of a context."""
    return load_metric(metric)(given)


def values(metric: str, given: Context) -> dict[str, tuple[float, int]]:
    """Value and n of each of a metric's summaries, by name."""
    return {key: (s.value, s.n) for key, s in score(metric, given).summaries.items()}


def make_models(root: Path) -> Path:
    """An "unlearned" model with a run record, and its base: untrained mini-sds."""
    for seed, name in enumerate(("base", "run")):
        build_pipeline(seed).save_pretrained(root / name)
    record = {
        "target": {"suite": "digits", "concepts": ["three"]},
        "base_model": str(root / "base"),
    }
    (root / "run" / "record.json").write_text(json.dumps(record))
    return root


def config(models: Path, output: Path | str, **changes: Any) -> EvaluateConfig:
    """Two images a digit, one step each."""
    settings = {
        "model": str(models / "run"),
        "output": str(output),
        "render_steps": 1,
        "images_per_class": 2,
        "render_batch_size": 10,
        "cache_dir": str(models / "cache"),
        **changes,
    }
    return EvaluateConfig(**settings)


def pictures(
    folder: Path, count: int, size: tuple[int, int] = (40, 32), seed: int = 0
) -> list[Path]:
    """Image files of coarse random colours."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    files = []
    for index in range(count):
        coarse = draw.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
        files.append(folder / f"{index:03d}.png")
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(files[-1])
    return files
