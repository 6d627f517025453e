"""Without network: one short attempt, none of the libraries' lines, and what to do.

No request leaves this machine: the hub is a closed port of it, or one that never answers.
"""

import importlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torchvision import models

from erase.artifacts import hub, network
from erase.artifacts.download import UnreachableError, download
from erase.cli.main import main
from erase.errors import InputError
from erase.judges import zoo
from erase.models import classifiers

SECONDS = 5.0
pytestmark = pytest.mark.fault("no network")


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported before the clock runs."""
    for name in ("erase.training.concept", "erase.evaluation.run"):
        importlib.import_module(name)


@pytest.fixture(params=["closed", "silent"])
def nowhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address that refuses connections, or takes them and never answers."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if request.param == "silent":
            port.listen(16)
        yield f"http://127.0.0.1:{port.getsockname()[1]}"


@pytest.fixture
def offline(nowhere: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A machine whose hub, data sets and weights are at that address."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(network, "PATIENCE", 1.5)
    hub._failure.cache_clear()
    yield nowhere
    hub._failure.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["concept", "--model", "sd-1.4", "--concept", "three"],
            "erase fetch --model sd-1.4",
        ),
        (["evaluate", "--model", "mini-sd", "--suite", "i2p"], "erase fetch --suite i2p"),
    ],
)
def test_a_command_that_needs_the_hub_answers_soon(
    arguments: list[str], command: str, offline: str, tmp_path: Path
) -> None:
    start = time.monotonic()
    result = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "out")])
    assert time.monotonic() - start < SECONDS, result.output
    assert result.exit_code == 2, result.output
    assert command in result.output
    assert "no network" in result.output
    assert "Retry" not in result.output
    assert len(result.stderr.strip().splitlines()) == 2, result.stderr


def test_fetching_says_so_for_each_item(offline: str) -> None:
    start = time.monotonic()
    result = CliRunner().invoke(main, ["fetch", "--model", "sd-1.4", "--suite", "i2p"])
    assert time.monotonic() - start < SECONDS
    assert result.exit_code == 1
    assert result.output.count("the hub cannot be reached") == 2
    assert "Retry" not in result.output


@pytest.mark.parametrize("nowhere", ["closed"], indirect=True)
def test_a_download_is_not_tried_again_where_nothing_answers(offline: str, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=r"was not fetched: .*refused"):
        download(f"{offline}/file.bin", tmp_path / "file.bin", "0" * 64)
    assert time.monotonic() - start < SECONDS
    assert not list(tmp_path.glob("file*"))


def test_a_name_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PATIENCE", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(60))
    start = time.monotonic()
    assert "no answer" in str(network.connection_failure("https://nowhere.invalid/a"))
    assert time.monotonic() - start < SECONDS


def test_networks_of_torchvision_are_asked_for_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port.getsockname()[1]}")
        monkeypatch.setattr(torch.hub, "_hub_dir", str(home / "torch"), raising=False)
        start = time.monotonic()
        with pytest.raises(InputError, match="no network"):
            zoo.network_from("mobilenet_v3_small", [])
        with pytest.raises(InputError, match="no network"):
            classifiers._imagenet_weights(models.get_model_weights("resnet18").DEFAULT)
        assert time.monotonic() - start < SECONDS
