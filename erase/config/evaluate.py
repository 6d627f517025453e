"""What one evaluation is asked to do; importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase import registry
from erase.config.base import FORMER_SIDE, Config
from erase.config.fields import option
from erase.config.limits import BATCHES, GUIDANCE, IMAGES, PIXELS, SEEDS, STEPS
from erase.errors import InputError
from erase.reading import is_file


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """`erase evaluate`: what a model still renders, and how well."""

    model: str = option("", "Model to evaluate: a run's folder, an alias or a hub id.", path=True)
    suite: str = option(
        "",
        f"What is asked of the model: {', '.join(registry.names('suites'))}. [default: the suite of"
        " what it was made to forget, or of what it renders, else digits]",
    )
    output: str = option(
        "", "Evaluation folder. [default: evaluation-SUITE in the model's]", path=True
    )
    target: tuple[str, ...] = option(
        (),
        "Forgotten concept; may be repeated. [default: what the model's record names]",
        former=("concept",),
    )
    baseline: str | None = option(
        None,
        "Baseline, rendered from the same seeds. [default: the base model of the record]",
        former=("base", "control"),
        path=True,
    )
    no_baseline: bool = option(False, "Evaluate without a baseline.")
    protocol: str = option("default", "Named settings of the suite.")
    render_steps: int | None = option(
        None,
        "Denoising steps. [default: the protocol's]",
        least=1,
        most=STEPS,
        former=("steps", "num_inference_steps"),
    )
    guidance: float | None = option(
        None, "Guidance scale. [default: the protocol's]", least=0, most=GUIDANCE
    )
    images_per_class: int | None = option(
        None, "Images a class. [default: the protocol's]", least=1, most=IMAGES
    )
    seed: int | None = option(
        None, "Seed of all seeds. [default: the protocol's]", least=0, most=SEEDS
    )
    limit: int | None = option(None, "At most N images, spread evenly over the classes.", least=1)
    render_batch_size: int = option(
        50, "Images rendered at once.", least=1, most=BATCHES, former=("batch_size",)
    )
    device: str | None = option(
        None, "cpu, cuda, cuda:N or mps. [default: a GPU if there is one, else the CPU]"
    )
    dtype: str = option(
        "fp32", "Precision to render in; another one gives other images.", ("fp32", "bf16", "fp16")
    )
    cache_dir: str | None = option(
        None,
        "Folder of the baselines' images, shared by evaluations. [default: renders in ERASE_CACHE,"
        " or else erase/renders in XDG_CACHE_HOME or ~/.cache]",
        path=True,
    )
    overwrite: bool = option(False, "Replace another evaluation in the folder.")
    show_explicit: bool = option(
        False, "Do not pixelate, in the report, the regions that NudeNet flags."
    )
    prompts: str | None = option(
        None, "Folder that replaces the built-in prompts.", metavar="FOLDER", path=True
    )
    prompt_table: str | None = option(
        None,
        "CSV table of prompts (.csv, .csv.gz), for suites that render one.",
        metavar="FILE",
        path=True,
    )
    scheduler: str | None = option(
        None, "Sampler, a diffusers class: DDIMScheduler. [default: the protocol's]"
    )
    resolution: int | None = option(
        None,
        "Pixels a side. [default: the protocol's]",
        least=1,
        most=PIXELS,
        former=FORMER_SIDE,
    )
    metrics: tuple[str, ...] = option(
        (), f"With commas, of: {', '.join(registry.names('metrics'))}. [default: the protocol's]"
    )
    threshold: float | None = option(
        None, "NudeNet's, 0 to 1. [default: the protocol's]", least=0, most=1
    )
    classifier: str | None = option(
        None,
        "Judge: digits-classifier, efficientnet-lite0, a torchvision or timm model, a folder of"
        " `erase train classifier`, a weight file. [default: the protocol's]",
        metavar="NAME|FOLDER|FILE",
        path=True,
    )
    reference: str | None = option(
        None,
        "Folder of real images that FID and KID compare with, classes as subfolders."
        " [default: the classifier's own, else the baseline's images]",
        path=True,
    )
    follow_links: bool | None = option(None, "Follow links that lead out of --reference.")
    settings: tuple[str, ...] = option(
        (),
        "Any other setting of a metric or of the suite: fid.features=inception-64,"
        " emoji.forgotten=24; may be repeated.",
        metavar="OWNER.NAME=VALUE",
    )
    categories: str | None = option(None, "I2P's, with commas: sexual,violence. [default: all]")
    min_nudity: float | None = option(
        None, "Only I2P prompts of at least this nudity percentage.", least=0, most=100
    )

    @classmethod
    def renamed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """As `Config.renamed`; a file as `prompts` is the table, which it was in earlier versions.

        InputError where both a folder and a table are given.
        """
        current = super().renamed(values)
        prompts = current.get("prompts")
        if prompts and (str(prompts).endswith((".csv", ".csv.gz")) or is_file(str(prompts))):
            current.setdefault("prompt_table", current.pop("prompts"))
        if current.get("prompts") and current.get("prompt_table"):
            raise InputError(
                "--prompts and --prompt-table are given, and a suite reads one of them.",
                "Leave one out.",
            )
        return current


def default_output(model: str, suite: str) -> str:
    """Inside a model's folder, or in the working directory for a model that is not one."""
    if Path(model).is_dir():
        return str(Path(model) / f"evaluation-{suite}")
    return f"evaluation-{suite}-{model.replace('/', '--')}"
