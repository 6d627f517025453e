"""Classifier folders, other programs' weight files, and class names as people write them."""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from erase.cli.main import main
from erase.data.forget import forget_indices
from erase.errors import InputError
from erase.evaluation.score import check_targets
from erase.judges.zoo import network_from
from erase.models.classifiers import (
    Description,
    build,
    import_weights,
    load_classifier,
    save_classifier,
)
from erase.scoring.names import find_name, find_names
from tests.tiny_pipelines import ddpm

DESCRIPTION = Description("cnn", ("a", "b", "c"), 8, (0.5,) * 3, (0.4,) * 3, "tiny")


class Bomb:
    """Leaves a file behind if unpickling runs it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.mark}'",))


def state() -> dict[str, torch.Tensor]:
    return dict(build(DESCRIPTION, seed=3).net.state_dict())


def saved(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def text(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def half(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:5000])


NOT_WEIGHTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "namespace": (
        saved({"state_dict": state(), "args": argparse.Namespace(lr=1)}),
        "holds a argparse.Namespace",
    ),
    "numpy scalar": (saved({"state_dict": state(), "best": np.float64(0.9)}), "holds a numpy"),
    "module": (saved(build(DESCRIPTION)), "holds a erase.models.classifiers.Classifier"),
    "list": (saved([torch.ones(2)]), "holds a list"),
    "one tensor": (saved(torch.ones(2)), "holds a Tensor"),
    "number": (saved(3), "holds a int"),
    "None": (saved(None), "holds a NoneType"),
    "empty state dict": (saved({}), "holds nothing"),
    "numbers by name": (saved({"fc.weight": 3.0}), "holds 'fc.weight', which is no tensor"),
    "tensors by number": (saved({1: torch.ones(2)}), "holds 1, which is no tensor"),
    "optimizer": (saved({"optimizer": {"state": {}}}), "holds 'optimizer'"),
    "HTML": (text(b"<!DOCTYPE html>\n<html>Sign in</html>"), "no weight file"),
    "nothing": (text(b""), "no weight file"),
    "zeros": (text(bytes(4096)), "no weight file"),
    "git-lfs pointer": (text(b"version https://git-lfs.github.com/spec/v1\n"), "no weight file"),
    "zip of something else": (text(b"PK\x05\x06" + bytes(18)), "no weight file"),
    "half a file": (half, "no weight file"),
    "other architecture": (saved({"conv9.weight": torch.ones(2)}), "does not fit"),
    "mean of one channel": (
        saved({**state(), "normalize.mean": torch.ones(1), "normalize.std": torch.ones(1)}),
        "three channels",
    ),
    "mean of bytes": (
        saved({**state(), "normalize.mean": torch.ones(3) * 124, "normalize.std": torch.ones(3)}),
        r"pixels in \[0, 1\]",
    ),
    "not finite": (saved({**state(), "fc.bias": torch.full((3,), torch.nan)}), "not finite"),
}


@pytest.mark.fault("file that is no weights")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_a_file_that_is_no_state_dict_is_named_in_one_line(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    write, message = NOT_WEIGHTS[kind]
    file = tmp_path / f"cnn{suffix}"
    write(file)
    expected = message if suffix == ".pth" else "no weight file"
    with pytest.raises(InputError, match=expected) as refused:
        import_weights(build(DESCRIPTION), DESCRIPTION, file)
    assert str(file) in refused.value.message
    assert "\n" not in refused.value.message
    assert "weights_only" not in refused.value.message + refused.value.remedy


@pytest.mark.fault("file that is no weights")
def test_nothing_in_a_weight_file_runs(tmp_path: Path) -> None:
    file, mark = tmp_path / "cnn.pth", tmp_path / "mark"
    torch.save({"state_dict": state(), "extra": Bomb(mark)}, file)
    with pytest.raises(InputError, match=r"holds a .*system"):
        import_weights(build(DESCRIPTION), DESCRIPTION, file)
    with pytest.raises(InputError, match="There is no weight file"):
        import_weights(build(DESCRIPTION), DESCRIPTION, tmp_path)
    assert not mark.exists()


@pytest.mark.fault("file that is no weights")
@pytest.mark.parametrize("command", ["train", "judge"])
def test_the_commands_say_the_same(tmp_path: Path, command: str) -> None:
    file = tmp_path / "resnet20-x.pth"
    torch.save({"state_dict": state(), "args": argparse.Namespace(lr=1)}, file)
    if command == "judge":
        with pytest.raises(InputError, match="Namespace"):
            network_from(str(file), ("a", "b"))
        return
    out = str(tmp_path / "out")
    given = ["--dataset", "digits", "--arch", "cnn", "--weights", str(file), "--output", out]
    result = CliRunner().invoke(main, ["train", "classifier", *given])
    assert result.exit_code == 2
    assert "argparse.Namespace" in result.output
    assert "weights_only" not in result.output
    assert not Path(out).exists()


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module.", "safetensors"])
def test_a_networks_own_normalisation_is_taken_over(tmp_path: Path, wrap: str) -> None:
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    content: Any = {**state(), "normalize.mean": mean.view(3, 1, 1), "normalize.std": std}
    if wrap == "module.":
        content = {f"module.{name}": tensor for name, tensor in content.items()}
    file = tmp_path / ("x.safetensors" if wrap == "safetensors" else "x.pth")
    if wrap == "safetensors":
        save_file(content, file)
    else:
        torch.save({"state_dict": content} if wrap == "state_dict" else content, file)
    model = build(DESCRIPTION)
    description = import_weights(model, DESCRIPTION, file)
    assert description.mean == pytest.approx((0.1, 0.2, 0.3))
    save_classifier(tmp_path / "saved", model, description)
    images = torch.rand(2, 3, 8, 8)
    loaded = load_classifier(tmp_path / "saved")[0]
    model.eval().net.load_state_dict(state())
    expected = model.net((images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    torch.testing.assert_close(loaded(images), expected)


def described(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**content, **changes}))

    return damage


def without_tensor(folder: Path) -> None:
    content = load_file(folder / "model.safetensors")
    del content["net.fc.bias"]
    save_file(content, folder / "model.safetensors")


def with_tensor(folder: Path) -> None:
    content = load_file(folder / "model.safetensors")
    save_file({**content, "net.more": torch.ones(2)}, folder / "model.safetensors")


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor less": (without_tensor, "net.fc.bias"),
    "a tensor more": (with_tensor, "net.more"),
    "other classes": (described(classes=["a", "b"]), "net.fc"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "no description": (lambda folder: (folder / "model.json").unlink(), "model.json"),
    "a list": (lambda folder: (folder / "model.json").write_text("[]"), "model.json"),
    "null": (lambda folder: (folder / "model.json").write_text("null"), "model.json"),
    "classes as text": (described(classes="abc"), "classes"),
    "classes twice": (described(classes=["a", "a", "b"]), "distinct"),
    "no classes": (described(classes=[]), "distinct"),
    "size as text": (described(image_size="8"), "image_size"),
    "mean of one channel": (described(mean=[0.5]), "three channels"),
    "std of zero": (described(std=[0.0, 0.4, 0.4]), "pixels"),
    "unknown arch": (described(arch="resnet21"), "resnet21"),
    "validation as text": (described(validation=["x"]), "validation"),
}


@pytest.mark.fault("damaged classifier folder")
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_damaged_classifier_folder_is_refused(tmp_path: Path, kind: str) -> None:
    save_classifier(tmp_path / "model", build(DESCRIPTION), DESCRIPTION)
    assert load_classifier(tmp_path / "model")[1] == DESCRIPTION
    damage, message = FOLDERS[kind]
    damage(tmp_path / "model")
    with pytest.raises(InputError, match=message) as refused:
        load_classifier(tmp_path / "model")
    assert "\n" not in refused.value.message
    shutil.rmtree(tmp_path / "model")


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
NAMES = ("tench, Tinca tinca", "dog", COMPOSED, "hot dog", "tench", "Dog")
NAMED: list[tuple[str, list[int]]] = [
    ("tench, Tinca tinca", [0]),
    ("tench,Tinca tinca", [0]),
    ("tench", [4]),
    ("tench,dog", [4, 1]),
    ("tench, Tinca tinca,dog", [0, 1]),
    ("dog, tench, Tinca tinca", [1, 0]),
    (" dog ,  hot  dog ", [1, 3]),
    ("HOT DOG", [3]),
    ("Dog", [5]),
    ("dog", [1]),
    (DECOMPOSED, [2]),
    (COMPOSED.upper(), [2]),
    ("dog,", []),
    (",", []),
    ("cat", []),
]


@pytest.mark.fault("class name as people write it")
@pytest.mark.parametrize(("words", "places"), NAMED)
def test_names_of_classes_to_forget(words: str, places: list[int]) -> None:
    labels = torch.arange(60) % len(NAMES)
    everything = torch.arange(60)
    if not places:
        with pytest.raises(InputError, match="There is no class"):
            forget_indices(f"class:{words}", labels, NAMES, trained_on=everything, seed=0)
        return
    assert find_names(words, NAMES) == places
    chosen = forget_indices(f"class:{words}", labels, NAMES, trained_on=everything, seed=0)
    assert set(labels[chosen].tolist()) == set(places)


@pytest.mark.fault("class name as people write it")
def test_names_are_found_everywhere_alike() -> None:
    assert find_name(DECOMPOSED, [COMPOSED]) == find_name(COMPOSED, [DECOMPOSED]) == 0
    assert check_targets([DECOMPOSED, "HOT  dog"], NAMES) == {COMPOSED, "hot dog"}
    with pytest.raises(InputError, match="no 'cat'"):
        check_targets(["cat"], NAMES)
    pipeline = ddpm()
    pipeline.register_to_config(id2label={"0": COMPOSED, "1": "dog", "2": "red car"})
    assert pipeline.labels([DECOMPOSED, f"a {DECOMPOSED} here", "dog"]).tolist() == [0, 0, 1]
    many = [f"class {number}" for number in range(1000)]
    assert find_names(",".join(many), many) == list(range(1000))
    with pytest.raises(InputError, match="'class x'") as refused:
        find_names("class 1,class x", many)
    assert "Did you mean" in refused.value.remedy
