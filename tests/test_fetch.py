"""`erase fetch` and where weights are found: against a server of the test's own, never the net."""

import hashlib
import io
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from erase.artifacts import download as downloading
from erase.artifacts import fetching
from erase.cli import inventory
from erase.cli.main import main
from erase.data import classification
from erase.errors import InputError, RunError
from erase.models import loading
from tests.download_world import CONTENT, Server

pytestmark = pytest.mark.usefixtures("home")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["fetch", *arguments])


# Weights


def pin(monkeypatch: pytest.MonkeyPatch, name: str, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(
        fetching.WEIGHTS, name, replace(fetching.WEIGHTS[name], sha256=digest, size=len(content))
    )


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", fetching.WEIGHTS)
def test_pins_are_those_of_the_libraries(name: str) -> None:
    spec = fetching.WEIGHTS[name]
    assert re.fullmatch(r"[0-9a-f]{64}", spec.sha256)
    assert spec.sha256[:8] == re.findall(r"-([0-9a-f]{8})\.pth$", spec.file)[0]
    assert fetching.address(name).startswith("https://")
    if spec.address[0] == "torchvision.models":
        import torchvision.models

        weights = torchvision.models.get_weight(spec.address[1].removesuffix(".url"))
        assert spec.size == pytest.approx(weights.meta["_file_size"] * 2**20, rel=1e-3)


def test_a_library_with_other_weights_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(fetching.WEIGHTS["resnet18"], file="resnet18-00000000.pth")
    monkeypatch.setitem(fetching.WEIGHTS, "resnet18", other)
    with pytest.raises(RunError, match="other weights"):
        fetching.address("resnet18")


def test_missing_weights_name_file_command_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights-inception-2015-12-05-6726825d\.pth") as caught:
        fetching.find_weights("inception")
    assert "erase fetch --weights inception" in caught.value.remedy
    assert str(tmp_path / "cache" / "weights") in caught.value.remedy


@pytest.mark.parametrize("place", [0, 1])
def test_weights_are_found_and_checked(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    content = saved({"a": torch.ones(2)})
    pin(monkeypatch, "resnet18", content)
    file = fetching.places("resnet18")[place]
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert fetching.find_weights("resnet18") == file
    assert torch.equal(fetching.load_weights("resnet18")["a"], torch.ones(2))
    file.write_bytes(content + b"!")
    with pytest.raises(InputError, match="not the published file"):
        fetching.find_weights("resnet18")
    with pytest.raises(InputError, match="not the published file"):
        fetching.load_weights("resnet18")


def test_torch_hubs_own_folder_is_known() -> None:
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    assert fetching.places("resnet18")[1].parent == hub


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("boom",)


def test_nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = saved({"a": Boom()})
    pin(monkeypatch, "resnet18", content)
    file = fetching.places("resnet18")[0]
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        fetching.load_weights("resnet18")
    assert not (tmp_path / "boom").exists()


def test_unknown_names_are_refused() -> None:
    for find in (fetching.find_weights, fetching.find_clip):
        with pytest.raises(InputError, match="nonsense"):
            find("nonsense")


def test_clip_is_found_at_its_pinned_commit(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    asked = []

    def local(repository: str, revision: str | None) -> Path | None:
        asked.append((repository, revision))
        return home if revision else None

    monkeypatch.setattr(fetching, "local_snapshot", local)
    with pytest.raises(InputError, match="openai") as caught:
        fetching.find_clip("vit-b-32")
    assert "erase fetch --weights clip-vit-b-32" in caught.value.remedy
    for file in fetching.CLIP_FILES:
        (home / file).touch()
    assert fetching.find_clip("vit-b-32") == home
    assert asked[0] == (fetching.CLIP["vit-b-32"], fetching.CLIP_REVISIONS["vit-b-32"])


# The command


def test_fetch_without_arguments_lists() -> None:
    result = invoke()
    assert result.exit_code == 0
    for name in (*inventory.weight_names(), *loading.HUB, "i2p", "nudenet"):
        assert name in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())


def test_weights_are_fetched_checked_and_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, "inception", CONTENT)
    monkeypatch.setattr(fetching, "address", lambda _: server.url)
    result = invoke("--metric", "fid", "--dry-run")
    assert result.exit_code == 0
    assert "inception" in result.output
    assert "5 MB" in result.output
    assert server.asked == []
    result = invoke("--metric", "fid", "--metric", "kid")
    assert result.exit_code == 0, result.output
    assert fetching.find_weights("inception").read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert "Everything is there" in invoke("--metric", "fid").output
    assert len(server.asked) == 1


def test_one_failure_does_not_stop_the_others(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "address", lambda _: server.url)  # the wrong file for resnet18
    pin(monkeypatch, "inception", CONTENT)
    result = invoke("--weights", "resnet18", "--weights", "inception")
    assert result.exit_code == 1
    assert "not the published file" in result.output
    assert "1 of 2 were not fetched" in result.output
    assert "Traceback" not in result.output
    assert fetching.find_weights("inception").is_file()


def test_without_network_every_item_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "address", lambda _: "http://127.0.0.1:9/x")
    monkeypatch.setattr(downloading.time, "sleep", lambda _: None)
    result = invoke("--suite", "i2p", "--metric", "clip", "--model", "sd-1.4", "--metric", "fid")
    assert result.exit_code == 1
    assert result.output.count("Error:") == 4
    assert "4 of 5 were not fetched" not in result.output  # nudenet is there
    assert "4 of 4 were not fetched" in result.output
    for place in ("models--CompVis--stable-diffusion-v1-4", "datasets--AIML-TUDA--i2p", "weights"):
        assert place in result.output


