"""One run of a diffusion comparison: the method in a process of its own, its evaluation, attacks.

The original's images, plain and under attack, lie in one folder of the comparison: they are made
once, and every run is compared with them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from erase.attack.plan import make_plan
from erase.attack.run import attack
from erase.comparison.store import Result, library_versions
from erase.config.attack import AttackConfig
from erase.config.compare import CompareDiffusionConfig, SetTexts
from erase.config.evaluate import EvaluateConfig
from erase.errors import InputError, RunError
from erase.evaluation.run import evaluate
from erase.reading import fitted
from erase.report.attack import title_of
from erase.runs.record import read_record
from erase.runs.run_folder import RunFolder
from erase.runs.signals import run_child
from erase.training.plan import ConceptPlan

LIBRARIES = ("erase", "torch", "diffusers", "transformers", "numpy")
"""Libraries whose versions are in fingerprints."""
ORIGINALS = "originals"
"""Folder of the original's images in that of a comparison."""


class Timed(TypedDict):
    """What every result of a run says that did not fail."""

    seconds: float
    memory_bytes: float


class Summarised(TypedDict):
    """A metric of a run, as `metrics.json` holds it, without its detail."""

    title: str
    unit: str
    value: float
    n: int | None
    ci95: tuple[float, float] | None
    higher_is_better: bool


class Measured(Timed):
    """And since results hold all metrics of the suite, of the model and of the original."""

    metrics: dict[str, Summarised]
    original: dict[str, Summarised]


class Attacked(TypedDict):
    """What the result of the attacks on a run says that did not fail."""

    plain: dict[str, Summarised]
    attacks: dict[str, dict[str, Any]]


def with_metrics(row: Result, path: Path) -> Result:
    """A result as results are today; those of earlier versions have `ua`, `ra` and `fid` alone.

    InputError for another content of its file, `path`.
    """
    if "failed" in row:
        return row
    if "metrics" not in row:
        names = {"ua": "ua", "ra": "ra", "fid": str(row.get("fid_name", "fid"))}
        sides = {"metrics": row, "original": row.get("original", {})}
        row = {key: row[key] for key in row if key.partition("_")[0] not in names} | {
            side: {
                now: {
                    "title": now,
                    "unit": "distance" if name == "fid" else "share",
                    "value": values.get(name),
                    "n": values.get(f"{name}_n"),
                    "ci95": values.get(f"{name}_ci95"),
                    "higher_is_better": name != "fid",
                }
                for name, now in names.items()
            }
            for side, values in sides.items()
        }
    fitted(row, Measured, str(path))
    return row


@dataclass(frozen=True)
class Judging:
    """How the models of a comparison are evaluated and attacked."""

    config: CompareDiffusionConfig
    texts: SetTexts
    """What `--set` says."""
    output: Path
    """Of the comparison."""
    device: str

    def _options(self) -> dict[str, Any]:
        return {
            "images_per_class": self.config.images_per_class,
            "render_steps": self.config.evaluation_steps,
            "device": self.device,
            "cache_dir": str(self.output / ORIGINALS),
        }

    def evaluation(self, suite: str, model: Path) -> EvaluateConfig:
        """The evaluation of a run's folder, inside of it."""
        return EvaluateConfig(
            model=str(model),
            suite=suite,
            output=str(model / "evaluation"),
            settings=self.texts.judging,
            overwrite=True,
            **self._options(),
        )

    def attack(self, suite: str, model: Path) -> AttackConfig:
        """The attacks on a run's folder, inside of it."""
        return AttackConfig(
            model=str(model),
            suite=suite,
            output=str(model / "attack"),
            attack=self.config.attack_names,
            limit=self.config.attack_limit,
            settings=(*self.texts.attacks, *self.texts.judging),
            overwrite=True,
            **self._options(),
        )

    def check_attacks(self, planned: ConceptPlan, *, fetch: bool) -> None:
        """InputError for attacks that no run could be made with; nothing is written.

        Without `fetch` what is not on this machine is left unchecked.
        """
        config = self.attack(str(planned.concept.suite), Path(self.config.model)).replace(
            model=self.config.model,
            baseline=self.config.model,
            target=planned.concept.names,
            output=str(self.output),
        )
        make_plan(config, None if fetch else [])

    def measure(self, planned: ConceptPlan, folder: Path) -> Result:
        """Run a planned method in a process of its own, then evaluate the model it saved.

        A run that is finished in the folder is not repeated.

        Args:
            planned: with its shared images.
            folder: of the run; the evaluation goes into it.

        Raises:
            EraseError: the run or the evaluation failed.
        """
        if not self._is_trained(planned, folder):
            self._train(planned, folder)
        record = read_record(folder)
        result = evaluate(self.evaluation(str(planned.concept.suite), folder))
        assert result is not None  # a comparison is one process
        return {
            "metrics": _summaries(result.metrics["metrics"]),
            "original": _summaries(result.metrics["baseline"]),
            "seconds": record["train_seconds"],
            "memory_bytes": record.get("device_peak_memory_bytes") or record["peak_memory_bytes"],
            "settings": planned.config.to_dict(),
        }

    def _is_trained(self, planned: ConceptPlan, folder: Path) -> bool:
        """Whether the folder holds the finished run: the evaluation was interrupted."""
        facts = {**planned.facts, "processes": 1}
        run = RunFolder(folder, "concept", planned.config, resume="latest", facts=facts)
        record = run.record()
        there = {name: record.get("versions", {}).get(name) for name in LIBRARIES}
        device = str(record.get("device")).partition(":")[0]
        if device != self.device.partition(":")[0] or there != library_versions(LIBRARIES):
            return False
        try:
            return run.state().finished
        except InputError:
            return False

    def _train(self, planned: ConceptPlan, folder: Path) -> None:
        given = folder.with_name(f"{folder.name}.yaml")
        planned.config.write(given)
        done = run_child(
            [
                *(sys.executable, "-m", "erase", "concept", "--config", str(given)),
                *("--output", str(folder), "--device", self.device, "--overwrite"),
            ]
        )
        if done.returncode:
            errors = [text for text in done.stderr.splitlines() if text.startswith("Error")]
            raise RunError(
                errors[-1] if errors else f"the run ended with exit code {done.returncode}",
                "Run it alone to see why: erase concept --config " + str(given),
            )

    def attacked(self, planned: ConceptPlan, folder: Path) -> Result:
        """Attack the model of a run, and the original where that was not done before.

        `plain` holds the rates of both on the attacked prompts as they are. `attacks` holds, by the
        title of each attack or part of one, the rates of the model and of the original after it,
        and for a curve the rates by step and `half`, the first step at which the model's rate is
        half of the original's plain one.

        Raises:
            EraseError: an attack failed.
        """
        result = attack(self.attack(str(planned.concept.suite), folder))
        assert result is not None  # a comparison is one process
        metrics = result.metrics
        return {
            "plain": {
                "model": metrics["before"]["model"],
                "original": metrics["before"]["baseline"],
            },
            "attacks": {
                title_of(entry): {
                    "model": entry["after"]["model"],
                    "original": entry["after"]["baseline"],
                    "budget": entry["budget"],
                    **({k: entry[k] for k in ("curve", "half")} if "curve" in entry else {}),
                }
                for entry in metrics["attacks"]
            },
        }


def _summaries(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Metrics without their details, which are in the run's own `evaluation/metrics.json`."""
    return {
        name: {key: value for key, value in summary.items() if key != "detail"}
        for name, summary in metrics.items()
    }
