"""Damage to classifiers and comparisons, and an original that is trained anew under its path."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from erase.cli.main import main
from erase.errors import InputError
from erase.files import read_json, write_json
from erase.models.classifiers import load_classifier
from erase.training.loop import UnlearningLoop
from tests.faults.damage import DAMAGES, flip, refused

TRAIN = ("train", "classifier", "--epochs", "1", "--limit", "60")
FORGET = ("classifier", "--forget", "random:10%", "--method", "ft", "--epochs", "2")
STEPS = ("--train-batch-size", "20", "--checkpointing-steps", "1")
RESUME = ("--resume-from-checkpoint", "latest")


def erase(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(item) for item in arguments])


def ok(*arguments: str | Path) -> str:
    result = erase(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "original"
    ok(*TRAIN, "--output", folder)
    return folder


@pytest.mark.fault("damaged classifier")
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_damaged_classifier_is_noticed_by_every_use(
    original: Path, tmp_path: Path, name: str, kind: str
) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "c"))
    DAMAGES[kind](folder / name, folder / "record.json")
    with pytest.raises(InputError, match=name):
        load_classifier(folder)
    result = erase("verify", folder)
    assert result.exit_code == 1
    assert f"{'missing' if kind == 'deleted' else 'changed'}  {folder / name}" in result.output
    refused(erase(*TRAIN, *RESUME, "--output", folder), name)
    refused(erase(*FORGET, "--model", folder, "--output", tmp_path / "out"), name)
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("another run's file")
def test_an_original_trained_anew_is_not_resumed_on(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = Path(shutil.copytree(original, tmp_path / "c")), tmp_path / "out"
    command = (*FORGET, *STEPS, "--model", folder, "--output", out)
    write = UnlearningLoop._write

    def stop(self: UnlearningLoop, done: int, row: dict[str, Any]) -> None:
        write(self, done, row)
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnlearningLoop, "_write", stop)
        assert erase(*command).exit_code != 0
    before = read_json(out / "checkpoint-2" / "state.json")["seconds"]
    shutil.copytree(out, tmp_path / "stopped")
    ok(*TRAIN, "--seed", "1", "--overwrite", "--output", folder)
    refused(erase(*command, *RESUME), "was started with original = ")
    shutil.rmtree(folder)
    shutil.copytree(original, folder)
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    said = ok(*command, *RESUME)
    assert "goes on with threads = 7" in said
    record = read_json(out / "record.json")
    assert record["changed_on_resume"][0]["threads"][1] == 7
    assert record["rte_s"] > before > 0
    monkeypatch.undo()
    ok(*FORGET, *STEPS, "--model", folder, "--output", tmp_path / "whole")
    weights = [(path / "model.safetensors").read_bytes() for path in (out, tmp_path / "whole")]
    assert weights[0] == weights[1]


@pytest.mark.fault("damaged comparison")
def test_a_damaged_comparison(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "compared"
    command = (
        *("compare", "classifier", "--model", original, "--forget", "class:3", "--epochs", "1"),
        *("--retrain-epochs", "1", "--methods", "ft", "--output", out),
    )
    ok(*command)
    assert "whole" in ok("verify", out)
    trial = out / "class_3" / "trial-0" / "ft.json"
    content = read_json(trial)
    content["scores"]["ua"] += 1
    write_json(trial, content)
    result = erase("verify", out)
    assert result.output.startswith(f"changed  {trial}\n")
    refused(erase(*command), "ft.json was changed")
    trial.unlink()
    ok(*command)
    flip(out / "class_3" / "table.csv", out)
    assert erase("verify", out).exit_code == 1