def test_what_comes_with_the_package_is_not_fetched() -> None:
    result = invoke("--metric", "nudenet", "--model", "mini-sd", "--suite", "digits")
    assert result.exit_code == 0
    assert "Everything is there" in result.output


def test_an_unknown_name_is_refused() -> None:
    for option in ("--suite", "--metric", "--model", "--weights"):
        result = invoke(option, "nonsense")
        assert result.exit_code == 2, option
        assert "nonsense" in result.output


def test_models_come_at_their_pinned_commit(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    calls: list[dict[str, Any]] = []

    def snapshot(repository: str, **given: Any) -> str:
        if given.get("local_files_only"):
            if not calls:
                raise LocalEntryNotFoundError("not here")
            return str(loading.EMBEDDED["mini-sd"])
        calls.append({"repository": repository, **given})
        return str(home)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    result = invoke("--model", "sd-1.4")
    assert result.exit_code == 0, result.output
    (call,) = calls
    assert call["revision"] == loading.REVISIONS[call["repository"]]
    assert "safety_checker/*" in call["ignore_patterns"]
    assert not any(pattern.endswith((".bin", ".ckpt")) for pattern in call["allow_patterns"])


def test_a_model_that_lacks_a_part_is_not_whole(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(loading.EMBEDDED["mini-sd"], folder)
    assert inventory.missing_parts(folder) == []
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(folder / "tokenizer")
    assert sorted(inventory.missing_parts(folder)) == ["tokenizer", "vae/*.safetensors"]
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
    )
    (unet / "one.safetensors").touch()
    assert "unet/two.safetensors" in inventory.missing_parts(folder)


def test_cifar_is_fetched_and_unpacked(
    server: Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    spec = classification.CIFAR["cifar10"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in (*spec.train, *spec.test, spec.names):
            info = tarfile.TarInfo(f"{spec.folder}/{name}")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    server.content = buffer.getvalue()
    digest = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(classification.CIFAR, "cifar10", replace(spec, archive_md5=digest))
    monkeypatch.setattr(classification, "CIFAR_SITE", server.url.removesuffix("file.bin"))
    (item,) = (item for item in inventory.wanted(suites=["cifar10"]) if item.name == "cifar10")
    with pytest.raises(InputError, match="not on this machine"):
        item.find()
    assert item.fetch is not None
    item.fetch(None)
    assert item.find() == home / ".cache" / "erase" / "datasets" / spec.folder
    assert len(list(item.find().iterdir())) == 7


def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bad.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../outside"), io.BytesIO(b""))
    with pytest.raises(RunError, match="cannot be unpacked"):
        inventory.unpack(archive, "folder")
    assert not (tmp_path.parent / "outside").exists()
    assert [item.name for item in tmp_path.iterdir()] == ["bad.tar.gz"]
