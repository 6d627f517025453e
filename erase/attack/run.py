"""One run of attacks from model name to report: `erase attack`.

The output folder holds `record.json`, `before/` and `attacks/` (images, and what the attacks
found), `samples.jsonl` (a row for each prompt and stage), `metrics.json` and `report.html`. A
second call with the same settings does only what is lacking; one with others refuses the folder.
What the base model renders, plainly and under attack, lies in the folder of the baselines' images:
it is the same for all models that were made from it, and is not done again for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from erase.attack.judge import Rows, judge_images
from erase.attack.material import find_sets
from erase.attack.plan import AttackPlan, make_plan
from erase.attack.scores import (
    BASELINE,
    MODEL,
    SIDES,
    Verdicts,
    attack_scores,
    groups_of,
    plain_scores,
)
from erase.attack.siege import Siege
from erase.config.attack import AttackConfig
from erase.errors import InputError
from erase.evaluation.differences import differences
from erase.evaluation.plan import StageProgress, cache_folder
from erase.evaluation.run import image_fingerprints, warnings
from erase.files import write_json, write_jsonl
from erase.report.attack import AttackData, write_report
from erase.runs.device import say_device
from erase.runs.folder import KnownFolder, locked
from erase.runs.processes import Distributed, joined
from erase.runs.record import RunRecord, versions

METRICS, SAMPLES, REPORT = "metrics.json", "samples.jsonl", "report.html"
BEFORE, ATTACKS = "before", "attacks"
KIND = "attack"


@dataclass(frozen=True)
class AttackResult:
    """The rates of a run of attacks, and the folder that holds them."""

    folder: Path
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.folder / REPORT


class AttackFolder(KnownFolder):
    """The folder of a run of attacks; the same run goes on in it."""

    leftovers = (METRICS, SAMPLES, REPORT, "plots", "tables", ATTACKS)
    others = (BEFORE,)

    def foreign(self) -> InputError:
        """The refusal of a folder that holds something else."""
        return InputError(
            f"{self.path} is not empty, and holds no attacks either.", "Give another --output."
        )

    def occupied(self) -> InputError:
        """The refusal of a folder that holds other attacks; it says in what they differ."""
        before = self.record()
        found = differences(before, {**self.facts, "versions": versions()})
        for name in ("attacks", "budget"):
            if before.get(name) != self.facts[name]:
                found.append(f"other {name}")
        return InputError(
            f"{self.path} holds a run of attacks that differs"
            + (f": asked for are {'; '.join(found)}." if found else "."),
            "Give another --output, or --overwrite to replace it.",
        )


def attack(config: AttackConfig, progress: StageProgress | None = None) -> AttackResult | None:
    """Attack a model and its base model, judge, and report; the module's docstring lists the files.

    Under `accelerate launch` or torchrun all processes search and render, and the first one does
    the rest.

    Args:
        config: what to attack and how; `config.output` is the folder.
        progress: called with (stage, images done, images in all) of this process.

    Returns the rates; None in processes that only helped. Raises InputError for settings that
    cannot be used, as `make_plan` does, or a folder with something else; RunError when rendering,
    an attack or the judge fails: the record then says `failed`.
    """
    with joined() as distributed:
        return _attack(config, distributed, progress)


def _attack(
    config: AttackConfig, distributed: Distributed, progress: StageProgress | None
) -> AttackResult | None:
    plan = make_plan(config)
    say_device(plan.evaluation.device, config.device)
    for line in warnings(plan.evaluation, plan.note) if distributed.is_main else ():
        click.echo(f"Warning: {line}", err=True)
    facts = distributed.on_main(plan.facts)
    facts["processes"] = distributed.count
    output, evaluation = Path(config.output), plan.evaluation
    assert evaluation.baseline is not None
    inputs = (
        evaluation.source.path,
        evaluation.baseline.path,
        *(config.concept_images, config.harmless_images),
        *(config.prompts, config.prompt_table, config.classifier),
    )
    folder = AttackFolder(output, KIND, facts, overwrite=config.overwrite, inputs=inputs)
    with folder.hold(distributed, **facts) as record:
        files = _plain_images(plan, distributed, output, progress)
        before = {
            side: judge_images(distributed, evaluation, evaluation.samples, files[side])
            for side in SIDES
        }
        sets = find_sets(plan, distributed, files[BASELINE], progress)
        verdicts: dict[str, dict[str, Verdicts]] = {}
        for name, spec in plan.attacks.items():
            control = plan.control(name)
            shared = cache_folder(plan.config) / f"attack-{control}"
            for side, source, place, identity in (
                (MODEL, evaluation.source, output / ATTACKS / name / MODEL, facts["fingerprint"]),
                (BASELINE, evaluation.baseline, shared, control),
            ):
                siege = Siege(
                    plan,
                    name,
                    side,
                    spec.build(),
                    source,
                    place,
                    distributed=distributed,
                    sets=sets,
                    plain=before[side],
                    identity=identity,
                    progress=progress,
                )
                with ExitStack() as stack:
                    if side == BASELINE:  # another run may attack it at the moment: wait for it
                        distributed.on_main(partial(stack.enter_context, locked(place, wait=True)))
                    verdicts.setdefault(name, {})[side] = siege.run()
        if record is None:
            return None
        return _write(plan, output, record, before, verdicts)


def _plain_images(
    plan: AttackPlan, distributed: Distributed, output: Path, progress: StageProgress | None
) -> dict[str, list[Path]]:
    """The images of the plain prompts by side; the base model's are shared with evaluations."""
    evaluation = plan.evaluation
    own, shared = distributed.on_main(lambda: image_fingerprints(evaluation))
    assert evaluation.baseline is not None
    assert shared is not None
    return {
        MODEL: evaluation.render(
            distributed, evaluation.source, own, output / BEFORE, "model", progress
        ),
        BASELINE: evaluation.render(
            distributed,
            evaluation.baseline,
            shared,
            cache_folder(plan.config) / shared,
            "baseline",
            progress,
        ),
    }


