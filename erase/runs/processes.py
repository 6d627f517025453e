"""The processes of one command: which of them this is, what they do together, how they start.

Torch and accelerate are imported when they are needed: the command line asks this module who
prints before it has loaded either.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from erase.config.base import LoopConfig
from erase.errors import EraseError, InputError, RunError, explained
from erase.runs.signals import WITH_PARENT

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # a process may wait long for another's share of slow images
STARTED = "launch"  # value of WITH_PARENT in processes that `start_processes` started
_LOST = ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "broken pipe")
"""What torch's backends say when another process has ended."""
_peers: list[tuple[str, int]] = []
"""Host and process id of every process of this command, by index."""


@dataclass(frozen=True)
class Distributed:
    """This process among those of its command.

    The main process decides, writes and prints; the others help. Only decisions and errors travel
    between them: images and weights go through the file system.
    """

    index: int = 0
    """From 0 to `count` - 1; process 0 is the main one."""
    count: int = 1

    @classmethod
    def launched(cls) -> Distributed:
        """As the launcher's environment says, before the processes have joined."""
        index, count = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
        return cls(
            int(index) if index.isdigit() else 0, max(int(count) if count.isdigit() else 1, 1)
        )

    @classmethod
    def of(cls, accelerator: Accelerator) -> Distributed:
        """The processes that accelerate has joined."""
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    def on_main(self, action: Callable[[], T]) -> T:
        """What the main process gets from `action`, in every process; its EraseError in all.

        The result travels by torch's own object broadcast, so keep it small and plain.
        """
        if self.count == 1:
            return action()
        import torch.distributed as dist

        message: list[Any] = [None, None]  # the result, the error
        unexpected: Exception | None = None
        if self.is_main:
            try:
                message[0] = action()
            except EraseError as error:
                message[1] = error
            except Exception as error:
                unexpected = error
                message[1] = explained(error) or RunError(
                    f"The first process failed: {type(error).__name__}: {error}"
                )
        dist.broadcast_object_list(message, src=0)
        result, failure = message
        if unexpected or failure:
            raise unexpected or failure
        return result  # type: ignore[no-any-return]

    def on_all(self, action: Callable[[], T]) -> T:
        """Run `action` in every process and wait for all; an error of one is raised in all.

        Returns this process's own result.
        """
        if self.count == 1:
            return action()
        import torch.distributed as dist

        own: Exception | None = None
        result: list[T] = []
        try:
            result.append(action())
        except Exception as error:
            own = error
        reported = own
        if own is not None and not isinstance(own, EraseError):
            reported = explained(own) or RunError(
                f"Process {self.index} failed: {type(own).__name__}: {own}"
            )
        errors: list[Any] = [None] * self.count
        dist.all_gather_object(errors, reported)
        if own is not None:
            raise own
        for other in errors:
            if other is not None:
                raise other
        return result[0]

    def device(self, device: str) -> str:
        """This process's device: `cuda` becomes the GPU of its own rank on this machine."""
        if self.count > 1 and device == "cuda":
            return f"cuda:{os.environ.get('LOCAL_RANK', self.index)}"
        return device


class LostProcessError(RunError):
    """Another process of this command has ended, so that this one cannot go on.

    `speaks` says whether this process should print it: one does, and none where `start_processes`
    knows better.
    """

    def __init__(self, message: str, remedy: str, *, speaks: bool) -> None:
        super().__init__(message, remedy)
        self.speaks = speaks


def reason(error: BaseException) -> EraseError | None:
    """What a user should read of an error: `explained`, or which other process has ended."""
    known = explained(error)
    here = Distributed.launched()
    text = str(error).lower()
    if known or here.count == 1 or not any(words in text for words in _LOST):
        return known
    ended = _ended()
    which = ", ".join(map(str, ended)) or "unknown"
    alive = [index for index in range(here.count) if index not in ended]
    return LostProcessError(
        f"Process {which} of 0 to {here.count - 1} has ended, so the others cannot go on.",
        "If it said nothing, the system killed it, often for lack of memory.",
        speaks=os.environ.get(WITH_PARENT) != STARTED and here.index == min(alive, default=0),
    )


def _meet() -> None:
    """Note where the processes that have just joined are."""
    import torch.distributed as dist

    _peers[:] = [("", 0)] * dist.get_world_size()
    dist.all_gather_object(_peers, (socket.gethostname(), os.getpid()))


