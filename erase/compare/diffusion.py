"""Unlearning methods on a text-to-image model side by side: same original, same images, same suite.

The images of each concept are rendered once and shared. Every method runs in a process of its own,
through `erase concept` as anyone would call it, so that its peak memory is its own. What is
finished is kept by a fingerprint of all that changes it: a comparison that was killed goes on.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from erase.compare.diffusion_entries import Entry
from erase.config.compare import CompareDiffusionConfig
from erase.config.concept import ConceptConfig
from erase.config.evaluate import EvaluateConfig
from erase.config.families import TEXT_TO_IMAGE
from erase.config.methods import find_method
from erase.errors import EraseError, InputError, RunError
from erase.evaluation.run import evaluate
from erase.files import fingerprint, read_json, write_json
from erase.models.loading import load_pipeline
from erase.runs.record import RECORD, versions
from erase.runs.run_folder import deciding
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
JUDGED = ("images_per_class", "steps")
LIBRARIES = ("erase", "torch", "diffusers", "transformers", "numpy")


class Comparison:
    """All lines on all concepts.

    Args:
        config: what to compare, and how it is judged.
        lines: of the table.
        output: its folder; one folder a concept, in it `data` and one folder a line and trial.
        device: where to train and to render; None: a GPU when there is one.
        say: called with a line of text as things finish.
    """

    def __init__(
        self,
        config: CompareDiffusionConfig,
        lines: list[Entry],
        output: Path,
        device: str,
        say: Callable[[str], None],
    ) -> None:
        self.config = config
        self.lines = lines
        self.output = output
        self.device = device
        self.say = say

    def check(self) -> None:
        """Plan every run, so that what cannot be used is refused before anything is rendered."""
        for concept in self.config.concept:
            for line in self.lines:
                planned = plan(self._config(line, concept, 0, shared=False), device=self.device)
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

    def run(self) -> list[dict[str, Any]]:
        """Do what is missing; one row per concept, line and trial."""
        rows = []
        for concept in self.config.concept:
            self._shared_images(concept)
            for trial in range(self.config.trials):
                rows += [self._row(line, concept, trial) for line in self.lines]
        return rows

    def _folder(self, concept: str) -> Path:
        return self.output / concept.replace(" ", "-").replace("/", "-")

    def _config(self, line: Entry, concept: str, trial: int, *, shared: bool) -> ConceptConfig:
        """The configuration of a run, as `erase concept` would be given it."""
        spec = find_method(line.method, TEXT_TO_IMAGE)
        own = {name: value for name, value in line.settings.items() if name in spec.names}
        run = {name: value for name, value in line.settings.items() if name not in own}
        for name in SAME:
            run.setdefault(name, getattr(self.config, name))
        method = spec.method
        if shared and method.images:
            data = self._folder(concept) / "data"
            run |= {f"{name}_images": str((data / name).resolve()) for name in method.sets}
        return ConceptConfig(
            model=self.config.model,
            concept=(concept,),
            method=line.method,
            seed=self.config.seed + trial,
            settings=own,
            **run,
        )

    def _shared_images(self, concept: str) -> None:
        """Render the images of a concept that all methods share, unless they are there."""
        folder = self._folder(concept) / "data"
        line = Entry("ca", "ca", {})  # a method that looks at all three sets
        planned = plan(self._config(line, concept, 0, shared=False), device=self.device)
        key = fingerprint([deciding(planned.config), planned.facts, self.device])
        state = folder / SHARED
        if state.is_file() and read_json(state).get("fingerprint") == key:
            return
        _remove(folder)
        self.say(f"{concept}: rendering the images that all methods share")
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
        write_json(state, {"fingerprint": key})

    def _row(self, line: Entry, concept: str, trial: int) -> dict[str, Any]:
        name = re.sub(r"[^A-Za-z0-9@=.+-]+", "_", line.label)
        folder = self._folder(concept) / (name if trial == 0 else f"{name}-trial-{trial}")
        planned = plan(self._config(line, concept, trial, shared=True), device=self.device)
        installed = versions()
        key = fingerprint(
            [
                planned.config.replace(**_no_paths(planned)).to_dict(),
                planned.facts,
                self.device,
                {name: getattr(self.config, name) for name in JUDGED},
                {name: installed.get(name) for name in LIBRARIES},
            ]
        )
        path = folder.with_name(f"{folder.name}.json")
        if path.is_file() and read_json(path).get("fingerprint") == key:
            row: dict[str, Any] = read_json(path)
        else:
            row = {"concept": concept, "method": line.label, "trial": trial, "fingerprint": key}
            try:
                row |= self._measured(planned, folder)
            except EraseError as error:
                row["failed"] = error.message
            write_json(path, row)
        outcome = row.get("failed") or ", ".join(
            f"{name} {row[name]:.4g}" for name in ("ua", "ra", "fid", "seconds")
        )
        self.say(f"{concept}  {line.label}  trial {trial}: {outcome}")
        return row

    def _measured(self, planned: ConceptPlan, folder: Path) -> dict[str, Any]:
        """Run the method in a process of its own, then judge what it left."""
        given = folder.with_name(f"{folder.name}.yaml")
        planned.config.write(given)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "erase", "concept", "--config", str(given)),
                *("--output", str(folder), "--device", self.device, "--overwrite"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = [text for text in done.stderr.splitlines() if text.startswith("Error")]
            raise RunError(
                said[-1] if said else f"the run ended with exit code {done.returncode}",
                "Run it alone to see why: erase concept --config " + str(given),
            )
        record = read_json(folder / RECORD)
        result = evaluate(
            EvaluateConfig(
                model=str(folder),
                suite=str(planned.concept.suite),
                output=str(folder / "evaluation"),
                images_per_class=self.config.images_per_class,
                steps=self.config.steps,
                device=self.device,
                cache_dir=str(self.output / "originals"),
                overwrite=True,
            )
        )
        assert result is not None  # a comparison is one process
        metrics, base = result.metrics["metrics"], result.metrics["baseline"]
        fid = next(name for name in metrics if name.startswith("fid"))
        return {
            **{name: metrics[name]["value"] for name in ("ua", "ra")},
            **{f"{name}_ci95": metrics[name]["ci95"] for name in ("ua", "ra")},
            **{f"{name}_n": metrics[name]["n"] for name in ("ua", "ra")},
            "fid": metrics[fid]["value"],
            "fid_name": fid,
            "original": {"ua": base["ua"]["value"], "ra": base["ra"]["value"]}
            | {"fid": base[fid]["value"]},
            "seconds": record["train_seconds"],
            "memory_bytes": record.get("device_peak_memory_bytes") or record["peak_memory_bytes"],
            "settings": planned.config.to_dict(),
        }


def _no_paths(planned: ConceptPlan) -> dict[str, None]:
    """The folders of images, which count by their content, for a result that may be moved."""
    return {f"{name}_images": None for name in planned.sets}


def _remove(folder: Path) -> None:
    """Images of other settings; nothing else is ever written there."""
    for name in SETS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / SHARED).unlink(missing_ok=True)
