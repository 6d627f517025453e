"""`erase attack --dry-run`: what would be attacked and rendered, and what is missing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import yaml

from erase.attack.plan import make_plan
from erase.attack.run import KIND, AttackFolder
from erase.attack.scores import SIDES
from erase.config.attack import AttackConfig
from erase.evaluation.run import warnings
from erase.render.sizes import png_bytes, readable_bytes
from erase.tasks.attack import RENDERS, counted


def dry_run(config: AttackConfig) -> list[str]:
    """The attacks with their settings, and what would be rendered, as lines of text.

    Nothing is written or downloaded. Raises InputError for whatever the run itself would refuse.
    """
    missing: list[str] = []
    plan = make_plan(config, missing)
    evaluation, n = plan.evaluation, len(plan.evaluation.samples)
    if not missing:
        AttackFolder(Path(config.output), KIND, plan.facts(), overwrite=config.overwrite).check()
    attacks = {
        name: {**asdict(spec.settings), "source": spec.source}
        for name, spec in plan.attacks.items()
    }
    lines = yaml.safe_dump(attacks, sort_keys=False, allow_unicode=True).splitlines()
    lines += [f"# warning: {line}" for line in warnings(evaluation, plan.note)]
    lines += [
        f"# device: {evaluation.device}",
        f"# concept: {', '.join(plan.concepts)}",
        f"# judge: {', '.join(evaluation.protocol.metrics)}",
        f"# prompts: {n}, rendered plainly by {evaluation.source.name} and by the base model"
        f" {plan.note['model']}",
    ]
    count = 2 * n
    for name in plan.sets:
        if name not in plan.given and name != RENDERS:
            count += config.num_images
            lines.append(
                f"# images to attack with ({name}): {config.num_images}, by the base model"
            )
    for name, spec in plan.attacks.items():
        attack = spec.build()
        stages = [stage for stage in attack.stages() if stage.step != 0]
        count += len(SIDES) * n * len(stages)
        lines.append(
            f"# {name}: {attack.budget()}; each model renders each prompt"
            f" {counted(len(stages), 'time', 'times')} at most"
        )
    lines.append(
        f"# images: at most {count}, {evaluation.protocol.steps} steps each;"
        f" disk: about {readable_bytes(count * png_bytes(plan.size))}"
    )
    return lines + ([f"# missing: {text}" for text in missing] or ["# missing: nothing"])
