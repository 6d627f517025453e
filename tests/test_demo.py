"""`erase demo`, whole: the first thing that a newcomer runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
def test_demo_forgets_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "erase", "demo", "--output", str(tmp_path / "demo")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    first = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "unlearning accuracy" in first.stdout
    evaluation = tmp_path / "demo" / "evaluation-emoji"
    picture = evaluation / "plots" / "before_after.png"
    assert str(picture) in first.stdout
    assert picture.stat().st_size < 200_000
    with Image.open(picture) as image:
        assert image.width < 900
    metrics = json.loads((evaluation / "metrics.json").read_text())
    found, base = metrics["metrics"], metrics["baseline"]
    for name in ("ua", "paraphrases"):
        assert found[name]["value"] >= 0.9
        assert base[name]["value"] <= 0.1
    for name in ("ira", "cra", "neighbours"):
        assert found[name]["value"] >= base[name]["value"] - 0.04
    assert found["h"]["value"] >= 0.95
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "nothing to resume" in again.stdout
    assert json.loads((evaluation / "metrics.json").read_text()) == metrics
