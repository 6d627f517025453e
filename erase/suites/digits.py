"""Ten handwritten digits from captions that no training has seen, judged by a digit classifier.

The default protocol: 50 images a digit, 25 steps, guidance 3, the model's own scheduler. The
captions are the `evaluate` templates of `digits.yaml`, taken in turn, so that each is used five
times a digit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from erase.data.prompt_table import built_in, class_samples
from erase.data.prompts import ClassList, read_class_list
from erase.errors import InputError
from erase.scoring.samples import Protocol, Sample
from erase.scoring.suite import Suite, by_name


class Digits(Suite):
    """The ten digits."""

    name = "digits"
    version = 1

    def protocols(self) -> dict[str, Protocol]:
        """The named settings of this suite."""
        default = self.protocol(
            ("ua", "ra", "neighbours", "h", "fid"),
            steps=25,
            guidance=3.0,
            images=50,
            settings={"fid": {"features": "classifier"}},
            classifier="digits-classifier",
            source="erase",
        )
        return by_name(default)

    def classes(self, prompts: Path) -> tuple[str, ...]:
        """Names of the ten digits, from zero to nine."""
        return _digits(prompts).names

    def aliases(self, prompts: Path) -> Mapping[str, str]:
        """The numerals 0 to 9, as data sets and classifiers of digits call their classes."""
        return {str(label): name for label, name in enumerate(_digits(prompts).names)}

    def neighbours(self, prompts: Path) -> Mapping[str, Sequence[str]]:
        """The three digits that look most like each digit."""
        return _digits(prompts).neighbours

    def samples(self, protocol: Protocol, prompts: Path) -> list[Sample]:
        """`10 * protocol.images` samples, digit by digit.

        Raises InputError when `digits.yaml` under `prompts` is missing or incomplete.
        """
        digits = _digits(prompts)
        return class_samples(
            protocol, digits.names, lambda label: digits.captions("evaluate", label)
        )


def _digits(prompts: Path) -> ClassList:
    file = built_in(prompts) / "digits.yaml"
    digits = read_class_list(file)
    if len(set(digits.names)) != 10 or not digits.templates.get("evaluate"):
        raise InputError(
            f"{file} must list ten classes, from zero to nine, and templates to evaluate with.",
            "Copy prompts/digits.yaml of the erase sources and change its captions.",
        )
    return digits
