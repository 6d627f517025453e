"""Unlearning methods on a text-to-image model side by side: same original, same images, same suite.

The images of each request are rendered once and shared. Every method runs in a process of its own,
through `erase concept` as anyone would call it, so that its peak memory is its own.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from erase.comparison.diffusion_report import terminal, write_report
from erase.comparison.diffusion_run import LIBRARIES, Attacked, Judging, Timed, with_metrics
from erase.comparison.entries import Entry, diffusion_entries, slug
from erase.comparison.pool import COSTS, run_jobs, say
from erase.comparison.request import Request, parse_requests
from erase.comparison.store import (
    Result,
    cached,
    check_alone,
    forget_failures,
    library_versions,
    store,
    stored,
)
from erase.config.compare import CompareDiffusionConfig, SetTexts, sorted_settings
from erase.config.concept import ConceptConfig
from erase.config.families import TEXT_TO_IMAGE
from erase.config.methods import find_method
from erase.data.concepts import Concept
from erase.data.prompt_table import prompt_source
from erase.errors import EraseError, InputError
from erase.evaluation.checks import check_metrics, check_model
from erase.evaluation.observe import find_observers
from erase.evaluation.protocols import change, find_protocol
from erase.evaluation.score import choose_samples
from erase.files import append_jsonl, fingerprint
from erase.models.loading import load_pipeline
from erase.runs.device import choose_device, say_device
from erase.runs.folder import ComparisonFolder
from erase.runs.manifest import check
from erase.runs.run_folder import deciding
from erase.scoring.samples import Protocol, Sample
from erase.scoring.suite import Suite, load_suite
from erase.training.filters import check_filters
from erase.training.plan import ConceptPlan, plan
from erase.training.sets import render_set

SETS = ("forget", "retain", "anchor")
SHARED = "shared.json"
SAME = (
    "max_train_steps",
    "train_batch_size",
    "num_forget_images",
    "num_retain_images",
    "num_anchor_images",
    "render_steps",
    "mixed_precision",
)
"""Settings that are the same for every method, where the comparison is given them."""
SHARING = Entry("ca", "ca", {}, {})
"""A method that looks at all three sets; the shared images are rendered as planned for it."""


@dataclass(frozen=True)
class Job:
    """One piece of work for a process: the shared images of a request, or one run."""

    request: Request
    label: str = ""
    """Of the run's line; none for the images."""
    trial: int = 0

    def __str__(self) -> str:
        what = f"{self.label}, trial {self.trial}" if self.label else "images"
        return f"{self.request.label}: {what}"


