"""Ten ImageNet classes, "an image of a {class}", judged by an ImageNet classifier.

The setting of table 4 of LUR and of SalUn. UA counts the images of the forgotten class that the
classifier, free to choose among all of its classes, does not call by its name. A table of prompts
with a column `class` (`--prompt-table FILE`) replaces the captions and brings its own seeds.
"""

from collections.abc import Mapping
from pathlib import Path

from erase.data.prompt_table import built_in, class_samples, read_table, table_samples
from erase.data.prompts import ClassList, read_class_list
from erase.errors import InputError
from erase.scoring.samples import Protocol, Sample, Unusable
from erase.scoring.suite import Suite, by_name


class Imagenette(Suite):
    """Imagenette's ten classes."""

    name = "imagenette"
    version = 1

    def protocols(self) -> dict[str, Protocol]:
        """The named settings of this suite."""
        default = self.protocol(
            ("ua", "ra", "fid"),
            steps=50,
            guidance=7.5,
            images=50,
            classifier="resnet50",
            settings={"fid": {"features": "inception-2048"}},
            source="erase; the model's own scheduler",
        )
        table = default.with_settings({"fid": {"features": "inception-64"}}).replace(
            steps=100, images=500, scheduler="LMSDiscreteScheduler"
        )
        return by_name(
            default,
            table.replace(
                name="salun",
                source="SalUn (Fan et al. 2024), public code: LMS, 100 steps, torchvision"
                " ResNet-50, torchmetrics FID on 64 features; 500 images a class after the table's"
                " steps of 0.2%",
            ),
            table.replace(
                name="paper",
                source="LUR, section 5.2: 100 steps, ImageNet ResNet-50; scheduler, guidance and"
                " the 64 features, which it does not state, from SalUn's code; 500 images a class"
                " after table 4's steps of 0.2%",
            ),
        )

    def classes(self, prompts: Path) -> tuple[str, ...]:
        """Names of the ten classes, as ImageNet has them."""
        return _classes(prompts).names

    def aliases(self, prompts: Path) -> Mapping[str, str]:
        """WordNet ids, which the public download's folders are called by, and their classes."""
        return {item["wnid"]: item["name"] for item in _classes(prompts).classes if "wnid" in item}

    def samples(self, protocol: Protocol, prompts: Path) -> list[Sample]:
        """`10 * protocol.images` samples, class by class; or the rows of a table.

        Raises InputError when `imagenette.yaml` or the table is missing or incomplete.
        """
        known = _classes(prompts)
        if prompts.is_file():
            table = read_table(prompts, ("seed",))
            table.need("target")
            rows = table.where(lambda row: known.label(row.target) is not None)
            return [
                _renamed(sample, known)
                for sample in table_samples(rows, protocol, row_guidance=False)
            ]
        return class_samples(protocol, known.names, lambda label: known.captions("evaluate", label))

    def unusable(self, protocol: Protocol, prompts: Path) -> list[Unusable]:  # noqa: ARG002
        """Rows of a table that had to be left out: broken ones, and those of no known class."""
        if not prompts.is_file():
            return []
        table, known = read_table(prompts, ("seed",)), _classes(prompts)
        strangers = [
            Unusable(row.number, f"no class {row.target!r} in Imagenette", row.prompt)
            for row in table.rows
            if known.label(row.target) is None
        ]
        return sorted([*table.unusable, *strangers], key=lambda item: item.row)


def _renamed(sample: Sample, known: ClassList) -> Sample:
    """The sample with its target as the suite spells it."""
    return Sample(**{**vars(sample), "target": known.names[known.label(sample.target) or 0]})


def _classes(prompts: Path) -> ClassList:
    file = built_in(prompts) / "imagenette.yaml"
    known = read_class_list(file)
    if not known.templates.get("evaluate") or len(set(known.names)) != len(known.names):
        raise InputError(
            f"{file} must list distinct classes, and templates to evaluate with.",
            "Copy prompts/imagenette.yaml of the erase sources and change its captions.",
        )
    return known
