"""`erase demo`, whole: the first thing that a newcomer runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_demo_forgets_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "erase", "demo", "--output", str(tmp_path / "demo")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    first = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "unlearning accuracy" in first.stdout
    evaluation = tmp_path / "demo" / "evaluation-digits"
    metrics = json.loads((evaluation / "metrics.json").read_text())
    found, base = metrics["metrics"], metrics["baseline"]
    assert found["ua"]["value"] >= 0.95
    assert found["ra"]["value"] >= base["ra"]["value"] - 0.03
    fid = "fid_digits_classifier"
    assert found[fid]["value"] <= 1.25 * base[fid]["value"]
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "nothing to resume" in again.stdout
    assert json.loads((evaluation / "metrics.json").read_text()) == metrics
