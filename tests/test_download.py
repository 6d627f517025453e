"""Downloads: whole or not at all, against a server of the test's own, never the net."""

import shutil
import types
from pathlib import Path

import pytest
from filelock import FileLock

from erase.artifacts import download as downloading
from erase.artifacts.download import download
from erase.errors import RunError
from tests.download_world import CONTENT, SHA256, Server

pytestmark = pytest.mark.usefixtures("home")


def test_a_download_appears_whole(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "file.bin"
    download(server.url, target, SHA256, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [item.name for item in target.parent.iterdir()] == ["file.bin"]


def test_a_broken_connection_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = [1_000_000, 2_000_000]
    download(server.url, tmp_path / "file.bin", SHA256, pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=3000000-"]


def test_a_later_run_goes_on_too(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    server.breaks = [1_000_000] * downloading.TRIES
    with pytest.raises(RunError, match="connection broke") as caught:
        download(server.url, target, SHA256, pause=0)
    assert "goes on" in caught.value.remedy
    assert not target.exists()
    download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=3000000-"


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.breaks, server.ranges = [1_000_000], False
    download(server.url, tmp_path / "file.bin", SHA256, pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_whole_partial_file_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.bin.partial").write_bytes(CONTENT)
    download(server.url, tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_another_file_is_refused_and_deleted(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(RunError, match="not the published file"):
        download(server.url, tmp_path / "file.bin", SHA256)
    assert list(tmp_path.glob("*file.bin*")) == []
    assert list(tmp_path.glob(".file*")) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_is_one_line(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(RunError, match=str(status)):
        download(server.url, tmp_path / "file.bin", SHA256, pause=0)
    assert len(server.asked) == 1


def test_no_server_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"file\.bin was not fetched"):
        download("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", SHA256, pause=0)


def test_a_full_disk_is_seen_before(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(RunError, match="5 MB"):
        download(server.url, tmp_path / "file.bin", SHA256)


def test_two_processes_do_not_fetch_one_file(server: Server, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".file.bin.lock"),
        pytest.raises(RunError, match="Another process"),
    ):
        download(server.url, tmp_path / "file.bin", SHA256)
    download(server.url, tmp_path / "file.bin", SHA256)
