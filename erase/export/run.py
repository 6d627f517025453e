"""A finished run, opened for an export: its family, its UNet, and what goes into a header."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.errors import InputError
from erase.files import read_json
from erase.models import original_layout as layout
from erase.models.base_card import licence_header
from erase.models.configs import read_config
from erase.models.loading import ModelSource
from erase.models.modelspec import PREDICTIONS, V_PREDICTION, modelspec
from erase.runs.record import read_record
from erase.runs.unfinished import check_finished

RELEASED = {"sd1": (320, 768), "sd2": (320, 1024), "sdxl": (320, 2048)}
"""Channels of the first block and width of the text states that A1111 and ComfyUI know."""


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a finished run of a family whose layout other programs know.

    `family` is `sd1`, `sd2` or `sdxl`; `config` is the UNet's, `scheduler` the scheduler's.
    """

    folder: Path
    record: Mapping[str, Any]
    family: str
    config: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def prediction(self) -> str:
        """What the UNet predicts, a key of `PREDICTIONS`."""
        return str(self.scheduler.get("prediction_type", "epsilon"))

    @property
    def base(self) -> str:
        """The base model as the record has it: an alias, a hub id or a whole path."""
        return str(self.record["base_model"])

    def metadata(self, kind: str = "") -> dict[str, str]:
        """The header of a file of this kind, see `modelspec`."""
        return modelspec(
            self.family,
            self.record,
            kind=kind,
            resolution=ModelSource(str(self.folder), self.folder).resolution(),
            prediction=self.prediction,
            licence=licence_header(self.folder, self.base),
        )

    def layer(self, name: str) -> str:
        """Kohya's name of a UNet layer: diffusers' own for SD 1.x and 2.x, original for SDXL."""
        if self.family == "sdxl":
            name = layout.unet_name(name, layout.unet_blocks(self.config))
        return "lora_unet_" + name.replace(".", "_")

    def marks(self) -> tuple[str, ...]:
        """Names of the empty tensors that tell ComfyUI and others of a v-prediction."""
        if self.prediction != V_PREDICTION:
            return ()
        return ("v_pred", "ztsnr") if self.scheduler.get("rescale_betas_zero_snr") else ("v_pred",)

    def has_released_size(self) -> bool:
        """Whether A1111 and ComfyUI know a UNet of this size."""
        size = (self.config["block_out_channels"][0], self.config.get("cross_attention_dim"))
        return size == RELEASED[self.family]


def open_run(folder: Path) -> FinishedRun:
    """Open a run's folder; InputError when it is unfinished or of a family without such files."""
    remedy = "Give the --output folder of a finished erase concept or erase class run."
    record = read_record(folder)
    check_finished(folder)
    if not (folder / "model_index.json").is_file() or not record.get("base_model"):
        raise InputError(f"{folder} holds no finished diffusion run.", remedy)
    kind = ModelSource(str(folder), folder).pipeline_class()
    if kind not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        raise InputError(
            f"The run's model is a {kind}, for which there is no such file.",
            "Stable Diffusion 1.x, 2.x and XL can be exported; others stay diffusers folders.",
        )
    config = dict(read_json(folder / "unet" / "config.json", layout.UNetConfig, finite=False))
    layout.unet_blocks(config)  # refuses blocks that the layouts do not know
    family = "sd2" if config.get("use_linear_projection") else "sd1"
    if kind == "StableDiffusionXLPipeline":
        family = "sdxl"
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    run = FinishedRun(folder, record, family, config, scheduler)
    if run.prediction not in PREDICTIONS:
        raise InputError(
            f"The run's model predicts the {run.prediction}, which no such file can say.",
            "Use the diffusers folder.",
        )
    return run