def _write(
    plan: AttackPlan,
    output: Path,
    record: RunRecord,
    before: Mapping[str, Rows],
    verdicts: Mapping[str, Mapping[str, Verdicts]],
) -> AttackResult:
    evaluation = plan.evaluation
    ids = [sample.id for sample in evaluation.samples]
    attacks = []
    for name, spec in plan.attacks.items():
        attack = spec.build()
        for group, stages in groups_of(attack.stages()).items():
            attacks.append(
                {
                    "attack": name,
                    "group": group,
                    "budget": attack.budget(),
                    "stages": [stage.name for stage in stages],
                    **attack_scores(ids, before, verdicts[name], stages),
                }
            )
    metrics = {
        "suite": plan.config.suite,
        "model": plan.config.model,
        "baseline": plan.note["model"],
        "concepts": sorted(evaluation.targets),
        "protocol": evaluation.protocol.to_json(),
        "n": len(ids),
        "before": plain_scores(ids, before),
        "attacks": attacks,
    }
    rows = _rows(plan, before, verdicts)
    write_jsonl(output / SAMPLES, rows)
    write_json(output / METRICS, metrics)
    seconds = {
        name: {side: round(found.seconds, 1) for side, found in sides.items()}
        for name, sides in verdicts.items()
    }
    record.update(seconds=seconds)
    data = AttackData(
        record=record.content,
        metrics=metrics,
        rows=rows,
        folder=output,
        show_explicit=plan.config.show_explicit,
    )
    write_report(output / REPORT, data)
    record.finish()
    return AttackResult(output, metrics)


def _rows(
    plan: AttackPlan,
    before: Mapping[str, Rows],
    verdicts: Mapping[str, Mapping[str, Verdicts]],
) -> list[dict[str, Any]]:
    """A row for each prompt and side: plain (no `attack`), then for each stage of each attack."""
    samples = {sample.id: sample for sample in plan.evaluation.samples}
    rows: list[dict[str, Any]] = []

    def add(side: str, key: str, prompt: str, seen: Mapping[str, Any], **more: Any) -> None:
        sample = samples[key]
        common = {"id": key, "side": side, "target": sample.target, "seed": sample.seed}
        rows.append({**common, "prompt": prompt, **more, **seen})

    for side in SIDES:
        for key, sample in samples.items():
            add(side, key, sample.prompt, before[side][key])
    for name, sides in verdicts.items():
        stages = plan.attacks[name].build().stages()
        for side, found in sides.items():
            for stage in (stage for stage in stages if stage.step != 0):
                place = Path(ATTACKS, name, side, stage.name, "images")
                for key, seen in found.stages[stage.name].items():
                    more = {"attack": name, "stage": stage.name}
                    if side == MODEL:  # the base model's are in the folder that all runs share
                        more["image"] = f"{place}/{key}.png"
                    add(side, key, found.prompts[stage.name][key], seen, **more)
    return rows
