"""Classifier unlearning methods side by side: same original, same forget sets, N seeds.

Every method × trial is one file, written at once and keyed by a fingerprint of all that changes
it, so that a comparison that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erase.compare.entries import Entry, entry, slug
from erase.compare.search import search
from erase.config.classifier import ClassifierConfig, TrainConfig, fill, method_module
from erase.config.compare import CompareConfig
from erase.core.rng import derive_seed, generator
from erase.data.forget import forget_indices
from erase.errors import RunError
from erase.files import fingerprint, hash_file, read_json, write_json, write_jsonl
from erase.judges.classifier_scores import attack_auc, average_gap, confidence, predict, rmia_scores
from erase.models.classifiers import WEIGHTS, Classifier
from erase.runs.record import versions
from erase.training.classifier import Original, open_original, run_method
from erase.training.classifier_runs import score, train_original


class Comparison:
    """One forget specification: originals, Retrain and all entries over all trials."""

    def __init__(
        self,
        config: CompareConfig,
        original: Original,
        base: str,
        spec: str,
        entries: list[Entry],
        folder: Path,
        progress: Callable[[str], None],
    ) -> None:
        self.config = config
        self.original = original
        self.base = base
        self.spec = spec
        self.entries = entries
        self.folder = folder
        self.progress = progress

    def run(self) -> dict[str, Any]:
        """Search if asked, run what is missing, and return all results."""
        found = {item.label: self.found(item) for item in (entry("retrain"), *self.entries)}
        results: dict[str, list[dict[str, Any]]] = {"original": [], "retrain": []}
        results |= {item.label: [] for item in self.entries}
        for trial in range(self.config.trials):
            results["original"].append(self.unchanged(trial))
            for item in (*self.entries, entry("retrain")):
                results[item.label].append(self.one(trial, item, found[item.label]))
        return {"forget": self.spec, "results": results, "search": found}

    def forget(self, seed: int) -> Tensor:
        """The forget set of a seed, the same for every method."""
        train = self.original.data.train
        return forget_indices(
            self.spec,
            train.labels,
            self.original.data.classes,
            trained_on=self.original.trained_on,
            seed=seed,
        )

    def fixed(self, item: Entry) -> dict[str, Any]:
        """What `--set` says of an entry: of its method, then of this variant of it."""
        given = self.config.settings
        return {**given.get(item.method, {}), **given.get(item.label.partition("@")[0], {})}

    def resolved(
        self, item: Entry, seed: int, forget: Tensor, found: dict[str, float]
    ) -> ClassifierConfig:
        """The filled configuration of an entry, with what a search found."""
        retrain = item.method == "retrain"
        run: dict[str, Any] = {
            "epochs": self.config.retrain_epochs if retrain else self.config.epochs,
            **item.start,
            **found,
            **self.fixed(item),
            **item.changes,
        }
        names = set(method_module(item.method).Settings.__dataclass_fields__)
        own = {name: run.pop(name) for name in names & set(run)}
        config = ClassifierConfig(
            method=item.method,
            forget=self.spec,
            seed=seed,
            mixed_precision=self.config.mixed_precision,
            retain_limit=None if retrain else self.config.retain_limit,
            settings=own | item.settings,
            **run,
        )
        share = len(forget) / len(self.original.trained_on)
        return fill(config, self.original.data.recipe, share)

    def key(self, config: ClassifierConfig, forget: Tensor, **more: Any) -> str:
        """Fingerprint of everything that changes a result."""
        used = {k: v for k, v in versions().items() if k in ("erase", "torch", "scikit-learn")}
        ignored = ("model", "data_dir", "checkpointing_steps", "checkpoints_total_limit")
        plain = {k: v for k, v in config.to_dict().items() if k not in ignored}
        return fingerprint([self.base, plain, forget.tolist(), used, more])

    def found(self, item: Entry) -> dict[str, float]:
        """What the search finds for an entry, of whose trials there may be some already."""
        base, fixed, _ = item.label.partition("@")
        if fixed:
            # A sweep shows what one setting does, so everything else is as it is in its base.
            bases = [other for other in self.entries if other.label == base]
            return self.found(bases[0]) if bases else {}
        if not self.config.search or item.method == "retrain":
            return {}
        return search(self, item, self.folder / "search" / f"{slug(item.label)}.json")

    def unchanged(self, trial: int) -> dict[str, Any]:
        """Scores of the original in a trial."""
        path = self.folder / f"trial-{trial}" / "original.json"
        seed = self.config.seed + trial
        forget = self.forget(seed)
        config = ClassifierConfig(forget=self.spec, seed=seed)
        key = self.key(config, forget, scoring="original")
        return self.kept(path, key, lambda: self._judge(self.original.model, forget, config))

    def one(self, trial: int, item: Entry, found: dict[str, float]) -> dict[str, Any]:
        """Run and judge an entry in a trial, with what a search found, unless that was done."""
        seed = self.config.seed + trial
        forget = self.forget(seed)
        config = self.resolved(item, seed, forget, found)
        path = self.folder / f"trial-{trial}" / f"{slug(item.label)}.json"
        key = self.key(config, forget, shadows=self.config.shadow_models)

        def work() -> dict[str, Any]:
            result = self._work(config, forget, path)
            shown = result.get("scores", {"failed": result.get("failed")})
            self.progress(f"{self.spec}  trial {trial}  {item.label}  {_short(shown)}")
            return result

        return self.kept(path, key, work)

    def _work(self, config: ClassifierConfig, forget: Tensor, path: Path) -> dict[str, Any]:
        try:
            out = run_method(self.original, forget, config)
        except RunError as error:
            return {"failed": error.message, "settings": config.to_dict()}
        write_jsonl(path.with_suffix(".jsonl"), out.rows)
        judged = self._judge(out.model, forget, config)
        return {**judged, "rte_s": round(out.seconds, 3), "settings": config.to_dict()}

    def kept(self, path: Path, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the file holds under this key, or else the work's result, which is written to it."""
        if path.exists():
            content: dict[str, Any] = read_json(path)
            if content.get("fingerprint") == key:
                return content
        content = {"fingerprint": key, **work()}
        write_json(path, content)
        return content

    def _judge(self, model: Classifier, forget: Tensor, config: ClassifierConfig) -> dict[str, Any]:
        judged: dict[str, Any] = {"scores": score(self.original, model, forget, config).to_dict()}
        if self.config.shadow_models:
            judged["rmia_auc"] = self._rmia(model, forget, config.seed)
        return judged

    def _rmia(self, model: Classifier, forget: Tensor, seed: int) -> float:
        """AUC of RMIA between D_f and one half of the test set; the other is the population."""
        data = self.original.data
        order = torch.randperm(len(data.test), generator=generator(seed, "rmia"))
        half = len(order) // 2
        sets = (
            data.train.subset(forget),
            data.test.subset(order[:half]),
            data.test.subset(order[half:]),
        )
        seen, reference = [], []
        shadows = [self._shadow(forget, seed, k) for k in range(self.config.shadow_models)]
        for images in sets:
            how = data.augmentation
            seen.append(confidence(predict(model, images, how), images.labels))
            reference.append(
                np.stack([confidence(predict(s, images, how), images.labels) for s in shadows])
            )
        scores = [rmia_scores(seen[i], seen[2], reference[i], reference[2]) for i in (0, 1)]
        return attack_auc(*scores)

    def _shadow(self, forget: Tensor, seed: int, number: int) -> Classifier:
        """A reference model, trained on a random half of D_r: it saw neither D_f nor the test."""
        memory: dict[tuple[int, int], Classifier] = self.__dict__.setdefault("_shadows", {})
        if (seed, number) not in memory:
            kept = self.original.trained_on
            retain = kept[~torch.isin(kept, forget)]
            random = generator(seed, "shadow", number)
            out = retain[torch.randperm(len(retain), generator=random)[: len(retain) // 2]]
            config = self.resolved(
                entry("retrain"), derive_seed(seed, "shadow", number), forget, {}
            )
            left_out = torch.cat([forget, out])
            memory[seed, number] = run_method(self.original, left_out, config).model
        return memory[seed, number]


def _short(scores: dict[str, Any]) -> str:
    return " ".join(
        f"{name.upper()} {value:.2f}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in scores.items()
        if not name.startswith("n_")
    )


def prepare_original(
    config: CompareConfig, output: Path, device: torch.device
) -> tuple[Original, str]:
    """The original that all methods start from, trained if need be, and its weights' SHA-256."""
    if config.model:
        folder = Path(config.model)
    else:
        folder = output / "original"
        if not (folder / WEIGHTS).is_file():
            train = TrainConfig(
                dataset=config.dataset,
                data_dir=config.data_dir,
                arch=config.arch,
                limit=config.limit,
                epochs=config.retrain_epochs,
                mixed_precision=config.mixed_precision,
                seed=config.seed,
            )
            # As Retrain is trained, so is the original.
            likewise = {"epochs", "learning_rate", "train_batch_size", "momentum", "weight_decay"}
            likewise |= {"schedule", "max_grad_norm"}
            given = config.settings.get("retrain", {})
            train = train.replace(**{k: v for k, v in given.items() if k in likewise})
            train_original(train, folder, overwrite=True, device=str(device), show=False)
    return open_original(folder, device, config.data_dir), hash_file(folder / WEIGHTS)


def gap_to(results: dict[str, list[dict[str, Any]]], label: str) -> list[float]:
    """Avg. Gap of a label in each trial in which it did not fail."""
    return [
        average_gap(own["scores"], gold["scores"])
        for own, gold in zip(results[label], results["retrain"], strict=True)
        if "scores" in own and "scores" in gold
    ]
