"""The ten CIFAR-10 classes from a class-conditional model, judged by a CIFAR-10 classifier.

The setting of table 3 of LUR. A sample's prompt is its class name, which a class-conditional
pipeline takes as its label. `--classifier` names the judge: a folder that `erase train classifier`
wrote, such as the sources' ResNet-34.
"""

from pathlib import Path
from typing import ClassVar

from erase.data.prompt_table import class_samples
from erase.scoring.samples import Protocol, Sample
from erase.scoring.suite import Suite, by_name

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class Cifar10(Suite):
    """CIFAR-10's ten classes."""

    name = "cifar10"
    version = 1
    datasets = ("cifar10",)
    settings: ClassVar = {"forget_images": 0}

    def protocols(self) -> dict[str, Protocol]:
        """The named settings of this suite.

        A guidance scale of 3 is the sources' w = 2 in (1 + w) ε_c - w ε_∅.
        """
        default = self.protocol(
            ("ua", "ra", "fid"),
            steps=100,
            guidance=3.0,
            images=100,
            settings={"fid": {"features": "inception-2048"}},
            source="erase; 100 steps of the model's own scheduler",
        )
        full = default.with_settings({"cifar10": {"forget_images": 500}}).replace(
            steps=1000, images=5000, scheduler="DDPMScheduler"
        )
        return by_name(
            default,
            full.replace(
                name="paper",
                source="LUR, section 5.2 and table 3, with Selective Amnesia's counts: 1000 steps,"
                " 500 images of the forgotten class for UA, 5,000 of each other class for FID"
                " against the 45,000 training images of those classes (--reference)",
            ),
            full.replace(
                name="salun",
                images=500,
                source="SalUn (Fan et al. 2024), public code: 1000 steps, 500 images a class, FID"
                " against the training images of the other classes (--reference)",
            ),
        )

    def classes(self, prompts: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Names of the ten classes, in the data set's order."""
        return CLASSES

    def samples(self, protocol: Protocol, prompts: Path) -> list[Sample]:  # noqa: ARG002
        """`10 * protocol.images` samples, class by class."""
        return class_samples(protocol, CLASSES, lambda label: (CLASSES[label],), digits=5)