@dataclass(frozen=True)
class DiffusionComparison:
    """All entries on all requests."""

    config: CompareDiffusionConfig
    entries: Sequence[Entry]
    output: Path
    """One folder a request, in it `data` and one folder an entry and trial."""
    device: str
    progress: Callable[[str], None]
    """Called with a line of text as things finish."""
    texts: SetTexts = field(default_factory=SetTexts)
    """What `--set` says of attacks and of the evaluation."""
    _judged: dict[Request, list[Any]] = field(default_factory=dict, repr=False)
    """`judged_by` of each request, which reads the judges' weights."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """What is forgotten, one run an entry and trial each."""
        return parse_requests(self.config.concept)

    @property
    def judging(self) -> Judging:
        """How the models are judged."""
        return Judging(self.config, self.texts, self.output, self.device)

    def check(self, *, fetch: bool = True) -> dict[tuple[str, str], ConceptPlan]:
        """Plan every run, so that what cannot be used is refused before anything is rendered.

        `fetch` allows a hub model to be downloaded. Returns the plans by request and line; the
        shared images have no line's name.
        """
        plans = {}
        for name in ("model", "concept"):
            if not getattr(self.config, name):
                raise InputError(f"--{name} is missing.", f"Give --{name}.")
        if self.config.attack_limit and not self.config.attacks:
            raise InputError("--attack-limit is given without --attacks.", "Add --attacks NAME.")
        for request in self.requests:
            for entry in (SHARING, *self.entries):
                planned = plan(
                    self._config(entry, request, 0, shared=False), device=self.device, fetch=fetch
                )
                plans[request.label, "" if entry is SHARING else entry.label] = planned
                if planned.family.task.family != TEXT_TO_IMAGE:
                    raise InputError(
                        f"{self.config.model} is no text-to-image model.",
                        "Compare methods on it with erase class, one run each.",
                    )
                if not planned.concept.target().get("suite"):
                    raise InputError(
                        f"No suite measures the concept {request.label!r}.",
                        "Compare on concepts of a class list, e.g. a digit.",
                    )
                # The shared images are given to the run: nothing is left for it to filter.
                method = find_method(entry.method, TEXT_TO_IMAGE).method
                check_filters(planned.config, planned.concept, method.sets)
                self._check_judged(planned)
            if self.config.attacks:
                self.judging.check_attacks(planned, fetch=fetch)
        return plans

    def _check_judged(self, planned: ConceptPlan) -> None:
        """InputError for settings with which the run's model could not be judged afterwards."""
        suite, protocol = self._protocol(planned.concept)
        targets = frozenset(planned.concept.names)
        samples = self.samples(planned.concept)
        check_model(planned.source, protocol, samples)
        check_metrics(protocol, samples, targets, suite.neighbours(prompt_source(None)))

    def samples(self, concept: Concept) -> list[Sample]:
        """What is rendered to judge a model that was made to forget the concept."""
        suite, protocol = self._protocol(concept)
        return choose_samples(suite, protocol, prompt_source(None), frozenset(concept.names))

    def judged_by(self, concept: Concept) -> list[Any]:
        """All that the measures of a run depend on beside its model, for fingerprints."""
        suite, protocol = self._protocol(concept)
        root, targets = prompt_source(None), frozenset(concept.names)
        observers = find_observers(
            suite, protocol, root, targets=targets, baseline=True, device=self.device
        )
        samples = [sample.to_json() for sample in self.samples(concept)]
        neighbours = {name: list(near) for name, near in suite.neighbours(root).items()}
        return [protocol.to_json(), samples, neighbours, observers.fingerprints()]

    def _protocol(self, concept: Concept) -> tuple[Suite, Protocol]:
        suite = load_suite(str(concept.suite))
        images, steps = self.config.images_per_class, self.config.evaluation_steps
        named, given = find_protocol(suite, "default"), self.texts.judging
        return suite, change(suite, named, settings=given, images=images, steps=steps)

    def run(self) -> list[Result]:
        """Do what is missing, and again what failed; one row per request, entry and trial."""
        paths = self.result_files()
        forget_failures([*paths, *map(_attack_file, paths)])
        if self.config.jobs > 1:
            work, many = replace(self, progress=say), self.config.jobs
            run_jobs(self.jobs(), many, _do, work, progress=self.progress, note=self._note)
        rows = []
        for request in self.requests:
            self.shared_images(request)
            for trial in range(self.config.trials):
                rows += [self.run_entry(trial, entry, request) for entry in self.entries]
        return rows

    def _note(self, job: Job, seconds: float) -> None:
        row = {"concept": job.request.label, "method": job.label, "trial": job.trial}
        append_jsonl(self.output / COSTS, {**row, "processor_s": round(seconds, 2)})

    def jobs(self) -> dict[Job, set[Job]]:
        """The pieces of work with what each needs: every run needs the images of its request."""
        needs: dict[Job, set[Job]] = {}
        for request, trial, entry in self.runs():
            needs.setdefault(Job(request), set())
            needs[Job(request, entry.label, trial)] = {Job(request)}
        return needs

    def _folder(self, request: Request) -> Path:
        return self.output / request.folder

    def _run_folder(self, trial: int, entry: Entry, request: Request) -> Path:
        name = slug(entry.label)
        return self._folder(request) / (name if trial == 0 else f"{name}-trial-{trial}")

    def runs(self) -> list[tuple[Request, int, Entry]]:
        """Every request in every trial by every entry."""
        return list(itertools.product(self.requests, range(self.config.trials), self.entries))

    def result_files(self) -> list[Path]:
        """Where the results of all runs lie."""
        return [self.result_file(trial, entry, request) for request, trial, entry in self.runs()]

    def result_file(self, trial: int, entry: Entry, request: Request) -> Path:
        """Where the result of a run lies, beside its folder."""
        folder = self._run_folder(trial, entry, request)
        return folder.with_name(f"{folder.name}.json")

    def _config(self, entry: Entry, request: Request, trial: int, *, shared: bool) -> ConceptConfig:
        """The configuration of a run, as `erase concept` would be given it."""
        spec = find_method(entry.method, TEXT_TO_IMAGE)
        run = {**{name: getattr(self.config, name) for name in SAME}, **entry.changes}
        if shared and spec.method.images:
            data = self._folder(request) / "data"
            run |= {f"{name}_images": str((data / name).resolve()) for name in spec.method.sets}
        return ConceptConfig(
            model=self.config.model,
            method=entry.method,
            seed=self.config.seed + trial,
            settings=entry.settings,
            **request.settings(),
            **run,
        )

    def shared_images(self, request: Request) -> None:
        """Render the images of a request that all methods share, unless they are there."""
        folder = self._folder(request) / "data"
        planned = plan(self._config(SHARING, request, 0, shared=False), device=self.device)
        key = fingerprint([deciding(planned.config), planned.facts, self.device])
        if stored(folder / SHARED, key):
            for name in SETS:
                check(folder / name)
            return
        _remove(folder)
        self.progress(f"{request.label}: rendering the images that all methods share")
        pipeline = load_pipeline(planned.source)
        accelerator = Accelerator(cpu=self.device == "cpu")
        pipeline.to(accelerator.device)
        for name in SETS:
            render_set(
                name,
                planned.config,
                planned.concept,
                pipeline,
                folder / name,
                accelerator,
                fingerprint=fingerprint([key, name]),
            )
        store(folder / SHARED, {"fingerprint": key})

    def run_entry(self, trial: int, entry: Entry, request: Request) -> Result:
        """Run, judge and attack an entry in a trial, unless its results are there already."""
        folder = self._run_folder(trial, entry, request)
        planned = plan(self._config(entry, request, trial, shared=True), device=self.device)
        # Folders of images count by their content, for a result may be moved.
        settings = planned.config.replace(**{f"{s}_images": None for s in planned.sets})
        if request not in self._judged:
            self._judged[request] = self.judged_by(planned.concept)
        judged = self._judged[request]
        versions = library_versions(LIBRARIES)
        key = fingerprint([settings.to_dict(), planned.facts, self.device, judged, versions])
        about: Result = {"concept": request.label, "method": entry.label, "trial": trial}
        path = self.result_file(trial, entry, request)

        def measure() -> Result:
            return about | _or_failed(lambda: self.judging.measure(planned, folder))

        row = with_metrics(cached(path, key, measure, Timed), path)
        if self.config.attacks and "failed" not in row:
            how = [self.config.attack_names, self.config.attack_limit, sorted(self.texts.attacks)]
            row["attacked"] = cached(
                _attack_file(path),
                fingerprint([key, how]),
                lambda: _or_failed(lambda: self.judging.attacked(planned, folder)),
                Attacked,
            )
        self.progress(f"{request.label}  {entry.label}  trial {trial}: {_outcome(row)}")
        return row


