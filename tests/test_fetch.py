"""`erase fetch` and where weights are found: against a server of the test's own, never the net."""

import hashlib
import io
import os
import re
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from erase import registry
from erase.artifacts import download as downloading
from erase.artifacts import hub, models, packaged, weights
from erase.artifacts.datasets import ARCHIVES
from erase.cli.main import main
from erase.cli.needs import list_items
from erase.errors import InputError, RunError
from erase.scoring.suite import load_suite
from tests.download_world import CONTENT, Server

pytestmark = pytest.mark.usefixtures("home")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["fetch", *arguments])


# Weights


def pin(monkeypatch: pytest.MonkeyPatch, name: str, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(
        weights.WEIGHTS, name, replace(weights.WEIGHTS[name], sha256=digest, size=len(content))
    )


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", weights.WEIGHTS)
def test_pins_are_those_of_the_libraries(name: str) -> None:
    spec = weights.WEIGHTS[name]
    assert re.fullmatch(r"[0-9a-f]{64}", spec.sha256)
    assert spec.sha256[:8] == re.findall(r"-([0-9a-f]{8})\.pth$", spec.file)[0]
    assert weights.address(name).startswith("https://")
    if spec.address[0] == "torchvision.models":
        import torchvision.models

        entry = torchvision.models.get_weight(spec.address[1].removesuffix(".url"))
        assert spec.size == pytest.approx(entry.meta["_file_size"] * 2**20, rel=1e-3)


def test_a_library_with_other_weights_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(weights.WEIGHTS["resnet18"], file="resnet18-00000000.pth")
    monkeypatch.setitem(weights.WEIGHTS, "resnet18", other)
    with pytest.raises(RunError, match="other weights"):
        weights.address("resnet18")


def test_missing_weights_name_file_command_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights-inception-2015-12-05-6726825d\.pth") as caught:
        weights.find_weights("inception")
    assert "erase fetch --weights inception" in caught.value.remedy
    assert str(tmp_path / "cache" / "weights") in caught.value.remedy


@pytest.mark.parametrize("place", [0, 1])
def test_weights_are_found_and_checked(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    content = saved({"a": torch.ones(2)})
    pin(monkeypatch, "resnet18", content)
    file = weights.places("resnet18")[place]
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert weights.find_weights("resnet18") == file
    assert torch.equal(weights.load_weights("resnet18")["a"], torch.ones(2))
    file.write_bytes(content + b"!")
    with pytest.raises(InputError, match="not the published file"):
        weights.find_weights("resnet18")
    with pytest.raises(InputError, match="not the published file"):
        weights.load_weights("resnet18")


def test_torch_hubs_own_folder_is_known() -> None:
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    assert weights.places("resnet18")[1].parent == hub


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("boom",)


def test_nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = saved({"a": Boom()})
    pin(monkeypatch, "resnet18", content)
    file = weights.places("resnet18")[0]
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        weights.load_weights("resnet18")
    assert not (tmp_path / "boom").exists()


def test_unknown_names_are_refused() -> None:
    for find in (weights.find_weights, weights.find_clip):
        with pytest.raises(InputError, match="nonsense"):
            find("nonsense")


def test_clip_is_found_at_its_pinned_commit(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    asked = []

    def local(repository: str, revision: str | None) -> Path | None:
        asked.append((repository, revision))
        return home if revision else None

    monkeypatch.setattr(hub, "local_snapshot", local)
    with pytest.raises(InputError, match="openai") as caught:
        weights.find_clip("vit-b-32")
    assert "erase fetch --weights clip-vit-b-32" in caught.value.remedy
    for file in weights.CLIP_FILES:
        (home / file).touch()
    assert weights.find_clip("vit-b-32") == home
    assert asked[0] == (weights.CLIP["vit-b-32"], weights.CLIP_REVISIONS["vit-b-32"])


# The command


def test_fetch_without_arguments_lists() -> None:
    result = invoke()
    assert result.exit_code == 0
    for name in (*weights.weight_names(), *models.HUB, "i2p", "nudenet"):
        assert name in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())


def test_weights_are_fetched_checked_and_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, "inception", CONTENT)
    monkeypatch.setattr(weights, "address", lambda _: server.url)
    result = invoke("--metric", "fid", "--dry-run")
    assert result.exit_code == 0
    assert "inception" in result.output
    assert "5 MB" in result.output
    assert server.asked == []
    result = invoke("--metric", "fid", "--metric", "kid")
    assert result.exit_code == 0, result.output
    assert weights.find_weights("inception").read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert "Everything is there" in invoke("--metric", "fid").output
    assert len(server.asked) == 1


def test_one_failure_does_not_stop_the_others(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "address", lambda _: server.url)  # the wrong file for resnet18
    pin(monkeypatch, "inception", CONTENT)
    result = invoke("--weights", "resnet18", "--weights", "inception")
    assert result.exit_code == 1
    assert "not the published file" in result.output
    assert "1 of 2 were not fetched" in result.output
    assert "Traceback" not in result.output
    assert weights.find_weights("inception").is_file()


def test_without_network_every_item_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "address", lambda _: "http://127.0.0.1:9/x")
    monkeypatch.setattr(time, "sleep", lambda _: None)
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
            return str(packaged.EMBEDDED["mini-sd"])
        calls.append({"repository": repository, **given})
        return str(packaged.EMBEDDED["mini-sd"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    result = invoke("--model", "sd-1.4")
    assert result.exit_code == 0, result.output
    (call,) = calls
    assert call["revision"] == models.REVISIONS[call["repository"]]
    assert "safety_checker/*" in call["ignore_patterns"]
    assert not any(pattern.endswith((".bin", ".ckpt")) for pattern in call["allow_patterns"])


def test_fp16_weights_are_fetched_only_where_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    ignored: list[list[str]] = []

    def snapshot(repository: str, **given: Any) -> str:
        ignored.append(given["ignore_patterns"])
        return str(home if repository == "some/fp16" else packaged.EMBEDDED["mini-sd"])

    (home / "unet").mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    models.model_snapshot("some/model", None)
    assert ignored == [models.IGNORED]
    models.model_snapshot("some/fp16", None)
    assert ignored[1:] == [models.IGNORED, models.UNUSED]


def test_a_model_that_lacks_a_part_is_not_whole(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(packaged.EMBEDDED["mini-sd"], folder)
    assert models.missing_parts(folder) == []
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(folder / "tokenizer")
    assert sorted(models.missing_parts(folder)) == ["tokenizer", "vae/*.safetensors"]
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
    )
    (unet / "one.safetensors").touch()
    assert "unet/two.safetensors" in models.missing_parts(folder)


def test_cifar_is_fetched_and_unpacked(
    server: Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    archive = ARCHIVES["cifar10"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in archive.files:
            info = tarfile.TarInfo(f"{archive.folder}/{name}")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    server.content = buffer.getvalue()
    digest = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(ARCHIVES, "cifar10", replace(archive, md5=digest, url=server.url))
    (item,) = (item for item in list_items(suites=["cifar10"]) if item.name == "cifar10")
    with pytest.raises(InputError, match="not on this machine"):
        item.find()
    assert item.fetch is not None
    item.fetch(None)
    assert item.find() == home / "cache" / "datasets" / archive.folder
    assert len(list(item.find().iterdir())) == 7


def test_each_suite_is_told_to_fetch_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite's hub data set and archives name that suite in the command, whatever its name."""
    throwaway = load_suite("digits")
    throwaway.hub, throwaway.datasets = ("nobody/captions", "captions.csv"), ("cifar100",)  # type: ignore[misc]
    monkeypatch.setattr(
        "erase.scoring.suite.load_suite",
        lambda name: throwaway if name == "new" else load_suite(name),
    )
    items = {item.name: item for item in list_items(suites=["new"])}
    for name in ("nobody/captions", "cifar100"):
        assert items[name].command == "erase fetch --suite new"
    with pytest.raises(InputError, match=r"captions\.csv of nobody/captions"):
        items["nobody/captions"].find()
    with pytest.raises(InputError, match="CIFAR-100 is not on this machine"):
        items["cifar100"].find()
    for suite in registry.names("suites"):
        for item in list_items(suites=[suite]):
            assert item.command in (
                "",
                f"erase fetch --suite {suite}",
                f"erase fetch --weights {item.name}",
            )


def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bad.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../outside"), io.BytesIO(b""))
    with pytest.raises(RunError, match="cannot be unpacked"):
        downloading.unpack(archive, "folder")
    assert not (tmp_path.parent / "outside").exists()
    assert [item.name for item in tmp_path.iterdir()] == ["bad.tar.gz"]
