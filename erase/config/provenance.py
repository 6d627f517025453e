"""What every method is run with on every task, and which source says so, as tables for people.

docs/methods.md is made of the data that runs read:

    python -m erase.config.provenance > docs/methods.md
"""

import sys
from collections.abc import Iterator
from typing import Any

from erase.config.classifier import BATCH
from erase.config.families import CLASS_CONDITIONAL, CLASSIFIER, TEXT_TO_IMAGE, methods_for
from erase.config.layers import Layer, merged
from erase.config.methods import MethodSpec, find_method, recipe_for, run_defaults
from erase.config.recipes import KINDS, LARGE, SMALL, TASKS, Recipe

COLUMNS = (
    *("method", "rate", "length", "batch", "optimizer", "schedule", "trained", "clip", "dropout"),
    *("own settings", "source"),
)
HEAD = """# Settings of every method, and where they come from

Made by `python -m erase.config.provenance` from the tables that runs read (`RECIPES` in the
methods' files). What an option or `--set` gives wins over them; a run's `config.yaml` and
`--dry-run` show what was used. A source is a paper or a file of its authors' public code; *ours*
marks settings that are not from a source, with how they were found. *rate* is the learning rate;
*length* counts optimizer steps, epochs of the retain set (classifiers) or passes over the forget
set (denoisers); *clip* the norm that gradients are clipped to, *dropout* the share of retain
captions or labels that are left out. Own settings that are not listed have their
defaults: `erase concept … --method NAME --dry-run` prints them all, and for classifiers a run's
`config.yaml` has them.
"""


def family_of(task: str) -> str:
    """The family of models of a task."""
    if task in (*KINDS, "small"):
        return TEXT_TO_IMAGE
    return CLASS_CONDITIONAL if task.startswith(CLASS_CONDITIONAL) else CLASSIFIER


def rows(task: str) -> Iterator[tuple[str, ...]]:
    """A row of `COLUMNS` for each method of a task."""
    family = family_of(task)
    for name in methods_for(family):
        spec = find_method(name, family)
        found = _recipe(spec, task)
        if found is not None:
            yield _row(spec, task, found)


def _recipe(spec: MethodSpec, task: str) -> Recipe | None:
    """The method's recipe on a task; below 32 pixels and at 50%, that of the task it follows."""
    found = recipe_for(spec, task)
    if found is None and task == "class-conditional-small":
        found = recipe_for(spec, CLASS_CONDITIONAL)
        if found is not None:
            values = run_defaults(spec, CLASS_CONDITIONAL, 8)
            return Recipe(f"the form of {found.source}, for as long as small models", False, values)
    if found is None and task.endswith(":50"):
        return recipe_for(spec, task.removesuffix(":50"))
    return found


def _row(spec: MethodSpec, task: str, found: Recipe) -> tuple[str, ...]:
    family = family_of(task)
    variant = getattr(spec.module, "VARIANTS", {}).get(found.values.get("variant"), {})
    own = {n: v for n, v in {**found.values, **variant}.items() if n in spec.names}
    source = found.source if found.published else f"*ours*: {found.source}"
    if getattr(spec.method, "closed_form", False):
        return (spec.name, *["–"] * 8, _settings(own), source)
    layers = [Layer("variant", variant), Layer("method", found.values)]
    if family == CLASSIFIER:
        size: dict[str, Any] = {
            "train_batch_size": BATCH.get(task.removesuffix(":50"), 256),
            "lr_scheduler": "constant",
            "max_grad_norm": 0.0,
        }
        values = merged([*layers, Layer("size", size)])
        optimizer, schedule, trained = "SGD 0.9, wd 5e-4", values["lr_scheduler"], "all"
        length, dropout = f"{values['epochs']} epochs", "–"
    else:
        size = LARGE if task in KINDS else SMALL
        values = merged([*layers, Layer("size", size)])
        decay, ema = values["weight_decay"], values["ema_decay"]
        optimizer = (
            "Adam" + (f"W, wd {decay:g}" if decay else "") + (f", EMA {ema:g}" if ema else "")
        )
        warmup = values["lr_warmup_steps"]
        schedule = values["lr_scheduler"] + (f", warm-up {warmup}" if warmup else "")
        trained, dropout = f"`{values['trainable']}`", f"{values['caption_dropout']:g}"
        length = f"{values['max_train_steps']:,} steps"
        if "epochs" in found.values:
            count = found.values["epochs"]
            length = f"{count} passes" if count > 1 else "1 pass"
    clip = f"{values['max_grad_norm']:g}" if values["max_grad_norm"] else "–"
    return (
        spec.name,
        f"{values['learning_rate']:g}",
        length,
        str(values["train_batch_size"]),
        optimizer,
        schedule,
        trained,
        clip,
        dropout,
        _settings(own),
        source,
    )


def _settings(own: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in own.items()) or "–"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"`{value}`" if isinstance(value, str) else str(value)


def page() -> str:
    """The whole of docs/methods.md."""
    parts = [HEAD]
    for task, title in TASKS.items():
        lines = [
            f"## {title[0].upper()}{title[1:]}",
            "",
            _line(COLUMNS),
            "|---" * len(COLUMNS) + "|",
        ]
        lines += [_line(row) for row in rows(task)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(page())
