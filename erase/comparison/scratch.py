"""Models trained from scratch without some samples: Retrains, and the reference models of RMIA.

Each is trained once and kept, so that it need not be trained where it is used: several processes
share it. The weights of the original play no part in it, so that it can be trained beside it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from safetensors.torch import load, save
from torch import Tensor

from erase.comparison.store import cached, library_versions
from erase.config.classifier import ClassifierConfig
from erase.errors import InputError
from erase.files import fingerprint, hash_file, write_bytes
from erase.training.classifier import Original, Outcome, in_preferred_format, run_method

LIBRARIES = ("erase", "torch", "scikit-learn")
NOT_DECIDING = (
    *("model", "data_dir", "checkpointing_steps", "checkpoints_total_limit"),
    *("metrics", "retrained"),
)
"""Settings that do not change a result."""


def deciding(config: ClassifierConfig) -> dict[str, Any]:
    """The settings that change a result."""
    return {k: v for k, v in config.to_dict().items() if k not in NOT_DECIDING}


class _Kept(TypedDict):
    """What the file beside the weights says."""

    seconds: float
    weights: str
    rows: list[dict[str, Any]]


class ScratchModels:
    """The models of one original's data and architecture, in a folder."""

    def __init__(self, original: Original, folder: Path) -> None:
        self.original, self.folder = original, folder
        about = {**asdict(original.description), "data_dir": None, "facts": None}
        about["pretrained"] = bool(original.description.facts.get("pretrained"))
        self._about = [about, original.data.sha256(), library_versions(LIBRARIES)]

    def trained(self, left_out: Tensor, config: ClassifierConfig) -> Outcome:
        """A model trained without these samples `[M]` of the training set, now or before.

        Raises:
            InputError: the file of its weights was changed.
            RunError: its loss is not finite.
        """
        key = fingerprint([self._about, deciding(config), left_out.tolist()])
        weights = self.folder / f"{key[:16]}.safetensors"

        def make() -> dict[str, Any]:
            out = run_method(self.original, left_out, config)
            state = {k: t.detach().cpu().contiguous() for k, t in out.model.state_dict().items()}
            write_bytes(weights, save(state))
            return {"seconds": out.seconds, "weights": hash_file(weights), "rows": out.rows}

        about = cached(weights.with_suffix(".json"), key, make, _Kept)
        if not weights.is_file() or hash_file(weights) != about["weights"]:
            raise InputError(
                f"{weights} was changed after it was written.",
                f"Delete {weights.with_suffix('.json')}: the model is then trained again.",
            )
        model = in_preferred_format(deepcopy(self.original.model), self.original)
        model.load_state_dict(load(weights.read_bytes()))
        return Outcome(model.eval(), about["seconds"], about["rows"])
