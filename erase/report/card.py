"""The model card in a run's folder, and the evaluations' tables in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from erase.config.concept import ClassConfig, ConceptConfig
from erase.data.concepts import Concept
from erase.errors import InputError, visible
from erase.files import write_text
from erase.models.base_card import base_facts
from erase.models.class_conditional import ClassConditionalPipeline
from erase.models.loading import ModelSource
from erase.models.modelspec import public_name
from erase.reading import read_text
from erase.report.tables import MISSING, code, escaped, markdown

CARD = """---
{front_matter}---
# {title} without {concept}

{model}{revision} after unlearning **{concept}** with the method {method} of `erase`
(LUR: Patel & Qiu, "Learning to Unlearn while Retaining", ICCV 2025).

| base | |
|---|---|
| model | {model} |
| revision | {revision_or_none} |
| SHA-256 over its files | `{fingerprint}` |
{before}
{loading}
{lora}## How it was made

| setting | value |
|---|---|
| optimizer steps × images of each set | {steps} × {batch} |
| learning rate | {learning_rate} |
| inner step size α | {alpha} |
| weight λ of the forget loss | {forget_weight} |
| trained parameters | {trainable} |
| forget set | {forget} |
| retain set | {retain} |
| shown instead | {anchors} |
| seed | {seed} |

`record.json` holds the command, the versions and the times; `config.yaml` replays the run.

## Measured effect

<!-- measured: begin -->
Not measured yet: {evaluate}.
<!-- measured: end -->

## Licence and limits

This model is derived from {model}: the licence of the base model, its conditions of use and its
limits remain in force, and whoever passes this model on has to pass them on too.

Erasing a concept lowers the odds of rendering it; it is no guarantee.
"""
LOADING = """The folder is a complete diffusers pipeline:

    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained("path/to/this/folder")
"""
OWN_LOADING = """The folder is a complete pipeline of a class that diffusers does not have:

    from erase.models.loading import load_pipeline, resolve
    pipeline = load_pipeline(resolve("path/to/this/folder"))
"""
LORA = """## As an adapter

