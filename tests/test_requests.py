"""One request after another: a run that goes on from another run's model, and what it keeps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erase.artifacts.packaged import EMBEDDED
from erase.attack.plan import make_plan as make_attack
from erase.cli.main import main
from erase.config.attack import AttackConfig
from erase.config.concept import ConceptConfig
from erase.config.evaluate import EvaluateConfig
from erase.data.concepts import find_classes, find_concept
from erase.data.prompts import prompts_root, read_class_list
from erase.data.rendered import rendered_suite
from erase.errors import InputError
from erase.evaluation.plan import find_baseline
from erase.evaluation.run import prepare
from erase.models.loading import resolve
from erase.models.modelspec import modelspec
from erase.runs.record import RECORD
from erase.runs.requests import Forgotten, forgotten, original, requests
from erase.training.plan import plan as make_run

ROOT = prompts_root()
SMALL = [
    *("--num-forget-images", "4", "--num-retain-images", "8", "--render-steps", "1"),
    *("--train-batch-size", "4", "--max-train-steps", "2", "--checkpointing-steps", "1"),
]


def invoke(model: Path | str, concept: str, output: Path, *more: str) -> Any:
    command = ["concept", "--model", str(model), "--concept", concept, "--output", str(output)]
    return CliRunner().invoke(main, [*command, "--device", "cpu", *more])


def erase(model: Path | str, concept: str, output: Path, *more: str) -> str:
    result = invoke(model, concept, output, *more)
    assert result.exit_code == 0, result.output
    return result.output


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return record


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first` forgot three and four, `second` also seven, and `third` also nine."""
    root = tmp_path_factory.mktemp("chain")
    erase("mini-sd", "three", root / "first", "--concept", "four", "--method", "uce")
    erase(root / "first", "seven", root / "second", *SMALL)
    erase(root / "second", "nine", root / "third", "--method", "uce")
    return root


def test_a_record_keeps_every_request_in_order(chain: Path) -> None:
    first, third = record_of(chain / "first"), record_of(chain / "third")
    assert "forgotten_before" not in first
    assert third["target"] == {"suite": "digits", "concepts": ["nine"]}
    assert [(r["method"], r["concepts"]) for r in requests(third)] == [
        ("uce", ["three", "four"]),
        ("lur", ["seven"]),
        ("uce", ["nine"]),
    ]
    assert [item.name for item in forgotten(third)] == ["three", "four", "seven", "nine"]
    assert third["base_model"] == str((chain / "second").resolve())
    base = resolve("mini-sd").fingerprint()
    expected = {"model": "mini-sd", "revision": None, "fingerprint": base}
    assert original(first) == third["original"] == expected


def test_nothing_forgotten_before_is_retained(chain: Path) -> None:
    captions = (chain / "second" / "data" / "retain" / "metadata.jsonl").read_text()
    words = set(captions.replace('"', " ").split())
    assert not words & {"three", "four", "seven", "3", "4", "7"}
    assert words & {"zero", "one", "two", "five"}
    again = find_concept("two", ROOT, before=[Forgotten("three"), Forgotten("four")])
    assert all("five" in text or "5" in text for texts in again.anchors for text in texts)


