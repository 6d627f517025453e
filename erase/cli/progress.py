"""Progress bars of commands that report (stage, done, total)."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback that draws one bar a stage, with the time left, on standard error."""
    bars: dict[str, tqdm[Any]] = {}

    def update(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = tqdm(desc=f"rendering ({stage})", total=total, initial=done, unit="img")
        bars[stage].update(done - bars[stage].n)
        if done == total:
            bars[stage].close()

    try:
        yield update
    finally:
        for bar in bars.values():
            bar.close()
