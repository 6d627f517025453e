"""Ten ImageNet classes, "an image of a {class}", judged by an ImageNet classifier.

The setting of table 4 of LUR and of SalUn. UA counts the images of the forgotten class that the
classifier, free to choose among all of its classes, does not call by its name. A table of prompts
with a column `class` (`--prompt-table FILE`) replaces the captions and brings its own seeds.

`--protocol wide`, or the metrics by name, adds what else was lost and what is left: `neighbours`,
the five ImageNet classes nearest to the forgotten one in WordNet, and `paraphrases`, captions that
do not name it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from erase.core.rng import derive_seed
from erase.data.prompt_table import built_in, class_samples, read_table, table_samples
from erase.data.prompts import ClassList, read_class_list
from erase.errors import InputError
from erase.scoring.samples import Protocol, Sample, Unusable
from erase.scoring.suite import Suite, by_name


class Imagenette(Suite):
    """Imagenette's ten classes."""

    name = "imagenette"
    version = 1
    settings: ClassVar = {"neighbours": 20, "paraphrases": 24}
    """Images of each neighbour, and of each forgotten class by each kind of other words."""

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
        wide = ("ua", "ra", "neighbours", "paraphrases", "h", "fid")
        return by_name(
            default,
            default.replace(name="wide", metrics=wide),
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

    def neighbours(self, prompts: Path) -> Mapping[str, Sequence[str]]:
        """The five ImageNet classes nearest to each of the ten in WordNet."""
        return _classes(prompts).neighbours

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

    def more(self, protocol: Protocol, prompts: Path, targets: frozenset[str]) -> list[Sample]:
        """Images of neighbours from outside the ten, and of forgotten classes by other words.

        Each where the protocol has the metric that counts them.
        """
        known = _classes(prompts)
        chosen = [name for name in known.names if name in targets]
        near = dict.fromkeys(n for target in chosen for n in known.neighbours.get(target, ()))
        samples: list[Sample] = []
        if "neighbours" in protocol.metrics:
            template = known.templates["evaluate"][0]
            for name in (name for name in near if name not in known.names):
                caption = template.format(name=name)
                samples += _images(protocol, name, "neighbours", [caption], beside=True)
        if "paraphrases" in protocol.metrics:
            for target in chosen:
                for wording, captions in known.paraphrases.get(target, {}).items():
                    samples += _images(protocol, target, "paraphrases", captions, wording=wording)
        return samples

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


def _images(
    protocol: Protocol, target: str, setting: str, captions: Sequence[str], **fields: Any
) -> list[Sample]:
    """Images of captions in turn, as many as the setting says."""
    part = str(fields.get("wording", setting))
    slug = f"{re.sub(r'[^A-Za-z0-9]+', '-', target).strip('-')}-{part}"
    return [
        Sample(
            id=f"{slug}-{number:03d}",
            prompt=captions[number % len(captions)],
            seed=derive_seed("evaluate", Imagenette.name, protocol.seed, target, part, number),
            target=target,
            guidance=protocol.guidance,
            **fields,
        )
        for number in range(Imagenette.settings_of(protocol)[setting])
    ]


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
