"""Damage to what a run left: every use of a damaged file says so in one line that names it."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save

from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.errors import InputError
from erase.evaluation.run import evaluate
from erase.files import read_json, write_json
from erase.models.loading import resolve
from erase.runs.manifest import MANIFEST, entries, note_files
from erase.runs.run_folder import RunFolder
from erase.runs.verify import check_file
from erase.training.concept import KIND
from erase.training.loop import UnlearningLoop
from erase.training.plan import plan
from tests.evaluation_world import config as evaluation_config
from tests.evaluation_world import make_models
from tests.faults.damage import DAMAGES, SMALL, concept, flip, refused

UNET = "unet/diffusion_pytorch_model.safetensors"
RESUME = ("--resume-from-checkpoint", "latest")
WHOLE = ("--resume-from-checkpoint", "latest-whole")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    result = concept(folder)
    assert result.exit_code == 0, result.output
    return folder


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, which ended early after step 2; its checkpoints are those of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    write = UnlearningLoop._write

    def stop(self: UnlearningLoop, done: int, row: dict[str, Any]) -> None:
        if done == 3:
            raise StopError
        write(self, done, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnlearningLoop, "_write", stop)
        assert isinstance(concept(folder).exception, SystemExit)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == [
        "checkpoint-1",
        "checkpoint-2",
    ]
    return folder


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture(scope="module")
def planned() -> Any:
    return plan(ConceptConfig(**SMALL), device="cpu")


def resumed(folder: Path, planned: Any, which: str = "latest") -> Path | None:
    """The checkpoint that a resumed run would go on from, by the call with which it begins."""
    facts = {**planned.facts, "processes": 1}
    return RunFolder(folder, KIND, planned.config, resume=which, facts=facts).state().checkpoint


def weights(folder: Path) -> bytes:
    return (folder / UNET).read_bytes()


@pytest.mark.fault("damaged checkpoint")
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", MANIFEST])
def test_a_damaged_checkpoint_is_not_resumed_from(
    copy: Path, planned: Any, name: str, kind: str
) -> None:
    DAMAGES[kind](copy / "checkpoint-2" / name, copy / "checkpoint-1" / name)
    with pytest.raises(InputError, match="checkpoint-2") as caught:
        resumed(copy, planned)
    assert "latest-whole" in caught.value.remedy
    assert resumed(copy, planned, "latest-whole") == copy / "checkpoint-1"
    result = CliRunner().invoke(main, ["verify", str(copy)])
    assert result.exit_code == 1, result.output
    assert "checkpoint-2" in result.output


@pytest.mark.fault("damaged checkpoint")
@pytest.mark.parametrize("step", [99, -1, 3, 0, "2", None])
def test_a_checkpoint_that_says_another_step(copy: Path, planned: Any, step: Any) -> None:
    """Also where its hashes were made to fit."""
    folder = copy / "checkpoint-2"
    write_json(folder / "state.json", {**read_json(folder / "state.json"), "step": step})
    note_files(folder, "state.json")
    with pytest.raises(InputError, match="checkpoint-2"):
        resumed(copy, planned)


@pytest.mark.fault("damaged checkpoint")
def test_no_whole_checkpoint(copy: Path, planned: Any) -> None:
    for number in (1, 2):
        flip(copy / f"checkpoint-{number}" / "state.safetensors", copy)
    with pytest.raises(InputError, match="No checkpoint"):
        resumed(copy, planned, "latest-whole")


@pytest.mark.slow
@pytest.mark.fault("another run's file")
def test_a_checkpoint_of_another_run(
    copy: Path, planned: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "run"
    assert concept(other, seed=1).exit_code == 0
    with pytest.raises(InputError, match="belongs to another run"):
        resumed(copy, planned, str(other / "checkpoint-2"))
    shutil.rmtree(copy / "checkpoint-2")
    shutil.copytree(other / "checkpoint-2", copy / "checkpoint-2")
    with pytest.raises(InputError, match="belongs to another run"):
        resumed(copy, planned)


@pytest.mark.fault("damaged record")
@pytest.mark.parametrize("asked", ["latest", "latest-whole", "checkpoint-1", None])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("record.json", text) for text in (None, "", "{", "{}", "[]", "null")),
        ("record.json", '{"kind": "train classifier"}'),
        *(("config.yaml", text) for text in (None, "", "[]", "seed: 1\n")),
    ],
)
def test_without_a_record_or_configuration_nothing_is_cleared(
    copy: Path, planned: Any, name: str, content: str | None, asked: str | None
) -> None:
    """Nor replaced: --overwrite does not touch what may be no run at all."""
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    before = sorted(copy.rglob("*"))
    facts = {**planned.facts, "processes": 1}
    overwrite = asked is None and name == "record.json"
    folder = RunFolder(copy, KIND, planned.config, overwrite=overwrite, resume=asked, facts=facts)
    with pytest.raises(InputError):
        folder.state()
    with pytest.raises(InputError), folder.hold():
        pytest.fail("it was taken")
    assert sorted(copy.rglob("*")) == before


@pytest.mark.fault("damaged checkpoint")
def test_an_earlier_checkpoint_gives_the_same_weights(copy: Path, finished: Path) -> None:
    flip(copy / "checkpoint-2" / "state.safetensors", copy)
    refused(concept(copy, *RESUME), "state.safetensors was changed after it was written")
    result = concept(copy, *WHOLE)
    assert result.exit_code == 0, result.output
    assert "checkpoint-2 is passed over" in result.output
    assert weights(copy) == weights(finished)
    state, record = (read_json(copy / name) for name in ("checkpoint-3/state.json", "record.json"))
    assert state["seconds"] <= record["train_seconds"] < record["wall_time_s"]


@pytest.mark.fault("damaged training data")
def test_an_exchanged_image_is_rendered_again_when_the_latents_are_gone(
    copy: Path, finished: Path
) -> None:
    (copy / "latents.safetensors").unlink()
    images = copy / "data" / "retain" / "images"
    shutil.copyfile(images / "00000.png", images / "00001.png")
    result = concept(copy, *RESUME)
    assert result.exit_code == 0, result.output
    assert "00001.png changed after rendering: rendered again" in result.output
    assert weights(copy) == weights(finished)
    assert CliRunner().invoke(main, ["verify", str(copy)]).exit_code == 0


@pytest.mark.fault("damaged training data")
@pytest.mark.parametrize("kind", ["flipped bit", "cut"])
def test_damaged_latents(copy: Path, kind: str) -> None:
    DAMAGES[kind](copy / "latents.safetensors", copy)
    refused(concept(copy, *RESUME), "latents.safetensors was changed")


RESULTS = (UNET, "text_encoder/model.safetensors", "model_index.json")


@pytest.mark.fault("damaged result")
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", RESULTS)
def test_a_damaged_result_is_noticed_by_every_use(
    finished: Path, tmp_path: Path, name: str, kind: str, planned: Any
) -> None:
    """By resuming, by whatever loads the model, by exporting and by verifying."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    others = {UNET: "vae/diffusion_pytorch_model.safetensors", "model_index.json": "record.json"}
    DAMAGES[kind](folder / name, folder / others.get(name, "text_encoder/config.json"))
    file = Path(name).name
    with pytest.raises(InputError, match=file):
        resumed(folder, planned)
    with pytest.raises(InputError, match=f"{file}|model_index"):
        resolve(str(folder)).fingerprint()
    exported = ("--format", "single-file", "--output", str(tmp_path / "x.safetensors"))
    result = CliRunner().invoke(main, ["export", str(folder), *exported])
    refused(result)
    assert file in result.output or "no finished diffusion run" in result.output
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code == 1
    state = "missing" if kind == "deleted" else "changed"
    assert result.output.startswith(f"{state}  {folder / name}\n"), result.output
    assert len(result.output.splitlines()) == 2


