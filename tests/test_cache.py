"""One cache: everything that erase keeps moves with `ERASE_CACHE`, and nothing stays at home."""

import ast
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from erase.artifacts import cache, weights
from erase.artifacts.datasets import ARCHIVES
from erase.cli.main import main
from erase.cli.needs import list_items
from erase.data.classes import find_imagenette
from erase.data.classification import load_dataset
from erase.errors import InputError
from erase.evaluation.run import evaluate
from erase.models.loading import resolve, save_pipeline
from tests.download_world import CONTENT, Server
from tests.evaluation_world import config, make_models

PACKAGE = Path(__file__).parent.parent / "erase"


@dataclass
class World:
    cache: Path
    scratch: Path
    server: Server
    monkeypatch: pytest.MonkeyPatch


@pytest.fixture
def world(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """`ERASE_CACHE` alone is set; the home folder has to stay empty."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", str(scratch))  # matplotlib's own list of fonts
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield World(tmp_path / "cache", scratch, server, monkeypatch)
    assert list(home.rglob("*")) == []


def fetched_weights(world: World) -> Path:
    spec = replace(weights.WEIGHTS["resnet18"], sha256=hashlib.sha256(CONTENT).hexdigest())
    world.monkeypatch.setitem(weights.WEIGHTS, "resnet18", spec)
    world.monkeypatch.setattr(weights, "address", lambda _: world.server.url)
    result = CliRunner().invoke(main, ["fetch", "--weights", "resnet18"])
    assert result.exit_code == 0, result.output
    return weights.find_weights("resnet18")


def serve_cifar100(world: World) -> None:
    rows = bytes(2 + 3072) * 3
    archive = ARCHIVES["cifar100"]
    contents = {"train.bin": rows, "test.bin": rows, "fine_label_names.txt": b"apple\nbear\n"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{archive.folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    world.server.content = buffer.getvalue()
    md5 = hashlib.md5(buffer.getvalue(), usedforsecurity=False).hexdigest()
    pinned = replace(archive, url=world.server.url, md5=md5)
    world.monkeypatch.setitem(ARCHIVES, "cifar100", pinned)


def loaded_dataset(world: World) -> Path:
    serve_cifar100(world)
    assert len(load_dataset("cifar100").train) == 3
    load_dataset("cifar100")
    assert len(world.server.asked) == 1
    return world.cache / "datasets" / ARCHIVES["cifar100"].folder


def fetched_dataset(world: World) -> Path:
    serve_cifar100(world)
    world.monkeypatch.setattr("erase.suites.cifar10.Cifar10.datasets", ("cifar100",))
    (item,) = (item for item in list_items(suites=["cifar10"]) if item.name == "cifar100")
    assert item.fetch is not None
    item.fetch(None)
    assert item.place == str(world.cache / "datasets")
    return item.find()


def imagenette(world: World) -> Path:
    with pytest.raises(InputError) as caught:
        find_imagenette(None)
    assert str(world.cache / "datasets") in caught.value.remedy
    (world.cache / "datasets" / "imagenette2" / "train" / "n01440764").mkdir(parents=True)
    return find_imagenette(None)


def own_model(world: World) -> Path:
    with pytest.raises(InputError) as caught:
        resolve("cifar10-ddpm")
    folder = Path(caught.value.remedy.rpartition(" ")[2])  # of erase train ddpm --output
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    return resolve("cifar10-ddpm").path


def unpacked_checkpoint(world: World) -> Path:
    from erase.export.export import export
    from tests.test_export import as_run, build

    base, run = world.scratch / "base", world.scratch / "run"
    save_pipeline(build("sd1"), base, torch.float32)
    as_run(build("sd1"), run, base)
    target = world.scratch / "model.safetensors"
    written = export(run, target, kind="single-file", dtype="fp32")
    return resolve(str(written.path), config_from=str(base)).path


def renders(world: World) -> Path:
    models = make_models(world.scratch)
    output = world.scratch / "evaluation"
    evaluate(config(models, output, images_per_class=1, metrics=("ua",), cache_dir=None))
    (folder,) = (world.cache / "renders").iterdir()
    assert len(list(folder.rglob("*.png"))) == 10
    return folder


USERS: dict[Callable[[World], Path], cache.Part] = {
    fetched_weights: "weights",
    loaded_dataset: "datasets",
    fetched_dataset: "datasets",
    imagenette: "datasets",
    own_model: "models",
    unpacked_checkpoint: "unpacked",
    renders: "renders",
}


@pytest.mark.parametrize("use", USERS, ids=lambda use: use.__name__)
def test_erase_cache_alone_moves_everything(world: World, use: Callable[[World], Path]) -> None:
    place = use(world)
    assert place.exists()
    assert place.is_relative_to(world.cache / USERS[use])
    assert {part.name for part in world.cache.iterdir()} == {USERS[use]}


def test_every_part_of_the_cache_has_a_user() -> None:
    assert set(USERS.values()) == set(cache.Part.__args__)  # type: ignore[attr-defined]


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ERASE_CACHE", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "erase"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_root() == tmp_path / "xdg" / "erase"
    assert cache.torch_checkpoints() == tmp_path / "xdg" / "torch" / "hub" / "checkpoints"
    monkeypatch.setenv("ERASE_CACHE", "~/mine")
    assert cache.cache_folder("renders") == tmp_path / "mine" / "renders"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert cache.torch_checkpoints() == tmp_path / "torch" / "hub" / "checkpoints"


def test_one_module_knows_the_home_folder_and_one_the_hub() -> None:
    homes, hubs = set(), set()
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "home":
                homes.add(name)
            if isinstance(node, ast.Constant) and node.value in ("XDG_CACHE_HOME", "ERASE_CACHE"):
                homes.add(name)
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules.append(str(node.module))
            if any(module.partition(".")[0] == "huggingface_hub" for module in modules):
                hubs.add(name)
    assert homes == {"artifacts/cache.py"}
    assert hubs == {"artifacts/hub.py"}
