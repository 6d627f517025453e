"""What would fail only after hours of rendering, refused before the first image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import diffusers

from erase.errors import InputError, RunError, first_line
from erase.judges.reference import RealImages
from erase.models.configs import read_config
from erase.models.known import is_known_only
from erase.models.loading import ModelSource
from erase.models.sizes import check_size
from erase.scoring.context import Context
from erase.scoring.metric import load_metric
from erase.scoring.samples import Protocol, Sample


def check_model(source: ModelSource, protocol: Protocol, samples: Sequence[Sample]) -> None:
    """InputError for a model that could not render these samples in this way.

    Its folder lacks a part, it does not render images of this size or in so many steps, or it has
    no such class.
    """
    if not is_known_only(source):
        source.check()
    check_size(source, protocol.size, "--size")
    _check_steps(source, protocol)
    known = source.classes()
    if known and any(sample.wording != "name" for sample in samples):
        raise InputError(
            f"{source.name} renders classes and reads no words: nothing to call by other words.",
            "Choose --metrics without paraphrases.",
        )
    if unknown := [s.target for s in samples if known and s.target and s.target not in known]:
        raise InputError(
            f"{source.name} knows no class {unknown[0]!r}, which is to be rendered.",
            f"It knows: {', '.join(dict.fromkeys(known.values()))}.",
        )


def _check_steps(source: ModelSource, protocol: Protocol) -> None:
    """InputError for steps that the sampler refuses."""
    file = source.path / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return
    config = read_config(file)
    kind = getattr(diffusers, protocol.scheduler or str(config.get("_class_name")), None)
    if kind is None or config.get("use_dynamic_shifting"):
        return  # the steps of the latter depend on the size of the image
    try:
        kind.from_config(config).set_timesteps(protocol.steps)
    except Exception as error:  # diffusers raises any kind for a configuration that is wrong
        raise InputError(
            f"{kind.__name__} cannot take {protocol.steps} steps: {first_line(error)}",
            "Give other --steps, or another --scheduler.",
        ) from error


def check_metrics(
    protocol: Protocol,
    samples: Sequence[Sample],
    targets: frozenset[str],
    neighbours: Mapping[str, Sequence[str]],
) -> None:
    """InputError where a metric could not measure these samples with its settings."""
    for name in protocol.metrics:
        settings = protocol.settings.get(name, {})
        context = Context(
            samples,
            (),
            targets,
            neighbours=neighbours,
            settings=settings,
            seed=protocol.seed,
        )
        try:
            load_metric(name).check(context)
        except RunError as error:
            raise InputError(error.message, error.remedy) from error


def check_reference(
    real: RealImages | None, samples: Iterable[Sample], targets: frozenset[str]
) -> None:
    """InputError where the user's real images lack a class that is compared."""
    known = set(real.labels) - {""} if real else set()
    wanted = {s.target for s in samples if s.target and s.ordinary and s.target not in targets}
    if real and known and (lacking := sorted(wanted - known)):
        raise InputError(
            f"--reference: {real.folder} has no image of {lacking[0]!r}.",
            "Give a folder with every class that is kept, or one without classes.",
        )
