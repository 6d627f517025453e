"""Unlearning methods on a text-to-image model side by side: same original, same images, same suite.

The images of each concept are rendered once and shared. Every method runs in a process of its own,
through `erase concept` as anyone would call it, so that its peak memory is its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from erase.comparison.diffusion_report import terminal, write_report
from erase.comparison.diffusion_run import Measured, measure
from erase.comparison.entries import Entry, diffusion_entries, slug
from erase.comparison.store import Result, cached, check_alone, library_versions, store, stored
from erase.config.compare import CompareDiffusionConfig
from erase.config.concept import ConceptConfig
from erase.config.families import TEXT_TO_IMAGE
from erase.config.methods import find_method
from erase.data.prompt_table import prompt_source
from erase.errors import EraseError, InputError
from erase.evaluation.checks import check_metrics, check_model
from erase.evaluation.protocols import find_protocol
from erase.evaluation.score import choose_samples
from erase.files import fingerprint
from erase.models.loading import load_pipeline
from erase.runs.device import choose_device, say_device
from erase.runs.folder import ComparisonFolder
from erase.runs.manifest import check
from erase.runs.run_folder import deciding
from erase.scoring.suite import load_suite
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
JUDGED = {"images_per_class": "images_per_class", "steps": "evaluation_steps"}
"""How models are judged, by the names that fingerprints have had from the first version on."""
LIBRARIES = ("erase", "torch", "diffusers", "transformers", "numpy")
SHARING = Entry("ca", "ca", {}, {})
"""A method that looks at all three sets; the shared images are rendered as planned for it."""


@dataclass(frozen=True)
class DiffusionComparison:
    """All entries on all concepts."""

    config: CompareDiffusionConfig
    entries: Sequence[Entry]
    output: Path
    """One folder a concept, in it `data` and one folder an entry and trial."""
    device: str
    progress: Callable[[str], None]
    """Called with a line of text as things finish."""

    def check(self, *, fetch: bool = True) -> dict[tuple[str, str], ConceptPlan]:
        """Plan every run, so that what cannot be used is refused before anything is rendered.

        `fetch` allows a hub model to be downloaded. Returns the plans by concept and line; the
        shared images have no line's name.
        """
        plans = {}
        for name in ("model", "concept"):
            if not getattr(self.config, name):
                raise InputError(f"--{name} is missing.", f"Give --{name}.")
        for concept in self.config.concept:
            for entry in (SHARING, *self.entries):
                planned = plan(
                    self._config(entry, concept, 0, shared=False), device=self.device, fetch=fetch
                )
                plans[concept, "" if entry is SHARING else entry.label] = planned
                if planned.family.task.family != TEXT_TO_IMAGE:
                    raise InputError(
                        f"{self.config.model} is no text-to-image model.",
                        "Compare methods on it with erase class, one run each.",
                    )
                if not planned.concept.target().get("suite"):
                    raise InputError(
                        f"No suite measures the concept {concept!r}.",
                        "Compare on concepts of a class list, e.g. a digit.",
                    )
                # The shared images are given to the run: nothing is left for it to filter.
                method = find_method(entry.method, TEXT_TO_IMAGE).method
                check_filters(planned.config, planned.concept, method.sets)
                _check_judged(self.config, planned)
        return plans

    def run(self) -> list[Result]:
        """Do what is missing; one row per concept, entry and trial."""
        rows = []
        for concept in self.config.concept:
            self._shared_images(concept)
            for trial in range(self.config.trials):
                rows += [self.run_entry(trial, entry, concept) for entry in self.entries]
        return rows

    def _folder(self, concept: str) -> Path:
        return self.output / concept.replace(" ", "-").replace("/", "-")

    def _run_folder(self, trial: int, entry: Entry, concept: str) -> Path:
        name = slug(entry.label)
        return self._folder(concept) / (name if trial == 0 else f"{name}-trial-{trial}")

    def result_file(self, trial: int, entry: Entry, concept: str) -> Path:
        """Where the result of a run lies, beside its folder."""
        folder = self._run_folder(trial, entry, concept)
        return folder.with_name(f"{folder.name}.json")

    def _config(self, entry: Entry, concept: str, trial: int, *, shared: bool) -> ConceptConfig:
        """The configuration of a run, as `erase concept` would be given it."""
        spec = find_method(entry.method, TEXT_TO_IMAGE)
        run = {**{name: getattr(self.config, name) for name in SAME}, **entry.changes}
        if shared and spec.method.images:
            data = self._folder(concept) / "data"
            run |= {f"{name}_images": str((data / name).resolve()) for name in spec.method.sets}
        return ConceptConfig(
            model=self.config.model,
            concept=(concept,),
            method=entry.method,
            seed=self.config.seed + trial,
            settings=entry.settings,
            **run,
        )

    def _shared_images(self, concept: str) -> None:
        """Render the images of a concept that all methods share, unless they are there."""
        folder = self._folder(concept) / "data"
        planned = plan(self._config(SHARING, concept, 0, shared=False), device=self.device)
        key = fingerprint([deciding(planned.config), planned.facts, self.device])
        if stored(folder / SHARED, key):
            for name in SETS:
                check(folder / name)
            return
        _remove(folder)
        self.progress(f"{concept}: rendering the images that all methods share")
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

    def run_entry(self, trial: int, entry: Entry, concept: str) -> Result:
        """Run and judge an entry in a trial, unless its result is there already."""
        folder = self._run_folder(trial, entry, concept)
        planned = plan(self._config(entry, concept, trial, shared=True), device=self.device)
        key = fingerprint(
            [
                # Folders of images count by their content, for a result may be moved.
                planned.config.replace(**{f"{s}_images": None for s in planned.sets}).to_dict(),
                planned.facts,
                self.device,
                {key: getattr(self.config, name) for key, name in JUDGED.items()},
                library_versions(LIBRARIES),
            ]
        )

        def make() -> Result:
            row: Result = {"concept": concept, "method": entry.label, "trial": trial}
            try:
                return row | measure(planned, folder, self.config, self.output, self.device)
            except EraseError as error:
                return row | {"failed": error.message}

        row = cached(self.result_file(trial, entry, concept), key, make, Measured)
        outcome = row.get("failed") or ", ".join(
            f"{name} {row[name]:.4g}" for name in ("ua", "ra", "fid", "seconds")
        )
        self.progress(f"{concept}  {entry.label}  trial {trial}: {outcome}")
        return row


def _check_judged(config: CompareDiffusionConfig, planned: ConceptPlan) -> None:
    """InputError for settings with which the run's model could not be judged afterwards."""
    suite = load_suite(str(planned.concept.suite))
    protocol = find_protocol(suite, "default").replace(
        images=config.images_per_class, steps=config.render_steps
    )
    targets = frozenset(planned.concept.names)
    root = prompt_source(None)
    samples = choose_samples(suite, protocol, root, targets)
    check_model(planned.source, protocol, samples)
    check_metrics(protocol, samples, targets, suite.neighbours(root))


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
        config: the model, its concepts, and how the methods are judged.
        output: of `table.csv`, `table.md`, `results.json`, and a folder a concept.
        methods: METHOD[@NAME=VALUE…] with commas between, or `all`.
        settings: METHOD.NAME=VALUE, a setting of a method or of its run.
        device: where to train and to render; None is a GPU if there is one, else the CPU.
        progress: called with a line of text as things finish.
        show: called with the finished table, for rich to print.

    Returns:
        A line for the original and one a method: means over concepts and trials.

    Raises:
        InputError: settings that no run can use; then nothing was rendered.
    """
    check_alone()
    where = choose_device(device)
    folder = ComparisonFolder(output, "compare diffusion", config=config)
    folder.check()
    entries = diffusion_entries(methods, settings)
    comparison = DiffusionComparison(config, entries, output, where, progress)
    comparison.check()
    say_device(where, device)
    with folder.hold(config=config.to_dict(), device=where) as record:
        rows = comparison.run()
        facts = {"config": config.to_dict(), "methods": methods, "set": list(settings)}
        means = write_report(output, rows, {**facts, "device": where})
        if record:
            record.finish()
    show(terminal(means, f"{config.model}: {', '.join(config.concept)}"))
    return means
