"""Every method's settings on every task have a source, or say that they have none."""

from pathlib import Path
from typing import Any

import pytest

from erase.config.concept import ClassConfig
from erase.config.families import CLASSIFIER, TEXT_TO_IMAGE, methods_for
from erase.config.layers import fill_run
from erase.config.methods import find_method, recipe_for
from erase.config.provenance import family_of, page, rows
from erase.config.recipes import TASKS
from erase.data.concepts import Concept
from erase.training.plan import layers_of

SHORTER = {"class-conditional-small", "cifar10:50", "cifar100:50"}
"""Tasks whose settings a method may take from the task they are a form of."""


@pytest.mark.parametrize("task", TASKS)
def test_every_method_of_a_task_has_a_recipe_with_settings_that_it_knows(task: str) -> None:
    family = family_of(task)
    for name in methods_for(family):
        spec = find_method(name, family)
        found = recipe_for(spec, task)
        if task in SHORTER and found is None:
            continue
        assert found is not None, (name, task)
        assert len(found.source) > 5
        if family == CLASSIFIER:
            known = {"epochs", "learning_rate", "lr_scheduler", "train_batch_size"}
        else:
            # A value that is not open in the configuration would never be filled in.
            known = {
                "epochs",
                *(key for key, value in vars(ClassConfig()).items() if value is None),
            }
        assert set(found.values) <= {*known, *spec.names}, (name, task)
        own = {key: value for key, value in found.values.items() if key in spec.names}
        spec.build(own)
    assert {row[0] for row in rows(task)} == set(methods_for(family))


def test_lurs_own_rates_are_said_to_be_ours() -> None:
    for task in TASKS:
        recipe = recipe_for(find_method("lur", family_of(task)), task)
        assert recipe is None or not recipe.published, task


# `erase class` on Imagenette's golf balls: 951 images (PARITY of the public scripts).
GOLF: dict[str, dict[str, Any]] = {
    "lur": {"max_train_steps": 595, "train_batch_size": 8, "learning_rate": 1e-5},
    "salun": {"max_train_steps": 595, "train_batch_size": 8, "retain_weight": 0.5},
    "shs": {
        "max_train_steps": 357,
        "sparsity": 0.999,
        "learning_rate": 2e-5,
        "forget": "ascent",
        "train_batch_size": 8,
    },
    "erasediff": {  # 119 outer steps of 16, after 119 inner ones
        "max_train_steps": 238,
        "train_batch_size": 16,
        "forget_weight": 1.0,
        "trainable": "full",
    },
    "esd": {"max_train_steps": 200, "learning_rate": 5e-5, "samples": "denoised"},
}


@pytest.mark.parametrize("name", GOLF)
def test_a_class_of_stable_diffusion_is_forgotten_as_the_source_forgets_classes(name: str) -> None:
    concept = Concept(
        ("golf ball",), (None,), ("a",), (("b",),), ("c",), recipe={"num_forget_images": 951}
    )
    spec = find_method(name, TEXT_TO_IMAGE)
    config = ClassConfig(method=name, target=("golf ball",))
    filled = fill_run(config, spec, layers_of(config, spec, concept, TEXT_TO_IMAGE, 512))
    values: dict[str, Any] = {**vars(filled), **filled.settings}
    assert {key: values[key] for key in GOLF[name]} == GOLF[name]
    half = config.replace(gradient_accumulation_steps=2)
    halved = fill_run(half, spec, layers_of(half, spec, concept, TEXT_TO_IMAGE, 512))
    if name != "esd":
        assert halved.max_train_steps == -(-(filled.max_train_steps or 0) // 2)


def test_the_page_of_settings_is_made_of_them() -> None:
    assert Path("docs/methods.md").read_text(encoding="utf-8") == page()
