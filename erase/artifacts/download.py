"""Downloads that resume, are checked before they get their name, and never leave half a file."""

import contextlib
import errno
import hashlib
import http.client
import io
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from erase.artifacts import network
from erase.errors import RunError
from erase.files import atomic_directory

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
TRIES = 3
LOCAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""Errors of this machine's disk: another try does not help."""
Progress = Callable[[int, int | None], None]


class UnreachableError(RunError):
    """The server refuses, or the connection breaks again and again."""


def download(
    url: str,
    target: Path,
    digest: str,
    *,
    algorithm: str = "sha256",
    progress: Progress | None = None,
    pause: float = 1.0,
) -> None:
    """Fetch a file; it appears under its name whole and checked, or not at all.

    What an interrupted download left (`.NAME.partial` beside the target) is continued where the
    server allows it. A connection that breaks is tried again, from where it broke.

    Args:
        url: http or https.
        target: the file; its folder is made. One that is there is replaced.
        digest: hexadecimal checksum of the whole file.
        algorithm: of the checksum: `sha256`, or `md5` where the publisher gives nothing better.
        progress: called with (bytes so far, bytes in all or None).
        pause: seconds before the second try; twice as many before the third.

    Raises UnreachableError when the server cannot be reached; RunError when the disk is full,
    another process is at it, or the file is not the published one, which is then deleted.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.partial")
    with _locked(aside), aside.open("a+b") as file:
        _fill(file, url, target, progress, pause)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        if hashlib.file_digest(file, algorithm).hexdigest() != digest:
            aside.unlink()
            raise RunError(
                f"{target.name} is not the published file: its {algorithm.upper()} differs.",
                "It was deleted; try again, and distrust the network if this repeats.",
            )
        aside.replace(target)


def unpack(archive: Path, folder: str) -> None:
    """Unpack a checked archive's folder beside it; it is there whole or not at all.

    RunError for an archive that is broken or holds no such folder.
    """
    target = archive.parent / folder
    with atomic_directory(target) as aside:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(aside, filter="data")
            outer = (aside / folder).rename(aside / ".outer")
        except (tarfile.TarError, OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno in LOCAL:
                raise
            raise RunError(f"{archive} cannot be unpacked ({error}).", "Delete it.") from error
        for item in outer.iterdir():
            item.rename(aside / item.name)
        outer.rmdir()


@contextlib.contextmanager
def _locked(aside: Path) -> Iterator[None]:
    """Keep other processes from filling the same file; RunError while one of them does."""
    lock = FileLock(aside.with_suffix(".lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"Another process is fetching {aside}.", "Wait for it, or end it."
        ) from error
    try:
        yield
    finally:
        # Deleted while it is still held: filelock notices when what it locks has lost its name.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _fill(
    file: io.BufferedRandom, url: str, target: Path, progress: Progress | None, pause: float
) -> None:
    if why := network.connection_failure(url):
        raise UnreachableError(
            f"{target.name} was not fetched: {why}.",
            "Check the network, or fetch the file elsewhere and copy it.",
        )
    for attempt in range(1, TRIES + 1):
        try:
            _receive(file, url, target, progress)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # asked for what lies beyond the end: all of it is here
                raise UnreachableError(
                    f"{target.name} was not fetched: the server answers {error.code}"
                    f" ({error.reason}).",
                    "Try later, or fetch the file elsewhere and copy it.",
                ) from error
            return
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in LOCAL:
                raise OSError(error.errno, error.strerror, str(target)) from error
            if attempt == TRIES:
                reason = getattr(error, "reason", None) or str(error) or type(error).__name__
                raise UnreachableError(
                    f"{target.name} was not fetched: {reason}.",
                    "Run the same command again; it goes on where it stopped.",
                ) from error
            time.sleep(pause * attempt)
        else:
            return


def _receive(file: io.BufferedRandom, url: str, target: Path, progress: Progress | None) -> None:
    """Append what is missing; OSError or HTTPException when the connection breaks."""
    done = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url)  # noqa: S310 - a library's constant
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {done}-"
        )
        if not resumed:
            done = 0
            file.truncate(0)
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        if total is not None and total - done > (free := shutil.disk_usage(target.parent).free):
            raise RunError(
                f"{target.name} needs {(total - done) / 1e6:.0f} MB; {free / 1e6:.0f} MB are free.",
                "Free some space, or set ERASE_CACHE to another folder.",
            )
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        if total is not None and done < total:
            raise ConnectionError("the connection broke")
