"""A classifier that is unlearned with other data than it was trained on."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from erase.cli.main import main
from erase.files import read_json, write_json

FORGET = ("classifier", "--forget", "random:2", "--method", "ft", "--epochs", "1")


def erase(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(item) for item in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def repaint(data: Path) -> None:
    Image.new("RGB", (16, 16), "white").save(data / "owl" / "3.png")


def rename(data: Path) -> None:
    """The same picture under another class."""
    (data / "owl" / "3.png").rename(data / "cat" / "99.png")


def add(data: Path) -> None:
    shutil.copy(data / "owl" / "3.png", data / "owl" / "99.png")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    for number, name in enumerate(("cat", "owl")):
        (root / "data" / name).mkdir(parents=True)
        for index in range(10):
            colour = (100 * number, 20 * index, 0)
            Image.new("RGB", (16, 16), colour).save(root / "data" / name / f"{index}.png")
    erase(
        *("train", "classifier", "--dataset", "folder", "--data-dir", root / "data"),
        *("--arch", "cnn", "--resolution", "16", "--epochs", "1", "--output", root / "model"),
    )
    return root


@pytest.mark.fault("other training data")
@pytest.mark.parametrize("change", [repaint, rename, add])
def test_both_hashes_are_named(world: Path, tmp_path: Path, change: object) -> None:
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    assert callable(change)
    change(data)
    model = ("--model", world / "model", "--data-dir", data)
    output = erase(*FORGET, *model, "--output", tmp_path / "out")
    trained_on = read_json(world / "model" / "model.json")["data_sha256"]
    found = read_json(tmp_path / "out" / "record.json")["facts"]["images"]
    assert trained_on != found
    (line,) = [line for line in output.splitlines() if line.startswith("Warning")]
    assert f"trained on data of SHA-256 {trained_on}, and this data has {found}" in line
    assert read_json(tmp_path / "out" / "model.json")["data_sha256"] == trained_on


def test_the_same_data_elsewhere_is_no_other_data(world: Path, tmp_path: Path) -> None:
    data = shutil.copytree(world / "data", tmp_path / "moved")
    model = ("--model", world / "model", "--data-dir", data)
    assert "Warning" not in erase(*FORGET, *model, "--output", tmp_path / "out")


def test_a_classifier_of_an_earlier_version_names_no_data(world: Path, tmp_path: Path) -> None:
    data, old = Path(shutil.copytree(world / "data", tmp_path / "data")), tmp_path / "old"
    repaint(data)
    others = shutil.ignore_patterns("manifest.jsonl", "record.json")
    shutil.copytree(world / "model", old, ignore=others)
    described = read_json(old / "model.json")
    del described["data_sha256"]
    write_json(old / "model.json", described)
    output = erase(*FORGET, "--model", old, "--data-dir", data, "--output", tmp_path / "out")
    assert "Warning" not in output
