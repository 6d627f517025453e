"""What the machine does to a command: full disks, forbidden paths, too little memory.

Provoked for real, also for root, whom permissions do not stop: limits of the process, the user of
the file system, a disk of 1 MB.
"""

import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from erase.artifacts.download import unpack
from erase.cli.main import main
from erase.errors import RunError, explained, is_memory_error
from erase.files import append_jsonl, atomic_directory, naming, write_bytes, write_text
from erase.judges.images import halving
from erase.runs.checkpoint import save_checkpoint
from erase.runs.processes import Distributed

RUN = (
    *("concept", "--model", "mini-sd", "--concept", "three", "--max-train-steps", "1"),
    *("--num-forget-images", "3", "--num-retain-images", "3", "--render-steps", "1"),
    *("--train-batch-size", "1", "--device", "cpu"),
)
EVALUATE = (
    *("evaluate", "--model", "mini-sd", "--no-baseline", "--target", "three", "--limit", "10"),
    *("--steps", "1", "--device", "cpu"),
)
LARGE = bytes(200_000)


@contextmanager
def limited(kind: int, size: int) -> Iterator[None]:
    """A limit of this process."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextmanager
def another_user() -> Iterator[None]:
    """File access as a user without rights, where this one is root; os.access is not affected."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def fill_directory(path: Path) -> None:
    with atomic_directory(path) as aside:
        (aside / "weights.bin").write_bytes(LARGE)


WRITES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: write_bytes(path, LARGE),
    "text": lambda path: write_text(path, "a" * len(LARGE)),
    "row": lambda path: append_jsonl(path, {"a": "a" * len(LARGE)}),
    "directory": fill_directory,
    "checkpoint": lambda path: save_checkpoint(path, 3, {"w": torch.zeros(len(LARGE))}, {}, keep=0),
}


def two_lines(error: BaseException) -> RunError:
    """What a user reads of the error: what and where in one line, what to do in another."""
    known = explained(error)
    assert isinstance(known, RunError), repr(error)
    assert known.exit_code == 1
    assert known.remedy
    assert "\n" not in known.message + known.remedy
    return known