@pytest.mark.fault("damaged result")
def test_a_deleted_part_and_a_planted_file(finished: Path, tmp_path: Path, planned: Any) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    planted = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copyfile(folder / UNET, planted)
    with pytest.raises(InputError, match=planted.name):
        resolve(str(folder)).fingerprint()
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert (result.exit_code, result.output.splitlines()[0]) == (1, f"unknown  {planted}")
    shutil.rmtree(folder / "unet")
    refused(concept(folder, *RESUME), "unet/config.json is missing", "latest-whole")
    result = concept(folder, *WHOLE)
    assert result.exit_code == 0, result.output
    assert weights(folder) == weights(finished)


@pytest.mark.fault("damaged result")
@pytest.mark.parametrize("name", ["config.yaml", "record.json", "log.jsonl", "README.md"])
def test_every_file_of_a_run_is_verified(finished: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code == 0, result.output
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    (folder / "notes.txt").write_text("mine")
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.output.splitlines()[:2] == [
        f"changed  {folder / name}",
        f"unknown  {folder / 'notes.txt'}",
    ]
    shutil.rmtree(folder / "data")
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert f"missing  {folder / 'data/forget' / MANIFEST}" in result.output


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    models = make_models(tmp_path_factory.mktemp("models"))
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    evaluate(evaluation_config(models, folder))
    return models, folder


@pytest.mark.fault("damaged image")
def test_changed_images_are_rendered_again(
    evaluated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of the model and of the baseline in the cache, exchanged and with a flipped bit."""
    models, source = evaluated
    folder = Path(shutil.copytree(source, tmp_path / "out"))
    (cached,) = (path for path in (models / "cache").iterdir() if path.is_dir())
    sound = {
        name: file.read_bytes()
        for name, file in (
            ("images/1-0000.png", folder / "images" / "1-0000.png"),
            ("cache", cached / "images" / "2-0001.png"),
            ("metrics.json", folder / "metrics.json"),
        )
    }
    shutil.copyfile(folder / "images" / "0-0000.png", folder / "images" / "1-0000.png")
    flip(cached / "images" / "2-0001.png", cached)
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.output.splitlines()[0] == f"changed  {folder / 'images/1-0000.png'}"
    assert CliRunner().invoke(main, ["verify", str(cached)]).exit_code == 1
    evaluate(evaluation_config(models, folder))
    said = capsys.readouterr().err
    assert "images/1-0000.png changed after rendering: rendered again" in said
    assert "images/2-0001.png changed after rendering: rendered again" in said
    assert (folder / "images" / "1-0000.png").read_bytes() == sound["images/1-0000.png"]
    assert (cached / "images" / "2-0001.png").read_bytes() == sound["cache"]
    assert (folder / "metrics.json").read_bytes() == sound["metrics.json"]
    for whole in (folder, cached):
        assert CliRunner().invoke(main, ["verify", str(whole)]).exit_code == 0


def exported(path: Path) -> Path:
    """A file with the hash of its tensors in the header, as exports have it."""
    content = save({"a": torch.arange(64.0), "b": torch.ones(3, 4)})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    sha256 = hashlib.sha256(content[8 + length :]).hexdigest()
    header["__metadata__"] = {"modelspec.hash_sha256": f"0x{sha256}"}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return path


@pytest.mark.fault("damaged single file")
@pytest.mark.parametrize("kind", DAMAGES)
def test_an_exported_file_is_verified(tmp_path: Path, kind: str) -> None:
    file = exported(tmp_path / "x.safetensors")
    result = CliRunner().invoke(main, ["verify", str(file)])
    assert (result.exit_code, result.output) == (0, f"{file}: 1 file is whole.\n")
    check_file(file)
    other = tmp_path / "other"
    other.write_bytes(b"\0" * 200)
    DAMAGES[kind](file, other)
    result = CliRunner().invoke(main, ["verify", str(file)])
    assert result.exit_code in (1, 2)
    assert str(file) in result.output
    assert "not expected" not in result.output
    if kind in ("flipped bit", "cut"):
        assert result.output.splitlines()[0] == f"changed  {file}"
        with pytest.raises(InputError, match="was changed"):
            check_file(file)


@pytest.mark.fault("damaged result")
@pytest.mark.parametrize("name", ["metrics.json", "samples.jsonl", "report.html", "record.json"])
def test_every_file_of_an_evaluation_is_verified(
    evaluated: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(evaluated[1], tmp_path / "out"))
    assert CliRunner().invoke(main, ["verify", str(folder)]).exit_code == 0
    flip(folder / name, folder)
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code in (1, 2)
    assert name in result.output


@pytest.mark.slow
def test_renders_of_an_earlier_version_are_taken_as_they_are(
    evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    models, source = evaluated
    folder = Path(shutil.copytree(source, tmp_path / "out"))
    state = json.loads((folder / "render.json").read_text())
    del state["hashed"]
    write_json(folder / "render.json", state)
    (folder / MANIFEST).unlink()
    before = {file: file.stat().st_mtime_ns for file in (folder / "images").iterdir()}
    evaluate(evaluation_config(models, folder))
    assert {file: file.stat().st_mtime_ns for file in (folder / "images").iterdir()} == before
    assert len(entries(folder)) > 20
