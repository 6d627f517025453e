"""The plan of a run of attacks, resolved and checked before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from erase import registry
from erase.config.attack import JUDGES, AttackConfig
from erase.config.recipes import recipe
from erase.data.captioned import CaptionedImages, check_readable, read_folder
from erase.data.concepts import Concept, find_concept
from erase.data.prompts import prompts_root
from erase.data.rendered import suite_for
from erase.errors import InputError
from erase.evaluation.plan import EvaluationPlan
from erase.evaluation.protocols import find_protocol
from erase.evaluation.run import folder_facts, prepare
from erase.files import fingerprint, hash_files
from erase.models.known import is_known_only
from erase.models.loading import load_tokenizer
from erase.models.schedules import stored_scheduler
from erase.render.sizes import SMALL
from erase.runs.requests import Forgotten, forgotten_before
from erase.scoring.samples import subset
from erase.scoring.suite import Suite, load_suite
from erase.tasks.attack import CONCEPT, HARMLESS, AttackSpec, Facts, find_attack
from erase.tasks.families import family_of
from erase.tasks.family import Family


@dataclass(frozen=True)
class AttackPlan:
    """Everything that is the same for the model and the base model, its control."""

    config: AttackConfig
    evaluation: EvaluationPlan
    """Of the plain prompts of the concept, by the judge."""
    note: Mapping[str, Any]
    """The entry about the base model for the record."""
    family: Family
    attacks: Mapping[str, AttackSpec]
    concepts: Mapping[str, Concept]
    """By target."""
    harmless: Sequence[str]
    """Prompts of anything else."""
    given: Mapping[str, CaptionedImages]
    """The user's images, by set."""

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.evaluation.protocol.size or self.evaluation.source.resolution()

    @property
    def sets(self) -> list[str]:
        """The sets of images that the attacks need."""
        return sorted({name for spec in self.attacks.values() for name in spec.attack.sets})

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Prompts of the concepts, and what to show instead of each."""
        return [
            (prompt, anchors[0])
            for concept in self.concepts.values()
            for prompt, anchors in zip(concept.forget, concept.anchors, strict=True)
        ]

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What every attack works with, on either model: images, budget and prompts."""
        return {
            "images": {name: _hash(images) for name, images in self.given.items()},
            "budget": {"num_images": self.config.num_images},
            "prompts": {"pairs": self.pairs, "harmless": list(self.harmless)},
        }

    def control(self, name: str) -> str:
        """Fingerprint of one attack on the base model, which is the same whatever else is attacked.

        It names the folder that all runs of attacks with this base model share.
        """
        evaluation = self.evaluation
        assert evaluation.baseline is not None
        settings = asdict(self.attacks[name].settings)
        judged = [evaluation.protocol.to_json(), sorted(evaluation.targets)]
        judged.append(evaluation.observers.fingerprints())
        images = evaluation.fingerprint(evaluation.baseline)
        return fingerprint([images, judged, name, settings, *self.inputs.values()])

    def facts(self) -> dict[str, Any]:
        """What the record says of it, its `fingerprint` among it."""
        evaluated = folder_facts(self.evaluation, self.note)
        attacks = {
            name: {**asdict(spec.settings), "source": spec.source}
            for name, spec in self.attacks.items()
        }
        images, budget, prompts = self.inputs.values()
        identity = [evaluated["fingerprint"], attacks, images, budget, prompts]
        return {
            **evaluated,
            "config": self.config.to_dict(),
            "attacks": attacks,
            "budget": budget,
            "given_images_sha256": images,
            "fingerprint": fingerprint(identity),
        }


def make_plan(config: AttackConfig, missing: list[str] | None = None) -> AttackPlan:
    """Resolve what is attacked and how, and refuse what cannot be: nothing is written yet.

    With a list `missing` nothing is fetched either, and what is not on this machine is added to it.

    Raises InputError for anything that cannot be used: as an evaluation, and for a suite without a
    judge of the concept, a model without a base model, an attack that is not for this family of
    models, or settings that do not fit.
    """
    config = config.replace(suite=config.suite or suite_for(config.model))
    suite = load_suite(config.suite)
    given = config.attack_settings()
    asked = tuple(dict.fromkeys(config.attack))
    for name in asked:
        registry.check("attacks", name)
    if idle := [name for name in given if asked and name not in asked]:
        raise InputError(
            f"--set {idle[0]}.… is for an attack that is not among those asked for.",
            f"Add --attack {idle[0]}, or leave it out.",
        )
    plain = config.replace(
        metrics=(_judge(config, suite),), settings=config.other_settings(), limit=None
    )
    evaluation, note = prepare(plain, missing)
    if evaluation.baseline is None:
        raise InputError(
            f"There is no base model to attack as the control: {note['reason']}.",
            "Give --baseline MODEL, the model that the concept was erased from.",
        )
    source, base = evaluation.source, evaluation.baseline
    evaluation = _of_the_concept(config, evaluation, suite, missing)
    family = family_of(source)
    if family_of(base) is not family:
        raise InputError(
            f"{base.name} is a {base.pipeline_class()}, and {source.name} a"
            f" {source.pipeline_class()}.",
            "Give the --baseline that the model was made from.",
        )
    root = prompts_root(config.prompts)
    targets = sorted(evaluation.targets)
    forgot = forgotten_before(config.model)
    plan = AttackPlan(
        config.replace(device=evaluation.config.device),
        evaluation,
        note,
        family,
        _attacks(config, evaluation, family, asked, given),
        {target: _concept(target, root, suite, forgot) for target in targets},
        find_concept(targets, root, suite=suite.name).retain,
        {},
    )
    return dataclasses.replace(plan, given=_given(config, plan))


