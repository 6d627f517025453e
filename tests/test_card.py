"""The model card: what it names, and what evaluations write into it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from erase.artifacts.models import HUB
from erase.config.concept import ConceptConfig
from erase.data.concepts import find_concept
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.files import write_json
from erase.models.base_card import licence_header
from erase.models.loading import ModelSource, resolve
from erase.report.card import model_card, update_card


def card(folder: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "model": "mini-sd",
        "concept": ("three",),
        "max_train_steps": 10,
        "train_batch_size": 4,
        "forget_guidance": 1.0,
        "retain_guidance": 1.0,
        "num_forget_images": 5,
        "num_retain_images": 6,
        "trainable": "full",
    }
    config = ConceptConfig(**(settings | changes))
    concept = find_concept(config.concept, prompts_root(None))
    folder.mkdir(exist_ok=True)
    model_card(folder, config, resolve("mini-sd"), concept, "f" * 64)
    return folder / "README.md"


def metrics(suite: str = "digits", ua: float = 99.5) -> dict[str, Any]:
    return {
        "suite": suite,
        "model": "runs/three",
        "protocol": {"name": "default", "steps": 25, "guidance": 1.0, "metrics": ["ua"]},
        "metrics": {
            "ua": {"value": ua, "n": 50, "ci95": [92.9, 100.0], "higher_is_better": True},
            "fid": {"value": 12.34567, "n": 450, "ci95": None, "higher_is_better": False},
        },
        "baseline": {"ua": {"value": 2.0, "n": 50, "ci95": [0.3, 10.5], "higher_is_better": True}},
    }


def measured(text: str) -> str:
    return text.partition("<!-- measured: begin -->")[2].partition("<!-- measured: end -->")[0]


def test_the_card_names_base_change_and_licence(tmp_path: Path) -> None:
    text = card(tmp_path).read_text()
    assert "`mini-sd` after unlearning **three** with the method `lur`" in text
    assert "f" * 64 in text
    assert "5 images rendered by the base model, guidance 1.0" in text
    assert "licence of the base model" in text
    assert "Not measured yet: `erase evaluate" in measured(text)
    assert "lora" not in text.lower()
    assert not re.search(r"\{\w+\}", text)
    adapted = card(tmp_path, lora_rank=8, trainable="xattn").read_text()
    assert "adapters of rank 8 on xattn" in adapted
    assert "load_lora_weights" in adapted


def test_an_evaluation_is_written_into_the_card(tmp_path: Path) -> None:
    path = card(tmp_path / "run")
    before = path.read_text()
    update_card(tmp_path / "run", metrics(), tmp_path / "run" / "evaluation-digits")
    text = path.read_text()
    part = measured(text)
    assert "| ua ↑ | 99.5 [92.9, 100.0] | 2.0 [0.3, 10.5] | 50 |" in part
    assert "| fid ↓ | 12.35 | – | 450 |" in part
    assert "details in `evaluation-digits`" in part
    assert "steps 25, guidance 1.0" in part
    assert "Not measured yet" not in part
    outside = [t.replace(measured(t), "") for t in (before, text)]
    assert outside[0] == outside[1]


def test_the_same_suite_replaces_and_another_stands_beside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = card(run)
    update_card(run, metrics(ua=10.0), tmp_path / "first")
    update_card(run, metrics("i2p", ua=20.0), tmp_path / "second")
    update_card(run, metrics(ua=30.0), tmp_path / "third")
    part = measured(path.read_text())
    assert "| ua ↑ | 10.0 " not in part
    assert "first" not in part
    assert "| ua ↑ | 20.0 " in part
    assert "| ua ↑ | 30.0 " in part
    assert part.count("| metric |") == 2
    once = path.read_text()
    update_card(run, metrics(ua=30.0), tmp_path / "third")
    assert path.read_text() == once


def test_names_cannot_break_out_of_the_table(tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = card(run)
    odd = metrics()
    odd["suite"] = "x --> <b> | `y`"
    odd["metrics"] = {"a | b\n# c": {"value": 1.0, "n": 1, "ci95": [0.0, 1.0]}}
    update_card(run, odd, tmp_path / "e")
    text = path.read_text()
    assert "| a / b # c ↓ |" in text
    assert text.count("<!-- measured: end -->") == 1
    update_card(run, odd, tmp_path / "e")
    assert path.read_text() == text


def test_what_cannot_be_updated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model card"):
        update_card(tmp_path, metrics(), tmp_path)
    path = card(tmp_path)
    with pytest.raises(InputError, match="found nothing"):
        update_card(tmp_path, metrics() | {"metrics": {}}, tmp_path)
    path.write_text("# mine\n")
    with pytest.raises(InputError, match="no section"):
        update_card(tmp_path, metrics(), tmp_path)
    assert path.read_text() == "# mine\n"


def test_a_file_of_metrics_is_what_it_takes(tmp_path: Path) -> None:
    """The mapping is `metrics.json` as it is read back."""
    run = tmp_path / "run"
    card(run)
    write_json(run / "metrics.json", metrics())
    update_card(run, json.loads((run / "metrics.json").read_text()), run)
    assert "details in `.`" in (run / "README.md").read_text()


def front_matter(text: str) -> Any:
    """As the hub's library reads it; `validate` itself would ask the hub."""
    card = ModelCard(text, ignore_metadata_errors=False)
    data: Any = card.data
    again: Any = ModelCardData(**data.to_dict(), ignore_metadata_errors=False)
    assert again.to_dict() == data.to_dict()
    return data


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("mini-sd", {"license": "apache-2.0", "base_model": None}),
        (
            "CompVis/stable-diffusion-v1-4",
            {"license": "creativeml-openrail-m", "base_model": "CompVis/stable-diffusion-v1-4"},
        ),
        ("sdxl", {"license": "openrail++", "base_model": HUB["sdxl"]}),
        ("someone/unknown", {"license": None, "base_model": "someone/unknown"}),
        (
            "license: other\nlicense_name: my-own\nlicense_link: LICENSE",
            {"license": "other", "license_name": "my-own", "license_link": "LICENSE"},
        ),
        (
            "license: Very Own Terms 1.0\nbase_model: a/b",
            {"license": "other", "license_name": "very-own-terms-1.0", "base_model": "a/b"},
        ),
        ("license: [1, 2\nbase_model: {}", {"license": None, "base_model": None}),
        ("license: [1, 2]\nbase_model: 3", {"license": None, "base_model": None}),
    ],
)
def test_the_hub_reads_base_licence_and_task(
    tmp_path: Path, base: str, wanted: dict[str, str | None]
) -> None:
    """`base` is a name, or the front matter of the card in the base's own folder.

    A weights file's header says the same of the licence, and nothing where it is not known.
    """
    source = resolve("mini-sd")
    if ":" in base:
        folder = tmp_path / "the base"
        folder.mkdir()
        (folder / "README.md").write_text(f"---\n{base}\n---\n")
        write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
        source = ModelSource(str(folder), folder, is_folder=True)
    elif base != "mini-sd":
        write_json(tmp_path / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
        source = ModelSource(base, tmp_path)
    licence = wanted["license"] if wanted["license"] != "other" else wanted["license_name"]
    header = {"modelspec.license": licence, "erase.license_link": wanted.get("license_link")}
    header = {key: value for key, value in header.items() if value}
    assert licence_header(source.path, source.full_name) == header
    config = ConceptConfig(concept=("three",), trainable="full")
    (tmp_path / "run").mkdir()
    concept = find_concept(("three",), prompts_root(None))
    model_card(tmp_path / "run", config, source, concept, "f" * 64)
    text = (tmp_path / "run" / "README.md").read_text()
    data = front_matter(text)
    assert (data.pipeline_tag, data.library_name) == ("text-to-image", "diffusers")
    for name, value in wanted.items():
        assert getattr(data, name, None) == value, name
    assert str(tmp_path) not in text  # no path of this machine


def test_a_class_conditional_model_claims_no_task_of_the_hub(tmp_path: Path) -> None:
    write_json(tmp_path / "model_index.json", {"_class_name": "ClassConditionalPipeline"})
    concept = find_concept(("three",), prompts_root(None))
    config = ConceptConfig(concept=("three",), trainable="full")
    model_card(tmp_path, config, ModelSource("cifar10-ddpm", tmp_path), concept, "f" * 64)
    data = front_matter((tmp_path / "README.md").read_text())
    assert (data.pipeline_tag, data.library_name) == (None, None)
    assert data.tags == ["class-conditional", "machine-unlearning"]
