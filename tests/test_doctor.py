"""`erase doctor`: says what is there and what is missing, with the command that fetches it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from erase.artifacts import checks, packaged, weights
from erase.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def findings(*arguments: str) -> dict[str, dict[str, Any]]:
    result = invoke(*arguments, "--json")
    content = json.loads(result.output)
    assert content["ok"] == (result.exit_code == 0)
    return {finding["name"]: finding for finding in content["findings"]}


def test_a_sound_installation() -> None:
    result = invoke()
    assert result.exit_code == 0, result.output
    assert "All is well" in result.output
    for text in ("Python", "cpu", "mini-sd", "inception", "erase fetch --weights inception"):
        assert text in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def test_what_is_asked_for_and_missing_fails() -> None:
    found = findings("--suite", "i2p", "--metric", "fid", "--model", "sd-1.4")
    assert found["nudenet"]["state"] == "ok"
    for name, command in (
        ("inception", "erase fetch --weights inception"),
        ("sd-1.4", "erase fetch --model sd-1.4"),
        ("AIML-TUDA/i2p", "erase fetch --suite i2p"),
    ):
        assert found[name]["state"] == "missing"
        assert found[name]["remedy"] == command
    result = invoke("--metric", "fid")
    assert result.exit_code == 1
    assert "1 to mend" in result.output


def test_what_is_asked_for_and_there_passes() -> None:
    assert invoke("--suite", "digits", "--metric", "nudenet", "--model", "mini-sd").exit_code == 0


def test_a_wrong_file_is_broken_not_missing(home: Path) -> None:
    file = weights.places("inception")[0]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    assert findings("--metric", "fid")["inception"]["state"] == "broken"


def test_half_a_model_is_broken(home: Path) -> None:
    shutil.copytree(packaged.EMBEDDED["mini-sd"], home / "model")
    assert invoke("--model", str(home / "model")).exit_code == 0
    (home / "model" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    found = findings("--model", str(home / "model"))[str(home / "model")]
    assert found["state"] in ("missing", "broken")
    assert "unet" in found["detail"]


@pytest.mark.parametrize("name", packaged.PACKAGED_SHA256)
def test_embedded_files_are_those_that_are_pinned(name: str) -> None:
    assert packaged.packaged_sha256(name) == packaged.PACKAGED_SHA256[name]


def test_changed_embedded_files_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "packaged_sha256", lambda _: "0" * 64)
    found = findings()
    assert found["mini-sd"]["state"] == "broken"
    assert found["nudenet"]["state"] == "note"  # a newer nudenet may bring another network


def test_libraries_are_held_against_the_projects_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(line.startswith("torch>=") for line in checks.requirements())
    wanted = ["click>=999", "no-such-library>=1", "numpy>=1"]
    monkeypatch.setattr(checks, "requirements", lambda: wanted)
    found = findings()
    assert found["click"]["state"] == "broken"
    assert ">=999" in found["click"]["detail"]
    assert found["no-such-library"]["state"] == "missing"
    assert found["no-such-library"]["remedy"] == "pip install 'no-such-library>=1'"
    assert found["numpy"]["state"] == "ok"


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert findings()["cache"]["state"] == "broken"


def test_the_hubs_offline_flag_is_shown() -> None:
    assert "HF_HUB_OFFLINE" in findings()["hub"]["detail"]  # the tests run offline


def test_an_unknown_name_is_refused() -> None:
    result = invoke("--suite", "nonsense")
    assert result.exit_code == 2
    assert "nonsense" in result.output
