"""The folder of a training run: whether it is new, resumed or replaced, and what may differ."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import click

from erase.config.base import Config
from erase.config.replay import upgraded
from erase.errors import InputError
from erase.files import atomic_directory, fingerprint, read_json, read_yaml
from erase.runs.checkpoint import WHOLE, find_checkpoint, list_checkpoints
from erase.runs.folder import CONFIG, ResultFolder
from erase.runs.manifest import MANIFEST, check, entries
from erase.runs.record import RunRecord

RUN_CONTROL = frozenset(
    {
        *("checkpointing_steps", "checkpoints_total_limit", "report_to"),
        *("validation_prompts", "validation_steps"),
    }
)
"""Settings that may differ between a run and its resumption: they do not change the result."""
LAST = frozenset({"save_dtype"})
"""Settings of the last step, the saving: they may differ while a run is not finished."""
CIRCUMSTANCES = ("device", "threads", "versions")
"""What may differ between a run and its resumption, with a warning: it can change single bits."""
SPARE = re.compile(r"data|checkpoint-\d+|evaluation.*|latents\.safetensors")
"""What a finished run no longer needs: it may be deleted to save space."""
RERUN = (
    "Restore it from a copy; or make it again with --resume-from-checkpoint latest-whole, or"
    " --overwrite."
)


@dataclass(frozen=True)
class RunState:
    """How far the run in a folder is."""

    finished: bool
    """Whether nothing is left to do."""
    checkpoint: Path | None
    """Where to go on from."""


@dataclass(eq=False)
class RunFolder(ResultFolder):
    """The folder of a training run, which is resumed or replaced only when that is asked for.

    Args:
        path: the folder.
        kind: the kind of run, as its record names it.
        config: the run's settings; those that change the result must not differ on resuming.
        overwrite: whether a run in the folder may be replaced.
        resume: `latest`; `latest-whole`, which passes over damaged checkpoints; a checkpoint; None.
        facts: what else must be as it was for a run to be resumed, as its record holds it; None
            leaves that open.
    """

    leftovers = (
        *("data", "latents.safetensors", "log.jsonl", "README.md", "checkpoint-*", "evaluation-*"),
        *("evaluation", "model_index.json", "model.safetensors", "model.json", "forget.json"),
        *("lora", "validation", "metrics.json", "tensorboard", ".pipeline", ".*partial-*"),
        *(".*old-*", MANIFEST, CONFIG),
    )

    config: Config
    _: KW_ONLY
    resume: str | None
    facts: Mapping[str, Any] | None = None

    def state(self) -> RunState:
        """How far the run is; InputError as in `check`, or for a checkpoint that is not there."""
        continued = self.check()
        if not (self.resume and continued):
            return RunState(finished=False, checkpoint=None)
        finished = self.record().get("status") == "finished"
        if finished:
            try:
                self.check_result()
                return RunState(finished, None)
            except InputError as error:
                if self.resume != WHOLE:
                    raise InputError(error.message, RERUN) from None
        checkpoint = find_checkpoint(self.path, self.resume, self.identity())
        return RunState(finished=False, checkpoint=checkpoint)

    def check_result(self) -> None:
        """InputError, naming the file, when the result of a finished run was damaged since."""
        tops = {name.partition("/")[0] for name in entries(self.path)}
        check(self.path, *(top for top in tops if not SPARE.fullmatch(top)))

    def identity(self) -> str:
        """Fingerprint of all that decides what the run ends with; its checkpoints carry it."""
        settings = {k: v for k, v in deciding(self.config).items() if k not in LAST}
        given = {name: value for name, value in settings.items() if value is not None}
        return fingerprint([self.kind, given, dict(self.facts or {})])

    def own(self) -> set[Path]:
        """The leftovers, and the parts of the pipeline."""
        return super().own() | set(self._parts())

    def note_changes(self, record: RunRecord, before: Mapping[str, Any]) -> None:
        """Warn of, and keep, what differs from the run that this one goes on with."""
        changes = list(before.get("changed_on_resume") or [])
        if self.resume and list_checkpoints(self.path):
            now = {
                name: [before[name], record.content.get(name)]
                for name in CIRCUMSTANCES
                if before.get(name) not in (None, record.content.get(name))
            }
            for name, (old, new) in now.items():
                click.echo(
                    f"Warning: the run goes on with {name} = {_short(_differing(new, old))}, before"
                    f" {_short(_differing(old, new))}: the weights may differ in single bits from"
                    " those of a run that was not interrupted.",
                    err=True,
                )
            changes += [now] if now else []
        if changes:
            record.update(changed_on_resume=changes)

    def check(self) -> bool:
        """Whether the folder holds this very run, begun earlier; changes nothing.

        Raises InputError for a folder that holds something else, settings or facts that differ,
        an input that would be deleted, or a checkpoint to resume from where there is no run.
        """
        if super().check():
            return True
        if self.is_empty():
            if self.resume not in (None, "latest"):
                raise InputError(
                    f"There is no run in {self.path} to continue from {self.resume}.",
                    "Give the --output of the run that the checkpoint belongs to.",
                )
            return False
        self._parts()  # refuses an index that `clear` could not follow
        return False

    def continues(self) -> bool:
        """Whether the run is to be resumed and is the same; InputError where it is another."""
        if self.resume is None:
            return False
        if not (self.path / CONFIG).is_file():
            left = [*list_checkpoints(self.path), *sorted(self.own())]
            names = [path.name for path in left if not path.name.startswith(".")]
            if names:
                raise InputError(
                    f"{self.path} holds {names[0]} but no {CONFIG}, so that nothing says what it"
                    " belongs to.",
                    f"Restore {CONFIG}, or start anew in another --output.",
                )
            return False  # killed before it had done anything
        saved = upgraded(self.config.renamed(read_yaml(self.path / CONFIG)))
        finished = self.record().get("status") == "finished"
        free = RUN_CONTROL if finished else RUN_CONTROL | LAST
        self._check_same(deciding(self.config), saved, free)
        if self.facts is not None:
            self._check_same(self.facts, self.record().get("facts", {}))
        return True

    def replaces(self) -> bool:
        """Whether a run may be replaced: with `resume`, one killed before it had done anything."""
        return self.overwrite or self.resume is not None

    def foreign(self) -> InputError:
        """The refusal of a folder that holds no run of this kind, by what was asked for."""
        if self.resume is not None:
            return InputError(
                f"{self.path} holds no {self.kind} run to resume.",
                "Give the --output of an interrupted run, or leave out --resume-from-checkpoint.",
            )
        if not self.overwrite:
            return self.occupied()
        return InputError(
            f"{self.path} is no erase run of this kind, so --overwrite does not touch it.",
            "Give another --output, or empty the folder yourself.",
        )

    def occupied(self) -> InputError:
        """The refusal of a folder that is not empty, without --overwrite."""
        return InputError(
            f"{self.path} is not empty.",
            "Give another --output, --resume-from-checkpoint latest, or --overwrite.",
        )

    def clear(self) -> None:
        """Remove what an earlier run left, the parts of its pipeline included."""
        for part in self._parts():
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
        super().clear()

    def _parts(self) -> list[Path]:
        """The parts of the folder's pipeline; InputError for an index that names other places."""
        index = self.path / "model_index.json"
        content = read_json(index) if index.is_file() else {}
        names = [name for name, value in dict(content).items() if isinstance(value, list)]
        for name in names:
            if name in ("", ".", "..") or Path(name).name != name:
                raise InputError(
                    f"{index} names a part {name!r}, which is no folder in it.",
                    "The file was changed by somebody: give another --output.",
                )
        return [self.path / name for name in names]

    def _check_same(
        self,
        now: Mapping[str, Any],
        before: Mapping[str, Any],
        free: frozenset[str] = frozenset(),
    ) -> None:
        for name in sorted({*before, *now} - free):
            if before.get(name) != now.get(name):
                raise InputError(
                    f"The run in {self.path} was started with {name} = {_short(before.get(name))},"
                    f" not {_short(now.get(name))}.",
                    f"Resume with what it was started with (--config {self.path / CONFIG}), or"
                    " start anew in another --output.",
                )


def deciding(config: Config) -> dict[str, Any]:
    """The settings that decide what a run ends with."""
    return {k: v for k, v in config.to_dict().items() if k not in RUN_CONTROL}


def _differing(value: Any, other: Any) -> Any:
    """Of two mappings, the entries that differ."""
    if not (isinstance(value, dict) and isinstance(other, dict)):
        return value
    return {name: entry for name, entry in value.items() if entry != other.get(name)}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


@contextmanager
def replacing_parts(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; on success each of its items replaces that of the run folder."""
    filled = folder / ".pipeline"
    with atomic_directory(filled) as aside:
        yield aside
    for part in sorted(filled.iterdir()):
        target = folder / part.name
        if target.is_dir():
            shutil.rmtree(target)
        part.replace(target)
    filled.rmdir()
