"""One attack on one model: its stages prepared, rendered and judged, as far as they are lacking."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from erase.attack.judge import Rows, judge_images, shown
from erase.attack.plan import AttackPlan
from erase.attack.scores import Verdicts
from erase.attack.store import FolderStore
from erase.data.captioned import CaptionedImages
from erase.evaluation.plan import StageProgress
from erase.files import fingerprint, read_jsonl, write_jsonl
from erase.models.loading import ModelSource, load_pipeline
from erase.render.render import DTYPES, IMAGES, claim, render, rendered, use_scheduler
from erase.runs.manifest import note_files
from erase.runs.processes import Distributed
from erase.scoring.samples import Sample
from erase.tasks.attack import Attack, Rendering, Stage, Victim

RENDERED = "samples.jsonl"
"""What a stage rendered: its samples, as the attack made them."""


@dataclass
class Siege:
    """One attack on one model."""

    plan: AttackPlan
    name: str
    side: str
    """`model` or `baseline`, as progress calls it."""
    attack: Attack
    source: ModelSource
    folder: Path
    """Of this attack on this model."""
    distributed: Distributed
    sets: Mapping[str, CaptionedImages]
    plain: Rows
    """What the judge says of the model's plain images."""
    identity: str
    """Fingerprint of everything that the result depends on, but for attack and model."""
    progress: StageProgress | None = None
    _pipelines: dict[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> Sequence[Sample]:
        """The plain samples."""
        return self.plan.evaluation.samples

    @cached_property
    def device(self) -> torch.device:
        """The device of this process."""
        return torch.device(self.distributed.device(self.plan.evaluation.device))

    @cached_property
    def victim(self) -> Victim:
        """The model with all that the attacker has; loaded when it is first asked for."""
        plan, protocol = self.plan, self.plan.evaluation.protocol
        return Victim(
            pipeline=self._pipeline(self.source),
            family=plan.family,
            device=self.device,
            size=plan.size,
            steps=protocol.steps,
            seed=protocol.seed,
            samples=self.samples,
            sets=self.sets,
            pairs=plan.pairs,
            original=self._original,
            store=FolderStore(self.folder, self.distributed),
            batch_size=plan.evaluation.config.render_batch_size,
        )

    def _pipeline(self, source: ModelSource) -> Any:
        pipeline = load_pipeline(source, dtype=DTYPES[self.plan.config.dtype])
        use_scheduler(pipeline, self.plan.evaluation.protocol.scheduler)
        return pipeline.to(self.device)

    def _original(self) -> Any:
        """The base model; a second one, even where it is attacked itself."""
        if "original" not in self._pipelines:
            assert self.plan.evaluation.baseline is not None
            self._pipelines["original"] = self._pipeline(self.plan.evaluation.baseline)
        return self._pipelines["original"]

    def run(self) -> Verdicts:
        """Render and judge all stages.

        A stage without a step is left out for prompts that an earlier one of its group showed the
        concept with: one success is enough.
        """
        start = time.monotonic()
        done: dict[str, set[str]] = {}
        stages, prompts = {}, {}
        for stage in self.attack.stages():
            if stage.step == 0:  # the model as it is
                stages[stage.name] = self.plain
                prompts[stage.name] = {sample.id: sample.prompt for sample in self.samples}
                continue
            already = done.setdefault(stage.group, set()) if stage.step is None else set()
            samples = [sample for sample in self.samples if sample.id not in already]
            shown_prompts, rows = self._stage(stage, samples) if samples else ({}, {})
            stages[stage.name], prompts[stage.name] = rows, shown_prompts
            already |= shown(rows)
        return Verdicts(stages, prompts, time.monotonic() - start)

    def _stage(
        self, stage: Stage, samples: Sequence[Sample]
    ) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """The prompts that were rendered, and what the judge says of the images."""
        folder = self.folder / stage.name
        mark = fingerprint(
            [self.identity, self.name, self.source.fingerprint(), asdict(stage)]
            + [sample.id for sample in samples]
        )
        if not self.distributed.on_main(lambda: self._is_complete(folder, samples, mark)):
            rendering = self.attack.prepare(self.victim, stage, samples)
            self.distributed.on_main(lambda: self._begin(folder, rendering, mark))
            self.distributed.on_all(lambda: self._render(stage, rendering, folder, mark))
        files = [folder / IMAGES / f"{sample.id}.png" for sample in samples]
        rows = judge_images(self.distributed, self.plan.evaluation, samples, files)
        prompts = {row["id"]: row["text"] for row in read_jsonl(folder / RENDERED)}
        return prompts, rows

    def _is_complete(self, folder: Path, samples: Sequence[Sample], mark: str) -> bool:
        return (folder / RENDERED).is_file() and rendered(folder, samples, mark) is not None

    def _begin(self, folder: Path, rendering: Rendering, mark: str) -> None:
        claim(folder, mark, overwrite=True)
        said = rendering.texts or {}
        rows = ({**asdict(s), "text": said.get(s.id, s.prompt)} for s in rendering.samples)
        write_jsonl(folder / RENDERED, rows)
        note_files(folder, RENDERED)

    def _render(self, stage: Stage, rendering: Rendering, folder: Path, mark: str) -> None:
        """This process's share of a stage's images."""
        pipeline = self.victim.pipeline
        own = pipeline.scheduler
        if rendering.scheduler is not None:
            pipeline.scheduler = rendering.scheduler
        protocol = self.plan.evaluation.protocol
        title = f"{self.name}, {self.side}: {stage.name}"
        try:
            render(
                pipeline,
                rendering.samples,
                folder,
                steps=protocol.steps,
                size=protocol.size,
                fingerprint=mark,
                batch_size=self.plan.evaluation.config.render_batch_size,
                device=str(self.device),
                progress=None if self.progress is None else partial(self.progress, title),
                process_index=self.distributed.index,
                num_processes=self.distributed.count,
                inputs=rendering.inputs,
            )
        finally:
            pipeline.scheduler = own
