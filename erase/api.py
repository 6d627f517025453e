"""The commands as functions: what `import erase` offers.

Each function takes the settings of its command by the names that they have in `config.yaml`,
checks them in the same way and raises the same errors, `erase.errors.InputError` and `RunError`.
Warnings go to standard error, as with the commands. torch is imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase.config.classifier import ClassifierConfig
from erase.config.compare import CompareConfig, CompareDiffusionConfig, settings_by_line
from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.evaluate import EvaluateConfig, default_output
from erase.config.resolve import resolve, resolve_run
from erase.data.rendered import suite_for
from erase.errors import InputError

if TYPE_CHECKING:
    from erase.evaluation.run import EvaluationResult
    from erase.runs.verify import Finding

Folder = str | Path


def concept(
    model: Folder | None = None,
    concept: str | Sequence[str] = (),
    *,
    output: Folder,
    config: Folder | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: str | None = None,
    device: str | None = None,
    **options: Any,
) -> Path:
    """Make a text-to-image model forget a concept, as `erase concept` does.

    Args:
        model: alias (`mini-sd`, `sd-1.4`), diffusers folder, single file or hub id.
        concept: what to forget, one word or several.
        output: the run folder: a complete diffusers folder at the end.
        config: a run's `config.yaml` to replay; what is given beside it wins.
        settings: the method's own settings by name, `{"alpha": 0.01}`.
        overwrite: replace the run that the folder holds.
        resume: `latest`, `latest-whole` (passing over damaged checkpoints) or a checkpoint's
            folder: continue the run that the folder holds.
        device: `cpu`, `cuda`, `cuda:1`, …; None is what accelerate finds.
        options: any other field of `erase.config.concept.ConceptConfig`, such as `method`.

    Returns:
        The run folder.

    Raises:
        InputError: a value that cannot be used, or a folder that holds something else.
        RunError: the run failed.
    """
    given = {"model": model, "concept": _texts(concept), **options}
    return _erase(ConceptConfig, given, output, config, settings, overwrite, resume, device)


def forget_class(
    model: Folder | None = None,
    target: str | Sequence[str] = (),
    *,
    output: Folder,
    config: Folder | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: str | None = None,
    device: str | None = None,
    **options: Any,
) -> Path:
    """Make a diffusion model forget a class of images, as `erase class` does.

    `target` names one class or several; `options` are fields of
    `erase.config.concept.ClassConfig`; the rest is as with `concept`.
    """
    given = {"model": model, "target": _texts(target), **options}
    return _erase(ClassConfig, given, output, config, settings, overwrite, resume, device)


def classifier(
    model: Folder | None = None,
    forget: str | None = None,
    *,
    output: Folder,
    config: Folder | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: str | None = None,
    device: str | None = None,
    **options: Any,
) -> Path:
    """Make a classifier forget training samples or classes, as `erase classifier` does.

    Args:
        model: folder of `erase train classifier`.
        forget: `random:10%`, `random:N`, `class:NAME`, `classes:10%`, `worst:10%` or
            `indices:FILE`.
        output: the run folder; `metrics.json` in it holds UA, RA, TA and MIA in percent.
        device: `cpu`, `cuda`, …; None is a GPU when there is one.
        options: any other field of `erase.config.classifier.ClassifierConfig`.

    The rest is as with `concept`.
    """
    given = {"model": model, "forget": forget, **options}
    resolved, replay = resolve_run(ClassifierConfig, given, settings or {}, _path(config))
    from erase.training.classifier_runs import erase_classifier

    folder, _ = erase_classifier(
        resolved, Path(output), replay=replay, overwrite=overwrite, resume=resume, device=device
    )
    return folder


def evaluate(
    model: Folder,
    suite: str | None = None,
    *,
    output: Folder | None = None,
    target: str | Sequence[str] = (),
    metrics: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> EvaluationResult:
    """Render fixed-seed images and measure them and the baseline's, as `erase evaluate` does.

    Args:
        model: a run's folder, an alias or a hub id.
        suite: what is asked of the model; None is the suite of what it was made to forget, or of
            what it renders, else `digits`.
        output: the evaluation folder; None is `evaluation-SUITE` in the model's folder.
        target: forgotten concepts; default: those of the model's record.
        metrics: names of metrics; default: the protocol's.
        settings: of metrics, `{"fid.features": "inception-64"}`.
        options: any other field of `erase.config.evaluate.EvaluateConfig`.

    Returns:
        The scores; `metrics` is the content of `metrics.json`, `report` the page to open.

    Raises:
        InputError: a value that cannot be used, or a folder with another evaluation.
        RunError: rendering or a metric failed.
    """
    suite = suite or suite_for(str(model))
    given = {
        "model": model,
        "suite": suite,
        "output": str(output or default_output(str(model), suite)),
        "target": _texts(target),
        "metrics": tuple(metrics),
        "settings": tuple(f"{name}={value}" for name, value in (settings or {}).items()),
        **options,
    }
    config = resolve(EvaluateConfig, given, None)
    from erase.evaluation.run import evaluate as run

    result = run(config)
    if result is None:
        raise InputError(
            "Under several processes only the first one gets a result.",
            "Use erase evaluate under accelerate launch.",
        )
    return result


def compare(
    *,
    output: Folder,
    concept: str | Sequence[str] = (),
    forget: str | Sequence[str] = (),
    methods: str | Sequence[str] = "all",
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Any:
    """Compare unlearning methods, as `erase compare` does.

    With `concept`, methods on a text-to-image model (`erase compare diffusion`); with `forget`,
    methods on a classifier (`erase compare classifier`). Called again with the same `output` it
    goes on where it was.

    Args:
        output: the folder of tables and results.
        concept: what to forget, one run a method for each; `"cat, dagger"` is both at once.
        forget: forget specifications such as `random:10%`, one table for each.
        methods: names, `all`, or lines such as `salun@mask=0.3`.
        settings: of single methods, `{"lur.alpha": 0.1}`; with `concept` also of attacks and the
            suite.
        device: `cpu`, `cuda`, …
        progress: called with a line of text as things finish.
        options: fields of `erase.config.compare.CompareDiffusionConfig` or `CompareConfig`.

    Returns:
        For `concept`, a mapping for each method with the means of its scores by metric; for
        `forget`, the results by forget specification.

    Raises:
        InputError: a value that cannot be used, or neither or both of `concept` and `forget`.
        RunError: a run failed.
    """
    if bool(concept) == bool(forget):
        raise InputError(
            "A comparison needs either concept or forget.",
            "Give concept for a text-to-image model, forget for a classifier.",
        )
    names = methods if isinstance(methods, str) else ",".join(methods)
    pairs = tuple(f"{name}={value}" for name, value in (settings or {}).items())
    if concept:
        given = {**options, "concept": _texts(concept)}
        from erase.comparison.diffusion import compare_diffusion

        return compare_diffusion(
            resolve(CompareDiffusionConfig, given, None),
            Path(output),
            methods=names,
            settings=pairs,
            device=device,
            progress=progress,
        )
    from erase.comparison.classifier import compare_classifier

    return compare_classifier(
        resolve(CompareConfig, options, None).replace(settings=settings_by_line(pairs)),
        Path(output),
        _texts(forget),
        methods=names,
        device=device,
        progress=progress,
    )


def load(run: Folder) -> Any:
    """The model that a run left, ready to use on the CPU.

    Args:
        run: a run's folder, or for a pipeline any model that `--model` takes.

    Returns:
        A diffusers pipeline in float32, or a `torch.nn.Module` classifier in evaluation mode.

    Raises:
        InputError: the folder holds no complete model, or a file of it was changed.
    """
    from erase.models.classifiers import DESCRIPTION, load_classifier
    from erase.models.loading import load_pipeline, resolve
    from erase.runs.manifest import check_model

    if (Path(run) / DESCRIPTION).is_file():
        model, _ = load_classifier(Path(run))
        return model.eval()
    source = resolve(str(run))
    check_model(source.path)
    return load_pipeline(source)


def verify(path: Folder) -> list[Finding]:
    """What is not as it was written, as `erase verify` names it; empty when all is.

    Args:
        path: the folder of a run, a checkpoint, an evaluation, a classifier or a comparison; or an
            exported file with a hash.

    Raises:
        InputError: there is nothing to compare with: no manifest, or a file without a hash.
    """
    from erase.runs.verify import verify as check_all

    return check_all(Path(path)).findings


def _erase(
    kind: type[ConceptConfig],
    given: Mapping[str, Any],
    output: Folder,
    config: Folder | None,
    settings: Mapping[str, Any] | None,
    overwrite: bool,
    resume: str | None,
    device: str | None,
) -> Path:
    resolved, replay = resolve_run(kind, given, settings or {}, _path(config))
    from erase.training.concept import erase_concept

    return erase_concept(
        resolved, Path(output), replay=replay, overwrite=overwrite, resume=resume, device=device
    )


def _path(value: Folder | None) -> Path | None:
    return None if value is None else Path(value)


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