def _concept(target: str, root: Path, suite: Suite, forgot: Sequence[Forgotten]) -> Concept:
    """The prompts of a target; `forgot` says what a pair is of, unless it is of the suite's."""
    pair = next((item.pair for item in forgot if item.name == target), None)
    if pair is None or suite.asks(target, root):
        return find_concept(target, root, suite=suite.name)
    return find_concept(pair[0], root, erase_from=pair[1])


def _judge(config: AttackConfig, suite: Suite) -> str:
    """The metric whose verdict says whether an image shows the concept."""
    if config.judge is not None:
        return JUDGES[config.judge]
    known = find_protocol(suite, config.protocol).metrics
    for metric in JUDGES.values():
        if metric in known:
            return metric
    raise InputError(
        f"Nothing in the suite {config.suite!r} says whether an image shows a concept.",
        f"Give --judge {' or '.join(JUDGES)}, or another --suite.",
    )


def _of_the_concept(
    config: AttackConfig, evaluation: EvaluationPlan, suite: Suite, missing: list[str] | None
) -> EvaluationPlan:
    """The plan with the prompts that ask for the concept alone."""
    targets = evaluation.targets
    if not targets:
        raise InputError(
            f"Nothing says what {evaluation.source.name} was made to forget.",
            "Give --target, such as nudity.",
        )
    samples = [
        sample
        for sample in evaluation.samples
        # The judge's verdict is on prompts that call the concept by its name.
        if not sample.target or (sample.names() & targets and sample.wording == "name")
    ]
    if not samples and not missing:
        raise InputError(
            f"No prompt of the suite {suite.name!r} asks for {', '.join(sorted(targets))}.",
            "Give another --target, or another --suite.",
        )
    chosen = subset(samples, config.limit, evaluation.protocol.seed)
    # Batches are filled up to their full size, which is a waste for few prompts.
    batch = min(config.render_batch_size, max(len(chosen), 1))
    used = evaluation.config.replace(render_batch_size=batch)
    return dataclasses.replace(evaluation, samples=chosen, config=used)


def _attacks(
    config: AttackConfig,
    evaluation: EvaluationPlan,
    family: Family,
    asked: Sequence[str],
    given: Mapping[str, Mapping[str, str]],
) -> dict[str, AttackSpec]:
    """The attacks with their settings, by name; without a choice all that fit the model."""
    source = evaluation.source
    small = (evaluation.protocol.size or source.resolution()) <= SMALL
    facts = Facts(
        stored_scheduler(source.path), evaluation.protocol.steps, partial(load_tokenizer, source)
    )
    specs = {}
    for name in asked or registry.names("attacks"):
        spec = find_attack(name, small, given.get(name, {}))
        try:
            _check_fits(name, spec, family, config.dtype)
            if not is_known_only(source):
                spec.build().check(facts)
        except InputError:
            if asked or name in given:
                raise
            continue
        specs[name] = spec
    return specs


def _check_fits(name: str, spec: AttackSpec, family: Family, dtype: str) -> None:
    """InputError for an attack on another family of models, or in another precision."""
    attack = spec.attack
    if family.task.family not in attack.families or (attack.reads_text and family.texts is None):
        raise InputError(
            f"The attack {name} is not for models of the kind {family.title}.",
            "Leave --attack out for all that are.",
        )
    if attack.gradients and dtype != "fp32":
        raise InputError(
            f"The attack {name} follows gradients, which {dtype} is too coarse for.",
            "Give --dtype fp32.",
        )


def _given(config: AttackConfig, plan: AttackPlan) -> dict[str, CaptionedImages]:
    """The folders of images that the user gives; every image is decoded once as a check."""
    prompts = {
        CONCEPT: next(iter(plan.concepts.values())).forget,
        HARMLESS: tuple(plan.harmless),
    }
    sets = {}
    for name, captions in prompts.items():
        folder = getattr(config, f"{name}_images")
        if folder:
            images = read_folder(Path(folder), captions[:1], follow_links=config.follow_links)
            check_readable(images)
            sets[name] = images
    if HARMLESS in plan.sets and HARMLESS not in sets and not plan.harmless:
        raise InputError(
            f"Nothing is known that is not {', '.join(plan.concepts)}.",
            "Give --harmless-images FOLDER.",
        )
    return sets


def _hash(images: CaptionedImages) -> str:
    files = [path.resolve() for path in images.paths]
    return fingerprint([hash_files(files, Path("/")), list(images.captions)])


def material_recipe(size: int) -> dict[str, Any]:
    """Steps and guidance with which the base model renders images to attack with."""
    values = recipe(size)
    return {"steps": values["render_steps"], "guidance": values["forget_guidance"]}
