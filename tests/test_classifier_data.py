"""Data sets, forget specifications and classifiers on disk."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from erase.artifacts.datasets import ARCHIVES
from erase.data import classification
from erase.data.classification import (
    Augmentation,
    augment,
    center,
    load_dataset,
    validation_indices,
)
from erase.data.forget import forget_indices
from erase.errors import InputError
from erase.models.classifiers import (
    Description,
    build,
    import_weights,
    load_classifier,
    save_classifier,
)

LABELS = torch.arange(40) % 4
NAMES = ("a", "b", "c", "d")
ALL = torch.arange(40)


def chosen(spec: str, trained_on: torch.Tensor = ALL, seed: int = 0) -> torch.Tensor:
    return forget_indices(spec, LABELS, NAMES, trained_on=trained_on, seed=seed)


def test_forget_specifications() -> None:
    assert len(chosen("random:10%")) == 4
    assert len(chosen("random:7")) == 7
    assert set(LABELS[chosen("class:b,d")].tolist()) == {1, 3}
    assert len(LABELS[chosen("classes:50%")].unique()) == 2
    assert torch.equal(chosen("random:10%"), chosen("random:10%"))
    assert not torch.equal(chosen("random:10%"), chosen("random:10%", seed=1))


def test_only_what_the_model_was_trained_on_can_be_forgotten(tmp_path: Path) -> None:
    trained = torch.arange(10, 40)
    for spec in ("random:29", "class:a"):
        assert int(chosen(spec, trained).min()) >= 10
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"indices": [12, 30]}))
    assert chosen(f"indices:{path}", trained).tolist() == [12, 30]
    path.write_text("[3, 12]")
    with pytest.raises(InputError, match="never trained on"):
        chosen(f"indices:{path}", trained)
    path.write_text('["x"]')
    with pytest.raises(InputError, match="no list of indices"):
        chosen(f"indices:{path}", trained)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random:41", "41 of 40"),
        ("random:0", "0 of 40"),
        ("random:x", "no number"),
        ("random:100%", "nothing to retain"),
        ("class:z", "no class 'z'"),
        ("class:a,b,c,d", "nothing to retain"),
        ("everything", "does not say"),
        ("indices:nowhere.json", "does not exist"),
    ],
)
def test_bad_forget_specifications(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        chosen(spec)
    assert raised.value.remedy


def test_digits_come_as_uint8_and_split_the_same_each_time() -> None:
    data = load_dataset("digits")
    assert data.train.images.shape[1:] == (3, 16, 16)
    assert data.train.images.dtype == torch.uint8
    assert torch.equal(data.test.images, load_dataset("digits").test.images)
    held = validation_indices(data.train.labels, 0.1, 0)
    counts = torch.bincount(data.train.labels[held])
    expected = torch.bincount(data.train.labels) * 0.1
    assert float((counts - expected).abs().max()) <= 0.5 + 1e-6


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (12, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(12) % 10
    folder.mkdir()
    sums = {}
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (folder / name).write_bytes(rows.tobytes())
        sums[name] = hashlib.md5(rows.tobytes()).hexdigest()
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    spec = classification.CIFAR["cifar10"]
    small = replace(spec, train=("data_batch_1.bin",))
    monkeypatch.setitem(classification.CIFAR, "cifar10", small)
    archive = replace(ARCHIVES["cifar10"], files=sums)
    monkeypatch.setitem(ARCHIVES, "cifar10", archive)
    return rows


def test_cifar_in_the_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    rows = write_cifar(folder, monkeypatch)
    for where in (tmp_path, folder):
        data = load_dataset("cifar10", where)
        assert data.classes == tuple("abcdefghij")
        assert data.train.labels.tolist() == rows[:, 0].tolist()
        assert data.train.images[3, 1, 2, 5] == rows[3, 1 + 1024 + 2 * 32 + 5]
    (folder / "test_batch.bin").write_bytes(b"0" * 3073)
    with pytest.raises(InputError, match="not the official file"):
        load_dataset("cifar10", tmp_path)


def test_cifar_at_a_smaller_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_cifar(tmp_path / "cifar-10-batches-bin", monkeypatch)
    whole = torch.from_numpy(rows[:, 1:].copy()).view(-1, 3, 32, 32).float()
    data = load_dataset("cifar10", tmp_path, image_size=16)
    assert data.augmentation == Augmentation(16, pad=2)
    areas = whole.view(-1, 3, 16, 2, 16, 2).mean((3, 5))
    assert torch.equal(data.train.images.float(), areas.round())
    uneven = load_dataset("cifar10", tmp_path, image_size=12).train.images.float()
    assert uneven.shape[1:] == (3, 12, 12)
    # Each pixel counts by the area that it shares with the new one.
    assert float((uneven.mean((2, 3)) - whole.mean((2, 3))).abs().max()) < 0.5
    assert load_dataset("cifar10", tmp_path, image_size=32).train.images.shape[-1] == 32
    for name, size in (("cifar10", 40), ("digits", 8)):
        with pytest.raises(InputError, match=f"--resolution is {size}"):
            load_dataset(name, tmp_path, image_size=size)


def test_as_many_images_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cifar-10-batches-bin", monkeypatch)  # classes 0 to 9, then 0 and 1
    data = load_dataset("cifar10", tmp_path, images_per_class=1)
    assert data.train.labels.tolist() == data.test.labels.tolist() == list(range(10))
    with pytest.raises(InputError, match="'c' has 1 training images, not 2"):
        load_dataset("cifar10", tmp_path, images_per_class=2)
    digits = load_dataset("digits", images_per_class=20)
    assert set(torch.bincount(digits.train.labels).tolist()) == {20}
    assert set(torch.bincount(digits.test.labels).tolist()) == {4}


def test_a_missing_data_set_offline_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(InputError, match="cannot be reached") as raised:
        load_dataset("cifar100", tmp_path)
    assert "--data-dir" in raised.value.remedy


def test_an_image_tree(tmp_path: Path) -> None:
    for label, name in enumerate(("s1", "s2")):
        (tmp_path / name).mkdir()
        for k in range(5):
            pixels = np.full((20, 16, 3), 40 * label + k, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
    data = load_dataset("folder", tmp_path, image_size=14)
    assert data.classes == ("s1", "s2")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.train.images.shape[-2:] == (16, 16)
    (tmp_path / "s1" / "9.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="not a readable image"):
        load_dataset("folder", tmp_path)
    with pytest.raises(InputError, match="no folder"):
        load_dataset("folder", tmp_path / "nowhere")


def test_the_att_faces_are_read_as_they_are_unpacked(tmp_path: Path) -> None:
    """Folders s1, s2, … of 92 × 112 grey PGM files, a README beside them and no test folder."""
    (tmp_path / "README").write_text("Our Database of Faces\n")
    people = [f"s{number}" for number in (1, 2, 10)]
    for person in people:
        (tmp_path / person).mkdir()
        for number in range(1, 11):
            pixels = np.full((112, 92), 20 * number, dtype=np.uint8)
            pixels[:56] = int(person[1:])
            header = b"P5\n# a comment\n92 112\n255\n"
            (tmp_path / person / f"{number}.pgm").write_bytes(header + pixels.tobytes())
    data = load_dataset("folder", tmp_path, image_size=14)
    assert data.classes == ("s1", "s10", "s2")
    for part, count in ((data.train, 8), (data.test, 2)):
        assert part.labels.tolist() == [label for label in range(3) for _ in range(count)]
        assert part.images.shape[1:] == (3, 16, 16)
        assert (part.images == part.images[:, :1]).all()
        top = torch.tensor([1, 10, 2])[part.labels]
        assert torch.equal(part.images[:, 0, 0, 0].long(), top)
    shades = [int(shade) for part in (data.train, data.test) for shade in part.images[:, 0, -1, 0]]
    assert sorted(shades) == sorted([20 * number for number in range(1, 11)] * 3)
    held = validation_indices(data.train.labels, 0.1, 0)
    assert data.train.labels[held].tolist() == [0, 1, 2]


def test_crops_and_flips_are_windows_of_the_padded_image() -> None:
    images = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    how = Augmentation(8, pad=2)
    random = torch.Generator().manual_seed(1)
    out = augment(images, how, random)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    for index in range(6):
        windows = [padded[index, :, r : r + 8, c : c + 8] for r in range(5) for c in range(5)]
        found = [w for w in windows for v in (w, w.flip(-1)) if torch.equal(v, out[index])]
        assert found
    still = augment(images, Augmentation(8, flip=False), random)
    assert torch.equal(still, images)
    assert center(images, Augmentation(4)).shape == (6, 3, 4, 4)


def described(arch: str, size: int = 16) -> Description:
    return Description(arch, NAMES, size, (0.5,) * 3, (0.25,) * 3, "digits", validation=(1, 2))


@pytest.mark.parametrize("arch", ["cnn", "resnet20", "resnet18", "squeezenet1_1"])
def test_classifiers_by_name(arch: str) -> None:
    size = 64 if arch == "squeezenet1_1" else 16
    model = build(described(arch, size)).eval()
    assert model(torch.rand(2, 3, size, size)).shape == (2, 4)
    if arch == "resnet18":
        assert model.net.conv1.kernel_size == (3, 3)
        assert isinstance(model.net.maxpool, torch.nn.Identity)
        assert model.penultimate() is model.get_submodule("net.layer4.1.conv2").weight
        assert model.head_name() == "net.fc"


def test_an_unknown_architecture() -> None:
    with pytest.raises(InputError, match="no classifier 'resnet19'"):
        build(described("resnet19"))


def test_a_classifier_survives_the_disk(tmp_path: Path) -> None:
    model, before = build(described("cnn"), seed=3).eval(), described("cnn")
    save_classifier(tmp_path, model, before)
    again, description = load_classifier(tmp_path)
    assert description == before
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(model(images), again(images))
    text = json.loads((tmp_path / "model.json").read_text())
    text["classes"] = ["a", "b"]
    (tmp_path / "model.json").write_text(json.dumps(text))
    with pytest.raises(InputError, match="does not fit"):
        load_classifier(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_classifier(tmp_path / "nowhere")


def test_another_programs_weights(tmp_path: Path) -> None:
    source, target = build(described("resnet20"), seed=1), build(described("resnet20"), seed=2)
    state = {
        f"module.{k}".replace("fc.", "linear."): v
        for k, v in source.net.state_dict().items()
        if not k.endswith("num_batches_tracked")  # as in old files
    }
    torch.save({"state_dict": state, "best_prec1": 1.0}, tmp_path / "w.th")
    assert import_weights(target, described("resnet20"), tmp_path / "w.th") == described("resnet20")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(source.eval()(images), target.eval()(images))
    with pytest.raises(InputError, match="does not fit"):
        import_weights(build(described("cnn")), described("cnn"), tmp_path / "w.th")
