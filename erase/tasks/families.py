"""Which family a pipeline belongs to: every file of this folder with a `FAMILY` is one."""

from importlib import import_module
from pathlib import Path

from erase.errors import InputError
from erase.models.loading import ModelSource
from erase.tasks.family import Family

_STEMS = sorted({file.stem for file in Path(__file__).parent.glob("[!_]*.py")} - {"families"})
_MODULES = [import_module(f"erase.tasks.{stem}") for stem in _STEMS]
FAMILIES: dict[str, Family] = {
    module.FAMILY.pipeline: module.FAMILY for module in _MODULES if hasattr(module, "FAMILY")
}
"""By the name of the pipeline's class."""


def family_of(source: ModelSource) -> Family:
    """The family of a model; InputError for one that cannot be unlearned."""
    kind = source.pipeline_class()
    if kind not in FAMILIES:
        known = ", ".join(f"{name} ({family.title})" for name, family in FAMILIES.items())
        raise InputError(
            f"{source.name} is a {kind}, which cannot be unlearned.", f"Known: {known}."
        )
    return FAMILIES[kind]
