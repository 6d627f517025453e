"""Several CPU processes under `accelerate launch --cpu --num_processes N -m erase …`.

Accelerate starts N processes itself on GPUs only. On the CPU it leaves that to MPI or torchrun and
starts one, without a word. Here that one becomes the N that were asked for.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from erase.errors import InputError


def speaks() -> bool:
    """Whether this process is the one of several that prints."""
    return os.environ.get("RANK", "0") == "0"


def asked_for_more(environment: Mapping[str, str]) -> bool:
    """Whether accelerate was asked for several CPU processes and this is the only one.

    It sets the address where processes meet only when there are to be several, and no rank when
    it starts but one.
    """
    return (
        environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
        and "MASTER_ADDR" in environment
        and "LOCAL_RANK" not in environment
        and not any(name.endswith(("COMM_WORLD_SIZE", "PMI_SIZE")) for name in environment)
    )


def run_all(arguments: list[str]) -> int:
    """Run `python -m erase` once per process that was asked for; the first failing exit code.

    Raises InputError when the number cannot be read from accelerate's command line.
    """
    count = _asked_processes()
    common = os.environ | {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "erase", *arguments],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while any(process.poll() is None for process in ranks):
            if failed := [process.returncode for process in ranks if process.returncode]:
                return failed[0]
            time.sleep(0.1)
        return next((process.returncode for process in ranks if process.returncode), 0)
    finally:
        for process in ranks:  # the others would wait for the missing one for ever
            process.terminate()


def _asked_processes() -> int:
    import psutil
    from accelerate.commands.launch import launch_command_parser

    try:
        launcher = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        launcher = []
    start = next(
        (i for i, word in enumerate(launcher) if word.endswith(("launch", "launch.py"))), 0
    )
    given, _ = launch_command_parser().parse_known_args([*launcher[start + 1 :], "erase"])
    if not given.num_processes or given.num_machines not in (None, 1):
        raise InputError(
            "accelerate was asked for several CPU processes but started one.",
            "Start them with: torchrun --nproc-per-node N -m erase …",
        )
    return int(given.num_processes)


@dataclass(frozen=True)
class Shard:
    """Which part of the global batch this process takes, in which micro-batches."""

    batch_size: int
    micro_batches: int = 1
    process_index: int = 0
    num_processes: int = 1

    @property
    def total(self) -> int:
        """Samples of each set in one optimizer step, over all processes."""
        return self.batch_size * self.micro_batches * self.num_processes

    def slices(self) -> list[slice]:
        """This process's micro-batches as slices of the global batch."""
        first = self.process_index * self.micro_batches
        starts = [(first + index) * self.batch_size for index in range(self.micro_batches)]
        return [slice(start, start + self.batch_size) for start in starts]