The same change as an adapter of rank {rank} for the base model lies in `lora/` (diffusers' names);
here it is already added to the weights.

    pipeline = DiffusionPipeline.from_pretrained("the base model")
    pipeline.load_lora_weights("path/to/this/folder/lora")

`erase export path/to/this/folder --format lora --output FILE` writes it for A1111 and ComfyUI.

"""
CARD_FILE = "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PART_BEGIN, PART_END = "<!-- {key}: begin -->", "<!-- {key}: end -->"


def model_card(
    output: Path,
    config: ConceptConfig,
    source: ModelSource,
    concept: Concept,
    base_fingerprint: str,
    carried: Mapping[str, Any] | None = None,
) -> None:
    """Write README.md into the run folder.

    `base_fingerprint` is `source.fingerprint()`, which takes a while to compute again. `carried` is
    what the record keeps of the runs before (`erase.runs.requests.carried_on`).
    """
    anchors = list(dict.fromkeys(text for texts in concept.anchors for text in texts))
    shown = ", ".join(f"“{text}”" for text in anchors[:3]) + (" …" if len(anchors) > 3 else "")
    sets = {name: _set(config, name) for name in ("forget", "retain")}
    batch = (config.train_batch_size or 1) * config.gradient_accumulation_steps
    trained = config.trainable
    if config.lora_rank:
        trained = f"adapters of rank {config.lora_rank} on {config.trainable}"
    suite = f" --suite {concept.suite}" if concept.suite else ""
    name = public_name(source.full_name)
    by_class = source.pipeline_class() == ClassConditionalPipeline.__name__
    content = CARD.format(
        front_matter=_front_matter(source, by_class=by_class),
        loading=OWN_LOADING if by_class else LOADING,
        title=escaped(name),
        model=code(name),
        revision=f" (revision {escaped(source.revision)})" if source.revision else "",
        revision_or_none=escaped(source.revision or "none (a local or embedded model)"),
        fingerprint=base_fingerprint,
        before=_before(carried or {}),
        lora=LORA.format(rank=config.lora_rank) if config.lora_rank else "",
        concept=escaped(concept.name),
        method=code(config.method),
        steps=config.max_train_steps,
        batch=batch,
        learning_rate=config.learning_rate,
        alpha=config.settings.get("alpha", "none"),
        forget_weight=config.settings.get("forget_weight", "none"),
        trainable=escaped(str(trained)),
        anchors=escaped(shown),
        seed=config.seed,
        evaluate=code("erase evaluate --model path/to/this/folder" + suite),
        **sets,
    )
    write_text(output / CARD_FILE, content)


def _before(carried: Mapping[str, Any]) -> str:
    """Rows of the table about the base, where it had been made to forget something before."""
    if not carried.get("forgotten_before"):
        return ""
    said = "; ".join(
        f"{', '.join(request['concepts'])} ({request.get('method')})"
        for request in carried["forgotten_before"]
    )
    first = (carried.get("original") or {}).get("model")
    rows = [("forgotten before", escaped(said))]
    rows += [("the original, before all of it", code(public_name(str(first))))] if first else []
    return "".join(f"| {name} | {value} |\n" for name, value in rows)


def _front_matter(source: ModelSource, *, by_class: bool) -> str:
    """What the hub reads of a card, as YAML: unknown facts of the base are left out.

    The hub has no word for what a class-conditional model does, and diffusers no pipeline for it.
    """
    facts: dict[str, Any] = dict(base_facts(source.path, source.full_name))
    if "base_model" in facts:
        facts["base_model_relation"] = "finetune"
    if not by_class:
        facts |= {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    task = "class-conditional" if by_class else "text-to-image"
    return yaml.safe_dump(facts | {"tags": [task, "machine-unlearning"]}, allow_unicode=True)


def _set(config: ConceptConfig, name: str) -> str:
    """What a set was made of."""
    count = getattr(config, f"num_{name}_images")
    if count is None:
        return "prompts alone, no images"
    if isinstance(config, ClassConfig) and config.data != "render":
        return escaped(f"{count} images of {Path(config.data).name}")
    if getattr(config, f"{name}_images"):
        return "the user's images"
    guidance = getattr(config, f"{name}_guidance")
    return f"{count} images rendered by the base model, guidance {guidance}"


def update_card(run_folder: Path, metrics: Mapping[str, Any], evaluation_folder: Path) -> None:
    """Write an evaluation's metrics into the card's section "Measured effect".

    Evaluations of several suites stand side by side; one of the same suite replaces the earlier.

    Args:
        run_folder: the folder of the run that was evaluated; its card has to be there.
        metrics: content of the evaluation's `metrics.json`.
        evaluation_folder: named in the card; relative to the run where it lies inside.

    Raises:
        InputError: the run has no card, its card lost the section's marks, or there is no metric.
    """
    path = run_folder / CARD_FILE
    remedy = "Give the folder of a finished erase run."
    if not path.is_file():
        raise InputError(f"{run_folder} has no model card.", remedy)
    if not metrics.get("metrics"):
        raise InputError("The evaluation found nothing to put on the card.", "Evaluate it again.")
    card = read_text(path)
    if card.count(BEGIN) != 1 or card.count(END) != 1 or card.index(BEGIN) > card.index(END):
        raise InputError(f"{path} has no section for measured effects.", remedy)
    before, _, rest = card.partition(BEGIN)
    inside, _, after = rest.partition(END)
    key = _plain(str(metrics.get("suite") or "evaluation"))
    begin, end = PART_BEGIN.format(key=key), PART_END.format(key=key)
    part = f"{begin}\n{_table(key, metrics, run_folder, evaluation_folder)}\n{end}"
    if begin in inside and end in inside:
        start, stop = inside.index(begin), inside.index(end) + len(end)
        inside = inside[:start] + part + inside[stop:]
    elif "<!-- " in inside:  # another suite's
        inside = f"{inside.rstrip()}\n\n{part}\n"
    else:
        inside = f"\n{part}\n"
    write_text(path, before + BEGIN + inside + END + after)


def _table(key: str, metrics: Mapping[str, Any], run: Path, evaluation: Path) -> str:
    where = evaluation.resolve()
    inside = where.is_relative_to(run.resolve())
    named = where.relative_to(run.resolve()).as_posix() if inside else evaluation.name
    protocol = metrics.get("protocol") or {}
    settings = ", ".join(
        f"{name} {escaped(str(value))}"
        for name, value in protocol.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    )
    base = metrics.get("baseline") or {}
    rows = [
        [
            f"{_plain(name)} {'↑' if row.get('higher_is_better') else '↓'}",
            _value(row),
            _value(base.get(name)),
            str(row.get("n", "")),
        ]
        for name, row in metrics["metrics"].items()
    ]
    origin = code(f"erase evaluate --suite {key}") + (f" ({settings})" if settings else "")
    legend = "95% intervals in brackets; ↑ higher is better, ↓ lower."
    table = markdown(("metric", "this model", "base", "n"), rows)
    return f"{origin}; details in {code(named)}. {legend}\n\n{table}".rstrip("\n")


def _plain(text: str) -> str:
    """Text that cannot break out of a table's cell or of a comment."""
    plain = visible(text).replace("|", "/").replace("--", "–").replace("`", "'")
    return " ".join(plain.split())


def _value(row: Mapping[str, Any] | None) -> str:
    if not row or row.get("value") is None:
        return MISSING
    interval = row.get("ci95")
    if not interval or any(end is None for end in interval):
        return f"{row['value']:.4g}"
    numbers = (row["value"], *interval)
    texts = [f"{number:.4g}" for number in numbers]
    if not any("e" in text for text in texts):  # as many decimals for all three
        decimals = max(len(text.partition(".")[2]) for text in texts)
        texts = [f"{number:.{decimals}f}" for number in numbers]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"
