"""Work in several processes, each piece of which leaves its result in a file.

Every result is a file of its own (`store.cached`), so the processes need not tell each other
anything: the parent finds all results where it would look for those of a comparison that was
killed. A piece of work begins as soon as a process is free and all that it needs is done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from erase.errors import EraseError

Job = TypeVar("Job", bound=Hashable)
THREADS = "OMP_NUM_THREADS"
COSTS = "costs.jsonl"
"""File of the jobs' seconds in a comparison's folder."""


def run_jobs(
    needs: Mapping[Job, set[Job]],
    processes: int,
    do: Callable[[Any, Job], None],
    plan: Any,
    *,
    progress: Callable[[str], None],
    note: Callable[[Job, float], None] = lambda _, __: None,
) -> None:
    """Do all jobs, so many at a time, each in a process that does nothing else meanwhile.

    Args:
        needs: the jobs in the order in which they should begin, with the jobs that each needs.
        processes: how many at a time.
        do: called with `plan` and a job in another process, so all three have to be picklable.
        plan: sent to each process once.
        progress: called with a line of text after each job.
        note: called with each job that is done and its seconds of processor time.

    Raises:
        EraseError: what a job failed with.
    """
    waiting, finished = dict(needs), set[Job]()
    total = len(waiting)
    running: dict[Future[_Done], Job] = {}
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    with ProcessPoolExecutor(processes, context, _start, (plan, processes)) as pool:
        try:
            while waiting or running:
                ready = (job for job, before in waiting.items() if before <= finished)
                for job in [*ready][: processes - len(running)]:
                    del waiting[job]
                    running[pool.submit(_run, do, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, done = running.pop(future), future.result()
                    if done.error is not None:
                        kind, message, remedy = done.error
                        raise kind(message, remedy)
                    finished.add(job)
                    note(job, done.seconds)
                    progress(
                        f"[{time.monotonic() - began:6.0f} s, {len(finished)} of {total}] {job}:"
                        f" {done.seconds:.1f} s of processor time"
                    )
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                for process in list((pool._processes or {}).values()):
                    process.terminate()  # what it was writing is swept by the next command
            pool.shutdown(cancel_futures=True)
            raise


def say(text: str) -> None:
    """A line on standard error, from whatever process."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class _Done:
    error: tuple[type[EraseError], str, str] | None
    seconds: float
    """Of processor time, with that of child processes."""


_plans: list[Any] = []  # of this process: one


def _start(plan: Any, processes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent ends us
    if THREADS not in os.environ:
        threads = max(1, (os.cpu_count() or 1) // processes)
        os.environ[THREADS] = str(threads)  # for child processes
        torch.set_num_threads(threads)
    _plans[:] = [plan]


def _run(do: Callable[[Any, Job], None], job: Job) -> _Done:
    began = _spent()
    try:
        do(_plans[0], job)
    except EraseError as error:
        return _Done((type(error), error.message, error.remedy), 0.0)
    return _Done(None, _spent() - began)


def _spent() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