def test_an_evaluation_asks_for_all_of_it_and_compares_with_the_original(
    chain: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(chain / "third", moved)  # the other folders are not needed
    config = EvaluateConfig(model=str(moved), output=str(tmp_path / "out"), images_per_class=1)
    plan, note = prepare(config)
    assert plan.targets == {"three", "four", "seven", "nine"}
    assert note == {"model": "mini-sd"}
    one, _ = prepare(config.replace(target=("nine",), baseline=str(chain / "second")))
    assert one.targets == {"nine"}
    assert one.baseline is not None
    assert one.baseline.path == chain / "second"


def test_an_evaluation_tells_the_requests_apart(chain: Path, tmp_path: Path) -> None:
    command = ["evaluate", "--model", str(chain / "second"), "--output", str(tmp_path / "out")]
    command += ["--images-per-class", "1", "--render-steps", "1", "--metrics", "ua,ra"]
    result = CliRunner().invoke(main, [*command, "--cache-dir", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    first, second = metrics["requests"]
    assert (first["concepts"], first["n"], first["method"]) == (["three", "four"], 2, "uce")
    assert (second["request"], second["concepts"], second["n"]) == (2, ["seven"], 1)
    shown = metrics["metrics"]["ua"]["detail"]["per_class"]["seven"]["recognised"]
    assert second["shown"] == shown
    assert f"request 2 (seven; lur): still shown in {shown} of 1 images" in result.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "forgotten, request 1" in page
    assert "(forgotten by request 2)" in page
    card = (chain / "second" / "README.md").read_text()
    assert "| forgotten before | three, four (uce) |" in card
    assert "| the original, before all of it | `mini-sd` |" in card


def test_a_whole_file_names_all_requests_and_an_adapter_its_own(chain: Path) -> None:
    record = record_of(chain / "second")
    settings: Any = {"resolution": 32, "prediction": "epsilon", "licence": {}}
    whole = modelspec("sd1", record, **settings)
    assert whole["erase.erased"] == "three, four, seven"
    assert whole["erase.base"] == "mini-sd"
    assert whole["modelspec.title"] == "mini-sd without three, four, seven"
    adapter = modelspec("sd1", record, kind="lora", **settings)
    assert (adapter["erase.erased"], adapter["erase.base"]) == ("seven", "first")


def test_an_attack_asks_for_all_of_it(chain: Path, tmp_path: Path) -> None:
    config = AttackConfig(
        model=str(chain / "second"), output=str(tmp_path), attack=("noise-probe",), device="cpu"
    )
    plan = make_attack(config)
    assert set(plan.concepts) == {"three", "four", "seven"}
    assert plan.note["model"] == "mini-sd"


def test_an_interrupted_link_is_resumed(chain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    shutil.copytree(chain / "second", folder)
    shutil.rmtree(folder / "checkpoint-2")
    record = record_of(folder)
    (folder / RECORD).write_text(json.dumps({**record, "status": "interrupted"}))
    erase(chain / "first", "seven", folder, *SMALL, "--resume-from-checkpoint", "latest")
    assert requests(record_of(folder)) == requests(record_of(chain / "second"))
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (folder / weights).read_bytes() == (chain / "second" / weights).read_bytes()


@pytest.mark.parametrize("state", ["damaged", "missing", "wrong"])
def test_a_parent_without_a_whole_record(chain: Path, tmp_path: Path, state: str) -> None:
    parent = tmp_path / "first"
    shutil.copytree(chain / "first", parent)
    if state == "missing":
        (parent / RECORD).unlink()
        config = ConceptConfig(model=str(parent), concept=("seven",), method="uce")
        assert any("forgotten before is not known" in note for note in make_run(config).notes)
        return
    broken = {"target": {"concepts": "three"}} if state == "wrong" else {}
    (parent / RECORD).write_text(json.dumps(broken) if broken else "{")
    result = invoke(parent, "seven", tmp_path / "out", "--method", "uce")
    assert result.exit_code == 2, result.output
    assert RECORD in result.output
    assert not (tmp_path / "out").exists()


def test_an_original_that_is_gone_is_said(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED["mini-sd"], tmp_path / "run")
    source = {"model": str(tmp_path / "gone"), "revision": None, "fingerprint": "0"}
    record = {"base_model": "mini-sd", "original": source}
    (tmp_path / "run" / RECORD).write_text(json.dumps(record))
    config = EvaluateConfig(model=str(tmp_path / "run"))
    baseline, note = find_baseline(config, resolve(str(tmp_path / "run")))
    assert baseline is None
    assert note["warning"]
    assert "gone" in note["reason"]


def test_a_run_of_a_run_renders_what_the_original_does(chain: Path, tmp_path: Path) -> None:
    assert rendered_suite(str(chain / "third")) == "digits"
    result = invoke(chain / "third", "cat", tmp_path / "out", "--dry-run")
    assert result.exit_code == 2, result.output
    assert "renders digits only" in result.output


def test_own_retain_prompts_that_name_it_are_said(chain: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "retain.txt"
    prompts.write_text("a handwritten three\na handwritten one\n")
    config = ConceptConfig(
        model=str(chain / "first"), concept=("seven",), method="uce", retain_prompts=str(prompts)
    )
    said = "names 'three', which the model was made to forget before"
    assert any(said in note for note in make_run(config).notes)


def test_classes_forgotten_before_are_left_out() -> None:
    digits = read_class_list(ROOT / "digits.yaml")
    concept = find_classes(digits, ["three"], None, [Forgotten("four"), Forgotten("cat")])
    assert not any("four" in text for text in concept.retain)
    assert all("five" in text or "5" in text for texts in concept.anchors for text in texts)
    with pytest.raises(InputError, match="or were before"):
        find_classes(digits, ["three"], None, [Forgotten(name) for name in digits.names])
