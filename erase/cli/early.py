"""What needs no torch is checked before torch is imported, which takes seconds.

The plans of the commands check all of it again, with the same functions and the same messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from erase import registry
from erase.artifacts import models
from erase.artifacts.packaged import EMBEDDED
from erase.config.attack import AttackConfig
from erase.config.base import Config, MethodConfig
from erase.config.classifier import ClassifierConfig
from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.evaluate import EvaluateConfig
from erase.config.families import CLASSIFIER, DENOISERS, declared_families
from erase.config.methods import canonical, find_method, undefined
from erase.config.values import parse_line
from erase.data.concepts import given_concept
from erase.data.prompts import prompts_root
from erase.data.rendered import check_renderable, rendered_suite
from erase.data.texts import read_pairs, read_prompts
from erase.errors import InputError
from erase.files import read_json
from erase.reading import expanded
from erase.runs.requests import forgotten_before
from erase.runs.run_folder import RunFolder
from erase.runs.unfinished import check_finished

DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hpu|npu|mlu|musa|meta|privateuseone)(:\d+)?")


def check_model(name: str) -> None:
    """InputError for what names no model, and for the folder of a run that is not finished."""
    check_finished(expanded(name))
    models.check_model(name)


def check_denoiser(config: ConceptConfig, device: str | None) -> None:
    """InputError for what `erase concept` or `erase class` cannot use, as far as it shows here."""
    is_class = isinstance(config, ClassConfig)
    check_given(config, ("model", "target" if is_class else "concept"))
    check_device_name(device)
    check_method(config.method, DENOISERS)
    check_model(config.model)
    root = prompts_root(config.prompts)
    if config.forget_prompts:
        read_pairs(config.forget_prompts)
    if config.retain_prompts:
        read_prompts(config.retain_prompts)
    index = expanded(config.model) / "model_index.json"
    knows_classes = index.is_file() and "id2label" in read_json(index)
    if not is_class and (config.model in EMBEDDED or index.is_file()) and not knows_classes:
        concept = given_concept(
            config.concept,
            root,
            suite=rendered_suite(config.model),
            anchor=config.anchor,
            erase_from=config.erase_from,
            forget_prompts=config.forget_prompts,
            retain_prompts=config.retain_prompts,
            before=forgotten_before(config.model),
        )
        check_renderable(config.model, concept, own_prompts=bool(config.forget_prompts))
    check_settings(config, DENOISERS)


def check_classifier(config: ClassifierConfig, device: str | None) -> None:
    """InputError for what `erase classifier` cannot use, as far as it shows here."""
    check_given(config, ("model", "forget"))
    check_device_name(device)
    check_method(config.method, {CLASSIFIER})
    check_classifier_metrics(config.metrics)
    read_json(Path(config.model) / "model.json")
    check_settings(config, {CLASSIFIER})


def check_evaluation(config: EvaluateConfig) -> None:
    """InputError for what `erase evaluate` cannot use, as far as it shows here."""
    check_device_name(config.device)
    registry.check("suites", config.suite)
    for name in config.metrics:
        registry.check("metrics", name)
    check_model(config.model)
    if config.baseline:
        check_model(config.baseline)


def check_classifier_metrics(names: Iterable[str]) -> None:
    """InputError for a metric of classifiers that does not exist."""
    for name in names:
        registry.check("classifier_metrics", name)


def check_attacks(names: Sequence[str]) -> None:
    """InputError for an attack that does not exist."""
    for name in names:
        registry.check("attacks", name)


def check_attack(config: AttackConfig) -> None:
    """InputError for what `erase attack` cannot use, as far as it shows here."""
    check_attacks(config.attack)
    check_evaluation(config)


def check_methods(text: str, families: Iterable[str]) -> None:
    """InputError for a method of `--methods` that does not exist, or not for these models."""
    for line in text.split(","):
        if line.strip() not in ("", "all"):
            check_method(parse_line(line.strip()).method, families)


def check_given(config: Config, names: Iterable[str]) -> None:
    """InputError, naming the option, for a setting that is needed and was not given."""
    for name in names:
        if not getattr(config, name):
            raise InputError(f"--{name} is missing.", f"Give --{name}, or a --config that has it.")


def check_method(name: str, families: Iterable[str]) -> None:
    """InputError for a method that does not exist, or is not defined for any of the families."""
    name = canonical(name)
    registry.check("methods", name)
    families = sorted(families, reverse=True)
    if not declared_families(name) & set(families):
        raise undefined(name, families[0])


def check_settings(config: MethodConfig, families: Iterable[str]) -> None:
    """InputError for a setting that the method does not have; this imports torch alone."""
    if config.settings:
        name = canonical(config.method)
        family = sorted(declared_families(name) & set(families))[0]
        find_method(name, family).typed(config.settings)


def check_device_name(device: str | None) -> None:
    """InputError for a text that names no device of torch."""
    if device and not DEVICE.fullmatch(device):
        raise InputError(f"The device {device!r} is not there.", "Try cpu.")


def check_output(
    kind: str, output: Path, config: Config, *, overwrite: bool, resume: str | None
) -> None:
    """InputError for a run folder that may not be written into."""
    if resume is None:
        RunFolder(output, kind, config, overwrite=overwrite, resume=None).check()