def _ended() -> list[int]:
    """Indices of the processes on this machine that are gone; waits a moment for one to go."""
    import psutil

    def is_gone(process: int) -> bool:
        try:
            return bool(psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    for _ in range(20):
        here = socket.gethostname()
        gone = [i for i, (host, process) in enumerate(_peers) if host == here and is_gone(process)]
        if gone:
            return gone
        time.sleep(0.05)
    return []


@contextlib.contextmanager
def joined() -> Iterator[Distributed]:
    """Join the other processes of this launch over gloo, if there are any; leave at the end."""
    if Distributed.launched().count == 1:
        yield Distributed()
        return
    from accelerate import PartialState

    state = PartialState(cpu=True, timeout=PATIENCE)
    _meet()
    try:
        yield Distributed(state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()


def make_accelerator(config: LoopConfig, output: Path, device: str | None) -> Accelerator:
    """An accelerator as the configuration asks for it; without `device` it chooses one."""
    from accelerate import Accelerator

    if device and device != "cpu":
        # accelerate reads the device from here; it has no argument for it.
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=config.mixed_precision,
        log_with=config.report_to,
        project_dir=output / "tensorboard" if config.report_to == "tensorboard" else None,
    )
    if accelerator.num_processes > 1:
        _meet()
    return accelerator


@dataclass(frozen=True)
class Shard:
    """Which part of the global batch this process takes, in which micro-batches."""

    batch_size: int
    micro_batches: int = 1
    process_index: int = 0
    num_processes: int = 1

    @classmethod
    def of(cls, config: LoopConfig, accelerator: Accelerator) -> Shard:
        """This process's part, as the configuration has it."""
        return cls(
            config.train_batch_size or 1,
            config.gradient_accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )

    @property
    def total(self) -> int:
        """Samples of each set in one optimizer step, over all processes."""
        return self.batch_size * self.micro_batches * self.num_processes

    def slices(self) -> list[slice]:
        """This process's micro-batches as slices of the global batch."""
        first = self.process_index * self.micro_batches
        starts = [(first + index) * self.batch_size for index in range(self.micro_batches)]
        return [slice(start, start + self.batch_size) for start in starts]


def lacks_processes(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` was asked for several CPU processes and started only this one.

    Accelerate starts N processes itself on GPUs only. On the CPU it leaves that to MPI or torchrun
    and starts one, without a word. It sets the address where processes meet only when there are to
    be several, and no rank when it starts but one.
    """
    return (
        environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
        and "MASTER_ADDR" in environment
        and "LOCAL_RANK" not in environment
        and not any(name.endswith(("COMM_WORLD_SIZE", "PMI_SIZE")) for name in environment)
    )


def start_processes(arguments: list[str], count: int | None = None) -> int:
    """Run `python -m erase` once per process that was asked for, as torchrun would.

    `count` is the number of processes; None takes it, and the port, from the command line of
    `accelerate launch`. Without a port, or with 0, the system chooses a free one. Returns the exit
    code of the process that failed first, or 0. When one fails, or this process is told to end, the
    others are ended; one that was killed is named. Raises InputError when the number of processes
    cannot be read from accelerate's command line, or its port is taken.
    """
    port = 0 if count else _asked_port()
    count = count or _asked_processes()
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the processes have said what is wrong
    os.environ[WITH_PARENT] = STARTED
    meeting: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0"}
    if port:
        meeting = {
            "rdzv_backend": "static",
            "rdzv_endpoint": f"127.0.0.1:{port}",
            "rdzv_configs": {"rank": 0, "timeout": 900},
        }
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"erase-{os.getpid()}",
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        **meeting,
    )
    try:
        elastic_launch(launch, sys.executable)("-m", "erase", *arguments)
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: _follows(item[1].exitcode))
        if failure.exitcode > 0:
            return int(failure.exitcode)
        sys.stderr.write(
            f"Error: Process {rank} of 0 to {count - 1} was killed ({failure.signal_name()}).\n"
            "Unless somebody did it, the system lacked memory: give smaller batches, or fewer"
            " processes.\n"
        )
        return 128 - int(failure.exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _follows(code: int) -> int:
    """0 for a process that was killed, 1 for one that failed, 2 for one that was told to end."""
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return 2  # by torch, since another had ended
    return int(code > 0)


def _launcher() -> list[str]:
    """The arguments of the `accelerate launch` that started this process; empty without one."""
    import psutil

    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []
    starts = [i for i, word in enumerate(words) if word.endswith(("launch", "launch.py"))]
    return words[starts[0] + 1 :] if starts else []


def launcher_complains() -> bool:
    """Whether the `accelerate launch` above adds a traceback when this process fails."""
    words = _launcher() if "LOCAL_RANK" not in os.environ else []
    return (
        bool(words)
        and "ACCELERATE_MIXED_PRECISION" in os.environ
        and not ({"-q", "--quiet"} & set(words))
    )


def _asked_port() -> int:
    """The port of accelerate's command line, which is free; 0 where none is given."""
    port = int(_launch_options().main_process_port or 0)
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"The port {port} is in use on this machine.",
                "Leave --main_process_port out: a free port is taken.",
            ) from error
    return port


def _launch_options() -> Any:
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser().parse_known_args([*_launcher(), "erase"])[0]


def _asked_processes() -> int:
    given = _launch_options()
    if not given.num_processes or given.num_machines not in (None, 1):
        raise InputError(
            "accelerate was asked for several CPU processes but started one.",
            "Start them with: erase --processes N …, or torchrun --nproc-per-node N -m erase …",
        )
    return int(given.num_processes)
