"""Mistakes on the command line: each is answered at once, with the option and the likely name."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from erase.cli.main import main

RUN = ("--output", "OUT", "--model", "mini-sd", "--concept", "three")
CONCEPT = ("concept", *RUN)
COMPARE = ("compare", "diffusion", *RUN)
EVALUATE = ("evaluate", "--model", "mini-sd", "--output", "OUT")
PLAIN: list[tuple[tuple[str, ...], str]] = [
    # A command line, and what its first two lines have to say; no torch is needed to know it.
    (("concpet",), "Did you mean 'concept'?"),
    (("forget",), "Known: attack, class, classifier"),
    (("compare", "difusion"), "Did you mean 'diffusion'?"),
    (("train", "mini_sdd"), "Did you mean 'mini-sd'?"),
    ((*CONCEPT, "--max-train-step", "5"), "--max-train-steps"),
    ((*CONCEPT, "--method", "lurr"), "Did you mean 'lur'?"),
    ((*CONCEPT, "--method", "LUR_B"), "Did you mean 'lur-b'?"),
    ((*CONCEPT, "--method", "sal-un"), "Did you mean 'salun'?"),
    ((*CONCEPT, "--model", "sd1.4"), "Did you mean 'sd-1.4'?"),
    ((*CONCEPT, "--model", "SDXL"), "Did you mean 'sdxl'?"),
    ((*CONCEPT, "--model", "minisd"), "Did you mean 'mini-sd'?"),
    ((*CONCEPT, "--model", "."), "holds no model_index.json"),
    ((*CONCEPT, "--concept", "dog"), "There is no concept 'dog' in mini-sd"),
    ((*CONCEPT, "--concept", "thre"), "There is no concept 'thre'"),
    ((*CONCEPT, "--device", "gpu"), "The device 'gpu' is not there"),
    ((*CONCEPT, "--forget-prompts", "absent.txt"), "absent.txt"),
    ((*CONCEPT, "--config", "absent.yaml"), "absent.yaml"),
    ((*CONCEPT, "--mixed-precision", "fp16"), "--mixed-precision is 'fp16'"),
    ((*CONCEPT, "--output", "taken"), "taken is not empty"),
    (("concept", "--output", "OUT", "--concept", "three"), "--model is missing"),
    (("concept", "--output", "OUT", "--model", "mini-sd"), "--concept is missing"),
    (("class", "--output", "OUT"), "--target is missing"),
    (("class", "--output", "OUT", "--target", "dog", "--method", "ssd"), "not defined for"),
    (("classifier", "--output", "OUT", "--forget", "random:5"), "--model is missing"),
    (("classifier", "--output", "OUT", "--model", "absent", "--forget", "random:5"), "absent"),
    (("train", "classifier", "--output", "taken"), "taken is not empty"),
    (("train", "ddpm", "--output", "OUT", "--resolution", "2"), "--resolution is 2"),
    ((*EVALUATE, "--suite", "digit"), "Did you mean 'digits'?"),
    ((*EVALUATE, "--metrics", "fidd"), "Did you mean 'fid'?"),
    ((*EVALUATE, "--limit", "0"), "--limit is 0"),
    ((*EVALUATE, "--images-per-class", "0"), "--images-per-class is 0"),
    ((*EVALUATE, "--baseline", "sd1.4"), "Did you mean 'sd-1.4'?"),
    ((*COMPARE, "--methods", "lur,salum"), "Did you mean 'salun'?"),
    ((*COMPARE, "--methods", "lur,ssd"), "not defined for text-to-image"),
    ((*COMPARE, "--steps", "0"), "--evaluation-steps is 0"),
    (("compare", "classifier", "--output", "OUT", "--forget", "class:3", "--trials", "0"),
     "--trials is 0"),
]  # fmt: skip


def said(*arguments: str) -> str:
    result = CliRunner().invoke(main, [str(item) for item in arguments])
    assert result.exit_code == 2, result.output
    assert "not expected" not in result.output
    return result.output


@pytest.mark.fault("mistake on the command line")
@pytest.mark.parametrize(("arguments", "message"), PLAIN, ids=lambda v: " ".join(v)[-40:])
def test_a_mistake_is_named(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("precious")
    monkeypatch.chdir(tmp_path)
    assert message in said(*arguments)
    assert not (tmp_path / "OUT").exists()


def test_no_mistake_needs_torch_to_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("precious")
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from erase.cli.main import main\n"
        f"for arguments in {[list(arguments) for arguments, _ in PLAIN]!r}:\n"
        "    CliRunner().invoke(main, arguments)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{arguments} imports torch')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.fault("mistake on the command line")
def test_the_demo_forgets_what_its_model_knows(tmp_path: Path) -> None:
    output = said("demo", "--concept", "three", "--output", str(tmp_path / "out"))
    assert "There is no concept 'three'" in output
    assert "--overwrite" not in output


@pytest.mark.fault("mistake on the command line")
def test_a_folder_data_set_without_its_folder(tmp_path: Path) -> None:
    output = said("train", "classifier", "--dataset", "folder", "--output", str(tmp_path / "out"))
    assert "--data-dir is missing" in output
    assert "None" not in output