def _do(comparison: DiffusionComparison, job: Job) -> None:
    if job.label:
        entry = next(item for item in comparison.entries if item.label == job.label)
        comparison.run_entry(job.trial, entry, job.request)
    else:
        comparison.shared_images(job.request)


def _attack_file(path: Path) -> Path:
    """Where the result of the attacks on a run lies, beside its result."""
    return path.with_name(f"{path.stem}-attack.json")


def _or_failed(make: Callable[[], Result]) -> Result:
    """What `make` returns, or in `failed` why it could not."""
    try:
        return make()
    except EraseError as error:
        return {"failed": error.message}


def _outcome(row: Result) -> str:
    """A result in one line."""
    if "failed" in row:
        return str(row["failed"])
    numbers = {name: summary["value"] for name, summary in row["metrics"].items()}
    numbers["seconds"] = row["seconds"]
    attacked = row.get("attacked", {})
    for title, rates in attacked.get("attacks", {}).items():
        numbers[f"shown after {title}"] = rates["model"]["value"]
    texts = [f"{name} {value:.4g}" for name, value in numbers.items()]
    return ", ".join(texts + ([f"attacks: {attacked['failed']}"] if "failed" in attacked else []))


def _remove(folder: Path) -> None:
    """Images of other settings; nothing else is ever written there."""
    for name in SETS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / SHARED).unlink(missing_ok=True)


def compare_diffusion(
    config: CompareDiffusionConfig,
    output: Path,
    *,
    methods: str = "all",
    settings: tuple[str, ...] = (),
    device: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    show: Callable[[Any], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Run the comparison, or what is missing of it, and write its reports.

    Args:
        config: the model, its concepts, and how the methods are judged and attacked.
        output: of `table.csv`, `table.md`, `results.json`, figures, and a folder a request.
        methods: METHOD[@NAME=VALUE…] with commas between, or `all`.
        settings: OWNER.NAME=VALUE, a setting of a method or of its run, of an attack, of the suite
            or of a metric.
        device: where to train and to render; None is a GPU if there is one, else the CPU.
        progress: called with a line of text as things finish.
        show: called with the finished table, for rich to print.

    Returns:
        A line for the original and one a method: means over requests and trials, and in NAME_sd
        their standard deviation over trials.

    Raises:
        InputError: settings that no run can use; then nothing was rendered.
    """
    check_alone()
    where = choose_device(device)
    folder = ComparisonFolder(output, "compare diffusion", config=config)
    folder.check()
    texts = sorted_settings(settings, config.attacks)
    entries = diffusion_entries(methods, texts.methods)
    comparison = DiffusionComparison(config, entries, output, where, progress, texts)
    comparison.check()
    say_device(where, device)
    with folder.hold(config=config.to_dict(), device=where) as record:
        rows = comparison.run()
        facts = {"config": config.to_dict(), "methods": methods, "set": list(settings)}
        means = write_report(output, rows, {**facts, "device": where})
        if record:
            record.finish()
    for table in terminal(means, rows, f"{config.model}: {'; '.join(config.concept)}"):
        show(table)
    return means
