"""The processes that render one evaluation together, under `accelerate launch` or torchrun.

Only decisions and errors travel between them, over gloo whatever the device: images go through the
file system. The first process decides, scores and reports; the others help to render.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from erase.errors import EraseError, RunError

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # a process may wait long for another's share of slow images


def leads() -> bool:
    """Whether this process is the first of its launch, before it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class World:
    """This process among those that work on the same evaluation."""

    index: int = 0
    """From 0 to `count` - 1; process 0 is the one that scores and reports."""
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that scores and reports."""
        return self.index == 0

    def first(self, action: Callable[[], T]) -> T:
        """What the first process gets from `action`, in every process; its EraseError in all.

        The result travels by torch's own object broadcast, so keep it to strings and numbers.
        """
        if self.count == 1:
            return action()
        found: list[Any] = [None, None]
        if self.leads:
            try:
                found[0] = action()
            except EraseError as error:
                found[1] = error
            except Exception as error:
                found[1] = RunError(f"The first process failed: {type(error).__name__}: {error}")
                self._share(found)
                raise
        self._share(found)
        if found[1] is not None:
            raise found[1]
        return found[0]  # type: ignore[no-any-return]

    def all(self, action: Callable[[], T]) -> T:
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
        said = own
        if own is not None and not isinstance(own, EraseError):
            said = RunError(f"Process {self.index} failed: {type(own).__name__}: {own}")
        errors: list[Any] = [None] * self.count
        dist.all_gather_object(errors, said)
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

    def _share(self, content: list[Any]) -> None:
        import torch.distributed as dist

        dist.broadcast_object_list(content, src=0)


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the other processes of this launch, if there are any; leave them at the end."""
    if os.environ.get("WORLD_SIZE", "1") in ("", "0", "1"):
        yield World()
        return
    from accelerate import PartialState

    state = PartialState(cpu=True, timeout=PATIENCE)
    try:
        yield World(state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()
