"""`make test-lowest`: what has to work with the lowest versions that pyproject.toml declares.

It runs in an environment of those versions. A run's folder is read there by plain diffusers, and by
transformers 4, which the Makefile installs beside them.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from erase.artifacts.packaged import EMBEDDED
from erase.cli.main import main
from erase.export.export import export
from erase.models.loading import load_pipeline, resolve, save_pipeline
from erase.models.weights import read_weights
from tests import read_folder
from tests.test_versions import lowest
from tests.tiny_pipelines import PIPELINES

OLD = Path(sys.prefix) / "transformers-4"
FOLDERS = ("run", "mini-sd", "sd2-v", "sdxl", "sd3")
RUN = (
    *("concept", "--model", "mini-sd", "--concept", "three", "--method", "lur"),
    *("--max-train-steps", "2", "--render-steps", "2", "--train-batch-size", "2"),
    *("--num-forget-images", "4", "--num-retain-images", "4"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of `erase concept`, the embedded model, and other families as a run saves them."""
    root = tmp_path_factory.mktemp("folders")
    result = CliRunner().invoke(main, [*RUN, "--output", str(root / "run")])
    assert result.exit_code == 0, result.output
    for name in FOLDERS[2:]:
        save_pipeline(PIPELINES[name](), root / name, torch.float32)
    return {"mini-sd": EMBEDDED["mini-sd"]} | {n: root / n for n in FOLDERS if n != "mini-sd"}


def test_these_are_the_lowest_versions() -> None:
    assert {name: version(name) for name in lowest()} == lowest()


def test_lur_changes_the_unet_and_nothing_else(folders: dict[str, Path]) -> None:
    for part in ("unet", "vae", "text_encoder"):
        before, after = (read_weights(folders[name] / part) for name in ("mini-sd", "run"))
        same = [torch.equal(before[key].float(), after[key]) for key in before]
        assert all(same) == (part != "unet")


def expected(folder: Path) -> dict[str, Any]:
    """What erase itself reads, in the form of `read_folder`."""
    pipeline = load_pipeline(resolve(str(folder)))
    names = [n for n in ("text_encoder", "text_encoder_2") if getattr(pipeline, n, None)]
    counts = {name: len(getattr(pipeline, name).state_dict()) for name in names}
    return {"encoders": {name: [count, count] for name, count in counts.items()}}


@pytest.mark.parametrize("name", FOLDERS)
def test_plain_diffusers_and_transformers_4_read_a_folder_alike(
    folders: dict[str, Path], name: str
) -> None:
    here = read_folder.read(folders[name])
    assert here["encoders"] == expected(folders[name])["encoders"]
    done = subprocess.run(
        [sys.executable, read_folder.__file__, str(folders[name])],
        env={**os.environ, "PYTHONPATH": str(OLD)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout.splitlines()[-1])
    assert there["transformers"].startswith("4.5")
    assert there["encoders"] == here["encoders"]
    assert there["tokens"] == here["tokens"]
    assert there["tokens"][0] == there["tokens"][1]
    # Kernels round differently from version to version; less than half a step of 256 is no other
    # picture.
    assert there["corners"] == pytest.approx(here["corners"], abs=1 / 512)


def test_a_single_file_of_the_run_is_read_back(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    file = export(folders["run"], tmp_path / "run.safetensors", kind="single-file", dtype="fp32")
    source = resolve(str(file.path), config_from=str(folders["run"]))
    again, run = load_pipeline(source), load_pipeline(resolve(str(folders["run"])))
    for part in ("unet", "vae", "text_encoder"):
        state = getattr(again, part).state_dict()
        for key, tensor in getattr(run, part).state_dict().items():
            assert torch.equal(state[key], tensor), f"{part}.{key}"
