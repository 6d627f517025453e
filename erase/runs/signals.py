"""Signals that end a command, and the children that end with it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from erase.errors import ENDING, Interrupted
from erase.files import uninterrupted

PATIENCE = 30.0  # seconds that a child gets to end by itself
TWICE = 1.5  # a terminal and a launcher may both send the signal; a later one is meant
WITH_PARENT = "ERASE_ENDS_WITH_PARENT"
LAUNCHED = (WITH_PARENT, "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")
"""Set where another program started this one as its child: erase, torchrun or accelerate."""
_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted in the main thread for each signal of ENDING that is not ignored.

    After the first signal the command cleans up. One that comes later than TWICE ends it at once.
    """
    first: list[float] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise Interrupted(number)
        if time.monotonic() - first[0] > TWICE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread: then nothing is changed
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and `&` in scripts leave it
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Have the system send SIGTERM to this process when the program that launched it dies.

    A launcher that is killed cannot tell its children. Linux only; elsewhere nothing happens.
    """
    if sys.platform == "linux" and any(name in os.environ for name in LAUNCHED):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)


def run_child(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; whatever ends this process ends it too.

    Returns its exit code and what it wrote. The child gets SIGTERM and PATIENCE to clean up, then
    SIGKILL.
    """
    with contextlib.ExitStack() as started:
        child = None
        try:
            with uninterrupted():  # a signal while it starts would leave a child that nobody ends
                child = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, WITH_PARENT: "1"},
                )
                started.enter_context(child)
            said, complaints = child.communicate()
        except BaseException:
            if child is not None:
                child.terminate()
                try:
                    child.communicate(timeout=PATIENCE)
                except subprocess.TimeoutExpired:
                    child.kill()
            raise
    return subprocess.CompletedProcess(command, child.returncode, said, complaints)