@pytest.mark.fault("full disk")
@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_a_write_that_finds_no_room_names_the_file_and_leaves_nothing(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "result"
    large = pytest.raises(OSError, match="large")
    with limited(resource.RLIMIT_FSIZE, 50_000), large as caught:
        write(path)
    known = two_lines(caught.value)
    assert str(path) in known.message
    assert "larger than is allowed" in known.message
    assert [file for file in tmp_path.rglob("*") if "partial" in file.name] == []


@pytest.mark.fault("full disk")
def test_a_full_device_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        append_jsonl(path, {"step": 1})
    assert two_lines(caught.value).message == f"{path} cannot be used: the disk is full."


@pytest.mark.fault("full disk")
def test_what_libraries_wrap_is_found(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with (
        limited(resource.RLIMIT_FSIZE, 50_000),
        pytest.raises(OSError, match="too large") as caught,
        naming(path),
    ):
        save_file({"w": torch.zeros(100_000)}, path)
    assert str(path) in two_lines(caught.value).message


@pytest.mark.fault("full disk")
@pytest.mark.parametrize("command", [RUN, EVALUATE], ids=["concept", "evaluate"])
def test_a_command_without_room_ends_in_two_lines(command: tuple[str, ...], tmp_path: Path) -> None:
    output = tmp_path / "out"
    with limited(resource.RLIMIT_FSIZE, 8_000):
        result = CliRunner().invoke(main, [*command, "--output", str(output)])
    assert result.exit_code == 1, result.output
    error = result.output[result.output.index("Error: ") :]
    assert "larger than is allowed" in error
    assert str(output) in error
    assert len(error.strip().splitlines()) == 2, error
    assert not [file for file in output.rglob("*") if "partial" in file.name]
    assert json.loads((output / "record.json").read_text())["status"] == "failed"


def looped(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "out"


@pytest.mark.fault("forbidden path")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (looped, "symbolic links|leads back to itself"),
        (lambda folder: folder / ("a" * 256), "a name of more than 255 bytes"),
        (lambda folder: folder / ("ä" * 128), "a name of more than 255 bytes"),
        (a_file, "is a file"),
        (lambda _: Path("/proc/erase"), "not there|forbid|permission"),
        (lambda _: Path("/dev/null/out"), "is a file"),
    ],
    ids=["loop", "256 bytes", "256 bytes in 128 letters", "below a file", "/proc", "device"],
)
@pytest.mark.parametrize("command", [RUN, EVALUATE], ids=["concept", "evaluate"])
def test_an_output_that_cannot_be_made(
    command: tuple[str, ...], make: Callable[[Path], Path], why: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    result = CliRunner().invoke(main, [*command, "--output", str(path)])
    assert result.exit_code in (1, 2), result.output
    error = result.output[result.output.index("Error: ") :]
    assert str(path)[:60] in error  # long ones are cut
    assert "not expected" not in error
    # click says in one line what is wrong with the `--output` of `concept`.
    lines = 1 if "255" in why and command is RUN else 2
    assert len(error.strip().splitlines()) == lines, error
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("loop", "file")] == []
    message = error.splitlines()[0].lower()
    assert any(words in message for words in why.split("|")), message


@pytest.mark.fault("forbidden path")
@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_a_folder_of_somebody_else(write: Callable[[Path], object], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with another_user(), pytest.raises(OSError, match="denied") as caught:
            write(tmp_path / "result")
        known = two_lines(caught.value)
        assert str(tmp_path) in known.message
        assert "permission denied" in known.message
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.fault("forbidden path")
def test_a_working_directory_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = CliRunner().invoke(main, [*RUN, "--output", "out"])
    assert result.exit_code == 1, result.output
    error = result.output[result.output.index("Error: ") :]
    assert error.startswith("Error: The working directory was deleted.\n")
    assert len(error.strip().splitlines()) == 2


@pytest.mark.fault("forbidden path")
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that the system does not know, as containers give; Python asks it for a home."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from erase.errors import explained\n"
        "os.environ.pop('HOME', None); os.getuid() or os.setuid(54321)\n"
        "try: Path.home()\n"
        "except Exception as error: print(explained(error).message)\n"
    )
    for name in ("HOME", "ERASE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if os.geteuid() == 0:
        assert "no home folder" in done.stdout, done.stderr
    assert (
        "no home folder" in two_lines(RuntimeError("Could not determine home directory.")).message
    )


@pytest.mark.fault("partial file")
def test_what_dead_processes_left_is_swept_and_what_others_write_stays(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    dead = tmp_path / f".a.png.partial-{child.pid}"
    dead.write_bytes(b"half")
    alive = tmp_path / f".b.png.partial-{os.getppid()}"
    alive.write_bytes(b"half")
    own = tmp_path / "notes.partial-7"
    own.write_bytes(b"the user's")
    write_text(tmp_path / "c.txt", "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [alive.name, own.name, "c.txt"]
    )


@pytest.mark.fault("partial file")
def test_a_partial_file_that_is_locked_stays(tmp_path: Path) -> None:
    """A process on another machine of a shared disk may have the number of one that died here."""
    child = subprocess.Popen(["true"])
    child.wait()
    partial = tmp_path / f".a.png.partial-{child.pid}"
    with partial.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_text(tmp_path / "c.txt", "whole")
        assert partial.exists()


def test_names_of_255_bytes_are_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "ä" * 127):
        write_text(tmp_path / name, "whole")
        with atomic_directory(tmp_path / "folder" / name) as aside:
            (aside / "file").write_text("")
        assert (tmp_path / name).read_text() == "whole"
        assert (tmp_path / "folder" / name / "file").exists()


@pytest.mark.fault("full disk")
def test_an_archive_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large.bin").write_bytes(LARGE)
    archive = Path(shutil.make_archive(str(tmp_path / "a"), "gztar", tmp_path, "data"))
    shutil.rmtree(tmp_path / "data")
    large = pytest.raises(OSError, match="large")
    with limited(resource.RLIMIT_FSIZE, 50_000), large as caught:
        unpack(archive, "data")
    two_lines(caught.value)
    assert list(tmp_path.iterdir()) == [archive]
    unpack(archive, "data")
    assert (tmp_path / "data" / "large.bin").read_bytes() == LARGE


def torch_allocates() -> None:
    torch.empty(2**50)


def torch_overflows() -> None:
    torch.empty(2**40, 2**40)


def numpy_allocates() -> None:
    np.empty(2**50)


def python_allocates() -> None:
    bytearray(2**50)


def one_dnn() -> None:
    """oneDNN's own buffers, under a limit of the address space."""
    raise RuntimeError("could not create a primitive")


MEMORY = [torch_allocates, torch_overflows, numpy_allocates, python_allocates, one_dnn]


@pytest.mark.fault("too little memory")
@pytest.mark.parametrize("allocate", MEMORY, ids=lambda f: f.__name__)
def test_memory_that_does_not_suffice_is_known(allocate: Callable[[], None]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_memory_error(caught.value), repr(caught.value)
    assert "memory does not suffice" in two_lines(caught.value).message
    with pytest.raises(type(caught.value)):
        Distributed().on_all(allocate)


@pytest.mark.fault("too little memory")
@pytest.mark.parametrize("most", [4, 2])
def test_judges_halve_their_batches(most: int) -> None:
    def look(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > most:
            torch_allocates()
        return batch * 2

    batch = torch.arange(5.0)
    assert torch.equal(halving(look, batch), batch * 2)


@pytest.mark.fault("too little memory")
def test_a_single_image_that_does_not_fit_is_said() -> None:
    def look(_: torch.Tensor) -> torch.Tensor:
        torch_allocates()
        raise AssertionError

    with pytest.raises(RunError, match="single image"):
        halving(look, torch.zeros(4))


BILLIONS = str(2**31)
TOO_MUCH = [  # more than any run may ask for
    (*RUN, "--train-batch-size", BILLIONS),
    (*RUN, "--render-batch-size", BILLIONS),
    (*RUN, "--num-forget-images", str(2**45)),
    (*RUN, "--num-retain-images", str(2**45)),
    (*EVALUATE, "--batch-size", BILLIONS),
    (*EVALUATE[:-6], "--steps", "1", "--images-per-class", str(2**40)),
    ("train", "ddpm", "--dataset", "digits", "--train-batch-size", BILLIONS, "--device", "cpu"),
]


@pytest.mark.fault("too little memory")
@pytest.mark.parametrize("command", TOO_MUCH, ids=lambda words: f"{words[0]} {words[-2]}")
def test_what_cannot_fit_is_refused_before_anything_is_written(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    result = CliRunner().invoke(main, [*command, "--output", str(output)])
    assert result.exit_code == 2, result.output
    assert "Give a value from 1 to" in result.output
    assert not output.exists()


@pytest.mark.fault("too little memory")
def test_rendering_halves_on_every_kind_of_memory_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionPipeline

    real, failures = StableDiffusionPipeline.__call__, list(MEMORY)

    def crowded(self: Any, *arguments: Any, **options: Any) -> Any:
        if failures:
            failures.pop()()
        return real(self, *arguments, **options)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", crowded)
    command = [*EVALUATE, "--batch-size", "40", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert result.output.count("going on with") == len(MEMORY)
    assert not failures


@pytest.mark.slow
@pytest.mark.fault("too little memory")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("gigabytes", [2, 3])
@pytest.mark.parametrize("command", [RUN, EVALUATE], ids=["concept", "evaluate"])
def test_a_limit_of_the_address_space(
    command: tuple[str, ...], gigabytes: int, tmp_path: Path
) -> None:
    """It may suffice, or not; a shortage is said in two lines, whoever notices it."""
    many = ("--train-batch-size", "512") if command is RUN else ("--batch-size", "512")
    limit = f'ulimit -v {gigabytes * 10**6}; exec "$@"'
    erase = (sys.executable, "-m", "erase", *command, *many, "--output", str(tmp_path / "out"))
    done = subprocess.run(
        ["sh", "-c", limit, "sh", *erase],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "not expected" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done.stderr


@pytest.mark.slow
@pytest.mark.fault("full disk")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kilobytes", [1, 40, 200, 1_000, 5_000, 11_000, 13_000])
def test_a_small_disk_fills(kilobytes: int, tmp_path: Path) -> None:
    """A run on a disk of its own, which is full at another place each time."""
    disk, output = tmp_path / "disk", tmp_path / "disk" / "out"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "erase-test", str(disk)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        with limited(resource.RLIMIT_FSIZE, kilobytes * 1000):
            result = CliRunner().invoke(main, [*RUN, "--output", str(output)])
    else:
        try:
            result = CliRunner().invoke(main, [*RUN, "--output", str(output)])
            left = [file.name for file in output.rglob("*") if "partial" in file.name]
            assert left == []
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert result.exit_code in (0, 1), result.output
    if result.exit_code:
        error = result.output[result.output.index("Error: ") :]
        assert len(error.strip().splitlines()) == 2, error
        assert "disk is full" in error or "larger than is allowed" in error


def test_errnos_without_a_file_are_said() -> None:
    known = two_lines(OSError(errno.ENOSPC, "No space left on device"))
    assert known.message == "The disk is full."
    assert explained(ValueError("something else")) is None
    assert explained(KeyError("x")) is None
