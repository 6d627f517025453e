"""The folder of a result: who may write into it, who holds it, and what its record says of it."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar

import click
from filelock import FileLock, Timeout

from erase.config.base import Config
from erase.errors import InputError, Interrupted
from erase.files import write_json
from erase.runs.checks import check_apart, check_writable
from erase.runs.manifest import keep_noted
from erase.runs.processes import Distributed, reason
from erase.runs.record import RECORD, RunRecord, read_record

CONFIG = "config.yaml"
LOCK = ".lock"
PARTIAL = re.compile(r"\..+\.partial-\d+")  # what a killed atomic write leaves


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Make the folder and hold it for this process; the system lets go when the process dies.

    While another process holds the folder: InputError, or with `wait` a line that says so, and
    waiting. What killed writes left is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise InputError(
                f"Another process is writing into {folder}.",
                "Wait for it, or give another --output.",
            ) from None
        click.echo(f"Waiting for another process that writes into {folder}.", err=True)
        lock.acquire()
    try:
        for parent in (folder, *(folder / name for name in ("images", "plots", "tables"))):
            for partial in parent.glob(".*.partial-*"):
                if partial.is_file():
                    partial.unlink()
        yield
    finally:
        lock.release()


@dataclass(eq=False)
class ResultFolder:
    """A folder that a command writes its result into.

    This class decides whether the command may write there, holds the folder while it does, and
    keeps the record. A subclass says which content is its own, and how it refuses the rest.

    Args:
        path: the folder.
        kind: the kind of result, as the record names it.
        config: written into the folder as `config.yaml`; None writes none.
        overwrite: whether another result of the same kind may be replaced.
        option: the option that named the folder, for messages.
        inputs: files and folders that the command reads: none may be the folder or lie in it.
    """

    leftovers: ClassVar[tuple[str, ...]] = ()
    """Patterns of what is removed before another result is replaced; the record stays."""
    others: ClassVar[tuple[str, ...]] = ()
    """Patterns of what else is the command's own, for the manifest."""

    path: Path
    kind: str
    config: Config | None = None
    _: KW_ONLY
    overwrite: bool = False
    option: str = "--output"
    inputs: Sequence[str | Path | None] = ()

    def check(self) -> bool:
        """Whether the folder holds this very result, begun earlier; changes nothing.

        Raises InputError when the folder may not be written into: it cannot be made, holds
        something else, or another result that is not to be replaced.
        """
        check_writable(self.path, self.option)
        if self.is_empty():
            return False
        if not self.is_ours():
            raise self.foreign()
        if self.continues():
            return True
        if not self.replaces():
            raise self.occupied()
        check_apart(self.path, self.inputs, self.option)
        return False

    def is_empty(self) -> bool:
        """Whether there is nothing in the folder but a lock and what killed writes left."""
        return not self.path.exists() or all(
            item.name == LOCK or PARTIAL.fullmatch(item.name) for item in self.path.iterdir()
        )

    def is_ours(self) -> bool:
        """Whether the folder holds a result of this kind."""
        return bool(self.record().get("kind") == self.kind)

    def continues(self) -> bool:
        """Whether the folder, which is ours, holds this very result, finished or not."""
        return False

    def replaces(self) -> bool:
        """Whether another result of this kind may be replaced: also one killed when it began."""
        names = {item.name for item in self.path.iterdir() if not PARTIAL.fullmatch(item.name)}
        begun = names <= {RECORD, LOCK} and self.record() == {"kind": self.kind}
        return self.overwrite or begun

    def foreign(self) -> InputError:
        """The refusal of a folder that holds something else."""
        return InputError(
            f"{self.path} holds something else, which is not replaced.",
            f"Give another {self.option}.",
        )

    def occupied(self) -> InputError:
        """The refusal of a folder that holds another result of this kind."""
        return InputError(f"{self.path} exists.", "Give another folder, or --overwrite.")

    def record(self) -> dict[str, Any]:
        """Content of the record in the folder; empty when there is none."""
        return read_record(self.path)

    def clear(self) -> None:
        """Remove what another result of this kind left; nothing else in the folder is touched.

        The record is replaced last: killed at any point, the folder is still known as ours.
        """
        for pattern in self.leftovers:
            for path in self.path.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        keep_noted(self.path)
        write_json(self.path / RECORD, {"kind": self.kind})

    def own(self) -> set[Path]:
        """The files and folders that are the command's own, without record and manifest."""
        patterns = (*self.leftovers, *self.others)
        return {path for pattern in patterns for path in self.path.glob(pattern)}

    def note_changes(self, record: RunRecord, before: Mapping[str, Any]) -> None:
        """Called with a record that goes on with the one `before`."""

    @contextmanager
    def hold(
        self, distributed: Distributed | None = None, **fields: Any
    ) -> Iterator[RunRecord | None]:
        """Hold the folder and keep its record while the result is made; all processes enter.

        Yields the record in the main process, which has to finish it, and None in the others. An
        error that ends the work early is written into the record. `fields` are the record's own.
        """
        distributed = distributed or Distributed()
        records: list[RunRecord] = []
        with ExitStack() as stack:

            def begin() -> None:
                self.check()  # before anything is made
                stack.enter_context(locked(self.path))
                if not self.check():  # another process may have written in the meantime
                    self.clear()
                before = self.record()
                records.append(RunRecord(self.path, self.own, kind=self.kind, **fields))
                self.note_changes(records[0], before)
                if self.config:
                    self.config.write(self.path / CONFIG)

            distributed.on_main(begin)
            try:
                yield records[0] if records else None
            except BaseException as error:
                known = reason(error)
                said = (known.message if known else str(error)) or type(error).__name__
                if isinstance(error, Interrupted):
                    error.held = True
                for record in records:
                    with suppress(OSError):  # the disk may be what failed
                        if isinstance(error, KeyboardInterrupt):
                            record.interrupt(said)
                        else:
                            record.fail(said)
                raise


class KnownFolder(ResultFolder):
    """A folder whose result a fingerprint identifies: the same result goes on in it.

    Args:
        path: the folder.
        kind: the kind of result.
        facts: what its record is to say; `fingerprint` is of all that the result depends on.
        overwrite: whether another result in the folder may be replaced.
        inputs: what the command reads.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        facts: Mapping[str, Any],
        *,
        overwrite: bool,
        inputs: Sequence[str | Path | None] = (),
    ) -> None:
        super().__init__(path, kind, overwrite=overwrite, inputs=inputs)
        self.facts = facts

    def continues(self) -> bool:
        """Whether the result in the folder has the same fingerprint."""
        return bool(self.record().get("fingerprint") == self.facts["fingerprint"])

    def replaces(self) -> bool:
        """Whether another result may be replaced: also one that failed."""
        return super().replaces() or self.record().get("status") == "failed"


class ComparisonFolder(ResultFolder):
    """A comparison's folder: any comparison of the same kind goes on with what is there."""

    def own(self) -> set[Path]:
        """Everything: nothing else may lie in the folder."""
        return set(self.path.iterdir())

    def continues(self) -> bool:
        """Always: each result in it has a fingerprint of all that changes it."""
        return True
